"""Make a classifier faster, and know that it is: variants, honest timing, agreement, export.

A *variant* is one way to run the same network: a name, a builder and what it needs. They stand in
one table, `VARIANTS`; a new one is one more entry. `build` turns variants into engines, `compare`
measures them side by side, `sweep` tries batch sizes.

Every engine takes float32 pictures in the memory of the CPU and gives float32 logits there, so a
measured time includes the copy to a GPU and back, and the wait for it.
"""

import contextlib
import copy
import importlib.util
import os
import shutil
import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path

import numpy as np
import torch
from torch import nn

from . import models, runtime
from .errors import CourseError, one_of

BASELINE = "fp32, eager attention"
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


# --- what an engine is made from ---------------------------------------------------------------


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

    Raises:
        CourseError: If the model is no ViT in float32, or there are no calibration pictures.
    """

    model: nn.Module
    calibration: torch.Tensor
    _folder: tempfile.TemporaryDirectory = field(init=False, repr=False)

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
    def example(self) -> torch.Tensor:
        """Two pictures on the device, for exporters: with one, the batch size would be fixed."""
        return self.calibration[:1].repeat(2, 1, 1, 1).to(self.device)

    @cached_property
    def onnx_file(self) -> Path:
        """The model as an ONNX file; exported when first asked for."""
        return export_onnx(self.eager, self.example, self.folder / "fp32.onnx")

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
    """

    predict: Callable[[torch.Tensor], torch.Tensor]
    megabytes: float
    build_seconds: float = 0.0

    def __call__(self, pictures: torch.Tensor) -> torch.Tensor:
        """Run it."""
        return self.predict(pictures)


# --- builders: one a variant -------------------------------------------------------------------


def _torch_engine(network, weights_file: Path, device, dtype=torch.float32, mode=None) -> Engine:
    """Wrap a torch module or function that maps pictures to logits."""
    mode = mode or torch.inference_mode

    def predict(pictures):
        with mode():
            return network(pictures.to(device, dtype)).float().cpu()

    return Engine(predict, _megabytes(weights_file))


def _state_file(shop: Workshop, model: nn.Module, name: str) -> Path:
    return _write(shop.folder / f"{name}.pt", partial(torch.save, model.state_dict()))


def _build_eager(shop: Workshop) -> Engine:
    file = _state_file(shop, shop.eager, "eager")
    return _torch_engine(LogitsOnly(shop.eager), file, shop.device, mode=torch.no_grad)


def _build_sdpa(shop: Workshop) -> Engine:
    file = _state_file(shop, shop.sdpa, "sdpa")
    return _torch_engine(LogitsOnly(shop.sdpa), file, shop.device, mode=torch.no_grad)


def _build_inference_mode(shop: Workshop) -> Engine:
    file = _state_file(shop, shop.sdpa, "inference")
    return _torch_engine(LogitsOnly(shop.sdpa), file, shop.device)


def _build_half(dtype: torch.dtype, shop: Workshop) -> Engine:
    model = copy.deepcopy(shop.sdpa).to(dtype)
    file = _state_file(shop, model, str(dtype))
    return _torch_engine(LogitsOnly(model), file, shop.device, dtype)


def _build_trace(shop: Workshop) -> Engine:
    with torch.no_grad():
        traced = torch.jit.trace(LogitsOnly(shop.sdpa), shop.example)
        frozen = torch.jit.freeze(traced)
    file = _write(shop.folder / "trace.pt", lambda path: torch.jit.save(frozen, str(path)))
    return _torch_engine(torch.jit.load(file, shop.device), file, shop.device)


def _build_export(shop: Workshop) -> Engine:
    with torch.no_grad():
        batch = torch.export.Dim("batch", min=1, max=4096)
        program = torch.export.export(
            LogitsOnly(shop.sdpa), (shop.example,), dynamic_shapes={"pixel_values": {0: batch}}
        )
    file = _write(shop.folder / "program.pt2", partial(torch.export.save, program))
    return _torch_engine(torch.export.load(file).module(), file, shop.device)


