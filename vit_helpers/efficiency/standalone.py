"""Classify a picture with one ONNX file: `python standalone.py model.onnx picture.jpg`.

The network needs `classify` alone. `to_rgb` opens pictures as the course does: turned the way the
camera noted, with 16 bits a pixel, transparent.
"""

import sys

import numpy as np
import onnxruntime
from PIL import Image, ImageOps


def to_rgb(image):
    """Upright, three channels; transparency becomes white."""
    image.load()
    ImageOps.exif_transpose(image, in_place=True)
    if image.mode.startswith(("I", "F")):
        image = to_grey(image)
    if "A" in image.getbands() or "transparency" in image.info:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("RGB")


def to_grey(image):
    """A byte a pixel from 16 bits, or from numbers without a range: lowest black, highest white."""
    numbers = np.asarray(image, dtype=np.float64)
    known = numbers[np.isfinite(numbers)]
    low, high = (known.min(), known.max()) if known.size else (0, 1)
    if image.mode.startswith("I;16") or image.format == "PNG":
        low, high = 0, 65535
    numbers = np.clip(np.nan_to_num(numbers, nan=low), low, high)
    grey = ((numbers / 2 - low / 2) / max(high / 2 - low / 2, 1e-300) * 255).round()
    if isinstance(clear := image.info.get("transparency"), (int, float)):
        grey[numbers == clear] = 255
    return Image.fromarray(grey.astype(np.uint8))


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
