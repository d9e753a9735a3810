"""Figures of notebook 03: maps over photographs, heads and layers, what a map is worth."""

import numpy as np
from matplotlib.colors import ListedColormap
from matplotlib.ticker import FormatStrFormatter, LogLocator, NullFormatter
from PIL import Image, ImageEnhance

from .colours import BLACK, BLUE, ORANGE, PALETTE, RED, SKY, colour_table
from .shared import Plot, as_numpy, finish, new_grid, new_plot, show, thumbnail

MOST_OPAQUE = 0.9  # of a map over its photograph, where its weight is largest
# viridis without its dark end, which would turn a photograph purple where the weight is small.
COLOURS = ListedColormap(colour_table("viridis")[90:] / 255, name="viridis from teal")
DETAIL = 96  # pixels of a photograph on an inch of a figure: more would make notebooks too large


def _overlay(ax, picture, grid_map, vmax: float, title: str, fontsize: int = 9):
    """Draw a map over the whole photograph; returns what a colour bar needs."""
    small = Image.fromarray(as_numpy(grid_map).astype(np.float32))
    large = np.asarray(small.resize(picture.size, Image.Resampling.BILINEAR))
    # Both get the same extent: without it, a map of 14 x 14 cells would land in a corner.
    extent = (0, picture.width, picture.height, 0)
    muted = ImageEnhance.Color(picture).enhance(0.35)  # so that the colours of the map stand out
    show(ax, muted, title, fontsize, extent=extent)
    opacity = MOST_OPAQUE * np.clip(large / vmax, 0, 1) ** 0.7
    return ax.imshow(large, cmap=COLOURS, vmin=0, vmax=vmax, alpha=opacity, extent=extent)


def _place(grid_map) -> str:
    """Where the largest weight of a map lies, in words: `row 3 of 14, column 5 of 14`."""
    rows, columns = grid_map.shape
    row, column = divmod(int(np.argmax(grid_map)), columns)
    return f"row {row + 1} of {rows}, column {column + 1} of {columns}"


def attention_map(picture, grid_map, title: str = "") -> Plot:
    """Picture, attention map and overlay side by side on one colour scale with its bar.

    `grid_map` has shape (rows, columns): weights of attention on the patches, 0..1.
    """
    percents = 100 * as_numpy(grid_map)
    rows, columns = percents.shape
    picture = thumbnail(picture, round(2.6 * DETAIL))
    height = min(4.0, 2.5 * picture.height / picture.width) + 0.7
    plot, axes = new_plot(1, 3, size=(9, height))
    extent = (0, picture.width, picture.height, 0)
    scale = {"cmap": COLOURS, "vmin": 0, "vmax": percents.max(), "extent": extent}
    show(axes[0], picture, "picture", extent=extent)
    shown = show(axes[1], percents, f"attention on {rows} x {columns} patches", **scale)
    _overlay(axes[2], picture, percents, percents.max() or 1.0, "laid over the picture", 10)
    plot.colorbar(shown, ax=axes, label="attention of [CLS] in %", shrink=0.9, pad=0.01)
    plot.suptitle(title, fontsize=11)
    return finish(
        plot,
        f"{title}: the picture, the attention map of {rows} by {columns} patches, and the map "
        f"laid over the whole picture. The largest weight, {percents.max():.1f} %, is in "
        f"{_place(percents)}; all patches together get {percents.sum():.0f} %.",
    )


def attention_grid(picture, maps: dict, title: str = "", columns: int = 4) -> Plot:
    """Attention maps over the same picture, each scaled to its own largest weight.

    `maps` gives a map of shape (rows, columns), weights 0..1, for each title.
    """
    columns = min(columns, len(maps))
    width = min(2.6, 8.3 / columns)
    picture = thumbnail(picture, round(DETAIL * width))
    height = min(1.4 * width, width * picture.height / picture.width)
    plot, axes = new_grid(len(maps), columns, width, height + 0.5, more=(0.7, 0.3))
    words = []
    for ax, (name, grid_map) in zip(axes.flat, maps.items(), strict=False):
        weights = as_numpy(grid_map)
        largest = weights.max()
        heading = f"{name}\nlargest {100 * largest:.1f} %"
        shown = _overlay(ax, picture, weights / (largest or 1.0), 1.0, heading)
        words.append(f"{name} {100 * largest:.1f} % in {_place(weights)}")
    _share_bar(plot, shown, axes)
    plot.suptitle(title, fontsize=11)
    return finish(
        plot,
        f"{title}: {len(maps)} maps over the picture. Largest weights: {'; '.join(words)}.",
    )


