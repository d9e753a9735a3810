"""What the tests with a browser share: an opened page, and the explorer as a user has it."""

import contextlib
import json
import re

import numpy as np
import pytest

from course import runner

SCREENSHOTS = runner.BUILD / "screenshots"
FRAME_MS = 16  # of a screen with 60 frames a second
SMALLEST_TEXT = 14  # pixels
# What is drawn small on purpose: indices in formulas, and the numbers on the explorer's picture,
# which its list repeats.
SMALL_TEXT = """() => {
  const found = [];
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  for (let node; (node = walker.nextNode()); ) {
    const parent = node.parentElement;
    if (!node.data.trim() || parent.closest("math, sup, sub, script, style, .vx-stage")) continue;
    if (!parent.checkVisibility({ visibilityProperty: true })) continue;
    const size = parseFloat(getComputedStyle(parent).fontSize);
    if (size < SMALLEST) found.push(`${size} px: ${node.data.trim().slice(0, 40)}`);
  }
  return found;
}""".replace("SMALLEST", str(SMALLEST_TEXT))


@contextlib.contextmanager
def opened(chromium, url, allowed=("file:",), known=None, **kwargs):
    """A page that may load from `allowed` only. No error may be on its console at the end.

    But for `known`, an error of the application that is there without the course, too.
    """
    context = chromium.new_context(**{"viewport": {"width": 1280, "height": 900}, **kwargs})
    context.set_default_timeout(15_000)
    page = context.new_page()
    wrong = []

    def check(route):
        if route.request.url.startswith((*allowed, "data:", "blob:")):
            return route.continue_()
        wrong.append(f"outside: {route.request.url}")
        return route.abort()

    page.route("**/*", check)
    page.on("pageerror", lambda error: wrong.append(f"error: {error}"))
    page.on("console", lambda m: m.type == "error" and wrong.append(f"console: {m.text}"))
    page.goto(url)
    yield page
    context.close()
    assert [w for w in wrong if known is None or known not in w] == []


class Explorer:
    """What a user sees of the explorer, and does with it."""

    def __init__(self, page):
        self.page = page
        self.root = page.locator(".vx-root")
        self.root.wait_for(timeout=120_000)
        self.root.scroll_into_view_if_needed()
        self.settle()

    def settle(self):
        """Wait until what was asked for is painted."""
        self.page.evaluate(
            "() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))"
        )

    def panel(self, i=0):
        return self.root.locator(".vx-panel").nth(i)

    def title(self, i=0):
        self.settle()
        return " ".join(self.panel(i).locator(".vx-title").inner_text().split())

    def strongest(self, i=0):
        """The list of strongest patches: `[((row, column), percent), ...]`, counted from 0."""
        self.settle()
        found = []
        for line in self.panel(i).locator(".vx-list li:visible").all():
            row, column, share = re.search(
                r"row (\d+), column (\d+)\s+(< 0.1|[\d.]+) %", line.inner_text()
            ).groups()
            share = 0.05 if share == "< 0.1" else float(share)
            found.append(((int(row) - 1, int(column) - 1), share))
        return found

    def place(self, row, column, i=0):
        """The middle of a patch on the screen."""
        box = self.panel(i).locator(".vx-stage").bounding_box()
        return (
            box["x"] + (column + 0.5) * box["width"] / 14,
            box["y"] + (row + 0.5) * box["height"] / 14,
        )

    def hover(self, row, column, i=0):
        self.page.mouse.move(*self.place(row, column, i))

    def choose(self, label, value, i=None):
        where = self.root.locator(".vx-toolbar") if i is None else self.panel(i)
        where.get_by_label(label, exact=True).select_option(label=value)

    def slide(self, label, keys, i=0):
        slider = self.panel(i).get_by_label(label, exact=True)
        slider.focus()
        for key in keys:
            slider.press(key)

    def colour(self, row, column, i=0):
        """Red, green and blue of a patch in the map, which has one pixel a patch."""
        canvas = self.panel(i).locator(".vx-canvas")
        pixel = "(canvas, [x, y]) => [...canvas.getContext('2d').getImageData(x, y, 1, 1).data]"
        return canvas.evaluate(pixel, [column, row])[:3]

    def picture(self, name):
        self.settle()
        self.root.screenshot(path=SCREENSHOTS / f"{name}.png")


def same_order(found, row):
    """Whether the list names the largest weights of a row (T,), with their percents."""
    patches = row[1:].reshape(14, 14).astype(float)
    byte = patches.max() / 510  # how far off a weight may be
    step = 100 * byte + 0.05 + 1e-6  # and 0.05 for the rounding to 0.1 %
    for (place, share), expected in zip(found, np.sort(patches, axis=None)[::-1], strict=False):
        assert share == pytest.approx(100 * patches[place], abs=step)
        assert share == pytest.approx(100 * expected, abs=2 * step)
    # Fewer than five only where the others get next to nothing.
    assert len(found) == min(5, (patches > byte).sum())


def ms_from_move_to_picture(chromium, page, tmp_path, moves=120):
    """How long each move takes until its frame is drawn, in milliseconds: (moves,).

    It begins when Chromium hands the move to the page, and ends when the compositor has drawn
    the frame with the answer. Chromium keeps a move back until the next tick of the screen's
    clock; this wait, half a tick on average, is not the page's and not counted.
    """
    trace = tmp_path / "trace.json"
    chromium.start_tracing(
        page=page.page, path=trace, categories=["devtools.timeline", "cc", "viz"]
    )
    for i in range(moves):
        page.hover(i % 14, (5 * i) % 14)
    page.settle()
    chromium.stop_tracing()
    events = [e for e in json.loads(trace.read_text())["traceEvents"] if e.get("ph") == "X"]
    at = {name: [e for e in events if e["name"] == name] for name in {e["name"] for e in events}}
    frames = [(e["ts"], e["ts"] + e["dur"]) for e in at["ProxyMain::BeginMainFrame"]]
    drawn = np.sort([e["ts"] + e["dur"] for e in at["Display::DrawAndSwap"]])
    took = []
    for event in at["EventDispatch"]:
        if event["args"].get("data", {}).get("type") == "pointermove":
            start = event["ts"]
            ends = [end for begin, end in frames if begin <= start <= end]
            took += list(drawn[drawn >= max(ends, default=start)][:1] - start)
    assert len(took) >= 0.9 * moves
    return np.array(took) / 1000


def best_p95(chromium, page, tmp_path):
    # The best of three rounds: other programs on the machine only make it slower.
    rounds = [ms_from_move_to_picture(chromium, page, tmp_path) for _ in range(3)]
    return min(float(np.percentile(took, 95)) for took in rounds)
