"""One bounded download: in time, in size, in forwards, and for typed addresses to public hosts.

The libraries of the Hub try again for up to two minutes before they say that there is no network;
`facts` and `to_file` answer in seconds, and continue where a download broke off.

A typed address can name a machine inside your own network, forward to one, or send for ever. So
`read` looks a name up once, wants all its numbers to be public, and connects to one of them.
"""

import contextlib
import ipaddress
import os
import re
import socket
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from concurrent.futures import TimeoutError as TooLate  # Python's own from 3.11 on
from pathlib import Path
from urllib.parse import urljoin, urlsplit

import requests
from requests.adapters import HTTPAdapter
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool

from ..errors import CourseError
from .files import hub_digest, is_whole

READ_SECONDS = 10.0  # a typed address: from the call to the last byte
MAX_BYTES = 20_000_000
PROBE_SECONDS = 3.0  # the first request for a pinned file
STALL_SECONDS = 6.0  # the longest silence within a file
SLOWEST = 1000  # bytes a second, over `SLOW_SECONDS`
SLOW_SECONDS = 30.0
TRIES = 2  # in a row without a single byte; a byte starts the count anew
PAUSE_SECONDS = 1.0  # between two tries
MAX_FORWARDS = 5
CHUNK = 1 << 16


class DownloadError(Exception):
    """Why nothing came, in words that fit into a sentence."""


class _Again(DownloadError):
    """A failure that may be gone at the next try."""


def within(seconds: float, work: Callable):
    """The result of `work()`, or `TooLate`; the thread that does it is then left to itself.

    The time-out of a socket bounds neither the look-up of a name nor a byte now and then.
    """
    future: Future = Future()

    def run():
        try:
            future.set_result(work())
        except BaseException as error:  # `result` raises it again
            future.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    return future.result(seconds)


_GLOBAL_IPV6 = ipaddress.ip_network("2000::/3")  # RFC 4291: what is given out for the Internet
_NAT64 = ipaddress.ip_network("64:ff9b::/96")  # RFC 6052: an IPv4 address stands in the last bits


def is_public(address: str) -> bool:
    """Whether a number such as `93.184.215.14` or `2606:2800::1` belongs to the public Internet."""
    number = ipaddress.ip_address(address.split("%")[0])  # fe80::1%eth0 names an interface, too
    if number.version == 6:
        if number in _NAT64:
            number = ipaddress.IPv4Address(number.packed[-4:])
        elif number.ipv4_mapped:
            number = number.ipv4_mapped
        elif number not in _GLOBAL_IPV6 or number.sixtofour or number.teredo:
            return False
    return number.is_global and not number.is_multicast


class _Adapter(HTTPAdapter):
    """Connects to the numbers that were checked, and can hang up from another thread."""

    def __init__(self, public: bool):
        self.public, self.sockets = public, []
        super().__init__()

    def init_poolmanager(self, *args, **kwargs):
        """Let the pools make connections of ours."""
        super().init_poolmanager(*args, **kwargs)
        own = {"_new_conn": lambda made: self.connect(made.host, made.port, made.timeout)}
        pools = {}
        for scheme, pool in (("http", HTTPConnectionPool), ("https", HTTPSConnectionPool)):
            connection = type("Connection", (pool.ConnectionCls,), own)
            pools[scheme] = type("Pool", (pool,), {"ConnectionCls": connection})
        self.poolmanager.pool_classes_by_scheme = pools

    def connect(self, host: str, port: int, timeout):
        """Look the name up once, check every number behind it, and connect to one of them."""
        found = socket.getaddrinfo(host.strip("[]"), port, type=socket.SOCK_STREAM)
        numbers = list(dict.fromkeys(str(entry[4][0]) for entry in found))
        for number in numbers:
            if self.public and not is_public(number):
                raise DownloadError(f"{host} leads to {number}, which is no public address")
        for number in numbers:
            try:
                made = socket.create_connection((number, port), timeout=timeout)
                self.sockets.append(made)
                return made
            except OSError:
                if number == numbers[-1]:
                    raise

    def hang_up(self) -> None:
        """Close every connection; a thread that reads from one ends."""
        for made in self.sockets:
            with contextlib.suppress(OSError):
                made.shutdown(socket.SHUT_RDWR)


