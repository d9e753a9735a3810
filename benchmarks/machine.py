"""What figures were measured on, and how they are written down."""

import datetime
import json
import os
import platform
import re
import shlex
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np
import psutil
import torch

from vit_helpers import resources, runtime
from vit_helpers.errors import CourseError
from vit_helpers.resources.files import written_whole

# What a CPU multiplies with, the fastest first: how people call it, and torch.
UNITS = (
    ("AMX", "amx_bf16"),
    ("AVX-512 VNNI and bf16", "avx512_bf16"),
    ("AVX-512 VNNI", "avx512_vnni"),
    ("AVX-512", "avx512_f"),
    ("AVX2", "avx2"),
    ("AVX", "avx"),
    ("ARM i8mm", "i8mm"),
    ("ARM NEON", "neon"),
)
LIBRARIES = ("torch", "transformers", "onnxruntime", "openvino", "nncf", "torchao")
# What changes a measurement from outside, and so belongs to the command.
VARIABLES = ("VIT_SOURCE", "VIT_PROFILE", "VIT_PICTURES", "OMP_NUM_THREADS", "ONEDNN_MAX_CPU_ISA")


def machine() -> dict:
    """Processor and its units, cores, threads, memory in GB, GPU, versions of the libraries."""
    versions = {"python": platform.python_version()}
    for name in LIBRARIES:
        try:
            versions[name] = version(name).split("+")[0]
        except PackageNotFoundError:
            continue
    return {
        "processor": _processor(),
        "units": units(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "memory GB": round(psutil.virtual_memory().total / 1e9),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "versions": versions,
    }


def units() -> str:
    """The fastest of `UNITS` that this CPU has; empty where torch cannot tell."""
    able = runtime.cpu_abilities()
    return next((name for name, known in UNITS if able.get(known)), "")


def free_gb() -> float:
    """Memory that this process could still take, in GB; a container may allow it less."""
    free = psutil.virtual_memory().available
    try:
        folder = Path("/sys/fs/cgroup")
        most = int((folder / "memory.max").read_text(encoding="ascii"))
        free = min(free, most - int((folder / "memory.current").read_text(encoding="ascii")))
    except (OSError, ValueError):  # no such file, or "max"
        pass
    return free / 1e9


def compiler_missing(device: torch.device) -> str:
    """Why `torch.compile` is left out here, or an empty text."""
    if missing := runtime.missing_compiler(device):
        return missing
    able = runtime.cpu_abilities()
    if device.type == "cpu" and able.get("sse2") and not able.get("avx2"):
        return "torch.compile writes for AVX2 and later, and this CPU has none of them"
    return memory_missing("compiling", 1.5)


def memory_missing(what: str, gb: float) -> str:
    """Why something that takes so many GB is left out here, or an empty text."""
    free = free_gb()
    return f"{what} takes about {gb:.1f} GB of memory, {free:.1f} GB are free" * (free < gb)


def poor_machine() -> list[str]:
    """Sentences on what a small machine cannot tell."""
    notes = []
    if os.cpu_count() == 1:
        notes.append("One core: these figures do not tell how engines share work among cores.")
    able = runtime.cpu_abilities()
    if able.get("sse2") and not able.get("avx2"):
        notes.append("No AVX2: rows of torch.compile and of 16 bits are left out.")
    if free_gb() < 2:
        notes.append("Less than 2 GB of memory are free: rows that take more are left out.")
    return notes


def command_line(arguments: Sequence[str]) -> str:
    """The command as somebody else would type it: with what is set outside, no paths of here."""
    words, skip = [], False
    for word in arguments:
        if word in ("--to", "--photographs"):
            skip = True
        elif not skip:
            words.append(Path(word).name if Path(word).is_absolute() else word)
        else:
            skip = False
    outside = [f"{name}={os.environ[name]}" for name in VARIABLES if name in os.environ]
    return " ".join([*outside, "python -m benchmarks", shlex.join(words)])


def model_name(given: str | None) -> str | None:
    """The model as the page names it: without a path; `None` for the kit's own."""
    if given:
        return Path(given).name if Path(given).exists() else given
    hub = runtime.current().source == "hub"
    return resources.get("classifier").hub_id if hub else None


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def save_results(frame, path: str | Path, **about) -> Path:
    """Write a table as JSON, with the day and the machine that it was measured on.

    Args:
        frame: A `DataFrame`.
        path: The file. It is there whole or not at all.
        about: More facts, such as `command`, `rates` or the name of the model.

    Returns:
        The path. What was not measured is `null`.
    """
    rows = frame.reset_index().to_dict("records")
    today = datetime.datetime.now(datetime.timezone.utc).date().isoformat()
    content = {"date": today, "machine": machine(), **about, "rows": [_plain(row) for row in rows]}
    text = json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False)
    with written_whole(Path(path)) as part:
        part.write_text(text + "\n", encoding="utf-8")
    return Path(path)


def read_results(path: Path) -> dict:
    """What `save_results` wrote.

    Raises:
        CourseError: If the file is not one of its own.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if not {"date", "machine", "rows"} <= set(content):
            raise ValueError
    except (OSError, ValueError, TypeError):
        raise CourseError(
            f"{path.name} is no file of results: delete it and measure again."
        ) from None
    return content


def slug(text: str) -> str:
    """The text as a part of a file's name: small letters, digits and hyphens."""
    return re.sub("[^a-z0-9]+", "-", text.lower()).strip("-")


def _plain(row: dict) -> dict:
    """Without NumPy's types, and `None` for what is not a finite number."""
    plain = {}
    for name, value in row.items():
        value = value.item() if isinstance(value, np.generic) else value
        finite = not isinstance(value, float) or np.isfinite(value)
        plain[name] = value if finite else None
    return plain
