"""The table of engines that are measured, and how each is built. A new one is one more entry."""

import copy
import importlib.util
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path

import torch
from torch import nn
from torchvision.transforms.v2 import functional

from vit_helpers import images, models, runtime
from vit_helpers.efficiency import (
    BASELINE,
    MERGED_FROM,
    MERGED_PER_LAYER,
    CalibrationReader,
    Engine,
    MergingViT,
    count_operations,
    known_warnings_hidden,
    openvino_engine,
    runs_in,
    torch_engine,
)
from vit_helpers.errors import CourseError, one_of
from vit_helpers.resources.files import written_whole

from .export import LogitsOnly, export_onnx, onnx_engine, with_attention
from .machine import compiler_missing, memory_missing


@dataclass
class ExportContext:
    """What builders share: the model, calibration pictures and a temporary folder.

    Attributes:
        model: A trained ViT classifier in float32, in evaluation mode.
        calibration: Normalised pictures (N, 3, H, W) that static quantisation looks at. They
            must not be among the pictures that the result is judged on.
        merged_per_layer: How many tokens a merging variant saves in each of its later blocks.
        processor: Of the model; only a variant that starts from pictures needs it.

    Raises:
        CourseError: If the model is no ViT in float32, or there are no calibration pictures.
    """

    model: nn.Module
    calibration: torch.Tensor
    merged_per_layer: int = MERGED_PER_LAYER
    processor: object = None
    _folder: tempfile.TemporaryDirectory = field(init=False, repr=False)
    _operations: dict[bool, dict[str, float]] = field(init=False, repr=False, default_factory=dict)

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

    def operations(self, merged: bool = False) -> dict[str, float]:
        """Operations of one picture by kind, see `efficiency.count_operations`."""
        if merged not in self._operations:
            self._operations[merged] = count_operations(self.network(merged), self.example[:1])
        return self._operations[merged]

    def onnx_file(self, merged: bool = False) -> Path:
        """The network as an ONNX file; exported when first asked for."""
        target = self.folder / ("fp32-merged.onnx" if merged else "fp32.onnx")
        if not target.exists():
            export_onnx(self.network(merged), self.example, target)
        return target

    def close(self) -> None:
        """Delete the temporary folder."""
        self._folder.cleanup()


# --- builders: one a variant -------------------------------------------------------------------


def _build_eager(context: ExportContext) -> Engine:
    return torch_engine(LogitsOnly(context.eager), context.device)


def _build_sdpa(context: ExportContext) -> Engine:
    return torch_engine(LogitsOnly(context.sdpa), context.device)


def _build_pipeline(context: ExportContext) -> Engine:
    """What most people type first. It starts from pictures, here ones of the model's size.

    The pictures are made of the pixels again, which takes about a millisecond for eight.
    """
    from transformers import pipeline

    if context.processor is None:
        raise CourseError("it starts from pictures, so it needs the model's processor")
    twin = with_attention(context.model, "sdpa")
    classes = twin.config.num_labels
    twin.config.id2label = {k: str(k) for k in range(classes)}  # two classes may share a name
    processor = copy.deepcopy(context.processor)
    for step in ("do_resize", "do_center_crop", "do_pad"):
        if getattr(processor, step, None):
            setattr(processor, step, False)
    run = pipeline(
        "image-classification", model=twin, image_processor=processor, device=context.device
    )

    def predict(pictures):
        shown = (255 * images.unnormalise(pictures, processor)).round().byte()
        answers = run(
            [functional.to_pil_image(picture) for picture in shown],
            batch_size=len(shown),
            top_k=classes,
            function_to_apply="none",
        )
        logits = torch.empty(len(shown), classes)
        for row, answer in zip(logits, answers, strict=True):
            for said in answer:
                row[int(said["label"])] = said["score"]
        return logits

    weights = sum(t.nbytes for t in twin.state_dict().values()) / 1e6
    return Engine(predict, weights, device="CPU" if context.device.type == "cpu" else "GPU")


def _build_half(dtype: torch.dtype, context: ExportContext) -> Engine:
    model = copy.deepcopy(context.sdpa).to(dtype)
    return torch_engine(LogitsOnly(model), context.device, dtype)


def _build_trace(frozen: bool, context: ExportContext) -> Engine:
    with torch.no_grad():
        traced = torch.jit.trace(LogitsOnly(context.sdpa), context.example)
        if frozen:  # weights become constants, and what follows from them is computed beforehand
            traced = torch.jit.freeze(traced)
    file = context.folder / ("frozen.pt" if frozen else "trace.pt")
    torch.jit.save(traced, str(file))
    loaded = torch.jit.load(file, context.device)
    return torch_engine(loaded, context.device, file=file)