def _share_bar(plot, shown, axes) -> None:
    bar = plot.colorbar(shown, ax=axes, shrink=0.8, pad=0.02, aspect=30, ticks=(0, 0.5, 1))
    # One row of maps is lower than the long label.
    label = "share of the map's largest weight" if len(axes) > 1 else "share of\nits largest"
    bar.set_label(label)


def _table(pictures, columns: int, widest: float, total: float, text: float, more: float = 0.0):
    """Axes for a row a picture: the picture is drawn in the first column.

    Returns `(plot, axes, pictures in the size in which they are drawn)`.
    """
    width = min(widest, total / (columns + 1))
    heights = [min(1.3, picture.height / picture.width) for picture in pictures]
    size = (width * (columns + 1) + more, width * sum(heights) + text * len(heights) + 0.3)
    plot, axes = new_plot(
        len(pictures), columns + 1, size=size, squeeze=False, height_ratios=heights
    )
    small = [thumbnail(picture, round(DETAIL * width)) for picture in pictures]
    for ax, picture in zip(axes[:, 0], small, strict=True):
        show(ax, picture)
    return plot, axes, small


def map_table(pictures, columns: dict, titles=None) -> Plot:
    """Several pictures, one a row, each with the same kinds of maps, one a column.

    `columns` gives maps of shape (pictures, rows, columns) for each name; each map is scaled to its
    own largest weight. `titles` has a text above each map, by picture and then by column.
    """
    text = 0.25 if titles is None else 0.5
    plot, axes, pictures = _table(list(pictures), len(columns), 1.9, 8.2, text, more=0.8)
    words = []
    for i, picture in enumerate(pictures):
        for j, (name, maps) in enumerate(columns.items()):
            weights = as_numpy(maps[i])
            title = name if titles is None else titles[i][j]
            above = title if titles is not None or i == 0 else ""
            shown = _overlay(axes[i, j + 1], picture, weights / (weights.max() or 1.0), 1.0, above)
            words.append(f"picture {i + 1}, {title}: {_place(weights)}")
    _share_bar(plot, shown, axes)
    return finish(
        plot,
        f"{len(pictures)} pictures with {len(columns)} maps each. The largest weight lies in: "
        f"{'; '.join(words)}.".replace("\n", " "),
    )


def feature_colours(pictures, columns: dict) -> Plot:
    """Several pictures, one a row, and beside each its patches as colours, one column a layer.

    `columns` gives colours of shape (pictures, rows, columns, 3), 0 to 1, for each name.
    """
    plot, axes, pictures = _table(list(pictures), len(columns), 2.2, 8.8, 0.2)
    for i, picture in enumerate(pictures):
        for j, (name, colours) in enumerate(columns.items()):
            extent = (0, picture.width, picture.height, 0)
            show(axes[i, j + 1], as_numpy(colours[i]), name if i == 0 else "", extent=extent)
    return finish(
        plot,
        f"{len(pictures)} pictures, and beside each its patches in {len(columns)} columns "
        f"({', '.join(columns)}): patches with similar vectors have similar colours.",
    )


def sink_heads(to_cls, to_patch) -> Plot:
    """Which heads give most of their weight to one token: [CLS], or a single patch.

    Both have shape (layers, heads): the share that [CLS] gets, 0 to 1, and the share of the patch
    that gets most.
    """
    parts = {"[CLS]": 100 * as_numpy(to_cls), "one single patch": 100 * as_numpy(to_patch)}
    layers, heads = to_cls.shape
    plot, axes = new_plot(1, 2, size=(9, 3.9), frame=True, sharey=True)
    for ax, (name, percents) in zip(axes, parts.items(), strict=True):
        shown = ax.imshow(percents, cmap="viridis", vmin=0, vmax=100)
        ax.set_title(f"weight that goes to {name}", fontsize=10)
        ax.set(xlabel="head", xticks=range(heads), yticks=range(layers))
    axes[0].set_ylabel("layer")
    plot.colorbar(shown, ax=axes, label="% of the head's attention", pad=0.02)
    counts = {name: int((percents > 50).sum()) for name, percents in parts.items()}
    words = " and ".join(f"{count} to {name}" for name, count in counts.items())
    return finish(
        plot,
        f"Two tables of {layers} layers by {heads} heads. Heads that give more than half of their "
        f"attention to one token: {words}.",
    )


