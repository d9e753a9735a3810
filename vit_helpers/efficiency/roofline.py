"""The floor, an estimate of the time that the products alone need, and the machine's own rate.

The roofline model (Williams, Waterman and Patterson 2009, Communications of the ACM) in its
simplest form: operations, divided by those a second in large matrix products.
"""

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping

import torch

from ..runtime import cpu_has_bf16, cpu_has_int8, synchronise

# Rows, inner length, columns of the product that is measured: large enough to keep all cores
# busy, and about what the MLP of a ViT-B/16 multiplies for five pictures.
SHAPE = (1024, 1024, 4096)


def count_operations(network: Callable, pictures: torch.Tensor) -> dict[str, float]:
    """Operations of one picture in matrix products and convolutions, by kind of layer.

    A multiplication and an addition count as two. Counted by torch while the network runs, so
    the network must use the plain attention: fused attention is not counted on a CPU.

    Returns:
        `layers` (products with a weight matrix), `attention` (QK^T and the sum over V, and in a
        merging network the sums of merged tokens) and `patches` (the convolution).
    """
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network(pictures)
    kinds = dict.fromkeys(("layers", "attention", "patches"), 0.0)
    for operation, count in counter.get_flop_counts()["Global"].items():
        name = str(operation)
        kind = "attention" if "bmm" in name else "patches" if "conv" in name else "layers"
        kinds[kind] += count / len(pictures)
    return kinds


def runs_in(fast: str, operations: Mapping[str, float]) -> dict[str, float]:
    """The operations of `count_operations` by number format; `fast` is the engine's own.

    Of an int8 engine only the layers with weights are int8; attention and patches stay in fp32.
    """
    if fast == "int8":
        rest = operations["attention"] + operations["patches"]
        return {"int8": operations["layers"], "fp32": rest}
    return {fast: sum(operations.values())}


def floor_ms(operations: Mapping[str, float], rates: Mapping[str, float]) -> float:
    """Milliseconds for the operations of `runs_in` at `matrix_rates`; NaN where one is unknown."""
    if not operations or not set(operations) <= set(rates):
        return float("nan")
    return 1e3 * sum(count / rates[name] for name, count in operations.items())


def matrix_rates(device: torch.device | str = "cpu", seconds: float = 0.4) -> dict[str, float]:
    """The machine's own rate in large matrix products, in operations a second.

    By number format (`fp32`, `int8`; where the hardware has it `bf16`; on a GPU also `fp16`), the
    best of PyTorch and, on a CPU, ONNX Runtime: each is tried for so many seconds.
    """
    device = torch.device(device)
    best: dict[str, float] = {}
    for arithmetic, product in _products(device):
        best[arithmetic] = max(_rate(product, device, seconds), best.get(arithmetic, 0.0))
    return best


def rate_table(rates: Mapping[str, float], operations: Mapping[str, float]):
    """The rates of `matrix_rates` and the floor of a network: `GOP/s` and `floor ms` by format."""
    import pandas as pd

    rows = {
        name: {"GOP/s": rate / 1e9, "floor ms": floor_ms(runs_in(name, operations), rates)}
        for name, rate in rates.items()
    }
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("format")


def _products(device: torch.device) -> Iterator[tuple[str, Callable]]:
    """Pairs of a number format and a function without arguments that multiplies."""
    rows, inner, columns = SHAPE
    a, b = torch.randn(rows, inner, device=device), torch.randn(inner, columns, device=device)
    formats = {"fp32": torch.float32}
    on_cpu = device.type == "cpu"
    if not on_cpu or cpu_has_bf16():  # emulated, one product takes half a minute
        formats["bf16"] = torch.bfloat16
    if device.type == "cuda":
        formats["fp16"] = torch.float16
    for name, dtype in formats.items():
        x, y = a.to(dtype), b.to(dtype)
        yield name, lambda x=x, y=y: x @ y
    if not on_cpu or cpu_has_int8():  # emulated too; ONNX Runtime has kernels of its own
        whole = [torch.randint(-127, 128, t.shape, device=device).to(torch.int8) for t in (a, b)]
        with contextlib.suppress(RuntimeError):  # no such kernel in this torch or on this device
            torch._int_mm(*whole)
            yield "int8", lambda: torch._int_mm(*whole)
    if on_cpu:
        yield "fp32", _onnx_product("float", "float", "MatMul", a, b)
        x, y = (20 * a.abs()).byte(), b.char()
        yield "int8", _onnx_product("uint8", "int32", "MatMulInteger", x, y)


def _onnx_product(given: str, result: str, operation: str, left, right) -> Callable:
    """The same in ONNX Runtime, whose kernels are other ones, with a constant as weights are."""
    import onnxruntime
    from onnx import numpy_helper, parser

    model = parser.parse_model(f"""
        <ir_version: 10, opset_import: ["" : 18]>
        product ({given}[rows, inner] x) => ({result}[rows, columns] z) {{ z = {operation}(x, y) }}
    """)
    model.graph.initializer.append(numpy_helper.from_array(right.numpy(), "y"))
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    return lambda: session.run(None, {"x": left.numpy()})


def _rate(product: Callable, device: torch.device, seconds: float) -> float:
    """Operations a second of the fastest of the calls within `seconds`."""
    rows, inner, columns = SHAPE
    product()
    fastest, end = float("inf"), time.perf_counter() + seconds
    while time.perf_counter() < end:
        synchronise(device)
        start = time.perf_counter()
        product()
        synchronise(device)
        fastest = min(fastest, time.perf_counter() - start)
    return 2 * rows * inner * columns / fastest
