"""Where the resources of the course lie on this machine, and how they get there.

A resource is a plain folder, `<name>-<revision>`, without links: it can be copied to a stick or a
share. It is looked for in the folders of `Settings`, then in the cache of the Hub's libraries.
"""

import contextlib
import json
import shutil
import tempfile
from collections.abc import Callable, Generator
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout

from ..errors import CourseError
from . import download, flowers, table
from .files import digest_of, hub_digest, is_whole, written_whole
from .table import File, Resource

LIST = "FILES.json"  # is written last: a folder that has it is complete
SPARE_BYTES = 200_000_000


class ResourceError(CourseError):
    """A resource could not be brought. `reason` says why, without what to do."""

    def __init__(self, row: Resource, reason: str):
        self.reason = f"{row.name!r} ({row.hub_id}) could not be downloaded: {reason}"
        super().__init__(
            f"{self.reason}; try again (what has arrived is kept), or run "
            "`python -m vit_helpers prefetch` where the network is good, or set VIT_SOURCE=offline."
        )


@dataclass(frozen=True)
class Settings:
    """What this machine and its user decide about resources."""

    folders: tuple[Path, ...]  # looked into in order; the first to be written takes downloads
    endpoint: str  # of the Hub
    token: str  # for the Hub; may be empty
    hub_cache: Path  # where the libraries of the Hub keep their files
    offline: bool  # whether no server may be asked
    bar: Callable  # makes a tqdm bar

    def headers(self, url: str) -> dict[str, str]:
        """What a request to this address carries: the token goes to the Hub alone."""
        is_hub = self.token and url.startswith(self.endpoint + "/")
        return {"Authorization": f"Bearer {self.token}"} if is_hub else {}


def find(name: str, settings: Settings) -> Path | None:
    """Folder of a resource on this machine if it is complete and undamaged, else `None`."""
    row = table.get(name)
    folders = (folder / folder_name(row) for folder in settings.folders)
    return next(filter(_complete, folders), None) or _in_hub_cache(row, settings.hub_cache)


def files_of(name: str, folder: Path) -> list[Path]:
    """The files of a resource inside a folder that `find` or `bring` returned."""
    return sorted(folder / file.path for file in _listed(folder) or table.get(name).files)


def folder_name(row: Resource) -> str:
    """Name of the folder of a resource."""
    return f"{row.name}-{row.revision[:8]}" if row.revision else row.name


def _listed(folder: Path) -> list[File]:
    """The files that a finished download noted; none where the list cannot be read."""
    try:
        return [File(**f) for f in json.loads((folder / LIST).read_text(encoding="utf-8"))]
    except (OSError, ValueError, TypeError):
        return []


def _complete(folder: Path) -> bool:
    listed = _listed(folder)
    return bool(listed) and all(is_whole(folder / f.path, f.size, f.digest) for f in listed)


def _write_list(folder: Path) -> None:
    listed = [
        {"path": p.relative_to(folder).as_posix(), "size": p.stat().st_size, "digest": digest_of(p)}
        for p in sorted(folder.rglob("*"))
        if p.is_file() and not p.name.endswith((LIST, ".part"))
    ]
    with written_whole(folder / LIST) as part:
        part.write_text(json.dumps(listed, indent=1) + "\n", encoding="utf-8")


def _in_hub_cache(row: Resource, hub_cache: Path) -> Path | None:
    """The snapshot of `huggingface_hub`, if it has all files: their digests are their names."""
    if row.kind == "photo":
        return None
    repository = f"{row.kind}s--" + row.hub_id.replace("/", "--")
    snapshot = hub_cache / repository / "snapshots" / str(row.revision)
    for path in (snapshot / file.path for file in row.files):
        digest = hub_digest(path.resolve().name)
        if digest is None or not is_whole(path, None, digest):
            return None
    return snapshot


def hub_answers(settings: Settings) -> str:
    """Empty if the Hub answers within three seconds, else why it does not."""
    row = table.get("classifier")
    try:
        _ask(row, row.files[0], settings, tries=1)
    except download.DownloadError as error:
        return str(error)
    return ""


def _ask(row: Resource, file: File, settings: Settings, tries: int) -> File:
    """The file with its address, and with size and digest as far as they are known."""
    if settings.offline:
        raise download.DownloadError("HF_HUB_OFFLINE=1 forbids to ask the Hub")
    if not settings.endpoint.lower().startswith(("http://", "https://")):
        text = f"HF_ENDPOINT is {settings.endpoint!r}, but it must begin with https://"
        raise download.DownloadError(text)
    url = row.address(file, settings.endpoint)
    size, digest = download.facts(url, settings.headers(url), tries)
    if file.digest:
        return File(file.path, url, file.size, file.digest)
    if row.revision and not digest:
        raise download.DownloadError(f"{settings.endpoint} does not answer like the Hub")
    known = digest if row.revision else None  # what a web server calls a tag is no digest
    return File(file.path, url, size, known)


