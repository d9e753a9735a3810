"""Read the attention of a Vision Transformer: maps, rollout, relevance for a class.

Shapes, the pictures always first: B pictures, L layers, H heads, T tokens. Token 0 is [CLS];
register tokens follow where a model has them; then come the patches, row by row from the top left.
Row i of an attention matrix says where token i looks; each row sums to one.

Works for the ViT-like models of transformers 4.57 and 5 that put their special tokens first: ViT,
DeiT, MSN, BEiT, DINOv2 with and without registers, DINOv3.
"""

import inspect

import torch
from torch import nn

from .errors import CourseError, in_range, one_of

HEAD_FUSIONS = ("mean", "min", "max")


# --- pictures in, attention out ------------------------------------------------------------------


def _checked(model: nn.Module, pixel_values: torch.Tensor) -> dict:
    """Refuse what is no batch of pictures; what the model must be told about their size."""
    if pixel_values.ndim != 4:
        raise CourseError(
            f"pixel_values has shape {tuple(pixel_values.shape)}, but it must be a batch (B, 3, "
            "height, width): add the first axis with pixel_values[None]."
        )
    channels = getattr(model.config, "num_channels", 3)
    if pixel_values.shape[1] != channels:
        raise CourseError(
            f"pixel_values has {pixel_values.shape[1]} channels, but this model takes {channels}: "
            "make them with images.to_pixels(picture, processor)."
        )
    grid_size(model, pixel_values)  # raises for pictures smaller than a patch
    size, trained = tuple(pixel_values.shape[-2:]), _pair(model.config.image_size)
    if size == trained:
        return {}
    if trained[0] != trained[1]:  # the library lays the positions out as a square
        raise CourseError(
            f"Pictures of {size[1]} x {size[0]} pixels do not fit: this model was trained on "
            f"{trained[1]} x {trained[0]}, and positions can be interpolated only for squares."
        )
    # Another size than in training: positions are interpolated. DINOv2 does so unasked.
    asks = "interpolate_pos_encoding" in inspect.signature(model.forward).parameters
    return {"interpolate_pos_encoding": True} if asks else {}


def _forward(model: nn.Module, pixel_values: torch.Tensor):
    """Run the model with its attentions; returns `(output, list of L tensors (B, H, T, T))`."""
    kwargs = _checked(model, pixel_values)
    # With fused attention `output_attentions=True` gives nothing, and no error: ask first.
    kind = getattr(model.config, "_attn_implementation", None)
    if kind != "eager":
        raise CourseError(
            f"This model was loaded with {kind!r} attention, which never holds its maps in memory: "
            'load it with from_pretrained(..., attn_implementation="eager").'
        )
    output = model(pixel_values=pixel_values, output_attentions=True, **kwargs)
    attentions = output.attentions
    if not attentions or any(layer is None for layer in attentions):
        raise CourseError(
            f"{type(model).__name__} returned no attention maps: "
            'load it with from_pretrained(..., attn_implementation="eager").'
        )
    return output, list(attentions)


def maps(model: nn.Module, pixel_values: torch.Tensor) -> torch.Tensor:
    """Run the model and return the attention of every layer and head.

    Args:
        model: A ViT of transformers in evaluation mode, loaded with
            `attn_implementation="eager"`.
        pixel_values: Shape (B, 3, H, W), as the processor makes them; another size than in
            training works too.

    Returns:
        Shape (B, L, H, T, T): `result[picture, layer, head, i, j]` is how much token i attends
        to token j. No gradient is kept.

    Raises:
        CourseError: If the model's attention is fused, so that no maps exist, or if
            `pixel_values` is not a batch of pictures of at least one patch.
    """
    with torch.no_grad():
        _, attentions = _forward(model, pixel_values)
    if {layer.shape[0] for layer in attentions} != {len(pixel_values)}:
        raise CourseError(
            f"{type(model).__name__} attends within windows, so no map covers the whole picture: "
            "take a ViT, DeiT, DINOv2 or BEiT."
        )
    return torch.stack(attentions, dim=1)


# --- from tokens to places -----------------------------------------------------------------------


def _pair(value) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else (int(value[0]), int(value[1]))


def grid_size(model: nn.Module, pixel_values: torch.Tensor | None = None) -> tuple[int, int]:
    """Rows and columns of patches: the picture's size divided by the patch's size.

    The square root of the number of tokens would be wrong for pictures that are not square and
    for models with extra tokens.

    Args:
        model: A ViT.
        pixel_values: Shape (B, 3, H, W); only needed where pictures have another size than in
            training.

    Returns:
        `(rows, columns)`, for example (14, 14) for 224 pixels and patches of 16.

    Raises:
        CourseError: If the pictures are smaller than one patch.
    """
    given = model.config.image_size if pixel_values is None else pixel_values.shape[-2:]
    height, width = _pair(given)
    patch_height, patch_width = _pair(model.config.patch_size)
    if height < patch_height or width < patch_width:
        raise CourseError(
            f"Pictures of {width} x {height} pixels are smaller than one patch of {patch_width} x "
            f"{patch_height}: use larger ones."
        )
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


