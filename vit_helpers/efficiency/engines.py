"""What an engine is, how a module of torch becomes one, and the check of an export."""

import contextlib
import io
import logging
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import nn

from ..errors import CourseError

# The libraries that turn a model into another form warn about themselves. Each line is a warning
# that was read and found harmless here; anything else is still shown.
KNOWN_WARNINGS = (
    r"`?torch\.jit\.\w+`? is (deprecated|not supported)",
    r"`is_gradient_checkpointing` is deprecated",
    r"Converting a tensor to a Python boolean might cause the trace to be incorrect",
    r"torch\.ao\.quantization is deprecated",
    r"torch\.quantize_per_tensor, torch\.quantize_per_channel",
)


@dataclass(frozen=True)
class Engine:
    """One way to run the network, ready to use.

    `predict` takes pictures (B, 3, H, W), float32 on the CPU, to logits (B, classes) there, so that
    a measured time includes the way to a GPU and back. `megabytes` is the size of the weights as a
    file, `operations` those of one picture as `roofline.runs_in` gives them, `device` `CPU` or
    `GPU`. `any_batch` says whether another batch size costs nothing: a compiler would start again.
    """

    predict: Callable[[torch.Tensor], torch.Tensor]
    megabytes: float = float("nan")
    operations: Mapping[str, float] = field(default_factory=dict)
    device: str = "CPU"
    any_batch: bool = True
    file: Path | None = None

    def __call__(self, pictures: torch.Tensor) -> torch.Tensor:
        """Run it."""
        return self.predict(pictures)


def torch_engine(
    network: nn.Module,
    device: torch.device,
    dtype=torch.float32,
    *,
    mode=torch.inference_mode,
    **facts,
) -> Engine:
    """Wrap a module of torch that maps pictures on `device`, in `dtype`, to logits.

    `mode` keeps no gradients; weights of torchao cannot be used in `inference_mode`. `facts` are
    more fields of `Engine`.
    """

    def predict(pictures):
        with mode():
            return network(pictures.to(device, dtype)).float().cpu()  # .cpu() waits for a GPU

    weights = io.BytesIO()
    torch.save(network.state_dict(), weights)
    size = megabytes(facts["file"]) if "file" in facts else weights.tell() / 1e6
    return Engine(predict, size, device="CPU" if device.type == "cpu" else "GPU", **facts)


@contextlib.contextmanager
def known_warnings_hidden():
    """Hide the warnings of `KNOWN_WARNINGS`, and no others."""
    with contextlib.ExitStack() as afterwards, warnings.catch_warnings():
        # torch.compile looks for CUDA's compiler and logs when there is one without a GPU; an
        # exporter asks a model of transformers for its loss, which a classifier in use has not.
        for name in ("torch.utils.cpp_extension", "transformers"):
            logger = logging.getLogger(name)
            afterwards.callback(logger.setLevel, logger.level)
            logger.setLevel(logging.ERROR)
        for message in KNOWN_WARNINGS:
            warnings.filterwarnings("ignore", message=message)
        yield


class CalibrationReader:
    """Hands pictures (N, 3, H, W) to ONNX Runtime's `quantize_static`, one by one, then `None`."""

    def __init__(self, pictures: torch.Tensor):
        self._feeds = ({"pixel_values": picture[None].cpu().numpy()} for picture in pictures)

    def get_next(self):
        """The next picture, as ONNX Runtime asks for it."""
        return next(self._feeds, None)


def check_export(engine: Callable, reference: Callable, pictures: torch.Tensor, tolerance=1e-3):
    """The `largest difference` of an export's logits from the original's, at batches of 1, 2 and 7.

    Raises:
        CourseError: If one is larger than `tolerance`, which rounding may cause.
    """
    import pandas as pd

    found = {}
    for batch in (1, 2, 7):
        difference = (engine(pictures[:batch]) - reference(pictures[:batch])).abs().max().item()
        if not difference <= tolerance:
            raise CourseError(
                f"At batch {batch} the export differs from the original by {difference:.2g}, "
                f"more than {tolerance:g}: do not use it."
            )
        found[batch] = difference
    return pd.DataFrame({"largest difference": found}).rename_axis("batch")


def megabytes(path: str | Path) -> float:
    """Size of a file in megabytes."""
    return Path(path).stat().st_size / 1e6
