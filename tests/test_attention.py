"""Attention is read from the right place, and every measure is what its paper says."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import ViTConfig, ViTForImageClassification

from course.maps import maps, relevance, rollout
from vit_helpers import attention, models


def tiny(image_size=(48, 32)):
    config = ViTConfig(
        hidden_size=24,
        num_hidden_layers=3,
        num_attention_heads=4,
        intermediate_size=48,
        image_size=image_size,
        patch_size=8,
        num_labels=5,
        attn_implementation="eager",
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
    return maps(model, pixels)


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


def test_grid_size_is_picture_by_patch_and_not_a_root(model):
    assert attention.grid_size(model) == (6, 4)
    assert attention.grid_size(tiny(image_size=40)) == (5, 5)


@given(shapes)
@settings(max_examples=25, deadline=None)
def test_rows_of_rollout_sum_to_one(shape):
    result = rollout(random_attention(*shape))
    assert result.shape == (shape[0], shape[3], shape[3])
    assert (result >= 0).all()
    torch.testing.assert_close(result.sum(dim=-1), torch.ones_like(result[..., 0]))


@given(shapes, st.randoms())
@settings(max_examples=25, deadline=None)
def test_permuting_tokens_permutes_rollout(shape, random):
    attn = random_attention(*shape)
    order = list(range(shape[3]))
    random.shuffle(order)
    permuted = rollout(attn[..., order, :][..., order])
    expected = rollout(attn)[:, order][:, :, order]
    torch.testing.assert_close(permuted, expected)


@given(shapes)
@settings(max_examples=25, deadline=None)
def test_rollout_equals_a_plain_loop(shape):
    pictures, layers, heads, tokens, _ = shape
    attn = random_attention(*shape)
    result = rollout(attn)
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
    result = rollout(attn)
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
    torch.testing.assert_close(rollout(attn), theirs, atol=1e-5, rtol=0)


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


def test_relevance_equals_a_plain_loop(model, pixels):
    result = relevance(model, pixels, torch.tensor([3, 1]))
    assert not result.requires_grad
    for i, label in enumerate([3, 1]):
        expected = by_hand(model, pixels[i], label)
        torch.testing.assert_close(result[i], expected, atol=1e-5, rtol=1e-5)


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
        "maps": lambda p: maps(model, p)[:, 1, 2],
        "rollout": lambda p: rollout(maps(model, p)),
        "relevance": lambda p: relevance(model, p, torch.tensor([1])),
    }[method]
    before, after = ask(pixels)[0, 0, 1:], ask(moved)[0, 0, 1:]
    torch.testing.assert_close(after, before[list(order)], atol=1e-5, rtol=1e-3)
