"""The offline kit: weights, data and photographs with a card each, made by `kit_builder/`."""

import hashlib
from pathlib import Path

from ..errors import CourseError

KIT = Path(__file__).resolve().parent
SUMS = "SHA256SUMS"
RESTORE = "reinstall the package, or in a clone run `git checkout -- vit_helpers/offline_kit`"


def checksums(folder: Path = KIT) -> dict[str, str]:
    """Path inside the kit -> SHA-256, as the build wrote it, or a `CourseError`."""
    if not (folder / SUMS).is_file():
        raise CourseError(f"The offline kit lacks {SUMS!r}: {RESTORE}.")
    lines = (folder / SUMS).read_text(encoding="utf-8").splitlines()
    return {name: digest for digest, name in (line.split(maxsplit=1) for line in lines)}


def verify(name: str, folder: Path = KIT) -> Path:
    """The path of `quarter` or `photos/cat.jpg`, undamaged, or a `CourseError`."""
    sums = checksums(folder)
    files = [file for file in sums if file == name or file.startswith(f"{name}/")]
    for file in files or [name]:
        if not (folder / file).is_file():
            raise CourseError(f"The offline kit lacks {file!r}: {RESTORE}.")
        if hashlib.sha256((folder / file).read_bytes()).hexdigest() != sums.get(file):
            raise CourseError(f"{file!r} of the offline kit is damaged: {RESTORE}.")
    return folder / name
