"""Tasks of notebook 05: fewer bits, the floor, four faults, a client's pictures."""

import re

import numpy as np
import torch
from PIL import Image

from .. import images
from .core import (
    EASY,
    HARD,
    MEDIUM,
    Task,
    Wrong,
    call,
    function,
    number,
    numbers,
    quote,
    random,
    register,
    shaped,
)


class Quantise(Task):
    """Round-trip quantisation with any number of bits and a scale for each row."""

    title = "Fewer bits still"
    difficulty = HARD
    minutes = 8
    question = """
        Write the round trip for any number of bits, with a scale for each row. With 8 bits the
        whole numbers run from -127 to 127; with 4 bits from -7 to 7. `quantise(weight, bits)` gets
        a matrix and returns the matrix that comes back: whole numbers times their scale. The next
        cell rounds all layers of the model with it.
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
    """Whether two matrices are equal in 99.9 % of its numbers: a tie may round either way."""
    away = (a - b).abs() > 1e-4 * b.abs().max()
    return away.float().mean().item() <= 1e-3


class Floor(Task):
    """The time below which no engine can be, from operations and rates."""

    title = "The floor of an engine"
    difficulty = MEDIUM
    minutes = 6
    question = """
        Write `floor(operations, rates)`. `operations` says how many operations of one picture an
        engine runs in which number format, such as `{"int8": 2e9, "fp32": 4e8}`; `rates` says how
        many operations a second the machine does in each format. One part runs after the other.
        Return **milliseconds**. The next cell takes your function for every engine.
        """
    make = "Floor()"
    stub = """
def floor(operations, rates):
    return ...  # your code: milliseconds
"""
    solution_code = """
def floor(operations, rates):
    return 1e3 * sum(count / rates[name] for name, count in operations.items())
"""
    hints = (
        "2e9 operations at 1e12 a second take 0.002 seconds. How many milliseconds is that?",
        "Each format has its own count and its own rate. The parts do not run at the same time.",
        "Go over operations.items(), add up count / rates[name], and multiply by 1,000.",
    )

    def _judge(self, answer):
        floor = function(answer)
        rates = {"fp32": 2e11, "int8": 8e11, "bf16": 4e11}
        for operations in ({"fp32": 2.5e9}, {"int8": 2e9, "fp32": 4e8}, {"bf16": 1e9}):
            case = f"operations {operations}"
            # Copies, because a function may change what it is given.
            given = call(floor, dict(operations), dict(rates), case=case)
            said = number(given, f"With {case} what your function returned")
            parts = {name: count / rates[name] for name, count in operations.items()}
            truth = 1e3 * sum(parts.values())
            if abs(said - truth) <= 1e-6 * truth:
                continue
            total = sum(operations.values())
            mistakes = {
                "Those are seconds; milliseconds are wanted.": truth / 1e3,
                "Do the parts run at the same time? One runs after the other.": (
                    1e3 * max(parts.values())
                ),
                "Is everything in the fastest format? Each part has its own rate.": (
                    1e3 * total / max(rates[name] for name in operations)
                ),
                "Is everything in the slowest format? Each part has its own rate.": (
                    1e3 * total / min(rates[name] for name in operations)
                ),
                "Is that rate over operations? It is the other way round.": (
                    1e3 * sum(1 / part for part in parts.values())
                ),
            }
            for words, outcome in mistakes.items():
                if abs(said - outcome) <= 1e-6 * abs(outcome):
                    raise Wrong(f"With {case} your floor is {said:.4g}. {words}")
            raise Wrong(f"With {case} your floor is {said:.4g} ms; it should be {truth:.4g}.")
        return (
            "No engine can beat its floor. How far above it an engine stays is what its library "
            "leaves undone."
        )


class NameTheFaults(Task):
    """Which of four faults each patient of the clinic has."""

    title = "Name the four faults"
    difficulty = EASY
    minutes = 6
    faults = ("conversions", "batch", "preprocessing", "calibration")
    truth = ("preprocessing", "conversions", "calibration", "batch")
    question = """
        Each patient has another fault. Which one? `conversions`: the graph spends its time turning
        numbers from fp32 to int8 and back. `batch`: the file was written for one picture at a time.
        `preprocessing`: the network gets other pixel values than in training. `calibration`: the
        scales were found with pictures unlike those that come. Answer with the four words, patient
        A first.
        """
    make = "NameTheFaults()"
    stub = 'answer = ...  # your answer, such as "batch conversions calibration preprocessing"'
    solution_code = 'answer = "preprocessing conversions calibration batch"'
    hints = (
        "Which patient fails with an error, not with a wrong answer? That one is the easiest.",
        "B answers well and is slow: look at what its graph consists of. A has the file whose "
        "logits you have checked, so the fault must lie before the network.",
        "C: a ratio below 1 says that the scale of a layer is too small for the numbers that "
        "come, so they are cut off. Where do scales come from?",
    )

    def _judge(self, answer):
        if isinstance(answer, (list, tuple)) and all(isinstance(a, str) for a in answer):
            answer = " ".join(answer)
        if not isinstance(answer, str):
            raise Wrong(f"Your answer is {quote(answer)}, but a text of four words is wanted.")
        said = re.findall(r"[a-z]+", answer.lower())
        if unknown := [word for word in said if word not in self.faults]:
            raise Wrong(f"{quote(unknown[0])} is none of the four: {', '.join(self.faults)}.")
        if len(said) != 4:
            raise Wrong(f"There are {len(said)} words in your answer, but four patients.")
        right = [a == b for a, b in zip(said, self.truth, strict=True)]
        if all(right):
            return "Each had good looks somewhere: only a measurement shows where it is ill."
        wrong = [patient for patient, fine in zip("ABCD", right, strict=True) if not fine]
        if len(set(said)) < 4:
            raise Wrong("Each patient has another fault: every word stands there once.")
        raise Wrong(f"{sum(right)} of 4 are right. Look again at {' and '.join(wrong)}.")


class PreparePicture(Task):
    """What the processor does, in NumPy and PIL: the cure of patient A."""

    title = "Cure patient A"
    difficulty = HARD
    minutes = 8
    question = """
        Write what a client without PyTorch must do: from an RGB picture of PIL to an array of
        float32, shape (3, height, width), with the same numbers as the processor's. `processor`
        knows `size`, `resample`, `rescale_factor`, `image_mean` and `image_std`. The next cell
        gives patient A your function.
        """
    make = "PreparePicture(processor)"
    stub = """
