"""Load a Vision Transformer as what it is, find its parts, freeze them, change the head, save.

Any ViT of transformers 4.57 or 5 will do: a part is found by what it is, not by its path, which
differs by family and release (`vit.encoder.layer[i]` became `vit.layers[i]`). Weights are read
from safetensors files only: the older pickle files are programs, which run as they are read.
"""

import contextlib
import os
import re
import tempfile
from pathlib import Path

import numpy as np
import torch
from torch import nn

from . import images, runtime
from .errors import CourseError, number, old_names, whole_number

__getattr__ = old_names(__name__)


@contextlib.contextmanager
def loading(path: str | Path):
    """Within the `with` block, a library's failure to load is one `CourseError` naming `path`."""
    from safetensors import SafetensorError

    try:
        yield
    except (OSError, ValueError, KeyError, TypeError, RuntimeError, SafetensorError) as error:
        lines = str(error).strip().splitlines() or [type(error).__name__]
        reason = f"{lines[0].rstrip('.')}. Give an id of the Hub or a folder of save_pretrained."
        weights = Path(path) / "model.safetensors"
        small = weights.is_file() and weights.stat().st_size < 1000
        if small and weights.read_bytes().startswith(b"version https://git-"):
            reason = "model.safetensors is a pointer of Git LFS: fetch it (git lfs pull)."
        text = f"{str(path)!r} cannot be loaded as an image classifier: {reason}"
        raise CourseError(text) from None


def load_processor(path: str | Path):
    """The image processor of a folder of `save_pretrained` or an id of the Hub."""
    from transformers import AutoImageProcessor

    path = Path(path).expanduser().as_posix()  # an id of the Hub keeps its slash
    with loading(path):
        processor = AutoImageProcessor.from_pretrained(path, use_fast=True)
    if not np.all(getattr(processor, "image_std", None) or 1):
        raise CourseError(f"{path!r}: its processor divides by an image_std of 0; correct it.")
    return processor


def load_with_new_head(class_names: list[str], path: str | Path | None = None):
    """A pre-trained body under a new, random head for other classes, on the device.

    `path` is a folder of `save_pretrained` or an id of the Hub; `None` is the course's own model.
    Raises a `CourseError` if there is no such model, or a weight of its body is missing.
    """
    from transformers import AutoModelForImageClassification

    named = isinstance(class_names, (list, tuple)) and all(isinstance(n, str) for n in class_names)
    if not named or not class_names or len(class_names) != len(set(class_names)):
        raise CourseError(f"{class_names!r:.60} must be a list of different class names.")
    path = Path(path or runtime.current().locate("classifier")).expanduser().as_posix()
    with loading(path):
        model, info = AutoModelForImageClassification.from_pretrained(
            path,
            num_labels=len(class_names),
            ignore_mismatched_sizes=True,  # the head's size differs from the checkpoint's
            dtype=torch.float32,
            use_safetensors=True,
            output_loading_info=True,
            id2label=dict(enumerate(class_names)),
            label2id={name: i for i, name in enumerate(class_names)},
        )
    mismatched = {key if isinstance(key, str) else key[0] for key in info["mismatched_keys"]}
    of_head = {id(p) for p in head(model).parameters()}
    random = {name for name, p in model.named_parameters() if id(p) in of_head}
    if missing := (set(info["missing_keys"]) | mismatched) - random:
        raise CourseError(
            f"{path!r} has no weights for {len(missing)} parts of {type(model).__name__} "
            f"({', '.join(sorted(missing)[:2])}), so they would be random: give a model that was "
            "saved whole."
        )
    return model.to(runtime.current().device)


def plain_bf16_attention(
    module, query, key, value, attention_mask, scaling, dropout: float = 0.0, **unused
):
    """softmax(QK^T / sqrt(d)) V under bf16 autocast on a CPU, with every large tensor in bf16.

    The plain attention of transformers leaves the softmax to autocast, which computes it in fp32:
    two copies of the largest tensor of a block. Called as `transformers.AttentionInterface` does.
    """
    scores = (query * scaling) @ key.transpose(-1, -2)
    with torch.autocast(query.device.type, enabled=False):  # torch's softmax adds in fp32 anyway
        weights = scores.softmax(dim=-1)
    weights = nn.functional.dropout(weights, dropout, module.training)
    return (weights @ value).transpose(1, 2).contiguous(), weights


@contextlib.contextmanager
def attention(model: nn.Module, implementation: str):
    """Within the block, a model computes the same attention by `sdpa`, `eager` or `plain_bf16`."""
    from transformers import AttentionInterface

    AttentionInterface.register("plain_bf16", plain_bf16_attention)
    before = model.config._attn_implementation
    model.set_attn_implementation(implementation)
    try:
        yield
    finally:
        model.set_attn_implementation(before)