def _build_compile(shop: Workshop) -> Engine:
    torch.compiler.reset()  # an earlier compilation in this process must not count
    compiled = torch.compile(LogitsOnly(shop.sdpa))
    engine = _torch_engine(compiled, _state_file(shop, shop.sdpa, "compile"), shop.device)
    engine(shop.calibration[:1])  # compiles now, for a batch of one
    return engine


def _build_torch_int8(shop: Workshop) -> Engine:
    # A copy, on the CPU: these kernels exist for no other device, whatever the architecture.
    copied = copy.deepcopy(shop.sdpa).cpu()
    model = torch.ao.quantization.quantize_dynamic(copied, {nn.Linear}, dtype=torch.qint8)
    return _torch_engine(LogitsOnly(model), _state_file(shop, model, "ao"), torch.device("cpu"))


def _build_onnx(shop: Workshop) -> Engine:
    return onnx_engine(shop.onnx_file)


def _build_onnx_dynamic(shop: Workshop) -> Engine:
    from onnxruntime.quantization import quantize_dynamic

    # Only the matrix products, one scale a column: the patch convolution stays in fp32.
    options = {"op_types_to_quantize": ["MatMul"], "per_channel": True}
    quantise = partial(quantize_dynamic, str(_prepared(shop)), **options)
    return onnx_engine(_write(shop.folder / "int8-dynamic.onnx", quantise))


def _build_onnx_static(shop: Workshop) -> Engine:
    from onnxruntime.quantization import quantize_static

    # Over all operations (softmax, LayerNorm, ...) the answers would be ruined: name the two.
    options = {"op_types_to_quantize": ["MatMul", "Gemm"], "per_channel": True}
    reader = _CalibrationReader(shop.calibration)

    def quantise(path):
        quantize_static(str(_prepared(shop)), path, reader, **options)

    return onnx_engine(_write(shop.folder / "int8-static.onnx", quantise))


class _CalibrationReader:
    """Hands calibration pictures to ONNX Runtime, one by one, then `None`."""

    def __init__(self, pictures: torch.Tensor):
        self._feeds = ({"pixel_values": picture[None].cpu().numpy()} for picture in pictures)

    def get_next(self):
        return next(self._feeds, None)


def _prepared(shop: Workshop) -> Path:
    """The ONNX file after shape inference and simplification, which quantisation wants."""
    from onnxruntime.quantization.shape_inference import quant_pre_process

    target = shop.folder / "prepared.onnx"
    if not target.exists():
        prepare = partial(quant_pre_process, str(shop.onnx_file), skip_symbolic_shape=True)
        _write(target, lambda path: prepare(output_model_path=path))
    return target


# --- what a variant needs ----------------------------------------------------------------------


def needs_nothing(device: torch.device) -> str:
    """Runs everywhere."""
    return ""


def needs_bf16(device: torch.device) -> str:
    """Matrix units for bf16. Where they are only emulated, bf16 is slower than fp32."""
    if device.type == "cuda":
        fine = torch.cuda.is_bf16_supported(including_emulation=False)
    elif device.type == "cpu":
        fine = runtime.cpu_has_bf16()
    else:
        fine = False
    return "" if fine else f"this {device.type.upper()} has no bf16 arithmetic"


def needs_cuda(device: torch.device) -> str:
    """A GPU of NVIDIA: fp16 arithmetic on a CPU is slow."""
    return "" if device.type == "cuda" else "fp16 needs a GPU"


def needs_compiler(device: torch.device) -> str:
    """`torch.compile` writes C++ and calls a compiler; on a GPU it writes Triton."""
    if device.type == "cuda":
        found = importlib.util.find_spec("triton")
        return "" if found else "torch.compile needs Triton: pip install triton"
    names = filter(None, (os.environ.get("CXX"), "g++", "clang++", "cl"))
    found = any(shutil.which(name) for name in names)
    return "" if found else "torch.compile needs a C++ compiler: install g++ or clang"


