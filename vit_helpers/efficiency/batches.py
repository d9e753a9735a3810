"""How batch size changes speed and memory, up to the size that no longer fits."""

from typing import Any

import numpy as np
import torch

from .. import runtime
from .engines import Engine
from .memory import peak_memory
from .timing import race

# A process that asks for more memory than the machine has is ended without a word (Linux). So
# the CPU stops earlier: at this share of what is free.
SHARE_OF_FREE_MEMORY = 0.8


def sweep(engines: dict[str, Engine], pictures: torch.Tensor, batches, rounds: int = 3):
    """Time engines at several batch sizes.

    An engine whose memory does not suffice for a batch has no larger ones; the others go on.

    Args:
        engines: Engines by name. One of `torch.compile` would compile again for each size.
        pictures: Repeated as often as the largest batch needs.
        batches: Batch sizes, from small to large.
        rounds: Timed calls of each engine at each size, in turns; the median counts.

    Returns:
        A raw `DataFrame`: `variant`, `batch`, `note` (`out of memory`, or empty),
        `ms per image`, `images/s`, and `memory MB`, the most that PyTorch's tensors took at once
        beyond weights and input (ONNX Runtime: NaN).
    """
    import pandas as pd

    rows: list[dict] = []
    going: dict[str, Any] = dict(engines)
    per_picture: dict[str, float] = {}
    for batch in runtime.bar(batches, "batch sizes", total=len(batches)):
        repeats = -(-batch // len(pictures))
        inputs = pictures.repeat(repeats, 1, 1, 1)[:batch]
        found: dict[str, dict[str, Any]] = {}
        for name, engine in list(going.items()):
            peak = _try(engine, inputs, batch * per_picture.get(name, 0.0))
            if peak is None:
                del going[name]
                found[name] = {"note": "out of memory"}
            else:
                per_picture[name] = peak / batch
                found[name] = {"note": "", "memory MB": peak / 1e6}
        seconds, _ = race(going, [inputs] * rounds, rounds)
        for name, times in seconds.items():
            per_image = float(np.median(times)) / batch
            found[name] |= {"ms per image": 1e3 * per_image, "images/s": 1 / per_image}
        rows += [{"variant": name, "batch": batch, **row} for name, row in found.items()]
    columns = ["variant", "batch", "note", "ms per image", "images/s", "memory MB"]
    return pd.DataFrame(rows).reindex(columns=columns)


def _try(engine: Engine, inputs: torch.Tensor, needed: float) -> float | None:
    """One call. Returns its peak memory in bytes, or `None` if the memory does not suffice."""
    if needed > _free_memory():
        return None
    try:
        return peak_memory(engine, inputs)
    except (MemoryError, RuntimeError) as error:  # torch.OutOfMemoryError is a RuntimeError
        if not is_out_of_memory(error):
            raise
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    return None


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error of any of the libraries says that memory does not suffice."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    words = ("out of memory", "can't allocate memory", "failed to allocate", "not enough memory")
    return any(word in str(error).lower() for word in words)


def _free_memory() -> float:
    """Bytes that a call may take; without limit on a GPU, which says so itself."""
    import psutil

    if torch.cuda.is_available():
        return float("inf")
    return SHARE_OF_FREE_MEMORY * psutil.virtual_memory().available


def saturation(table, share: float = 0.95) -> dict[str, int]:
    """By variant, the smallest batch size that reaches `share` of its best images per second."""
    return {
        name: int(part.loc[part["images/s"] >= share * part["images/s"].max(), "batch"].min())
        for name, part in table.groupby("variant", sort=False)
        if part["images/s"].notna().any()
    }


def largest_batch(table) -> dict[str, int]:
    """By variant, the largest batch size that was measured and fitted into memory."""
    fits = table[table["note"] == ""]
    return {str(n): int(b) for n, b in fits.groupby("variant", sort=False)["batch"].max().items()}
