"""The moving picture of the live page in the README: `python -m course live --film`.

One half of a photograph of a dog and a cat is hidden step by step, and the answer changes. Then a
few patches are pointed at, and all heads show where they look from there. The film is made of the
page itself in Chromium, as `build` has just written it.
"""

import functools
import http.server
import io
import threading
from pathlib import Path

from vit_helpers.errors import CourseError

from .. import runner

PHOTO = "dog and cat"
VIEW = {"width": 1280, "height": 900}
WIDTH, QUALITY = 1000, 82
STROKES = 5  # from the top to the bottom of the half that is hidden
POINTS = ((0.44, 0.22), (0.30, 0.45), (0.67, 0.40), (0.80, 0.85))  # of width and height
SECONDS = {"first": 1.6, "stroke": 0.7, "last": 2.4, "point": 1.1}
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
    for frame in frames:
        frame.thumbnail((WIDTH, WIDTH), Image.Resampling.LANCZOS)
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
    """Use the page; what it looks like, and for how many seconds."""
    page.wait_for_function(READY)
    page.get_by_label(f"Photograph: {PHOTO}", exact=True).click()
    page.wait_for_function(READY)
    clip = _around(page, "picture", "answer", "lens")
    shots = [(page.screenshot(clip=clip), SECONDS["first"])]
    stage = page.locator("#stage").bounding_box()
    page.select_option("#brush-size", "3")
    left, right = stage["x"] + 0.6 * stage["width"], stage["x"] + 0.97 * stage["width"]
    for stroke in range(STROKES):
        y = stage["y"] + (stroke + 0.5) / STROKES * stage["height"]
        page.mouse.move(left, y)
        page.mouse.down()
        page.mouse.move(right, y, steps=12)
        page.mouse.up()
        page.wait_for_timeout(100)
        page.wait_for_function(READY)
        shots.append((page.screenshot(clip=clip), SECONDS["stroke"]))
    page.mouse.move(0, 0)
    shots.append((page.screenshot(clip=clip), SECONDS["last"]))

    page.click("#reset")
    page.wait_for_timeout(100)
    page.wait_for_function(READY)
    page.evaluate("document.getElementById('board').scrollIntoView()")
    board = _around(page, "board", "attention")
    clip = {**clip, "x": board["x"], "y": max(0, board["y"])}
    box = page.locator("#explorer .vx-stage").first.bounding_box()
    for x, y in POINTS:
        page.mouse.move(box["x"] + x * box["width"], box["y"] + y * box["height"])
        page.wait_for_timeout(300)
        shots.append((page.screenshot(clip=clip), SECONDS["point"]))
    return shots


def _around(page, *sections: str) -> dict[str, float]:
    """The part of the page that shows these sections."""
    boxes = [page.locator(f"#{section}").bounding_box() for section in sections]
    left, top = min(box["x"] for box in boxes), min(box["y"] for box in boxes)
    right = max(box["x"] + box["width"] for box in boxes)
    bottom = max(box["y"] + box["height"] for box in boxes)
    edge = 10
    return {
        "x": left - edge,
        "y": top - edge,
        "width": right - left + 2 * edge,
        "height": bottom - top + 2 * edge,
    }


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