def prepare(picture, processor):
    return ...  # your code: an array (3, height, width)
"""
    solution_code = """
def prepare(picture, processor):
    size = (processor.size["width"], processor.size["height"])
    small = np.asarray(picture.resize(size, processor.resample), dtype=np.float32)
    scaled = small * processor.rescale_factor
    normal = (scaled - processor.image_mean) / processor.image_std
    return normal.astype(np.float32).transpose(2, 0, 1)
"""
    hints = (
        "Four steps, in this order: resize, scale to 0..1, subtract the mean, divide by the "
        "deviation. Then the axes.",
        "picture.resize((width, height), processor.resample) resizes; np.asarray gives "
        "(height, width, 3); .transpose(2, 0, 1) puts the channels first.",
        "(small * processor.rescale_factor - processor.image_mean) / processor.image_std",
    )

    def __init__(self, processor):
        super().__init__()
        self.processor = processor

    def _judge(self, answer):
        prepare = function(answer)
        for width, height in ((90, 60), (50, 300)):
            case = f"a picture of {width} x {height}"
            picture = _picture(width, height)
            truth = images.to_pixels(picture, self.processor)[0].cpu().double()
            got = call(prepare, picture.copy(), self.processor, case=case)
            self._shape(numbers(got, f"With {case} what your function returned"), truth, case)
            got = shaped(got, tuple(truth.shape), case, "(channels, height, width)")
            if _near(got, truth):
                continue
            scale, mean, std = self._constants()
            pixels = (truth * std + mean) / scale  # 0..255
            mistakes = {
                "Red and blue are exchanged.": truth.flip(0),
                "The values are 0 to 255: multiply by rescale_factor.": pixels,
                "Mean and deviation are missing.": pixels * scale,
                "The mean is missing.": pixels * scale / std,
                "The deviation is missing.": pixels * scale - mean,
                "Those are ImageNet's mean and deviation. Ask the processor for its own.": (
                    (pixels * scale - _column([0.485, 0.456, 0.406]))
                    / _column([0.229, 0.224, 0.225])
                ),
                "It was not multiplied by rescale_factor.": (pixels - mean) / std,
            }
            for words, outcome in mistakes.items():
                if _near(got, outcome, outcome.abs().max().item() / 2):
                    raise Wrong(f"With {case}: {words}")
            away = (got - truth).abs().mean().item()
            raise Wrong(f"With {case} your values are {away:.3g} away from the processor's.")
        return "Small differences stay: every library rounds a resized picture its own way."

    def _constants(self):
        processor = self.processor
        return (
            float(processor.rescale_factor),
            _column(processor.image_mean),
            _column(processor.image_std),
        )

    @staticmethod
    def _shape(array, truth, case: str) -> None:
        if array.shape == tuple(truth.permute(1, 2, 0).shape):
            raise Wrong(f"With {case} the channels come last. The model wants them first.")
        if array.shape == (1, *truth.shape):
            raise Wrong(f"With {case} there is a batch of one around it: return one picture.")


def _picture(width: int, height: int) -> Image.Image:
    """A picture with smooth colours, so that ways to resize differ little."""
    across, down = np.meshgrid(np.linspace(0, 1, width), np.linspace(0, 1, height))
    channels = (0.9 * across, 0.2 + 0.5 * down, 0.8 - 0.6 * across * down)
    return Image.fromarray((255 * np.stack(channels, -1)).round().astype(np.uint8))


def _column(values) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)[:, None, None]


def _near(a: torch.Tensor, b: torch.Tensor, size: float = 1.0) -> bool:
    """Whether two pictures differ by no more than two ways to resize do."""
    return bool((a - b).abs().mean() <= 0.02 * size)


TASKS = register("05_efficient_inference", [Quantise, Floor, NameTheFaults, PreparePicture])
