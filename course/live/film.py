"""The moving picture of the live page in the README: `python -m course live --film`.

It is the guided tour, all six steps, played in Chromium on the page that `build` has just written.
"""

import functools
import http.server
import io
import threading
from pathlib import Path

from vit_helpers.errors import CourseError

from .. import runner

PHOTO = "dog and cat"
VIEW = {"width": 1040, "height": 680}  # as stored: the words of the page stay sharp
QUALITY = 82
POINTS = ((0.44, 0.22), (0.30, 0.45), (0.80, 0.60))  # of width and height: patches to ask
SECONDS = {"step": 3.2, "more": 1.3}
LARGEST_MEGABYTES = 3
PLAYED = 2  # then it stands still: what moves on and on keeps people from reading
READY = "() => document.body.dataset.state === 'ready'"


def film(folder: Path, to: Path) -> None:
    """Write the film of a live page as a WebP.

    Raises:
        CourseError: If there is no Chromium, or the page does not get ready.
    """
    from PIL import Image
    from playwright.sync_api import Error, sync_playwright

    if not (browser := runner.find_browser()):
        raise CourseError("The film needs a Chromium: install one, or name it in VIT_BROWSER.")
    with _served(folder) as server, sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=browser, args=["--no-sandbox"])
        try:
            page = chromium.new_page(viewport=VIEW)  # type: ignore[arg-type]
            page.set_default_timeout(180_000)
            page.goto(f"http://127.0.0.1:{server.server_port}/index.html")
            shots = _play(page)
        except Error as error:
            raise CourseError(f"The live page did not play: {error.message}") from error
        finally:
            chromium.close()
    frames = [Image.open(io.BytesIO(shot)).convert("RGB") for shot, _ in shots]
    frames[0].save(
        to,
        "WEBP",
        save_all=True,
        append_images=frames[1:],
        duration=[round(1000 * seconds) for _, seconds in shots],
        loop=PLAYED,
        quality=QUALITY,
        method=6,
    )
    if to.stat().st_size > LARGEST_MEGABYTES * 1e6:
        raise CourseError(f"The film is larger than {LARGEST_MEGABYTES} MB: lower its quality.")


def _play(page) -> list[tuple[bytes, float]]:
    """Take the tour; what the page looks like, and for how many seconds."""
    shots = []

    def shoot(kind: str) -> None:
        page.wait_for_timeout(400)  # bars grow, and what was asked is on its way
        page.wait_for_function(READY)
        page.wait_for_timeout(100)
        shots.append((page.screenshot(), SECONDS[kind]))

    page.wait_for_function(READY)
    page.click("#start-tour")
    page.mouse.move(0, 0)
    shoot("more")
    page.get_by_label(f"Photograph: {PHOTO}", exact=True).click()
    page.mouse.move(0, 0)
    shoot("step")
    for _ in range(1, page.locator("#tour-steps > div").count()):
        page.click("#tour-next")
        page.mouse.move(0, 0)
        shoot("step")
        place = page.locator("#tour-steps > div:visible").get_attribute("data-place")
        if place == "attention":  # ask some patches
            box = page.locator("#explorer .vx-stage").first.bounding_box()
            for x, y in POINTS:
                page.mouse.move(box["x"] + x * box["width"], box["y"] + y * box["height"])
                shoot("more")
    page.click("#tour-next")
    shoot("more")
    return shots


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *args):
        pass


class _Server(http.server.ThreadingHTTPServer):
    def __enter__(self):
        threading.Thread(target=self.serve_forever, daemon=True).start()
        return super().__enter__()

    def __exit__(self, *exc):
        self.shutdown()
        return super().__exit__(*exc)


def _served(folder: Path) -> _Server:
    """A server for one folder, for as long as a `with` block."""
    return _Server(("127.0.0.1", 0), functools.partial(_Quiet, directory=str(folder)))