@contextlib.contextmanager
def patch_dropout(model: nn.Module, keep: float):
    """Within the block, a model in training mode sees a random part of each picture's patches.

    So every block has less to do. `keep` is the share that stays beside [CLS]. (Liu et al. 2022,
    "PatchDropout: Economizing Vision Transformers Using Patch Dropout", section 3.)
    """
    number("keep", keep, above=0, most=1)

    if getattr(model.config, "use_relative_position_bias", False):
        raise CourseError(f"{type(model).__name__} wants every patch: its attention counts places.")

    def drop(module, inputs, tokens):  # (B, 1 + patches, width)
        if not torch.is_tensor(tokens) or tokens.dim() != 3:
            raise CourseError(f"{type(model).__name__} wants every patch: keep all of them.")
        if not model.training:
            return tokens
        patches = tokens.shape[1] - 1
        order = torch.rand(len(tokens), patches, device=tokens.device).argsort(dim=1)
        kept = 1 + order[:, : max(1, round(keep * patches))]  # [CLS] is number 0 and stays
        kept = kept[..., None].expand(-1, -1, tokens.shape[2])
        return torch.cat([tokens[:, :1], tokens.gather(1, kept)], dim=1)

    handle = embeddings(model).register_forward_hook(drop) if keep < 1 else None
    model.kept_patches = keep  # a checkpoint knows it again
    try:
        yield
    finally:
        del model.kept_patches
        if handle:
            handle.remove()


def blocks(model: nn.Module) -> nn.ModuleList:
    """The encoder blocks of a ViT, first to last; raises `CourseError` if it has no such list."""
    depth = getattr(vision_config(model), "num_hidden_layers", None)
    for module in model.modules():
        if isinstance(module, nn.ModuleList) and len(module) == depth:
            if len({type(child) for child in module}) == 1:
                return module
    raise CourseError(
        f"{type(model).__name__} has no list of encoder blocks: not a ViT. Freeze none of it."
    )


def vision_config(model: nn.Module):
    """The settings of what looks at pictures: a CLIP has others, for text."""
    config = getattr(model, "config", None)
    return getattr(config, "vision_config", config)


def _body(model: nn.Module) -> nn.Module:
    """What the head stands on; that of a CLIP is no `base_model`."""
    body = getattr(model, "base_model", model)
    inside = [child for child in model.children() if hasattr(child, "embeddings")]
    return inside[0] if body is model and inside else body


def embeddings(model: nn.Module) -> nn.Module:
    """What makes tokens of a picture (patches, [CLS], positions), or a `CourseError`."""
    found = getattr(_body(model), "embeddings", None)
    if isinstance(found, nn.Module):
        return found
    raise CourseError(f"{type(model).__name__} has no embeddings: not a ViT.")


def head(model: nn.Module) -> nn.Module:
    """What turns the body's output into one logit a class; raises `CourseError` if nothing does.

    It is one linear layer; a distilled DeiT has two, which come as a `ModuleList`.
    """
    body = _body(model)
    parts = [
        part
        for part in model.children()
        if part is not body and next(part.parameters(), None) is not None
    ]
    if not parts or body is model:
        raise CourseError(f"{type(model).__name__} has no head: this needs an image classifier.")
    return parts[0] if len(parts) == 1 else nn.ModuleList(parts)


def freeze(model: nn.Module, first_blocks: int) -> None:
    """Freeze the embeddings and the first blocks: they get no gradient and do not move.

    All other parameters become trainable; with 0 blocks the embeddings do, too.
    """
    layers = blocks(model)
    first_blocks = whole_number("The number of blocks to freeze", first_blocks, 0, len(layers))
    model.requires_grad_(True)
    if first_blocks:
        embeddings(model).requires_grad_(False)
    for block in layers[:first_blocks]:
        block.requires_grad_(False)


def trainable(model: nn.Module) -> list[nn.Parameter]:
    """The parameters that learn."""
    return [p for p in model.parameters() if p.requires_grad]


def parameter_table(model: nn.Module):
    """Trainable and frozen parameters of each part and in total, as a `DataFrame`."""
    import pandas as pd

    rows = {"embeddings": _count(embeddings(model))}
    rows |= {f"block {i}": _count(block) for i, block in enumerate(blocks(model))}
    of_head, total = _count(head(model)), _count(model)
    rows["last LayerNorm"] = total - of_head - sum(rows.values())  # what is left
    rows |= {"head": of_head, "total": total}
    return pd.DataFrame(rows, index=["trainable", "frozen"]).T.rename_axis("part")


def _count(part: nn.Module) -> np.ndarray:
    sizes = [(p.numel() * p.requires_grad, p.numel()) for p in part.parameters()]
    learn, every = np.sum(sizes, axis=0)
    return np.array([learn, every - learn])


