"""What goes with attention maps: the grid of patches, and how true a map is.

Shapes: N pictures. Token 0 is [CLS]; register tokens follow where a model has them; then come the
patches, row by row from the top left.
"""

import math

import torch
from torch import nn

from . import models
from .errors import CourseError, one_of


def grid_size(model: nn.Module) -> tuple[int, int]:
    """Rows and columns of patches, such as (14, 14) for 224 pixels and patches of 16.

    The square root of the number of tokens would be wrong for pictures that are not square and
    for models with extra tokens.
    """
    config = models.vision_config(model)
    if not hasattr(config, "image_size") or not hasattr(config, "patch_size"):
        raise CourseError(f"{type(model).__name__} has no grid of patches: not a ViT.")
    height, width = _pair(config.image_size)
    patch_height, patch_width = _pair(config.patch_size)
    return height // patch_height, width // patch_width


def _pair(value) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else (int(value[0]), int(value[1]))


REFERENCES = ("random", "centre")  # maps that have not looked at the picture


def centre_maps(count: int, grid: tuple[int, int]) -> torch.Tensor:
    """The nearer to the centre, the more important; shape (N, rows, columns), 0 to 1.

    Photographers put things in the middle, so this map often points at the object without
    looking at the picture.
    """
    rows, columns = (torch.linspace(-1, 1, n) if n > 1 else torch.zeros(1) for n in grid)
    distance = torch.sqrt(rows[:, None] ** 2 + columns**2) / math.sqrt(2)
    return (1 - distance).expand(count, *grid)


def faithfulness(measured: dict[str, dict[str, torch.Tensor]]):
    """Areas of deletion and insertion for each method, against `REFERENCES` on the same pictures.

    Source: Petsiuk et al. 2018, "RISE: Randomized Input Sampling for Explanation of Black-box
    Models", section 4.2, with patches in place of pixels.

    Args:
        measured: `{"deletion": {name: (N, steps + 1)}, "insertion": {...}}`: the probability of
            the class after each step, from 0 to all patches; N at least 2.

    Returns:
        A pandas `DataFrame`, one row a method in the order given. Columns `deletion` (lower is
        better), `insertion` (higher is better), and for each reference `over ...`: the difference
        insertion - deletion less that of the reference, picture by picture. Beside it stands
        `over ... ±`, half the width of an interval (Student's t) that is so wide that all of them
        together hold in 95 of 100 cases (Bonferroni's correction).
    """
    import pandas as pd
    from scipy import stats

    for reference in REFERENCES:
        one_of("reference", reference, tuple(measured["deletion"]))
    deletion, insertion = (
        pd.DataFrame({name: _area(curves) for name, curves in measured[kind].items()})
        for kind in ("deletion", "insertion")
    )
    if len(deletion) < 2:
        raise CourseError("One picture has no interval: measure at least 2 pictures.")
    gap = insertion - deletion
    comparisons = (len(gap.columns) - 1) * len(REFERENCES)
    width = stats.t.ppf(1 - 0.025 / comparisons, len(gap) - 1)
    table = pd.DataFrame({"deletion": deletion.mean(), "insertion": insertion.mean()})
    for reference in REFERENCES:
        over = gap.sub(gap[reference], axis=0)
        table[f"over {reference}"] = over.mean()
        table[f"over {reference} ±"] = width * over.sem()
    return table


def _area(curves: torch.Tensor):
    """The area below each curve, steps from 0 to 1."""
    return torch.trapezoid(curves.cpu().double(), dx=1 / (curves.shape[-1] - 1)).numpy()
