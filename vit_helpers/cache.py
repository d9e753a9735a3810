"""Where the resources of the course lie on this machine, and how they get there.

A resource is a plain folder, `<name>-<revision>`, without links: it can be copied to a stick or a
share. It is looked for in the folder that `VIT_CACHE` names (which may be read-only), then in
`~/.cache/vit-helpers`, then in the cache of the Hugging Face libraries. Only what has the right
size and digest is used, and nobody is asked over the network for what is there.
"""

import contextlib
import json
import os
import re
import shutil
import tempfile
from dataclasses import asdict
from fnmatch import fnmatch
from pathlib import Path

from filelock import FileLock, Timeout

from . import fetch, mirror, resources
from .errors import CourseError
from .resources import File, Resource

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


# --- what is here --------------------------------------------------------------------------------


def places() -> list[Path]:
    """The folders where resources are looked for, in order."""
    home = Path.home() / ".cache" / "vit-helpers"
    named = os.environ.get("VIT_CACHE")
    return [Path(named).expanduser(), home] if named else [home]


def find(name: str) -> Path | None:
    """Folder of a resource on this machine if it is complete and undamaged, else `None`."""
    row = resources.get(name)
    for place in places():
        if _complete(place / _folder(row)):
            return place / _folder(row)
    return _in_hub_cache(row)


def files(name: str, folder: Path) -> list[Path]:
    """The files of a resource inside a folder that `find` or `bring` returned."""
    row = resources.get(name)
    return sorted(p for pattern in row.files for p in folder.glob(pattern) if p.is_file())


def _folder(row: Resource) -> str:
    return f"{row.name}-{row.revision[:8]}" if row.revision else row.name


def _complete(folder: Path) -> bool:
    if not (folder / LIST).is_file():
        return False
    listed = json.loads((folder / LIST).read_text(encoding="utf-8"))
    return all(fetch.is_whole(folder / file["path"], File(**file)) for file in listed)


def _write_list(row: Resource, folder: Path) -> None:
    listed = [
        asdict(File(p.relative_to(folder).as_posix(), "", p.stat().st_size, fetch.digest(p)))
        for p in files(row.name, folder)
    ]
    partial = folder / (LIST + ".part")
    partial.write_text(json.dumps(listed, indent=1) + "\n", encoding="utf-8")
    os.replace(partial, folder / LIST)


def _in_hub_cache(row: Resource) -> Path | None:
    """The snapshot that `huggingface_hub` keeps, if it has all files.

    It names a file's content by its digest, so even there a damaged file is found out.
    """
    if row.kind == "photo":
        return None
    from huggingface_hub.constants import HF_HUB_CACHE

    repository = f"{row.kind}s--" + row.hub_id.replace("/", "--")
    snapshot = Path(HF_HUB_CACHE) / repository / "snapshots" / str(row.revision)
    names = [p.relative_to(snapshot).as_posix() for p in files(row.name, snapshot)]
    parts = {n: re.search(r"-of-(\d+)\.", n) for n in names}
    counts = {re.sub(r"-\d+-of-", "-of-", n): int(m[1]) for n, m in parts.items() if m}
    if _unmatched(row, names) or sum(counts.values()) != sum(1 for m in parts.values() if m):
        return None
    kinds = {64: "sha256", 40: "git"}
    for name in names:
        blob = (snapshot / name).resolve().name
        if len(blob) not in kinds:
            return None
        file = File(name, "", digest=f"{kinds[len(blob)]}:{blob}")
        if not fetch.is_whole(snapshot / name, file):
            return None
    return snapshot


def _unmatched(row: Resource, names: list[str]) -> list[str]:
    return [pattern for pattern in row.files if not any(_fits(n, pattern) for n in names)]


def _fits(name: str, pattern: str) -> bool:
    # To `fnmatch` a slash is a letter like others: `data/../../x` would be a file in `data`.
    return fnmatch(name, pattern) and name.count("/") == pattern.count("/")


