"""Classify a picture with one ONNX file: `python standalone.py model.onnx picture.jpg`."""

import sys

import numpy as np
import onnxruntime
from PIL import Image, ImageOps


def classify(model: str, picture: str) -> list[tuple[str, float]]:
    """The most probable classes of a picture file, best first: names and probabilities."""
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    with Image.open(picture) as image:
        pixels = np.asarray(ImageOps.exif_transpose(image).convert("RGB"))
    names, probabilities = session.run(["names", "probabilities"], {"picture": pixels})
    return [(str(n), float(p)) for n, p in zip(names, probabilities, strict=True)]


if __name__ == "__main__":
    for name, probability in classify(*sys.argv[1:3]):
        print(f"{probability:.3f} {name}")
