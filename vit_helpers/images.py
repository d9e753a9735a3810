"""Single pictures: open one safely, make it upright RGB, make the numbers that a model takes."""

import io
import re
import struct
import warnings
from pathlib import Path

import numpy as np
import torch
from PIL import ExifTags, Image
from torchvision.transforms.v2 import functional

from . import runtime
from .errors import CourseError, whole_number
from .resources import download

# PIL knows many more formats, and some of them start other programs.
PICTURE_FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")
MAX_BYTES = download.MAX_BYTES
MAX_PIXELS = 89_000_000  # of a picture, and of what a processor enlarges it to


def load_image(source=None) -> Image.Image:
    """Load one picture as PIL's RGB, upright, transparent pixels white, from wherever it is.

    Args:
        source: `None` for the sample photograph, an address (`http://`, `https://`), a path,
            the bytes of a file, an open file, a PIL picture, or `{"bytes": ..., "path": ...}` as
            `datasets` has it.

    Raises:
        CourseError: If there is no such file, the server does not deliver within 10 seconds or is
            not a public one, the file is larger than 20 MB or unpacks to more than 89 million
            pixels, or the bytes are not a picture.
    """
    if source is None:
        source = runtime.current().locate("photo")
    if isinstance(source, dict) and ("bytes" in source or "path" in source):
        if source.get("bytes") is not None:
            return decode(source["bytes"], source.get("path") or "the picture")
        source = source.get("path") or ""
    if hasattr(source, "read") and not isinstance(source, Image.Image):
        source = source.read()
    if isinstance(source, (bytes, bytearray, memoryview)):
        return decode(bytes(source), "the uploaded file")
    if isinstance(source, (str, Path)):
        return _from_address_or_path(source)
    if isinstance(source, Image.Image):
        return decode(source, "the picture")
    raise CourseError(
        f"A picture cannot be made of {type(source).__name__}: give a path, an address, the bytes "
        "of a file or a PIL picture, such as Image.fromarray(numbers)."
    )


def _from_address_or_path(source) -> Image.Image:
    text = str(source)
    if isinstance(source, str) and ("://" in text or text.startswith("data:")):
        return decode(download.read(text), text)
    try:
        path = Path(source).expanduser()
        found = path.is_file()
    except (OSError, RuntimeError, ValueError):  # too long, no home folder, a zero byte
        found = False
    if not found:
        raise CourseError(f"There is no file {download.short(text)!r}: check the path.")
    try:
        if path.stat().st_size > MAX_BYTES:
            raise CourseError(f"{text!r} is larger than {MAX_BYTES // 10**6} MB: resize it.")
        return decode(path.read_bytes(), text)
    except OSError as error:
        raise CourseError(f"{text!r} cannot be read ({error.strerror or error}).") from None


# What PIL raises over a file that is broken.
_BROKEN = (OSError, SyntaxError, TypeError, ValueError, KeyError, IndexError, struct.error)


def decode(source: bytes | Image.Image, name: str) -> Image.Image:
    """The bytes of a file as an upright RGB picture; `name` is its name in a `CourseError`."""
    name = download.short(name)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # small faults in a file that can be read
            # PIL refuses what unpacks to 179 million pixels, and only warns from half of that on.
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            if isinstance(source, bytes):
                source = Image.open(io.BytesIO(source), formats=PICTURE_FORMATS)  # its head alone
                if source.width * source.height > MAX_PIXELS:
                    raise Image.DecompressionBombError
            picture = to_rgb(source)
        if min(picture.size) == 0:
            raise ValueError("no pixels")
        return picture
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise CourseError(
            f"{name!r} unpacks to more than {MAX_PIXELS // 10**6} million pixels, which could "
            "fill the memory: make it smaller."
        ) from None
    except _BROKEN as error:
        raise CourseError(
            f"{name!r} is not a picture that can be read ({type(error).__name__}): use a JPEG, "
            "PNG or WebP file."
        ) from None


