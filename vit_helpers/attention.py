"""Read the attention of a Vision Transformer: maps, rollout, relevance, and how true a map is.

Shapes, the pictures always first: B pictures, L layers, H heads, T tokens. Token 0 is [CLS];
register tokens follow where a model has them; then come the patches, row by row from the top left.
Row i of an attention matrix says where token i looks; each row sums to one.

Works for the ViT-like models of transformers 4.57 and 5 that put their special tokens first: ViT,
DeiT, MSN, BEiT, DINOv2 with and without registers, DINOv3.
"""

import inspect
import math

import torch
from torch import nn

from .errors import CourseError, in_range, one_of

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
    if not output.attentions or any(layer is None for layer in output.attentions):
        raise CourseError(
            f"{type(model).__name__} returned no attention maps: "
            'load it with from_pretrained(..., attn_implementation="eager").'
        )
    return output, list(output.attentions)


def maps(model: nn.Module, pixel_values: torch.Tensor) -> torch.Tensor:
    """Run the model and return the attention of every layer and head.

    Args:
        model: A ViT in evaluation mode, loaded with `attn_implementation="eager"`.
        pixel_values: Shape (B, 3, H, W); another size than in training works too.

    Returns:
        Shape (B, L, H, T, T): `result[picture, layer, head, i, j]` is how much token i attends
        to token j. No gradient is kept.

    Raises:
        CourseError: If the model's attention is fused, so that no maps exist, or if
            `pixel_values` is not a batch of pictures of at least one patch.
    """
    with torch.no_grad():
        _, attentions = _forward(model, pixel_values)
    if {len(layer) for layer in attentions} != {len(pixel_values)}:
        raise CourseError(
            f"{type(model).__name__} attends within windows, so no map covers the whole picture: "
            "take a ViT, DeiT, DINOv2 or BEiT."
        )
    return torch.stack(attentions, dim=1)


# --- from tokens to places -----------------------------------------------------------------------


def _pair(value) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else (int(value[0]), int(value[1]))


def grid_size(model: nn.Module, pixel_values: torch.Tensor | None = None) -> tuple[int, int]:
    """Rows and columns of patches, such as (14, 14) for 224 pixels and patches of 16.

    The square root of the number of tokens would be wrong for pictures that are not square and
    for models with extra tokens.

    `pixel_values` (B, 3, H, W) are needed where they have another size than in training.

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


def upsample(grid_map: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """Enlarge maps (..., rows, columns) to (..., height, width), bilinearly."""
    flat = grid_map.float().reshape(1, -1, *grid_map.shape[-2:])
    large = nn.functional.interpolate(flat, size=tuple(size), mode="bilinear", align_corners=False)
    return large.reshape(*grid_map.shape[:-2], *size)


# --- attention followed through the layers -------------------------------------------------------


def rollout(attn: torch.Tensor) -> torch.Tensor:
    """Follow attention through all layers: how much of each input token is mixed into each output.

    In every layer a token keeps itself through the skip connection, so the layer's mixing matrix
    is taken as 0.5 A + 0.5 I, where A is the mean over the heads, and the matrices are multiplied
    from the first layer to the last.

    Source: Abnar and Zuidema 2020, "Quantifying Attention Flow in Transformers", section 3.

    Args:
        attn: Shape (B, L, H, T, T).

    Returns:
        Shape (B, T, T); each row sums to one. Row 0 belongs to the [CLS] token.
    """
    identity = torch.eye(attn.shape[-1], device=attn.device, dtype=attn.dtype)
    result = identity.expand(len(attn), -1, -1)
    for layer in attn.mean(dim=2).unbind(dim=1):  # (B, T, T) each
        mixing = 0.5 * layer + 0.5 * identity
        result = mixing @ result
    return result


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
        logits = getattr(output, "logits", None)
        if logits is None or logits.ndim != 2:
            raise CourseError(
                f"{type(model).__name__} has no classes to ask for: load a model for image "
                "classification."
            )
        chosen = logits.gather(1, _classes(logits, classes)[:, None])
        # Pictures do not mix, so the gradient of the sum is each picture's own gradient.
        gradients = torch.autograd.grad(chosen.sum(), attentions)
    tokens = attentions[0].shape[-1]
    result = torch.eye(tokens, device=logits.device).expand(len(logits), tokens, tokens)
    for attn, gradient in zip(attentions, gradients, strict=True):
        result = result + (gradient * attn.detach()).relu().mean(dim=1) @ result
    return result


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


# --- does a map show what the answer depends on? -------------------------------------------------

REFERENCES = ("random", "centre")  # maps that have not looked at the picture


def centre_maps(count: int, grid: tuple[int, int]) -> torch.Tensor:
    """The nearer to the centre, the more important; shape (N, rows, columns), 0 to 1.

    Photographers put things in the middle, so this map often points at the object without
    looking at the picture.
    """
    rows, columns = (torch.linspace(-1, 1, n) if n > 1 else torch.zeros(1) for n in grid)
    distance = torch.sqrt(rows[:, None] ** 2 + columns**2) / math.sqrt(2)
    return (1 - distance).expand(count, *grid)


def faithfulness(measured: dict[str, dict[str, torch.Tensor]]):
    """Areas of deletion and insertion for each method, against `REFERENCES` on the same pictures.

    Source: Petsiuk et al. 2018, "RISE: Randomized Input Sampling for Explanation of Black-box
    Models", section 4.2, with patches in place of pixels.

    Args:
        measured: `{"deletion": {name: (N, steps + 1)}, "insertion": {...}}`: the probability of
            the class after each step, from 0 to all patches.

    Returns:
        A pandas `DataFrame`, one row a method in the order given. Columns `deletion` (lower is
        better), `insertion` (higher is better), and for each reference `over ...`: the difference
        insertion - deletion less that of the reference, picture by picture. Beside it stands
        `over ... ±`, half the width of an interval that is so wide that all of them together hold
        in 95 of 100 cases (Bonferroni's correction).
    """
    import pandas as pd

    for reference in REFERENCES:
        one_of("reference", reference, tuple(measured["deletion"]))
    deletion, insertion = (
        {name: torch.trapezoid(c, dx=1 / (c.shape[-1] - 1)) for name, c in measured[kind].items()}
        for kind in ("deletion", "insertion")
    )
    gap = {name: insertion[name] - deletion[name] for name in deletion}
    level = 1 - 0.05 / ((len(deletion) - 1) * len(REFERENCES))
    rows = {}
    for name in deletion:
        rows[name] = {
            "deletion": deletion[name].mean().item(),
            "insertion": insertion[name].mean().item(),
        }
        for reference in REFERENCES:
            mean, half = mean_interval(gap[name] - gap[reference], level)
            rows[name] |= {f"over {reference}": mean, f"over {reference} ±": half}
    return pd.DataFrame.from_dict(rows, orient="index")


def mean_interval(values: torch.Tensor, level: float = 0.95) -> tuple[float, float]:
    """Mean of independent values and half the width of its confidence interval (Student's t).

    Raises:
        CourseError: If there are fewer than two values.
    """
    from scipy import stats

    if len(values) < 2:
        raise CourseError(f"{len(values)} value has no interval: measure at least 2 pictures.")
    exact = values.cpu().double()  # Apple's GPU has no float64
    error = exact.std().item() / math.sqrt(len(values))
    return exact.mean().item(), stats.t.ppf((1 + level) / 2, len(values) - 1) * error