def timm_state_dict(model: nn.Module) -> dict[str, torch.Tensor]:
    """The weights of a `ViTForImageClassification` under timm's names, as copies on the CPU.

    Such as `blocks.0.attn.qkv.weight`: there query, key and value are one matrix, in that order.
    """
    renamed = {}
    for name, weight in model.state_dict().items():
        new = next((re.sub(p, new, name) for p, new in TIMM_NAMES if re.match(p, name)), None)
        if new is None:
            raise CourseError(
                f"timm's ViT has no part {name!r}: this needs a ViTForImageClassification."
            )
        renamed[new] = weight.detach().cpu().clone()
    for block in range(len(blocks(model))):
        for kind in ("weight", "bias"):
            parts = [f"blocks.{block}.attn.{part}.{kind}" for part in "qkv"]
            if parts[0] in renamed:
                joined = torch.cat([renamed.pop(part) for part in parts])
                renamed[f"blocks.{block}.attn.qkv.{kind}"] = joined
    return renamed


_BLOCK = r"^vit\.(?:encoder\.layer|layers)\.(\d+)\."
TIMM_NAMES = (
    (r"^vit\.embeddings\.cls_token$", "cls_token"),
    (r"^vit\.embeddings\.position_embeddings$", "pos_embed"),
    (r"^vit\.embeddings\.patch_embeddings\.projection\.", "patch_embed.proj."),
    (_BLOCK + r"attention\.(?:attention\.query|q_proj)\.", r"blocks.\1.attn.q."),
    (_BLOCK + r"attention\.(?:attention\.key|k_proj)\.", r"blocks.\1.attn.k."),
    (_BLOCK + r"attention\.(?:attention\.value|v_proj)\.", r"blocks.\1.attn.v."),
    (_BLOCK + r"attention\.(?:output\.dense|o_proj)\.", r"blocks.\1.attn.proj."),
    (_BLOCK + r"(?:intermediate\.dense|mlp\.fc1)\.", r"blocks.\1.mlp.fc1."),
    (_BLOCK + r"(?:output\.dense|mlp\.fc2)\.", r"blocks.\1.mlp.fc2."),
    (_BLOCK + r"layernorm_before\.", r"blocks.\1.norm1."),
    (_BLOCK + r"layernorm_after\.", r"blocks.\1.norm2."),
    (r"^vit\.layernorm\.", "norm."),
    (r"^classifier\.", "head."),
)


def logits_of(model: nn.Module, processor, pictures) -> torch.Tensor:
    """Logits of one picture or a list of them, shape (B, classes), on the CPU."""
    return logits(model, images.to_pixels(pictures, processor)).cpu()


def logits(model: nn.Module, pixels: torch.Tensor) -> torch.Tensor:
    """Logits (B, classes) of pixels (B, channels, H, W); what does not fit is a `CourseError`."""
    try:
        with torch.no_grad():  # not `inference_mode`: BEiT keeps a table that training needs later
            return model(pixel_values=pixels.to(next(model.parameters()).device)).logits
    except torch.OutOfMemoryError:
        raise
    except (ValueError, RuntimeError) as error:
        channels, height, width = pixels.shape[1:]
        reason = str(error).strip().splitlines()[0].rstrip(".")
        raise CourseError(
            f"{type(model).__name__} cannot take pictures of {channels} channels and {width} x "
            f"{height} pixels ({reason}): use the processor of this model."
        ) from None


def top_classes(logits: torch.Tensor, model: nn.Module, k: int = 5) -> list:
    """The `k` most probable classes of one picture, best first: `[(name, probability), ...]`.

    `logits` has the shape (classes,); the model knows the names.
    """
    k = min(whole_number("k", k, least=1), logits.shape[-1])
    best = logits.softmax(dim=-1).topk(k)
    names = [model.config.id2label[i] for i in best.indices.tolist()]
    return list(zip(names, best.values.tolist(), strict=True))


def save(model: nn.Module, processor, folder: str | Path) -> Path:
    """Write model (safetensors) and processor into a folder, each file whole or not at all.

    Raises a `CourseError` if a weight is no finite number, LoRA's matrices are not merged, or the
    folder cannot be written.
    """
    folder = Path(folder).expanduser()
    for name, weight in model.state_dict().items():
        if weight.is_floating_point() and not torch.isfinite(weight).all():
            raise CourseError(
                f"The model has numbers in {name} that are not finite (NaN or infinite), so it "
                "can answer nothing: train it again with a lower learning rate."
            )
    if any("lora_" in name for name in model.state_dict()):
        raise CourseError(
            "The model has matrices of LoRA beside its own, and no ViT of transformers would read "
            "them: merge them first, e.g. with peft's merge_and_unload()."
        )
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder, prefix=".saving-") as part:
            model.save_pretrained(part)
            processor.save_pretrained(part)
            for file in sorted(Path(part).iterdir()):
                os.replace(file, folder / file.name)
    except OSError as error:
        raise CourseError(f"{folder} cannot be written ({error.strerror or error}).") from None
    return folder
