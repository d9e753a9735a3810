"""Read the attention of a Vision Transformer: maps, distance, entropy, rollout, relevance, sinks.

Shapes, the pictures always first: B pictures, L layers, H heads, T tokens. Token 0 is [CLS];
register tokens follow where a model has them; then come the patches, row by row from the top left.
Row i of an attention matrix says where token i looks; each row sums to one.

Works for the ViT-like models of transformers 4.57 and 5 that put their special tokens first: ViT,
DeiT, MSN, BEiT, DINOv2 with and without registers, DINOv3. Layers are found by what they can do,
not by their path.
"""

import inspect
import math
from contextlib import ExitStack

import torch
from PIL import Image
from torch import nn

from . import data, models
from .errors import CourseError, in_range, one_of

HEAD_FUSIONS = ("mean", "min", "max")


# --- pictures in, attention out ------------------------------------------------------------------


def pixels(model: nn.Module, processor, pictures) -> torch.Tensor:
    """Pictures as the model takes them, on its device: upright, three channels, its own size.

    Args:
        model: A ViT.
        processor: Its image processor.
        pictures: One PIL picture, or several (a list, a column of a data set), of any size and
            mode; transparent pixels become white.

    Returns:
        Shape (B, 3, H, W).

    Raises:
        CourseError: If a picture is smaller than one patch: enlarged, it would be a smear.
    """
    pictures = [pictures] if isinstance(pictures, Image.Image) else list(pictures)
    height, width = _pair(model.config.patch_size)
    for picture in pictures:
        if picture.height < height or picture.width < width:
            raise CourseError(
                f"The picture has {picture.width} x {picture.height} pixels, less than one patch "
                f"of {width} x {height}: use a larger one."
            )
    rgb = [data.to_rgb(picture) for picture in pictures]
    return processor(images=rgb, return_tensors="pt")["pixel_values"].to(model.device)


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
            "make them with attention.pixels(model, processor, picture)."
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
            'load it with models.load_classifier(attn_implementation="eager").'
        )
    output = model(pixel_values=pixel_values, output_attentions=True, **kwargs)
    attentions = output.attentions
    if not attentions or any(layer is None for layer in attentions):
        raise CourseError(
            f"{type(model).__name__} returned no attention maps: "
            'load it with models.load_classifier(attn_implementation="eager").'
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


def token_map(
    attn: torch.Tensor,
    grid: tuple[int, int],
    layer: int | None = None,
    head: int | None = None,
    token: int = 0,
) -> torch.Tensor:
    """Where one token looks, for every picture of a batch.

    Args:
        attn: Shape (B, L, H, T, T), from `maps`.
        grid: `(rows, columns)` of patches, from `grid_size`.
        layer: 0 is the first layer, -1 the last; `None` takes the mean of all layers.
        head: 0 is the first head; `None` takes the mean of all heads.
        token: 0 is [CLS]; patches come after the special tokens.

    Returns:
        Shape (B, rows, columns). The weights of a picture sum to less than one: what is missing
        goes to [CLS] (and to registers).

    Raises:
        CourseError: If there is no such layer, head or token.
    """
    _, layers, heads, tokens, _ = attn.shape
    attn = attn[:, :, :, in_range("token", token, tokens)]
    attn = attn.mean(2) if head is None else attn[:, :, in_range("head", head, heads)]
    attn = attn.mean(1) if layer is None else attn[:, in_range("layer", layer, layers)]
    return to_grid(attn, grid)


def cls_map(
    attn: torch.Tensor,
    grid: tuple[int, int],
    layer: int | None = None,
    head: int | None = None,
    picture: int = 0,
) -> torch.Tensor:
    """Where the [CLS] token of one picture looks: `token_map` for token 0, (rows, columns).

    Raises:
        CourseError: If there is no such layer, head or picture.
    """
    return token_map(attn, grid, layer, head)[in_range("picture", picture, len(attn))]


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


def patch_distances(grid: tuple[int, int], patch_size: int | tuple[int, int]) -> torch.Tensor:
    """Distances in pixels between the centres of all patches, shape (N, N) with N patches."""
    rows, columns = grid
    y, x = torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")
    centres = torch.stack((y.flatten(), x.flatten()), dim=1) * torch.tensor(_pair(patch_size))
    return torch.cdist(
        centres.float(), centres.float(), compute_mode="donot_use_mm_for_euclid_dist"
    )


def mean_attention_distance(
    attn: torch.Tensor, grid: tuple[int, int], patch_size: int | tuple[int, int]
) -> torch.Tensor:
    """How far a head looks on average, in pixels: a ViT's counterpart of a receptive field.

    The distance from each query patch to each key patch, weighted by attention, averaged over
    the query patches and the pictures. Special tokens have no place, so they are left out and
    the weights of the patches are scaled to sum to one again.

    Source: Dosovitskiy et al. 2021, "An Image is Worth 16x16 Words", figure 7 (right) and
    appendix D.7.

    Args:
        attn: Shape (B, L, H, T, T).
        grid: `(rows, columns)` of patches.
        patch_size: Side of a patch in pixels, or (height, width).

    Returns:
        Shape (L, H), in pixels of the model's input.
    """
    distances = patch_distances(grid, patch_size).to(attn.device)
    between_patches = attn[..., -len(distances) :, -len(distances) :]
    total = between_patches.sum(dim=-1)
    # A query may attend to special tokens alone; then it has no distance, and a weight of 0/0.
    mean = (between_patches * distances).sum(dim=-1) / total.clamp_min(1e-12)
    return mean.mean(dim=(0, 3))


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


# --- rollout: attention followed through the layers ----------------------------------------------


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
        attn: Shape (B, L, H, T, T).
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
    pictures, tokens = len(attn), attn.shape[-1]
    identity = torch.eye(tokens, device=attn.device, dtype=attn.dtype)
    result = identity.expand(pictures, tokens, tokens)
    for layer in fuse_heads(attn, head_fusion).unbind(dim=1):  # (B, T, T) each
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


def legrad(model: nn.Module, pixel_values: torch.Tensor, classes=None) -> torch.Tensor:
    """How sensitive the class is to each token's share of attention, summed over the layers.

    After every layer the classifier is asked what it would say if the model ended there. The
    gradient of that logit with respect to this layer's attention, its negative part dropped and
    averaged over heads and query tokens, is the layer's weight for each key token.

    Source: Bousselham et al. 2024, "LeGrad: An Explainability Method for Vision Transformers via
    Feature Formation Sensitivity", section 3. The paper's last step, scaling each map to 0..1, is
    left out: it changes no order.

    Args:
        model: A classifier in evaluation mode, loaded with `attn_implementation="eager"`.
        pixel_values: Shape (B, 3, H, W).
        classes: One class for all pictures, or one for each; `None` takes the model's answers.

    Returns:
        Shape (B, T), from 0.

    Raises:
        CourseError: If there is no such class, the model has no classes, or as for `maps`.
    """
    layers = models.blocks(model)
    seen = []

    def cut(block, inputs):
        # Gradients must not flow on into earlier layers: each layer is asked for itself.
        return (inputs[0].detach().requires_grad_(), *inputs[1:])

    def keep(block, inputs, output):
        seen.append(_first(output))
        if len(seen) == len(layers):
            # What comes after the last block then sees all layers as one batch of L x B pictures.
            everything = torch.cat(seen)
            return (everything, *output[1:]) if isinstance(output, tuple) else everything

    with ExitStack() as hooks, torch.enable_grad():
        for block in layers:
            hooks.enter_context(block.register_forward_pre_hook(cut))
            hooks.enter_context(block.register_forward_hook(keep))
        output, attentions = _forward(model, pixel_values)
        logits = _logits(model, output).unflatten(0, (len(layers), -1))  # (L, B, classes)
        chosen = _classes(logits[-1], classes).expand(len(layers), -1)
        score = logits.gather(2, chosen[..., None]).sum()
        gradients = torch.autograd.grad(score, attentions)
    return torch.stack([g.relu().mean(dim=(1, 2)) for g in gradients]).mean(dim=0)


def _first(output) -> torch.Tensor:
    # A block returns its tokens alone (transformers 5), or first in a tuple (4.57).
    return output[0] if isinstance(output, tuple) else output


def _logits(model: nn.Module, output) -> torch.Tensor:
    logits = getattr(output, "logits", None)
    if logits is None or logits.ndim != 2:
        raise CourseError(
            f"{type(model).__name__} has no classes to ask for: load a model for image "
            "classification, as models.load_classifier does."
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


# --- sinks: tokens that are used as a store -------------------------------------------------------


def token_norms(model: nn.Module, pixel_values: torch.Tensor) -> torch.Tensor:
    """Length of every token's vector before the first layer and after each one.

    Source: Darcet et al. 2023, "Vision Transformers Need Registers", section 2.1: in many large
    ViTs a few patches of dull background get vectors many times longer than all others, and the
    model keeps information about the whole picture there.

    Args:
        model: A ViT in evaluation mode; any kind of attention will do.
        pixel_values: Shape (B, 3, H, W).

    Returns:
        Shape (B, L + 1, T): entry 0 is the embedding, entry l the output of the l-th layer.
    """
    norms = []

    def before(block, inputs):
        norms.append(inputs[0].norm(dim=-1))

    def after(block, inputs, output):
        norms.append(_first(output).norm(dim=-1))

    layers = models.blocks(model)
    with ExitStack() as hooks, torch.no_grad():
        hooks.enter_context(layers[0].register_forward_pre_hook(before))
        for block in layers:
            hooks.enter_context(block.register_forward_hook(after))
        model(pixel_values=pixel_values, **_checked(model, pixel_values))
    return torch.stack(norms, dim=1)


def outliers(norms: torch.Tensor, grid: tuple[int, int], factor: float = 3.0) -> torch.Tensor:
    """Which patches have a vector much longer than the picture's median patch.

    Darcet et al. 2023 set a limit by hand for each model (150 for the largest DINOv2); a multiple
    of the median needs no model's numbers.

    Args:
        norms: Shape (..., T), for example `token_norms(...)[:, -1]`.
        grid: `(rows, columns)` of patches.
        factor: How many times the median a norm must exceed.

    Returns:
        Truth values, shape (..., rows, columns).
    """
    patches = to_grid(norms, grid)
    median = patches.flatten(-2).median(dim=-1).values
    return patches > factor * median[..., None, None]


def received(attn: torch.Tensor) -> torch.Tensor:
    """The share of a layer's attention that each token gets, averaged over heads and queries.

    A token that gets much more than the even share 1 / T is a *sink* of attention: queries that
    need nothing in this layer can leave their weight there (Xiao et al. 2023, "Efficient Streaming
    Language Models with Attention Sinks", section 3.1).

    Args:
        attn: Shape (B, L, H, T, T).

    Returns:
        Shape (B, L, T); the last axis sums to one.
    """
    return attn.mean(dim=(2, 3))


def sinks(attn: torch.Tensor, factor: float = 5.0) -> torch.Tensor:
    """Tokens with more than `factor` times the even share in a layer: truth values (B, L, T)."""
    return received(attn) > factor / attn.shape[-1]


def without(grid_map: torch.Tensor, hidden: torch.Tensor) -> torch.Tensor:
    """A map without some patches, such as outliers or sinks: their weight is set to zero.

    Args:
        grid_map: Shape (..., rows, columns).
        hidden: Truth values of a shape that fits, true where a patch is to be left out.

    Returns:
        Shape (..., rows, columns). The other weights stay as they are, so the sum falls by what
        was left out.
    """
    return grid_map.masked_fill(hidden, 0.0)
