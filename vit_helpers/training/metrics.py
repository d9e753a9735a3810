"""Judge a classifier: its answers on a set of pictures, and how sure the figures are."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from .. import models, runtime
from ..errors import CourseError, whole_number
from .precision import autocast, fastest_attention


@dataclass
class Evaluation:
    """What a model answered on a set of pictures.

    Attributes:
        labels: The true classes, (N,).
        logits: One row of scores a picture, (N, classes), float32 on the CPU.
    """

    labels: torch.Tensor
    logits: torch.Tensor

    @property
    def predictions(self) -> torch.Tensor:
        """The class with the highest score for each picture, (N,)."""
        return self.logits.argmax(1)

    @property
    def confidences(self) -> torch.Tensor:
        """The softmax probability of the predicted class, (N,)."""
        return self.logits.softmax(1).amax(1)

    @property
    def correct(self) -> int:
        """How many predictions are right."""
        return int((self.predictions == self.labels).sum())

    @property
    def accuracy(self) -> float:
        """Share of right predictions. Every picture counts once, also in a short last batch."""
        return self.correct / len(self.labels)

    @property
    def interval(self) -> tuple[float, float]:
        """The 95 % interval of the accuracy: see `wilson_interval`."""
        return wilson_interval(self.correct, len(self.labels))

    @property
    def loss(self) -> float:
        """Mean cross-entropy over all pictures."""
        return float(cross_entropy(self.logits, self.labels))


def evaluate(model: nn.Module, loader, desc: str = "evaluate") -> Evaluation:
    """Let a model answer on every picture of a loader, without learning.

    The loader yields `(pixel_values, labels)`, or dictionaries with these two names. Raises a
    `CourseError` if it is empty, or the model cannot take such pictures or labels.
    """
    if len(loader) == 0:
        raise CourseError("There are no pictures to evaluate on: the loader is empty.")
    model = unwrapped(model)
    device = next(model.parameters()).device
    model.eval()
    labels, logits = [], []
    # Not `inference_mode`: what some models keep from it could not be used in training.
    with torch.no_grad(), fastest_attention(model):
        for batch in runtime.bar(loader, desc):
            pixels, truth = unpack(batch)
            check_labels(truth, model)
            with autocast(device):
                answer = models.logits(model, pixels)
            labels.append(truth.cpu())
            logits.append(answer.float().cpu())
    return Evaluation(torch.cat(labels), torch.cat(logits))


def unpack(batch) -> tuple[torch.Tensor, torch.Tensor]:
    """`(pixel_values, labels)` of a batch, which is such a pair or a dictionary."""
    if not isinstance(batch, dict):
        pixels, labels = batch
        return pixels, labels
    name = "labels" if "labels" in batch else "label"
    if "pixel_values" not in batch or name not in batch:
        raise CourseError(
            f"A batch has the names {', '.join(map(str, batch))}, but 'pixel_values' and 'labels' "
            "are needed: let the transform of the data set return these two."
        )
    return batch["pixel_values"], batch[name]


def unwrapped(model: nn.Module) -> nn.Module:
    """The model itself, where `accelerate` has wrapped it for several processes."""
    wrapper = torch.nn.parallel.DistributedDataParallel
    return model.module if isinstance(model, wrapper) else model


def check_labels(labels: torch.Tensor, model: nn.Module) -> None:
    """Raise `CourseError` for a label that the head has no output for."""
    classes = model.config.num_labels
    if wrong := [int(label) for label in labels if not 0 <= label < classes]:
        raise CourseError(
            f"Label {wrong[0]} has no output: the head has {classes} classes, numbered 0 to "
            f"{classes - 1}. Load the model with the class names of this data set."
        )


def wilson_interval(correct: int, n: int) -> tuple[float, float]:
    """Where the true accuracy lies in 95 of 100 cases, given `correct` of `n` right answers.

    Wilson's score interval (1927) holds for small `n` and for shares near 0 or 1, too.
    """
    from scipy.stats import binomtest

    n = whole_number("n", n, 1, 10**9)
    low, high = binomtest(whole_number("correct", correct, 0, n), n).proportion_ci(method="wilson")
    return float(low), float(high)


def paired_difference(right_a, right_b) -> tuple[float, float, float, float]:
    """By how much one way beats another on the same pictures, and whether that is chance.

    Both arguments, (pictures,), say whether each answer is right. Only the pictures count on which
    the two differ, so this finds what two separate intervals do not.

    Returns:
        `(difference, low, high, p)`: share right of a minus share right of b; its 95 % interval,
        from 10,000 new draws of the pictures; and how often a difference at least as large comes
        up if the two ways are swapped at random on each picture.
    """
    from scipy.stats import bootstrap, permutation_test

    a, b = (np.asarray(right, dtype=float) for right in (right_a, right_b))
    if a.shape != b.shape:
        raise CourseError(f"Answers of the shapes {a.shape} and {b.shape} are of other pictures.")
    per_picture = a - b
    options = {"n_resamples": 10_000, "vectorized": True, "batch": 100, "random_state": 0}
    drawn = bootstrap((per_picture,), np.mean, method="percentile", **options)
    swapped = permutation_test((per_picture,), np.mean, permutation_type="samples", **options)
    low, high = drawn.confidence_interval
    return float(per_picture.mean()), float(low), float(high), float(swapped.pvalue)
