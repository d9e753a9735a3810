"""The table of variants: ways to run the same network. A new one is one more entry."""

import copy
import importlib.util
import logging
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch
from torch import nn

from .. import runtime
from ..errors import CourseError, one_of
from . import engines, memory
from .engines import Engine, LogitsOnly, Workshop, megabytes, onnx_engine, write_whole

BASELINE = "fp32, eager attention"

# How much of a large column SmoothQuant moves from the input to the weights, 0 to 1. Found on 150
# drawings of the CIFAR-10 twin, none of which judges a variant; nncf's 0.95 lost more answers.
SMOOTHING = 0.65


# --- builders: one a variant -------------------------------------------------------------------


def _torch_engine(network, weights_file: Path, device, dtype=torch.float32, mode=None) -> Engine:
    """Wrap a torch module or function that maps pictures to logits."""
    mode = mode or torch.inference_mode

    def predict(pictures):
        with mode():
            return network(pictures.to(device, dtype)).float().cpu()

    return Engine(predict, megabytes(weights_file))


def _state_file(shop: Workshop, model: nn.Module, name: str) -> Path:
    return write_whole(shop.folder / f"{name}.pt", partial(torch.save, model.state_dict()))


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


def _build_trace(frozen: bool, shop: Workshop) -> Engine:
    with torch.no_grad():
        traced = torch.jit.trace(LogitsOnly(shop.sdpa), shop.example)
        if frozen:  # weights become constants, and what follows from them is computed beforehand
            traced = torch.jit.freeze(traced)
    name = "frozen.pt" if frozen else "trace.pt"
    file = write_whole(shop.folder / name, lambda path: torch.jit.save(traced, str(path)))
    return _torch_engine(torch.jit.load(file, shop.device), file, shop.device)


def _build_export(shop: Workshop) -> Engine:
    with torch.no_grad():
        batch = torch.export.Dim("batch", min=1, max=4096)
        program = torch.export.export(
            LogitsOnly(shop.sdpa), (shop.example,), dynamic_shapes={"pixel_values": {0: batch}}
        )
    file = write_whole(shop.folder / "program.pt2", partial(torch.export.save, program))
    return _torch_engine(torch.export.load(file).module(), file, shop.device)


def _build_compile(mode: str | None, dtype: torch.dtype, shop: Workshop) -> Engine:
    torch.compiler.reset()  # an earlier compilation in this process must not count
    model = shop.sdpa if dtype == torch.float32 else copy.deepcopy(shop.sdpa).to(dtype)
    compiled = torch.compile(LogitsOnly(model), mode=mode)
    file = _state_file(shop, model, "compile")
    engine = _torch_engine(compiled, file, shop.device, dtype)
    engine(shop.calibration[:1])  # compiles now, for a batch of one
    return replace(engine, any_batch=False)


def _build_torch_int8(shop: Workshop) -> Engine:
    # A copy, on the CPU: these kernels exist for no other device, whatever the architecture.
    copied = copy.deepcopy(shop.sdpa).cpu()
    model = torch.ao.quantization.quantize_dynamic(copied, {nn.Linear}, dtype=torch.qint8)
    return _torch_engine(LogitsOnly(model), _state_file(shop, model, "ao"), torch.device("cpu"))


def _build_torchao(shop: Workshop) -> Engine:
    from torchao.quantization import Int8DynamicActivationInt8WeightConfig, quantize_

    torch.compiler.reset()
    model = copy.deepcopy(shop.sdpa)
    quantize_(model, Int8DynamicActivationInt8WeightConfig())
    file = _state_file(shop, model, "torchao")
    # Without the compiler each product would be several small steps, slower than fp32.
    compiled = torch.compile(LogitsOnly(model), options={"freezing": True})
    engine = _torch_engine(compiled, file, shop.device, mode=torch.no_grad)
    engine(shop.calibration[:1])
    return replace(engine, any_batch=False)


def _build_onnx(provider: str, shop: Workshop) -> Engine:
    return onnx_engine(shop.onnx_file(), provider)


def _build_onnx_dynamic(merged: bool, shop: Workshop) -> Engine:
    from onnxruntime.quantization import quantize_dynamic

    # Only the matrix products, one scale a column: the patch convolution stays in fp32.
    options = {"op_types_to_quantize": ["MatMul"], "per_channel": True}
    quantise = partial(quantize_dynamic, str(_prepared(shop, merged)), **options)
    name = "int8-dynamic-merged.onnx" if merged else "int8-dynamic.onnx"
    return onnx_engine(write_whole(shop.folder / name, quantise))


def _build_onnx_static(shop: Workshop) -> Engine:
    from onnxruntime.quantization import quantize_static

    # Over all operations (softmax, LayerNorm, ...) the answers would be ruined: name the two.
    options = {"op_types_to_quantize": ["MatMul", "Gemm"], "per_channel": True}
    reader = _CalibrationReader(shop.calibration)

    def quantise(path):
        quantize_static(str(_prepared(shop)), path, reader, **options)

    return onnx_engine(write_whole(shop.folder / "int8-static.onnx", quantise))


