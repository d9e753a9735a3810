"""Read the attention of a Vision Transformer: maps, distance, entropy, rollout.

Shapes: B pictures, L layers, H heads, T tokens. Token 0 is [CLS]; register tokens follow where a
model has them; then come the patches, row by row from the top left. Row i of an attention matrix
says where token i looks; each row sums to one.
"""

import math

import torch
from torch import nn

from .errors import CourseError, in_range, one_of

HEAD_FUSIONS = ("mean", "min", "max")


def maps(model: nn.Module, pixel_values: torch.Tensor) -> torch.Tensor:
    """Run the model and return the attention of every layer and head.

    Args:
        model: A ViT of transformers in evaluation mode, loaded with
            `attn_implementation="eager"`.
        pixel_values: Shape (B, 3, H, W), as the processor makes them.

    Returns:
        Shape (L, B, H, T, T): `result[layer, picture, head, i, j]` is how much token i attends
        to token j. No gradient is kept.

    Raises:
        CourseError: If the model's attention is fused, so that no maps exist, or if
            `pixel_values` is not a batch of pictures.
    """
    if pixel_values.ndim != 4:
        raise CourseError(
            f"pixel_values has shape {tuple(pixel_values.shape)}, but it must be a batch (B, 3, "
            "height, width): add the first axis with pixel_values[None]."
        )
    # With fused attention `output_attentions=True` gives nothing, and no error: ask first.
    kind = getattr(model.config, "_attn_implementation", None)
    if kind != "eager":
        raise CourseError(
            f"This model was loaded with {kind!r} attention, which never holds its maps in memory: "
            'load it with models.load_classifier(attn_implementation="eager").'
        )
    with torch.no_grad():
        attentions = model(pixel_values=pixel_values, output_attentions=True).attentions
    if not attentions or any(layer is None for layer in attentions):
        raise CourseError(
            f"{type(model).__name__} returned no attention maps: "
            'load it with models.load_classifier(attn_implementation="eager").'
        )
    return torch.stack(tuple(attentions))


# --- from tokens to places -----------------------------------------------------------------------


def _pair(value) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else (int(value[0]), int(value[1]))


def grid_size(model: nn.Module) -> tuple[int, int]:
    """Rows and columns of patches: the picture's size divided by the patch's size.

    The square root of the number of tokens would be wrong for pictures that are not square and
    for models with extra tokens.

    Returns:
        `(rows, columns)`, for example (14, 14) for 224 pixels and patches of 16.
    """
    height, width = _pair(model.config.image_size)
    patch_height, patch_width = _pair(model.config.patch_size)
    return height // patch_height, width // patch_width


def to_grid(row: torch.Tensor, grid: tuple[int, int]) -> torch.Tensor:
    """Lay the weights of the patch tokens out as a small picture; drop the special tokens.

    Args:
        row: Shape (..., T): one weight a token. The special tokens ([CLS], registers) come first.
        grid: `(rows, columns)` of patches, from `grid_size`.

    Returns:
        Shape (..., rows, columns).

    Raises:
        CourseError: If there are fewer tokens than patches.
    """
    rows, columns = grid
    special = row.shape[-1] - rows * columns
    if special < 0:
        raise CourseError(
            f"{row.shape[-1]} tokens are too few for a grid of {rows} x {columns} patches: "
            "use grid_size(model) of the model that made them."
        )
    return row[..., special:].unflatten(-1, (rows, columns))


def cls_map(
    attn: torch.Tensor, grid: tuple[int, int], layer: int, head: int, picture: int = 0
) -> torch.Tensor:
    """Where the [CLS] token looks in one head of one layer.

    Args:
        attn: Shape (L, B, H, T, T), from `maps`.
        grid: `(rows, columns)` of patches, from `grid_size`.
        layer: 0 is the first layer, -1 the last.
        head: 0 is the first head.
        picture: Which picture of the batch.

    Returns:
        Shape (rows, columns). The weights sum to less than one: what is missing is the attention
        of [CLS] to itself (and to registers).

    Raises:
        CourseError: If there is no such layer, head or picture.
    """
    layer = in_range("layer", layer, attn.shape[0])
    picture = in_range("picture", picture, attn.shape[1])
    head = in_range("head", head, attn.shape[2])
    return to_grid(attn[layer, picture, head, 0], grid)