def needs_torch_ao(device: torch.device) -> str:
    """`torch.ao.quantization` is deprecated and will leave torch."""
    if importlib.util.find_spec("torch.ao.quantization") is None:
        return "this torch no longer has torch.ao.quantization; torchao follows it"
    if torch.backends.quantized.engine == "none":
        return "this torch has no int8 kernels for this CPU"
    return ""


def needs_onnxruntime(device: torch.device) -> str:
    """Three packages: the format, the exporter and the runtime."""
    packages = ("onnx", "onnxscript", "onnxruntime")
    missing = [name for name in packages if importlib.util.find_spec(name) is None]
    return f"not installed: pip install {' '.join(missing)}" if missing else ""


# --- the table of variants ---------------------------------------------------------------------


@dataclass(frozen=True)
class Variant:
    """One way to run the network.

    Attributes:
        name: The name in tables and figures.
        family: What kind of change it is, for the colours of a figure.
        build: From a `Workshop` to an `Engine`. May raise: that becomes a row "failed".
        needs: From a device to the reason why it cannot run here, or an empty string.
    """

    name: str
    family: str
    build: Callable[[Workshop], Engine]
    needs: Callable[[torch.device], str] = needs_nothing


VARIANTS = (
    Variant(BASELINE, "PyTorch", _build_eager),
    Variant("fp32, SDPA", "PyTorch", _build_sdpa),
    Variant("fp32, SDPA, inference mode", "PyTorch", _build_inference_mode),
    Variant("bf16 weights", "16 bits", partial(_build_half, torch.bfloat16), needs_bf16),
    Variant("fp16 weights", "16 bits", partial(_build_half, torch.float16), needs_cuda),
    Variant("TorchScript trace", "captured graph", _build_trace),
    Variant("torch.export", "captured graph", _build_export),
    Variant("torch.compile", "captured graph", _build_compile, needs_compiler),
    Variant("torch.ao int8 dynamic", "int8", _build_torch_int8, needs_torch_ao),
    Variant("ONNX Runtime fp32", "ONNX Runtime", _build_onnx, needs_onnxruntime),
    Variant("ONNX Runtime int8 dynamic", "int8", _build_onnx_dynamic, needs_onnxruntime),
    Variant("ONNX Runtime int8 static", "int8", _build_onnx_static, needs_onnxruntime),
)


def select(*names: str) -> list[Variant]:
    """The variants with these names; raises `CourseError` for a name that is not in the table."""
    table = {variant.name: variant for variant in VARIANTS}
    return [table[one_of("The variant", name, tuple(table))] for name in names]


@dataclass
class Attempt:
    """What became of a variant.

    Attributes:
        variant: The variant.
        status: `ran`, `not here` (something it needs is missing) or `failed` (it should work).
        reason: Why not, in a line; empty for `ran`.
        engine: The engine, or `None`.
    """

    variant: Variant
    status: str
    reason: str = ""
    engine: Engine | None = None

    @property
    def name(self) -> str:
        """Name of the variant."""
        return self.variant.name


def build(shop: Workshop, variants: Sequence[Variant] = VARIANTS) -> list[Attempt]:
    """Build every variant. One that fails becomes an attempt with its reason; the others go on.

    Args:
        shop: Model, calibration pictures and folder.
        variants: Which ones; all of the table by default.
    """
    return [_attempt(shop, v) for v in runtime.bar(variants, "build", total=len(variants))]


def build_table(attempts: Sequence[Attempt]):
    """What became of the variants: a raw `DataFrame` of `status`, `reason`, `build s`, `MB`."""
    import pandas as pd

    rows = {
        a.name: {
            "status": a.status,
            "reason": a.reason,
            "build s": a.engine.build_seconds if a.engine else float("nan"),
            "MB": a.engine.megabytes if a.engine else float("nan"),
        }
        for a in attempts
    }
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("variant")


