"""Tasks of notebook 05: fewer bits, the floor, four faults, a client's pictures."""

import re

import numpy as np
import torch
from PIL import Image

from .. import images
from .answers import Wrong, call, compare, function, number, numbers, quote, random, shaped
from .core import Task


class Quantise(Task):
    """Round-trip quantisation with any number of bits and a scale for each row."""

    def __init__(self, weight):
        super().__init__()
        self.weight = weight.detach().float().cpu()

    def _judge(self, answer):
        quantise = function(answer)
        for weight, bits in ((random(5, 12), 4), (random(6, 6, seed=1), 3), (self.weight, 8)):
            case = f"With {bits} bits and a matrix of {weight.shape[0]} x {weight.shape[1]}"
            got = shaped(call(quantise, weight, bits, case=case), weight.shape, case, "as weight")
            truth, half, full = round_trip(weight, bits), 2 ** (bits - 1), 2**bits - 1
            mistakes = {
                ". Nothing was rounded.": weight,
                ": those are the whole numbers. What about their scale?": (
                    round_trip(weight, bits, back=False)
                ),
                ": one scale for the whole matrix.": round_trip(weight, bits, axis=(0, 1)),
                ": you have a scale for each column.": round_trip(weight, bits, axis=0),
                f". Is {half} a whole number of {bits} bits with a sign?": (
                    round_trip(weight, bits, largest=half)
                ),
                f". Is {full} the largest? The sign takes a bit.": (
                    round_trip(weight, bits, largest=full)
                ),
                ". Was it cut off, not rounded?": round_trip(weight, bits, cut=True),
                ": always 8 bits.": round_trip(weight, 8),
            }
            error, least = (100 * (w - weight).norm() / weight.norm() for w in (got, truth))
            said = f"{case} the relative error is {error:.1f} %"
            otherwise = f", but with {bits} bits it should be {least:.1f} %."
            compare(got, truth, said, mistakes, otherwise, near=same_levels)
        return "Each bit less about doubles the error, so 4 bits need more care than 8."


def round_trip(weight, bits, axis=1, largest=None, back=True, cut=False):
    """Weights to whole numbers and back; the options are the typical mistakes."""
    scale = weight.abs().amax(dim=axis, keepdim=True) / (largest or 2 ** (bits - 1) - 1)
    whole = (weight / scale).trunc() if cut else (weight / scale).round()
    return whole * scale if back else whole


def same_levels(a: torch.Tensor, b: torch.Tensor) -> bool:
    """Whether two matrices are equal in 99.9 % of their numbers: a tie may round either way."""
    away = (a - b).abs() > 1e-4 * b.abs().max()
    return away.float().mean().item() <= 1e-3


class Floor(Task):
    """The time that the products alone need, from operations and rates."""

    def _judge(self, answer):
        floor = function(answer)
        rates = {"fp32": 2e11, "int8": 8e11, "bf16": 4e11}
        for operations in ({"fp32": 2.5e9}, {"int8": 2e9, "fp32": 4e8}, {"bf16": 1e9}):
            case = f"With operations {operations}"
            # Copies, because a function may change what it is given.
            given = call(floor, dict(operations), dict(rates), case=case)
            got = number(given, f"{case} what your function returned")
            parts = [count / rates[name] for name, count in operations.items()]
            truth, total = 1e3 * sum(parts), 1e3 * sum(operations.values())
            used = [rates[name] for name in operations]
            mistakes = {
                "Those are seconds; milliseconds are wanted.": sum(parts),
                "Do the parts run at the same time? One runs after the other.": 1e3 * max(parts),
                "Is everything in the fastest format? Each part has its own rate.": (
                    total / max(used)
                ),
                "Is everything in the slowest format? Each part has its own rate.": (
                    total / min(used)
                ),
                "Is that rate over operations? It is the other way round.": (
                    1e3 * sum(1 / part for part in parts)
                ),
            }
            mistakes = {f". {words}": outcome for words, outcome in mistakes.items()}
            otherwise = f" ms; it should be {truth:.4g}."
            said = f"{case} your floor is {got:.4g}"
            compare(got, truth, said, mistakes, otherwise, near=nearly_equal)
        return (
            "The floor counts the products only. The time above it goes into everything else: "
            "memory, softmax, conversions."
        )


