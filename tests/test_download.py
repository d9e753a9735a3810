"""Pictures from an address: http and https, ten seconds, 20 MB, public hosts, one sentence each."""

import http.server
import io
import os
import re
import socket
import threading
import time
import warnings

import pytest
from PIL import Image

from vit_helpers import images
from vit_helpers.errors import CourseError
from vit_helpers.resources import download


def picture(size=(9, 6), kind="PNG"):
    buffer = io.BytesIO()
    Image.effect_noise(size, 50).convert("RGB").save(buffer, kind)
    return buffer.getvalue()


class Site(http.server.BaseHTTPRequestHandler):
    """What the pages of a small site on 127.0.0.1 do; each page is a method."""

    def do_GET(self):
        self.server.asked.append(self.path)
        getattr(self, "page_" + re.match(r"/([a-z]*)", self.path)[1])()

    def send(self, content=b"", status=200, **headers):
        self.send_response(status)
        for name, value in {"Content-Length": len(content), **headers}.items():
            self.send_header(name, str(value))
        self.end_headers()
        self.wfile.write(content)

    def page_cat(self):
        self.send(picture())

    def page_missing(self):
        self.send(status=404)

    def page_text(self):
        self.send(b"<html>log in to this network</html>")

    def page_to(self):  # /to?ADDRESS
        self.send(status=302, Location=self.path.partition("?")[2])

    def page_loop(self):
        self.send(status=301, Location="/loop")

    def page_huge(self):
        self.send_response(200)
        self.send_header("Content-Length", str(download.MAX_BYTES + 1))
        self.end_headers()

    def page_endless(self):  # no length: until the reader has enough
        self.send_response(200)
        self.end_headers()
        sent = 0
        try:
            while sent < 20 * download.MAX_BYTES:
                sent += self.wfile.write(bytes(1 << 20))
        except OSError:
            pass
        self.server.sent = sent
        self.server.ended.set()

    def page_cut(self):
        self.send(picture()[:50], **{"Content-Length": len(picture())})

    def page_silent(self):
        self.server.stop.wait(9)

    def drip(self, start):
        try:
            self.wfile.write(start)
            while not self.server.stop.wait(0.05):
                self.wfile.write(b"x")
        except OSError:
            self.server.hung_up.set()

    def page_drip(self):
        self.drip(b"HTTP/1.0 200 OK\r\n\r\n")

    def page_headers(self):  # the headers alone never end
        self.drip(b"HTTP/1.0 200 OK\r\nX-Long: ")

    def log_message(self, *args):
        pass


