"""How much memory a step takes: of the whole process, and on a GPU."""

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
