"""Honest timing: warm-up, waiting for the device, turns, medians and an interval."""

import time
from collections.abc import Callable, Sequence

import numpy as np

from .. import runtime
from ..errors import one_of, whole_number


def race(calls: dict[str, Callable], inputs: Sequence, rounds: int):
    """Time functions of one input, given by name, on the same inputs, in turns.

    The inputs are dealt out over the rounds. In each round every function has its turn, in a new
    random order: one call to warm up, then one timed call for each input of the round. So a slow
    second of the machine hits all of them.

    Returns:
        `(seconds, answers)`: by name, one number and one answer for each input, in order.
    """
    rounds = whole_number("rounds", rounds, 1, len(inputs))  # at least one input each
    seconds = {name: [] for name in calls}
    answers = {name: [] for name in calls}
    order = np.random.default_rng(0)
    for turn in runtime.bar(np.array_split(np.arange(len(inputs)), rounds), "race", total=rounds):
        for name in order.permutation(list(calls)).tolist():
            calls[name](inputs[int(turn[0])])
            for i in turn:
                start = time.perf_counter()
                answer = calls[name](inputs[int(i)])
                seconds[name].append(time.perf_counter() - start)
                answers[name].append(answer.detach() if hasattr(answer, "detach") else answer)
                del answer  # with it goes the graph that a call under `enable_grad` made
    return seconds, answers


def timing_table(
    seconds: dict[str, list[float]], baseline: str, rounds: int, pictures_per_call: int = 1
):
    """Median, spread, rate and speed-up of the timings of `race`, by name.

    The median of `baseline` is divided by each median; `rounds` is the number given to `race`.

    Returns:
        A `DataFrame` by name: `median ms`, `p5 ms`, `p95 ms`, `images/s`, `speed-up`, `from` and
        `to` (see `speedup_interval`), and `verdict`: `baseline`, `faster`, `slower`, or
        `cannot tell` where the interval covers 1.
    """
    import pandas as pd

    one_of("baseline", baseline, tuple(seconds))
    rows = {}
    for name, times in seconds.items():
        p5, median, p95 = np.percentile(times, [5, 50, 95])
        low, high = speedup_interval(seconds[baseline], times, rounds)
        verdict = "faster" if low > 1 else "slower" if high < 1 else "cannot tell"
        rows[name] = {
            "median ms": 1e3 * median,
            "p5 ms": 1e3 * p5,
            "p95 ms": 1e3 * p95,
            "images/s": pictures_per_call / median,
            "speed-up": np.median(seconds[baseline]) / median,
            "from": low,
            "to": high,
            "verdict": "baseline" if name == baseline else verdict,
        }
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("variant")


def speedup_interval(
    baseline: Sequence[float], times: Sequence[float], rounds: int
) -> tuple[float, float]:
    """Between which values `(low, high)` the true speed-up lies, with 95 % confidence.

    A bootstrap (Efron 1979): rounds of `race` are drawn with replacement, the same ones for both,
    because timings of one moment are alike. One round gives no interval: 0 to infinity.
    """
    from scipy.stats import bootstrap

    if rounds == 1:
        return 0.0, float("inf")
    before, after = _by_round(baseline, rounds), _by_round(times, rounds)

    def speedup(drawn):
        return np.nanmedian(before[drawn]) / np.nanmedian(after[drawn])

    options = {"n_resamples": 1000, "method": "percentile", "random_state": 0}
    found = bootstrap((np.arange(rounds),), speedup, vectorized=False, **options)
    low, high = found.confidence_interval
    return float(low), float(high)


def _by_round(series: Sequence[float], rounds: int) -> np.ndarray:
    """Timings (rounds, most in a round); a shorter round ends in NaN."""
    parts = np.array_split(np.asarray(series, dtype=float), rounds)
    return np.array([np.pad(p, (0, len(parts[0]) - len(p)), constant_values=np.nan) for p in parts])
