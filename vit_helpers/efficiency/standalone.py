"""Classify a picture with one ONNX file: `python standalone.py model.onnx picture.jpg`.

The network needs `classify` alone. All before it opens pictures of every kind as the course does:
turned the way the camera noted, 16 bits a pixel, transparent ones.
"""

import re
import sys

import numpy as np
import onnxruntime
from PIL import Image, ImageCms

# What turns a picture upright, by the value of its orientation.
UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def orientation(image):
    """The orientation that EXIF or XMP notes, 1 to 8."""
    try:
        found = image.getexif().get(0x0112)
    except Exception:  # no EXIF that can be read: shown as it is stored, as browsers do
        found = None
    for key in ("xmp", "XML:com.adobe.xmp") if found is None else ():
        xmp = image.info.get(key) or b""
        xmp = xmp.encode(errors="replace") if isinstance(xmp, str) else bytes(xmp)
        if match := re.search(rb"tiff:Orientation\s*(?:=\s*[\"']|>)\s*([1-8])", xmp):
            return int(match[1])
    return found if isinstance(found, int) else 1


def to_grey(image):
    """A byte a pixel from 16 bits, or from numbers without a range: lowest black, highest white."""
    numbers = np.asarray(image, dtype=np.float64)
    known = numbers[np.isfinite(numbers)]
    low, high = (known.min(), known.max()) if known.size else (0.0, 1.0)
    if image.mode.startswith("I;16") or image.format == "PNG":
        low, high = 0.0, 65535.0
    clipped = np.clip(np.where(np.isnan(numbers), low, numbers), low, high)
    grey = (clipped / 2 - low / 2) / max(high / 2 - low / 2, 1e-300) * 255
    grey = grey.round().astype(np.uint8)
    clear = image.info.get("transparency")
    if isinstance(clear, int | float):
        grey[numbers == clear] = 255
    return Image.fromarray(grey)


def to_rgb(image):
    """Upright, three channels; transparency becomes white."""
    turn = UPRIGHT.get(orientation(image))
    image.load()
    image = image if turn is None else image.transpose(turn)
    if image.mode.startswith(("I", "F")):
        image = to_grey(image)
    if image.mode in ("La", "RGBa"):  # colours multiplied by their opacity
        image = image.convert(image.mode.replace("a", "A"))
    if image.mode == "LAB":
        lab, rgb = ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB")
        image = ImageCms.profileToProfile(image, lab, rgb, outputMode="RGB")
    if "A" in image.getbands() or "transparency" in image.info:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("RGB")


def classify(model: str, picture: str) -> list[tuple[str, float]]:
    """The most probable classes of a picture file, best first: names and probabilities."""
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    with Image.open(picture) as image:
        pixels = np.asarray(to_rgb(image))
    names, probabilities = session.run(["names", "probabilities"], {"picture": pixels})
    return [(str(n), float(p)) for n, p in zip(names, probabilities, strict=True)]


if __name__ == "__main__":
    for name, probability in classify(*sys.argv[1:3]):
        print(f"{probability:.3f} {name}")