class _CalibrationReader:
    """Hands calibration pictures to ONNX Runtime, one by one, then `None`."""

    def __init__(self, pictures: torch.Tensor):
        self._feeds = ({"pixel_values": picture[None].cpu().numpy()} for picture in pictures)

    def get_next(self):
        return next(self._feeds, None)


def _prepared(shop: Workshop, merged: bool = False) -> Path:
    """The ONNX file after shape inference and simplification, which quantisation wants."""
    import onnx
    from onnxruntime.quantization.shape_inference import quant_pre_process

    source = shop.onnx_file(merged)
    target = source.with_name(f"prepared-{source.name}")

    def prepare(path):
        quant_pre_process(str(source), path, skip_symbolic_shape=True)
        # torch 2.7 also notes the shapes of weights. The quantiser turns a weight around and then
        # finds the note wrong: without it, it looks at the weight itself.
        model = onnx.load(path)
        weights = {tensor.name for tensor in model.graph.initializer}
        noted = [shape for shape in model.graph.value_info if shape.name not in weights]
        del model.graph.value_info[:]
        model.graph.value_info.extend(noted)
        onnx.save(model, path)

    return target if target.exists() else write_whole(target, prepare)


def _build_openvino(precision: str, merged: bool, shop: Workshop) -> Engine:
    """OpenVINO on the CPU. `precision` is `f32`, `bf16` or `int8`."""
    import openvino

    network = shop.network(merged)
    with torch.no_grad():
        height, width = shop.example.shape[-2:]
        shape = openvino.PartialShape([-1, 3, height, width])
        graph = openvino.convert_model(network, example_input=shop.example, input=shape)
    if precision == "int8":
        graph = _quantised_by_nncf(graph, shop.calibration)
        # What is not int8 runs in bf16 where the CPU has it.
        precision = "bf16" if runtime.cpu_has_bf16() else "f32"
    # OpenVINO chooses bf16 by itself where it can, so fp32 must be asked for.
    settings = {
        "INFERENCE_PRECISION_HINT": precision,
        "INFERENCE_NUM_THREADS": torch.get_num_threads(),
        "PERFORMANCE_HINT": "LATENCY",
    }
    with tempfile.TemporaryDirectory(dir=shop.folder) as folder:  # written to learn its size
        openvino.save_model(graph, Path(folder) / "model.xml", compress_to_fp16=False)
        size = sum(megabytes(file) for file in Path(folder).iterdir())
    core, compiled = openvino.Core(), {}

    def predict(pictures):
        batch = len(pictures)
        if batch not in compiled:  # a graph for one batch size is faster than one for any
            own = graph.clone()
            # Fixed to one picture, the merged int8 graph answers wrongly in OpenVINO 2026.4.1.
            if batch > 1 or not merged:
                own.reshape([batch, 3, height, width])
            compiled[batch] = core.compile_model(own, "CPU", settings)
        logits = compiled[batch](pictures.cpu().numpy())[0]
        return torch.from_numpy(logits.copy())  # its memory is used again by the next call

    return Engine(predict, size)


def _quantised_by_nncf(graph, calibration: torch.Tensor):
    """The layers with weights in int8, with the scales of a transformer (nncf).

    Attention's own products and the last layer keep their precision: they cost little time, and
    rounding them moved the logits. Scales cover all that the calibration pictures showed; nncf's
    default, the mean over pictures, cuts off the few large numbers that a ViT depends on. Large
    columns are shared out between input and weights (SmoothQuant, Xiao et al. 2023, section 4.1).
    """
    from IPython.utils.capture import capture_output

    with capture_output():  # it draws bars of its own, wherever it runs
        import nncf
        from nncf.quantization.range_estimator import RangeEstimatorParametersSet

        logging.getLogger("nncf").setLevel(logging.ERROR)
        pictures = nncf.Dataset([picture[None].cpu().numpy() for picture in calibration])
        return nncf.quantize(
            graph,
            pictures,
            model_type=nncf.ModelType.TRANSFORMER,
            subset_size=len(calibration),
            ignored_scope=nncf.IgnoredScope(
                names=_kept_precise(graph), types=["ScaledDotProductAttention"], validate=False
            ),
            advanced_parameters=nncf.AdvancedQuantizationParameters(
                activations_range_estimator_params=RangeEstimatorParametersSet.MINMAX,
                smooth_quant_alphas=nncf.AdvancedSmoothQuantParameters(matmul=SMOOTHING),
            ),
        )


def _kept_precise(graph) -> list[str]:
    """Names of an OpenVINO graph's products without weights, and of its last product, the head."""

    def is_weight(node) -> bool:
        while node.get_type_name() == "Convert":
            node = node.input_value(0).get_node()
        return node.get_type_name() == "Constant"

    def has_weights(product) -> bool:
        return any(is_weight(product.input_value(i).get_node()) for i in range(2))

    products = [node for node in graph.get_ordered_ops() if node.get_type_name() == "MatMul"]
    kept = [node for node in products if not has_weights(node)]
    return [node.get_friendly_name() for node in [*kept, products[-1]]]


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
    return runtime.missing_compiler(device)


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
    return _missing(("onnx", "onnxscript", "onnxruntime"))


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
    return _missing(("openvino", "nncf"), "openvino")


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


