"""The explorer sends the right numbers to the browser, and has a picture where none is."""

import base64
import io
import json
import zlib

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from vit_helpers.errors import CourseError
from vit_helpers.widgets import explorer

LAYERS, HEADS, GRID, SPECIAL = 3, 2, (3, 4), 2
TOKENS = GRID[0] * GRID[1] + SPECIAL
PICTURE = Image.new("RGB", (800, 600), "navy")


def random_attention(*shape):
    logits = torch.randn(*shape, generator=torch.Generator().manual_seed(0))
    return (2 * logits).softmax(dim=-1)


ATTN = random_attention(LAYERS, HEADS, TOKENS, TOKENS)


def unpacked(widget):
    """What the browser has: the weights of all rows, (rows, T)."""
    maps = widget.spec["maps"]
    patches = maps["tokens"] - maps["special"]
    steps = np.frombuffer(zlib.decompress(widget.weights), dtype=np.uint8).reshape(-1, patches)
    specials = np.frombuffer(widget.specials, dtype="<f4").reshape(-1, maps["special"])
    weights = steps / 255 * np.frombuffer(widget.largest, dtype="<f4")[:, None]
    return np.hstack((specials, weights))


def test_the_browser_gets_every_weight():
    widget = explorer.explore(PICTURE, ATTN, GRID)
    rows = unpacked(widget)
    expected = ATTN.reshape(-1, TOKENS).numpy()
    assert rows.shape == expected.shape
    top = expected[:, SPECIAL:].max(axis=1, keepdims=True)
    assert (abs(rows - expected)[:, SPECIAL:] <= top / 509).all()
    assert (rows[:, :SPECIAL] == expected[:, :SPECIAL]).all()
    assert widget.spec["maps"] | {"extras": []} == {
        "layers": LAYERS,
        "heads": HEADS,
        "tokens": TOKENS,
        "special": SPECIAL,
        "rows": GRID[0],
        "columns": GRID[1],
        "extras": [],
    }


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_attention_of_other_number_formats(dtype):
    widget = explorer.explore(PICTURE, ATTN.to(dtype), GRID)
    expected = unpacked(explorer.explore(PICTURE, ATTN.to(dtype).float(), GRID))
    assert (unpacked(widget) == expected).all()


@settings(max_examples=50, deadline=None)
@given(
    st.integers(1, 5).flatmap(
        lambda n: st.lists(
            st.lists(st.floats(0, 1, width=32, allow_subnormal=False), min_size=n, max_size=n),
            min_size=1,
            max_size=4,
        )
    )
)
def test_a_weight_is_off_by_at_most_half_a_step(rows):
    rows = np.array(rows, dtype=np.float32)
    weights, largest, specials = explorer.as_bytes(rows, special=0)
    assert specials == b""
    steps = np.frombuffer(zlib.decompress(weights), dtype=np.uint8).reshape(rows.shape)
    top = np.frombuffer(largest, dtype="<f4")[:, None]
    bound = rows.max(axis=1, keepdims=True).astype(np.float64) / 509
    assert (abs(steps / 255 * top - rows) <= bound).all()


def test_patches_keep_their_differences_where_cls_gets_nearly_all():
    attn = ATTN.clone()
    attn[..., 0] += 1000  # as in the first layers of many models
    attn /= attn.sum(dim=-1, keepdim=True)
    expected = attn.reshape(-1, TOKENS).numpy()[:, SPECIAL:]
    rows = unpacked(explorer.explore(PICTURE, attn, GRID))[:, SPECIAL:]
    assert (rows.argmax(axis=1) == expected.argmax(axis=1)).all()
    assert (abs(rows - expected) <= expected.max(axis=1, keepdims=True) / 509).all()


def test_the_size_of_the_course_fits():
    attn = random_attention(12, 12, 197, 197)
    extra = {name: attn[0, i] for i, name in enumerate(("rollout", "relevance", "other class"))}
    widget = explorer.explore(PICTURE, attn, (14, 14), extra)
    parts = (widget.weights, widget.largest, widget.specials, widget.picture)
    assert sum(map(len, parts)) / 1e6 < 6


