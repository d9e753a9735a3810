"""The same answers from a wider network: the course's small model in the size of ViT-B/16."""

import copy

import torch
from torch import nn

from vit_helpers import models
from vit_helpers.errors import CourseError

QUERY = ("attention.query", "q_proj")  # the name in transformers 4, in transformers 5
PER_HEAD_OUT = (*QUERY, "attention.key", "k_proj", "attention.value", "v_proj")
PER_HEAD_IN = ("attention.output.dense", "o_proj")


def widen(model: nn.Module, times: int, seed: int = 0) -> nn.Module:
    """A ViT of `times` the width and the same logits, to time a large network fairly.

    Agreement means little on random weights: their logits lie so close together that any rounding
    changes the best class. This network is as large as wanted and as sure as the trained one.

    Every feature is there `times` times. A weight is shared out over the copies it reads from, in
    random parts that sum to one, so that rounded weights do not all err alike (after Chen et al.
    2016, "Net2Net", section 3.2). LayerNorm sees the same mean and deviation, so the answers
    stay. Only the scores QK^T/sqrt(d) would grow by sqrt(times); the queries are divided by it.

    Args:
        model: A `ViTForImageClassification`. It is not changed.
        times: How many copies of each feature, 1 or more. With 4 the course's model (hidden 192,
            12 heads of 16) gets the shape of ViT-B/16 (hidden 768, 12 heads of 64).
        seed: For the random parts.

    Returns:
        A new model in evaluation mode on the CPU, logits equal to about 1e-4.

    Raises:
        CourseError: If `times` is below 1.
    """
    if times < 1:
        raise CourseError(f"times is {times}, but it must be 1 or more.")
    models.blocks(model)  # refuses what is no ViT
    config = copy.deepcopy(model.config)
    config.hidden_size *= times
    config.intermediate_size *= times
    wide = type(model)(config).eval()
    heads = config.num_attention_heads
    generator = torch.Generator().manual_seed(seed)
    small = {name: value.detach().cpu() for name, value in model.state_dict().items()}
    state = {}
    for name, target in wide.state_dict().items():
        value, module = small[name], name.rpartition(".")[0]
        out = 2 if value.ndim == 3 else 0  # [CLS] and positions are (1, tokens, features)
        if value.shape[out] != target.shape[out]:
            groups = heads if module.endswith(PER_HEAD_OUT) else 1
            value = value.index_select(out, _copies(value.shape[out], times, groups))
        if value.ndim == 2 and value.shape[1] != target.shape[1]:  # reads from copied features
            source = _copies(value.shape[1], times, heads if module.endswith(PER_HEAD_IN) else 1)
            value = value[:, source] * _parts(value, source, times, generator)
        state[name] = value / times**0.5 if module.endswith(QUERY) else value
    wide.load_state_dict(state)
    return wide


def _copies(size: int, times: int, groups: int) -> torch.Tensor:
    """Which old feature each new one is; within each group (a head), the copies follow in turn."""
    grouped = torch.arange(size).reshape(groups, 1, -1)
    return grouped.expand(-1, times, -1).reshape(-1)


def _parts(value, source, times: int, generator) -> torch.Tensor:
    """Shares of one weight for its copies: shape (out, new in), sum one over the copies."""
    parts = torch.rand(value.shape[0], len(source), generator=generator) + 0.5
    total = torch.zeros_like(value).index_add_(1, source, parts)  # (out, old in)
    return parts / total[:, source]
