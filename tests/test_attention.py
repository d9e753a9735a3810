"""Attention is read from the right place, and every measure is what its paper says."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import ViTConfig, ViTForImageClassification, ViTModel

from vit_helpers import attention, models
from vit_helpers.errors import CourseError


def tiny(kind="eager", image_size=(48, 32), **kwargs):
    config = ViTConfig(
        hidden_size=24,
        num_hidden_layers=3,
        num_attention_heads=4,
        intermediate_size=48,
        image_size=image_size,
        patch_size=8,
        num_labels=5,
        attn_implementation=kind,
        **kwargs,
    )
    torch.manual_seed(0)
    model = ViTForImageClassification(config).eval()
    for parameter in model.parameters():  # larger weights: attention far from uniform
        torch.nn.init.normal_(parameter, std=0.3)
    return model


@pytest.fixture(scope="module")
def model():
    return tiny()


@pytest.fixture(scope="module")
def pixels():
    return torch.randn(2, 3, 48, 32, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def attn(model, pixels):
    return attention.maps(model, pixels)


def random_attention(layers, pictures, heads, tokens, seed):
    generator = torch.Generator().manual_seed(seed)
    scores = 3 * torch.randn(layers, pictures, heads, tokens, tokens, generator=generator)
    return scores.double().softmax(dim=-1)


# Layers, pictures, heads, tokens, seed.
shapes = st.tuples(
    st.integers(1, 3), st.integers(1, 2), st.integers(1, 3), st.integers(2, 7), st.integers(0, 999)
)
fusions = st.sampled_from(attention.HEAD_FUSIONS)
ratios = st.floats(0, 0.95)


def test_maps_have_one_matrix_a_layer_picture_and_head_and_rows_sum_to_one(attn):
    assert attn.shape == (3, 2, 4, 1 + 6 * 4, 1 + 6 * 4)
    assert not attn.requires_grad
    torch.testing.assert_close(attn.sum(dim=-1), torch.ones(attn.shape[:-1]))


def test_maps_are_softmax_of_queries_times_keys(model, pixels, attn):
    seen = {}

    def listen(name):
        return lambda module, inputs, output: seen.__setitem__(name, output)

    hooks = []
    for i, block in enumerate(models.blocks(model)):
        for name, module in block.named_modules():
            # `query` and `key` up to transformers 4, `q_proj` and `k_proj` from 5 on.
            if (last := name.rsplit(".")[-1]) in ("query", "q_proj", "key", "k_proj"):
                hooks.append(module.register_forward_hook(listen((i, last[0]))))
    model(pixels)
    for hook in hooks:
        hook.remove()
    assert len(seen) == 2 * 3
    for i in range(3):
        q, k = (seen[i, x].unflatten(-1, (4, 6)).transpose(1, 2) for x in "qk")
        expected = (q @ k.transpose(-1, -2) / math.sqrt(6)).softmax(dim=-1)
        torch.testing.assert_close(attn[i], expected, atol=1e-5, rtol=0)


def test_fused_attention_is_refused_with_the_way_out(pixels):
    with pytest.raises(CourseError, match="'sdpa'.*attn_implementation=\"eager\""):
        attention.maps(tiny("sdpa"), pixels)


def test_a_model_that_returns_no_maps_is_refused(model, pixels, monkeypatch):
    output = type("Output", (), {"attentions": ()})
    monkeypatch.setattr(ViTForImageClassification, "forward", lambda self, **kwargs: output)
    with pytest.raises(CourseError, match="returned no attention maps"):
        attention.maps(model, pixels)


def test_one_picture_without_a_batch_axis_is_refused(model, pixels):
    with pytest.raises(CourseError, match=r"\(3, 48, 32\).*pixel_values\[None\]"):
        attention.maps(model, pixels[0])


def test_the_body_alone_works_too(model, pixels, attn):
    body = ViTModel(model.config).eval()
    body.load_state_dict(model.base_model.state_dict(), strict=False)
    torch.testing.assert_close(attention.maps(body, pixels), attn)


def test_grid_size_is_picture_by_patch_and_not_a_root(model):
    assert attention.grid_size(model) == (6, 4)
    assert attention.grid_size(tiny(image_size=40)) == (5, 5)


@given(st.integers(1, 6), st.integers(1, 6), st.integers(0, 5))
def test_to_grid_drops_special_tokens_and_keeps_the_order(rows, columns, special):
    row = torch.cat((torch.full((special,), -1.0), torch.arange(float(rows * columns))))
    grid = attention.to_grid(row, (rows, columns))
    assert grid.shape == (rows, columns)
    assert grid.flatten().tolist() == list(range(rows * columns))


def test_to_grid_refuses_too_few_tokens():
    with pytest.raises(CourseError, match="10 tokens are too few for a grid of 4 x 3"):
        attention.to_grid(torch.zeros(10), (4, 3))


def test_cls_map_reads_the_row_of_the_cls_token(attn):
    one = attention.cls_map(attn, (6, 4), layer=-1, head=2, picture=1)
    assert torch.equal(one.flatten(), attn[2, 1, 2, 0, 1:])


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        ({"layer": 3, "head": 0}, "There is no layer 3: this model has 3, numbered 0 to 2."),
        ({"layer": 0, "head": 4}, "There is no head 4: this model has 4, numbered 0 to 3."),
        ({"layer": 0, "head": 0, "picture": 2}, "There is no picture 2"),
        ({"layer": 0.5, "head": 0}, "layer is 0.5, but it must be a whole number"),
    ],
)
def test_what_does_not_exist_is_named_with_its_range(attn, wrong, sentence):
    with pytest.raises(CourseError, match=sentence):
        attention.cls_map(attn, (6, 4), **wrong)


def test_upsample_covers_the_whole_picture():
    corner = torch.zeros(14, 14)
    corner[13, 13] = 1.0
    large = attention.upsample(corner, (480, 640))
    assert large.shape == (480, 640)
    assert large[-1, -1] == 1.0
    assert large[:400, :550].max() == 0.0
    assert attention.upsample(torch.rand(2, 5, 3, 4), (9, 8)).shape == (2, 5, 9, 8)


@given(shapes, st.integers(1, 4))
@settings(max_examples=25, deadline=None)
def test_mean_attention_distance_equals_a_plain_loop(shape, columns):
    layers, pictures, heads, _, seed = shape
    rows, special, patch = 3, 1 + seed % 2, 16
    tokens = special + rows * columns
    attn = random_attention(layers, pictures, heads, tokens, seed)
    result = attention.mean_attention_distance(attn, (rows, columns), patch)
    for layer in range(layers):
        for head in range(heads):
            far = []
            for picture in range(pictures):
                for i in range(rows * columns):
                    weights = attn[layer, picture, head, special + i, special:].tolist()
                    distance = [
                        patch * math.hypot(i // columns - j // columns, i % columns - j % columns)
                        for j in range(rows * columns)
                    ]
                    weighted = sum(w * d for w, d in zip(weights, distance, strict=True))
                    far.append(weighted / sum(weights))
            assert float(result[layer, head]) == pytest.approx(sum(far) / len(far), abs=1e-4)


def test_mean_attention_distance_knows_the_simple_cases():
    itself = torch.eye(5).expand(1, 1, 1, 5, 5)
    assert attention.mean_attention_distance(itself, (2, 2), 16).item() == 0
    # Everyone looks at [CLS] alone: there is no patch to have a distance to.
    only_cls = torch.zeros(1, 1, 1, 5, 5)
    only_cls[..., 0] = 1
    assert attention.mean_attention_distance(only_cls, (2, 2), 16).item() == 0


def test_entropy_is_in_bits():
    rows = torch.tensor([[1.0, 0, 0, 0], [0.5, 0.5, 0, 0], [0.25, 0.25, 0.25, 0.25]])
    assert attention.entropy(rows).tolist() == pytest.approx([0, 1, 2])


@given(shapes, fusions, ratios)
@settings(max_examples=25, deadline=None)
def test_rows_of_rollout_sum_to_one(shape, fusion, ratio):
    result = attention.rollout(random_attention(*shape), fusion, ratio)
    assert result.shape == (shape[1], shape[3], shape[3])
    assert (result >= 0).all()
    torch.testing.assert_close(result.sum(dim=-1), torch.ones_like(result[..., 0]))


@given(shapes, fusions, ratios, st.randoms())
@settings(max_examples=25, deadline=None)
def test_permuting_tokens_permutes_rollout(shape, fusion, ratio, random):
    attn = random_attention(*shape)
    order = list(range(shape[3]))
    random.shuffle(order)
    permuted = attention.rollout(attn[..., order, :][..., order], fusion, ratio)
    expected = attention.rollout(attn, fusion, ratio)[:, order][:, :, order]
    torch.testing.assert_close(permuted, expected)


@given(shapes, fusions, ratios)
@settings(max_examples=25, deadline=None)
def test_rollout_equals_a_plain_loop(shape, fusion, ratio):
    layers, pictures, heads, tokens, _ = shape
    attn = random_attention(*shape)
    result = attention.rollout(attn, fusion, ratio)
    combine = {"mean": lambda x: sum(x) / len(x), "min": min, "max": max}[fusion]
    everyone = range(tokens)
    for b in range(pictures):
        rolled = [[float(i == j) for j in everyone] for i in everyone]
        for layer in attn[:, b].tolist():
            a = [[combine([layer[h][i][j] for h in range(heads)]) for j in everyone]
                 for i in everyone]  # fmt: skip
            order = sorted((a[i][j], i, j) for i in everyone for j in everyone)
            for _, i, j in order[: int(ratio * tokens * tokens)]:
                a[i][j] = 0.0
            a = [[0.5 * a[i][j] + 0.5 * (i == j) for j in everyone] for i in everyone]
            a = [[w / sum(row) for w in row] for row in a]
            rolled = [
                [sum(a[i][k] * rolled[k][j] for k in everyone) for j in everyone] for i in everyone
            ]
        torch.testing.assert_close(
            result[b], torch.tensor(rolled, dtype=result.dtype), atol=1e-5, rtol=0
        )


def test_rollout_of_a_model(attn):
    result = attention.rollout(attn)
    torch.testing.assert_close(result.sum(dim=-1), torch.ones(2, 25))


@pytest.mark.parametrize("ratio", [-0.1, 1, 2.5])
def test_rollout_refuses_a_ratio_that_leaves_nothing(attn, ratio):
    with pytest.raises(CourseError, match=f"discard_ratio is {ratio}"):
        attention.rollout(attn, discard_ratio=ratio)


def test_rollout_refuses_an_unknown_fusion(attn):
    with pytest.raises(CourseError, match="'median'.*'mean', 'min', 'max'"):
        attention.rollout(attn, head_fusion="median")
