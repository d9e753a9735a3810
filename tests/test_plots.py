"""Every figure is a `Plot` that says in words what it shows, with the numbers of its data."""

import inspect
import warnings
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from fontTools.fontBuilder import FontBuilder
from fontTools.pens.ttGlyphPen import TTGlyphPen
from matplotlib import font_manager
from matplotlib.collections import Collection, QuadMesh
from matplotlib.colors import same_color, to_rgb
from matplotlib.image import AxesImage
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.text import Text
from PIL import Image

from vit_helpers import plots
from vit_helpers.plots import shared
from vit_helpers.widgets import explorer

PICTURE = Image.fromarray(np.tile(np.arange(120, dtype=np.uint8), (90, 1))).convert("RGB")

HISTORY = pd.DataFrame(
    {
        "train loss": [2.0, 1.0],
        "validation loss": [2.1, 1.4],
        "train accuracy": [0.3, 0.8],
        "validation accuracy": [0.4, 0.6],
    },
    index=[1, 2],
)

RACE = pd.DataFrame(
    {
        "median ms": [50.0, 25.0],
        "p95 ms": [60.0, 30.0],
        "speed-up": [1.0, 2.0],
        "agreement": [1.0, 0.995],
        "agreement from": [0.98, 0.98],
        "agreement to": [1.0, 1.0],
        "computes in": ["fp32", "bf16"],
        "not here": ["", ""],
        "verdict": ["baseline", "faster"],
        "from": [float("nan"), 1.8],
        "to": [float("nan"), 2.2],
        "pareto": [True, True],
    },
    index=["eager", "sdpa"],
)


def peak(row, column):
    """A map of 6 x 4 patches with 20 % in one place and 2 % elsewhere."""
    grid = torch.full((6, 4), 0.02)
    grid[row, column] = 0.2
    return grid


