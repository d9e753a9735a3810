"""Does a map show what the answer depends on? Hide what it calls important, and measure.

Shapes: N pictures, M methods (each gives one map a picture), P patches, S steps.
"""

import math
import time

import torch
from torch import nn

from . import attention, runtime
from .errors import CourseError, one_of

BASELINES = ("grey", "blur")


# --- maps that know nothing of the model: what every method must beat -----------------------------


def random_maps(count: int, grid: tuple[int, int], seed: int = 0) -> torch.Tensor:
    """A random order of the patches for each picture, shape (N, rows, columns)."""
    return torch.rand(count, *grid, generator=torch.Generator().manual_seed(seed))


def centre_maps(count: int, grid: tuple[int, int]) -> torch.Tensor:
    """The nearer to the centre, the more important; shape (N, rows, columns), 0 to 1.

    Photographers put things in the middle, so this map often points at the object without
    looking at the picture.
    """
    rows, columns = (torch.linspace(-1, 1, n) if n > 1 else torch.zeros(1) for n in grid)
    distance = torch.sqrt(rows[:, None] ** 2 + columns**2) / math.sqrt(2)
    return (1 - distance).expand(count, *grid)


# --- deletion and insertion -----------------------------------------------------------------------


def hide(
    pixel_values: torch.Tensor,
    hidden: torch.Tensor,
    patch_size: int | tuple[int, int],
    baseline: str = "grey",
) -> torch.Tensor:
    """Pictures with some of their patches hidden.

    Args:
        pixel_values: Shape (N, 3, H, W), normalised as the model takes them.
        hidden: Truth values (N, rows, columns), true where a patch is hidden.
        patch_size: Side of a patch in pixels, or (height, width).
        baseline: What takes its place: `grey`, the value that the processor's normalisation
            maps to zero, or `blur`, the picture itself without anything finer than two patches.

    Returns:
        Shape (N, 3, H, W). A rest at the right and below that makes no whole patch stays: the
        model does not see it.
    """
    one_of("baseline", baseline, BASELINES)
    patch = (patch_size, patch_size) if isinstance(patch_size, int) else patch_size
    height, width = pixel_values.shape[-2:]
    mask = hidden.repeat_interleave(patch[0], dim=-2).repeat_interleave(patch[1], dim=-1)
    mask = nn.functional.pad(mask, (0, width - mask.shape[-1], 0, height - mask.shape[-2]))
    return torch.where(mask[:, None], _baseline(pixel_values, baseline, patch), pixel_values)


def _baseline(pixel_values, kind: str, patch: tuple[int, int]) -> torch.Tensor:
    if kind == "grey":
        return torch.zeros((), dtype=pixel_values.dtype, device=pixel_values.device)
    from torchvision.transforms.v2.functional import gaussian_blur

    return gaussian_blur(pixel_values, kernel_size=4 * max(patch) + 1, sigma=float(max(patch)))


