"""Attention is read from the right place, and every measure is what its paper says."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import (
    BeitConfig,
    BeitForImageClassification,
    DeiTConfig,
    DeiTForImageClassification,
    Dinov2Config,
    Dinov2ForImageClassification,
    Dinov2WithRegistersConfig,
    Dinov2WithRegistersForImageClassification,
    DINOv3ViTConfig,
    DINOv3ViTModel,
    ViTConfig,
    ViTForImageClassification,
    ViTModel,
    ViTMSNConfig,
    ViTMSNForImageClassification,
)

from vit_helpers import attention, models
from vit_helpers.errors import CourseError

FAMILIES = {
    "vit": (ViTConfig, ViTForImageClassification, {}, 1),
    "deit": (DeiTConfig, DeiTForImageClassification, {}, 2),  # [CLS] and a distillation token
    "dinov2": (Dinov2Config, Dinov2ForImageClassification, {}, 1),
    "registers": (
        Dinov2WithRegistersConfig,
        Dinov2WithRegistersForImageClassification,
        {"num_register_tokens": 3},
        4,
    ),
    "msn": (ViTMSNConfig, ViTMSNForImageClassification, {}, 1),
    "beit": (BeitConfig, BeitForImageClassification, {}, 1),  # classifies the mean of the patches
}


def tiny(kind="eager", image_size=(48, 32), family="vit"):
    config_class, model_class, more, _ = FAMILIES[family]
    config = config_class(
        hidden_size=24,
        num_hidden_layers=3,
        num_attention_heads=4,
        intermediate_size=48,
        image_size=image_size,
        patch_size=8,
        num_labels=5,
        attn_implementation=kind,
        **more,
    )
    torch.manual_seed(0)
    model = model_class(config).eval()
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


def random_attention(pictures, layers, heads, tokens, seed):
    generator = torch.Generator().manual_seed(seed)
    scores = 3 * torch.randn(pictures, layers, heads, tokens, tokens, generator=generator)
    return scores.double().softmax(dim=-1)


# Pictures, layers, heads, tokens, seed.
shapes = st.tuples(
    st.integers(1, 2), st.integers(1, 3), st.integers(1, 3), st.integers(2, 7), st.integers(0, 999)
)


def test_maps_have_one_matrix_a_layer_picture_and_head_and_rows_sum_to_one(attn):
    assert attn.shape == (2, 3, 4, 1 + 6 * 4, 1 + 6 * 4)
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
        torch.testing.assert_close(attn[:, i], expected, atol=1e-5, rtol=0)


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


def test_upsample_covers_the_whole_picture():
    corner = torch.zeros(14, 14)
    corner[13, 13] = 1.0
    large = attention.upsample(corner, (480, 640))
    assert large.shape == (480, 640)
    assert large[-1, -1] == 1.0
    assert large[:400, :550].max() == 0.0
    assert attention.upsample(torch.rand(2, 5, 3, 4), (9, 8)).shape == (2, 5, 9, 8)


@given(shapes)
@settings(max_examples=25, deadline=None)
def test_rows_of_rollout_sum_to_one(shape):
    result = attention.rollout(random_attention(*shape))
    assert result.shape == (shape[0], shape[3], shape[3])
    assert (result >= 0).all()
    torch.testing.assert_close(result.sum(dim=-1), torch.ones_like(result[..., 0]))


@given(shapes, st.randoms())
@settings(max_examples=25, deadline=None)
def test_permuting_tokens_permutes_rollout(shape, random):
    attn = random_attention(*shape)
    order = list(range(shape[3]))
    random.shuffle(order)
    permuted = attention.rollout(attn[..., order, :][..., order])
    expected = attention.rollout(attn)[:, order][:, :, order]
    torch.testing.assert_close(permuted, expected)


@given(shapes)
@settings(max_examples=25, deadline=None)
def test_rollout_equals_a_plain_loop(shape):
    pictures, layers, heads, tokens, _ = shape
    attn = random_attention(*shape)
    result = attention.rollout(attn)
    everyone = range(tokens)
    for b in range(pictures):
        rolled = [[float(i == j) for j in everyone] for i in everyone]
        for layer in attn[b].tolist():
            a = [[sum(layer[h][i][j] for h in range(heads)) / heads for j in everyone]
                 for i in everyone]  # fmt: skip
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


def test_rollout_equals_a_published_package():
    pytest.importorskip("cv2", reason="fast-vit-rollout needs OpenCV")
    package = pytest.importorskip("fast_vit_rollout", reason="pip install fast-vit-rollout")

    class Layers(torch.nn.Module):
        """Offers each layer's attention where the package looks for it."""

        def __init__(self, count):
            super().__init__()
            parts = (torch.nn.ModuleDict({"attn_drop": torch.nn.Identity()}) for _ in range(count))
            self.blocks = torch.nn.ModuleList(parts)

        def forward(self, attn):
            for block, layer in zip(self.blocks, attn.unbind(1), strict=True):
                block["attn_drop"](layer)

    attn = random_attention(2, 4, 3, 9, seed=5).float()
    # It discards after adding the identity and we before, so they agree where nothing is discarded.
    theirs = package.ViTAttentionRollout(Layers(4), head_fusion="mean", discard_ratio=0.0)(attn)
    torch.testing.assert_close(attention.rollout(attn), theirs, atol=1e-5, rtol=0)


