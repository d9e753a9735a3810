"""How much memory a call takes: on a GPU, in the tensors of torch, in the whole process."""

from collections.abc import Callable
from pathlib import Path

import torch


class Growth:
    """By how much memory grows, at most, inside the `with` block.

    After the block `host_mb` is the growth of the whole process, whatever library asked for it
    (Linux; NaN elsewhere), and `device_mb` the most that torch held on a GPU (NaN without one).

    Args:
        device: Where the model computes.
    """

    def __init__(self, device: torch.device):
        self.device = device
        self.host_mb = self.device_mb = float("nan")

    def __enter__(self):
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
        self._before = _status("VmRSS") if _reset_peak() else None
        return self

    def __exit__(self, *exc):
        if self._before is not None:
            self.host_mb = max(0.0, _status("VmHWM") - self._before) / 1e6
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
            self.device_mb = torch.cuda.max_memory_allocated(self.device) / 1e6


def _reset_peak() -> bool:
    """Forget the largest resident memory so far (Linux: proc(5), clear_refs)."""
    try:
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    except OSError:  # another system, or a container that forbids it: then it is not measured
        return False
    return True


def _status(name: str) -> int:
    """A line of /proc/self/status, in bytes."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    (line,) = [line for line in lines if line.startswith(f"{name}:")]
    return 1024 * int(line.split()[1])


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