@pytest.fixture
def site(monkeypatch):
    """The site's address; only 127.0.0.1, of all private numbers, counts as public."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Site)
    server.asked, server.stop = [], threading.Event()
    server.hung_up, server.ended = threading.Event(), threading.Event()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    truly_public = download.is_public
    monkeypatch.setattr(download, "is_public", lambda n: n == "127.0.0.1" or truly_public(n))
    server.url = f"http://127.0.0.1:{server.server_port}"
    yield server
    server.stop.set()
    server.shutdown()
    server.server_close()
    thread.join()


def names(monkeypatch, **numbers):
    """Let names stand for numbers, without asking anybody."""
    real, asked = socket.getaddrinfo, []

    def lookup(host, port, *args, **kwargs):
        asked.append(host)
        if host not in numbers:
            return real(host, port, *args, **kwargs)
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (n, port)) for n in numbers[host]]

    monkeypatch.setattr(socket, "getaddrinfo", lookup)
    return asked


# --- what works --------------------------------------------------------------------------------


def test_a_picture_arrives(rt, site):
    assert images.load_image(f"{site.url}/cat.png").size == (9, 6)
    assert images.load_image(f"{site.url}/cat.png".replace("http", "HTTP")).size == (9, 6)


def test_forwarding_is_followed(rt, site):
    assert images.load_image(f"{site.url}/to?/cat").size == (9, 6)
    assert images.load_image(f"{site.url}/to?{site.url}/cat").size == (9, 6)


def test_spaces_and_umlauts_of_a_pasted_address_are_encoded(rt, site):
    images.load_image(f"{site.url}/cat/süße Katze%20.png?größe=1&b=%C3%BC#x")
    assert site.asked == ["/cat/s%C3%BC%C3%9Fe%20Katze%20.png?gr%C3%B6%C3%9Fe=1&b=%C3%BC"]


def test_the_connection_goes_to_the_number_that_was_checked(rt, site, monkeypatch):
    asked = names(monkeypatch, **{"pictures.example": ["127.0.0.1"]})
    url = site.url.replace("127.0.0.1", "pictures.example")
    assert images.load_image(f"{url}/cat").size == (9, 6)
    # Asked once: a second answer, that of an attacker's name server, could be another number.
    assert asked.count("pictures.example") == 1


# --- which addresses ---------------------------------------------------------------------------

PRIVATE = """
127.0.0.1 127.9.9.9 10.1.2.3 172.16.0.1 172.31.255.255 192.168.1.1 169.254.169.254 100.64.0.1
0.0.0.0 192.0.2.1 198.18.0.1 224.0.0.1 239.1.1.1 240.0.0.1 255.255.255.255
:: ::1 fe80::1 fe80::1%eth0 fc00::1 fd12:3456::1 fec0::1 ff02::1 2001:db8::1
::ffff:127.0.0.1 ::ffff:10.0.0.1 ::127.0.0.1 64:ff9b::10.0.0.1 64:ff9b::7f00:1
2002:7f00:1:: 2002:a00:1:: 2001:0:4136:e378:8000:63bf:f5ff:fffe
""".split()
PUBLIC = """
93.184.215.14 8.8.8.8 172.32.0.1 11.0.0.1 192.167.255.255
2606:2800:21f:cb07:6820:80da:af6b:8b2c 2a00:1450:4001:82f::200e ::ffff:8.8.8.8 64:ff9b::8.8.8.8
""".split()


@pytest.mark.parametrize("number", PRIVATE)
def test_private_numbers(number):
    assert not download.is_public(number)


@pytest.mark.parametrize("number", PUBLIC)
def test_public_numbers(number):
    assert download.is_public(number)


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "localhost", "2130706433", "0x7f.1", "[::1]", "[::ffff:127.0.0.1]"]
)
def test_this_machine_is_refused_however_it_is_spelled(rt, host):
    with pytest.raises(CourseError, match="which is no public address.*give its path"):
        images.load_image(f"http://{host}:9/cat.jpg")


@pytest.mark.parametrize("number", ["10.0.0.1", "169.254.169.254", "fe80::1"])
def test_a_name_that_stands_for_a_private_number_is_refused(rt, monkeypatch, number):
    names(monkeypatch, **{"pictures.example": ["93.184.215.14", number]})
    with pytest.raises(CourseError, match=f"leads to {number}, which is no public address"):
        images.load_image("https://pictures.example/cat.jpg")


@pytest.mark.parametrize("target", ["http://127.0.0.2:1/", "https://10.0.0.1/", "//192.168.1.1/a"])
def test_forwarding_to_a_private_number_is_refused(rt, site, target):
    with pytest.raises(CourseError, match="which is no public address"):
        images.load_image(f"{site.url}/to?{target}")


@pytest.mark.parametrize(
    "address", ["ftp://a.example/cat.jpg", "file:///etc/hostname", "data:image/png;base64,AAAA"]
)
def test_other_kinds_of_addresses_are_refused(rt, address):
    with pytest.raises(CourseError, match="no http:// or https:// address"):
        images.load_image(address)


def test_forwarding_to_another_kind_is_refused(rt, site):
    with pytest.raises(CourseError, match="file:///etc/hostname is no http:// or https:// address"):
        images.load_image(f"{site.url}/to?file:///etc/hostname")


@pytest.mark.parametrize(
    "address", ["http://", "https://[broken/cat.jpg", "http://a.example:port/", "http://a..b/"]
)
def test_an_address_that_is_none(rt, address):
    with pytest.raises(CourseError, match="could not be loaded"):
        images.load_image(address)


def test_a_very_long_address_does_not_fill_the_page(rt):
    with pytest.raises(CourseError) as caught:
        images.load_image("data:image/png;base64," + "A" * 100_000)
    assert len(str(caught.value)) < 300


# --- what a server can do ----------------------------------------------------------------------


def test_nobody_there(rt, monkeypatch):
    monkeypatch.setattr(download, "is_public", lambda n: n == "127.0.0.1")
    with pytest.raises(CourseError, match=r"could not be loaded \(Connection refused\)"):
        images.load_image("http://127.0.0.1:9/cat.jpg")


@pytest.mark.parametrize(
    "page, message",
    [
        ("missing", "answered with status 404: check the address"),
        ("text", "not a picture that can be read"),
        ("loop", "forwards for ever"),
        ("huge", "larger than 20 MB"),
        ("cut", "broken off before the end of its"),
    ],
)
def test_one_sentence_for_each_fault(rt, site, page, message):
    with pytest.raises(CourseError, match=message) as caught:
        images.load_image(f"{site.url}/{page}")
    assert "\n" not in str(caught.value)


def test_reading_stops_at_the_limit(rt, site, monkeypatch):
    monkeypatch.setattr(download, "MAX_BYTES", 4_000_000)
    with pytest.raises(CourseError, match="larger than 4 MB"):
        images.load_image(f"{site.url}/endless")
    assert site.ended.wait(9)
    # The system's buffers hold some megabytes more than were read, on a busy machine the most.
    assert site.sent < 10 * download.MAX_BYTES


@pytest.mark.parametrize("page", ["silent", "drip", "headers"])
def test_a_slow_server_is_left_in_time_and_nothing_stays_behind(rt, site, monkeypatch, page):
    monkeypatch.setattr(download, "READ_SECONDS", 0.4)
    threads = threading.active_count()
    began = time.perf_counter()
    with pytest.raises(CourseError, match="did not arrive within 0.4 seconds"):
        images.load_image(f"{site.url}/{page}")
    assert time.perf_counter() - began < 4
    if page != "silent":
        assert site.hung_up.wait(9)  # the connection was closed, so the reading thread ended
    site.stop.set()
    ended = time.perf_counter() + 9
    while threading.active_count() > threads and time.perf_counter() < ended:
        time.sleep(0.02)
    assert threading.active_count() <= threads


def test_a_name_server_that_hangs_is_left_in_time(rt, monkeypatch):
    done = threading.Event()
    monkeypatch.setattr(socket, "getaddrinfo", lambda *args, **kwargs: done.wait(60))
    monkeypatch.setattr(download, "READ_SECONDS", 0.2)
    with pytest.raises(CourseError, match="did not arrive within 0.2 seconds"):
        images.load_image("http://pictures.example/cat.jpg")
    done.set()


# --- what a file can do ------------------------------------------------------------------------


def test_a_bomb_is_refused_before_it_is_unpacked(rt, monkeypatch):
    content = picture((30, 30))
    for limits, ours in ((900, 899), (899, 900), (449, 900), (None, 899)):
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limits)  # PIL only warns up to twice that
        monkeypatch.setattr(images, "MAX_PIXELS", ours)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            with pytest.raises(CourseError, match="unpacks to more than 0 million pixels"):
                images.load_image(content)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 900)
    monkeypatch.setattr(images, "MAX_PIXELS", 900)
    assert images.load_image(content).size == (30, 30)


def test_postscript_starts_no_other_program(rt):
    with pytest.raises(CourseError, match="not a picture that can be read"):
        images.load_image(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n")


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF"])
def test_damaged_files_give_a_picture_or_a_sentence(rt, kind):
    # PIL answers damage with a dozen kinds of errors; all of them must become one sentence.
    whole = bytearray(picture((24, 18), kind))
    refused = 0
    for seed in range(120):
        content = bytearray(whole)
        for k in range(1 + seed % 5):
            content[(seed * 37 + k * 101) % min(len(content), 120 + seed)] = (seed * 91 + k) % 256
        try:
            assert images.load_image(bytes(content)).mode == "RGB"
        except CourseError:
            refused += 1
    assert refused


def test_no_environment_variable_opens_a_back_door(rt, monkeypatch):
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
        monkeypatch.setitem(os.environ, name, "http://127.0.0.1:9")
    with pytest.raises(CourseError, match="no public address"):
        images.load_image("http://127.0.0.1:9/cat.jpg")


@pytest.mark.parametrize(
    ("url", "token", "proxy"),
    [
        ("http://127.0.0.1:9/x", "hf_secret\nx", ""),
        ("http://127.0.0.1:9/x", "hf_secret…", ""),
        ("http://127.0.0.1:9/x", "", "http://me:secret@host:99999"),
        ("http://[::1/x", "", ""),
        ("http://localhost:abc/x", "", ""),
    ],
)
def test_settings_that_are_not_well_formed_are_one_sentence_without_secrets(
    monkeypatch, url, token, proxy
):
    for name in ("http_proxy", "HTTP_PROXY"):
        monkeypatch.setenv(name, proxy)
    monkeypatch.setenv("no_proxy", "")
    monkeypatch.setenv("NO_PROXY", "")
    with pytest.raises(download.DownloadError) as caught:
        download.facts(url, {"Authorization": f"Bearer {token}"} if token else {})
    assert "secret" not in str(caught.value) and "\n" not in str(caught.value)
