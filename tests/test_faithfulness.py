"""Hiding patches measures a map as the papers say; a perfect map wins and a blind one does not."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision.transforms.v2.functional import gaussian_blur
from transformers import ViTConfig, ViTForImageClassification

from vit_helpers import faithfulness
from vit_helpers.errors import CourseError

GRID = (3, 4)


@pytest.fixture(scope="module")
def model():
    config = ViTConfig(
        hidden_size=24,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=48,
        image_size=(24, 32),
        patch_size=8,
        num_labels=5,
    )
    torch.manual_seed(0)
    model = ViTForImageClassification(config).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return model


@pytest.fixture(scope="module")
def pixels():
    return torch.randn(3, 3, 24, 32, generator=torch.Generator().manual_seed(1))


CLASSES = torch.tensor([0, 3, 4])


class OnePatch(torch.nn.Module):
    """A classifier that sees one patch alone: is it bright?"""

    config = SimpleNamespace(image_size=(24, 32), patch_size=8)

    def forward(self, pixel_values):
        bright = pixel_values[:, :, 8:16, 16:24].mean(dim=(1, 2, 3))  # row 1, column 2
        return SimpleNamespace(logits=torch.stack((-9 * bright, 9 * bright), dim=1))


# --- hiding ---------------------------------------------------------------------------------------


def test_hide_replaces_the_chosen_patches_and_nothing_else(pixels):
    hidden = torch.zeros(3, *GRID, dtype=torch.bool)
    hidden[1, 2, 3] = True
    result = faithfulness.hide(pixels, hidden, 8)
    assert torch.equal(result[[0, 2]], pixels[[0, 2]])
    assert not result[1, :, 16:24, 24:32].any()
    changed = (result != pixels).any(dim=1).nonzero()
    assert changed.min(dim=0).values.tolist() == [1, 16, 24]
    assert len(changed) == 8 * 8


def test_hide_can_blur_in_place_of_grey(pixels):
    everything = torch.ones(3, *GRID, dtype=torch.bool)
    result = faithfulness.hide(pixels, everything, 8, "blur")
    torch.testing.assert_close(result, gaussian_blur(pixels, 33, 8.0))
    assert result.std() < 0.2 * pixels.std()


def test_hide_leaves_a_rest_that_is_no_whole_patch(pixels):
    everything = torch.ones(3, 4, 2, dtype=torch.bool)
    result = faithfulness.hide(pixels, everything, (5, 15))
    assert not result[..., :20, :30].any()
    assert torch.equal(result[..., 30:], pixels[..., 30:])
    assert torch.equal(result[..., 20:, :], pixels[..., 20:, :])


def test_an_unknown_baseline_is_refused(pixels):
    with pytest.raises(CourseError, match="'black'.*'grey', 'blur'"):
        faithfulness.hide(pixels, torch.ones(3, *GRID, dtype=torch.bool), 8, "black")


# --- curves ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("batch", [1, 7, 100])
def test_curves_equal_a_plain_loop(model, pixels, batch):
    generator = torch.Generator().manual_seed(2)
    maps = {name: torch.rand(3, *GRID, generator=generator) for name in ("a", "b")}
    measured = faithfulness.curves(model, pixels, maps, CLASSES, steps=5, batch=batch)
    for name, one in maps.items():
        for i in range(3):
            order = np.argsort(-one[i].flatten().numpy())
            for step in range(6):
                treated = {divmod(int(p), 4) for p in order[: round(12 * step / 5)]}
                for kind in ("deletion", "insertion"):
                    picture = pixels[i].clone()
                    for y in range(3):
                        for x in range(4):
                            if ((y, x) in treated) == (kind == "deletion"):
                                picture[:, 8 * y : 8 * y + 8, 8 * x : 8 * x + 8] = 0.0
                    with torch.no_grad():
                        expected = model(picture[None]).logits.softmax(-1)[0, CLASSES[i]]
                    got = measured[kind][name][i, step]
                    assert float(got) == pytest.approx(float(expected), abs=1e-5)


@given(st.integers(0, 99), st.integers(1, 12))
@settings(max_examples=15, deadline=None)
def test_inserting_is_deleting_the_other_way_round(model_of_one_patch, seed, steps):
    one = faithfulness.random_maps(3, GRID, seed)
    pixels = torch.randn(3, 3, 24, 32, generator=torch.Generator().manual_seed(seed))
    maps = {"map": one, "opposite": -one}
    measured = faithfulness.curves(model_of_one_patch, pixels, maps, torch.tensor([0, 1, 1]), steps)
    if 12 % steps == 0:  # else the parts are not all of one size
        torch.testing.assert_close(
            measured["insertion"]["map"], measured["deletion"]["opposite"].flip(-1)
        )
    for name in maps:
        deletion, insertion = measured["deletion"][name], measured["insertion"][name]
        assert deletion.shape == insertion.shape == (3, steps + 1)
        assert torch.equal(deletion[:, 0], insertion[:, -1])
        assert torch.equal(deletion[:, -1], insertion[:, 0])


@pytest.fixture(scope="module")
def model_of_one_patch():
    return OnePatch()


def test_a_map_that_knows_what_the_answer_depends_on_wins(model_of_one_patch):
    pixels = torch.rand(20, 3, 24, 32, generator=torch.Generator().manual_seed(3)) + 0.5
    right = torch.zeros(20, *GRID)
    right[:, 1, 2] = 1.0
    maps = {
        "wrong": -right,
        "random": faithfulness.random_maps(20, GRID),
        "right": right,
    }
    answers = torch.ones(20, dtype=torch.long)
    measured = faithfulness.curves(model_of_one_patch, pixels, maps, answers, steps=6)
    table = faithfulness.table(measured)
    assert list(table.index) == list(maps)
    assert list(table["insertion - deletion"].sort_values().index) == ["wrong", "random", "right"]
    assert table.loc["right", "deletion"] < 0.6 < table.loc["wrong", "deletion"]
    assert table.loc["right", "gain"] > table.loc["right", "gain ±"]
    assert table.loc["wrong", "gain"] < -table.loc["wrong", "gain ±"]
    assert table.loc["random", ["gain", "gain ±"]].tolist() == [0, 0]


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"maps": {"flat": torch.rand(3, 12)}}, r"'flat' have shape \(3, 12\).*\(3, 3, 4\)"),
        ({"maps": {"few": torch.rand(2, 3, 4)}}, r"\(2, 3, 4\).*3 pictures of 3 x 4 patches"),
        ({"steps": 0}, "steps is 0, but it must be from 1 to 12"),
        ({"steps": 13}, "steps is 13"),
    ],
)
def test_what_does_not_fit_is_refused(model, pixels, change, sentence):
    arguments = {"maps": {"a": torch.rand(3, *GRID)}, "steps": 2} | change
    with pytest.raises(CourseError, match=sentence):
        faithfulness.curves(model, pixels, classes=CLASSES, **arguments)


# --- figures --------------------------------------------------------------------------------------


def test_area_is_the_mean_height():
    curves = torch.tensor([[0.4, 0.4, 0.4], [1.0, 0.5, 0.0], [0.0, 0.0, 1.0]])
    assert faithfulness.area(curves).tolist() == pytest.approx([0.4, 0.5, 0.25])


def test_the_interval_is_the_one_of_the_books():
    # Ten values 1..10: mean 5.5, deviation 3.0277; t(0.975, 9) = 2.2622.
    mean, half = faithfulness.mean_interval(torch.arange(1.0, 11))
    assert (mean, half) == (pytest.approx(5.5), pytest.approx(2.2622 * 3.0277 / 10**0.5, abs=1e-3))
    with pytest.raises(CourseError, match="at least 2 pictures"):
        faithfulness.mean_interval(torch.ones(1))


def test_the_interval_holds_the_truth_in_95_of_100_cases():
    generator = torch.Generator().manual_seed(0)
    held = 0
    for _ in range(1000):
        mean, half = faithfulness.mean_interval(torch.randn(12, generator=generator))
        held += abs(mean) <= half
    assert held / 1000 == pytest.approx(0.95, abs=0.02)


def test_the_table_as_text_marks_what_was_measured():
    halves = {"random": torch.tensor([[1.0, 0.0], [1.0, 0.0]]), "b": torch.tensor([[1.0, 1.0]] * 2)}
    table = faithfulness.table({"deletion": halves, "insertion": halves})
    shown = faithfulness.for_reading(table)
    assert list(shown.columns) == ["deletion", "insertion", "insertion - deletion", "gain"]
    assert shown.loc["random", "deletion"] == "≈ 0.500 ± ≈ 0.000"
    assert shown.loc["b", "insertion"] == "≈ 1.000 ± ≈ 0.000"


def test_a_reference_that_was_not_measured_is_refused(model, pixels):
    measured = faithfulness.curves(model, pixels, {"a": torch.rand(3, *GRID)}, CLASSES, steps=1)
    with pytest.raises(CourseError, match="reference is 'random'.*'a'"):
        faithfulness.table(measured)


def test_blind_maps():
    centre = faithfulness.centre_maps(2, (3, 5))
    assert centre.shape == (2, 3, 5)
    assert divmod(int(centre[0].argmax()), 5) == (1, 2)
    assert torch.equal(centre[0], centre[0].flip(0, 1))
    assert faithfulness.centre_maps(1, (1, 1)).tolist() == [[[1.0]]]
    one, same, other = (faithfulness.random_maps(2, (3, 5), seed) for seed in (0, 0, 1))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)
    assert not torch.equal(one[0], one[1])


# --- pointing game --------------------------------------------------------------------------------


def test_a_mosaic_holds_each_picture_where_its_outline_says():
    pictures = torch.arange(8.0)[:, None, None, None].expand(8, 3, 24, 32)
    whole, outlines = faithfulness.mosaics(pictures)
    assert whole.shape == (2, 3, 24, 32)
    assert outlines.shape == (4, 24, 32)
    assert (outlines.sum(dim=0) == 1).all()
    for i in range(2):
        for j in range(4):
            torch.testing.assert_close(
                whole[i][:, outlines[j]], torch.full((3, 12 * 16), float(4 * i + j))
            )


@pytest.mark.parametrize("shape", [(3, 3, 24, 32), (0, 3, 24, 32), (4, 3, 25, 32)])
def test_what_makes_no_mosaic_is_refused(shape):
    with pytest.raises(CourseError, match="no mosaics of four"):
        faithfulness.mosaics(torch.zeros(shape))


@given(st.integers(1, 9), st.integers(1, 9), st.integers(0, 99))
def test_pointing_hits_where_the_centre_of_the_best_patch_is_on_the_object(rows, columns, seed):
    maps = faithfulness.random_maps(4, (rows, columns), seed)
    height, width = 8 * rows, 8 * columns
    generator = torch.Generator().manual_seed(seed)
    outlines = torch.rand(4, height, width, generator=generator) < 0.5
    hits = faithfulness.pointing_game(maps, outlines)
    for i in range(4):
        y, x = divmod(int(maps[i].argmax()), columns)
        assert hits[i] == outlines[i, 8 * y + 4, 8 * x + 4]


def test_the_same_map_for_all_four_classes_hits_one_of_the_four_places():
    outlines = faithfulness.mosaics(torch.zeros(4, 3, 224, 224))[1]
    one = faithfulness.random_maps(1, (14, 14)).expand(4, 14, 14)
    assert faithfulness.pointing_game(one, outlines).sum() == 1
    torch.testing.assert_close(faithfulness.share_inside(one, outlines).sum(), torch.tensor(1.0))


def test_share_inside_of_an_even_map_is_the_share_of_the_area():
    outlines = torch.zeros(2, 24, 32, dtype=torch.bool)
    outlines[0, :12] = True
    outlines[1, :8, :8] = True
    shares = faithfulness.share_inside(torch.ones(2, *GRID), outlines)
    torch.testing.assert_close(shares, torch.tensor([1 / 2, 1 / 12]))
