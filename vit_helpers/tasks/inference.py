"""Tasks of notebook 05: FLOPs, megabytes, fewer bits, a forecast, a variant for a phone."""

from functools import cached_property

import torch

from .. import efficiency
from .core import (
    EASY,
    HARD,
    MEDIUM,
    Task,
    Wrong,
    call,
    function,
    number,
    quote,
    random,
    register,
    shaped,
)


class CountFlops(Task):
    """An estimate of the floating-point operations of one picture."""

    title = "How much work is one picture?"
    difficulty = HARD
    question = """
        Estimate the floating-point operations of one picture before you time anything. A linear
        layer from n to m numbers takes n x m multiplications and as many additions, so
        2 x n x m operations, **for each token**. Count the matrix products of all blocks; the rest
        is small. Within 10 % counts.
        """
    make = "CountFlops(model, pixels)"
    stub = "answer = ...  # your answer: operations for one picture"
    solution_code = """
c = model.config
tokens = (c.image_size // c.patch_size) ** 2 + 1
linear = 4 * c.hidden_size**2 + 2 * c.hidden_size * c.intermediate_size  # q, k, v, o; the MLP
scores = 2 * tokens * c.hidden_size  # each token with all tokens: Q K^T, and the weights times V
answer = 2 * c.num_hidden_layers * tokens * (linear + scores)
"""
    hints = (
        "In each block a token goes through q, k, v and the output (width to width), and through "
        "the MLP: width to intermediate_size and back. All are in model.config.",
        "Attention itself: each token with each token, width numbers, once for Q K^T and once for "
        "the weights times V.",
        "2 x layers x tokens x (4 x width² + 2 x width x MLP + 2 x tokens x width).",
    )

    def __init__(self, model, pixels):
        super().__init__()
        self.model, self.pixels = model, pixels[:1]

    @cached_property
    def counted(self) -> int:
        """What torch counts while the model looks at one picture."""
        from torch.utils.flop_counter import FlopCounterMode

        with FlopCounterMode(display=False) as counter, torch.no_grad():
            self.model(pixel_values=self.pixels)
        return counter.get_total_flops()

    def _judge(self, answer):
        said, truth, config = number(answer), self.counted, self.model.config
        ratio = said / truth
        if abs(ratio - 1) <= 0.1:
            return (
                f"torch counts {truth / 1e9:.2f} billion. A variant in int8 does the same number."
            )
        tokens = (config.image_size // config.patch_size) ** 2 + 1
        near = {
            0.5: "Does an operation count for a multiplication and an addition together?",
            1 / config.num_hidden_layers: "Is that one block? How many are there?",
            1 / tokens: "Is that one token? How many are there?",
            0.5 / config.num_hidden_layers: "One block, and additions not counted?",
            1e-9: "Is that in billions? Write all of it.",
            2.0: "Multiplications and additions: is the 2 in it twice?",
        }
        for factor, words in near.items():
            if abs(ratio / factor - 1) <= 0.1:
                raise Wrong(f"{said:.4g} is not near. {words}")
        mlp = 4 * tokens * config.num_hidden_layers * config.hidden_size * config.intermediate_size
        if abs((said + mlp) / truth - 1) <= 0.1:
            raise Wrong(f"{said:.4g} is too little: attention alone. What else is in a block?")
        raise Wrong(f"{said:.4g} is too {'much' if said > truth else 'little'}.")


class MegabytesInBf16(Task):
    """The size of the weights in 16 bits."""

    title = "Half the bits"
    difficulty = EASY
    question = """
        Predict: how many megabytes (millions of bytes) do the weights of this model take in bf16?
        Within 2 % counts.
        """
    make = "MegabytesInBf16(model)"
    stub = "answer = ...  # your answer: megabytes"
    solution_code = """
answer = sum(p.numel() for p in model.parameters()) * 2 / 1e6  # 16 bits are 2 bytes
"""
    hints = (
        "How many bytes does one number take in bf16? A byte has 8 bits.",
        "Step 1 printed the megabytes in fp32, with 32 bits a number. Here it is half of that.",
    )

    def __init__(self, model):
        super().__init__()
        self.parameters = sum(p.numel() for p in model.parameters())

    def _judge(self, answer):
        said = number(answer)
        truth = 2 * self.parameters / 1e6
        near = {
            2.0: "That is fp32, with 4 bytes a number.",
            0.5: "That is int8, with 1 byte a number.",
            8.0: "Are those megabits? A byte has 8 bits.",
            1e6 / 2**20: "Those are MiB, of 2^20 bytes; a megabyte is 10^6.",
            1e6: "Are those bytes? A megabyte is a million of them.",
        }
        if abs(said / truth - 1) <= 0.02:
            return f"{truth:.1f} MB: less to store, and less to carry from memory to the cores."
        for factor, words in near.items():
            if abs(said / truth / factor - 1) <= 0.02:
                raise Wrong(f"{said:.4g} is not it. {words}")
        raise Wrong(f"{said:.4g} MB are too {'many' if said > truth else 'few'}.")


class Quantise(Task):
    """Round-trip quantisation with any number of bits and a scale for each row."""

    title = "Fewer bits still"
    difficulty = HARD
    question = """
        Write the round trip for any number of bits, with a scale for each row. With 8 bits the
        whole numbers run from -127 to 127; with 4 bits from -7 to 7. `quantise(weight, bits)` gets
        a matrix and returns the matrix that comes back: whole numbers times their scale.
        """
    make = "Quantise(weight)"
    stub = """
def quantise(weight, bits):
    return ...  # your code: the same shape as weight
"""
    solution_code = """
def quantise(weight, bits):
    largest = 2 ** (bits - 1) - 1  # 127 for 8 bits
    scale = weight.abs().amax(dim=1, keepdim=True) / largest
    return (weight / scale).round() * scale
"""
    hints = (
        "8 bits give 127 and 4 bits give 7. Which formula gives both?",
        "The scale of a row is its largest absolute value, divided by that number.",
        "Divide by the scale, round, multiply by the scale. keepdim=True keeps shape (rows, 1).",
    )

    def __init__(self, weight):
        super().__init__()
        self.weight = weight.detach().float().cpu()

    def _judge(self, answer):
        quantise = function(answer)
        for weight, bits in ((random(5, 12), 4), (random(6, 6, seed=1), 3), (self.weight, 8)):
            case = f"{bits} bits and a matrix of {weight.shape[0]} x {weight.shape[1]}"
            got = shaped(
                call(quantise, weight, bits, case=case), tuple(weight.shape), case, "as weight"
            )
            error = (got - weight).norm() / weight.norm()
            said = f"With {case} the relative error is {100 * error:.1f} %"
            if same_levels(got, round_trip(weight, bits)):
                continue
            mistakes = {
                f"{said}. Nothing was rounded.": weight,
                f"{said}: those are the whole numbers. What about their scale?": round_trip(
                    weight, bits, back=False
                ),
                f"{said}: one scale for the whole matrix.": round_trip(weight, bits, axis=None),
                f"{said}: you have a scale for each column.": round_trip(weight, bits, axis=0),
                f"{said}. Is {2 ** (bits - 1)} a whole number of {bits} bits with a sign?": (
                    round_trip(weight, bits, largest=2 ** (bits - 1))
                ),
                f"{said}. Is {2**bits - 1} the largest? The sign takes a bit.": round_trip(
                    weight, bits, largest=2**bits - 1
                ),
                f"{said}. Was it cut off, not rounded?": round_trip(weight, bits, cut=True),
                f"{said}: always 8 bits.": round_trip(weight, 8),
            }
            for words, outcome in mistakes.items():
                if same_levels(got, outcome):
                    raise Wrong(words)
            truth = (round_trip(weight, bits) - weight).norm() / weight.norm()
            raise Wrong(f"{said}, but with {bits} bits it should be {100 * truth:.1f} %.")
        return "Each bit less about doubles the error, so 4 bits need more care than 8."


def round_trip(weight, bits, axis=1, largest=None, back=True, cut=False):
    """Weights to whole numbers and back; the options are the typical mistakes."""
    largest = largest or 2 ** (bits - 1) - 1
    size = weight.abs().max() if axis is None else weight.abs().amax(dim=axis, keepdim=True)
    scale = size / largest
    whole = (weight / scale).trunc() if cut else (weight / scale).round()
    return whole * scale if back else whole


def same_levels(a: torch.Tensor, b: torch.Tensor) -> bool:
    """Whether two matrices are equal in 99.9 % of the places: a tie may round either way."""
    away = (a - b).abs() > 1e-4 * b.abs().max()
    return away.float().mean().item() <= 1e-3


class ShouldWin(Task):
    """A forecast from operations and rates, before anything is timed."""

    title = "Which variant should win?"
    difficulty = MEDIUM
    question = """
        Say before you time them which variant **should** be the fastest here. No variant can be
        faster than its operations divided by the machine's rate in its number format. Each of
        `attempts` knows its `name`, its `variant.arithmetic` (such as `"int8"`) and, if it runs
        here, its `engine.flops`. The rates are in `rates`. Answer with the name of the variant
        with the shortest possible time. If several share it, any of them counts.
        """
    make = "ShouldWin(attempts, rates)"
    stub = 'answer = ...  # your answer: a name, such as "bf16 weights"'
    solution_code = """
ready = [a for a in attempts if a.engine and a.variant.arithmetic in rates]
least = {a.name: a.engine.flops / rates[a.variant.arithmetic] for a in ready}
answer = min(least, key=least.get)
"""
    hints = (
        "Two things count: how many operations there are, and how many a second.",
        "The table of rates tells which number format is the fastest here. Which of the variants "
        "in this format has fewer operations than the others?",
        "For each variant that runs: engine.flops / rates[variant.arithmetic]. The smallest wins.",
    )

    def __init__(self, attempts, rates):
        super().__init__()
        self.names = {a.name for a in attempts}
        self.arithmetic = {a.name: a.variant.arithmetic for a in attempts}
        self.flops = {a.name: a.engine.flops for a in attempts if a.engine is not None}
        self.least = {
            name: flops / rates[self.arithmetic[name]]
            for name, flops in self.flops.items()
            if self.arithmetic[name] in rates
        }

    def _judge(self, answer):
        if not isinstance(answer, str):
            raise Wrong(f"Your answer is {quote(answer)}, but the name of a variant is wanted.")
        said, best = answer.strip(), min(self.least, key=self.least.__getitem__)
        if said not in self.names:
            raise Wrong(f"There is no variant {quote(said)}: copy a name from `attempts`.")
        if said not in self.least:
            raise Wrong(f"{said!r} does not run here, or its rate was not measured.")
        if self.least[said] <= 1.01 * self.least[best]:
            return (
                "Fewer operations, each in the fastest format. Now see whether it does win: the "
                "forecast leaves out everything that is no matrix product."
            )
        if self.arithmetic[said] != self.arithmetic[best]:
            raise Wrong(f"{said!r} computes in {self.arithmetic[said]}: a format here is faster.")
        raise Wrong(f"{said!r} has {self.flops[said] / 1e9:.2f} billion operations: one has fewer.")


class PickForPhone(Task):
    """A choice from the table under three conditions."""

    title = "Pick the variant for a phone"
    difficulty = EASY
    agreement = 0.9
    question = """
        The phone has **no PyTorch**, only ONNX Runtime: the name must begin with *ONNX Runtime*.
        The file may have **half the megabytes** of the baseline at most. At least **90 %** of the
        answers must stay the same. Which of those in `results` has the smallest `median ms`? Answer
        with its name. If none is left, answer `"none"`.
        """
    make = "PickForPhone(results)"
    stub = 'answer = ...  # your answer: a name, such as "bf16 weights"'
    solution_code = """
fits = results[results.index.str.startswith("ONNX Runtime") & (results["status"] == "ran")]
fits = fits[fits["MB"] <= results.loc[efficiency.BASELINE, "MB"] / 2]
fits = fits[fits["agreement"] >= 0.9]
answer = fits["median ms"].idxmin() if len(fits) else "none"
"""
    hints = (
        "Cross out the rows that break a condition, one condition after the other.",
        "Of the rows that are left, the smallest median ms wins.",
        'results.index.str.startswith("ONNX Runtime") marks the first condition; idxmin finds '
        "the name.",
    )

    def __init__(self, results):
        super().__init__()
        self.results = results[["status", "MB", "agreement", "median ms"]].copy()

    def _judge(self, answer):
        if not isinstance(answer, str):
            raise Wrong(f"Your answer is {quote(answer)}, but the name of a variant is wanted.")
        ran = self.results[self.results["status"] == "ran"]
        fits = [name for name in ran.index if not self._breaks(name)]
        best = ran.loc[fits, "median ms"].idxmin() if fits else "none"
        said = answer.strip()
        if said == best:
            return "It fits all three. On a real phone, measure again: its cores are others."
        if said == "none":
            raise Wrong(f"{said!r}? Of the variants here, {len(fits)} fulfil all three conditions.")
        if said not in self.results.index:
            raise Wrong(
                f"There is no variant {quote(said)}: copy a name from the table's first column."
            )
        if said not in ran.index:
            raise Wrong(f"{said!r} did not run here: {self.results.loc[said, 'status']}.")
        raise Wrong(f"{said!r} {self._breaks(said) or 'fits, but a faster one fits too'}.")

    def _breaks(self, name: str) -> str:
        """Which condition a variant breaks, in words; empty if none."""
        row, limit = self.results.loc[name], self.results.loc[efficiency.BASELINE, "MB"] / 2
        if not name.startswith("ONNX Runtime"):
            return "needs something that is not on the phone"
        if row["MB"] > limit:
            return f"takes {row['MB']:.1f} MB, and {limit:.1f} are allowed"
        if row["agreement"] < self.agreement:
            return f"agrees in {100 * row['agreement']:.1f} % of the answers only"
        return ""


TASKS = register(
    "05_efficient_inference", [CountFlops, MegabytesInBf16, Quantise, ShouldWin, PickForPhone]
)
