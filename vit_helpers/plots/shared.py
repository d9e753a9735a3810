"""What every figure of the course shares: words, grids of pictures, small helpers."""

import base64
import functools
import io
import unicodedata

import numpy as np
from matplotlib import font_manager
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text
from PIL import Image

from .. import images
from ..errors import CourseError, whole_number
from .colours import BLACK, RED, SKY

DPI = 144
CSS_DPI = 96  # a browser's: the figure is shown as large as it says, in twice the detail


class Plot(Figure):
    """A matplotlib `Figure` with words: `alt` says what it shows.

    It is not registered in pyplot, so it appears once: where it is the last line of a cell or is
    given to `display`.
    """

    alt: str = ""

    def _repr_mimebundle_(self, include=None, exclude=None):
        png = self.png()
        width = Image.open(io.BytesIO(png)).width * CSS_DPI // DPI
        data = {"image/png": base64.b64encode(png).decode(), "text/plain": self.alt}
        return data, {"image/png": {"alt": self.alt, "width": width}}

    def png(self) -> bytes:
        """The figure as a PNG file.

        Colours are rounded to 64 steps a channel: no eye sees it, and photographs take half.
        """
        buffer, smaller = io.BytesIO(), io.BytesIO()
        self.savefig(buffer, format="png", dpi=DPI, bbox_inches="tight")
        steps = [min(255, 4 * round(value / 4)) for value in range(256)]
        rounded = Image.open(buffer).convert("RGB").point(steps * 3)
        rounded.save(smaller, format="png", optimize=True)
        return smaller.getvalue()


def new_plot(rows: int = 1, columns: int = 1, size=(6.0, 4.0), frame: bool = False, **kwargs):
    """Make an empty `Plot`. Returns `(plot, axes)` like `plt.subplots(rows, columns)`.

    Without `frame`, the axes have lines on their left and below only.
    """
    plot = Plot(figsize=size, layout="constrained")
    FigureCanvasAgg(plot)
    axes = plot.subplots(rows, columns, **kwargs)
    for ax in plot.axes:
        ax.spines[["top", "right"]].set_visible(frame)
    return plot, axes


def finish(plot: Plot, alt: str) -> Plot:
    """Give a plot its sentence in words and return it; its words are made fit to be drawn."""
    for text in plot.findobj(Text):
        text.set_text(drawable(text.get_text(), longest=80))
        text.set_fontfamily(_families())
    for ax in plot.axes:
        for axis in (ax.xaxis, ax.yaxis):
            # Names that `set_yticks(rows, names)` gave are kept in a dictionary by position.
            keeps = getattr(getattr(axis.get_major_formatter(), "func", None), "args", ())
            if keeps and isinstance(keeps[0], dict):
                keeps[0].update({at: drawable(name) for at, name in keeps[0].items()})
            for label in axis.get_ticklabels():
                label.set_fontfamily(_families())
    plot.alt = alt
    return plot


@functools.cache
def _families() -> list[str]:
    """matplotlib's own font, then one with the letters of East Asia if one is here."""
    here = font_manager.get_font_names()
    wanted = ("Noto Sans CJK SC", "Microsoft YaHei", "PingFang SC", "Malgun Gothic")
    return ["DejaVu Sans", *[name for name in wanted if name in here][:1]]


@functools.cache
def _letters() -> frozenset[int]:
    """The characters that there is a glyph for."""
    fonts = (font_manager.get_font(font_manager.findfont(name)) for name in _families())
    return frozenset().union(*(font.get_charmap() for font in fonts))


def drawable(text, longest: int = 32) -> str:
    """A text as matplotlib can draw it: no formula, not too long, a box for unknown letters."""
    shown = []
    for letter in str(text):
        if letter == "\n":
            shown.append(letter)
        # matplotlib would draw what runs from right to left in the wrong order
        elif ord(letter) in _letters() and unicodedata.bidirectional(letter) not in ("R", "AL"):
            shown.append(letter if letter.isprintable() else " ")
        elif unicodedata.category(letter)[0] not in "MC" and shown[-1:] != ["□"]:
            shown.append("□")
    lines = "".join(shown).split("\n")
    lines = [line if len(line) <= longest else line[: longest - 1] + "…" for line in lines]
    words = "\n".join(lines).replace("\\$", "$").replace("$", "\\$")
    return f" {words}" if words.startswith("_") else words  # a legend leaves out what begins so


