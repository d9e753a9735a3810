"""Token merging: fewer tokens from layer to layer, without training.

Written from the paper: Bolya et al. 2023, "Token Merging: Your ViT But Faster"
(https://arxiv.org/abs/2210.09461), section 3.
"""

import torch
from torch import nn

from .. import models
from ..errors import CourseError

# Sixteen tokens less in each of the last 8 of 12 blocks: 197 become 69. Found on pictures of the
# course's first model: 98 % of its answers stayed; with 8 in each of all blocks 97 %.
MERGED_PER_LAYER, MERGED_FROM = 16, 4


class MergingViT(nn.Module):
    """A ViT classifier that merges `per_layer` pairs of tokens in every layer.

    It shares the weights of the model that it is made from. Its plain arithmetic can be exported.

    Args:
        model: A plain ViT classifier of transformers; a `CourseError` for any other.
        per_layer: How many tokens disappear in each layer (`r` in the paper).
        first: The first block that merges; the paper merges in all.
    """

    def __init__(self, model: nn.Module, per_layer: int, first: int = 0):
        super().__init__()
        self.per_layer, self.first = per_layer, first
        self.heads = model.config.num_attention_heads
        self.embeddings = models.embeddings(model)
        self.blocks = nn.ModuleList(_Block(block, self.heads) for block in models.blocks(model))
        norm, self.head = getattr(model.base_model, "layernorm", None), models.head(model)
        if norm is None or self.head.in_features != model.config.hidden_size:
            name = type(model).__name__
            raise CourseError(
                f"{name} does not classify by its [CLS] token alone: not a plain ViT."
            )
        self.norm = norm
        self.eval()

    def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """From pictures (B, 3, H, W) to logits (B, classes)."""
        tokens = self.embeddings(pixel_values)  # (B, T, D)
        size = torch.ones_like(tokens[..., :1])  # (B, T, 1): patches that a token stands for
        for number, block in enumerate(self.blocks):
            tokens, keys = block.attention_half(tokens, size)
            if number >= self.first:
                tokens, size = merge(tokens, size, keys, self.per_layer)
            tokens = block.mlp_half(tokens)
        return self.head(self.norm(tokens)[:, 0])


class _Block(nn.Module):
    """The parts of an encoder block, found by their order: names differ between releases."""

    def __init__(self, block: nn.Module, heads: int):
        super().__init__()
        linear = [m for m in block.modules() if isinstance(m, nn.Linear)]
        norms = [m for m in block.modules() if isinstance(m, nn.LayerNorm)]
        if (len(linear), len(norms)) != (6, 2):
            raise CourseError(
                f"A {type(block).__name__} with {len(linear)} linear and {len(norms)} "
                "normalisation layers is not a plain ViT block: its tokens cannot be merged."
            )
        self.heads = heads
        self.query, self.key, self.value, self.out, self.fc1, self.fc2 = linear
        self.norm1, self.norm2 = norms
        mlp = getattr(block, "mlp", None) or block.intermediate
        self.activation = getattr(mlp, "activation_fn", getattr(mlp, "intermediate_act_fn", None))
        if self.activation is None:
            raise CourseError(f"A {type(mlp).__name__} has parts of its own: not a plain ViT.")

    def attention_half(self, tokens, size):
        """Returns `(tokens, keys)`, both (B, T, D).

        A token that stands for many patches counts as many: log(size) is added to its scores
        ("proportional attention").
        """

        def heads(linear):
            return linear(normed).unflatten(-1, (self.heads, -1)).transpose(1, 2)

        normed = self.norm1(tokens)
        query, key, value = heads(self.query), heads(self.key), heads(self.value)  # (B, h, T, d)
        scores = (query @ key.transpose(-2, -1)) * key.shape[-1] ** -0.5
        scores = scores + size.log().transpose(1, 2)[:, None]  # (B, 1, 1, T), for each column
        mixed = scores.softmax(-1) @ value
        return tokens + self.out(mixed.transpose(1, 2).flatten(2)), key.transpose(1, 2).flatten(2)

    def mlp_half(self, tokens):
        """Each token for itself."""
        return tokens + self.fc2(self.activation(self.fc1(self.norm2(tokens))))


def merge(tokens, size, keys, count: int):
    """Bipartite soft matching: join the `count` most similar pairs of tokens.

    Tokens are dealt alternately into two sets, A and B. Each token of A finds its most similar
    partner in B; the best `count` of these pairs become their average, weighted by size. The
    [CLS] token, the first one, never joins another.

    Args:
        tokens: Shape (B, T, D).
        size: How many patches each token stands for, (B, T, 1).
        keys: What similarity is judged by, (B, T, d). Here the keys of all heads side by side;
            the paper takes their mean, which says little where a head has 16 numbers.
        count: How many pairs. Where A is smaller than that, all of A is merged.

    Returns:
        `(tokens (B, T - count, D), size (B, T - count, 1))`, [CLS] first. The order of the
        others is lost; it does not matter, since positions were added before the first layer.
    """
    count = min(count, (tokens.shape[1] - 1) // 2)  # size of A
    if count <= 0:
        return tokens, size
    keys = nn.functional.normalize(keys, dim=-1)
    similar = keys[:, 2::2] @ keys[:, 1::2].transpose(1, 2)  # (B, A, B), from -1 to 1
    best, partner = similar.max(dim=-1)  # (B, A)
    order = best.argsort(dim=-1)  # the best pairs last
    kept, joined = order[:, :-count], order[:, -count:]

    whole = torch.cat([tokens * size, size], dim=-1)  # sums, and what to divide them by
    cls, a, b = whole[:, :1], whole[:, 2::2], whole[:, 1::2]
    partner = partner.gather(1, joined)  # (B, count)
    # (B, B, count): a one where a token of B receives one of A. A product with ones and zeros
    # runs fast everywhere; `scatter_add` does not.
    receives = (torch.arange(b.shape[1], device=b.device)[:, None] == partner[:, None]).to(b.dtype)
    b = b + receives @ _rows(a, joined)
    whole = torch.cat([cls, _rows(a, kept), b], dim=1)
    return whole[..., :-1] / whole[..., -1:], whole[..., -1:]


def _rows(tokens, index):
    """The tokens (B, n, D) at the indices `index` (B, n)."""
    return tokens.gather(1, index[..., None].expand(-1, -1, tokens.shape[-1]))
