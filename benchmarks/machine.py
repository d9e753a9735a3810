"""What figures were measured on, and how they are written down."""

import json
import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np
import torch

from vit_helpers.resources.files import written_whole


def machine() -> dict:
    """Processor, cores, threads, GPU, and the versions of the libraries."""
    versions = {"python": platform.python_version()}
    for name in ("torch", "transformers", "onnxruntime", "openvino", "nncf", "torchao"):
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            continue
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    return {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "gpu": gpu,
        "versions": versions,
    }


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def save_results(frame, path: str | Path, **about) -> Path:
    """Write a table as JSON, with the machine that it was measured on.

    Args:
        frame: A `DataFrame`.
        path: The file. It is there whole or not at all.
        about: More facts, such as `rates` or the name of the model.

    Returns:
        The path. What was not measured is `null`.
    """
    rows = frame.reset_index().to_dict("records")
    content = {"machine": machine(), **about, "rows": [_plain(row) for row in rows]}
    text = json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False)
    with written_whole(Path(path)) as part:
        part.write_text(text, encoding="utf-8")
    return Path(path)


def _plain(row: dict) -> dict:
    """Without NumPy's types, and `None` for what is not a finite number."""
    plain = {}
    for name, value in row.items():
        value = value.item() if isinstance(value, np.generic) else value
        finite = not isinstance(value, float) or np.isfinite(value)
        plain[name] = value if finite else None
    return plain