def _attempt(shop: Workshop, variant: Variant) -> Attempt:
    if missing := variant.needs(shop.device):
        return Attempt(variant, "not here", missing)
    start = time.perf_counter()
    try:
        with known_warnings_hidden():
            built = variant.build(shop)
            logits = built(shop.calibration[:1])
    except Exception as error:  # any library may raise anything; the row says what it was
        return Attempt(variant, "failed", _one_line(error))
    if not torch.isfinite(logits).all():
        return Attempt(variant, "failed", "its logits are not finite numbers")
    seconds = time.perf_counter() - start
    return Attempt(variant, "ran", "", Engine(built.predict, built.megabytes, seconds))


def _one_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0] if lines else 'no message'}"[:160]


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


# --- export ------------------------------------------------------------------------------------


def export_onnx(model: nn.Module, example: torch.Tensor, path: str | Path) -> Path:
    """Write a classifier as one ONNX file that takes any batch size.

    The input is called `pixel_values` (batch, 3, H, W), the output `logits` (batch, classes).

    Args:
        model: A classifier of transformers.
        example: Two or more pictures on the model's device.
        path: Where to write. The file is there whole or not at all.
    """
    network = LogitsOnly(model)

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

    return _write(Path(path), export)


def onnx_engine(path: str | Path) -> Engine:
    """Open an ONNX file in ONNX Runtime on the CPU, with as many threads as torch uses.

    Raises:
        CourseError: If there is no such file.
    """
    import onnxruntime

    if not Path(path).is_file():
        raise CourseError(f"There is no file {Path(path).name!r}: run the export cell first.")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3  # errors only
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])

    def predict(pictures):
        (logits,) = session.run(["logits"], {"pixel_values": pictures.cpu().numpy()})
        return torch.from_numpy(logits)

    return Engine(predict, _megabytes(path))


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
        CourseError: If a difference is larger than `tolerance`.
    """
    import pandas as pd

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


def _write(path: Path, writer: Callable[[str], object]) -> Path:
    """Let `writer` write to a name beside `path`, then rename: nothing half-written is left."""
    part = path.with_name(f"part-{path.name}")
    try:
        writer(str(part))
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
    return path


def _megabytes(path: str | Path) -> float:
    return Path(path).stat().st_size / 1e6


# --- timing ------------------------------------------------------------------------------------


def synchronise(device: torch.device) -> None:
    """Wait until the device has finished: a GPU returns before its work is done."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


