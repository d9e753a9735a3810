"""Every figure of the course: one function, one figure, which it returns.

Each figure carries `alt`, a sentence that says in words what it shows. Jupyter shows the figure
as a picture with that alternative text, also in the saved notebook and in the HTML page.
Colours: viridis and cividis for quantities, Okabe and Ito's palette for categories; both survive
the common kinds of colour blindness.
"""

import io

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FormatStrFormatter, LogLocator, NullFormatter
from PIL import Image

# Okabe and Ito (2008), "Color Universal Design".
BLUE, ORANGE, GREEN, PINK = "#0072B2", "#E69F00", "#009E73", "#CC79A7"
SKY, RED, YELLOW, BLACK = "#56B4E9", "#D55E00", "#F0E442", "#000000"
PALETTE = (BLUE, ORANGE, GREEN, PINK, SKY, RED, YELLOW, BLACK)
DPI = 90
OPACITY = 0.6  # of an attention map over its picture


class Plot(Figure):
    """A matplotlib `Figure` with words: `alt` says what it shows.

    It is not registered in pyplot, so it appears once: where it is the last line of a cell or is
    given to `display`.
    """

    alt: str = ""

    def _repr_mimebundle_(self, include=None, exclude=None):
        data = {"image/png": _base64(self.png()), "text/plain": self.alt}
        return data, {"image/png": {"alt": self.alt}}

    def png(self) -> bytes:
        """The figure as a PNG file. Nothing is transparent, so three channels are enough."""
        buffer, smaller = io.BytesIO(), io.BytesIO()
        self.savefig(buffer, format="png", dpi=DPI, bbox_inches="tight")
        Image.open(buffer).convert("RGB").save(smaller, format="png", optimize=True)
        return smaller.getvalue()


def _base64(content: bytes) -> str:
    import base64

    return base64.b64encode(content).decode()


def new_plot(rows: int = 1, columns: int = 1, size: tuple[float, float] = (6.0, 4.0), **kwargs):
    """Make an empty `Plot`. Returns `(plot, axes)` like `plt.subplots(rows, columns)`."""
    plot = Plot(figsize=size, layout="constrained")
    FigureCanvasAgg(plot)
    return plot, plot.subplots(rows, columns, **kwargs)


def finish(plot: Plot, alt: str) -> Plot:
    """Give a plot its sentence in words and return it."""
    plot.alt = alt
    return plot