def _build_export(context: ExportContext) -> Engine:
    with torch.no_grad():
        batch = torch.export.Dim("batch", min=1, max=4096)
        program = torch.export.export(
            LogitsOnly(context.sdpa),
            (context.example,),
            dynamic_shapes={"pixel_values": {0: batch}},
        )
    file = context.folder / "program.pt2"
    torch.export.save(program, file)
    loaded = torch.export.load(file).module()
    return torch_engine(loaded, context.device, file=file)


def _build_compile(mode: str | None, dtype: torch.dtype, context: ExportContext) -> Engine:
    torch.compiler.reset()  # an earlier compilation in this process must not count
    model = context.sdpa if dtype == torch.float32 else copy.deepcopy(context.sdpa).to(dtype)
    compiled = torch.compile(LogitsOnly(model), mode=mode)
    return torch_engine(compiled, context.device, dtype, any_batch=False)


def _build_torch_int8(context: ExportContext) -> Engine:
    # A copy, on the CPU: these kernels exist for no other device, whatever the architecture.
    copied = copy.deepcopy(context.sdpa).cpu()
    model = torch.ao.quantization.quantize_dynamic(copied, {nn.Linear}, dtype=torch.qint8)
    return torch_engine(LogitsOnly(model), torch.device("cpu"))


def _build_torchao(context: ExportContext) -> Engine:
    from torchao.quantization import Int8DynamicActivationInt8WeightConfig, quantize_

    torch.compiler.reset()
    model = copy.deepcopy(context.sdpa)
    quantize_(model, Int8DynamicActivationInt8WeightConfig())
    # Without the compiler each product would be several small steps, slower than fp32.
    compiled = torch.compile(LogitsOnly(model), options={"freezing": True})
    return torch_engine(compiled, context.device, mode=torch.no_grad, any_batch=False)


def _build_onnx(provider: str, context: ExportContext) -> Engine:
    return onnx_engine(context.onnx_file(), provider)


def _build_onnx_dynamic(merged: bool, context: ExportContext) -> Engine:
    from onnxruntime.quantization import quantize_dynamic

    # Only the matrix products: the patch convolution stays in fp32.
    options = {"op_types_to_quantize": ["MatMul"], **_weights_of_int8()}
    file = context.folder / ("int8-dynamic-merged.onnx" if merged else "int8-dynamic.onnx")
    quantize_dynamic(_prepared(context, merged), file, **options)
    return onnx_engine(file)


def _weights_of_int8() -> dict:
    """Signed weights, one scale a column, where the CPU has units for bytes.

    Elsewhere sums of signed products overflow 16 bits, the more the better the scales fill their
    range: on AVX2 one scale a column lost 12 % of the answers, unsigned weights 3 %.
    """
    from onnxruntime.quantization import QuantType

    if runtime.cpu_has_int8():
        return {"weight_type": QuantType.QInt8, "per_channel": True}
    return {"weight_type": QuantType.QUInt8, "per_channel": False}


def _build_onnx_static(context: ExportContext) -> Engine:
    from onnxruntime.quantization import QuantType, quantize_static

    # Unsigned activations and one scale a matrix, as ONNX Runtime's documentation has it for x86;
    # and the same products in int8 as in the dynamic file: those with weights.
    options = _weights_of_int8() | {
        "op_types_to_quantize": ["MatMul"],
        "activation_type": QuantType.QUInt8,
        "per_channel": False,
        "extra_options": {"MatMulConstBOnly": True},
    }
    file = context.folder / "int8-static.onnx"
    quantize_static(_prepared(context), file, CalibrationReader(context.calibration), **options)
    return onnx_engine(file)


def _prepared(context: ExportContext, merged: bool = False) -> Path:
    """The ONNX file after shape inference and simplification, which quantisation wants."""
    import onnx
    from onnxruntime.quantization.shape_inference import quant_pre_process

    source = context.onnx_file(merged)
    target = source.with_name(f"prepared-{source.name}")
    if target.exists():
        return target
    with written_whole(target) as part:
        quant_pre_process(source, part, skip_symbolic_shape=True)
        # torch 2.7 also notes the shapes of weights. The quantiser turns a weight around and then
        # finds the note wrong: without it, it looks at the weight itself.
        model = onnx.load(part)
        weights = {tensor.name for tensor in model.graph.initializer}
        noted = [shape for shape in model.graph.value_info if shape.name not in weights]
        del model.graph.value_info[:]
        model.graph.value_info.extend(noted)
        onnx.save(model, part)
    return target


