"""Figures of notebook 01: a picture, its patches, its classes, how sure the model is."""

import numpy as np

from .shared import BLUE, PALETTE, Plot, as_array, finish, new_plot, percent, thumbnail


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
