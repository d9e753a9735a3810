"""What the machine could do at most, and what share of it a variant reaches.

The roofline model (Williams, Waterman and Patterson 2009, Communications of the ACM) in its
simplest form: a network needs a number of operations, the machine does so many a second in large
matrix products, and no variant can be faster than the quotient.
"""

import time
from collections.abc import Callable, Iterator

import torch

# Rows, inner length, columns of the product that is measured: large enough to keep all cores
# busy, and about what the MLP of a ViT-B/16 multiplies for five pictures.
SHAPE = (1024, 1024, 4096)


def count_flops(network: Callable, pictures: torch.Tensor) -> float:
    """Floating-point operations of one picture in matrix products and convolutions.

    A multiplication and an addition count as two. Counted by torch while the network runs, so
    the network must use the plain attention: fused attention is not counted on a CPU.

    Args:
        network: From pictures to logits.
        pictures: Shape (B, 3, H, W).
    """
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network(pictures)
    return counter.get_total_flops() / len(pictures)


def matrix_rates(device: torch.device | str = "cpu", seconds: float = 0.4) -> dict[str, float]:
    """The machine's own rate in large matrix products, in operations a second.

    The best of the libraries at hand counts: PyTorch, and on a CPU ONNX Runtime too. Takes a few
    seconds; the number of threads is torch's.

    Args:
        device: Where to multiply.
        seconds: How long to try each library and number format.

    Returns:
        By number format (`fp32`, `bf16`, `int8`; on a GPU also `fp16`) the best rate seen. A
        format that no library here can multiply is left out.
    """
    device = torch.device(device)
    best = {}
    for arithmetic, product in _products(device):
        rate = _rate(product, device, seconds)
        best[arithmetic] = max(rate, best.get(arithmetic, 0.0))
    return best


def rate_table(rates: dict[str, float], flops: float):
    """The rates in words: a raw `DataFrame` by number format.

    Args:
        rates: What `matrix_rates` returned.
        flops: Operations of one picture, of `count_flops`.

    Returns:
        Columns `GOP/s`, and `least ms`: the time below which no picture can be classified.
    """
    import pandas as pd

    rows = {
        name: {"GOP/s": rate / 1e9, "least ms": 1e3 * flops / rate} for name, rate in rates.items()
    }
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("arithmetic")


def _products(device: torch.device) -> Iterator[tuple[str, Callable]]:
    """Pairs of a number format and a function without arguments that multiplies."""
    rows, inner, columns = SHAPE
    a, b = torch.randn(rows, inner, device=device), torch.randn(inner, columns, device=device)
    formats = {"fp32": torch.float32, "bf16": torch.bfloat16}
    if device.type == "cuda":
        formats["fp16"] = torch.float16
    for name, dtype in formats.items():
        x, y = a.to(dtype), b.to(dtype)
        yield name, lambda x=x, y=y: x @ y
    whole = [torch.randint(-127, 128, t.shape, device=device).to(torch.int8) for t in (a, b)]
    try:
        torch._int_mm(*whole)
    except (RuntimeError, NotImplementedError):  # no such kernel in this torch or on this device
        pass
    else:
        yield "int8", lambda: torch._int_mm(*whole)
    if device.type == "cpu":
        yield from _onnx_products(a.numpy(), b.numpy())


def _onnx_products(a, b) -> Iterator[tuple[str, Callable]]:
    """The same in ONNX Runtime, whose kernels are other ones."""
    import numpy as np

    bytes_, signs = (a * 20).clip(0, 255).astype(np.uint8), b.clip(-3, 3).astype(np.int8)
    for name, operation, x, y in (
        ("fp32", "MatMul", a, b),
        ("int8", "MatMulInteger", bytes_, signs),
    ):
        session = _onnx_product(operation, y)
        yield name, lambda session=session, x=x: session.run(None, {"x": x})


def _onnx_product(operation: str, right):
    """A session that multiplies by a constant matrix, as a layer does with its weights."""
    import onnxruntime
    from onnx import TensorProto, helper

    integer = operation == "MatMulInteger"
    constant = helper.make_tensor(
        "y",
        TensorProto.INT8 if integer else TensorProto.FLOAT,
        right.shape,
        right.tobytes(),
        raw=True,
    )
    given = helper.make_tensor_value_info(
        "x", TensorProto.UINT8 if integer else TensorProto.FLOAT, [None, right.shape[0]]
    )
    result = helper.make_tensor_value_info(
        "z", TensorProto.INT32 if integer else TensorProto.FLOAT, [None, right.shape[1]]
    )
    node = helper.make_node(operation, ["x", "y"], ["z"])
    graph = helper.make_graph([node], "product", [given], [result], [constant])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    return onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )


def _rate(product: Callable, device: torch.device, seconds: float) -> float:
    """Operations a second of the fastest of the calls within `seconds`."""
    from ..runtime import synchronise

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