# --- rollout: attention followed through the layers ----------------------------------------------


def fuse_heads(attn: torch.Tensor, head_fusion: str = "mean") -> torch.Tensor:
    """Combine the heads, axis -3 of (..., H, T, T), by `mean`, `min` or `max`: (..., T, T)."""
    one_of("head_fusion", head_fusion, HEAD_FUSIONS)
    return {"mean": torch.mean, "min": torch.amin, "max": torch.amax}[head_fusion](attn, dim=-3)


def rollout(attn: torch.Tensor, head_fusion: str = "mean") -> torch.Tensor:
    """Follow attention through all layers: how much of each input token is mixed into each output.

    In every layer a token keeps itself through the skip connection, so the layer's mixing matrix
    is taken as 0.5 A + 0.5 I with rows that sum to one, and the matrices are multiplied from the
    first layer to the last.

    Source: Abnar and Zuidema 2020, "Quantifying Attention Flow in Transformers", section 3, with
    the mean over heads; minimum and maximum are Gildenblat's additions (2020, "Exploring
    Explainability for Vision Transformers").

    Args:
        attn: Shape (B, L, H, T, T).
        head_fusion: How the heads of a layer are combined: `mean`, `min` or `max`.

    Returns:
        Shape (B, T, T); each row sums to one. Row 0 belongs to the [CLS] token.

    Raises:
        CourseError: If `head_fusion` is not allowed.
    """
    pictures, tokens = len(attn), attn.shape[-1]
    identity = torch.eye(tokens, device=attn.device, dtype=attn.dtype)
    result = identity.expand(pictures, tokens, tokens)
    for layer in fuse_heads(attn, head_fusion).unbind(dim=1):  # (B, T, T) each
        mixing = 0.5 * layer + 0.5 * identity
        # Each row, so the last axis: after a minimum or maximum, rows no longer sum to one.
        mixing = mixing / mixing.sum(dim=-1, keepdim=True)
        result = mixing @ result
    return result


# --- relevance for a class: attention weighted by gradients ---------------------------------------


def relevance(model: nn.Module, pixel_values: torch.Tensor, classes=None) -> torch.Tensor:
    """How much each token contributes to one class, followed through all layers.

    A weight of attention counts as far as the logit of the class would rise with it: each
    layer's attention is multiplied by its gradient, negative products are dropped, and the heads
    are averaged to a matrix A. From the first layer to the last, R grows from the identity by
    R = R + A R. Unlike rollout, the result depends on the class that is asked for.

    Source: Chefer et al. 2021, "Generic Attention-model Explainability for Interpreting Bi-Modal
    and Encoder-Decoder Transformers", equations 5 and 6 (the self-attention form).

    Args:
        model: A classifier in evaluation mode, loaded with `attn_implementation="eager"`.
        pixel_values: Shape (B, 3, H, W).
        classes: One class for all pictures, or one for each; `None` takes the model's answers.

    Returns:
        Shape (B, T, T). Row 0 is the relevance of each token for what [CLS] says.

    Raises:
        CourseError: If there is no such class, the model has no classes, or as for `maps`.
    """
    with torch.enable_grad():
        # The input asks for gradients, so that a frozen model gives them too.
        output, attentions = _forward(model, pixel_values.detach().clone().requires_grad_())
        logits = _logits(model, output)
        chosen = logits.gather(1, _classes(logits, classes)[:, None])
        # Pictures do not mix, so the gradient of the sum is each picture's own gradient.
        gradients = torch.autograd.grad(chosen.sum(), attentions)
    tokens = attentions[0].shape[-1]
    result = torch.eye(tokens, device=logits.device).expand(len(logits), tokens, tokens)
    for attn, gradient in zip(attentions, gradients, strict=True):
        result = result + (gradient * attn.detach()).relu().mean(dim=1) @ result
    return result


def _logits(model: nn.Module, output) -> torch.Tensor:
    logits = getattr(output, "logits", None)
    if logits is None or logits.ndim != 2:
        raise CourseError(
            f"{type(model).__name__} has no classes to ask for: load a model for image "
            "classification."
        )
    return logits


def _classes(logits: torch.Tensor, classes) -> torch.Tensor:
    """The chosen class of each picture, shape (B,), checked."""
    if classes is None:
        return logits.detach().argmax(dim=-1)
    pictures, count = logits.shape
    asked = classes.tolist() if isinstance(classes, torch.Tensor) else classes
    asked = list(asked) if isinstance(asked, (list, tuple)) else [asked] * pictures
    if len(asked) != pictures:
        raise CourseError(
            f"There are {len(asked)} classes for {pictures} pictures: give one class, or one for "
            "each picture."
        )
    return torch.tensor([in_range("class", c, count) for c in asked], device=logits.device)
