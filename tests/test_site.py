"""The site as a visitor meets it: from the disk, in Chromium, with a mouse and on a phone.

The tests with a browser build the site into `build/site` first; `make test-site` runs them.
Screenshots go to `build/screenshots`.
"""

import contextlib
import functools
import http.server
import json
import re
import subprocess
import sys
import threading
from pathlib import Path
from types import SimpleNamespace
from urllib.parse import unquote, urldefrag, urlsplit

import factories
import nbformat
import pytest
from browsing import SMALL_TEXT, Explorer, opened, same_order

from course import book, runner
from vit_helpers.errors import CourseError

ROOT = Path(__file__).parent.parent
SCREENSHOTS = runner.BUILD / "screenshots"
PHONE = {"viewport": {"width": 390, "height": 844}, "is_mobile": True, "has_touch": True}


# --- what Sphinx reads -------------------------------------------------------------------------


def test_the_reference_has_every_module():
    package = ROOT / "vit_helpers"
    paths = [p.relative_to(package).with_suffix("") for p in package.rglob("*.py")]
    names = {".".join(p.parts).removesuffix(".__init__") for p in paths}
    assert sorted(book.modules()) == sorted(names - {"__init__", "__main__"})
    assert book.modules()[: len(book.CALLED)][0] == "runtime"


def test_markdown_for_the_web_asks_no_other_host():
    badge = "[![Open in Colab](https://x.org/badge.svg)](https://x.org/open)"
    assert book.for_the_web(badge) == "[Open in Colab](https://x.org/open)"
    assert "<math" in book.for_the_web("so $a^2$")
    assert book.for_the_web("[home](../README.md#run-it)") == "[home](/index.md#run-it)"


def test_the_front_page_of_the_site_opens_the_live_page():
    page = book.front_page((ROOT / "README.md").read_text(encoding="utf-8"))
    assert '<a href="live/index.html">' in page and "](live-page.md)" in page
    assert "`make live`" not in page


def test_an_explorer_that_is_not_the_saved_one_is_refused(monkeypatch):
    path = next(p for p in runner.find() if p.stem == book.EXPLORER[0])
    other = SimpleNamespace(poster=SimpleNamespace(alt="Other maps."))
    monkeypatch.setattr(book, "explorer_of_the_course", lambda: other)
    notebook = nbformat.read(path, as_version=4)
    with pytest.raises(CourseError, match="make refresh"):
        book.wake_explorer(notebook)


def test_without_sphinx_one_sentence_says_what_to_install(monkeypatch):
    monkeypatch.setattr(book, "find_spec", lambda name: None)
    with pytest.raises(CourseError, match="requirements-site.txt"):
        book.build()