# For each public plot function: its arguments, and words that its alternative text must hold.
CASES = {
    "image_grid": (
        {"pictures": [PICTURE] * 7, "titles": list("abcdefg"), "columns": 5},
        ["7 pictures in 2 rows", "a; b; c; d; e; f; g"],
    ),
    "picture_to_patches": (
        {
            "picture": PICTURE,
            "seen": torch.rand(3, 48, 32),
            "patches": torch.rand(24, 3, 8, 8),
            "grid": (6, 4),
        },
        ["120 by 90 pixels", "32 by 48", "4 by 6 = 24"],
    ),
    "vit_diagram": (
        {
            "config": SimpleNamespace(
                image_size=32,
                patch_size=8,
                hidden_size=24,
                num_hidden_layers=3,
                num_attention_heads=2,
                intermediate_size=96,
                num_labels=7,
            )
        },
        ["32 by 32 pixels", "16 patches", "3 blocks", "2 heads", "7 logits", "are blue"],
    ),
    "position_similarity": (
        {"similarity": torch.eye(24) + 0.25, "grid": (6, 4)},
        ["2 maps of 6 by 4", "row 5, column 2 it is", "0.25 with the corner above left"],
    ),
    "reliability": (
        {
            "confidence": torch.tensor([0.3, 0.9, 1.0]),
            "right": torch.tensor([True, False, True]),
            "bins": 2,
            "error": 0.5333,
        },
        ["3 pictures in 2 bins", "30 % sure, 100 % right of 1; 95 % sure, 50 % right of 2", "53 p"],
    ),
    "map_table": (
        {"pictures": [PICTURE] * 2, "columns": {"a": torch.stack([peak(0, 0), peak(5, 3)])}},
        ["2 pictures with 1 maps", "picture 1, a: row 1 of 6, column 1 of 4; picture 2, a: row 6"],
    ),
    "feature_colours": (
        {"pictures": [PICTURE] * 2, "columns": {"last": torch.rand(2, 6, 4, 3)}},
        ["2 pictures", "(last)", "similar colours"],
    ),
    "sink_heads": (
        {
            "to_cls": torch.tensor([[0.9, 0.1], [0.2, 0.7]]),
            "to_patch": torch.tensor([[0.1, 0.6], [0.2, 0.1]]),
        },
        ["2 layers by 2 heads", "2 to [CLS] and 1 to one single patch"],
    ),
    "logit_lens": (
        {"shares": torch.tensor([[0.0, 0.2, 0.9], [0.1, 0.3, 0.5]]), "names": ["cat", "dog"]},
        ["cat 20 % after 1 blocks, 90 % at the end; dog 30 %"],
    ),
    "top_classes": (
        {"picture": PICTURE, "top": [("tabby, tabby cat", 0.9), ("dog", 0.0999), ("x", 0.0001)]},
        ["top 3 classes: tabby 90.0 %, dog 10.0 %, x below 0.1 %"],
    ),
    "temperature": (
        {
            "temperatures": [0.5, 1, 2],
            "probabilities": torch.tensor([[0.9, 0.1], [0.7, 0.3], [0.6, 0.4]]),
            "names": ["cat", "dog"],
        },
        ["cat goes from 90.0 % at 0.5 to 60.0 % at 2"],
    ),
    "attention_map": (
        {"picture": PICTURE, "grid_map": peak(2, 1), "title": "layer 3, head 0"},
        ["layer 3, head 0", "6 by 4 patches", "20.0 %, is in row 3 of 6, column 2 of 4", "66 %"],
    ),
    "attention_grid": (
        {"picture": PICTURE, "maps": {"a": peak(0, 0), "b": peak(5, 3)}, "title": "All heads"},
        ["All heads: 2 maps", "a 20.0 % in row 1 of 6, column 1 of 4", "b 20.0 % in row 6 of 6"],
    ),
    "attention_by_layer": (
        {
            "distance": torch.tensor([[10.0, 40.0], [60.0, float("nan")]]),
            "bits": torch.tensor([[2.0, 3.0], [4.0, 0.1]]),
            "sinks": torch.tensor([[False, False], [False, True]]),
            "even_distance": 115.0,
            "even_bits": 7.6,
        },
        ["of 3 heads, from 10 to 60 pixels", "be 115", "7.6 bits", "the 1 hollow", "1 in layer 1"],
    ),
    "faithfulness": (
        {
            "measured": {
                kind: {name: torch.rand(4, 3) for name in ("rollout", "random", "centre")}
                for kind in ("deletion", "insertion")
            },
            "table": pd.DataFrame(
                {
                    "over random": [0.25, 0.0, 0.2],
                    "over random ±": [0.1, 0.0, 0.1],
                    "over centre": [0.05, -0.2, 0.0],
                    "over centre ±": [0.1, 0.1, 0.0],
                },
                index=["rollout", "random", "centre"],
            ),
        },
        ["3 orders", "rollout +0.25 ± 0.10 over random", "rollout +0.05 ± 0.10 over centre"],
    ),
    "token_sinks": (
        {
            "norms": torch.tensor([[1.0, 2, 2, 2], [30.0, 4, 5, 90]]),
            "received": torch.tensor([[0.7, 0.1, 0.1, 0.1]]),
        },
        ["median patch has 5, the longest 90, [CLS] 30", "at most 70 % (layer 0)", "share is 25.0"],
    ),
    "training_curves": (
        {
            "losses": [2.0, 1.5, 1.2, 1.0],
            "steps": [0, 2, 4],
            "validation_loss": [2.3, 1.6, 1.1],
            "validation_accuracy": [0.1, 0.5, 0.6],
            "pictures": 50,
        },
        ["over 4 training steps", "from 2.00 to 1.00", "from 10.0 to 60.0 %", "best: 60.0 %"],
    ),
    "confusion": (
        {"matrix": [[8, 2], [1, 9]], "names": ["cat", "dog"]},
        ["2 true classes by 2 answers over 20 pictures", "right answers: 17"],
    ),
    "answers": (
        {
            "pictures": [PICTURE] * 3,
            "labels": torch.tensor([0, 1, 1]),
            "predictions": torch.tensor([0, 1, 0]),
            "confidences": torch.tensor([0.9, 0.8, 0.7]),
            "names": ["cat", "dog"],
        },
        ["3 pictures", "with a tick): 2"],
    ),
    "confused_pairs": (
        {"pairs": [(PICTURE, "rose", PICTURE, "tulip", 4), (PICTURE, "fig", PICTURE, "kiwi", 2)]},
        ["2 columns", "mistake: 4 times"],
    ),
    "interval_bars": (
        {"shares": {"probe": (0.5, 0.4, 0.6), "all": (0.75, 0.7, 0.8)}, "chance": 0.1},
        ["probe 50.0 %, all 75.0 %"],
    ),
    "differences": (
        {
            "table": pd.DataFrame(
                {
                    "accuracy, %": [60.0, 20.0, 52.0],
                    "difference from the probe, points": [10.0, -30.0, 2.0],
                    "95 % from": [5.0, -40.0, -4.0],
                    "95 % to": [15.0, -20.0, 8.0],
                    "verdict": ["better", "worse", "cannot tell"],
                },
                index=["LoRA", "from scratch", "everything"],
            ),
            "against": "the probe",
        },
        ["LoRA 60.0 %, +10.0 points: better", "everything 52.0 %, +2.0 points: cannot tell"],
    ),
    "accuracy_by_count": (
        {
            "counts": [1, 10],
            "means": [0.2, 0.6],
            "lows": [0.1, 0.5],
            "highs": [0.3, 0.7],
            "chance": 0.01,
        },
        ["1: 20.0 %, 10: 60.0 %"],
    ),
    "timings": (
        {"first": [9.0, 8.0], "later": [1.0, 2.0, 3.0]},
        ["5 timings", "After 2 warm-up calls", "median of 2.0 ms"],
    ),
    "race_bars": ({"table": RACE}, ["eager 50.0 ms, sdpa 25.0 ms"]),
    "speed_agreement": (
        {"frame": RACE},
        ["eager 1.00 times as fast", "sdpa 2.00 times as fast, agreement 99.5 %"],
    ),
    "batch_sizes": (
        {
            "table": pd.DataFrame(
                {
                    "engine": ["eager"] * 2,
                    "batch": [1, 2],
                    "images/s": [20.0, 25.0],
                }
            ),
        },
        ["batch sizes 1 to 2", "at most 25.0 pictures a second"],
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_a_figure_says_in_words_what_it_shows(name):
    arguments, words = CASES[name]
    plot = getattr(plots, name)(**arguments)
    assert isinstance(plot, plots.Plot)
    for word in words:
        assert word in plot.alt
    data, metadata = plot._repr_mimebundle_()
    assert data["text/plain"] == plot.alt == metadata["image/png"]["alt"]
    assert len(data["image/png"]) > 1000


def public_plot_functions():
    for name, function in inspect.getmembers(plots, inspect.isfunction):
        if function.__module__.startswith(plots.__name__) and not name.startswith("_"):
            if function.__annotations__.get("return") in (plots.Plot, "Plot"):
                yield name


def test_every_plot_function_is_tested_here():
    assert set(public_plot_functions()) - {"finish"} == set(CASES)


@pytest.mark.parametrize("name", sorted(set(public_plot_functions()) - {"finish"}))
def test_axes_with_numbers_are_labelled(name):
    plot = getattr(plots, name)(**CASES[name][0])
    for ax in plot.axes:
        if (
            ax.axison
            and (len(ax.get_xticks()) or len(ax.get_yticks()))
            and (ax.lines or ax.patches or ax.collections)
            and ax.get_label() != "<colorbar>"
        ):
            assert ax.get_xlabel() or ax.get_ylabel()


def test_the_overlay_covers_the_whole_picture():
    plot = plots.attention_map(PICTURE, peak(5, 3), "corner")
    below, above = plot.axes[2].images
    assert below.get_extent() == above.get_extent() == [0, 120, 90, 0]
    assert above.get_array().shape == (90, 120)
    assert above.get_array()[-1, -1] == pytest.approx(20.0)


def test_one_colour_scale_for_map_and_overlay():
    plot = plots.attention_map(PICTURE, peak(0, 0), "scale")
    in_map, overlay = plot.axes[1].images[0], plot.axes[2].images[1]
    assert in_map.get_clim() == overlay.get_clim() == (0, pytest.approx(20.0))
    assert plot.axes[-1].get_ylabel() == "attention of [CLS] in %"


@pytest.mark.parametrize(
    ("share", "words"),
    [(0.123, "12.3 %"), (1.0, "100.0 %"), (0.0004, "below 0.1 %"), (0.0, "0.0 %")],
)
def test_percent(share, words):
    assert plots.percent(share) == words


@pytest.mark.parametrize(
    ("plot", "words"),
    [
        (lambda: plots.answers([], [], [], [], ["cat"]), "There is no such picture."),
        (lambda: plots.confused_pairs([]), "No class was taken for another."),
    ],
)
def test_nothing_to_show_is_said_in_words(plot, words):
    assert plot().alt == words


# --- colours that survive colour blindness --------------------------------------------------------

# What is seen without one of the three kinds of cones: linear RGB to linear RGB. Source: Machado et
# al. 2009, "A Physiologically-based Model for Simulation of Color Vision Deficiency", table 1.
SIGHTS = {
    "all cones": np.eye(3),
    "protanopia": [
        [0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216],
        [-0.003882, -0.048116, 1.051998],
    ],
    "deuteranopia": [
        [0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413],
        [-0.011820, 0.042940, 0.968881],
    ],
    "tritanopia": [
        [1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602],
        [0.004733, 0.691367, 0.303900],
    ],
}  # fmt: skip
TO_XYZ = [[0.4125, 0.3576, 0.1804], [0.2127, 0.7152, 0.0722], [0.0193, 0.1192, 0.9503]]


def lab(colours, sight):
    """Colours (..., 3) from 0 to 1 as CIELAB under white D65: lightness, green-red, blue-yellow."""
    linear = np.where(colours <= 0.04045, colours / 12.92, ((colours + 0.055) / 1.055) ** 2.4)
    xyz = (linear @ np.transpose(SIGHTS[sight])).clip(0, 1) @ np.transpose(TO_XYZ)
    xyz = xyz / [0.9505, 1.0, 1.089]
    f = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116)
    x, y, z = np.moveaxis(f, -1, 0)
    return np.stack((116 * y - 16, 500 * (x - y), 200 * (y - z)), axis=-1)


@pytest.mark.parametrize("sight", SIGHTS)
def test_categories_differ_for_every_eye(sight):
    seen = lab(np.array([to_rgb(colour) for colour in plots.PALETTE]), sight)
    apart = np.linalg.norm(seen[:, None] - seen, axis=-1) + 100 * np.eye(len(seen))
    assert apart.min() > 15  # about 2.3 is the least difference that is noticed


def rises(name, sight):
    """Whether more is lighter, and by a step that can be seen, along a colour map."""
    seen = lab(plots.colour_table(name)[::16, :3] / 255, sight)
    steps = np.linalg.norm(np.diff(seen, axis=0), axis=1)
    return np.diff(seen[:, 0]).min() > 0 and steps.min() > 2.3


@pytest.mark.parametrize("sight", SIGHTS)
@pytest.mark.parametrize("name", explorer.COLOURS)
def test_more_is_lighter_for_every_eye(name, sight):
    assert rises(name, sight)


def test_a_rainbow_would_be_found():
    assert not rises("jet", "all cones")


def colours_of(artist):
    """The colours that an artist is drawn with, where they are not those of a colour map."""
    if isinstance(artist, Text):
        return [artist.get_color()]
    if isinstance(artist, Line2D):
        line = [artist.get_color()] * (artist.get_linestyle() != "None")
        marks = [artist.get_markerfacecolor(), artist.get_markeredgecolor()]
        return line + marks * (artist.get_marker() != "None")
    if isinstance(artist, (Collection, Patch)) and not isinstance(artist, QuadMesh):
        return [*np.atleast_2d(artist.get_facecolor()), *np.atleast_2d(artist.get_edgecolor())]
    return []


@pytest.mark.parametrize("name", CASES)
def test_figures_use_no_other_colours(name):
    plot = getattr(plots, name)(**CASES[name][0])
    allowed = {to_rgb(colour) for colour in plots.PALETTE}
    for artist in plot.findobj():
        if isinstance(artist, AxesImage) and artist.get_array().ndim == 2:
            assert artist.cmap.name in ("gray", plots.attention.COLOURS.name, *explorer.COLOURS)
        for colour in colours_of(artist):
            if len(colour) and not same_color(colour, "none"):
                red, green, blue = to_rgb(colour)
                assert red == green == blue or (red, green, blue) in allowed, (artist, colour)


@pytest.fixture
def fresh_letters():
    """What is known of fonts is forgotten before and after."""
    known = (shared._families, shared._letters)
    for function in known:
        function.cache_clear()
    yield
    for function in known:
        function.cache_clear()


def test_names_of_east_asia_are_drawn_where_a_font_for_them_is_here(
    fresh_letters, tmp_path, monkeypatch
):
    pen = TTGlyphPen(None)
    pen.moveTo((0, 0))
    for corner in ((0, 900), (900, 900), (900, 0)):
        pen.lineTo(corner)
    pen.closePath()
    square = pen.glyph()
    font = FontBuilder(1000, isTTF=True)
    font.setupGlyphOrder([".notdef", "cat"])
    font.setupCharacterMap({ord("猫"): "cat"})
    font.setupGlyf({".notdef": square, "cat": square})
    font.setupHorizontalMetrics({".notdef": (1000, 0), "cat": (1000, 0)})
    font.setupHorizontalHeader(ascent=900, descent=-100)
    font.setupNameTable({"familyName": "Noto Sans CJK SC", "styleName": "Regular"})
    font.setupOS2()
    font.setupPost()
    font.save(tmp_path / "font.ttf")
    fonts = font_manager.fontManager
    monkeypatch.setattr(fonts, "ttflist", list(fonts.ttflist))
    fonts.addfont(tmp_path / "font.ttf")

    assert shared.drawable("猫 cat 犬") == "猫 cat □"
    plot = plots.top_classes(PICTURE, [("猫", 0.6), ("cat", 0.4)])
    assert "猫" in [label.get_text() for label in plot.axes[1].get_yticklabels()]
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)  # a glyph that is missing
        assert plot.png()