def curves(
    model: nn.Module,
    pixel_values: torch.Tensor,
    maps: dict[str, torch.Tensor],
    classes: torch.Tensor,
    steps: int = 7,
    baseline: str = "grey",
    batch: int = 32,
) -> dict[str, dict[str, torch.Tensor]]:
    """Deletion and insertion curves of several methods over a set of pictures.

    Deletion hides the patches from the most important to the least: after a good map the
    probability of the class falls fast. Insertion starts with everything hidden and shows them in
    the same order: the probability rises fast.

    Source: Petsiuk et al. 2018, "RISE: Randomized Input Sampling for Explanation of Black-box
    Models", section 4.2, with patches in place of pixels. The paper starts insertion from a
    blurred picture; here both start from or end with the same baseline.

    Args:
        model: A classifier in evaluation mode. It may be fused, which is faster.
        pixel_values: Shape (N, 3, H, W).
        maps: Name -> importance of the patches, shape (N, rows, columns).
        classes: Shape (N,), the class whose probability is followed.
        steps: In how many equal parts the patches are hidden.
        baseline: See `hide`.
        batch: How many pictures the model sees at once.

    Returns:
        `{"deletion": {name: (N, steps + 1)}, "insertion": {...}}`: probabilities after
        0, 1/steps, ... of the patches.

    Raises:
        CourseError: If maps do not fit the pictures or there are more steps than patches.
    """
    grid = attention.grid_size(model, pixel_values)
    for name, one in maps.items():
        if tuple(one.shape) != (len(pixel_values), *grid):
            raise CourseError(
                f"The maps of {name!r} have shape {tuple(one.shape)}, but {len(pixel_values)} "
                f"pictures of {grid[0]} x {grid[1]} patches need {(len(pixel_values), *grid)}."
            )
    patches = grid[0] * grid[1]
    if not 1 <= steps <= patches:
        raise CourseError(f"steps is {steps}, but it must be from 1 to {patches}, the patches.")
    importance = torch.stack([m.cpu().flatten(1) for m in maps.values()], dim=1)  # (N, M, P)
    rank = importance.argsort(dim=-1, descending=True, stable=True).argsort(dim=-1)
    counts = (torch.arange(1, steps) * patches / steps).round()
    top = rank[:, :, None] < counts[:, None]  # (N, M, S - 1, P): the most important so far
    # Nothing and everything hidden are the same for all methods: measured once a picture.
    ends = torch.stack((torch.zeros(patches), torch.ones(patches))).bool()
    hidden = torch.cat((top.flatten(1, 2), ~top.flatten(1, 2), ends.expand(len(top), -1, -1)), 1)
    share = _probabilities(
        model, pixel_values, hidden.unflatten(-1, grid), classes, baseline, batch
    )
    deletion, insertion, ends = share.split([top[0, :, :, 0].numel()] * 2 + [2], dim=1)
    whole, nothing = (e[:, None].expand(-1, len(maps))[..., None] for e in ends.unbind(1))
    deletion = torch.cat((whole, deletion.unflatten(1, top.shape[1:3]), nothing), dim=-1)
    insertion = torch.cat((nothing, insertion.unflatten(1, top.shape[1:3]), whole), dim=-1)
    by_method = {"deletion": deletion.unbind(1), "insertion": insertion.unbind(1)}
    return {kind: dict(zip(maps, parts, strict=True)) for kind, parts in by_method.items()}


@torch.inference_mode()
def _probabilities(model, pixel_values, hidden, classes, baseline, batch) -> torch.Tensor:
    """Probability of each class under K masks a picture, (N, K, rows, columns): shape (N, K)."""
    count, masks = hidden.shape[:2]
    pictures = torch.arange(count).repeat_interleave(masks)
    hidden, parts = hidden.flatten(0, 1), []
    began = time.perf_counter()
    for i in runtime.bar(range(0, len(hidden), batch), "hide and look"):
        which = pictures[i : i + batch].to(pixel_values.device)
        mask = hidden[i : i + batch].to(pixel_values.device)
        some = hide(pixel_values[which], mask, model.config.patch_size, baseline)
        logits = model(pixel_values=some).logits
        answer = logits.softmax(dim=-1).gather(1, classes.to(logits.device)[which][:, None])
        parts.append(answer[:, 0].cpu())
        if i == 0:
            seconds = (time.perf_counter() - began) * len(hidden) / batch
            runtime.announce(f"{len(hidden)} pictures with hidden patches", seconds)
    return torch.cat(parts).unflatten(0, (count, masks))


def area(curve: torch.Tensor) -> torch.Tensor:
    """Area under curves (..., steps + 1) whose x axis goes from 0 to 1, by trapezoids."""
    return torch.trapezoid(curve, dx=1 / (curve.shape[-1] - 1), dim=-1)


def mean_interval(values: torch.Tensor) -> tuple[float, float]:
    """Mean of independent values and half the width of its 95 % confidence interval (Student's t).

    Raises:
        CourseError: If there are fewer than two values.
    """
    from scipy import stats

    if len(values) < 2:
        raise CourseError(f"{len(values)} value has no interval: measure at least 2 pictures.")
    exact = values.cpu().double()  # Apple's GPU has no float64
    error = exact.std().item() / math.sqrt(len(values))
    return exact.mean().item(), stats.t.ppf(0.975, len(values) - 1) * error


