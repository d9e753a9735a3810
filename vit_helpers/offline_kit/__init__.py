"""The offline kit: weights, data and photographs, with a card each.

`verify` tells whether a file is whole. The scripts that made them are in `kit_builder/` of the
repository.
"""

import hashlib
from pathlib import Path

from ..errors import CourseError

KIT = Path(__file__).resolve().parent
SUMS = "SHA256SUMS"

# Everything in the kit that is data and not source text.
DATA = (
    "cifar10/*.parquet",
    "flowers102/*.parquet",
    "heldout/*.parquet",
    "my_folder/*/*.webp",
    "photos/*.jpg",
    "quarter/*.*",
)

RESTORE = (
    "reinstall the package, or restore the file with `git checkout -- vit_helpers/offline_kit`"
)


def data_files(folder: Path = KIT) -> list[Path]:
    """The kit's data files, in a fixed order."""
    return sorted(path for pattern in DATA for path in folder.glob(pattern) if path.is_file())


def sha256(path: Path) -> str:
    """SHA-256 of a file, as 64 hexadecimal digits."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def checksums(folder: Path = KIT) -> dict[str, str]:
    """The sums that the build wrote: path inside the kit -> SHA-256.

    Raises:
        CourseError: the file of the sums is missing.
    """
    if not (folder / SUMS).is_file():
        raise CourseError(f"The offline kit lacks {SUMS!r}: {RESTORE}.")
    lines = (folder / SUMS).read_text(encoding="utf-8").splitlines()
    return {name: digest for digest, name in (line.split(maxsplit=1) for line in lines)}


def verify(name: str, folder: Path = KIT) -> Path:
    """Return the path of a kit file after comparing it with its checksum.

    Args:
        name: path inside the kit with forward slashes, such as ``cifar10/test.parquet``.
        folder: the kit.

    Raises:
        CourseError: the file is missing, damaged or truncated, or no file of the kit.
    """
    sums = checksums(folder)
    if name not in sums:
        raise CourseError(f"{name!r} is no file of the offline kit; it has {', '.join(sums)}.")
    path = folder / name
    if not path.is_file():
        raise CourseError(f"The offline kit lacks {name!r}: {RESTORE}.")
    if sha256(path) != sums[name]:
        raise CourseError(f"{name!r} of the offline kit is damaged: {RESTORE}.")
    return path


def verify_twin(twin: str, folder: Path = KIT) -> list[Path]:
    """Compare every file of one twin with its checksum.

    Args:
        twin: a folder of the kit such as ``quarter``, or one file such as ``photos/cat.jpg``.
        folder: the kit.

    Returns:
        The paths of its files.

    Raises:
        CourseError: a file is missing, damaged or truncated, or the kit has no such twin.
    """
    names = [n for n in checksums(folder) if n == twin or n.startswith(f"{twin}/")]
    if not names:
        raise CourseError(f"The offline kit lacks {twin!r}: {RESTORE}.")
    return [verify(name, folder) for name in names]
