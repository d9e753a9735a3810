"""The network of the kit, written for speed on a CPU.

:class:`LeanViT` computes exactly what ``transformers.ViTForImageClassification`` computes (a test
holds the two together) but trains about two and a half times as fast at this small width: query,
key and value come from one matrix product, attention is three plain matrix operations, the last
block is evaluated for the [CLS] token only, and the network takes *patches*, so that a training
stage may drop some of them or start with fewer, larger ones.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

PATCH = 16
GRID = 14  # patches along one side of a 224-pixel picture
WIDTH, DEPTH, HEADS, HIDDEN = 192, 12, 12, 768
EPS = 1e-12

# Names in a checkpoint of transformers, up to version 4; version 5 still reads them.
_NAMES = {
    "patch": "vit.embeddings.patch_embeddings.projection.",
    "cls": "vit.embeddings.cls_token",
    "position": "vit.embeddings.position_embeddings",
    "norm": "vit.layernorm.",
    "head": "classifier.",
}
_QKV = ("query", "key", "value")
_BLOCK_NAMES = {
    "out": "attention.output.dense",
    "fc1": "intermediate.dense",
    "fc2": "output.dense",
    "norm1": "layernorm_before",
    "norm2": "layernorm_after",
}


def patchify(images: Tensor) -> Tensor:
    """Cut pictures into patches: (n, 3, side, side) -> (n, grid * grid, 768).

    The 768 values of a patch are ordered (channel, row, column) as in the weight of the
    convolution that transformers uses for the same purpose.
    """
    n, channels, side, _ = images.shape
    grid = side // PATCH
    x = images.reshape(n, channels, grid, PATCH, grid, PATCH)
    return x.permute(0, 2, 4, 1, 3, 5).reshape(n, grid * grid, channels * PATCH * PATCH)


class LeanBlock(nn.Module):
    """One pre-norm Transformer block (Dosovitskiy et al. 2021, eq. 2 and 3)."""

    def __init__(self) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(WIDTH, eps=EPS)
        self.qkv = nn.Linear(WIDTH, 3 * WIDTH)
        self.out = nn.Linear(WIDTH, WIDTH)
        self.norm2 = nn.LayerNorm(WIDTH, eps=EPS)
        self.fc1 = nn.Linear(WIDTH, HIDDEN)
        self.fc2 = nn.Linear(HIDDEN, WIDTH)

    def split_heads(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(n, tokens, 192) -> query, key, value, each (n, 12 heads, tokens, 16)."""
        n, tokens, _ = x.shape
        heads = self.qkv(self.norm1(x)).view(n, tokens, 3, HEADS, WIDTH // HEADS)
        return heads.permute(2, 0, 3, 1, 4).unbind(0)

    def mix(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Attention without its output projection: -> (n, query tokens, 192)."""
        weights = torch.softmax(q @ k.transpose(-1, -2) * (WIDTH // HEADS) ** -0.5, dim=-1)
        return (weights @ v).transpose(1, 2).flatten(2)

    def forward(self, x: Tensor, cls_only: bool = False) -> Tensor:
        """(n, tokens, 192) -> the same shape, or (n, 1, 192) if only [CLS] is asked for."""
        q, k, v = self.split_heads(x)
        if cls_only:  # the classifier reads no other token of the last block
            x, q = x[:, :1], q[:, :, :1]
        x = x + self.out(self.mix(q, k, v))
        return x + self.fc2(F.gelu(self.fc1(self.norm2(x))))


class LeanViT(nn.Module):
    """ViT-B/16 at a quarter of its width: 12 layers, 12 heads, 192 channels, 5.6 M weights."""

    def __init__(self, num_labels: int) -> None:
        super().__init__()
        self.patch = nn.Linear(3 * PATCH * PATCH, WIDTH)
        self.cls = nn.Parameter(torch.zeros(1, 1, WIDTH))
        self.position = nn.Parameter(torch.zeros(1, 1 + GRID * GRID, WIDTH))
        self.blocks = nn.ModuleList(LeanBlock() for _ in range(DEPTH))
        self.norm = nn.LayerNorm(WIDTH, eps=EPS)
        self.head = nn.Linear(WIDTH, num_labels)
        for name, p in self.named_parameters():
            if p.ndim > 1:
                nn.init.trunc_normal_(p, std=0.02)
            elif "norm" not in name:
                nn.init.zeros_(p)

    def position_for(self, grid: int) -> Tensor:
        """Position embedding of a coarser grid: the mean over the area that a patch covers."""
        patches = self.position[:, 1:]
        if grid == GRID:
            return patches
        square = patches.float().transpose(1, 2).unflatten(2, (GRID, GRID))
        return F.adaptive_avg_pool2d(square, grid).flatten(2).transpose(1, 2).to(patches.dtype)

    def embed(self, patches: Tensor, keep: Tensor | None = None) -> Tensor:
        """Patches (n, grid * grid, 768) -> tokens (n, 1 + kept, 192), [CLS] first.

        Args:
            patches: all patches of each picture, row by row.
            keep: indices (n, kept) of the patches that are used, or None for all
                (PatchDropout, Liu et al. 2022).
        """
        n, count, _ = patches.shape
        position = self.position_for(round(count**0.5)).expand(n, -1, -1)
        if keep is not None:
            patches = patches.gather(1, keep[..., None].expand(-1, -1, patches.shape[2]))
            position = position.gather(1, keep[..., None].expand(-1, -1, WIDTH))
        cls = (self.cls + self.position[:, :1]).expand(n, -1, -1)
        return torch.cat([cls, self.patch(patches) + position], dim=1)

    def features(self, patches: Tensor, keep: Tensor | None = None) -> Tensor:
        """Patches (n, grid * grid, 768) -> what the head reads, the last [CLS] token (n, 192)."""
        x = self.embed(patches, keep)
        for block in self.blocks[:-1]:
            x = block(x)
        return self.norm(self.blocks[-1](x, cls_only=True)[:, 0])

    def forward(self, patches: Tensor, keep: Tensor | None = None) -> Tensor:
        """Patches (n, grid * grid, 768) -> logits (n, labels)."""
        return self.head(self.features(patches, keep))

    def transformers_state_dict(self) -> dict[str, Tensor]:
        """The same weights under the names that every version of transformers can load."""
        state = {}
        for name, tensor in self.state_dict().items():
            head, _, tail = name.partition(".")
            if head in _NAMES:
                state[_NAMES[head] + tail] = tensor
        shape = (WIDTH, 3, PATCH, PATCH)
        state["vit.embeddings.patch_embeddings.projection.weight"] = self.patch.weight.view(shape)
        for i, block in enumerate(self.blocks):
            to = f"vit.encoder.layer.{i}."
            for kind in ("weight", "bias"):
                parts = getattr(block.qkv, kind).chunk(3)
                for part, tensor in zip(_QKV, parts, strict=True):
                    state[f"{to}attention.attention.{part}.{kind}"] = tensor
                for part, name in _BLOCK_NAMES.items():
                    state[f"{to}{name}.{kind}"] = getattr(getattr(block, part), kind)
        return {name: tensor.detach().clone().contiguous() for name, tensor in state.items()}

    def load_transformers_state_dict(self, state: dict[str, Tensor]) -> None:
        """The inverse of :meth:`transformers_state_dict`."""
        own = {}
        for name, tensor in self.state_dict().items():
            head, _, tail = name.partition(".")
            if head == "blocks":
                i, part, kind = tail.split(".")
                to = f"vit.encoder.layer.{i}."
                if part == "qkv":
                    parts = [f"{to}attention.attention.{p}.{kind}" for p in _QKV]
                    own[name] = torch.cat([state[p] for p in parts])
                else:
                    own[name] = state[f"{to}{_BLOCK_NAMES[part]}.{kind}"]
            else:
                own[name] = state[_NAMES[head] + tail].view_as(tensor)
        self.load_state_dict(own)