def table(measured: dict[str, dict[str, torch.Tensor]], reference: str = "random"):
    """Areas of deletion and insertion for each method, against a reference on the same pictures.

    Args:
        measured: From `curves`.
        reference: The method that the others are compared with.

    Returns:
        A pandas `DataFrame`, one row a method in the order given. Columns
        `deletion` (lower is better), `insertion` (higher is better), `insertion - deletion`, and
        `gain`: that difference less the reference's, picture by picture. Beside each stands
        `... ±`, half the width of its 95 % interval over pictures.
    """
    import pandas as pd

    one_of("reference", reference, tuple(measured["deletion"]))
    areas = {kind: {n: area(c) for n, c in parts.items()} for kind, parts in measured.items()}
    rows = {}
    for name in measured["deletion"]:
        deletion, insertion = areas["deletion"][name], areas["insertion"][name]
        base = areas["insertion"][reference] - areas["deletion"][reference]
        columns = {
            "deletion": deletion,
            "insertion": insertion,
            "insertion - deletion": insertion - deletion,
            "gain": insertion - deletion - base,
        }
        rows[name] = {}
        for column, values in columns.items():
            rows[name][column], rows[name][f"{column} ±"] = mean_interval(values)
    return pd.DataFrame.from_dict(rows, orient="index")


def for_reading(frame):
    """The table as text: mean and half the width of its interval, `≈ 0.21 ± ≈ 0.03`."""
    import pandas as pd

    columns = [name for name in frame.columns if f"{name} ±" in frame.columns]
    pairs = {name: zip(frame[name], frame[f"{name} ±"], strict=True) for name in columns}
    shown = {n: [f"≈ {mean:.3f} ± ≈ {half:.3f}" for mean, half in p] for n, p in pairs.items()}
    return pd.DataFrame(shown, index=frame.index)


# --- pointing game --------------------------------------------------------------------------------


def mosaics(pixel_values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Put four pictures each into one, halved: above left and right, below left and right.

    Source: Böhle et al. 2021, "Convolutional Dynamic Alignment Networks for Interpretable
    Classifications", section 4.2 (their grid is 3 x 3). Where each picture lies is known exactly.

    Args:
        pixel_values: Shape (4 K, 3, H, W), H and W even.

    Returns:
        `(mosaics, outlines)`: shapes (K, 3, H, W) and (4, H, W), the outlines as truth values in
        the order of the four places.

    Raises:
        CourseError: If the number of pictures is no multiple of four, or a side is odd.
    """
    count, _, height, width = pixel_values.shape
    if count == 0 or count % 4 or height % 2 or width % 2:
        raise CourseError(
            f"{count} pictures of {width} x {height} pixels make no mosaics of four: give a "
            "multiple of 4, with even sides."
        )
    size = (height // 2, width // 2)
    small = nn.functional.interpolate(pixel_values, size=size, mode="bilinear", antialias=True)
    a, b, c, d = small.unflatten(0, (-1, 4)).unbind(1)
    whole = torch.cat((torch.cat((a, b), dim=-1), torch.cat((c, d), dim=-1)), dim=-2)
    outlines = torch.zeros(4, height, width, dtype=torch.bool)
    for i in range(4):
        y, x = divmod(i, 2)
        outlines[i, y * size[0] : (y + 1) * size[0], x * size[1] : (x + 1) * size[1]] = True
    return whole, outlines


def pointing_game(maps: torch.Tensor, outlines: torch.Tensor) -> torch.Tensor:
    """Whether the most important patch of each map lies on the object.

    Source: Zhang et al. 2016, "Top-down Neural Attention by Excitation Backprop", section 4.1, with
    patches in place of pixels: the centre of the patch must lie inside the outline.

    Args:
        maps: Shape (N, rows, columns).
        outlines: Truth values (N, H, W), true on the object.

    Returns:
        Truth values, shape (N,).
    """
    rows, columns = maps.shape[-2:]
    height, width = outlines.shape[-2:]
    best = maps.flatten(1).argmax(dim=1).to(outlines.device)
    y = (best // columns * 2 + 1) * height // (2 * rows)
    x = (best % columns * 2 + 1) * width // (2 * columns)
    return outlines[torch.arange(len(maps), device=outlines.device), y, x]


def share_inside(maps: torch.Tensor, outlines: torch.Tensor) -> torch.Tensor:
    """The share of each map's weight that lies on the object, 0 to 1: stricter than one point.

    Args:
        maps: Shape (N, rows, columns), from 0.
        outlines: Truth values (N, H, W), true on the object.

    Returns:
        Shape (N,). A map that is the same everywhere gets the object's share of the area.
    """
    cover = nn.functional.adaptive_avg_pool2d(outlines[:, None].float(), maps.shape[-2:])[:, 0]
    weight = maps.to(cover.device) / maps.sum(dim=(1, 2), keepdim=True).to(cover.device)
    return (weight * cover).sum(dim=(1, 2))