def _follow(adapter: _Adapter, url: str, seconds: float, headers=None, method: str = "GET"):
    """Ask, and ask again where the answer is another address: `(response, headers of all)`."""
    session = requests.Session()
    session.trust_env = not adapter.public  # behind a proxy no number can be checked
    session.mount("http://", adapter)
    session.mount("https://", adapter)
    headers = {"User-Agent": "vit-helpers", "Accept-Encoding": "identity", **(headers or {})}
    collected: dict[str, str] = {}
    for _ in range(MAX_FORWARDS + 1):
        if not url.lower().startswith(("http://", "https://")):
            raise DownloadError(f"{short(url)} is no http:// or https:// address")
        response = session.request(
            method, url, headers=headers, stream=True, timeout=seconds, allow_redirects=False
        )
        collected = {**{k.lower(): v for k, v in response.headers.items()}, **collected}
        target = session.get_redirect_target(response)
        if target is None:
            return response, collected
        response.close()
        forward = urljoin(response.url, target)
        if urlsplit(forward).netloc != urlsplit(url).netloc:
            headers.pop("Authorization", None)  # a token is for the host that it was meant for
            if method == "HEAD":
                return response, collected
        url = forward
    raise DownloadError(f"{short(url)} forwards for ever")


def read(url: str) -> bytes:
    """What an address answers: at most `MAX_BYTES`, within `READ_SECONDS` seconds."""
    adapter = _Adapter(public=True)
    try:
        return within(READ_SECONDS, lambda: _read(adapter, url))
    except DownloadError as error:
        reason = f"{error}: check the address, or save the picture and give its path"
    except (TooLate, requests.Timeout):
        reason = f"{short(url)} did not arrive within {READ_SECONDS:g} seconds: choose a smaller "
        reason += "picture or another server"
    except (OSError, ValueError) as error:  # those of requests are among them
        reason = f"{short(url)} could not be loaded ({_reason(error)}): check the address and the "
        reason += "network"
    finally:
        adapter.hang_up()
    raise CourseError(f"{reason}.")


def _read(adapter: _Adapter, url: str) -> bytes:
    response, _ = _follow(adapter, url, READ_SECONDS)
    too_large = DownloadError(f"{short(url)} is larger than {MAX_BYTES // 10**6} MB")
    with response:
        if response.status_code != 200:
            raise DownloadError(f"{short(url)} answered with status {response.status_code}")
        announced = _whole_number(response.headers.get("Content-Length")) or 0
        if announced > MAX_BYTES:
            raise too_large
        content = bytearray()
        try:
            for chunk in response.iter_content(CHUNK):
                content += chunk
                if len(content) > MAX_BYTES:
                    raise too_large
        except requests.RequestException:
            if len(content) >= announced:
                raise
    if len(content) < announced:
        raise ConnectionError(f"broken off before the end of its {announced} bytes")
    return bytes(content)


def _whole_number(text: str | None) -> int | None:
    return int(text) if text and text.isdecimal() else None


def short(name: str) -> str:
    """The beginning of a name or an address, for a sentence."""
    return name if len(name) <= 100 else name[:99] + "…"


def _reason(error: BaseException) -> str:
    """The first cause of an error in words, such as `Connection refused`."""
    for _ in range(8):
        inner = next((a for a in error.args if isinstance(a, BaseException)), None)
        inner = inner or getattr(error, "reason", None) or error.__cause__ or error.__context__
        if not isinstance(inner, BaseException):
            break
        error = inner
    return getattr(error, "strerror", None) or str(error) or type(error).__name__


def facts(url: str, headers: dict | None = None, tries: int = 1) -> tuple[int | None, str | None]:
    """Size and digest of a file as a Hub tells them, within `PROBE_SECONDS` a try."""
    for left in reversed(range(tries)):
        try:
            _, found = _request(url, PROBE_SECONDS, headers, method="HEAD")
            break
        except _Again:
            if not left:
                raise
            time.sleep(PAUSE_SECONDS)
    if "text/html" in found.get("content-type", ""):
        raise DownloadError(f"{_host(url)} answered with a web page: log in to this network")
    tag = found.get("x-linked-etag") or found.get("etag") or ""
    size = _whole_number(found.get("x-linked-size") or found.get("content-length"))
    return size, hub_digest(tag.removeprefix("W/").strip('"'))


