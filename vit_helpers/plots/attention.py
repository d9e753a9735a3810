"""Figures of notebook 03: attention maps, heads layer by layer, faithfulness."""

import numpy as np
from matplotlib.ticker import FormatStrFormatter, LogLocator, NullFormatter

from .shared import (
    BLACK,
    BLUE,
    OPACITY,
    PALETTE,
    RED,
    SKY,
    Plot,
    as_array,
    as_numpy,
    finish,
    new_plot,
    place,
    thumbnail,
)


def _overlay(ax, picture, grid_map, vmax: float):
    """Draw a map over the whole picture in grey. Returns what a colour bar needs."""
    import torch

    from .. import attention

    large = attention.upsample(torch.as_tensor(grid_map), (picture.height, picture.width))
    # Both get the same extent: without it, a map of 14 x 14 cells would land in a corner.
    extent = (0, picture.width, picture.height, 0)
    ax.imshow(np.asarray(picture.convert("L")), cmap="gray", extent=extent)
    return ax.imshow(large.numpy(), cmap="viridis", vmin=0, vmax=vmax, alpha=OPACITY, extent=extent)


def attention_map(picture, grid_map, title: str = "") -> Plot:
    """Picture, attention map and overlay side by side on one colour scale with its bar.

    Args:
        picture: The PIL picture.
        grid_map: Shape (rows, columns), weights of attention on the patches, 0..1.
        title: Text above all, for example which layer and head.
    """
    percents = 100 * as_numpy(grid_map)
    picture = thumbnail(picture, 320)
    plot, axes = new_plot(1, 3, size=(10, 3 * picture.height / picture.width + 0.7))
    extent = (0, picture.width, picture.height, 0)
    axes[0].imshow(as_array(picture), extent=extent)
    scale = {"cmap": "viridis", "vmin": 0, "vmax": percents.max()}
    shown = axes[1].imshow(percents, extent=extent, **scale)
    _overlay(axes[2], picture, percents, percents.max())
    rows, columns = percents.shape
    titles = ("picture", f"attention on {rows} x {columns} patches", "laid over the picture")
    for ax, text in zip(axes, titles, strict=True):
        ax.set_title(text, fontsize=10)
        ax.axis("off")
    plot.colorbar(shown, ax=axes, label="attention of [CLS] in %", shrink=0.9, pad=0.01)
    plot.suptitle(title, fontsize=11)
    return finish(
        plot,
        f"{title}: the picture, the attention map of {rows} by {columns} patches, and the map "
        f"laid over the whole picture. The largest weight, {percents.max():.1f} %, is in "
        f"{place(percents)}; all patches together get {percents.sum():.0f} %.",
    )


