"""The fast number format of this device, and the attention that is fastest in it."""

import contextlib

import torch
from torch import nn

from .. import models, runtime


def autocast(device: torch.device):
    """The context in which large products are computed in 16 bits where the hardware can.

    Weights and sums stay in 32.
    """
    dtype = runtime.current().precision
    return torch.autocast(device.type, dtype=dtype, enabled=dtype != torch.float32)


def gradient_scaler(device: torch.device) -> torch.amp.GradScaler:
    """Keeps small gradients from being rounded to 0 in fp16; in other formats it does nothing."""
    in_fp16 = runtime.current().precision == torch.float16
    return torch.amp.GradScaler(device.type, init_scale=1024, enabled=in_fp16)


def fastest_attention(model: nn.Module):
    """A context in which a model uses the attention that is fastest here.

    That is the fused one, which the model has already. On a CPU with bf16 it is the plain one:
    the fused backward pass gains nothing from bf16 there, while two matrix products do.
    """
    on_cpu = next(model.parameters()).device.type == "cpu"
    in_bf16 = runtime.current().precision == torch.bfloat16
    if on_cpu and in_bf16 and hasattr(model, "set_attn_implementation"):
        return models.attention(model, "plain_bf16")
    return contextlib.nullcontext()


def train_mode(model: nn.Module) -> None:
    """Training mode, but evaluation mode for frozen parts: no dropout there, as in use."""
    model.train()
    for module in model.modules():
        parameters = list(module.parameters())
        if parameters and not any(p.requires_grad for p in parameters):
            module.eval()
