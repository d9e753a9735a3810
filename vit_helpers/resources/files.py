"""Files that are whole or not there: digests, and a write that never leaves half a file."""

import contextlib
import hashlib
import os
from pathlib import Path

_known_whole: set[tuple] = set()


def is_whole(path: Path, size: int | None, digest: str | None) -> bool:
    """Whether a file is there with the right size and digest (read once a process)."""
    if not path.is_file():
        return False
    stat = path.stat()
    if size is not None and stat.st_size != size:
        return False
    key = (path, stat.st_size, stat.st_mtime_ns, digest)
    if digest and key not in _known_whole:
        if digest_of(path, digest.split(":")[0]) != digest:
            return False
        _known_whole.add(key)
    return True


def digest_of(path: Path, kind: str = "sha256") -> str:
    """Digest of a file with its kind, such as `sha256:9f86...`; kinds: `sha256`, `md5`, `git`."""
    sums = hashlib.new("sha1" if kind == "git" else kind, usedforsecurity=False)
    if kind == "git":  # Git hashes a header with the length, then the bytes
        sums.update(b"blob %d\0" % path.stat().st_size)
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            sums.update(chunk)
    return f"{kind}:{sums.hexdigest()}"


@contextlib.contextmanager
def written_whole(path: Path):
    """Give a path to write to; it becomes `path` at the end of the block, unless that failed."""
    part = path.with_name(path.name + ".part")
    try:
        yield part
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)