# --- every kind of model, every size of picture ---------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("size", [(48, 48), (40, 64), (8, 8)])
def test_every_method_works_with_any_special_tokens_and_any_size(family, size):
    model, special = tiny(image_size=48, family=family), FAMILIES[family][-1]
    pixels = torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(2))
    grid = attention.grid_size(model, pixels)
    assert grid == (size[0] // 8, size[1] // 8)
    tokens = special + grid[0] * grid[1]
    attn = attention.maps(model, pixels)
    assert attn.shape == (2, 3, 4, tokens, tokens)
    assert attention.rollout(attn).shape == (2, tokens, tokens)
    assert attention.relevance(model, pixels).shape == (2, tokens, tokens)


def test_a_model_with_rotary_positions_and_without_classes():
    config = DINOv3ViTConfig(
        hidden_size=32,
        num_hidden_layers=3,
        num_attention_heads=4,
        intermediate_size=48,
        patch_size=8,
        num_register_tokens=2,
        attn_implementation="eager",
    )
    model = DINOv3ViTModel(config).eval()
    attn = attention.maps(model, torch.randn(2, 3, 40, 64))
    assert attn.shape == (2, 3, 4, 3 + 5 * 8, 3 + 5 * 8)
    assert attention.rollout(attn).shape == (2, 43, 43)
    with pytest.raises(CourseError, match="DINOv3ViTModel has no classes"):
        attention.relevance(model, torch.randn(1, 3, 40, 64))


def test_a_rest_that_makes_no_whole_patch_is_ignored():
    model = tiny(image_size=48, family="dinov2")
    pixels = torch.randn(1, 3, 45, 39)
    assert attention.grid_size(model, pixels) == (5, 4)
    assert attention.maps(model, pixels).shape[-1] == 1 + 5 * 4


def test_pictures_smaller_than_a_patch_are_refused(model):
    for ask in (attention.maps, attention.relevance):
        with pytest.raises(CourseError, match="20 x 7 pixels are smaller than one patch of 8 x 8"):
            ask(model, torch.zeros(1, 3, 7, 20))


def test_another_size_needs_square_positions(model):
    with pytest.raises(CourseError, match="64 x 40 pixels.*trained on 32 x 48"):
        attention.maps(model, torch.zeros(1, 3, 40, 64))


def test_pixels_with_an_alpha_channel_are_refused(model):
    with pytest.raises(CourseError, match="4 channels, but this model takes 3.*images.to_pixels"):
        attention.maps(model, torch.zeros(1, 4, 48, 32))


# --- relevance ------------------------------------------------------------------------------------


def by_hand(model, pixels, label):
    """Chefer et al. 2021 (ICCV), equations 5 and 6, for one picture, with loops."""
    output = model(pixel_values=pixels[None], output_attentions=True)
    gradients = torch.autograd.grad(output.logits[0, label], output.attentions)
    heads, tokens = output.attentions[0].shape[1:3]
    r = [[float(i == j) for j in range(tokens)] for i in range(tokens)]
    for a, g in zip(output.attentions, gradients, strict=True):
        a, g = a[0].tolist(), g[0].tolist()
        bar = [
            [sum(max(0.0, g[h][i][j] * a[h][i][j]) for h in range(heads)) / heads
             for j in range(tokens)] for i in range(tokens)
        ]  # fmt: skip
        r = [
            [r[i][j] + sum(bar[i][k] * r[k][j] for k in range(tokens)) for j in range(tokens)]
            for i in range(tokens)
        ]
    return torch.tensor(r)


@pytest.mark.parametrize("family", ["vit", "registers"])
def test_relevance_equals_a_plain_loop(family):
    model = tiny(image_size=32, family=family)
    pixels = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(4))
    result = attention.relevance(model, pixels, classes=[3, 1])
    for i, label in enumerate([3, 1]):
        expected = by_hand(model, pixels[i], label)
        torch.testing.assert_close(result[i], expected, atol=1e-5, rtol=1e-5)