# --- the table of variants ---------------------------------------------------------------------


@dataclass(frozen=True)
class Variant:
    """One way to run the network.

    Attributes:
        name: The name in tables and figures.
        family: What kind of change it is, for the colours of a figure.
        build: From a `Workshop` to an `Engine`. May raise: that becomes a row "failed".
        needs: From a device to the reason why it cannot run here, or an empty string.
        arithmetic: The number format of its matrix products: `fp32`, `bf16`, `fp16` or `int8`.
        merged: Whether it merges tokens, and so computes less.
        minutes: Whether building it takes so long that a notebook leaves it out.
    """

    name: str
    family: str
    build: Callable[[Workshop], Engine]
    needs: Callable[[torch.device], str] = needs_nothing
    arithmetic: str = "fp32"
    merged: bool = False
    minutes: bool = False


_fp32, _bf16 = torch.float32, torch.bfloat16
_cpu, _cuda = "CPUExecutionProvider", "CUDAExecutionProvider"

VARIANTS = (
    Variant(BASELINE, "PyTorch", _build_eager),
    Variant("fp32, SDPA", "PyTorch", _build_sdpa),
    Variant("fp32, SDPA, inference mode", "PyTorch", _build_inference_mode),
    Variant("bf16 weights", "16 bits", partial(_build_half, _bf16), needs_bf16, "bf16"),
    Variant("fp16 weights", "16 bits", partial(_build_half, torch.float16), needs_cuda, "fp16"),
    Variant("TorchScript trace", "captured graph", partial(_build_trace, False)),
    Variant("TorchScript freeze", "captured graph", partial(_build_trace, True)),
    Variant("torch.export", "captured graph", _build_export),
    Variant(
        "torch.compile", "captured graph", partial(_build_compile, None, _fp32), needs_compiler
    ),
    Variant(
        "torch.compile max-autotune",
        "captured graph",
        partial(_build_compile, "max-autotune", _fp32),
        needs_compiler,
        minutes=True,
    ),
    Variant(
        "bf16, torch.compile",
        "16 bits",
        partial(_build_compile, None, _bf16),
        needs_compiler_and_bf16,
        "bf16",
        minutes=True,
    ),
    Variant(
        "bf16, torch.compile, CUDA graphs",
        "16 bits",
        partial(_build_compile, "reduce-overhead", _bf16),
        needs_cuda_graphs,
        "bf16",
        minutes=True,
    ),
    Variant("torch.ao int8 dynamic", "int8", _build_torch_int8, needs_torch_ao, "int8"),
    Variant("torchao int8 dynamic", "int8", _build_torchao, needs_torchao, "int8", minutes=True),
    Variant("ONNX Runtime fp32", "ONNX Runtime", partial(_build_onnx, _cpu), needs_onnxruntime),
    Variant(
        "ONNX Runtime CUDA", "ONNX Runtime", partial(_build_onnx, _cuda), needs_onnxruntime_cuda
    ),
    Variant(
        "ONNX Runtime int8 dynamic",
        "int8",
        partial(_build_onnx_dynamic, False),
        needs_onnxruntime,
        "int8",
    ),
    Variant("ONNX Runtime int8 static", "int8", _build_onnx_static, needs_onnxruntime, "int8"),
    Variant(
        "ONNX Runtime int8 dynamic, merged",
        "merged tokens",
        partial(_build_onnx_dynamic, True),
        needs_onnxruntime,
        "int8",
        merged=True,
    ),
    Variant("OpenVINO fp32", "OpenVINO", partial(_build_openvino, "f32", False), needs_openvino),
    Variant(
        "OpenVINO bf16",
        "16 bits",
        partial(_build_openvino, "bf16", False),
        needs_openvino_and_bf16,
        "bf16",
    ),
    Variant(
        "OpenVINO int8", "int8", partial(_build_openvino, "int8", False), needs_openvino, "int8"
    ),
    Variant(
        "OpenVINO int8, merged",
        "merged tokens",
        partial(_build_openvino, "int8", True),
        needs_openvino,
        "int8",
        merged=True,
    ),
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
        with engines.known_warnings_hidden():
            built = variant.build(shop)
            with memory.Growth(shop.device) as growth:
                logits = built(shop.calibration[:1])
        flops = shop.flops(variant.merged)
    except CourseError as error:  # a builder of ours says in a sentence why it cannot
        return Attempt(variant, "not here", str(error))
    except Exception as error:  # any library may raise anything; the row says what it was
        return Attempt(variant, "failed", _one_line(error))
    if not torch.isfinite(logits).all():
        return Attempt(variant, "failed", "its logits are not finite numbers")
    engine = replace(
        built,
        build_seconds=time.perf_counter() - start,
        memory_mb=growth.host_mb,
        device_mb=growth.device_mb,
        flops=flops,
    )
    return Attempt(variant, "ran", "", engine)


def _one_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0] if lines else 'no message'}"[:160]