def bring(names, settings: Settings, to: Path | None = None, tries: int = 1) -> dict[str, Path]:
    """Make sure that resources are on this machine; returns the folder of each.

    `to` is the folder to bring them to; by default the first that can be written, for what is in no
    folder yet. A server is asked so many `tries` before it counts as gone.
    """
    folders = {} if to else {n: found for n in names if (found := find(n, settings))}
    missing = [table.get(n) for n in names if n not in folders]
    if not missing:
        return folders
    to = _writable([to] if to else list(settings.folders))
    folders |= {row.name: to / folder_name(row) for row in missing}
    with _lock(to):
        # Only now, because another process may have just brought them.
        missing = [row for row in missing if not _complete(folders[row.name])]
        here = {row.name: found for row in missing if (found := find(row.name, settings))}
        for name, found in here.items():
            _copy(name, found, folders[name])
        if rest := [row for row in missing if row.name not in here]:
            _download(rest, folders, to, settings, tries)
    return folders


def _lock(to: Path):
    """Held while something is written: two notebooks may start together."""
    lock = FileLock(to / ".lock")
    try:
        return lock.acquire(timeout=0)
    except Timeout:
        print(f"another process is downloading to {to}: waiting for it", flush=True)
        return lock.acquire()


def _download(missing: list[Resource], folders, to: Path, settings: Settings, tries: int):
    """Ask for all files before the first byte is fetched, so that a dead network is known soon."""
    plan = {}
    for row in sorted(missing, key=lambda row: bool(row.mirror)):  # what has no other way first
        sources = _sources(row, settings, tries)
        plan[row.name] = next(sources), sources
    _check_space({name: listed for name, (listed, _) in plan.items()}, folders, to)
    for row in missing:
        size = size_in_words(sum(f.size or row.size for f in plan[row.name][0]))
        print(f"downloading {row.name} ({row.hub_id}, {size}) to {folders[row.name]}", flush=True)
    total = sum(f.size or 0 for listed, _ in plan.values() for f in listed)
    with settings.bar(total=total, unit="B", unit_scale=True) as progress:
        for row in missing:
            progress.set_description_str(row.name)
            _bring_one(row, *plan[row.name], folders[row.name], settings, progress)


def _sources(row: Resource, settings: Settings, tries: int) -> Generator[list[File], None, None]:
    """Yield the files of each source that answers; one that fails later is thrown back in."""
    failed = []
    for way in row.ways:
        try:
            yield [_ask(row, file, settings, tries) for file in way]
        except download.DownloadError as error:
            failed.append(str(error))
    raise ResourceError(row, ", and its mirror: ".join(dict.fromkeys(failed)))


def _bring_one(row: Resource, listed: list[File], sources, folder, settings, progress):
    """Fetch the files of the source that answered; where that fails, those of the next one."""
    try:
        for file in listed:
            url, path = file.url or "", folder / file.path
            headers = settings.headers(url)
            download.to_file(url, path, progress, file.size, file.digest, headers)
            if row.kind == "photo" and not _is_picture(path):  # no digest is published
                path.unlink()
                raise download.DownloadError("what arrived is no whole picture")
    except download.DownloadError as error:
        listed = sources.throw(error)
        progress.total = (progress.total or 0) + sum(f.size or 0 for f in listed)
        return _bring_one(row, listed, sources, folder, settings, progress)
    with _writing(folder):
        if any(file.path.startswith("original/") for file in listed):
            shutil.rmtree(folder / "data", ignore_errors=True)  # what the Hub began to send
            (folder / "README.md").unlink(missing_ok=True)
            flowers.flowers_to_parquet(folder / "original", folder / "data")
        shutil.rmtree(folder / "original", ignore_errors=True)
        _write_list(folder)


def _is_picture(path: Path) -> bool:
    from PIL import Image

    try:
        with Image.open(path) as picture:
            picture.load()
    except (OSError, SyntaxError, ValueError):
        return False
    return True


def _copy(name: str, found: Path, folder: Path) -> None:
    print(f"copying {name} from {found}", flush=True)
    with _writing(folder):
        for path in files_of(name, found):
            target = folder / path.relative_to(found)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, target)
        _write_list(folder)


@contextlib.contextmanager
def _writing(folder: Path):
    try:
        yield
    except OSError as error:
        text = f"{folder} cannot be written ({error.strerror or error}): make room and try again."
        raise CourseError(text) from None


def _writable(tried: list[Path]) -> Path:
    for folder in tried:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            tempfile.TemporaryFile(dir=folder).close()
            return folder
        except OSError:
            continue
    named = " nor ".join(str(folder) for folder in tried)
    raise CourseError(f"Nothing can be written to {named}: set VIT_CACHE to another folder.")


def _check_space(plan: dict[str, list[File]], folders: dict[str, Path], to: Path) -> None:
    need = 0
    for name, listed in plan.items():
        have = sum(p.stat().st_size for p in folders[name].rglob("*") if p.is_file())
        size = sum(f.size or table.get(name).size for f in listed)
        # An archive is unpacked, so it needs twice the space.
        packed = any(f.path.startswith("original/") for f in listed)
        need += max(0, size - have) + size * packed
    free = shutil.disk_usage(to).free
    if free < need + SPARE_BYTES:
        raise CourseError(
            f"{', '.join(plan)} need {size_in_words(need)}, but {to} has {size_in_words(free)} "
            "left: make room, or set VIT_CACHE to a folder on another disk."
        )


def size_in_words(size: int) -> str:
    """A number of bytes for a reader: `346 MB`."""
    return f"{size / 1e6:,.0f} MB" if size >= 1e6 else f"{size / 1e3:,.0f} kB"