# What turns a picture upright, by the value of its orientation; 1 is upright already.
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def to_rgb(picture: Image.Image) -> Image.Image:
    """Turn a picture upright and into three channels; transparency becomes white."""
    picture.load()  # first, because a TIFF file is turned as it is loaded
    turn = _UPRIGHT.get(_orientation(picture))
    if turn is not None:
        picture = picture.transpose(turn)
    if picture.mode.startswith(("I", "F")):  # PIL itself would make everything from 255 on white
        picture = _to_grey(picture)
    if picture.mode in ("La", "RGBa"):  # colours multiplied by their opacity
        picture = picture.convert(picture.mode.replace("a", "A"))
    if "A" in picture.getbands() or "transparency" in picture.info:
        picture = picture.convert("RGBA")
        white = Image.new("RGBA", picture.size, "white")
        picture = Image.alpha_composite(white, picture)
    rgb = picture.convert("RGB")
    rgb = rgb.copy() if rgb is picture else rgb
    rgb.info = {}
    return rgb


def _orientation(picture: Image.Image) -> int:
    """The orientation, 1 to 8, that EXIF or XMP notes; 1 where there is none that can be read."""
    # Not `ImageOps.exif_transpose`: it also writes the other tags again, and fails where a camera
    # or a program left an odd one. The pixels are good then, and the orientation is, too.
    try:
        found = picture.getexif().get(ExifTags.Base.Orientation)
    except (*_BROKEN, AssertionError):
        found = None  # as browsers do: shown as it is stored
    if found is None:
        for key in ("xmp", "XML:com.adobe.xmp"):
            xmp = picture.info.get(key) or b""
            xmp = xmp.encode(errors="replace") if isinstance(xmp, str) else bytes(xmp)
            if match := re.search(rb"tiff:Orientation\s*(?:=\s*[\"']|>)\s*([1-8])", xmp):
                return int(match[1])
    return found if isinstance(found, int) else 1


def _to_grey(picture: Image.Image) -> Image.Image:
    """Grey of 8 bits: the upper ones of 16; other numbers are stretched from black to white."""
    numbers = np.asarray(picture, dtype=np.float64)
    known = np.isfinite(numbers)
    # Older releases of Pillow open a PNG of 16 bits in mode "I".
    if picture.mode.startswith("I;16") or picture.format == "PNG":
        low, high = 0.0, 65535.0
    else:
        low, high = (numbers[known].min(), numbers[known].max()) if known.any() else (0.0, 1.0)
    clipped = np.clip(np.where(np.isnan(numbers), low, numbers), low, high)
    grey = clipped / 2 - low / 2  # halves, because high - low may be too large a number
    grey = (grey / max(high / 2 - low / 2, 1e-300) * 255).round().astype(np.uint8)
    clear = picture.info.get("transparency")
    if isinstance(clear, (int, float)):
        grey[numbers == clear] = 255
    return Image.fromarray(grey)


