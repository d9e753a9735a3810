"""OpenVINO, the engine of Intel, which runs on AMD's processors too; its int8 comes from nncf."""

import logging
import tempfile
from pathlib import Path

import torch
from torch import nn

from .. import runtime
from .engines import Engine, megabytes

# How much of a large column SmoothQuant moves from the input to the weights, 0 to 1. Found on 150
# drawings of the CIFAR-10 twin, none of which judges an engine; nncf's 0.95 lost more answers.
SMOOTHING = 0.65


def openvino_engine(
    network: nn.Module,
    example: torch.Tensor,
    precision: str,
    calibration: torch.Tensor,
    *,
    fixed_to_one: bool = True,
    **facts,
) -> Engine:
    """Run a network in OpenVINO on the CPU.

    `example` is two pictures, (2, 3, H, W). `precision` is `f32`, `bf16` or `int8`: OpenVINO takes
    bf16 by itself where the CPU has it, so fp32 must be asked for. `calibration` (N, 3, H, W) are
    pictures that no engine is judged on. `fixed_to_one`: OpenVINO 2026.4.1 answers wrongly where an
    int8 graph with merged tokens is fixed to one picture. `facts` are more fields of `Engine`.
    """
    import openvino

    shape = openvino.PartialShape([-1, *example.shape[1:]])
    with torch.no_grad():
        graph = openvino.convert_model(network, example_input=example, input=shape)
    if precision == "int8":
        graph = _quantised(graph, calibration)
        precision = "bf16" if runtime.cpu_has_bf16() else "f32"  # for what is not int8
    settings = {
        "INFERENCE_PRECISION_HINT": precision,
        "INFERENCE_NUM_THREADS": torch.get_num_threads(),
        "PERFORMANCE_HINT": "LATENCY",
    }
    core, compiled = openvino.Core(), {}

    def predict(pictures):
        batch = len(pictures)
        if batch not in compiled:  # a graph for one batch size is faster than one for any
            own = graph.clone()
            if batch > 1 or fixed_to_one:
                own.reshape([batch, *pictures.shape[1:]])
            compiled[batch] = core.compile_model(own, "CPU", settings)
        logits = compiled[batch](pictures.cpu().numpy())[0]
        return torch.from_numpy(logits.copy())  # its memory is used again by the next call

    with tempfile.TemporaryDirectory(prefix="vit-openvino-") as folder:
        openvino.save_model(graph, Path(folder) / "model.xml", compress_to_fp16=False)
        size = sum(megabytes(file) for file in Path(folder).iterdir())
    return Engine(predict, size, **facts)


def _quantised(graph, calibration: torch.Tensor):
    """The layers with weights in int8, with the scales of a transformer (nncf).

    Attention's products and the last layer keep their precision: rounding them moved the logits.
    Scales cover all of the calibration pictures; nncf's default cuts off the few large numbers that
    a ViT depends on. Large columns are shared out between input and weights (SmoothQuant, Xiao et
    al. 2023, section 4.1). Without units for bytes, weights take half the range: no sum overflows.
    """
    from IPython.utils.capture import capture_output

    with capture_output():  # it draws bars of its own, wherever it runs
        import nncf
        from nncf.quantization.advanced_parameters import OverflowFix
        from nncf.quantization.range_estimator import RangeEstimatorParametersSet

        logging.getLogger("nncf").setLevel(logging.ERROR)
        return nncf.quantize(
            graph,
            nncf.Dataset([picture[None].cpu().numpy() for picture in calibration]),
            model_type=nncf.ModelType.TRANSFORMER,
            subset_size=len(calibration),
            ignored_scope=nncf.IgnoredScope(
                names=_kept_precise(graph), types=["ScaledDotProductAttention"], validate=False
            ),
            advanced_parameters=nncf.AdvancedQuantizationParameters(
                activations_range_estimator_params=RangeEstimatorParametersSet.MINMAX,
                overflow_fix=OverflowFix.DISABLE if runtime.cpu_has_int8() else OverflowFix.ENABLE,
                smooth_quant_alphas=nncf.AdvancedSmoothQuantParameters(matmul=SMOOTHING),
            ),
        )


def _kept_precise(graph) -> list[str]:
    """Names of a graph's products without weights, and of its last product, the head."""

    def is_weight(node) -> bool:
        while node.get_type_name() == "Convert":
            node = node.input_value(0).get_node()
        return node.get_type_name() == "Constant"

    products = [node for node in graph.get_ordered_ops() if node.get_type_name() == "MatMul"]
    kept = [
        product
        for product in products
        if not any(is_weight(product.input_value(i).get_node()) for i in range(2))
    ]
    return [node.get_friendly_name() for node in [*kept, products[-1]]]