class TestOfAClass:
    def test_without_a_class_the_answer_of_the_model_is_asked_for(self, model, pixels):
        answers = model(pixels).logits.argmax(dim=-1)
        torch.testing.assert_close(
            attention.relevance(model, pixels), attention.relevance(model, pixels, answers)
        )

    def test_a_batch_gives_what_each_picture_gives_alone(self, model, pixels):
        together = attention.relevance(model, pixels, [1, 2])
        for i, label in enumerate([1, 2]):
            alone = attention.relevance(model, pixels[i : i + 1], label)
            torch.testing.assert_close(together[i], alone[0], atol=1e-6, rtol=1e-4)

    def test_it_depends_on_the_class(self, model, pixels):
        assert not torch.allclose(
            attention.relevance(model, pixels, 0), attention.relevance(model, pixels, 1), atol=1e-3
        )

    def test_nothing_is_below_zero_and_no_gradient_is_left(self, model, pixels):
        result = attention.relevance(model, pixels)
        assert (result >= 0).all()
        assert not result.requires_grad
        assert all(p.grad is None for p in model.parameters())

    def test_a_frozen_model_and_no_grad_change_nothing(self, pixels):
        frozen = tiny().requires_grad_(False)
        with torch.no_grad():
            result = attention.relevance(frozen, pixels, 2)
        torch.testing.assert_close(result, attention.relevance(tiny(), pixels, 2))

    def test_the_model_answers_as_before(self, model, pixels):
        before = model(pixels).logits
        attention.relevance(model, pixels)
        assert torch.equal(model(pixels).logits, before)

    @pytest.mark.parametrize("wrong", [5, [0, 5], torch.tensor([5, 0])])
    def test_a_class_out_of_range_is_named_with_its_range(self, model, pixels, wrong):
        with pytest.raises(CourseError, match="no class 5: this model has 5, numbered 0 to 4"):
            attention.relevance(model, pixels, wrong)
        assert torch.isfinite(model(pixels).logits).all()
        assert model(pixels).logits.shape == (2, 5)  # no hook is left behind

    def test_as_many_classes_as_pictures(self, model, pixels):
        with pytest.raises(CourseError, match="3 classes for 2 pictures"):
            attention.relevance(model, pixels, [0, 1, 2])

    def test_a_body_without_classes_is_refused(self, model, pixels):
        with pytest.raises(CourseError, match="ViTModel has no classes"):
            attention.relevance(ViTModel(model.config).eval(), pixels)

    def test_fused_attention_is_refused(self, pixels):
        with pytest.raises(CourseError, match='attn_implementation="eager"'):
            attention.relevance(tiny("sdpa"), pixels)


@pytest.fixture(scope="module")
def nowhere():
    """With the same position everywhere, the order of the patches carries nothing."""
    model = tiny()
    model.vit.embeddings.position_embeddings.data[:, 1:] = 0.1
    return model


@given(
    order=st.permutations(range(24)),
    method=st.sampled_from(["maps", "rollout", "relevance"]),
)
@settings(max_examples=20, deadline=None)
def test_permuting_patches_permutes_every_map(nowhere, order, method):
    model = nowhere
    pixels = torch.randn(1, 3, 48, 32, generator=torch.Generator().manual_seed(3))
    patches = pixels.unfold(2, 8, 8).unfold(3, 8, 8).reshape(1, 3, 24, 8, 8)
    moved = patches[:, :, order].unflatten(2, (6, 4)).permute(0, 1, 2, 4, 3, 5)
    moved = moved.reshape(1, 3, 48, 32)
    ask = {
        "maps": lambda p: attention.maps(model, p)[:, 1, 2],
        "rollout": lambda p: attention.rollout(attention.maps(model, p)),
        "relevance": lambda p: attention.relevance(model, p, 1),
    }[method]
    before, after = ask(pixels)[0, 0, 1:], ask(moved)[0, 0, 1:]
    torch.testing.assert_close(after, before[list(order)], atol=1e-5, rtol=1e-3)
