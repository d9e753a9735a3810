"""Is it faster, does it still answer the same, and which one should be taken?"""

import json
import os
import platform
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from .. import runtime
from ..errors import CourseError
from .engines import Engine, write_whole
from .timing import race, timing_table
from .variants import BASELINE, Attempt

USABLE_FROM = 0.9  # agreement below this: another classifier, not a faster one
RECOMMENDED_FROM = 0.95
NEIGHBOURS = 8  # pictures in a batch, where answers alone and in company are compared


def compare(
    attempts: Sequence[Attempt],
    pictures: torch.Tensor,
    rounds: int = 20,
    *,
    labels: torch.Tensor | None = None,
    batch: int = 1,
    rates: dict[str, float] | None = None,
    company: int = 32,
):
    """Measure speed and agreement of variants on the same pictures.

    The same forward passes give both: the time of each, and whether its answer is the baseline's.

    Args:
        attempts: What `build` returned. The baseline must have run.
        pictures: Normalised pictures (N, 3, H, W); 200 or more for a fair agreement.
        rounds: In how many turns (see `race`).
        labels: The right classes (N,), where they are known.
        batch: How many pictures at a time; what is left over at the end is not used.
        rates: What `matrix_rates` measured, for the share of the possible.
        company: How many pictures are seen alone and again in a batch of eight. With dynamic
            int8 the answer to a picture depends on its neighbours, which share its scale.

    Returns:
        A raw `DataFrame`, a row for every attempt: `family`, `status`, `reason`, `threads`,
        `build s`, the columns of `timing_table`, `MB` (file), `memory MB` and `device MB` (of
        the first call), `agreement` (share of pictures with the same top class as the baseline,
        0..1) with its 95 % interval `agreement from` and `agreement to`, `logit difference` (the
        largest one), `mean difference`, `accuracy` (where labels are given), `same in a batch`
        (share of pictures with the same top class alone and in a batch), `of possible` (share of
        the machine's rate), and `pareto`: no usable variant is both faster and more faithful.
        The `verdict` of a variant whose agreement is below 90 % is `unusable`.

    Raises:
        CourseError: If the baseline did not run, or numbers of pictures do not fit.
    """
    import pandas as pd

    ready: dict[str, Any] = {a.name: a.engine for a in attempts if a.status == "ran"}
    if BASELINE not in ready:
        raise CourseError(f"{BASELINE!r} did not run, so there is nothing to compare with.")
    if labels is not None and len(labels) != len(pictures):
        raise CourseError(f"{len(labels)} labels do not fit {len(pictures)} pictures: one each.")
    whole = len(pictures) // batch * batch if batch > 0 else 0
    if whole == 0:
        raise CourseError(f"batch is {batch}, but must be 1 to {len(pictures)} pictures.")
    pictures, labels = pictures[:whole], None if labels is None else labels[:whole]
    _announce(ready, pictures, batch, company)
    seconds, answers = race(ready, pictures.split(batch), rounds)
    times = timing_table(seconds, BASELINE, batch, rounds)
    logits = {name: torch.cat(parts) for name, parts in answers.items()}
    together = {
        name: same_in_company(engine, pictures[:company], logits[name][:company], batch)
        for name, engine in ready.items()
    }
    rows = {}
    for attempt in attempts:
        row = {
            "family": attempt.variant.family,
            "status": attempt.status,
            "reason": attempt.reason,
            "threads": torch.get_num_threads(),
        }
        if attempt.engine is not None:
            row |= _timed(attempt, attempt.engine, times, rates or {})
            row |= _judged(logits[attempt.name], logits[BASELINE], labels)
            row["same in a batch"] = together[attempt.name]
            if row["agreement"] < USABLE_FROM:
                row["verdict"] = "unusable"
        rows[attempt.name] = row
    frame = pd.DataFrame.from_dict(rows, orient="index").rename_axis("variant")
    frame["pareto"] = frame.index.isin(pareto(frame))
    return frame


def _announce(engines, pictures, batch: int, company: int) -> None:
    """Say how long the comparison will take, from one call of each engine."""
    calls = len(pictures) / batch + min(company, len(pictures)) / batch
    total = 0.0
    for engine in engines.values():
        engine(pictures[:batch])  # warms up
        began = time.perf_counter()
        engine(pictures[:batch])
        total += calls * (time.perf_counter() - began)
    runtime.announce(f"{len(engines)} variants on {len(pictures)} pictures", total)


def _timed(attempt: Attempt, engine: Engine, times, rates: dict[str, float]) -> dict:
    row = times.loc[attempt.name].to_dict()
    possible = rates.get(attempt.variant.arithmetic, float("nan"))
    return {
        "build s": engine.build_seconds,
        **row,
        "MB": engine.megabytes,
        "memory MB": engine.memory_mb,
        "device MB": engine.device_mb,
        "of possible": engine.flops * row["images/s"] / possible,
    }


def _judged(logits: torch.Tensor, reference: torch.Tensor, labels) -> dict:
    from ..training import wilson_interval

    agreement, largest = agree(logits, reference)
    low, high = wilson_interval(round(agreement * len(logits)), len(logits))
    right = float("nan") if labels is None else _share(logits.argmax(-1) == labels)
    return {
        "agreement": agreement,
        "agreement from": low,
        "agreement to": high,
        "logit difference": largest,
        "mean difference": (logits - reference).abs().mean().item(),
        "accuracy": right,
    }


def _share(same: torch.Tensor) -> float:
    return same.cpu().double().mean().item()


