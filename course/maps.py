"""Attention maps, rollout and relevance, as notebook 03 works them out in its cells.

Shapes: B pictures, L layers, H heads, T tokens. The model is loaded with "eager" attention.
"""

import torch
from torch import nn

from vit_helpers.errors import CourseError


def maps(model: nn.Module, pixel_values: torch.Tensor) -> torch.Tensor:
    """The attention of every layer and head, (B, L, H, T, T): how much token i attends to j."""
    with torch.no_grad():
        output = model(pixel_values=pixel_values, output_attentions=True)
    attentions = getattr(output, "attentions", None) or ()
    shapes = {getattr(attn, "shape", None) for attn in attentions}
    if len(shapes) != 1 or None in shapes:
        raise CourseError(
            f"{type(model).__name__} has no attention of all tokens to all: load it with "
            "attn_implementation='eager'; a model of windows, such as Swin, has none."
        )
    return torch.stack(attentions, dim=1)


def rollout(attn: torch.Tensor) -> torch.Tensor:
    """How much of each input token is mixed into each output, (B, T, T), from (B, L, H, T, T).

    Abnar and Zuidema 2020, "Quantifying Attention Flow in Transformers", section 3.
    """
    identity = torch.eye(attn.shape[-1], device=attn.device, dtype=attn.dtype)
    result = identity.expand(len(attn), -1, -1)
    for layer in attn.mean(dim=2).unbind(dim=1):  # (B, T, T) each
        result = (0.5 * layer + 0.5 * identity) @ result
    return result


def relevance(model: nn.Module, pixel_values: torch.Tensor, classes: torch.Tensor) -> torch.Tensor:
    """How much each token contributes to a class of each picture, (B, T, T).

    Chefer et al. 2021, "Generic Attention-model Explainability for Interpreting Bi-Modal and
    Encoder-Decoder Transformers", equations 5 and 6.
    """
    output = model(pixel_values=pixel_values, output_attentions=True)
    # Pictures do not mix, so the gradient of the sum is each picture's own gradient.
    chosen = output.logits.gather(1, classes[:, None]).sum()
    gradients = torch.autograd.grad(chosen, output.attentions)
    result = torch.eye(gradients[0].shape[-1], device=pixel_values.device)
    for attn, gradient in zip(output.attentions, gradients, strict=True):
        result = result + (gradient * attn).relu().mean(dim=1) @ result
    return result.detach()
