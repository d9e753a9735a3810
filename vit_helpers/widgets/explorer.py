"""The attention explorer: point at a patch and see at once where it looks.

The attention of one picture goes to the browser once, as one byte a weight. From then on
`explorer.js` alone answers, so a saved page works just as well as the notebook.
"""

import base64
import io
import zlib
from pathlib import Path

import anywidget
import numpy as np
import traitlets

from .. import plots
from ..errors import CourseError

HERE = Path(__file__).parent
COLOURS = ("viridis", "cividis", "magma")  # all of them survive colour blindness
LONGEST_SIDE = 640  # of the picture, in pixels
LARGEST_MEGABYTES = 32  # of attention, as bytes: more than that a phone cannot hold


class AttentionExplorer(anywidget.AnyWidget):
    """The explorer of one picture; `explore` makes it.

    Attributes:
        weights: One byte a patch, each row relative to its largest patch, compressed by deflate.
            The rows of all layers and heads, (L * H * T, patches), and then the extra maps.
        largest: The largest weight of a patch in each of these rows, as little-endian float32.
        specials: What the special tokens get, (rows, special tokens), as little-endian float32:
            [CLS] may get a hundred times as much as any patch.
        colours: The colour maps, 256 times red, green and blue each.
        poster: The figure that stands where no widget can run.
    """

    _esm = HERE / "explorer.js"
    _css = HERE / "explorer.css"
    # ipywidgets 7 would show itself without the picture for plain pages.
    _ipython_display_ = None

    picture = traitlets.Unicode().tag(sync=True)
    weights = traitlets.Bytes().tag(sync=True)
    largest = traitlets.Bytes().tag(sync=True)
    specials = traitlets.Bytes().tag(sync=True)
    colours = traitlets.Bytes().tag(sync=True)
    spec = traitlets.Dict().tag(sync=True)

    def __init__(self, poster: plots.Plot, **state):
        self.poster = poster
        super().__init__(**state)

    def _repr_mimebundle_(self, **kwargs):
        # Jupyter, Colab and VS Code prefer the widget; a plain page shows the picture.
        data, metadata = super()._repr_mimebundle_(**kwargs)
        picture, words = self.poster._repr_mimebundle_()
        note = "The attention explorer: run this cell in Jupyter and point at a patch. "
        picture["text/plain"] = note + picture["text/plain"]
        return {**data, **picture}, {**metadata, **words}