def agree(logits: torch.Tensor, reference: torch.Tensor) -> tuple[float, float]:
    """How alike two sets of logits (N, classes) are.

    Returns:
        `(agreement, difference)`: the share of rows with the same top class, and the largest
        difference of any logit.
    """
    if logits.shape != reference.shape:
        shapes = f"{tuple(logits.shape)} and {tuple(reference.shape)}"
        raise CourseError(f"Logits of shapes {shapes} cannot be compared: use the same pictures.")
    return _share(logits.argmax(-1) == reference.argmax(-1)), (
        (logits - reference).abs().max().item()
    )


def same_in_company(engine, pictures: torch.Tensor, logits: torch.Tensor, batch: int) -> float:
    """The share of pictures with the same top class alone and in a batch of eight.

    Args:
        engine: An `Engine`.
        pictures: Shape (N, 3, H, W).
        logits: The engine's answers to them, in batches of `batch`.
        batch: 1 if they were alone, else these count as the batch and each is asked alone now.

    Returns:
        The share, or NaN for an engine that would have to be compiled again.
    """
    if not engine.any_batch or len(pictures) == 0:
        return float("nan")
    other = pictures.split(NEIGHBOURS if batch == 1 else 1)
    again = torch.cat([engine(part) for part in other])
    return _share(again.argmax(-1) == logits.argmax(-1))


def usable(frame):
    """The rows of a `compare` table that ran and agree often enough to be used at all."""
    return frame[(frame["status"] == "ran") & (frame["agreement"] >= USABLE_FROM)]


def pareto(frame) -> list[str]:
    """The usable variants that no other beats in speed and agreement at once, slowest first.

    Args:
        frame: A table of `compare`.
    """
    chosen, best = [], -1.0
    fast_first = usable(frame).sort_values(["speed-up", "agreement"], ascending=False)
    for name, agreement in fast_first["agreement"].items():
        if agreement > best:
            chosen.append(name)
            best = agreement
    return chosen[::-1]


def recommend(frame, agreement: float = RECOMMENDED_FROM) -> str:
    """The fastest variant that agrees with the baseline often enough.

    One whose speed-up is "no difference" is never taken over the baseline.

    Args:
        frame: A table of `compare`.
        agreement: The least agreement, 0.9 to 1.

    Raises:
        CourseError: If `agreement` is lower: such an engine answers wrongly.
    """
    if not USABLE_FROM <= agreement <= 1:
        raise CourseError(f"agreement is {agreement}, but must be {USABLE_FROM} to 1.")
    good = usable(frame)
    good = good[(good["agreement"] >= agreement) & (good["verdict"] == "faster")]
    return str(good["speed-up"].idxmax()) if len(good) else BASELINE


def failures(frame) -> list[str]:
    """The variants that should work here and did not, with the reason, from a `compare` table."""
    failed = frame[frame["status"] == "failed"]
    return [f"{name}: {reason}" for name, reason in failed["reason"].items()]


def machine() -> dict:
    """What the figures were measured on."""
    from importlib.metadata import PackageNotFoundError, version

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
    """Write a `compare` table as JSON, with the machine that it was measured on.

    Args:
        frame: A table of `compare`.
        path: The file. It is there whole or not at all.
        about: More facts, such as `rates` or the name of the model.

    Returns:
        The path. What was not measured is `null`.
    """
    rows = frame.reset_index().to_dict("records")
    content = {"machine": machine(), **about, "variants": [_plain(row) for row in rows]}
    text = json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False)
    return write_whole(Path(path), lambda part: Path(part).write_text(text, encoding="utf-8"))


def _plain(row: dict) -> dict:
    """Without NumPy's types, and `None` for what is not a finite number."""
    plain = {}
    for name, value in row.items():
        value = value.item() if isinstance(value, np.generic) else value
        finite = not isinstance(value, float) or np.isfinite(value)
        plain[name] = value if finite else None
    return plain


# --- tables for readers ------------------------------------------------------------------------

# Column: (digits after the point, factor, unit).
_FORMATS = {
    "build s": (1, 1, ""),
    "median ms": (1, 1, ""),
    "p5 ms": (1, 1, ""),
    "p95 ms": (1, 1, ""),
    "ms per image": (1, 1, ""),
    "images/s": (1, 1, ""),
    "speed-up": (2, 1, ""),
    "from": (2, 1, ""),
    "to": (2, 1, ""),
    "MB": (1, 1, ""),
    "memory MB": (1, 1, ""),
    "device MB": (1, 1, ""),
    "agreement": (1, 100, " %"),
    "agreement from": (1, 100, " %"),
    "agreement to": (1, 100, " %"),
    "accuracy": (1, 100, " %"),
    "same in a batch": (1, 100, " %"),
    "of possible": (0, 100, " %"),
    "logit difference": (5, 1, ""),
    "mean difference": (5, 1, ""),
    "largest difference": (6, 1, ""),
    "GOP/s": (0, 1, ""),
    "least ms": (2, 1, ""),
}


def for_reading(frame, columns: Sequence[str] | None = None):
    """A table of text for a notebook: measured numbers rounded and marked with ≈.

    Args:
        frame: A raw table of this package.
        columns: Which columns, in this order; all by default.

    Returns:
        A `DataFrame` of strings; what was not measured is a dash.
    """
    import pandas as pd

    pd.set_option("display.max_colwidth", None)  # a reason is of use only if it is whole
    shown = frame[list(columns or frame.columns)].astype(object)
    for name in shown.columns:
        if name in _FORMATS:
            shown[name] = [_measured(value, *_FORMATS[name]) for value in frame[name]]
        else:
            shown[name] = [
                "–" if value is None or value != value else value for value in frame[name]
            ]
    return shown


def _measured(value: float, digits: int, factor: float, unit: str) -> str:
    return f"≈ {factor * value:.{digits}f}{unit}" if np.isfinite(value) else "–"
