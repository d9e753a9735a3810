"""Is it faster, does it still answer the same, and which one should be taken?"""

import time
from collections.abc import Mapping, Sequence

import numpy as np
import torch

from ..errors import CourseError, number, one_of, whole_number
from ..training import wilson_interval
from .engines import Engine
from .roofline import floor_ms
from .timing import race, timing_table

BASELINE = "PyTorch eager"
USABLE_FROM = 0.9  # agreement below this: another classifier, not a faster one
SEEN_TWICE = 32  # pictures, alone and in a batch
NEIGHBOURS = 8  # in that batch


def compare(
    engines: Mapping[str, Engine],
    pictures: torch.Tensor,
    rounds: int = 10,
    *,
    missing: Mapping[str, str] | None = None,
    labels: torch.Tensor | None = None,
    batch: int = 1,
    rates: Mapping[str, Mapping[str, float]] | None = None,
):
    """Measure speed and agreement of engines on the same pictures, in the same forward passes.

    Args:
        engines: By name; `BASELINE` is among them.
        pictures: Pixel values (N, 3, H, W); 200 or more for a fair agreement.
        rounds: In how many turns (see `race`).
        missing: Engines that cannot run here, and why: rows without figures.
        labels: The right classes (N,), where they are known.
        batch: How many pictures at a time; what is left over at the end is not used.
        rates: By device (`CPU`, `GPU`) what `matrix_rates` measured there, for the floor.

    Returns:
        A `DataFrame`, a row for every engine: `runs on`, `computes in`, `not here` (why, or
        empty), the columns of `timing_table`, `MB`, `agreement` (share of pictures with the
        baseline's top class) with its 95 % interval `agreement from` and `agreement to`,
        `logit difference` (the mean one), `accuracy` (where labels are given), `same in a batch`
        (share of pictures with the same top class alone and in a batch of eight), `floor ms`,
        `of possible` (the floor as a share of the median), and `pareto`. The `verdict` of an
        engine whose agreement is below 90 % is `unusable`.
    """
    import pandas as pd

    one_of("The baseline", BASELINE, tuple(engines))
    if labels is not None and len(labels) != len(pictures):
        raise CourseError(f"{len(labels)} labels do not fit {len(pictures)} pictures: one each.")
    batch = whole_number("batch", batch, 1, len(pictures))
    pictures = pictures[: len(pictures) // batch * batch]
    _announce(engines, pictures, batch)
    seconds, answers = race(dict(engines), pictures.split(batch), rounds)
    times = timing_table(seconds, BASELINE, rounds, batch)
    logits = {name: torch.cat(parts) for name, parts in answers.items()}
    rows: dict[str, dict] = {}
    for name, engine in engines.items():
        right = None if labels is None else logits[name].argmax(-1) == labels[: len(pictures)]
        share = agreement(logits[name], logits[BASELINE])
        low, high = wilson_interval(round(share * len(pictures)), len(pictures))
        rows[name] = row = {
            "runs on": engine.device,
            "computes in": " + ".join(engine.operations) or "–",
            "not here": "",
            **times.loc[name].to_dict(),
            "MB": engine.megabytes,
            "agreement": share,
            "agreement from": low,
            "agreement to": high,
            "logit difference": (logits[name] - logits[BASELINE]).abs().mean().item(),
            "accuracy": float("nan") if right is None else _share(right),
            "same in a batch": _same_in_a_batch(engine, pictures, logits[name], batch),
            "floor ms": floor_ms(engine.operations, (rates or {}).get(engine.device, {})),
        }
        row["of possible"] = batch * row["floor ms"] / row["median ms"]
        if share < USABLE_FROM:
            row["verdict"] = "unusable"
    rows |= {name: {"not here": reason} for name, reason in (missing or {}).items()}
    frame = pd.DataFrame.from_dict(rows, orient="index").rename_axis("engine")
    frame["pareto"] = frame.index.isin(pareto(frame))
    return frame


def _announce(engines, pictures, batch: int) -> None:
    """Say how long the comparison will take, from one call of each engine."""
    calls = (len(pictures) + min(SEEN_TWICE, len(pictures))) / batch
    total = 0.0
    for engine in engines.values():
        engine(pictures[:batch])  # warms up
        began = time.perf_counter()
        engine(pictures[:batch])
        total += calls * (time.perf_counter() - began)
    minutes = max(0.1, total / 60)
    print(
        f"{len(engines)} engines on {len(pictures)} pictures: about {minutes:.1f} min here",
        flush=True,
    )


def _share(same: torch.Tensor) -> float:
    return same.cpu().double().mean().item()


def agreement(logits: torch.Tensor, reference: torch.Tensor) -> float:
    """The share of rows with the same top class in two sets of logits (N, classes)."""
    if logits.shape != reference.shape:
        shapes = f"{tuple(logits.shape)} and {tuple(reference.shape)}"
        raise CourseError(f"Logits of shapes {shapes} cannot be compared: use the same pictures.")
    return _share(logits.argmax(-1) == reference.argmax(-1))


def _same_in_a_batch(engine: Engine, pictures, logits, batch: int) -> float:
    """With dynamic int8 all pictures of a batch share a scale, so neighbours change an answer."""
    if not engine.any_batch:  # it would have to be compiled again
        return float("nan")
    other = pictures[:SEEN_TWICE].split(NEIGHBOURS if batch == 1 else 1)
    return agreement(torch.cat([engine(part) for part in other]), logits[:SEEN_TWICE])


def usable(frame):
    """The rows of a `compare` table that ran and agree often enough to be used at all."""
    return frame[frame["agreement"] >= USABLE_FROM]


def pareto(frame) -> list[str]:
    """The usable engines that no other beats in speed and agreement at once, slowest first."""
    chosen, best = [], -1.0
    fast_first = usable(frame).sort_values(["speed-up", "agreement"], ascending=False)
    for name, share in fast_first["agreement"].items():
        if share > best:
            chosen.append(name)
            best = share
    return chosen[::-1]


def recommend(frame, least: float = 0.95) -> list[str]:
    """Names of the fastest engine that agrees often enough, and of those as fast as far as we know.

    Those whose intervals of speed-up overlap with its own; the baseline where nothing is faster.
    """
    number("least", least, least=USABLE_FROM, most=1)
    good = frame[(frame["agreement"] >= least) & (frame["verdict"] == "faster")]
    if not len(good):
        return [BASELINE]
    good = good.sort_values("speed-up", ascending=False)
    return [str(name) for name in good.index[good["to"] >= good["from"].iloc[0]]]


# How a column is written: a number with a unit, or a share in percent.
_FORMATS = {
    **dict.fromkeys(("median ms", "p5 ms", "p95 ms", "images/s", "MB", "floor ms"), "{:.1f}"),
    **dict.fromkeys(("speed-up", "from", "to"), "{:.2f}"),
    **dict.fromkeys(("agreement", "agreement from", "agreement to"), "{:.1%}"),
    **dict.fromkeys(("accuracy", "same in a batch"), "{:.1%}"),
    "of possible": "{:.0%}",
    "logit difference": "{:.3f}",
    "largest difference": "{:.6f}",
    "GOP/s": "{:.0f}",
}


def for_reading(frame, columns: Sequence[str] | None = None):
    """A table of this package as text for a notebook, with few digits, and dashes for NaN.

    `95 %` is a column of the interval of the speed-up, `agreement 95 %` of that of the agreement.
    """
    import pandas as pd

    pd.set_option("display.max_colwidth", None)  # a reason is of use only if it is whole
    shown = {}
    for name in columns or frame.columns:
        if name.endswith("95 %"):
            low, high = (_written(frame, name.replace("95 %", end)) for end in ("from", "to"))
            shown[name] = [
                "–" if a == "–" else f"{a.removesuffix(' %')} to {b}"
                for a, b in zip(low, high, strict=True)
            ]
        else:
            shown[name] = _written(frame, name)
    return pd.DataFrame(shown, index=frame.index)


def _written(frame, name: str) -> list:
    """A column as text; what has no format stays as it is."""
    form = _FORMATS.get(name)
    if form is None:
        return ["–" if v is None or v != v else v for v in frame[name]]
    return [form.format(v).replace("%", " %") if np.isfinite(v) else "–" for v in frame[name]]