# --- bring what is not ---------------------------------------------------------------------------


def hub_answers() -> str:
    """Empty if the Hub answers within three seconds, else why it does not."""
    try:
        _listing(resources.get("classifier"))
    except fetch.FetchError as error:
        return str(error)
    return ""


def _listing(row: Resource, tries: int = 1) -> list[File]:
    """Which files a row needs from the Hub, with sizes and digests. This request is the probe."""
    if row.kind == "photo":
        fetch.probe(row.hub_id, tries)
        return [File(row.files[0], row.hub_id)]
    hub, kind = fetch.endpoint(), f"{row.kind}s"
    url = f"{hub}/api/{kind}/{row.hub_id}/tree/{row.revision}?recursive=true"
    entries = fetch.get_json(url, tries)
    if not isinstance(entries, list):
        raise fetch.FetchError(f"{hub} does not answer like the Hub")
    found = [
        e
        for e in entries
        if e["type"] == "file" and any(_fits(e["path"], pattern) for pattern in row.files)
    ]
    if lacking := _unmatched(row, [e["path"] for e in found]):
        raise fetch.FetchError(f"revision {row.revision} has no {', '.join(lacking)}")
    base = f"{hub}/{'' if row.kind == 'model' else kind + '/'}{row.hub_id}/resolve/{row.revision}"
    return [
        File(
            path=e["path"],
            url=f"{base}/{e['path']}",
            size=e["size"],
            digest=f"sha256:{e['lfs']['oid']}" if "lfs" in e else f"git:{e['oid']}",
        )
        for e in found
    ]


def bring(names, bar, to: Path | None = None, tries: int = 1) -> dict[str, Path]:
    """Make sure that resources are on this machine; download what is missing.

    Args:
        names: Names of resources.
        bar: Makes a tqdm bar, such as `runtime.bar`.
        to: Folder to bring them to, whatever is elsewhere; by default the first place that can
            be written, and nothing that is in any place already.
        tries: How often to ask the Hub before it counts as gone.

    Returns:
        The folder of each resource.

    Raises:
        ResourceError: If one could not be brought. What has arrived is kept.
        CourseError: If the disk is too small, or no place can be written.
    """
    folders = {} if to else {n: found for n in names if (found := find(n))}
    missing = [resources.get(n) for n in names if n not in folders]
    if not missing:
        return folders
    to = _writable(to)
    folders |= {row.name: to / _folder(row) for row in missing}
    if all(_complete(folders[row.name]) for row in missing):
        return folders
    with _alone(to):
        # Only now, because another process may have just brought them.
        missing = [row for row in missing if not _complete(folders[row.name])]
        here = {row.name: found for row in missing if (found := find(row.name))}
        for name, found in here.items():
            _copy(resources.get(name), found, folders[name])
        if rest := [row for row in missing if row.name not in here]:
            _download(rest, folders, to, bar, tries)
    return folders