def attention_grid(picture, maps: dict, title: str = "", columns: int = 4) -> Plot:
    """Many attention maps over the same picture, each scaled to its own largest weight.

    Args:
        picture: The PIL picture.
        maps: Title -> map of shape (rows, columns), weights 0..1. The largest weight of each is
            written beside its title, because the colours do not show it.
        title: Text above all.
        columns: Maps in a row.
    """
    picture = thumbnail(picture, 200)
    columns = min(columns, len(maps))
    rows = -(-len(maps) // columns)
    width = 2.3 if len(maps) <= 8 else 2.0
    size = (width * columns + 0.9, (width * picture.height / picture.width + 0.5) * rows + 0.3)
    plot, axes = new_plot(rows, columns, size=size, squeeze=False)
    for ax in axes.flat:
        ax.axis("off")
    words = []
    for ax, (name, grid_map) in zip(axes.flat, maps.items(), strict=False):
        weights = as_numpy(grid_map)
        largest = weights.max() or 1.0  # a map of zeros stays one
        shown = _overlay(ax, picture, weights / largest, 1.0)
        ax.set_title(f"{name}\nlargest {100 * weights.max():.1f} %", fontsize=9)
        words.append(f"{name} {100 * weights.max():.1f} % in {place(weights)}")
    bar = plot.colorbar(shown, ax=axes, shrink=0.8, pad=0.02, ticks=(0, 0.5, 1))
    # One row of maps is lower than the long label.
    bar.set_label("share of the map's largest weight" if rows > 1 else "share of\nits largest")
    plot.suptitle(title, fontsize=11)
    return finish(
        plot,
        f"{title}: {len(maps)} maps over the picture. Largest weights: {'; '.join(words)}.",
    )


def attention_by_layer(distance, bits, *, even_distance: float, even_bits: float) -> Plot:
    """Mean attention distance and entropy of every head, layer by layer.

    Args:
        distance: Shape (layers, heads), in pixels; NaN where a head has none.
        bits: Shape (layers, heads), entropy in bits.
        even_distance: The distance of attention that is spread evenly, for comparison.
        even_bits: Its entropy.
    """
    plot, axes = new_plot(1, 2, size=(11, 3.8))
    values = (as_numpy(distance), as_numpy(bits))
    labels = ("mean attention distance in pixels", "entropy in bits")
    evens = (even_distance, even_bits)
    for ax, value, label, even in zip(axes, values, labels, evens, strict=True):
        layers = np.arange(len(value))
        for head in range(value.shape[1]):
            ax.plot(layers, value[:, head], "o", color=BLUE, alpha=0.55, markersize=5)
        ax.plot(layers, np.nanmean(value, axis=1), "-", color=RED, label="mean of the heads")
        ax.axhline(even, color=BLACK, linestyle="--", linewidth=1, label="attention spread evenly")
        ax.set_xlabel("layer")
        ax.set_ylabel(label)
        ax.set_xticks(layers)
        ax.set_ylim(0, 1.08 * max(even, np.nanmax(value)))
        ax.spines[["top", "right"]].set_visible(False)
    axes[0].legend(fontsize=9, loc="lower right")
    first, last = values[0][0], values[0][-1]
    return finish(
        plot,
        "Each dot is a head. Left, its mean attention distance: from "
        f"{np.nanmin(first):.0f} to {np.nanmax(first):.0f} pixels in the first layer, from "
        f"{np.nanmin(last):.0f} to {np.nanmax(last):.0f} in the last; spread evenly it would be "
        f"{even_distance:.0f}. Right, "
        f"its entropy: on average {values[1][0].mean():.1f} bits in the first layer and "
        f"{values[1][-1].mean():.1f} in the last; at most {even_bits:.1f} are possible.",
    )


def faithfulness(measured: dict, table) -> Plot:
    """Deletion and insertion curves of several methods, and how far each beats a random map.

    Args:
        measured: From `faithfulness.curves`: `{"deletion": {name: (N, steps + 1)}, ...}`.
        table: From `faithfulness.table`, the same methods; its reference is the row without gain.
    """
    plot, axes = new_plot(1, 3, size=(13, 4.2), width_ratios=(1, 1, 1.1))
    texts = (("deletion", "hidden", "lower is better"), ("insertion", "shown", "higher is better"))
    for ax, (kind, verb, better) in zip(axes, texts, strict=False):
        for i, (name, curve) in enumerate(measured[kind].items()):
            mean = 100 * as_numpy(curve).mean(axis=0)
            blind = {"random": ("0.55", ":"), "centre": (BLACK, "--")}  # they know no model
            colour, line = blind.get(name, (PALETTE[i], "-"))
            style = {"color": colour, "linestyle": line}
            marker = "osDv^P*X"[i % 8]
            x = np.linspace(0, 100, len(mean))
            ax.plot(x, mean, marker=marker, markersize=4, label=name, **style)
        ax.set_xlabel(f"patches {verb} in %, the most important first")
        ax.set_ylabel("mean probability of the class in %")
        ax.set_title(f"{kind}: {better}", fontsize=10)
        ax.set_ylim(bottom=0)
    axes[0].legend(fontsize=8)
    places = np.arange(len(table))
    axes[2].errorbar(
        table["gain"], places, xerr=table["gain ±"], fmt="o", color=BLACK, capsize=3, markersize=5
    )
    axes[2].axvline(0, color="0.55", linestyle="--")
    axes[2].set_yticks(places, list(table.index))
    axes[2].invert_yaxis()
    axes[2].set_xlabel("gain over a random map, with its 95 % interval")
    axes[2].set_title("insertion - deletion, against random: higher is better", fontsize=10)
    for ax in axes:
        ax.spines[["top", "right"]].set_visible(False)
    words = ", ".join(
        f"{name} ≈ {row['gain']:+.3f} ± ≈ {row['gain ±']:.3f}" for name, row in table.iterrows()
    )
    return finish(
        plot,
        f"Curves of the mean probability while patches are hidden, and while they are shown, for "
        f"{len(table)} methods. On the right, the gain of each over a random map: {words}.",
    )


def token_sinks(norms, received, special: int = 1) -> Plot:
    """How long the vectors of the tokens are, and which tokens get the attention, by layer.

    Args:
        norms: Shape (layers + 1, tokens), from `attention.token_norms`, of one picture.
        received: Shape (layers, tokens), from `attention.received`, of the same picture.
        special: How many tokens come before the patches; the first is [CLS].
    """
    norms, percents = as_numpy(norms), 100 * as_numpy(received)
    plot, (left, right) = new_plot(1, 2, size=(11, 3.8))
    patches, steps = norms[:, special:], np.arange(len(norms))
    median, longest = np.median(patches, axis=1), patches.max(axis=1)
    left.fill_between(steps, patches.min(axis=1), longest, color=SKY, alpha=0.5)
    left.plot(steps, median, "o-", color=BLUE, markersize=4, label="patches: median, and range")
    left.plot(steps, norms[:, 0], "s-", color=RED, markersize=4, label="[CLS]")
    left.set_yscale("log")
    left.set_xlabel("after how many layers")
    left.set_ylabel("norm of the token's vector")
    layers, even = np.arange(len(percents)), 100 / percents.shape[1]
    most = percents[:, special:].max(axis=1)
    right.plot(layers, percents[:, 0], "s-", color=RED, markersize=4, label="[CLS]")
    right.plot(layers, most, "o-", color=BLUE, markersize=4, label="the patch that gets most")
    right.axhline(even, color=BLACK, linestyle="--", linewidth=1, label="the even share")
    right.set_yscale("log")
    right.set_xlabel("layer")
    right.set_ylabel("share of the layer's attention in %")
    for ax, ticks in ((left, steps), (right, layers)):
        ax.set_xticks(ticks)
        ax.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5), numticks=12))
        ax.yaxis.set_major_formatter(FormatStrFormatter("%g"))
        ax.yaxis.set_minor_formatter(NullFormatter())
        ax.legend(fontsize=9)
        ax.spines[["top", "right"]].set_visible(False)
    top = int(percents[:, 0].argmax())
    return finish(
        plot,
        f"Left, norms by layer: after the last one the median patch has {median[-1]:.0f}, the "
        f"longest {longest[-1]:.0f}, [CLS] {norms[-1, 0]:.0f}. Right, the share of attention that "
        f"tokens get: [CLS] at most {percents[top, 0]:.0f} % (layer {top}), a single patch at most "
        f"{most.max():.1f} % (layer {int(most.argmax())}); the even share is {even:.1f} %.",
    )