def _build_openvino(precision: str, merged: bool, context: ExportContext) -> Engine:
    network, example = context.network(merged), context.example
    if context.device.type != "cpu":  # it reads weights where NumPy can
        network, example = copy.deepcopy(network).cpu(), example.cpu()
    return openvino_engine(
        network, example, precision, context.calibration, fixed_to_one=not merged
    )


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
    return compiler_missing(device)


def needs_compiler_and_bf16(device: torch.device) -> str:
    """Both."""
    return needs_bf16(device) or needs_compiler(device)


def needs_cuda_graphs(device: torch.device) -> str:
    """A GPU of NVIDIA, and Triton."""
    return needs_compiler(device) if device.type == "cuda" else "CUDA graphs need a GPU"


def needs_torch_ao(device: torch.device) -> str:
    """`torch.ao.quantization` is deprecated and will leave torch."""
    if importlib.util.find_spec("torch.ao.quantization") is None:
        return "this torch no longer has torch.ao.quantization; torchao follows it"
    if torch.backends.quantized.engine == "none":
        return "this torch has no int8 kernels for this CPU"
    return ""


def needs_torchao(device: torch.device) -> str:
    """The successor of `torch.ao.quantization`, a package of its own; and a compiler."""
    return _missing(("torchao",), "torchao") or needs_compiler(device)


def needs_onnxruntime(device: torch.device) -> str:
    """Three packages: the format, the exporter and the runtime."""
    lacking = _missing(("onnx", "onnxscript", "onnxruntime"))
    return lacking or memory_missing("the exporter", 0.8)


def needs_onnxruntime_cuda(device: torch.device) -> str:
    """A GPU, and the build of ONNX Runtime that knows GPUs."""
    if device.type != "cuda":
        return "ONNX Runtime CUDA needs a GPU"
    if missing := needs_onnxruntime(device):
        return missing
    import onnxruntime

    if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        return ""
    return "this ONNX Runtime has no CUDA: pip install onnxruntime-gpu in place of onnxruntime"


def needs_openvino(device: torch.device) -> str:
    """OpenVINO, and nncf for its int8."""
    return _missing(("openvino", "nncf"), "openvino") or memory_missing("OpenVINO with nncf", 1.5)


def needs_openvino_and_bf16(device: torch.device) -> str:
    """OpenVINO, and a CPU with bf16 arithmetic."""
    if missing := needs_openvino(device):
        return missing
    return "" if runtime.cpu_has_bf16() else "this CPU has no bf16 arithmetic"


def _missing(packages: Sequence[str], extra: str = "") -> str:
    missing = [name for name in packages if importlib.util.find_spec(name) is None]
    if not missing:
        return ""
    known_as = f" (the extra vit_helpers[{extra}])" if extra else ""
    return f"not installed: pip install {' '.join(missing)}{known_as}"


# --- the table ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class Variant:
    """One way to run the network.

    Attributes:
        name: The name in tables and figures.
        build: From an `ExportContext` to an `Engine`. May raise: that becomes a row "failed".
        needs: From a device to the reason why it cannot run here, or an empty string.
        arithmetic: The number format of its layers: `fp32`, `bf16`, `fp16` or `int8`.
        merged: Whether it merges tokens, and so computes less.
        rest: Of an int8 variant, the format of what has no int8: attention's products and the
            patches. `bf16` counts where the CPU has it, else they are computed in fp32.
    """

    name: str
    build: Callable[[ExportContext], Engine]
    needs: Callable[[torch.device], str] = needs_nothing
    arithmetic: str = "fp32"
    merged: bool = False
    rest: str = "fp32"

    def runs(self, operations: dict[str, float]) -> dict[str, float]:
        """The operations of one picture by the format that this variant computes them in."""
        found = runs_in(self.arithmetic, operations)
        if self.rest == "bf16" and runtime.cpu_has_bf16() and "fp32" in found:
            found["bf16"] = found.pop("fp32")
        return found


_fp32, _bf16 = torch.float32, torch.bfloat16
_cpu, _cuda = "CPUExecutionProvider", "CUDAExecutionProvider"
_dynamic, _dynamic_merged = partial(_build_onnx_dynamic, False), partial(_build_onnx_dynamic, True)
_ov, _ov_merged = partial(_build_openvino, "int8", False), partial(_build_openvino, "int8", True)