def nearly_equal(a: torch.Tensor, b: torch.Tensor) -> bool:
    """Whether two numbers are equal but for rounding."""
    return bool((a - b).abs() <= 1e-6 * b.abs())


class NameTheFaults(Task):
    """Which of four faults each patient of the clinic has."""

    faults = ("conversions", "batch", "preprocessing", "calibration")
    truth = ("preprocessing", "conversions", "calibration", "batch")

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
            return "Each looks well at first: only a measurement shows the fault."
        wrong = [patient for patient, fine in zip("ABCD", right, strict=True) if not fine]
        if len(set(said)) < 4:
            raise Wrong("Each patient has a different fault: every word stands there once.")
        raise Wrong(f"{sum(right)} of 4 are right. Look again at {' and '.join(wrong)}.")


class PreparePicture(Task):
    """What the processor does, in NumPy and PIL: the cure of patient A."""

    def __init__(self, processor):
        super().__init__()
        self.processor = processor

    def _judge(self, answer):
        prepare = function(answer)
        scale = float(self.processor.rescale_factor)
        mean, std = _column(self.processor.image_mean), _column(self.processor.image_std)
        for width, height in ((90, 60), (50, 300)):
            case, picture = f"With a picture of {width} x {height}", _picture(width, height)
            truth = images.to_pixels(picture, self.processor)[0].cpu().double()
            result = call(prepare, picture.copy(), self.processor, case=case)
            shape = numbers(result, f"{case} what your function returned").shape
            if shape == (*truth.shape[1:], 3):
                raise Wrong(f"{case} the channels come last. The model wants them first.")
            if shape == (1, *truth.shape):
                raise Wrong(f"{case} there is a batch of one around it: return one picture.")
            got = shaped(result, truth.shape, case, "(channels, height, width)")
            pixels = (truth * std + mean) / scale  # 0..255
            imagenet = (_column([0.485, 0.456, 0.406]), _column([0.229, 0.224, 0.225]))
            mistakes = {
                ": Red and blue are exchanged.": truth.flip(0),
                ": The values are 0 to 255: multiply by rescale_factor.": pixels,
                ": Mean and deviation are missing.": pixels * scale,
                ": The mean is missing.": pixels * scale / std,
                ": The deviation is missing.": pixels * scale - mean,
                ": Those are ImageNet's mean and deviation. Ask the processor for its own.": (
                    (pixels * scale - imagenet[0]) / imagenet[1]
                ),
                ": It was not multiplied by rescale_factor.": (pixels - mean) / std,
            }
            away = (got - truth).abs().mean().item()
            otherwise = f" your values are {away:.3g} away from the processor's."
            compare(got, truth, case, mistakes, otherwise, near=_near)
        return "Small differences stay: every library rounds a resized picture its own way."


def _picture(width: int, height: int) -> Image.Image:
    """A picture with smooth colours, so that ways to resize differ little."""
    across, down = np.meshgrid(np.linspace(0, 1, width), np.linspace(0, 1, height))
    channels = (0.9 * across, 0.2 + 0.5 * down, 0.8 - 0.6 * across * down)
    return Image.fromarray((255 * np.stack(channels, -1)).round().astype(np.uint8))


def _column(values) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)[:, None, None]


def _near(a: torch.Tensor, b: torch.Tensor) -> bool:
    """Whether two pictures differ by no more than two ways to resize do."""
    return bool((a - b).abs().mean() <= 0.02 * max(1.0, b.abs().max() / 2))