@contextlib.contextmanager
def threads(count: int):
    """Let torch use `count` CPU threads inside the `with` block, then as many as before."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def race(calls: dict[str, Callable], inputs: Sequence, rounds: int) -> tuple[dict, dict]:
    """Time several functions on the same inputs, in turns.

    The inputs are dealt out over the rounds. In each round every function has its turn: one call
    that is not timed (it warms the caches and wakes the threads), then one timed call for each
    input of the round. Who begins changes from round to round. So a slow second of the machine
    hits all of them, and none profits from its neighbour.

    Args:
        calls: Functions of one input by name.
        inputs: At least one input a round.
        rounds: How many rounds.

    Returns:
        `(seconds, answers)`: by name, one number and one answer for each input, in order.

    Raises:
        CourseError: If there are fewer inputs than rounds, or no rounds.
    """
    if not 1 <= rounds <= len(inputs):
        raise CourseError(f"rounds is {rounds}, but must be 1 to {len(inputs)}, one input each.")
    seconds = {name: [] for name in calls}
    answers = {name: [] for name in calls}
    order = list(calls)
    for turn in runtime.bar(np.array_split(np.arange(len(inputs)), rounds), "race", total=rounds):
        for name in order:
            calls[name](inputs[int(turn[0])])
            for i in turn:
                start = time.perf_counter()
                answer = calls[name](inputs[int(i)])
                seconds[name].append(time.perf_counter() - start)
                answers[name].append(answer)
        order = order[1:] + order[:1]
    return seconds, answers


def timing_table(seconds: dict[str, list[float]], baseline: str, pictures_per_call: int = 1):
    """Median, 95th percentile, rate and speed-up of timed calls.

    Args:
        seconds: Timings by name, as `race` returns them.
        baseline: The name whose median is divided by each median.
        pictures_per_call: For the rate.

    Returns:
        A raw `DataFrame` by name: `median ms`, `p95 ms`, `images/s`, `speed-up`.
    """
    import pandas as pd

    one_of("baseline", baseline, tuple(seconds))
    median = {name: float(np.median(times)) for name, times in seconds.items()}
    rows = {
        name: {
            "median ms": 1e3 * median[name],
            "p95 ms": 1e3 * float(np.percentile(times, 95)),
            "images/s": pictures_per_call / median[name],
            "speed-up": median[baseline] / median[name],
        }
        for name, times in seconds.items()
    }
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("variant")


def compare(attempts: Sequence[Attempt], pictures: torch.Tensor, rounds: int = 20):
    """Measure speed and agreement of variants on the same pictures, one picture at a time.

    The same forward passes give both: the time of each, and whether its answer is the baseline's.

    Args:
        attempts: What `build` returned. The baseline must have run.
        pictures: Normalised pictures (N, 3, H, W); 200 or more for a fair agreement.
        rounds: In how many turns (see `race`).

    Returns:
        A raw `DataFrame`, a row for every attempt: `family`, `status`, `reason`, `build s`,
        `median ms`, `p95 ms`, `images/s`, `speed-up`, `MB`, `agreement` (share of pictures with
        the same top class as the baseline, 0..1), `logit difference` (the largest one).

    Raises:
        CourseError: If the baseline did not run.
    """
    import pandas as pd

    ready = {a.name: a.engine for a in attempts if a.status == "ran"}
    if BASELINE not in ready:
        raise CourseError(f"{BASELINE!r} did not run, so there is nothing to compare with.")
    singles = pictures.split(1)
    seconds, answers = race(ready, singles, rounds)
    times = timing_table(seconds, BASELINE)
    logits = {name: torch.cat(parts) for name, parts in answers.items()}
    rows = {a.name: _row(a, times, logits) for a in attempts}
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("variant")


def _row(attempt: Attempt, times, logits: dict[str, torch.Tensor]) -> dict:
    row = {
        "family": attempt.variant.family,
        "status": attempt.status,
        "reason": attempt.reason,
    }
    if attempt.engine is None:
        return row
    agreement, difference = agree(logits[attempt.name], logits[BASELINE])
    return row | {
        "build s": attempt.engine.build_seconds,
        **times.loc[attempt.name],
        "MB": attempt.engine.megabytes,
        "agreement": agreement,
        "logit difference": difference,
    }


def agree(logits: torch.Tensor, reference: torch.Tensor) -> tuple[float, float]:
    """How alike two sets of logits (N, classes) are.

    Returns:
        `(agreement, difference)`: the share of rows with the same top class, and the largest
        difference of any logit.
    """
    if logits.shape != reference.shape:
        shapes = f"{tuple(logits.shape)} and {tuple(reference.shape)}"
        raise CourseError(f"Logits of shapes {shapes} cannot be compared: use the same pictures.")
    same = (logits.argmax(-1) == reference.argmax(-1)).float().mean().item()
    return same, (logits - reference).abs().max().item()


def failures(frame) -> list[str]:
    """The variants that should work here and did not, with the reason, from a `compare` table."""
    failed = frame[frame["status"] == "failed"]
    return [f"{name}: {reason}" for name, reason in failed["reason"].items()]


# --- batch sizes -------------------------------------------------------------------------------


def sweep(engines: dict[str, Engine], pictures: torch.Tensor, batches, rounds: int = 3):
    """Time engines at several batch sizes.

    Args:
        engines: Engines by name. One of `torch.compile` would compile again for each size.
        pictures: Repeated as often as the largest batch needs.
        batches: Batch sizes, from small to large.
        rounds: Timed calls of each engine at each size, in turns; the median counts.

    Returns:
        A raw `DataFrame`: `variant`, `batch`, `ms per image`, `images/s`, and `memory MB`, the
        most that PyTorch's tensors took at once beyond weights and input (ONNX Runtime: NaN).
    """
    import pandas as pd

    rows = []
    for batch in runtime.bar(batches, "batch sizes", total=len(batches)):
        repeats = -(-batch // len(pictures))
        inputs = pictures.repeat(repeats, 1, 1, 1)[:batch]
        seconds, _ = race(engines, [inputs] * rounds, rounds)
        for name, times in seconds.items():
            per_image = float(np.median(times)) / batch
            rows.append(
                {
                    "variant": name,
                    "batch": batch,
                    "ms per image": 1e3 * per_image,
                    "images/s": 1 / per_image,
                    "memory MB": peak_memory(engines[name], inputs) / 1e6,
                }
            )
    return pd.DataFrame(rows)


def saturation(table, share: float = 0.95) -> dict[str, int]:
    """By variant, the smallest batch size that reaches `share` of its best images per second."""
    return {
        name: int(part.loc[part["images/s"] >= share * part["images/s"].max(), "batch"].min())
        for name, part in table.groupby("variant", sort=False)
    }


def peak_memory(engine: Callable, pictures: torch.Tensor) -> float:
    """Bytes of the tensors that are alive at once in one call, at most.

    On a GPU torch counts them. On a CPU each operation of torch is watched and the storages that
    still live are added up; memory that a library keeps inside (ONNX Runtime) is not seen: NaN.
    """
    if torch.cuda.is_available():
        torch.cuda.synchronize()
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        engine(pictures)
        peak = torch.cuda.max_memory_allocated() - before
    else:
        watcher = _StorageWatcher()
        with watcher:
            engine(pictures)
        peak = watcher.peak
    return float(peak) if peak > 0 else float("nan")


class _StorageWatcher(torch.utils._python_dispatch.TorchDispatchMode):
    """Adds up the storages that operations made inside the `with` block, as long as they live."""

    def __init__(self):
        super().__init__()
        self.peak = 0
        self._alive = {}

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        from torch.multiprocessing.reductions import StorageWeakRef
        from torch.utils._pytree import tree_leaves

        given = {
            leaf.untyped_storage().data_ptr()
            for leaf in tree_leaves((args, kwargs))
            if isinstance(leaf, torch.Tensor)
        }
        result = function(*args, **(kwargs or {}))
        self._alive = {ref: size for ref, size in self._alive.items() if not ref.expired()}
        for leaf in tree_leaves(result):
            if isinstance(leaf, torch.Tensor):
                storage = leaf.untyped_storage()
                if storage.data_ptr() not in given:  # a view owns nothing
                    self._alive[StorageWeakRef(storage)] = storage.nbytes()
        self.peak = max(self.peak, sum(self._alive.values()))
        return result


# --- tables for readers ------------------------------------------------------------------------

# Column: (digits after the point, factor, unit).
_FORMATS = {
    "build s": (1, 1, ""),
    "median ms": (1, 1, ""),
    "p95 ms": (1, 1, ""),
    "ms per image": (1, 1, ""),
    "images/s": (1, 1, ""),
    "speed-up": (2, 1, ""),
    "MB": (1, 1, ""),
    "memory MB": (1, 1, ""),
    "agreement": (1, 100, " %"),
    "logit difference": (5, 1, ""),
    "largest difference": (6, 1, ""),
}


def for_reading(frame, columns: Sequence[str] | None = None):
    """A table of text for a notebook: measured numbers rounded and marked with ≈.

    Args:
        frame: A raw table of this module.
        columns: Which columns, in this order; all by default.

    Returns:
        A `DataFrame` of strings; what was not measured is a dash.
    """
    shown = frame[list(columns or frame.columns)].astype(object)
    for name in shown.columns:
        if name in _FORMATS:
            shown[name] = [_measured(value, *_FORMATS[name]) for value in frame[name]]
    return shown


def _measured(value: float, digits: int, factor: float, unit: str) -> str:
    return f"≈ {factor * value:.{digits}f}{unit}" if np.isfinite(value) else "–"