class TestExtraMaps:
    def test_shares_stay_as_they_are(self):
        widget = explorer.explore(PICTURE, ATTN, GRID, {"rollout": ATTN[0, 0]})
        assert widget.spec["maps"]["extras"] == [
            {"name": "rollout", "queries": TOKENS, "relative": False}
        ]
        assert np.allclose(unpacked(widget)[-TOKENS:], ATTN[0, 0], atol=2e-3)

    def test_scores_become_shares_of_the_patches(self):
        scores = torch.arange(TOKENS).float()
        widget = explorer.explore(PICTURE, ATTN, GRID, {"relevance: cat": scores})
        assert widget.spec["maps"]["extras"] == [
            {"name": "relevance: cat", "queries": 1, "relative": True}
        ]
        row = unpacked(widget)[-1]
        assert (row[:SPECIAL] == 0).all()
        assert row.sum() == pytest.approx(1, abs=0.01)

    @pytest.mark.parametrize("shape", [(5,), (TOKENS, 3), (1, 1, TOKENS)])
    def test_a_wrong_shape_is_named(self, shape):
        with pytest.raises(CourseError, match=r"'mine' has shape .* must be"):
            explorer.explore(PICTURE, ATTN, GRID, {"mine": np.ones(shape)})


class TestBadInput:
    @pytest.mark.parametrize("attn", [ATTN[0], ATTN[None], ATTN[..., :3]])
    def test_shape(self, attn):
        with pytest.raises(CourseError, match="choose one picture of the batch"):
            explorer.explore(PICTURE, attn, GRID)

    def test_grid(self):
        with pytest.raises(CourseError, match=r"14 tokens are too few .* 4 x 4"):
            explorer.explore(PICTURE, ATTN, (4, 4))

    @pytest.mark.parametrize("bad", [-0.1, float("nan"), float("inf")])
    def test_no_weights(self, bad):
        attn = ATTN.clone()
        attn[0, 0, 0, 0] = bad
        with pytest.raises(CourseError, match="attn has weights below zero or"):
            explorer.explore(PICTURE, attn, GRID)

    def test_too_large_for_a_browser(self, monkeypatch):
        monkeypatch.setattr(explorer, "LARGEST_MEGABYTES", 0.001)
        with pytest.raises(CourseError, match="leave layers out"):
            explorer.explore(PICTURE, ATTN, GRID)


@pytest.mark.parametrize("mode", ["RGBA", "L", "P"])
def test_any_picture_becomes_a_small_jpeg(mode):
    widget = explorer.explore(PICTURE.convert(mode), ATTN, GRID)
    head, content = widget.picture.split(",")
    picture = Image.open(io.BytesIO(base64.b64decode(content)))
    assert head == "data:image/jpeg;base64" and picture.size == (640, 480)


def test_a_picture_with_words_stands_where_no_widget_runs():
    widget = explorer.explore(PICTURE, ATTN, GRID, {"rollout": ATTN[0, 0]})
    data, metadata = widget._repr_mimebundle_()
    assert base64.b64decode(data["image/png"]).startswith(b"\x89PNG")
    assert "application/vnd.jupyter.widget-view+json" in data
    assert data["text/plain"].startswith("The attention explorer: run this cell")
    words = metadata["image/png"]["alt"]
    assert "layer 2, mean of heads, from [CLS]" in words and "rollout, from [CLS]" in words
    assert "from the patch in row 2, column 3" in words
    again = explorer.explore(PICTURE, ATTN, GRID, {"rollout": ATTN[0, 0]})
    assert again._repr_mimebundle_()[0]["text/plain"] == data["text/plain"]  # compared under test


def test_what_is_sent_is_json_and_bytes():
    spec = explorer.explore(PICTURE, ATTN, GRID).spec
    assert json.loads(json.dumps(spec))["start"][1]["layer"] == LAYERS // 2


def test_code_and_style_are_in_the_package_and_ask_for_nothing_from_the_web():
    widget = explorer.explore(PICTURE, ATTN, GRID)
    for text in (widget._esm, widget._css):
        assert len(str(text)) > 1000
        assert "http" not in str(text) and "import " not in str(text)
