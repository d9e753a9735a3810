"""Figures of notebook 01: a picture, its patches, the network, its classes, how sure it is."""

import numpy as np

from .colours import BLACK, BLUE, ORANGE, PALETTE, SKY
from .shared import Plot, as_numpy, finish, new_plot, percent, show, thumbnail


def picture_to_patches(picture, seen, patches, grid: tuple[int, int]) -> Plot:
    """Three steps side by side: the picture, what the model sees of it, its patches.

    `seen` (3, H, W) and `patches` (N, 3, p, p) have values 0..1; `grid` is `(rows, columns)`.
    """
    rows, columns = grid
    height, width = seen.shape[-2:]
    side, step = patches.shape[-1], patches.shape[-1] + 3  # with a white gap between patches
    sheet = np.ones((rows * step - 3, columns * step - 3, 3), dtype=np.float32)
    for i, patch in enumerate(patches):
        y, x = (i // columns) * step, (i % columns) * step
        sheet[y : y + side, x : x + side] = patch.cpu().permute(1, 2, 0).numpy()
    plot, axes = new_plot(1, 3, size=(9, 3.1))
    about = f"the picture: {picture.width} x {picture.height} pixels"
    show(axes[0], thumbnail(picture, 480), about)
    show(axes[1], seen, f"as the model sees it: {width} x {height}")
    show(axes[2], sheet, f"as tokens: {columns} x {rows} = {len(patches)} patches")
    return finish(
        plot,
        f"The picture of {picture.width} by {picture.height} pixels; the same picture squeezed to "
        f"{width} by {height} pixels; and that one cut into {columns} by {rows} = {len(patches)} "
        f"square patches of {side} pixels.",
    )


def vit_diagram(config) -> Plot:
    """The network of `model.config` in boxes, with sizes; below it one block from the inside."""
    size, patch, width = config.image_size, config.patch_size, config.hidden_size
    count, depth = (size // patch) ** 2, config.num_hidden_layers
    plot, ax = new_plot(size=(9, 4.1))
    ax.set(xlim=(-0.5, 100.5), ylim=(0, 46))
    ax.axis("off")

    steps = (
        (f"picture\n3 x {size} x {size}", 13, "white"),
        (f"cut into {count}\npatches of\n{patch} x {patch}", 13, "white"),
        (f"linear layer\n{3 * patch**2} → {width}", 14, SKY),
        ("[CLS] in front,\npositions\nadded", 15, SKY),
        (f"{depth} blocks\n{1 + count} x {width}", 12, ORANGE),
        ("LayerNorm,\n[CLS] alone", 13, SKY),
        (f"head\n{width} → {config.num_labels}\nlogits", 11, SKY),
    )
    gap = (100 - sum(step[1] for step in steps)) / (len(steps) - 1)
    left, middle = 0.0, 0.0
    for i, (text, wide, colour) in enumerate(steps):
        if i:
            _arrow(ax, (left - gap, 38), (left, 38))
        _box(ax, left, 33, wide, 10, text, colour)
        middle = left + wide / 2 if colour == ORANGE else middle
        left += wide + gap

    # One block: two branches, each with LayerNorm in front and a skip connection around it.
    _box(ax, 2, 1, 96, 24, "", "white", edge=ORANGE)
    ax.text(4, 22, "one block", fontsize=10, color=BLACK, va="center", weight="bold")
    for x, edge in ((3, middle - 6), (97, middle + 6)):
        ax.plot((edge, x), (33, 25), color=ORANGE, linewidth=1, linestyle=":")
    inside = (
        ("LayerNorm", 9, 12, SKY),
        (f"attention\n{config.num_attention_heads} heads", 24, 16, SKY),
        ("+", 44, 4, "white"),
        ("LayerNorm", 54, 12, SKY),
        (f"MLP\n{width} → {config.intermediate_size} → {width}", 69, 18, SKY),
        ("+", 90, 4, "white"),
    )
    end = 2.0
    for text, x, wide, colour in inside:
        _arrow(ax, (end, 9), (x, 9))
        _box(ax, x, 6 if text != "+" else 7, wide, 6 if text != "+" else 4, text, colour)
        end = x + wide
    _arrow(ax, (end, 9), (98, 9))
    for start, stop in ((5, 46), (51, 92)):  # the skip connections
        ax.plot((start, start, stop), (9, 17, 17), color=BLACK, linewidth=1.2)
        _arrow(ax, (stop, 17), (stop, 11))
        ax.text((start + stop) / 2, 18.5, "skip connection", ha="center", fontsize=9)
    return finish(
        plot,
        f"The network as a row of boxes: a picture of {size} by {size} pixels is cut into {count} "
        f"patches, a linear layer makes {width} numbers of each, [CLS] and positions are added, "
        f"{depth} blocks follow, then LayerNorm, and a head that reads [CLS] and gives "
        f"{config.num_labels} logits. Below, one block: LayerNorm, attention with "
        f"{config.num_attention_heads} heads, a plus; LayerNorm, MLP, a plus. A skip connection "
        "leads around each half to its plus. Linear layers, [CLS] and positions, every LayerNorm, "
        "attention, MLP and head hold learnt weights; they are blue.",
    )


def _box(ax, x, y, width, height, text, colour, edge=BLACK) -> None:
    from matplotlib.patches import FancyBboxPatch

    style = {"boxstyle": "round,pad=0,rounding_size=1", "facecolor": colour, "edgecolor": edge}
    ax.add_patch(FancyBboxPatch((x, y), width, height, **style))
    ax.text(x + width / 2, y + height / 2, text, ha="center", va="center", fontsize=9)


def _arrow(ax, start, end) -> None:
    style = {"arrowstyle": "-|>", "color": BLACK, "linewidth": 1.2, "shrinkA": 0, "shrinkB": 0}
    ax.annotate("", end, start, arrowprops=style)


def position_similarity(similarity, grid: tuple[int, int]) -> Plot:
    """How similar the vectors of every third position are to those of all positions.

    `similarity` has shape (N, N) for N patches: cosine similarities.
    """
    rows, columns = grid
    values = as_numpy(similarity).reshape(rows, columns, rows, columns)
    ys, xs = range(1, rows - 1, 3), range(1, columns - 1, 3)  # a ring at the edge would be cut
    plot, axes = new_plot(len(ys), len(xs), size=(6.4, 5.6), frame=True, squeeze=False)
    apart = values[~np.eye(rows * columns, dtype=bool).reshape(values.shape)]
    low, high = apart.min(), apart.max()  # a position with itself is always 1
    for y, line in zip(ys, axes, strict=True):
        for x, ax in zip(xs, line, strict=True):
            shown = ax.imshow(values[y, x], cmap="viridis", vmin=low, vmax=high)
            ax.plot(x, y, "o", color="white", markerfacecolor="none", markersize=8)
            ax.set(xticks=[], yticks=[])
            if y == ys[0]:
                ax.set_title(f"column {x + 1}", fontsize=9)
            if x == xs[0]:
                ax.set_ylabel(f"row {y + 1}", fontsize=9)
    plot.colorbar(shown, ax=axes, label="cosine similarity", shrink=0.8)
    y, x = ys[len(ys) // 2], xs[len(xs) // 2]
    return finish(
        plot,
        f"{len(ys) * len(xs)} maps of {rows} by {columns} places: how similar the position vector "
        f"of one place is to those of all others. For row {y + 1}, column {x + 1} it is "
        f"{values[y, x, y, x - 1]:.2f} with its neighbour on the left and {values[y, x, 0, 0]:.2f} "
        "with the corner above left.",
    )


def top_classes(picture, top: list) -> Plot:
    """A picture beside the bars of its most probable classes, as from `models.top_classes`."""
    plot, (left, right) = new_plot(1, 2, size=(9, 3), width_ratios=(1, 1.5))
    show(left, thumbnail(picture, 480))
    names = [name.split(",")[0] for name, _ in top]  # ImageNet lists synonyms after a comma
    shares = [share for _, share in top]
    bars = right.barh(range(len(names)), 100 * np.array(shares), color=BLUE)
    right.set_yticks(range(len(names)), names, fontsize=10)
    right.invert_yaxis()
    right.bar_label(bars, [percent(s) for s in shares], padding=3, fontsize=9)
    right.set(xlim=(0, 118), xticks=range(0, 101, 20), xlabel="probability in %")
    words = ", ".join(f"{n} {percent(s)}" for n, s in zip(names, shares, strict=True))
    return finish(plot, f"The picture, and bars of its top {len(names)} classes: {words}.")


def temperature(temperatures, probabilities, names: list[str]) -> Plot:
    """How temperature changes the confidence of a model without changing its order of classes.

    `probabilities` has shape (temperatures, classes), 0..1, the most probable class first; at most
    six of them are drawn.
    """
    plot, ax = new_plot(size=(7, 3.6))
    percents = 100 * np.asarray(probabilities)
    names, styles = [name.split(",")[0] for name in names], ("o-", "s--", "^-.", "D:", "v-", "P--")
    for i, name in enumerate(names):
        ax.plot(temperatures, percents[:, i], styles[i], color=PALETTE[i], label=name)
    ax.axvline(1, color="0.6", linewidth=1)
    ax.set_xscale("log", base=2)
    ax.set_xticks(temperatures, [f"{t:g}" for t in temperatures])
    ax.set_xlabel("temperature (logits are divided by it); 1 is the model as it is")
    ax.set(ylabel="probability in %", ylim=(0, 1.1 * percents.max()))
    ax.legend(fontsize=9)
    first, last = percents[0, 0] / 100, percents[-1, 0] / 100
    return finish(
        plot,
        f"Lines of the probability of {len(names)} classes against temperature. That of "
        f"{names[0]} goes from {percent(first)} at {temperatures[0]:g} to {percent(last)} at "
        f"{temperatures[-1]:g}.",
    )


def reliability(confidence, right, bins: int, error: float) -> Plot:
    """How often answers are right, against how sure the model was of them, in `bins` equal bins.

    `confidence`, 0 to 1, and `right` have shape (pictures,); `error` is the expected calibration
    error, 0 to 1, for the title.
    """
    from scipy.stats import binomtest

    confidence, right = as_numpy(confidence), as_numpy(right).astype(bool)
    number = np.minimum((confidence * bins).astype(int), bins - 1)
    plot, (ax, below) = new_plot(2, 1, size=(6, 5.4), height_ratios=(3, 1), sharex=True)
    ax.plot((0, 100), (0, 100), "--", color=BLACK, linewidth=1, label="as often right as sure")
    words, counts = [], np.bincount(number, minlength=bins)
    for b in np.flatnonzero(counts):
        inside = number == b
        hits, sure = int(right[inside].sum()), 100 * confidence[inside].mean()
        low, high = binomtest(hits, int(counts[b])).proportion_ci(method="wilson")
        share = 100 * hits / counts[b]
        bar = [[max(0.0, share - 100 * low)], [max(0.0, 100 * high - share)]]
        bars = ax.errorbar(sure, share, bar, fmt="o", color=BLUE, ecolor=BLUE, capsize=3)
        words.append(f"{sure:.0f} % sure, {share:.0f} % right of {counts[b]}")
    bars.set_label("a bin, with its 95 % interval")
    ax.legend(fontsize=9, loc="upper left", frameon=False)
    below.bar(100 * (np.arange(bins) + 0.5) / bins, counts, width=0.9 * 100 / bins, color=SKY)
    ax.set_title(f"expected calibration error {100 * float(error):.0f} points", fontsize=10)
    ax.set(ylabel="answers that are right, in %", xlim=(0, 100), ylim=(0, 103))
    below.set(xlabel="confidence of the answer in %", ylabel="pictures")
    return finish(
        plot,
        f"Reliability diagram of {len(confidence)} pictures in {bins} bins, with 95 % intervals: "
        f"{'; '.join(words)}. Expected calibration error: {100 * float(error):.0f} points.",
    )