@contextlib.contextmanager
def _alone(to: Path):
    """Two notebooks that start together must not write into the same file."""
    lock = FileLock(to / ".lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        print(f"another process is downloading to {to}: waiting for it", flush=True)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def _download(missing: list[Resource], folders: dict[str, Path], to: Path, bar, tries: int):
    plan = _plan(missing, tries)
    _check_space(plan, folders, to)
    for row in missing:
        size = size_in_words(sum(f.size or row.size for f in plan[row.name]))
        print(f"downloading {row.name} ({row.hub_id}, {size}) to {folders[row.name]}", flush=True)
    total = sum(f.size or 0 for listed in plan.values() for f in listed)
    with bar(total=total, unit="B", unit_scale=True) as progress:
        for row in missing:
            progress.set_description_str(row.name)
            _bring_one(row, plan[row.name], folders[row.name], progress)


def _plan(missing: list[Resource], tries: int) -> dict[str, list[File]]:
    """The files of each resource: from the Hub, or the mirror where the Hub does not list them.

    Everybody is asked before the first byte is fetched, so that a dead network is known soon.
    """
    plan = {}
    for row in sorted(missing, key=lambda row: bool(row.mirror)):  # what has no other way first
        try:
            plan[row.name] = _listing(row, tries)
        except fetch.FetchError as error:
            if not row.mirror:
                raise ResourceError(row, str(error)) from None
            try:
                fetch.probe(row.mirror[0].url, tries)
            except fetch.FetchError as second:
                raise ResourceError(row, f"{error}, and its mirror: {second}") from None
            plan[row.name] = list(row.mirror)
    return plan


def _bring_one(row: Resource, listed: list[File], folder: Path, progress) -> None:
    try:
        _fetch_all(row, listed, folder, progress)
    except fetch.FetchError as error:
        if not row.mirror or listed == list(row.mirror):
            raise ResourceError(row, str(error)) from None
        progress.total += sum(f.size or 0 for f in row.mirror)
        try:
            _fetch_all(row, row.mirror, folder, progress)
        except fetch.FetchError as second:
            raise ResourceError(row, f"{error}, and its mirror: {second}") from None
        listed = list(row.mirror)
    if row.kind == "dataset" and listed == list(row.mirror):
        with _writing(folder):
            shutil.rmtree(folder / "data", ignore_errors=True)  # what the Hub began to send
            mirror.flowers_to_parquet(folder / "original", folder / "data")
            shutil.rmtree(folder / "original")
    with _writing(folder):
        _write_list(row, folder)


def _fetch_all(row: Resource, listed, folder: Path, progress) -> None:
    for file in listed:
        path = fetch.download(file, folder, progress)
        if row.kind == "photo" and not _is_picture(path):  # nobody publishes a digest of it
            path.unlink()
            raise fetch.FetchError("what arrived is no whole picture")


def _is_picture(path: Path) -> bool:
    from PIL import Image

    try:
        with Image.open(path) as picture:
            picture.load()
    except OSError:  # `UnidentifiedImageError` is one
        return False
    return True


def _copy(row: Resource, found: Path, folder: Path) -> None:
    print(f"copying {row.name} from {found}", flush=True)
    with _writing(folder):
        for path in files(row.name, found):
            target = folder / path.relative_to(found)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, target)
        _write_list(row, folder)


@contextlib.contextmanager
def _writing(folder: Path):
    try:
        yield
    except OSError as error:
        reason = error.strerror or error
        raise CourseError(
            f"{folder} cannot be written ({reason}): make room and try again."
        ) from None


def _writable(to: Path | None) -> Path:
    tried = [to] if to else places()
    for place in tried:
        try:
            place.mkdir(parents=True, exist_ok=True)
            tempfile.TemporaryFile(dir=place).close()
            return place
        except OSError:
            continue
    named = " nor ".join(str(place) for place in tried)
    raise CourseError(f"Nothing can be written to {named}: set VIT_CACHE to another folder.")


def _check_space(plan: dict[str, list[File]], folders: dict[str, Path], to: Path) -> None:
    need = 0
    for name, listed in plan.items():
        row = resources.get(name)
        have = sum(p.stat().st_size for p in folders[name].rglob("*") if p.is_file())
        size = sum(f.size or row.size for f in listed)
        # Files of a mirror are unpacked, so they need their place twice.
        need += max(0, size - have) + (size if listed == list(row.mirror) else 0)
    free = shutil.disk_usage(to).free
    if free < need + SPARE_BYTES:
        raise CourseError(
            f"{', '.join(plan)} need {size_in_words(need)}, but {to} has "
            f"{size_in_words(free)} left: "
            "make room, or set VIT_CACHE to a folder on another disk."
        )


def size_in_words(size: int) -> str:
    """A number of bytes for a reader: `346 MB`."""
    return f"{size / 1e6:,.0f} MB" if size >= 1e6 else f"{size / 1e3:,.0f} kB"