def upsample(grid_map: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """Enlarge maps to a picture's size, bilinearly; values stay between the old least and largest.

    Args:
        grid_map: Shape (..., rows, columns).
        size: `(height, width)` in pixels.

    Returns:
        Shape (..., height, width).
    """
    flat = grid_map.float().reshape(1, -1, *grid_map.shape[-2:])
    large = nn.functional.interpolate(flat, size=tuple(size), mode="bilinear", align_corners=False)
    return large.reshape(*grid_map.shape[:-2], *size)


# --- statistics ----------------------------------------------------------------------------------


def patch_distances(grid: tuple[int, int], patch_size: int) -> torch.Tensor:
    """Distances in pixels between the centres of all patches, shape (N, N) with N patches."""
    rows, columns = grid
    y, x = torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")
    centres = torch.stack((y.flatten(), x.flatten()), dim=1).float() * patch_size
    return torch.cdist(centres, centres, compute_mode="donot_use_mm_for_euclid_dist")


def mean_attention_distance(
    attn: torch.Tensor, grid: tuple[int, int], patch_size: int
) -> torch.Tensor:
    """How far a head looks on average, in pixels: a ViT's counterpart of a receptive field.

    The distance from each query patch to each key patch, weighted by attention, averaged over
    the query patches and the pictures. Special tokens have no place, so they are left out and
    the weights of the patches are scaled to sum to one again.

    Source: Dosovitskiy et al. 2021, "An Image is Worth 16x16 Words", figure 7 (right) and
    appendix D.7.

    Args:
        attn: Shape (L, B, H, T, T).
        grid: `(rows, columns)` of patches.
        patch_size: Side of a patch in pixels.

    Returns:
        Shape (L, H), in pixels of the model's input.
    """
    distances = patch_distances(grid, patch_size).to(attn.device)
    between_patches = attn[..., -len(distances) :, -len(distances) :]
    total = between_patches.sum(dim=-1)
    # A query may attend to special tokens alone; then it has no distance, and a weight of 0/0.
    mean = (between_patches * distances).sum(dim=-1) / total.clamp_min(1e-12)
    return mean.mean(dim=(1, 3))


def entropy(attn: torch.Tensor) -> torch.Tensor:
    """Entropy of each row of attention in bits: how many tokens it is spread over.

    0 bits: all attention on one token. log2(T) bits, 7.6 for 197 tokens: evenly on all. A row
    with h bits is as undecided as one spread evenly over 2**h tokens.

    Args:
        attn: Shape (..., T), rows that sum to one.

    Returns:
        Shape (...), in bits.
    """
    return torch.special.entr(attn).sum(dim=-1) / math.log(2)


# --- rollout -------------------------------------------------------------------------------------


def fuse_heads(attn: torch.Tensor, head_fusion: str = "mean") -> torch.Tensor:
    """Combine the heads, axis -3 of (..., H, T, T), by `mean`, `min` or `max`: (..., T, T)."""
    one_of("head_fusion", head_fusion, HEAD_FUSIONS)
    return {"mean": torch.mean, "min": torch.amin, "max": torch.amax}[head_fusion](attn, dim=-3)


def rollout(
    attn: torch.Tensor, head_fusion: str = "mean", discard_ratio: float = 0.0
) -> torch.Tensor:
    """Follow attention through all layers: how much of each input token is mixed into each output.

    In every layer a token keeps itself through the skip connection, so the layer's mixing matrix
    is taken as 0.5 A + 0.5 I with rows that sum to one, and the matrices are multiplied from the
    first layer to the last.

    Source: Abnar and Zuidema 2020, "Quantifying Attention Flow in Transformers", section 3, with
    the mean over heads. Min, max and the discard ratio are Gildenblat's additions (2020,
    "Exploring Explainability for Vision Transformers").

    Args:
        attn: Shape (L, B, H, T, T).
        head_fusion: How the heads of a layer are combined: `mean`, `min` or `max`.
        discard_ratio: The smallest weights of each layer's fused matrix, this share of all its
            entries, are set to zero before. From 0 to below 1.

    Returns:
        Shape (B, T, T); each row sums to one. Row 0 belongs to the [CLS] token.

    Raises:
        CourseError: If `head_fusion` or `discard_ratio` is not allowed.
    """
    if not 0 <= discard_ratio < 1:
        raise CourseError(f"discard_ratio is {discard_ratio!r}, but it must be from 0 to below 1.")
    tokens = attn.shape[-1]
    identity = torch.eye(tokens, device=attn.device, dtype=attn.dtype)
    result = identity.expand(attn.shape[1], tokens, tokens)
    for layer in fuse_heads(attn, head_fusion):
        mixing = 0.5 * _discard_smallest(layer, discard_ratio) + 0.5 * identity
        # Each row, so the LAST axis: after min, max or discarding, rows no longer sum to one.
        mixing = mixing / mixing.sum(dim=-1, keepdim=True)
        result = mixing @ result
    return result


def _discard_smallest(matrices: torch.Tensor, ratio: float) -> torch.Tensor:
    """Set the smallest share `ratio` of the entries of each matrix (B, T, T) to zero."""
    flat = matrices.flatten(1)
    count = int(ratio * flat.shape[1])
    smallest = flat.topk(count, dim=1, largest=False).indices
    return flat.scatter(1, smallest, 0.0).view_as(matrices)