def attention_by_layer(distance, bits, sinks, *, even_distance: float, even_bits: float) -> Plot:
    """Mean attention distance and entropy of every head, layer by layer.

    `distance` (pixels; NaN where a head has none), `bits` and `sinks` (heads that give most to one
    token, drawn hollow) have shape (layers, heads); the others are for evenly spread attention.
    """
    distance, bits, sinks = as_numpy(distance), as_numpy(bits), as_numpy(sinks).astype(bool)
    plot, axes = new_plot(1, 2, size=(9, 3.7))
    parts = (
        (axes[0], distance, "mean attention distance in pixels", even_distance),
        (axes[1], bits, "entropy in bits", even_bits),
    )
    for ax, value, label, even in parts:
        layers = np.arange(len(value))
        x = layers[:, None] + np.linspace(-0.3, 0.3, value.shape[1])  # side by side, by head
        ax.plot(x[~sinks], value[~sinks], "o", color=BLUE, alpha=0.6, ms=5, label="a head")
        if np.isfinite(value[sinks]).any():
            style = {"color": ORANGE, "mfc": "none", "ms": 5, "label": "gives most to one token"}
            ax.plot(x[sinks], value[sinks], "o", **style)
            for layer in np.flatnonzero(sinks.any(axis=1)):
                at = (x[layer][sinks[layer]].max() + 0.2, value[layer][sinks[layer]].mean())
                ax.text(*at, f"{sinks[layer].sum()}", fontsize=9, va="center")
        rest = np.where(sinks, np.nan, value)
        some = np.isfinite(rest).any(axis=1)
        for layer in layers[~some & ~np.isfinite(value).any(axis=1)]:
            at = (layer, 0.5 * even)
            ax.text(*at, "all heads are sinks", fontsize=9, rotation=90, ha="center", va="center")
        means = [np.nanmean(line) for line in rest[some]]
        ax.plot(layers[some], means, "-", color=RED, label="mean of the full dots")
        ax.axhline(even, color=BLACK, linestyle="--", linewidth=1, label="spread evenly")
        ax.set(xlabel="layer", ylabel=label, xticks=layers, xlim=(-0.6, len(layers) - 0.4))
        ax.set_ylim(-0.02 * even, 1.12 * max(even, np.nanmax(value)))
    handles, names = axes[1].get_legend_handles_labels()
    plot.legend(handles, names, loc="outside upper center", ncols=4, fontsize=9, frameon=False)
    near, far = np.nanmin(distance), np.nanmax(distance)
    where = [f"{n} in layer {layer}" for layer, n in enumerate(sinks.sum(axis=1)) if n]
    return finish(
        plot,
        f"Each dot is a head. Left, the mean attention distance of {int((~sinks).sum())} heads, "
        f"from {near:.0f} to {far:.0f} pixels; spread evenly it would be {even_distance:.0f}. "
        f"Right, the entropy of all heads; at most {even_bits:.1f} bits are possible, and the "
        f"{int(sinks.sum())} hollow ones give most of their weight to one token: "
        f"{', '.join(where) or 'there are none'}.",
    )


def token_sinks(norms, received, special: int = 1) -> Plot:
    """How long the vectors of the tokens are, and which tokens get the attention, by layer.

    `norms` (layers + 1, tokens) are the lengths before the first layer and after each one,
    `received` (layers, tokens) each layer's attention, shared out. The `special` tokens come before
    the patches; the first is [CLS].
    """
    norms, percents = as_numpy(norms), 100 * as_numpy(received)
    plot, (left, right) = new_plot(1, 2, size=(9, 3.6))
    of_cls = {"color": RED, "ms": 4, "label": "[CLS]"}
    patches, steps = norms[:, special:], np.arange(len(norms))
    median, longest = np.median(patches, axis=1), patches.max(axis=1)
    left.fill_between(steps, patches.min(axis=1), longest, color=SKY, alpha=0.5)
    left.plot(steps, median, "o-", color=BLUE, ms=4, label="patches: median, and range")
    left.plot(steps, norms[:, 0], "s-", **of_cls)
    left.set(yscale="log", xlabel="after how many layers", ylabel="length of the token's vector")
    layers, even = np.arange(len(percents)), 100 / percents.shape[1]
    most = percents[:, special:].max(axis=1)
    right.plot(layers, percents[:, 0], "s-", **of_cls)
    right.plot(layers, most, "o-", color=BLUE, ms=4, label="the patch that gets most")
    right.axhline(even, color=BLACK, linestyle="--", linewidth=1, label="the even share")
    right.set(yscale="log", xlabel="layer", ylabel="share of the layer's attention in %")
    for ax, ticks in ((left, steps), (right, layers)):
        ax.set_xticks(ticks)
        ax.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5), numticks=12))
        ax.yaxis.set_major_formatter(FormatStrFormatter("%g"))
        ax.yaxis.set_minor_formatter(NullFormatter())
        ax.legend(fontsize=9)
    top = int(percents[:, 0].argmax())
    return finish(
        plot,
        f"Left, lengths by layer: after the last one the median patch has {median[-1]:.0f}, the "
        f"longest {longest[-1]:.0f}, [CLS] {norms[-1, 0]:.0f}. Right, the share of attention that "
        f"tokens get: [CLS] at most {percents[top, 0]:.0f} % (layer {top}), a single patch at most "
        f"{most.max():.1f} % (layer {int(most.argmax())}); the even share is {even:.1f} %.",
    )