# --- the site ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def site():
    """The folder with the site, built now. A warning of Sphinx is an error."""
    command = [sys.executable, "-m", "course", "site"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    return book.SITE


@pytest.fixture(scope="module")
def pages(site):
    """Every page as parsed HTML, by its path."""
    from bs4 import BeautifulSoup

    paths = sorted(site.rglob("*.html"))
    return {p: BeautifulSoup(p.read_text(encoding="utf-8"), "html.parser") for p in paths}


@pytest.fixture
def attn(rt):
    """The attention of the sample photograph, (layers, heads, tokens, tokens)."""
    from course.maps import maps
    from vit_helpers import images

    model, processor = factories.classifier("eager")
    pixels = images.to_pixels(images.load_image(), processor)
    return maps(model, pixels)[0].numpy()


@contextlib.contextmanager
def served(folder):
    """The folder on a port of this machine; yields the address."""
    handler = functools.partial(_Quiet, directory=folder)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


@pytest.mark.site
class TestPages:
    def test_every_notebook_guide_card_and_module_has_a_page(self, site):
        expected = [f"notebooks/{path.stem}" for path in runner.find()]
        expected += ["index", "search", "docs/instructor", "docs/glossary", "CONTRIBUTING"]
        expected += [f"reference/{name}" for name in book.modules()]
        expected += [
            f"vit_helpers/offline_kit/cards/{path.stem}"
            for path in (ROOT / "vit_helpers" / "offline_kit" / "cards").glob("*.md")
        ]
        assert not [name for name in expected if not (site / f"{name}.html").is_file()]

    def test_docstrings_are_read_as_markdown_in_google_style(self, site, pages):
        page = pages[site / "reference" / "runtime.html"]
        assert page.find("table").find("code").get_text() == "VIT_SOURCE"
        fields = pages[site / "reference" / "images.html"].select("dl.field-list > dt")
        assert {"Parameters:", "Returns:", "Raises:"} <= {f.get_text() for f in fields}
        for page in pages.values():
            for tag in page.select("article p, article li, article dd > p"):
                assert "`" not in tag.get_text(), tag

    def test_no_link_is_broken(self, site, pages):
        ids = {p: {tag["id"] for tag in page.find_all(id=True)} for p, page in pages.items()}
        broken, followed = [], 0
        for path, page in pages.items():
            for tag in page.find_all(["a", "img", "script", "link"]):
                address = tag.get("href") or tag.get("src") or ""
                if urlsplit(address).scheme or address in ("", "#"):
                    continue
                followed += 1
                name, fragment = urldefrag(address)
                target = (path.parent / unquote(urlsplit(name).path)).resolve() if name else path
                if not target.is_file() or (fragment and fragment not in ids[target]):
                    broken.append(f"{path.relative_to(site)}: {address}")
        assert followed > 1000
        assert not broken

    def test_nothing_is_loaded_from_another_host(self, site, pages):
        for page in pages.values():
            for tag in page.find_all(["img", "script", "link", "iframe", "source"]):
                address = tag.get("src") or (tag.get("rel") != ["next"] and tag.get("href")) or ""
                assert urlsplit(address).scheme in ("", "data"), address
        for style in site.rglob("*.css"):
            assert not re.search(r"(url\(|@import)\s*[\"']?https?:", style.read_text("utf-8"))

    def test_no_page_names_a_folder_of_this_machine(self, site):
        for path in [*site.rglob("*.html"), *site.rglob("*.js")]:
            text = path.read_text(encoding="utf-8")
            assert str(ROOT) not in text and str(Path.home()) not in text, path

    def test_every_picture_has_words(self, pages):
        for page in pages.values():
            for picture in page.select("article img"):
                assert len(picture.get("alt", "").split()) >= 5, picture

    def test_saved_outputs_are_there_and_no_cell_was_executed(self, site, pages):
        for path in runner.find():
            page = pages[site / "notebooks" / f"{path.stem}.html"]
            shown = " ".join(page.find("article").get_text().split())
            for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
                for output in cell.get("outputs", []):
                    if output.get("name") == "stdout":
                        assert " ".join("".join(output["text"]).split()) in shown


@pytest.mark.site
class TestInABrowser:
    def test_every_page_is_readable_on_a_phone(self, chromium, site, pages):
        # `opened` also insists that there is no error on the console, and no other host.
        found = []
        with opened(chromium, (site / "index.html").as_uri(), **PHONE) as tab:
            for path in pages:
                name = path.relative_to(site)
                if name.parts[0] in ("live", "vit-live.html"):  # tests of its own: test_live.py
                    continue
                tab.goto(path.as_uri())
                width = tab.evaluate("document.documentElement.scrollWidth")
                if width > PHONE["viewport"]["width"]:
                    found.append(f"{name} is {width} pixels wide")
                found += [f"{name}: {text}" for text in tab.evaluate(SMALL_TEXT)]
        assert not found

    @pytest.mark.parametrize("kind", ["disk", "server"])
    @pytest.mark.parametrize(
        "word, page",
        [
            ("entropy", "notebooks/03_attention.html"),
            ("unnormalise", "reference/images.html#vit_helpers.images.unnormalise"),
            ("centre_maps", "reference/attention.html#vit_helpers.attention.centre_maps"),
        ],
    )
    def test_search_finds_a_word_of_a_notebook_and_a_function(
        self, chromium, site, kind, word, page
    ):
        with served(site) as server:
            base = site.as_uri() if kind == "disk" else server
            allowed = ("file:",) if kind == "disk" else (server,)
            with opened(chromium, f"{base}/docs/glossary.html", allowed) as tab:
                tab.get_by_label("Search").first.fill(word)
                tab.keyboard.press("Enter")
                tab.locator("#search-results li a").first.wait_for()
                found = tab.locator("#search-results li a")
                addresses = [a.evaluate("(a) => a.href") for a in found.all()]
                without_marks = [re.sub(r"\?[^#]*", "", address) for address in addresses]
                assert f"{base}/{page}" in without_marks
                if kind == "server":  # with a line of the page that was found
                    tab.locator("#search-results p.context").first.wait_for()
                tab.screenshot(path=SCREENSHOTS / f"site-search-{kind}.png")
                found.nth(without_marks.index(f"{base}/{page}")).click()
                tab.wait_for_url(re.compile(re.escape(page.split("#")[0])))

    @pytest.mark.parametrize("options", [{}, PHONE], ids=["desktop", "phone"])
    def test_the_explorer_is_alive(self, chromium, site, attn, options):
        url = (site / "notebooks" / "03_attention.html").as_uri()
        with opened(chromium, url, **options) as tab:
            page = Explorer(tab)
            assert page.title() == "Layer 11, mean of 12 heads from [CLS]"
            cls = page.strongest()
            if options:
                page.panel().locator(".vx-stage").scroll_into_view_if_needed()
                tab.touchscreen.tap(*page.place(4, 9))
            else:
                page.hover(4, 9)
            assert page.title().endswith("from the patch in row 5, column 10")
            assert page.strongest() != cls
            same_order(page.strongest(), attn[11].mean(axis=0)[1 + 14 * 4 + 9])
            tab.screenshot(path=SCREENSHOTS / f"site-explorer-{tab.viewport_size['width']}.png")

    @pytest.mark.parametrize("options", [{}, PHONE], ids=["desktop", "phone"])
    def test_screenshots(self, chromium, site, options):
        for name in ("index", "notebooks/01_classify", "reference/attention", "docs/instructor"):
            with opened(chromium, (site / f"{name}.html").as_uri(), **options) as tab:
                assert tab.locator("article h1").count() == 1
                size = tab.viewport_size["width"]
                tab.screenshot(path=SCREENSHOTS / f"site-{name.replace('/', '-')}-{size}.png")
