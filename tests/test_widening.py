"""A wider network with the same answers."""

import pytest
import torch
from transformers import ViTConfig, ViTForImageClassification

from benchmarks.widening import widen
from vit_helpers.errors import CourseError


@pytest.fixture(scope="module")
def small():
    torch.manual_seed(0)
    sizes = {"hidden_size": 24, "intermediate_size": 48, "num_attention_heads": 3}
    config = ViTConfig(**sizes, num_hidden_layers=2, image_size=32, patch_size=16, num_labels=5)
    model = ViTForImageClassification(config).eval()
    for name, weights in model.named_parameters():  # biases, norms and positions of a real model
        torch.nn.init.normal_(weights, 1.0 if "norm" in name else 0.0, 0.3)
    return model


@pytest.mark.parametrize("times", [1, 2, 4])
def test_the_logits_stay(small, times):
    pictures = torch.randn(3, 3, 32, 32)
    wide = widen(small, times)
    assert wide.config.hidden_size == 24 * times and wide.config.num_attention_heads == 3
    with torch.no_grad():
        expected, found = small(pictures).logits, wide(pictures).logits
    assert expected.std() > 0.1  # something that could go wrong
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)


def test_copies_of_a_weight_differ_so_that_rounding_does_not_add_up(small):
    wide = widen(small, 2).state_dict()
    name = next(n for n in wide if n.endswith("mlp.fc1.weight") or "intermediate.dense.w" in n)
    first, second = wide[name].chunk(2, dim=1)
    assert not torch.allclose(first, second)


def test_what_makes_no_sense_is_refused(small):
    with pytest.raises(CourseError, match="1 or more"):
        widen(small, 0)
    with pytest.raises(CourseError, match="not a ViT"):
        widen(torch.nn.Linear(2, 2), 2)
