"""Bring one file from an address that somebody typed: http and https, bounded, public hosts only.

An address can be a trap. It can name a machine inside your own network that answers only to
insiders (a router, a cloud's metadata server), or forward to one; it can send for ever, or without
end. So the name is looked up once, every number that it stands for must be public, and the
connection goes to exactly that number: a name that means something else a moment later gains
nothing. A proxy is not used, because behind a proxy none of this could be checked.
"""

import contextlib
import http.client
import ipaddress
import socket
import ssl
import threading
import time
from urllib.parse import SplitResult, quote, urljoin, urlsplit

from .errors import CourseError

SECONDS = 10.0  # from the call to the last byte, forwarding included
MAX_BYTES = 20_000_000
FORWARDS = (301, 302, 303, 307, 308)
MAX_FORWARDS = 5
CHUNK = 1 << 16

_GLOBAL_IPV6 = ipaddress.ip_network("2000::/3")  # RFC 4291: what is given out for the Internet
_NAT64 = ipaddress.ip_network("64:ff9b::/96")  # RFC 6052: an IPv4 address stands in the last bits


def fetch(url: str) -> bytes:
    """What an address answers.

    Args:
        url: Begins with `http://` or `https://`.

    Returns:
        The bytes, at most `MAX_BYTES`, within `SECONDS` seconds.

    Raises:
        CourseError: If it is no such address, leads to a host that is not public, does not
            answer, does not end in time, or is too large.
    """
    # A time-out of the socket is not enough: looking up a name can take longer, and a server that
    # sends a byte now and then is never silent. So a thread does the work, and we wait for it.
    outcome, sockets = {}, []
    deadline = time.monotonic() + SECONDS

    def work():
        try:
            outcome["content"] = _follow(url, deadline, sockets)
        except Exception as error:  # handed on to the caller below
            outcome["error"] = error

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    thread.join(SECONDS)
    if "content" in outcome:
        return outcome["content"]
    error = outcome.get("error")
    if error is None or isinstance(error, TimeoutError):
        for open_socket in sockets:  # ends the thread, too
            with contextlib.suppress(OSError):
                open_socket.shutdown(socket.SHUT_RDWR)
        raise CourseError(
            f"{_short(url)} did not arrive within {SECONDS:g} seconds: choose a smaller picture "
            "or another server."
        )
    if isinstance(error, (OSError, http.client.HTTPException, ValueError)):
        raise CourseError(
            f"{_short(url)} could not be loaded ({_reason(error)}): check the address and the "
            "network."
        ) from None
    raise error


def is_public(address: str) -> bool:
    """Whether a number such as `93.184.215.14` or `2606:2800::1` belongs to the public Internet.

    Loopback, private (RFC 1918), link-local, shared, reserved and multicast addresses do not, in
    IPv4, in IPv6, and as an IPv4 address that is wrapped into an IPv6 one.
    """
    number = ipaddress.ip_address(address.split("%")[0])  # fe80::1%eth0 names an interface, too
    if number.version == 6:
        if number in _NAT64:
            number = ipaddress.IPv4Address(number.packed[-4:])
        elif number.ipv4_mapped:
            number = number.ipv4_mapped
        elif number not in _GLOBAL_IPV6 or number.sixtofour or number.teredo:
            return False
    return number.is_global and not number.is_multicast


def _follow(url: str, deadline: float, sockets: list) -> bytes:
    """Ask, and ask again where the answer is another address."""
    for _ in range(MAX_FORWARDS + 1):
        parts = _checked(url)
        kind = _SecureConnection if parts.scheme == "https" else _Connection
        connection = kind(parts.hostname or "", parts.port, url, deadline, sockets)
        with contextlib.closing(connection):
            connection.request("GET", _target(parts), headers={"User-Agent": "vit-helpers"})
            # The answer is closed, too: where it ends with the connection, it has taken that over.
            with connection.getresponse() as response:
                if response.status in FORWARDS and response.getheader("Location"):
                    url = urljoin(url, response.getheader("Location"))
                    continue
                if response.status != 200:
                    raise CourseError(
                        f"{_short(url)} answered with status {response.status}: check the address."
                    )
                return _read(response, url, deadline)
    raise CourseError(
        f"{_short(url)} forwards for ever: open it in a browser and copy the last address."
    )


def _checked(url: str) -> SplitResult:
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https"):
        raise CourseError(
            f"{_short(url)} is no http:// or https:// address, and only those are loaded: save "
            "the picture and give its path."
        )
    if not parts.hostname:
        raise ValueError("it names no server")
    return parts


def _target(parts: SplitResult) -> str:
    # Spaces and umlauts, as people paste them, become %20 and the like; a % stays what it is.
    path = quote(parts.path, safe="/%:@!$&'()*+,;=~") or "/"
    return path + ("?" + quote(parts.query, safe="/?%:@!$&'()*+,;=~") if parts.query else "")


def _read(response: http.client.HTTPResponse, url: str, deadline: float) -> bytes:
    announced = response.length  # None where the server does not say
    content = bytearray()
    while len(content) <= MAX_BYTES and (announced or 0) <= MAX_BYTES:
        chunk = response.read1(CHUNK)
        if not chunk:
            if announced is not None and len(content) < announced:
                raise ConnectionError(f"broken off after {len(content)} of {announced} bytes")
            return bytes(content)
        content += chunk
        if time.monotonic() > deadline:
            raise TimeoutError("too slow")
    raise CourseError(
        f"{_short(url)} is larger than {MAX_BYTES // 10**6} MB: choose a smaller picture."
    )


class _Connection(http.client.HTTPConnection):
    """A connection to a public host, on a number that was checked."""

    def __init__(self, host: str, port: int | None, url: str, deadline: float, sockets: list):
        super().__init__(host, port)
        self.url, self.deadline, self.sockets = url, deadline, sockets

    def connect(self):
        """Look the name up, check every number behind it, and connect to the first that answers."""
        found = socket.getaddrinfo(self.host, self.port, type=socket.SOCK_STREAM)
        numbers = list(dict.fromkeys(entry[4][0] for entry in found))
        for number in numbers:
            if not is_public(number):
                raise CourseError(
                    f"{_short(self.url)} leads to {number}, which is no public address: pictures "
                    "are loaded from public servers only, so save it and give its path."
                )
        for number in numbers:
            try:
                left = max(0.1, self.deadline - time.monotonic())
                self.sock = socket.create_connection((number, self.port), timeout=left)
                break
            except OSError:
                if number == numbers[-1]:
                    raise
        self.sockets.append(self.sock)


class _SecureConnection(_Connection):
    """The same with TLS: the certificate must be that of the name."""

    default_port = http.client.HTTPS_PORT

    def connect(self):
        """Connect, then agree on keys."""
        super().connect()
        context = ssl.create_default_context()
        self.sock = context.wrap_socket(self.sock, server_hostname=self.host)
        self.sockets.append(self.sock)


def _short(url: str) -> str:
    return url if len(url) <= 100 else url[:99] + "…"


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error) or type(error).__name__