def show(ax, picture, title: str = "", fontsize: int = 10, **kwargs):
    """Draw a PIL picture, an array or a tensor (3, H, W) with values 0..1 in axes of its own."""
    if hasattr(picture, "permute"):
        picture = picture.detach().cpu().permute(1, 2, 0).numpy()
    ax.set_title(title, fontsize=fontsize)
    ax.axis("off")
    return ax.imshow(np.asarray(picture), **kwargs)


def new_grid(count: int, columns: int, width: float, height: float, more=(0.0, 0.0)):
    """Axes for pictures in rows, each so many inches large, and `more` around. As `new_plot`."""
    columns = min(columns, count)
    rows = -(-count // columns)
    size = (width * columns + more[0], height * rows + more[1])
    plot, axes = new_plot(rows, columns, size=size, squeeze=False)
    for ax in axes.flat:
        ax.axis("off")
    return plot, axes


def image_grid(
    pictures, titles=None, columns: int = 5, title: str = "", alt: str = "", width: float = 1.5
) -> Plot:
    """Pictures side by side in rows, each `width` inches wide.

    Pictures are PIL's or tensors (3, H, W) with values 0..1. `titles` has a text above each,
    `title` one above all. `alt` describes the figure in words; by default it lists the titles.
    """
    pictures = list(pictures)
    if not pictures:
        raise CourseError("There are no pictures to show: give at least one.")
    columns, height = whole_number("columns", columns, least=1), width + 0.25 * bool(titles)
    plot, axes = new_grid(len(pictures), columns, width, height, more=(0, 0.3 * bool(title)))
    for i, (ax, picture) in enumerate(zip(axes.flat, pictures, strict=False)):
        show(ax, picture, titles[i] if titles else "")
    if title:
        plot.suptitle(title, fontsize=11)
    words = [f"{len(pictures)} pictures in {len(axes)} row{'s' * (len(axes) > 1)}.", title]
    words.append("; ".join(map(str, titles or [])).replace("\n", " "))
    return finish(plot, alt or " ".join(filter(None, words)))


def thumbnail(picture, longest: int):
    """A smaller copy of a PIL picture, so that a figure with many of them stays small."""
    small = images.to_rgb(picture)
    small.thumbnail((longest, longest))
    return small


def percent(share: float) -> str:
    """A share from 0 to 1 in words: `12.3 %`, or `below 0.1 %` where rounding would give zero."""
    return f"{100 * share:.1f} %" if share == 0 or share >= 0.0005 else "below 0.1 %"


def as_numpy(values) -> np.ndarray:
    """A tensor or array as an array on the CPU."""
    if hasattr(values, "detach"):
        values = values.detach().cpu()
    return np.asarray(values, dtype=float)


def nothing(words: str):
    """A figure that says that there is nothing to show."""
    plot, ax = new_plot(size=(4, 0.6))
    ax.axis("off")
    ax.text(0.5, 0.5, words, ha="center", va="center")
    return finish(plot, words)


def interval_bars(shares: dict, chance: float | None = None, label: str = "accuracy in %") -> Plot:
    """Accuracies side by side, each with its interval.

    `shares` gives `(accuracy, low, high)`, 0 to 1, for each name; `chance` is the accuracy of blind
    guessing, drawn as a line.
    """
    plot, ax = new_plot(size=(7.5, 0.42 * len(shares) + 0.9 + 0.2 * (chance is not None)))
    values = 100 * np.array(list(shares.values()))
    rows = np.arange(len(values))
    ax.barh(rows, values[:, 0], color=SKY, height=0.7)
    ax.hlines(rows, values[:, 1], values[:, 2], color=BLACK, linewidth=2)
    for row, (value, _, high) in zip(rows, values, strict=True):
        ax.text(high + 1.5, row, f"{value:.1f} %", va="center", fontsize=10)
    if chance is not None:
        ax.axvline(100 * chance, color=RED, linestyle="--")
        words = f" chance {100 * chance:.0f} %"
        ax.text(100 * chance, -0.65, words, color=RED, va="bottom", fontsize=10)
    ax.set_yticks(rows, list(shares), fontsize=10)
    ax.set(ylim=(len(rows) - 0.5, -0.6), xlim=(0, 112), xticks=range(0, 101, 20), xlabel=label)
    words = ", ".join(f"{n} {v[0]:.1f} %" for n, v in zip(shares, values, strict=True))
    return finish(plot, f"Bars with 95 % intervals: {words}.")