def to_pixels(pictures, processor, resized: bool = False):
    """What a model takes: `pixel_values` (n, 3, H, W), made by the processor's own steps.

    Args:
        pictures: One picture or a list: whatever `load_image` takes, or uint8 tensors (3, H, W).
        processor: Of transformers. If its mean is of one channel, the pictures become grey.
        resized: Whether the pictures have the model's size already.
    """
    several = isinstance(pictures, (list, tuple)) or getattr(pictures, "ndim", 0) == 4
    tensors = [to_tensor(picture) for picture in (pictures if several else [pictures])]
    if not tensors:
        raise CourseError("There is no picture in the list: give at least one.")
    mean = getattr(processor, "image_mean", None)
    if isinstance(mean, (list, tuple)) and len(mean) == 1:
        tensors = [functional.rgb_to_grayscale(t) if len(t) == 3 else t for t in tensors]
    skip = {}
    if resized:
        steps = ("do_resize", "do_center_crop", "do_pad")
        skip = {step: False for step in steps if getattr(processor, step, None)}
    sizes = sorted({(t.shape[2], t.shape[1]) for t in tensors})
    if skip.get("do_resize", True):
        for size in sizes:
            _check_enlarged(*size, processor)
    try:
        made = processor(
            images=tensors, return_tensors="pt", input_data_format="channels_first", **skip
        )["pixel_values"]
        if not isinstance(made, torch.Tensor) or made.dim() != 4:
            raise ValueError("the pictures have different sizes")
    except (KeyError, RuntimeError, TypeError, ValueError) as error:
        reason = (str(error) or type(error).__name__).splitlines()[0].rstrip(".")
        raise CourseError(
            f"{type(processor).__name__} cannot make pixel values of pictures of "
            f"{', '.join(f'{w} x {h}' for w, h in sizes[:3])} pixels ({reason}): give it pictures "
            "of one size, or a processor that resizes and crops to one."
        ) from None
    return made if made.is_floating_point() else made.to(torch.float32)


def model_size(processor) -> tuple[int, int]:
    """`(height, width)` of the pictures that the processor makes, or a `CourseError`."""
    crops = getattr(processor, "do_center_crop", None)
    size = getattr(processor, "crop_size" if crops else "size", None) or {}
    if "height" in size and "width" in size and (crops or getattr(processor, "do_resize", True)):
        return int(size["height"]), int(size["width"])
    raise CourseError(
        f"{type(processor).__name__} does not make one size of all pictures "
        f"(its size is {dict(size)}): give it height and width, or a centre crop."
    )


def to_tensor(picture):
    """A picture as a uint8 tensor (3, H, W)."""
    if picture is None:  # `load_image` would take the sample photograph
        raise CourseError("A picture is None, so there is nothing to look at: leave it out.")
    is_tensor = isinstance(picture, torch.Tensor) and picture.dtype == torch.uint8
    if is_tensor and picture.dim() == 3 and len(picture) in (1, 3) and picture.numel():
        return picture
    return functional.pil_to_tensor(load_image(picture))


def _check_enlarged(width: int, height: int, processor) -> None:
    """Refuse a long, thin picture that the processor would blow up to gigabytes."""
    target = dict(getattr(processor, "size", None) or {})
    shortest = target.get("shortest_edge") if getattr(processor, "do_resize", True) else None
    if not shortest or "longest_edge" in target:
        return
    if max(width, height) / min(width, height) * shortest**2 > MAX_PIXELS:
        raise CourseError(
            f"A picture of {width} x {height} pixels is too long and thin: its shorter side would "
            f"be enlarged to {shortest} pixels. Crop it first."
        )


def unnormalise(pixels, processor):
    """Undo scale and normalisation: float values 0..1, ready to be shown. Shape is kept."""
    pixels = pixels.detach().cpu().float()
    if getattr(processor, "do_normalize", True):
        mean, std = torch.tensor(processor.image_mean), torch.tensor(processor.image_std)
        pixels = pixels * std.view(-1, 1, 1) + mean.view(-1, 1, 1)
    factor = processor.rescale_factor if getattr(processor, "do_rescale", True) else 1.0
    return (pixels / (255 * factor)).clamp(0, 1)


def patches(pixels, size: int):
    """Cut pictures (B, C, H, W) into the squares that a ViT turns into tokens.

    Returns:
        Shape (B, H/size * W/size, C, size, size), row by row from the top left.
    """
    b, c, h, w = pixels.shape
    size = whole_number("size", size, least=1)
    if h % size or w % size:
        raise CourseError(f"Patches of {size} pixels do not fit a picture of {w} x {h}.")
    grid = pixels.unfold(2, size, size).unfold(3, size, size)
    return grid.permute(0, 2, 3, 1, 4, 5).reshape(b, -1, c, size, size)
