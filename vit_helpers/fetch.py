"""Bring one file over HTTP: bounded in time, resumed after a break, whole or not there at all.

The libraries of the Hub try again for up to two minutes before they say that there is no network,
and each release says it with another exception. A learner in front of a cell needs an answer in
seconds. So the course downloads its few files itself, with `requests`, and the libraries only
ever read a folder on this machine.
"""

import hashlib
import json
import os
import threading
import time
from pathlib import Path
from urllib.parse import urlsplit

import requests

from .resources import File

PROBE_SECONDS = 3.0  # the first request: is anybody there?
STALL_SECONDS = 6.0  # a request for a file, and the longest silence within it
TRIES = 2  # in a row without a single byte; a byte starts the count anew
PAUSE_SECONDS = 1.0  # between two tries
CHUNK = 1 << 16  # a broken chunk is lost


class FetchError(Exception):
    """Why nothing came, in words that fit into a sentence."""


def endpoint() -> str:
    """Address of the Hub; `HF_ENDPOINT` is respected, as in `huggingface_hub`."""
    return os.environ.get("HF_ENDPOINT", "https://huggingface.co").rstrip("/")


def get_json(url: str, tries: int = 1):
    """What an address answers, read as JSON, at most `PROBE_SECONDS` a try.

    Raises:
        FetchError: If it does not answer in time, or with something else (a hotel's log-in page).
    """
    content = _ask(url, tries, lambda: _read(url, PROBE_SECONDS))
    try:
        return json.loads(content)
    except ValueError:
        host = urlsplit(url).hostname
        raise FetchError(f"{host} answered with a web page: log in to this network") from None


def probe(url: str, tries: int = 1) -> None:
    """Ask for a file without reading it, at most `PROBE_SECONDS` a try.

    Raises:
        FetchError: If it is not delivered.
    """
    _ask(url, tries, lambda: _open(url, PROBE_SECONDS).close())


def _ask(url: str, tries: int, request):
    for left in reversed(range(tries)):
        try:
            return _within(PROBE_SECONDS, url, request)
        except _Again as error:
            if not left:
                raise FetchError(str(error)) from None
            time.sleep(PAUSE_SECONDS)