def image_grid(
    pictures,
    titles=None,
    columns: int = 5,
    title: str = "",
    alt: str = "",
    width: float = 1.5,
) -> Plot:
    """Pictures side by side in rows.

    Args:
        pictures: PIL pictures, or tensors (3, H, W) with values 0..1.
        titles: A short text above each picture, or `None`.
        columns: Pictures in a row.
        title: Text above all.
        alt: The sentence for readers who cannot see the figure.
        width: Of each picture, in inches.
    """
    pictures = list(pictures)
    columns = min(columns, len(pictures))
    rows = -(-len(pictures) // columns)
    size = (width * columns, (width + 0.25 * bool(titles)) * rows + 0.3 * bool(title))
    plot, axes = new_plot(rows, columns, size=size, squeeze=False)
    for ax in axes.flat:
        ax.axis("off")
    for i, (ax, picture) in enumerate(zip(axes.flat, pictures, strict=False)):
        ax.imshow(as_array(picture))
        if titles:
            ax.set_title(titles[i], fontsize=8)
    if title:
        plot.suptitle(title, fontsize=10)
    return finish(
        plot, alt or f"{len(pictures)} pictures in {rows} row{'s' * (rows > 1)}. {title}".strip()
    )


def as_array(picture) -> np.ndarray:
    """A PIL picture or a tensor (3, H, W) as an array (H, W, 3) that matplotlib can show."""
    if hasattr(picture, "permute"):
        return picture.detach().cpu().permute(1, 2, 0).numpy()
    return np.asarray(picture)


# --- 01 classify -------------------------------------------------------------------------------


def percent(share: float) -> str:
    """A share from 0 to 1 in words: `12.3 %`, or `below 0.1 %` where rounding would give zero."""
    return f"{100 * share:.1f} %" if share == 0 or share >= 0.0005 else "below 0.1 %"


def as_grid_of_patches(patches, grid: tuple[int, int], gap: int = 3) -> np.ndarray:
    """Patches (N, 3, p, p) with values 0..1 laid out in a grid with white gaps: (H, W, 3)."""
    rows, columns = grid
    side = patches.shape[-1]
    sheet = np.ones((rows * (side + gap) - gap, columns * (side + gap) - gap, 3), dtype=np.float32)
    for i, patch in enumerate(patches):
        y, x = (i // columns) * (side + gap), (i % columns) * (side + gap)
        sheet[y : y + side, x : x + side] = as_array(patch)
    return sheet


def picture_to_patches(picture, seen, patches, grid: tuple[int, int]) -> Plot:
    """Three steps side by side: the picture, what the model sees of it, its patches.

    Args:
        picture: The PIL picture.
        seen: Tensor (3, H, W) with values 0..1, after the processor and without normalisation.
        patches: Tensor (N, 3, p, p) with values 0..1.
        grid: `(rows, columns)` of patches.
    """
    plot, axes = new_plot(1, 3, size=(9, 3.1))
    height, width = seen.shape[-2:]
    rows, columns = grid
    titles = (
        f"the picture: {picture.width} x {picture.height} pixels",
        f"as the model sees it: {width} x {height}",
        f"as tokens: {columns} x {rows} = {len(patches)} patches",
    )
    sheet = as_grid_of_patches(patches, grid)
    for ax, shown, title in zip(axes, (picture, seen, sheet), titles, strict=True):
        ax.imshow(as_array(shown))
        ax.set_title(title, fontsize=10)
        ax.axis("off")
    return finish(
        plot,
        f"The picture of {picture.width} by {picture.height} pixels; the same picture squeezed to "
        f"{width} by {height} pixels; and that one cut into {columns} by {rows} = {len(patches)} "
        f"square patches of {patches.shape[-1]} pixels.",
    )


def top_classes(picture, top: list) -> Plot:
    """A picture beside the bars of its most probable classes.

    Args:
        picture: The PIL picture.
        top: `(name of the class, probability)`, best first, as from `models.top_classes`.
    """
    plot, (left, right) = new_plot(1, 2, size=(9, 3), width_ratios=(1, 1.5))
    left.imshow(as_array(thumbnail(picture, 320)))
    left.axis("off")
    names = [name.split(",")[0] for name, _ in top]  # ImageNet lists synonyms after a comma
    shares = np.array([share for _, share in top])
    places = np.arange(len(names))
    bars = right.barh(places, 100 * shares, color=BLUE)
    right.set_yticks(places, names, fontsize=10)
    right.invert_yaxis()
    right.bar_label(bars, [percent(s) for s in shares], padding=3, fontsize=9)
    right.set_xlim(0, 118)
    right.set_xticks(range(0, 101, 20))
    right.set_xlabel("probability in %")
    right.spines[["top", "right"]].set_visible(False)
    words = ", ".join(f"{n} {percent(s)}" for n, s in zip(names, shares, strict=True))
    return finish(plot, f"The picture, and bars of its top {len(names)} classes: {words}.")


def temperature(temperatures, probabilities, names: list[str]) -> Plot:
    """How temperature changes the confidence of a model without changing its order of classes.

    Args:
        temperatures: What the logits were divided by.
        probabilities: Shape (temperatures, classes), values 0..1.
        names: The classes, most probable first; at most six.
    """
    plot, ax = new_plot(size=(6.5, 3.6))
    percents = 100 * np.asarray(probabilities)
    styles = ("o-", "s--", "^-.", "D:", "v-", "P--")
    for i, name in enumerate(names):
        label = name.split(",")[0]
        ax.plot(temperatures, percents[:, i], styles[i], color=PALETTE[i], label=label)
    ax.axvline(1, color="0.6", linewidth=1)
    ax.set_xscale("log", base=2)
    ax.set_xticks(temperatures, [f"{t:g}" for t in temperatures])
    ax.set_xlabel("temperature (logits are divided by it); 1 is the model as it is")
    ax.set_ylabel("probability in %")
    ax.set_ylim(0, 1.1 * percents.max())
    ax.legend(fontsize=9)
    ax.spines[["top", "right"]].set_visible(False)
    first, last = percents[0, 0] / 100, percents[-1, 0] / 100
    return finish(
        plot,
        f"Lines of the probability of {len(names)} classes against temperature. That of "
        f"{names[0].split(',')[0]} goes from {percent(first)} at {temperatures[0]:g} to "
        f"{percent(last)} at {temperatures[-1]:g}.",
    )


# --- 03 attention ------------------------------------------------------------------------------


def thumbnail(picture, longest: int):
    """A smaller copy of a PIL picture, so that a figure with many of them stays small."""
    small = picture.convert("RGB")
    small.thumbnail((longest, longest))
    return small


def colour_table(name: str) -> np.ndarray:
    """A colour map of matplotlib as 256 colours: shape (256, 3), uint8."""
    from matplotlib import colormaps

    return colormaps[name](np.arange(256), bytes=True)[:, :3].copy()


def place(grid_map) -> str:
    """Where the largest weight of a map lies, in words: `row 3 of 14, column 5 of 14`."""
    rows, columns = grid_map.shape
    row, column = divmod(int(np.argmax(grid_map)), columns)
    return f"row {row + 1} of {rows}, column {column + 1} of {columns}"


def _overlay(ax, picture, grid_map, vmax: float):
    """Draw a map over the whole picture in grey. Returns what a colour bar needs."""
    import torch

    from . import attention

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
    percents = 100 * _as_numpy(grid_map)
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
        weights = _as_numpy(grid_map)
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
    values = (_as_numpy(distance), _as_numpy(bits))
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
            mean = 100 * _as_numpy(curve).mean(axis=0)
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
    norms, percents = _as_numpy(norms), 100 * _as_numpy(received)
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


def _as_numpy(values) -> np.ndarray:
    if hasattr(values, "detach"):
        values = values.detach().cpu()
    return np.asarray(values, dtype=float)


# --- 02 and 04 training ------------------------------------------------------------------------


def learning_curves(frame, best_epoch: int, test_accuracy: float | None = None) -> Plot:
    """Loss and accuracy of training and validation, epoch by epoch.

    Args:
        frame: `History.to_frame()`: the columns `train loss`, `validation loss`,
            `train accuracy`, `validation accuracy` (0 to 1), indexed by epoch.
        best_epoch: The epoch whose weights were kept.
        test_accuracy: Drawn as a level line, or `None`.
    """
    plot, (left, right) = new_plot(1, 2, size=(9, 3.4))
    for part, colour, style in (("train", ORANGE, "s--"), ("validation", BLUE, "o-")):
        left.plot(frame.index, frame[f"{part} loss"], style, color=colour, label=part)
        right.plot(frame.index, 100 * frame[f"{part} accuracy"], style, color=colour, label=part)
    if test_accuracy is not None:
        right.axhline(100 * test_accuracy, color=GREEN, linestyle=":", label="test")
    left.set_ylabel("loss (mean cross-entropy, nats)")
    right.set_ylabel("accuracy in %")
    left.set_ylim(0, 1.1 * frame[["train loss", "validation loss"]].to_numpy().max())
    right.set_ylim(0, 103)
    for ax in (left, right):
        ax.axvline(best_epoch, color="0.75", linewidth=6, zorder=0, label="kept")
        ax.set_xlabel("epoch")
        ax.set_xticks(frame.index)
        ax.set_xlim(frame.index.min() - 0.3, frame.index.max() + 0.3)
        ax.legend(fontsize=9)
        ax.spines[["top", "right"]].set_visible(False)
    first, last = frame.iloc[0], frame.iloc[-1]
    test = "" if test_accuracy is None else f", test ≈ {100 * test_accuracy:.1f} %"
    return finish(
        plot,
        f"Curves over {len(frame)} epochs. Training loss from ≈ {first['train loss']:.2f} to "
        f"≈ {last['train loss']:.2f}; accuracy after the last epoch: training "
        f"≈ {100 * last['train accuracy']:.1f} %, validation "
        f"≈ {100 * last['validation accuracy']:.1f} %{test}.",
    )


def compare_histories(frames: dict) -> Plot:
    """Validation accuracy of several trainings, epoch by epoch.

    Args:
        frames: Name of the training -> `History.to_frame()`.
    """
    plot, ax = new_plot(size=(6, 3.4))
    words = []
    for i, (name, frame) in enumerate(frames.items()):
        percents = 100 * frame["validation accuracy"]
        style = ("o-", "s--", "^-.", "D:")[i % 4]
        ax.plot(frame.index, percents, style, color=PALETTE[i], label=name)
        words.append(f"{name} ≈ {percents.iloc[-1]:.1f} %")
    ax.set_xlabel("epoch")
    ax.set_ylabel("validation accuracy in %")
    ax.set_xticks(frame.index)
    ax.set_ylim(0, 103)
    ax.legend(fontsize=9)
    ax.spines[["top", "right"]].set_visible(False)
    return finish(plot, f"Validation accuracy after the last epoch: {', '.join(words)}.")


def confusion(matrix, names: list[str]) -> Plot:
    """A confusion matrix: each row is a true class, each column an answer.

    Args:
        matrix: Shape (classes, classes), counts, as from `sklearn.metrics.confusion_matrix`.
        names: Class names in the order of the labels.
    """
    counts = np.asarray(matrix)
    shares = 100 * counts / np.maximum(1, counts.sum(axis=1, keepdims=True))
    plot, ax = new_plot(size=(6.4, 5.6))
    shown = ax.imshow(shares, cmap="cividis", vmin=0, vmax=100)
    places = range(len(names))
    ax.set_xticks(places, names, rotation=45, ha="right", rotation_mode="anchor")
    ax.set_yticks(places, names)
    ax.set_xlabel("answer of the model")
    ax.set_ylabel("true class")
    for row, column in zip(*np.nonzero(counts), strict=True):
        colour = "black" if shares[row, column] > 55 else "white"
        ax.text(
            column, row, counts[row, column], ha="center", va="center", color=colour, fontsize=8
        )
    plot.colorbar(shown, ax=ax, label="share of the true class in %", shrink=0.85)
    return finish(
        plot,
        f"A table of {len(names)} true classes by {len(names)} answers over {counts.sum()} "
        f"pictures. On the diagonal, the right answers: ≈ {np.trace(counts)}.",
    )


def class_accuracy(names: list[str], right, counts, intervals) -> Plot:
    """Accuracy of every class as bars, with the interval in which the true value lies.

    Args:
        names: Class names.
        right: Right answers of each class.
        counts: Pictures of each class.
        intervals: `(low, high)` of each class, 0 to 1.
    """
    percents = 100 * np.asarray(right) / np.asarray(counts)
    bounds = 100 * np.asarray(intervals)
    plot, ax = new_plot(size=(7, 3.2))
    places = np.arange(len(names))
    ax.bar(places, percents, color=SKY)
    ax.vlines(places, bounds[:, 0], bounds[:, 1], color=BLACK, linewidth=2)
    ax.set_xticks(places, names, rotation=35, ha="right", rotation_mode="anchor")
    ax.set_ylabel("test accuracy in %")
    ax.set_ylim(0, 103)
    ax.spines[["top", "right"]].set_visible(False)
    return finish(
        plot,
        f"Bars of the accuracy of {len(names)} classes, from ≈ {percents.min():.0f} % to "
        f"≈ {percents.max():.0f} %, each with its 95 % interval.",
    )


def answers(pictures, labels, predictions, confidences, names: list[str], columns: int = 6) -> Plot:
    """Pictures with the model's answer: a tick or a cross, the confidence, and the truth.

    Args:
        pictures: PIL pictures, or tensors (3, H, W) with values 0..1.
        labels: True classes.
        predictions: The model's classes.
        confidences: Their probabilities, 0 to 1.
        names: Class names.
        columns: Pictures in a row.
    """
    pictures, labels, predictions = list(pictures), _whole(labels), _whole(predictions)
    if not pictures:
        return _nothing("There is no such picture.")
    columns = min(columns, len(pictures))
    rows = -(-len(pictures) // columns)
    plot, axes = new_plot(rows, columns, size=(1.75 * columns, 2.25 * rows), squeeze=False)
    for ax in axes.flat:
        ax.axis("off")
    everything = zip(axes.flat, pictures, labels, predictions, confidences, strict=False)
    for ax, picture, label, prediction, confidence in everything:
        ax.imshow(as_array(picture))
        right = label == prediction
        text = f"{'✓' if right else '✗'} {names[prediction]} {100 * float(confidence):.0f} %"
        text += "" if right else f"\ntruth: {names[label]}"
        ax.set_title(text, fontsize=9, color=BLUE if right else RED)
    count = sum(a == b for a, b in zip(labels, predictions, strict=True))
    return finish(
        plot,
        f"≈ {len(pictures)} pictures with the model's answer and its confidence. "
        f"Right (blue, with a tick): ≈ {count}; the others are marked with an orange cross.",
    )


def _whole(values) -> list[int]:
    return [int(v) for v in values]


def _nothing(words: str):
    """A figure that says that there is nothing to show."""
    plot, ax = new_plot(size=(4, 0.6))
    ax.axis("off")
    ax.text(0.5, 0.5, words, ha="center", va="center")
    return finish(plot, words)


def confused_pairs(pairs: list) -> Plot:
    """The most confused classes: a mistaken picture above one of the class it was taken for.

    Args:
        pairs: `(test picture, its class, training picture, the answered class, how often)`.
    """
    if not pairs:
        return _nothing("No class was taken for another.")
    plot, axes = new_plot(2, len(pairs), size=(1.9 * len(pairs), 4.6), squeeze=False)
    for column, (wrong, truth, example, answer, times) in enumerate(pairs):
        top, bottom = axes[:, column]
        top.imshow(as_array(wrong))
        top.set_title(f"{truth}\ntaken {times} x for", fontsize=9)
        bottom.imshow(as_array(example))
        bottom.set_title(f"{answer}\n(training picture)", fontsize=9)
        top.axis("off")
        bottom.axis("off")
    return finish(
        plot,
        f"≈ {len(pairs)} columns. Above, a test picture that got a wrong answer; below, a training "
        f"picture of the class it was taken for. Most frequent mistake: ≈ {pairs[0][4]} times.",
    )


def interval_bars(shares: dict, chance: float | None = None, label: str = "accuracy in %") -> Plot:
    """Accuracies side by side, each with its interval.

    Args:
        shares: Name -> `(accuracy, low, high)`, 0 to 1.
        chance: Accuracy of blind guessing, drawn as a line, or `None`.
        label: Text of the axis.
    """
    plot, ax = new_plot(size=(7, 0.55 * len(shares) + 1.1))
    values = 100 * np.array(list(shares.values()))
    places = np.arange(len(values))
    ax.barh(places, values[:, 0], color=SKY)
    ax.hlines(places, values[:, 1], values[:, 2], color=BLACK, linewidth=2)
    for place, (value, _, high) in zip(places, values, strict=True):
        ax.text(high + 1.5, place, f"{value:.1f} %", va="center", fontsize=9)
    if chance is not None:
        ax.axvline(100 * chance, color=RED, linestyle="--", label=f"chance {100 * chance:.0f} %")
        ax.legend(fontsize=9, loc="lower right")
    ax.set_yticks(places, list(shares))
    ax.invert_yaxis()
    ax.set_xlim(0, 115)
    ax.set_xticks(range(0, 101, 20))
    ax.set_xlabel(label)
    ax.spines[["top", "right"]].set_visible(False)
    words = ", ".join(f"{n} ≈ {v[0]:.1f} %" for n, v in zip(shares, values, strict=True))
    return finish(plot, f"Bars with 95 % intervals: {words}.")


def accuracy_by_count(counts: list[int], means, lows, highs, chance: float) -> Plot:
    """How accuracy grows with the number of training pictures per class.

    Args:
        counts: Pictures per class.
        means: Mean accuracy for each, 0 to 1.
        lows: Lowest of the draws.
        highs: Highest of the draws.
        chance: Accuracy of blind guessing.
    """
    means, lows, highs = (100 * np.asarray(v) for v in (means, lows, highs))
    plot, ax = new_plot(size=(6, 3.4))
    ax.fill_between(counts, lows, highs, color=SKY, alpha=0.4, label="lowest to highest draw")
    ax.plot(counts, means, "o-", color=BLUE, label="mean of the draws")
    ax.axhline(100 * chance, color=RED, linestyle="--", linewidth=1, label="chance")
    ax.set_xscale("log")
    ax.set_xticks(counts, counts)
    ax.minorticks_off()
    ax.set_xlabel("training pictures per class")
    ax.set_ylabel("validation accuracy in %")
    ax.set_ylim(0, 103)
    ax.legend(fontsize=9)
    ax.spines[["top", "right"]].set_visible(False)
    words = ", ".join(f"{c}: ≈ {m:.1f} %" for c, m in zip(counts, means, strict=True))
    return finish(plot, f"Accuracy against pictures per class: {words}.")


def strategies(trials: dict) -> Plot:
    """What each strategy of training costs and brings: minutes against accuracy.

    Args:
        trials: Name -> `strategies.Trial`.
    """
    plot, ax = new_plot(size=(7, 3.8))
    for (name, trial), marker in zip(trials.items(), "osD^vPX*", strict=False):
        value, (low, high) = 100 * trial.accuracy, (100 * edge for edge in trial.interval)
        ax.errorbar(
            trial.seconds / 60,
            value,
            [[value - low], [high - value]],
            fmt=marker,
            color=BLUE,
            ecolor=BLACK,
            label=f"{name}: {trial.trainable:,}",
        )
    ax.set_xlim(0, 1.1 * max(trial.seconds for trial in trials.values()) / 60)
    ax.legend(fontsize=9, loc="upper left", ncols=2, title="parameters that learn")
    ax.set_ylim(0, 140)  # room for the legend
    ax.set_yticks(range(0, 101, 20))
    ax.set_xlabel("minutes of training")
    ax.set_ylabel("validation accuracy in %")
    ax.spines[["top", "right"]].set_visible(False)
    words = ", ".join(
        f"{name} ≈ {100 * t.accuracy:.1f} % in ≈ {t.seconds / 60:.2f} min"
        for name, t in trials.items()
    )
    return finish(plot, f"Accuracy against minutes of training: {words}.")


# --- 05 efficiency -----------------------------------------------------------------------------

FAMILY_STYLES = {
    "PyTorch": (BLUE, "o"),
    "16 bits": (GREEN, "s"),
    "captured graph": (SKY, "^"),
    "ONNX Runtime": (ORANGE, "D"),
    "int8": (RED, "P"),
    "OpenVINO": (PINK, "v"),
    "merged tokens": (BLACK, "*"),
}


def timings(first, later) -> Plot:
    """The same call, timed again and again: each point is one timing.

    Args:
        first: Milliseconds of the first calls, not warmed up.
        later: Milliseconds of the calls after them.
    """
    plot, ax = new_plot(size=(7.5, 3.4))
    count = len(first) + len(later)
    calls = np.arange(1, count + 1)
    median, high = np.median(later), np.percentile(later, 95)
    ax.plot(calls[: len(first)], first, "X", color=RED, markersize=8, label="warm-up")
    ax.plot(calls[len(first) :], later, "o", color=BLUE, label="timed")
    ax.axhline(median, color=BLACK, linewidth=1, label=f"median {median:.1f} ms")
    ax.axhline(high, color=BLACK, linewidth=1, linestyle=":", label=f"p95 {high:.1f} ms")
    ax.set_ylim(0, None)
    ax.set_xlabel("call")
    ax.set_ylabel("time of the call in ms")
    ax.legend(fontsize=9, ncols=4, loc="upper center", bbox_to_anchor=(0.5, 1.18), frameon=False)
    ax.spines[["top", "right"]].set_visible(False)
    return finish(
        plot,
        f"{count} timings of one and the same call. After {len(first)} warm-up calls they run from "
        f"≈ {min(later):.1f} to ≈ {max(later):.1f} ms, with a median of ≈ {median:.1f} ms and a "
        f"95th percentile of ≈ {high:.1f} ms.",
    )


def race_bars(table) -> Plot:
    """Median times as bars, with a line up to the 95th percentile.

    Args:
        table: A raw table of `efficiency.timing_table`.
    """
    plot, ax = new_plot(size=(7.5, 0.5 * len(table) + 1.0))
    places = np.arange(len(table))
    median, high = table["median ms"].to_numpy(), table["p95 ms"].to_numpy()
    # One hiccup of the machine must not squeeze the bars: a longer line ends in an arrowhead.
    limit = min(high.max(), 2.5 * median.max())
    ends = np.minimum(high, limit)
    ax.barh(places, median, color=SKY, label="median")
    ax.hlines(places, median, ends, color=BLACK, linewidth=2, label="up to the 95th percentile")
    ax.plot(ends[high > limit], places[high > limit], ">", color=BLACK)
    for place, end, speed in zip(places, ends, table["speed-up"], strict=True):
        ax.text(end + 0.02 * limit, place, f"{speed:.2f} x", va="center", fontsize=9)
    ax.set_yticks(places, table.index)
    ax.invert_yaxis()
    ax.set_xlim(0, 1.15 * limit)
    ax.set_xlabel("time of one call in ms; beside it the speed-up over the first row")
    ax.legend(fontsize=8, ncols=2, loc="lower center", bbox_to_anchor=(0.5, 1.0), frameon=False)
    ax.spines[["top", "right"]].set_visible(False)
    words = ", ".join(f"{n} ≈ {m:.1f} ms" for n, m in zip(table.index, median, strict=True))
    return finish(plot, f"Bars of the median time of a call: {words}.")


def speed_agreement(frame) -> Plot:
    """Speed-up of each variant against its agreement with the baseline, with its interval.

    The Pareto line joins those that no other beats in both at once. A variant that agrees too
    seldom to be used is crossed out.

    Args:
        frame: A raw table of `efficiency.compare`. Variants that did not run are left out.
    """
    ran = frame[frame["status"] == "ran"]
    speed = ran["speed-up"].to_numpy(dtype=float)
    share = 100 * ran["agreement"].to_numpy(dtype=float)
    plot, ax = new_plot(size=(9, 4.6))
    low = min(99.0, share.min())
    span = 100 - low
    low, top = low - 0.12 * span, 100 + 0.12 * span
    for family, (color, marker) in FAMILY_STYLES.items():
        chosen = (ran["family"] == family).to_numpy()
        if chosen.any():
            ax.plot(speed[chosen], share[chosen], marker, color=color, label=family, markersize=9)
    for i in np.flatnonzero((ran["verdict"] != "baseline") & np.isfinite(ran["to"])):
        color = FAMILY_STYLES[ran["family"].iloc[i]][0]
        ax.hlines(share[i], ran["from"].iloc[i], ran["to"].iloc[i], color=color, linewidth=1.5)
    wrong = (ran["verdict"] == "unusable").to_numpy()
    ax.plot(speed[wrong], share[wrong], "x", color=BLACK, markersize=13)
    best = ran[ran["pareto"]].sort_values("speed-up")
    corners = best["speed-up"], 100 * best["agreement"]
    ax.plot(*corners, "--", color="0.45", linewidth=1.2, zorder=0, label="Pareto line")
    # Names in a column on the right, each joined to its point: points lie on top of one another.
    order = np.lexsort((speed, share))[::-1]
    right = max(speed.max(), np.nanmax(ran["to"])) * 1.06
    heights = np.linspace(top - 0.05 * span, low + 0.05 * span, len(order))
    for i, height in zip(order, heights, strict=True):
        color = FAMILY_STYLES[ran["family"].iloc[i]][0]
        ax.plot([speed[i], right], [share[i], height], color=color, linewidth=0.7, alpha=0.7)
        label = f"{ran.index[i]}: {speed[i]:.1f} x, {share[i]:.1f} %"
        ax.text(right, height, f" {label}", va="center", fontsize=8.5, clip_on=False)
    ax.set_xlim(min(0.9, speed.min() * 0.95), right)
    ax.set_ylim(low, top)
    ax.axvline(1, color="0.7", linewidth=1)
    ax.set_xlabel("speed-up over fp32 with eager attention")
    ax.set_ylabel("same top class as the baseline, in %")
    ax.legend(fontsize=8, ncols=5, loc="lower left", bbox_to_anchor=(0, 1.0), frameon=False)
    ax.spines[["top", "right"]].set_visible(False)
    words = "; ".join(
        f"{n} ≈ {s:.2f} times as fast, agreement ≈ {a:.1f} %"
        for n, s, a in zip(ran.index, speed, share, strict=True)
    )
    line = f"The Pareto line joins ≈ {len(best)} that no other beats in both"
    return finish(plot, f"Points of speed-up against agreement with the baseline. {line}. {words}.")


def batch_sizes(table, saturated: dict[str, int]) -> Plot:
    """Time per image, images per second and memory against the batch size.

    Args:
        table: A raw table of `efficiency.sweep`.
        saturated: By variant, the batch size that is marked with a ring.
    """
    plot, axes = new_plot(1, 3, size=(11, 3.6))
    columns = {
        "ms per image": "time per image in ms",
        "images/s": "images per second",
        "memory MB": "memory for activations in MB",
    }
    styles = ("o-", "s--", "^-.", "D:")
    batches = sorted(table["batch"].unique().tolist())
    for i, (name, part) in enumerate(table.groupby("variant", sort=False)):
        for ax, column in zip(axes, columns, strict=True):
            if part[column].notna().any():
                color = PALETTE[i % len(PALETTE)]
                style = styles[i % len(styles)]
                ax.plot(part["batch"], part[column], style, color=color, label=name)
        ring = part[part["batch"] == saturated.get(name)]
        axes[1].plot(ring["batch"], ring["images/s"], "o", ms=14, mfc="none", mec=BLACK, mew=1.5)
    for ax, label in zip(axes, columns.values(), strict=True):
        ax.set_xscale("log", base=2)
        ax.set_xticks(batches, batches)
        ax.set_ylim(0, 1.08 * ax.get_ylim()[1])
        ax.set_xlabel("batch size (pictures)")
        ax.set_ylabel(label)
        ax.spines[["top", "right"]].set_visible(False)
    handles, labels = axes[0].get_legend_handles_labels()
    plot.legend(handles, labels, loc="outside upper center", ncols=3, fontsize=9, frameon=False)
    words = "; ".join(
        f"{name} reaches at most ≈ {part['images/s'].max():.1f} images per second and comes within "
        f"5 % of that from batch ≈ {saturated[name]}"
        for name, part in table.groupby("variant", sort=False)
        if name in saturated
    )
    return finish(plot, f"Lines against batch sizes {batches[0]} to {batches[-1]}. {words}.")