def logit_lens(shares, names: list[str]) -> Plot:
    """How probable the final answer already is after every block.

    `shares` has shape (pictures, layers + 1), 0 to 1; `names` the final answer of each picture.
    """
    percents = 100 * as_numpy(shares)
    plot, ax = new_plot(size=(8, 3.6))
    for i, (line, name) in enumerate(zip(percents, names, strict=True)):
        style = ("o-", "s--", "^-.", "D:", "v-", "P--", "X-.", "*:")[i % 8]
        ax.plot(line, style, color=PALETTE[i % len(PALETTE)], markersize=5, label=name)
    ax.set(xticks=range(percents.shape[1]), ylim=(0, 103))
    ax.set_xlabel("after how many blocks the head is asked")
    ax.set_ylabel("probability of the final answer in %")
    ax.legend(fontsize=9, title="final answer", loc="center left", bbox_to_anchor=(1, 0.5))
    half = percents.shape[1] // 2
    words = "; ".join(
        f"{name} {line[half]:.0f} % after {half} blocks, {line[-1]:.0f} % at the end"
        for name, line in zip(names, percents, strict=True)
    )
    return finish(plot, f"Lines of the probability of the final answer, block by block: {words}.")


def faithfulness(measured: dict, table) -> Plot:
    """Deletion and insertion curves of several methods, and how far each beats a random map.

    `measured` is `{"deletion": {name: (N, steps + 1)}, "insertion": {...}}`, probabilities;
    `table` comes from `attention.faithfulness`.
    """
    plot, axes = new_plot(2, 2, size=(9, 6.6))
    texts = (("deletion", "hidden", "lower is better"), ("insertion", "shown", "higher is better"))
    for ax, (kind, verb, better) in zip(axes[0], texts, strict=True):
        for i, (name, curve) in enumerate(measured[kind].items()):
            mean = 100 * as_numpy(curve).mean(axis=0)
            blind = {"random": ("0.55", ":"), "centre": (BLACK, "--")}  # they know no model
            colour, line = blind.get(name, (PALETTE[i], "-"))
            style = {"color": colour, "linestyle": line, "marker": "osDv^P*X"[i % 8]}
            ax.plot(np.linspace(0, 100, len(mean)), mean, markersize=4, label=name, **style)
        ax.set_xlabel(f"patches {verb} in %, the most important first")
        ax.set_ylabel("mean probability in %")
        ax.set_title(f"{kind}: {better}", fontsize=10)
        ax.set_ylim(bottom=0)
    axes[0, 1].legend(fontsize=9, loc="lower right")  # all curves are high there
    words = []
    for ax, reference in zip(axes[1], ("random", "centre"), strict=True):
        rows = table.drop(index=reference)
        gain, half = rows[f"over {reference}"], rows[f"over {reference} ±"]
        y = np.arange(len(rows))
        ax.errorbar(gain, y, xerr=half, fmt="o", color=BLACK, capsize=3, markersize=5)
        ax.axvline(0, color="0.55", linestyle="--")
        ax.set_yticks(y, list(rows.index))
        ax.set(
            ylim=(len(rows) - 0.5, -0.5), xlabel="gain in insertion - deletion, with its interval"
        )
        ax.set_title(f"against {reference}: right of 0 is better", fontsize=10)
        words += [
            f"{name} {g:+.2f} ± {h:.2f} over {reference}"
            for name, g, h in zip(rows.index, gain, half, strict=True)
        ]
    return finish(
        plot,
        "Curves of the mean probability while patches are hidden, and while they are shown, for "
        f"{len(table)} orders of the patches. Below, the gain of each: {', '.join(words)}.",
    )