def download(file: File, folder: Path, bar) -> Path:
    """Download one file into a folder. What was begun is continued; what is whole is kept.

    The bytes go to `<name>.part`, which gets its name only when size and digest are right.

    Args:
        file: What to bring.
        folder: Folder of the resource; sub-folders are made.
        bar: A tqdm bar in bytes.

    Raises:
        FetchError: If the server is silent, breaks off or sends something else, or if the disk
            is full.
    """
    path = folder / file.path
    part = path.with_name(path.name + ".part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if file.digest and is_whole(path, file):
            bar.update(path.stat().st_size)
            return path
        if file.digest is None:  # nothing would tell whether two halves belong together
            part.unlink(missing_ok=True)
        resumed = part.is_file()
        _fill(part, file, bar)
        if not is_whole(part, file) and resumed:  # what was here before may be to blame
            bar.update(-part.stat().st_size)
            part.unlink()
            _fill(part, file, bar)
        if not is_whole(part, file):
            bar.update(-part.stat().st_size)
            part.unlink()
            raise FetchError(f"{file.path} arrived damaged")
        os.replace(part, path)
    except OSError as error:
        raise FetchError(f"{path} cannot be written ({error.strerror or error})") from None
    return path


def _fill(part: Path, file: File, bar) -> None:
    """Append to `part` until it has its size; try again as long as bytes arrive."""
    done = part.stat().st_size if part.is_file() else 0
    if file.size is not None and done > file.size:
        part.unlink()
        done = 0
    bar.update(done)
    failures = 0
    while file.size is None or done < file.size:
        before = done
        try:
            done = _append(part, file.url, done, bar)
            if file.size is None or done == file.size:
                return
            raise _Again(f"{file.path} ended early, after {done} of {file.size} bytes")
        except _Again as error:
            done = part.stat().st_size if part.is_file() else 0
            failures = failures + 1 if done <= before else 1
            if failures >= TRIES:
                raise FetchError(str(error)) from None
            bar.set_postfix_str("broken off, trying again")
            time.sleep(PAUSE_SECONDS)


def _append(part: Path, url: str, start: int, bar) -> int:
    """One request from byte `start` on. Returns the length of the file afterwards."""
    response = _within(STALL_SECONDS, url, lambda: _open(url, STALL_SECONDS, start))
    continues = response.status_code == 206  # some servers always begin at the beginning
    if start and not continues:
        bar.update(-start)
    with response, part.open("ab" if continues else "wb") as out:
        try:
            for chunk in response.iter_content(CHUNK):
                out.write(chunk)
                bar.update(len(chunk))
        except requests.RequestException as error:
            raise _Again(_why(error, url, STALL_SECONDS)) from None
        return out.tell()


class _Again(Exception):
    """A failure that may be gone at the next try."""


def _read(url: str, seconds: float) -> bytes:
    try:
        return _open(url, seconds).content
    except requests.RequestException as error:
        raise _Again(_why(error, url, seconds)) from None


def _open(url: str, seconds: float, start: int = 0) -> requests.Response:
    headers = {"User-Agent": "vit-helpers", "Accept-Encoding": "identity"}
    if start:
        headers["Range"] = f"bytes={start}-"
    if (token := os.environ.get("HF_TOKEN")) and url.startswith(endpoint() + "/"):
        headers["Authorization"] = f"Bearer {token}"  # requests drops it at another host
    try:
        response = requests.get(url, headers=headers, stream=True, timeout=seconds)
    except requests.RequestException as error:
        raise _Again(_why(error, url, seconds)) from None
    if response.ok:
        return response
    response.close()
    reason = f"{urlsplit(url).hostname} answered with status {response.status_code}"
    if response.status_code == 429:
        raise FetchError(f"{reason}: too many requests, wait some minutes")
    if response.status_code >= 500 or response.status_code == 416:  # 416: there is no such byte
        raise _Again(reason)
    if response.status_code == 401 and "Authorization" in headers:
        raise FetchError(f"{reason}: is HF_TOKEN right?")
    raise FetchError(reason)


def _within(seconds: float, url: str, ask):
    """The result of `ask()`, or `_Again` after `seconds`.

    The time-out of a socket is not enough: a name server that is gone holds a request for longer,
    and a server that sends a byte now and then holds it for ever.
    """
    result = {}

    def work():
        try:
            result["value"] = ask()
        except Exception as error:  # handed on to the caller below
            result["error"] = error

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    thread.join(seconds)
    if "error" in result:
        raise result["error"]
    if "value" in result:
        return result["value"]
    raise _Again(f"{urlsplit(url).hostname} did not answer within {seconds:g} s")


def _why(error: requests.RequestException, url: str, seconds: float) -> str:
    host = urlsplit(url).hostname
    if isinstance(error, requests.Timeout) or "timed out" in str(error):
        return f"{host} did not answer within {seconds:g} s"
    if isinstance(error, requests.exceptions.SSLError):
        return f"there is no secure connection to {host}"
    if isinstance(error, requests.exceptions.ChunkedEncodingError) or "aborted" in str(error):
        return f"the connection to {host} broke off"
    if isinstance(error, requests.ConnectionError):
        return f"there is no connection to {host}"
    return f"{host}: {type(error).__name__}"


# --- is a file what it should be? ----------------------------------------------------------------

_known_whole: set[tuple] = set()


def is_whole(path: Path, file: File) -> bool:
    """Whether a file is there with the right size and digest (read once a process)."""
    if not path.is_file():
        return False
    stat = path.stat()
    if file.size is not None and stat.st_size != file.size:
        return False
    key = (path, stat.st_size, stat.st_mtime_ns, file.digest)
    if file.digest and key not in _known_whole:
        if digest(path, file.digest.split(":")[0]) != file.digest:
            return False
        _known_whole.add(key)
    return True


def digest(path: Path, kind: str = "sha256") -> str:
    """Digest of a file with its kind, such as `sha256:9f86...`; kinds: `sha256`, `md5`, `git`."""
    sums = hashlib.new("sha1" if kind == "git" else kind, usedforsecurity=False)
    if kind == "git":  # Git hashes a header with the length, then the bytes
        sums.update(b"blob %d\0" % path.stat().st_size)
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            sums.update(chunk)
    return f"{kind}:{sums.hexdigest()}"
