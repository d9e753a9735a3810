"""Files that are whole or not there: digests, and a write that never leaves half a file."""

import contextlib
import hashlib
import os
import re
from pathlib import Path

_known_whole: set[tuple] = set()


def is_whole(path: Path, size: int | None, digest: str | None) -> bool:
    """Whether a file is there with the right size and digest (read once a process)."""
    if not path.is_file() or size not in (None, path.stat().st_size):
        return False
    key = (path, path.stat().st_size, path.stat().st_mtime_ns, digest)
    if digest and key not in _known_whole and digest_of(path, digest.split(":")[0]) == digest:
        _known_whole.add(key)
    return digest is None or key in _known_whole


def hub_digest(digits: str) -> str | None:
    """The digest that a Hub calls a file by, with its kind as in `digest_of`; `None` for others."""
    kind = {64: "sha256", 40: "git"}.get(len(digits) if re.fullmatch("[0-9a-f]*", digits) else 0)
    return kind and f"{kind}:{digits}"


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