def to_file(
    url: str,
    path: Path,
    bar,
    size: int | None = None,
    digest: str | None = None,
    headers: dict | None = None,
) -> None:
    """Download one file, or raise `DownloadError`. What was begun is continued.

    The bytes go to `<name>.part`, which gets its name only when `size` and `digest` are right.
    Without a size at most `MAX_BYTES` are taken.
    """
    part = path.with_name(path.name + ".part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if digest and is_whole(path, size, digest):
            bar.update(path.stat().st_size)
            return
        too_long = part.is_file() and size is not None and part.stat().st_size > size
        if digest is None or too_long:  # nothing would tell whether two halves belong together
            part.unlink(missing_ok=True)
        for resumed in (part.is_file(), False):
            _fill(part, url, size, headers, bar)
            if is_whole(part, size, digest):
                break
            bar.update(-part.stat().st_size)
            part.unlink()
            if not resumed:  # else what was here before may be to blame
                raise DownloadError(f"{path.name} arrived damaged")
        os.replace(part, path)
    except OSError as error:
        raise DownloadError(f"{path} cannot be written ({error.strerror or error})") from None


def _fill(part: Path, url: str, size: int | None, headers, bar) -> None:
    """Append to `part` until it has its size; try again as long as bytes arrive."""
    done, failures = part.stat().st_size if part.is_file() else 0, 0
    bar.update(done)
    while done != size:
        before = done
        try:
            done = _append(part, url, done, size or MAX_BYTES, headers, bar)
            if size in (None, done):
                return
            raise _Again(f"{part.stem} ended early, after {done} of {size} bytes")
        except _Again as error:
            done = part.stat().st_size if part.is_file() else 0
            failures = failures + 1 if done <= before else 1
            if failures >= TRIES:
                raise DownloadError(str(error)) from None
            bar.set_postfix_str("broken off, trying again")
            time.sleep(PAUSE_SECONDS)


def _append(part: Path, url: str, start: int, most: int, headers, bar) -> int:
    """One request from byte `start` on. Returns the length of the file afterwards."""
    resume = {"Range": f"bytes={start}-"} if start else {}
    response, _ = _request(url, STALL_SECONDS, {**(headers or {}), **resume})
    continues = response.status_code == 206  # some servers always begin at the beginning
    if start and not continues:
        bar.update(-start)
    began, arrived = time.monotonic(), 0
    with response, part.open("ab" if continues else "wb") as out:
        try:
            for chunk in response.iter_content(CHUNK):
                out.write(chunk)
                bar.update(len(chunk))
                arrived += len(chunk)
                if out.tell() > most:
                    raise DownloadError(f"{part.stem} is larger than {most} bytes")
                if time.monotonic() - began > SLOW_SECONDS:
                    if arrived < SLOWEST * SLOW_SECONDS:
                        raise _Again(f"{_host(url)} sends too slowly")
                    began, arrived = time.monotonic(), 0
        except requests.RequestException as error:
            raise _Again(_why(error, url, STALL_SECONDS)) from None
        return out.tell()


def _request(url: str, seconds: float, headers=None, method: str = "GET"):
    """`(response, headers)` of a request that succeeds within some seconds."""
    token = (headers or {}).get("Authorization", "")
    if not (token.isascii() and token.isprintable()):
        raise DownloadError("HF_TOKEN has a letter that no token has: copy it again")
    adapter = _Adapter(public=False)
    try:
        response, collected = within(
            seconds, lambda: _follow(adapter, url, seconds, headers, method)
        )
    except TooLate:
        adapter.hang_up()
        raise _Again(f"{_host(url)} did not answer within {seconds:g} s") from None
    except ValueError:  # without its words, in which a token or a password may stand
        raise DownloadError(
            f"{_host(url)} cannot be asked: HF_ENDPOINT, HF_TOKEN or a proxy is not well-formed"
        ) from None
    except requests.RequestException as error:
        raise _Again(_why(error, url, seconds)) from None
    except OSError as error:  # of requests itself: a bundle of certificates that is not there
        raise DownloadError(f"{_host(url)} cannot be asked ({_reason(error)})") from None
    if response.ok:  # a forward to another host, where only the headers were wanted, is, too
        return response, collected
    response.close()
    reason = f"{_host(url)} answered with status {response.status_code}"
    if response.status_code == 429:
        raise DownloadError(f"{reason}: too many requests, wait some minutes")
    if response.status_code >= 500 or response.status_code == 416:  # 416: there is no such byte
        raise _Again(reason)
    if response.status_code == 401 and "Authorization" in (headers or {}):
        raise DownloadError(f"{reason}: is HF_TOKEN right?")
    raise DownloadError(reason)


def _host(url: str) -> str:
    try:
        return urlsplit(url).hostname or url
    except ValueError:
        return short(url)


def _why(error: requests.RequestException, url: str, seconds: float) -> str:
    host, text = _host(url), str(error)
    if isinstance(error, requests.Timeout) or "timed out" in text:
        return f"{host} did not answer within {seconds:g} s"
    if isinstance(error, requests.exceptions.SSLError):
        return f"there is no secure connection to {host}"
    broken = re.search("IncompleteRead|reset|aborted|without response", text)
    if broken and "refused" not in text:
        return f"the connection to {host} broke off"
    if isinstance(error, requests.ConnectionError):
        return f"there is no connection to {host}"
    return f"{host}: {_reason(error)}"
