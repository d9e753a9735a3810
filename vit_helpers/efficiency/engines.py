"""What variants are built from: the workshop, engines, exported files."""

import contextlib
import copy
import tempfile
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import torch
from torch import nn

from .. import models
from ..errors import CourseError, one_of
from .merging import MergingViT
from .roofline import count_flops

ONNX_CHECK_BATCHES = (1, 2, 7)

# Sixteen tokens less in each of the last 8 of 12 blocks: 197 become 69. Found on pictures of the
# course's model: 98 % of its answers stay; with 8 in each of all blocks 97 %.
MERGED_PER_LAYER, MERGED_FROM = 16, 4

# The libraries that turn a model into another form warn about themselves. Each line is a warning
# that was read and found harmless here; anything else is still shown.
KNOWN_WARNINGS = (
    r"`?torch\.jit\.\w+`? is (deprecated|not supported)",
    r"`is_gradient_checkpointing` is deprecated",
    r"Converting a tensor to a Python boolean might cause the trace to be incorrect",
    r"torch\.ao\.quantization is deprecated",
    r"torch\.quantize_per_tensor, torch\.quantize_per_channel",
)


class LogitsOnly(nn.Module):
    """A classifier that returns a plain tensor of logits: what exporters can write down.

    Args:
        model: A classifier of transformers, which returns an object with many fields.
    """

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model
        self.eval()

    def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """From pictures (B, 3, H, W) to logits (B, classes)."""
        return self.model(pixel_values).logits


