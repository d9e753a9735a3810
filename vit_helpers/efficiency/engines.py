"""What an engine is, and what builders share: twins of a model, ONNX export and its check."""

import contextlib
import copy
import io
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import nn

from ..errors import CourseError, one_of

ONNX_CHECK_BATCHES = (1, 2, 7)

# The libraries that turn a model into another form warn about themselves. Each line is a warning
# that was read and found harmless here; anything else is still shown.
KNOWN_WARNINGS = (
    r"`?torch\.jit\.\w+`? is (deprecated|not supported)",
    r"`is_gradient_checkpointing` is deprecated",
    r"Converting a tensor to a Python boolean might cause the trace to be incorrect",
    r"torch\.ao\.quantization is deprecated",
    r"torch\.quantize_per_tensor, torch\.quantize_per_channel",
)


def cpu_has_int8() -> bool:
    """Whether this CPU multiplies bytes in hardware: VNNI or AMX on x86-64, dot products on ARM.

    Without them int8 products are made of 16-bit steps: little faster than fp32, and sums of
    unsigned inputs with signed weights can overflow.
    """
    if not hasattr(torch.cpu, "get_capabilities"):  # torch before 2.9 cannot tell: counts as no
        return False
    abilities = torch.cpu.get_capabilities()
    return any(abilities.get(n) for n in ("avx512_vnni", "avx_vnni", "amx_int8", "dot", "i8mm"))


@dataclass(frozen=True)
class Engine:
    """One way to run the network, ready to use.

    Attributes:
        predict: From pictures (B, 3, H, W), float32 on the CPU, to logits (B, classes) there. So
            a measured time includes the way to a GPU and back.
        megabytes: Size of its weights as a file.
        operations: Operations of one picture by number format, such as
            `{"int8": 2e9, "fp32": 5e8}`; see `roofline.runs_in`. Empty if they are not known.
        device: What computes, `CPU` or `GPU`. The int8 engines run on the CPU, also where there
            is a GPU.
        any_batch: Whether another batch size costs nothing. A compiler would start again.
        file: The exported file, if there is one.
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


class LogitsOnly(nn.Module):
    """A classifier that returns a plain tensor of logits, which every exporter can write down.

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


def with_attention(model: nn.Module, implementation: str) -> nn.Module:
    """A twin of a model with another attention, `eager` or `sdpa`. It shares the weights."""
    one_of("implementation", implementation, ("eager", "sdpa"))
    shared = {id(t): t for t in (*model.parameters(), *model.buffers())}
    twin = copy.deepcopy(model, memo=shared)
    twin.set_attn_implementation(implementation)
    return twin.eval()


def torch_engine(
    network: nn.Module,
    device: torch.device,
    dtype=torch.float32,
    *,
    mode=torch.inference_mode,
    **facts,
) -> Engine:
    """Wrap a module of torch that maps pictures to logits.

    Args:
        network: From pictures on `device`, in `dtype`, to logits.
        device: Where it computes.
        dtype: The number format of its input.
        mode: What keeps no gradients; weights of torchao cannot be used in `inference_mode`.
        facts: More fields of `Engine`. Without `file` and `megabytes` the weights are written to
            memory to learn their size.
    """
    if "megabytes" not in facts:
        file = facts.get("file")
        facts["megabytes"] = megabytes(file) if file else _size_of_weights(network)

    def predict(pictures):
        with mode():
            return network(pictures.to(device, dtype)).float().cpu()  # .cpu() waits for a GPU

    return Engine(predict, device="CPU" if device.type == "cpu" else "GPU", **facts)


def _size_of_weights(network: nn.Module) -> float:
    buffer = io.BytesIO()
    torch.save(network.state_dict(), buffer)
    return buffer.tell() / 1e6


@contextlib.contextmanager
def known_warnings_hidden():
    """Hide the warnings of `KNOWN_WARNINGS`, and no others."""
    import logging

    # torch.compile looks for CUDA's compiler and logs when there is one without a GPU; an exporter
    # asks a model of transformers for its loss, which a classifier in use has not.
    loggers = [logging.getLogger(name) for name in ("torch.utils.cpp_extension", "transformers")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            for message in KNOWN_WARNINGS:
                warnings.filterwarnings("ignore", message=message)
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def export_onnx(model: nn.Module, example: torch.Tensor, path: str | Path) -> Path:
    """Write a classifier as one ONNX file that takes any batch size.

    The input is called `pixel_values` (batch, 3, H, W), the output `logits` (batch, classes).

    Args:
        model: A classifier of transformers, or any module from pictures to a tensor of logits.
        example: Two or more pictures on the model's device: with one, the batch would be fixed.
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


def onnx_engine(path: str | Path, provider: str = "CPUExecutionProvider", **facts) -> Engine:
    """Open an ONNX file in ONNX Runtime, with as many threads as torch uses.

    Args:
        path: The file.
        provider: What computes: the CPU, or `CUDAExecutionProvider`.
        facts: More fields of `Engine`.

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

    device = "CPU" if provider.startswith("CPU") else "GPU"
    return Engine(predict, megabytes(path), device=device, file=Path(path), **facts)


class CalibrationReader:
    """Hands pictures to ONNX Runtime's `quantize_static`, one by one, then `None`.

    Args:
        pictures: Normalised, (N, 3, H, W).
    """

    def __init__(self, pictures: torch.Tensor):
        self._feeds = ({"pixel_values": picture[None].cpu().numpy()} for picture in pictures)

    def get_next(self):
        """The next picture, as ONNX Runtime asks for it."""
        return next(self._feeds, None)


def check_export(engine: Callable, reference: Callable, pictures: torch.Tensor, tolerance=1e-3):
    """Compare an exported model with the original at several batch sizes.

    Args:
        engine: The exported one.
        reference: The original one.
        pictures: At least seven, (N, 3, H, W).
        tolerance: Largest difference of a logit that rounding may cause.

    Returns:
        A `DataFrame` by batch size: `largest difference`.

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