def explore(picture, attn, grid: tuple[int, int], extra: dict | None = None) -> AttentionExplorer:
    """Explore the attention of one picture by pointing at its patches.

    `attn` has shape (L, H, T, T), layers by heads by tokens, the special tokens first; `grid` comes
    from `attention.grid_size`. `extra` has more maps by name: shape (T, T), where row i belongs to
    token i, or (T,) for a map from [CLS] only. A map whose rows do not sum to one is shown in
    percent of what all patches get. What does not fit is a `CourseError`.
    """
    attn = checked(attn, grid)
    layers, heads, tokens, _ = attn.shape
    special = tokens - grid[0] * grid[1]
    rows, extras = {}, []
    for name, values in (extra or {}).items():
        rows[name], relative = _extra_rows(name, values, tokens, special)
        extras.append({"name": name, "queries": len(rows[name]), "relative": relative})
    packed = np.concatenate([attn.reshape(-1, tokens), *rows.values()])
    weights, largest, specials = as_bytes(packed, special)
    jpeg = io.BytesIO()
    plots.thumbnail(picture, LONGEST_SIDE).save(jpeg, "JPEG", quality=85)
    return AttentionExplorer(
        _poster(picture, attn[-1].mean(axis=0), grid, f"layer {layers - 1}, mean of heads", rows),
        picture=f"data:image/jpeg;base64,{base64.b64encode(jpeg.getvalue()).decode()}",
        weights=weights,
        largest=largest,
        specials=specials,
        colours=b"".join(plots.colour_table(name).tobytes() for name in COLOURS),
        spec={
            "maps": {
                "layers": layers,
                "heads": heads,
                "tokens": tokens,
                "special": special,
                "rows": grid[0],
                "columns": grid[1],
                "extras": extras,
            },
            "colours": COLOURS,
            "opacity": plots.OPACITY,
            # Of one map, and of the second one beside it.
            "start": [{"kind": "mean", "layer": n, "head": 0} for n in (layers - 1, layers // 2)],
            "compare": False,
        },
    )


def as_bytes(rows: np.ndarray, special: int) -> tuple[bytes, bytes, bytes]:
    """Rows of weights (N, T), float32, as `weights`, `largest` and `specials` of the explorer.

    The weight of a patch is off by at most 1/510 of the largest patch in its row.
    """
    patches = rows[:, special:]
    largest = patches.max(axis=1)
    # In float64: 255 divided by the smallest float32 is no float32 any more.
    scale = 255 / np.maximum(largest.astype(np.float64), np.finfo(np.float32).tiny)
    steps = np.rint(patches * scale[:, None]).astype(np.uint8)
    exact, specials = (values.astype("<f4").tobytes() for values in (largest, rows[:, :special]))
    return zlib.compress(steps.tobytes(), level=6), exact, specials


def checked(attn, grid: tuple[int, int]) -> np.ndarray:
    """The attention as a float32 array (L, H, T, T), or a sentence on what is wrong with it."""
    attn = _numbers("attn", attn)
    if attn.ndim != 4 or attn.shape[-1] != attn.shape[-2]:
        raise CourseError(
            f"attn has shape {attn.shape}, but it must be (layers, heads, tokens, tokens): choose "
            "one picture of the batch."
        )
    if attn.shape[-1] <= grid[0] * grid[1]:
        raise CourseError(
            f"{attn.shape[-1]} tokens are too few for [CLS] and a grid of {grid[0]} x {grid[1]} "
            "patches: use attention.grid_size(model) of the model that made them."
        )
    megabytes = attn.size / 1e6
    if megabytes > LARGEST_MEGABYTES:
        raise CourseError(
            f"This attention would take {megabytes:.0f} MB in the browser, but "
            f"{LARGEST_MEGABYTES} MB is the most: leave layers out, for example attn[::2]."
        )
    return attn


def _extra_rows(name: str, values, tokens: int, special: int) -> tuple[np.ndarray, bool]:
    """An extra map as rows (queries, T), and whether they are shares of what all patches get."""
    values = np.atleast_2d(_numbers(repr(name), values))
    if values.shape not in ((tokens, tokens), (1, tokens)):
        raise CourseError(
            f"{name!r} has shape {values.shape}, but it must be ({tokens}, {tokens}) or "
            f"({tokens},) to fit the attention: choose one picture of the batch."
        )
    if np.allclose(values.sum(axis=1), 1, atol=1e-3):
        return values, False
    # Scores without a unit: the special tokens have no place in the picture, so they go.
    values = np.where(np.arange(tokens) < special, 0, values)
    return values / np.maximum(values.sum(axis=1, keepdims=True), 1e-12), True


def _numbers(name: str, values) -> np.ndarray:
    if hasattr(values, "detach"):
        values = values.detach().float().cpu().numpy()  # NumPy has no bf16
    values = np.asarray(values, dtype=np.float32)
    if not np.isfinite(values).all() or (values < 0).any():
        raise CourseError(f"{name} has weights below zero or that are no numbers: show others.")
    return values


def _poster(picture, attn, grid, name: str, extra: dict) -> plots.Plot:
    """What the explorer shows from [CLS] and from a patch of one map (T, T), as a figure."""
    rows, columns = grid
    special, row, column = len(attn) - rows * columns, rows // 2, columns // 2
    asked = {
        f"{name}\nfrom [CLS]": attn[0],
        f"{name}\nfrom the patch in row {row + 1}, column {column + 1}": (
            attn[special + row * columns + column]
        ),
    }
    for other, values in list(extra.items())[:1]:  # three maps are enough to see what it is
        asked[f"{other}\nfrom [CLS]"] = values[0]
    maps = {words: values[special:].reshape(grid) for words, values in asked.items()}
    plot = plots.attention_grid(picture, maps, "Attention explorer", columns=3)
    return plots.finish(plot, plot.alt.replace("\n", ", "))
