"""Results that cannot repeat to the digit lie in ranges: read from executed notebooks.

The saved notebooks are read, or those in the folder `VIT_RESULTS`, such as the solved edition.
A range is for the offline kit in the profile quick; it says what a reader may rely on, and not
what one machine got.
"""

import json
import os
import re
from functools import lru_cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FOLDER = Path(os.environ.get("VIT_RESULTS", ROOT / "notebooks"))

# Notebook, cell, pattern with the number in brackets, smallest and largest value.
RANGES = [
    ("01_classify", "same-code", r"largest difference: ([\d.]+)", 0, 1e-3),
    ("01_classify", "heldout", r"([\d.]+) % of the answers are right", 60, 100),
    ("02_finetune_cifar10", "test", r"right in ([\d.]+) % of", 55, 100),
    ("02_finetune_cifar10", "save", r"between the logits: ([\d.]+)", 0, 1e-4),
    ("03_attention", "rows-code", r"sums from ([\d.]+)", 0.999, 1.001),
    ("03_attention", "rows-code", r"sums from \S+ to ([\d.]+)", 0.999, 1.001),
    ("03_attention", "sinks-code", r"(\d+) of 144 heads", 6, 30),
    ("03_attention", "sinks-code", r"(\d+) of them in the first layer", 6, 12),
    ("03_attention", "norms-code", r"\[CLS\] at most (\d+) % \(layer 0\)", 60, 100),
    ("03_attention", "measure-plot", r"relevance \+([\d.]+) ± [\d.]+ over random", 0.2, 1),
    ("04_transfer_flowers102", "proof", r"frozen tensors that moved: (\d+) of", 0, 0),
    # Blind guessing gets 1 % of 102 classes, and 5 % with five answers.
    ("04_transfer_flowers102", "test", r"top-1: ([\d.]+) %", 40, 70),
    ("04_transfer_flowers102", "test", r"interval: ([\d.]+) to", 33, 70),
    ("04_transfer_flowers102", "top5", r"top-5: ([\d.]+) %", 68, 95),
    ("04_transfer_flowers102", "probe", r"linear probe: ([\d.]+) %", 30, 75),
    ("04_transfer_flowers102", "compare", r"from scratch ([\d.]+) %", 0, 25),
    ("04_transfer_flowers102", "merge", r"away from W: ([\d.]+)", 5e-4, 0.2),
    ("04_transfer_flowers102", "merge", r"ours against peft's: ([\d.]+)", 0, 1e-5),
    ("04_transfer_flowers102", "merge", r"are right and wrong: (\d+) of 250", 248, 250),
    ("04_transfer_flowers102", "tuned", r"fine-tuned in step 4: ([\d.]+) %", 42, 70),
    ("04_transfer_flowers102", "mine", r"(\d+) of 20 right", 14, 20),
    ("05_efficient_inference", "compare", r"PyTorch SDPA .*? ([\d.]+) % ", 99, 100),
    ("05_efficient_inference", "compare", r"ONNX Runtime fp32 .*? ([\d.]+) % ", 99, 100),
    ("05_efficient_inference", "compare", r"ONNX Runtime int8 dynamic .*? ([\d.]+) % ", 85, 100),
    ("05_efficient_inference", "session", r"\n7 +([\d.]+)", 0, 1e-3),
    ("05_efficient_inference", "cure", r"the processor's steps: (\d+) %", 99, 100),
]
# Notebook, cell, and two patterns: the first number is larger than the second.
LARGER = [
    (
        "02_finetune_cifar10",
        "compare",
        r"pre-trained, first epoch ([\d.]+)",
        r"from scratch, same steps ([\d.]+)",
    ),
    ("02_finetune_cifar10", "groups", r"random cut ([\d.]+)", r"test ([\d.]+)"),
    ("02_finetune_cifar10", "train", r"training from ([\d.]+)", r"training from \S+ to ([\d.]+)"),
    # Deletion: the answer falls sooner than with patches hidden at random.
    ("03_attention", "measure-plot", r"\nrandom +([\d.]+)", r"\nlast layer +([\d.]+)"),
    ("03_attention", "measure-plot", r"\nrandom +([\d.]+)", r"\nrelevance +([\d.]+)"),
    ("04_transfer_flowers102", "count", r", 10: ([\d.]+) %", r"class: 1: ([\d.]+) %"),
    ("04_transfer_flowers102", "rates", r"\n0\.0100 +([\d.]+)", r"\n0\.0001 +([\d.]+)"),
    ("04_transfer_flowers102", "compare", r"probe \(([\d.]+) %", r"from scratch ([\d.]+) %"),
    (
        "05_efficient_inference",
        "int8-by-hand",
        r"one scale: relative error ([\d.]+)",
        r"each row: relative error ([\d.]+)",
    ),
]


@lru_cache
def outputs(stem: str) -> dict[str, str]:
    """What each code cell of an executed notebook shows, as text, by its id."""
    notebook = json.loads((FOLDER / f"{stem}.ipynb").read_text(encoding="utf-8"))
    shown = {}
    for cell in notebook["cells"]:
        if cell["cell_type"] == "code":
            parts = [o.get("text") or o["data"].get("text/plain", "") for o in cell["outputs"]]
            shown[cell["id"]] = "\n".join("".join(part) for part in parts)
    return shown


def result(stem: str, cell: str, pattern: str) -> float:
    """The number that a cell shows."""
    shown = outputs(stem)
    assert any(shown.values()), f"{stem} has no outputs: python -m course refresh {stem[:2]}"
    found = re.search(pattern, shown[cell])
    assert found, f"no {pattern!r} in what {cell} shows: {shown[cell]!r}"
    return float(found[1])


@pytest.mark.parametrize(("stem", "cell", "pattern", "low", "high"), RANGES)
def test_a_result_lies_in_its_range(stem, cell, pattern, low, high):
    assert low <= result(stem, cell, pattern) <= high


@pytest.mark.parametrize(("stem", "cell", "larger", "smaller"), LARGER)
def test_what_is_said_to_be_better_is_better(stem, cell, larger, smaller):
    assert result(stem, cell, larger) > result(stem, cell, smaller)
