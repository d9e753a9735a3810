"""What was measured by hiding patches, as a table with intervals."""

import pytest
import torch

from vit_helpers import attention
from vit_helpers.errors import CourseError


def test_the_interval_is_the_one_of_the_books():
    # Ten values 1..10: mean 5.5, deviation 3.0277; t(0.975, 9) = 2.2622.
    mean, half = attention.mean_interval(torch.arange(1.0, 11))
    assert (mean, half) == (pytest.approx(5.5), pytest.approx(2.2622 * 3.0277 / 10**0.5, abs=1e-3))
    with pytest.raises(CourseError, match="at least 2 pictures"):
        attention.mean_interval(torch.ones(1))


def test_the_interval_holds_the_truth_in_95_of_100_cases():
    generator = torch.Generator().manual_seed(0)
    held = 0
    for _ in range(1000):
        mean, half = attention.mean_interval(torch.randn(12, generator=generator))
        held += abs(mean) <= half
    assert held / 1000 == pytest.approx(0.95, abs=0.02)


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
    gain = torch.tensor([0.6, 0.5, 0.7])
    _, half = attention.mean_interval(gain, level=1 - 0.05 / 4)  # two methods, two references
    table = attention.faithfulness(MEASURED)
    assert table.loc["good", "over random ±"] == pytest.approx(half)
    assert half > attention.mean_interval(gain)[1]


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