@dataclass
class Workshop:
    """What builders share: the model, calibration pictures and a temporary folder.

    Attributes:
        model: A trained ViT classifier in float32, in evaluation mode.
        calibration: Normalised pictures (N, 3, H, W) that static quantisation looks at. They
            must not be among the pictures that the result is judged on.
        merged_per_layer: How many tokens a merging variant saves in each of its later blocks.

    Raises:
        CourseError: If the model is no ViT in float32, or there are no calibration pictures.
    """

    model: nn.Module
    calibration: torch.Tensor
    merged_per_layer: int = MERGED_PER_LAYER
    _folder: tempfile.TemporaryDirectory = field(init=False, repr=False)
    _flops: dict[bool, float] = field(init=False, repr=False, default_factory=dict)

    def __post_init__(self):
        models.blocks(self.model)  # raises if it is not a ViT
        if self.model.dtype != torch.float32:
            raise CourseError(f"The model holds {self.model.dtype}: load it in torch.float32.")
        if self.calibration.ndim != 4 or len(self.calibration) == 0:
            shape = tuple(self.calibration.shape)
            raise CourseError(f"calibration has shape {shape}, but must be (N, 3, H, W), N > 0.")
        self._folder = tempfile.TemporaryDirectory(prefix="vit-engines-")

    @property
    def folder(self) -> Path:
        """The temporary folder for exported files."""
        return Path(self._folder.name)

    @property
    def device(self) -> torch.device:
        """Where the model lies."""
        return self.model.device

    @cached_property
    def eager(self) -> nn.Module:
        """The model with the plain attention: scores, softmax and sum as separate steps."""
        return with_attention(self.model, "eager")

    @cached_property
    def sdpa(self) -> nn.Module:
        """The model with fused attention (`scaled_dot_product_attention`)."""
        return with_attention(self.model, "sdpa")

    @cached_property
    def merging(self) -> MergingViT:
        """The model with token merging. It shares the weights.

        Raises:
            CourseError: If, with nothing merged, it would not be the same network: a ViT with
                other parts than the plain ones.
        """
        with torch.no_grad():
            same = MergingViT(self.model, 0)(self.example)
            difference = (same - self.model(self.example).logits).abs().max().item()
        if not difference < 1e-3:
            name = type(self.model).__name__
            raise CourseError(f"{name} is not a plain ViT inside: its tokens cannot be merged.")
        first = min(MERGED_FROM, len(models.blocks(self.model)) // 3)
        return MergingViT(self.model, self.merged_per_layer, first)

    @cached_property
    def example(self) -> torch.Tensor:
        """Two pictures on the device, for exporters: with one, the batch size would be fixed."""
        return self.calibration[:1].repeat(2, 1, 1, 1).to(self.device)

    def network(self, merged: bool) -> nn.Module:
        """What is exported: pictures in, logits out; plain attention, or with merged tokens."""
        return self.merging if merged else LogitsOnly(self.eager)

    def flops(self, merged: bool) -> float:
        """Floating-point operations of one picture, see `roofline.count_flops`."""
        if merged not in self._flops:
            self._flops[merged] = count_flops(self.network(merged), self.example[:1])
        return self._flops[merged]

    def onnx_file(self, merged: bool = False) -> Path:
        """The network as an ONNX file; exported when first asked for."""
        target = self.folder / ("fp32-merged.onnx" if merged else "fp32.onnx")
        if not target.exists():
            export_onnx(self.network(merged), self.example, target)
        return target

    def close(self) -> None:
        """Delete the temporary folder."""
        self._folder.cleanup()


def with_attention(model: nn.Module, implementation: str) -> nn.Module:
    """A second model with another attention. It shares the weights: no memory is copied."""
    one_of("implementation", implementation, models.ATTENTION_IMPLEMENTATIONS)
    shared = {id(t): t for t in (*model.parameters(), *model.buffers())}
    twin = copy.deepcopy(model, memo=shared)
    twin.set_attn_implementation(implementation)
    return twin.eval()


@dataclass(frozen=True)
class Engine:
    """A variant that is ready to run.

    Attributes:
        predict: From pictures (B, 3, H, W), float32 on the CPU, to logits (B, classes) there.
        megabytes: Size of its weights as a file.
        build_seconds: How long building took, with the first call.
        any_batch: Whether another batch size costs nothing. A compiler would start again.
        memory_mb: By how much the memory of the process grew, at most, during the first call;
            NaN where that cannot be read.
        device_mb: The same on a GPU, weights included; NaN without one.
        flops: Floating-point operations of one picture; NaN if they were not counted.
        file: The exported file, if there is one.
    """

    predict: Callable[[torch.Tensor], torch.Tensor]
    megabytes: float
    build_seconds: float = 0.0
    any_batch: bool = True
    memory_mb: float = float("nan")
    device_mb: float = float("nan")
    flops: float = float("nan")
    file: Path | None = None

    def __call__(self, pictures: torch.Tensor) -> torch.Tensor:
        """Run it."""
        return self.predict(pictures)


@contextlib.contextmanager
def known_warnings_hidden():
    """Hide the warnings of `KNOWN_WARNINGS`, and no others."""
    import logging

    # torch.compile looks for CUDA's compiler and logs when there is one without a GPU.
    logger = logging.getLogger("torch.utils.cpp_extension")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            for message in KNOWN_WARNINGS:
                warnings.filterwarnings("ignore", message=message)
            yield
    finally:
        logger.setLevel(level)


def export_onnx(model: nn.Module, example: torch.Tensor, path: str | Path) -> Path:
    """Write a classifier as one ONNX file that takes any batch size.

    The input is called `pixel_values` (batch, 3, H, W), the output `logits` (batch, classes).

    Args:
        model: A classifier of transformers, or any module from pictures to a tensor of logits.
        example: Two or more pictures on the model's device.
        path: Where to write. The file is there whole or not at all.
    """
    network = LogitsOnly(model) if hasattr(model, "config") else model

    def export(target):
        with torch.no_grad(), known_warnings_hidden():
            torch.onnx.export(
                network,
                (example,),
                target,
                input_names=["pixel_values"],
                output_names=["logits"],
                dynamic_shapes={"pixel_values": {0: torch.export.Dim("batch", min=1, max=4096)}},
                dynamo=True,
                external_data=False,  # weights inside, not in a second file that gets lost
                verbose=False,
            )

    return write_whole(Path(path), export)


def onnx_engine(path: str | Path, provider: str = "CPUExecutionProvider") -> Engine:
    """Open an ONNX file in ONNX Runtime, with as many threads as torch uses.

    Args:
        path: The file.
        provider: What computes: the CPU, or `CUDAExecutionProvider`.

    Raises:
        CourseError: If there is no such file, or the provider is not there.
    """
    import onnxruntime

    if not Path(path).is_file():
        raise CourseError(f"There is no file {Path(path).name!r}: run the export cell first.")
    one_of("provider", provider, tuple(onnxruntime.get_available_providers()))
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3  # errors only
    session = onnxruntime.InferenceSession(str(path), options, providers=[provider])

    def predict(pictures):
        (logits,) = session.run(["logits"], {"pixel_values": pictures.cpu().numpy()})
        return torch.from_numpy(logits)

    return Engine(predict, megabytes(path), file=Path(path))


def check_export(engine: Engine, reference: Engine, pictures: torch.Tensor, tolerance=1e-3):
    """Compare an exported model with the original at several batch sizes.

    Args:
        engine: The exported one.
        reference: The original one.
        pictures: At least seven, (N, 3, H, W).
        tolerance: Largest difference of a logit that rounding may cause.

    Returns:
        A raw `DataFrame` by batch size: `largest difference`.

    Raises:
        CourseError: If a difference is larger than `tolerance`, or there are too few pictures.
    """
    import pandas as pd

    if len(pictures) < max(ONNX_CHECK_BATCHES):
        raise CourseError(f"{len(pictures)} pictures are too few: the check needs 7 or more.")
    rows = []
    for batch in ONNX_CHECK_BATCHES:
        difference = (engine(pictures[:batch]) - reference(pictures[:batch])).abs().max().item()
        if not difference <= tolerance:
            raise CourseError(
                f"At batch {batch} the export differs from the original by {difference:.2g}, "
                f"more than {tolerance:g}: do not use it."
            )
        rows.append({"batch": batch, "largest difference": difference})
    return pd.DataFrame(rows).set_index("batch")


def write_whole(path: Path, writer: Callable[[str], object]) -> Path:
    """Let `writer` write to a name beside `path`, then rename: nothing half-written is left."""
    part = path.with_name(f"part-{path.name}")
    try:
        writer(str(part))
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
    return path


def megabytes(path: str | Path) -> float:
    """Size of a file in megabytes."""
    return Path(path).stat().st_size / 1e6
