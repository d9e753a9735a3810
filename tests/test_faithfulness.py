"""What was measured by hiding patches, as a table with intervals."""

import pytest
import torch

from vit_helpers import attention
from vit_helpers.errors import CourseError


def curves(*heights):
    """Level curves of one method: a height for each picture."""
    return torch.tensor(heights)[:, None].expand(-1, 4)


MEASURED = {
    "deletion": {
        "good": curves(0.2, 0.3, 0.1),
        "random": curves(0.5, 0.5, 0.6),
        "centre": curves(0.2, 0.4, 0.2),
    },
    "insertion": {
        "good": curves(0.8, 0.7, 0.8),
        "random": curves(0.5, 0.4, 0.6),
        "centre": curves(0.7, 0.7, 0.9),
    },
}


def test_methods_are_compared_picture_by_picture():
    table = attention.faithfulness(MEASURED)
    assert list(table.index) == ["good", "random", "centre"]
    assert table.loc["good", "deletion"] == pytest.approx(0.2)
    assert table.loc["good", "insertion"] == pytest.approx(2.3 / 3)
    # insertion - deletion: 0.6, 0.4, 0.7; random 0, -0.1, 0; centre 0.5, 0.3, 0.7.
    assert table.loc["good", "over random"] == pytest.approx((0.6 + 0.5 + 0.7) / 3)
    assert table.loc["good", "over centre"] == pytest.approx((0.1 + 0.1 + 0.0) / 3)
    assert table.loc["random", ["over random", "over random ±"]].tolist() == [0, 0]


def test_the_intervals_hold_for_all_comparisons_together():
    # Gains 0.6, 0.5, 0.7: deviation 0.1. Two methods against two references: t(1 - 0.025/4, 2).
    table = attention.faithfulness(MEASURED)
    assert table.loc["good", "over random ±"] == pytest.approx(8.860 * 0.1 / 3**0.5, abs=1e-3)
    one = {kind: {n: c[:1] for n, c in curves_.items()} for kind, curves_ in MEASURED.items()}
    with pytest.raises(CourseError, match="at least 2 pictures"):
        attention.faithfulness(one)


def test_a_reference_that_was_not_measured_is_refused():
    blind = {kind: {"good": curves_["good"]} for kind, curves_ in MEASURED.items()}
    with pytest.raises(CourseError, match="reference is 'random'.*'good'"):
        attention.faithfulness(blind)


def test_the_map_of_the_centre_is_even_on_all_sides():
    centre = attention.centre_maps(2, (3, 5))
    assert centre.shape == (2, 3, 5)
    assert divmod(int(centre[0].argmax()), 5) == (1, 2)
    assert torch.equal(centre[0], centre[0].flip(0, 1))
    assert attention.centre_maps(1, (1, 1)).tolist() == [[[1.0]]]
