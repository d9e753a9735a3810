"""Token merging: nothing merged changes nothing, sizes add up, [CLS] stays, pairs are averages."""

import copy
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import (
    Dinov2Config,
    Dinov2ForImageClassification,
    ViTConfig,
    ViTForImageClassification,
)

from benchmarks import variants
from benchmarks.variants import ExportContext
from vit_helpers import efficiency
from vit_helpers.efficiency import MergingViT, merge
from vit_helpers.errors import CourseError

SHAPE = {"hidden_size": 24, "num_hidden_layers": 3, "num_attention_heads": 2, "image_size": 32}


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    config = ViTConfig(**SHAPE, intermediate_size=48, patch_size=8, attn_implementation="eager")
    return ViTForImageClassification(config).eval()


@pytest.fixture(scope="module")
def pictures():
    return torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(1))


def test_with_nothing_merged_it_is_the_same_network(model, pictures):
    with torch.no_grad():
        same = MergingViT(model, 0)(pictures)
        torch.testing.assert_close(same, model(pictures).logits)


@given(tokens=st.integers(2, 20), count=st.integers(0, 12), seed=st.integers(0, 99))
@settings(max_examples=40, deadline=None)
def test_no_patch_is_lost(tokens, count, seed):
    draw = torch.Generator().manual_seed(seed)
    x = torch.randn(2, tokens, 4, generator=draw)
    size = torch.randint(1, 5, (2, tokens, 1), generator=draw).float()
    merged, new_size = merge(x, size, torch.randn(2, tokens, 6, generator=draw), count)
    assert merged.shape[1] == tokens - min(count, (tokens - 1) // 2)
    torch.testing.assert_close(new_size.sum(1), size.sum(1))
    torch.testing.assert_close((merged * new_size).sum(1), (x * size).sum(1))
    torch.testing.assert_close(merged[:, 0], x[:, 0])  # [CLS] joins nothing


def test_the_most_similar_pair_becomes_its_weighted_average():
    # [CLS], then B, A, B, A: tokens 1 and 4 look the same way, token 2 looks elsewhere.
    keys = torch.tensor([[[1.0, 0.0], [0.0, 1.0], [-1.0, -1.0], [1.0, 0.0], [0.0, 2.0]]])
    x = torch.tensor([[[9.0], [1.0], [5.0], [6.0], [4.0]]])
    size = torch.tensor([[[1.0], [1.0], [1.0], [1.0], [2.0]]])
    merged, new_size = merge(x, size, keys, 1)
    assert merged.flatten().tolist() == [9.0, 5.0, 3.0, 6.0]  # 3 = (1 * 1 + 2 * 4) / 3
    assert new_size.flatten().tolist() == [1.0, 1.0, 3.0, 1.0]


def test_a_picture_of_one_batch_does_not_depend_on_the_others(model, pictures):
    network = MergingViT(model, 3)
    with torch.no_grad():
        alone = torch.cat([network(picture[None]) for picture in pictures])
        torch.testing.assert_close(network(pictures), alone)


def test_merging_saves_operations(model, pictures):
    def layers(network):
        return efficiency.count_operations(network, pictures)["layers"]

    full, less = layers(MergingViT(model, 0)), layers(MergingViT(model, 4))
    assert less < layers(MergingViT(model, 4, first=2)) < full


def test_a_vit_with_other_parts_is_a_row_with_its_reason(pictures):
    torch.manual_seed(0)
    config = Dinov2Config(**SHAPE, mlp_ratio=2, patch_size=8, num_labels=3, layerscale_value=0.3)
    other = Dinov2ForImageClassification(config).eval()
    context = ExportContext(other, pictures)
    attempts = variants.build(
        context, variants.select(efficiency.BASELINE, "ONNX Runtime int8 dynamic, merged")
    )
    context.close()
    assert [a.status for a in attempts] == ["ran", "not here"]
    assert "not a plain ViT" in attempts[1].reason


def test_a_vit_that_would_come_out_as_another_network_is_refused(model, pictures):
    other = copy.deepcopy(model)
    other.forward = lambda x: SimpleNamespace(logits=model(x).logits + 1)
    context = ExportContext(other, pictures)
    with pytest.raises(CourseError, match="not a plain ViT"):
        context.network(merged=True)
    context.close()
