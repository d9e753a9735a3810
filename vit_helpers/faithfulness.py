"""Does a map show what the answer depends on? What was measured by hiding patches, as a table.

Source of the measure: Petsiuk et al. 2018, "RISE: Randomized Input Sampling for Explanation of
Black-box Models", section 4.2, with patches in place of pixels.
"""

import math

import torch

from .errors import CourseError, one_of


def centre_maps(count: int, grid: tuple[int, int]) -> torch.Tensor:
    """The nearer to the centre, the more important; shape (N, rows, columns), 0 to 1.

    Photographers put things in the middle, so this map often points at the object without
    looking at the picture.
    """
    rows, columns = (torch.linspace(-1, 1, n) if n > 1 else torch.zeros(1) for n in grid)
    distance = torch.sqrt(rows[:, None] ** 2 + columns**2) / math.sqrt(2)
    return (1 - distance).expand(count, *grid)


def area(curve: torch.Tensor) -> torch.Tensor:
    """Area under curves (..., steps + 1) whose x axis goes from 0 to 1, by trapezoids."""
    return torch.trapezoid(curve, dx=1 / (curve.shape[-1] - 1), dim=-1)


def mean_interval(values: torch.Tensor, level: float = 0.95) -> tuple[float, float]:
    """Mean of independent values and half the width of its confidence interval (Student's t).

    Raises:
        CourseError: If there are fewer than two values.
    """
    from scipy import stats

    if len(values) < 2:
        raise CourseError(f"{len(values)} value has no interval: measure at least 2 pictures.")
    exact = values.cpu().double()  # Apple's GPU has no float64
    error = exact.std().item() / math.sqrt(len(values))
    return exact.mean().item(), stats.t.ppf((1 + level) / 2, len(values) - 1) * error


def table(
    measured: dict[str, dict[str, torch.Tensor]], references: tuple[str, ...] = ("random", "centre")
):
    """Areas of deletion and insertion for each method, against references on the same pictures.

    Args:
        measured: `{"deletion": {name: (N, steps + 1)}, "insertion": {...}}`: probabilities.
        references: The methods that the others are compared with.

    Returns:
        A pandas `DataFrame`, one row a method in the order given. Columns `deletion` (lower is
        better), `insertion` (higher is better), and for each reference `over ...`: the difference
        insertion - deletion less that of the reference, picture by picture. Beside it stands
        `over ... ±`, half the width of an interval that is so wide that all of them together hold
        in 95 of 100 cases (Bonferroni's correction).
    """
    import pandas as pd

    for reference in references:
        one_of("reference", reference, tuple(measured["deletion"]))
    kinds = ("deletion", "insertion")
    deletion, insertion = ({n: area(c) for n, c in measured[kind].items()} for kind in kinds)
    gap = {name: insertion[name] - deletion[name] for name in deletion}
    comparisons = (len(deletion) - 1) * len(references)
    rows = {}
    for name in deletion:
        rows[name] = {
            "deletion": deletion[name].mean().item(),
            "insertion": insertion[name].mean().item(),
        }
        for reference in references:
            mean, half = mean_interval(gap[name] - gap[reference], 1 - 0.05 / comparisons)
            rows[name] |= {f"over {reference}": mean, f"over {reference} ±": half}
    return pd.DataFrame.from_dict(rows, orient="index")