VARIANTS = (
    Variant(BASELINE, _build_eager),
    Variant("PyTorch SDPA", _build_sdpa),
    Variant("HF pipeline", _build_pipeline),
    Variant("PyTorch bf16", partial(_build_half, _bf16), needs_bf16, "bf16"),
    Variant("PyTorch fp16", partial(_build_half, torch.float16), needs_cuda, "fp16"),
    Variant("torch.jit.trace", partial(_build_trace, False)),
    Variant("torch.jit.freeze", partial(_build_trace, True)),
    Variant("torch.export", _build_export),
    Variant("torch.compile", partial(_build_compile, None, _fp32), needs_compiler),
    Variant(
        "torch.compile max-autotune",
        partial(_build_compile, "max-autotune", _fp32),
        needs_compiler,
    ),
    Variant(
        "bf16, torch.compile",
        partial(_build_compile, None, _bf16),
        needs_compiler_and_bf16,
        "bf16",
    ),
    Variant(
        "bf16, torch.compile, CUDA graphs",
        partial(_build_compile, "reduce-overhead", _bf16),
        needs_cuda_graphs,
        "bf16",
    ),
    Variant("torch int8 dynamic", _build_torch_int8, needs_torch_ao, "int8"),
    Variant("torchao int8 dynamic", _build_torchao, needs_torchao, "int8"),
    Variant("ONNX Runtime fp32", partial(_build_onnx, _cpu), needs_onnxruntime),
    Variant("ONNX Runtime CUDA", partial(_build_onnx, _cuda), needs_onnxruntime_cuda),
    Variant("ONNX Runtime int8 dynamic", _dynamic, needs_onnxruntime, "int8"),
    Variant("ONNX Runtime int8 static", _build_onnx_static, needs_onnxruntime, "int8"),
    Variant(
        "ONNX Runtime int8 dynamic, merged", _dynamic_merged, needs_onnxruntime, "int8", merged=True
    ),
    Variant("OpenVINO fp32", partial(_build_openvino, "f32", False), needs_openvino),
    Variant(
        "OpenVINO bf16", partial(_build_openvino, "bf16", False), needs_openvino_and_bf16, "bf16"
    ),
    Variant("OpenVINO int8", _ov, needs_openvino, "int8", rest="bf16"),
    Variant("OpenVINO int8, merged", _ov_merged, needs_openvino, "int8", merged=True, rest="bf16"),
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
        status: `ran`, `not here` (something it needs is missing, or it does not suit this model)
            or `failed` (it should work).
        reason: Why not, in a line; empty for `ran`.
        engine: The engine, or `None`.
        seconds: How long building took, with the first call.
    """

    variant: Variant
    status: str
    reason: str = ""
    engine: Engine | None = None
    seconds: float = float("nan")

    @property
    def name(self) -> str:
        """Name of the variant."""
        return self.variant.name


def build(context: ExportContext, variants: Sequence[Variant] = VARIANTS) -> list[Attempt]:
    """Build every variant. One that fails becomes an attempt with its reason; the others go on.

    Args:
        context: Model, calibration pictures and folder.
        variants: Which ones; all of the table by default.
    """
    return [_attempt(context, v) for v in runtime.bar(variants, "build", total=len(variants))]


def without_failing(attempts: Sequence[Attempt], pictures: torch.Tensor) -> list[Attempt]:
    """The attempts, with those that fail on these pictures (B, 3, H, W) marked as failed."""
    tried = []
    for attempt in attempts:
        try:
            if attempt.engine is not None:
                attempt.engine(pictures)
        except Exception as error:  # any library may raise anything; the row says what it was
            reason = f"at batch {len(pictures)}: {_one_line(error)}"
            attempt = replace(attempt, status="failed", reason=reason, engine=None)
        tried.append(attempt)
    return tried


def missing(attempts: Sequence[Attempt]) -> dict[str, str]:
    """By name why a variant did not run, for `efficiency.compare`."""
    return {a.name: f"{a.status}: {a.reason}" for a in attempts if a.engine is None}


def _attempt(context: ExportContext, variant: Variant) -> Attempt:
    if lacking := variant.needs(context.device):
        return Attempt(variant, "not here", lacking)
    start = time.perf_counter()
    try:
        with known_warnings_hidden():
            built = variant.build(context)
            logits = built(context.calibration[:1])
        operations = context.operations(variant.merged)
    except CourseError as error:  # a builder of ours says in a sentence why it cannot
        return Attempt(variant, "not here", str(error))
    except Exception as error:  # any library may raise anything; the row says what it was
        return Attempt(variant, "failed", _one_line(error))
    if not torch.isfinite(logits).all():
        return Attempt(variant, "failed", "its logits are not finite numbers")
    engine = replace(built, operations=variant.runs(operations))
    return Attempt(variant, "ran", "", engine, time.perf_counter() - start)


def _one_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0] if lines else 'no message'}"[:160]
