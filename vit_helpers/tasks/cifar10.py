"""Tasks of notebook 02: a step in parts, the number of steps, intervals, confident mistakes."""

import functools

import numpy as np
import torch

from .. import training
from .answers import Wrong, call, compare, function, number, numbers, quote, random, whole_number
from .core import Task


class StepInParts(Task):
    """Gradient accumulation: one step from a batch that does not fit into memory."""

    def _judge(self, answer):
        step = function(answer)
        before = weights_of(tiny_vit())
        for parts in (2, 4):
            case = f"With 8 pictures in {parts} parts"
            got, loss = two_steps(step, parts, case)
            truth, true_loss = two_steps(step_with_mistake(), 1)
            if (got - before).abs().max() <= 1e-7:
                raise Wrong(f"{case} the weights are the same as before: they did not move.")
            if not got.isfinite().all():
                raise Wrong(f"{case} some weights are no longer finite numbers.")
            after = functools.partial(weights_after, parts)
            mistakes = {
                f", too far: the gradients of the parts add up to that of {parts} batches.": (
                    functools.partial(after, divide=False)
                ),
                ": not once, but once for each part.": functools.partial(after, step_often=True),
                ": only the last part counted. What does zero_grad() do in the loop?": (
                    functools.partial(after, clear_often=True)
                ),
                ": the second step still had the gradients of the first.": (
                    functools.partial(after, clear=False)
                ),
            }
            said = f"{case} the weights moved by {(got - before).norm():.3f}"
            otherwise = ", but not to where the whole batch would have moved them."
            compare(got, truth, said, mistakes, otherwise)
            said = number(loss, f"{case} the loss that your function returned")
            if abs(said - true_loss) > 1e-4:
                raise Wrong(
                    f"{case} the weights are right. But your function returned a loss of "
                    f"{said:.4f}, and the loss of the whole batch is {true_loss:.4f}."
                )
        return "Gradients add up, so the parts move the weights exactly as the whole batch does."


def tiny_vit():
    """A ViT small enough to be trained within a check: 8 wide, pictures of 16 x 16 pixels."""
    from transformers import ViTConfig, ViTForImageClassification

    depth = {"num_hidden_layers": 5, "num_attention_heads": 2, "num_labels": 3}
    sizes = {"hidden_size": 8, "intermediate_size": 16, "image_size": 16, "patch_size": 8}
    config = ViTConfig(**depth, **sizes, initializer_range=0.3)
    with torch.random.fork_rng(devices=[]):  # the notebook's own random numbers stay as they are
        torch.manual_seed(0)
        return ViTForImageClassification(config).eval()


def weights_of(model) -> torch.Tensor:
    """All weights of a model as one vector."""
    return torch.nn.utils.parameters_to_vector(model.parameters()).detach()


def two_steps(step, parts: int, case: str = ""):
    """Two steps from the same weights: the weights after them, and the loss of the first."""
    model = tiny_vit()
    # Not AdamW: it divides by the size of the gradient, which would hide a factor.
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    losses = []
    for seed in range(2):
        pixels, labels = random(8, 3, 16, 16, seed=seed), torch.arange(8) % 3
        losses.append(call(step, model, optimizer, pixels, labels, parts, case=case))
    return weights_of(model), losses[0]


def weights_after(parts: int, **mistake) -> torch.Tensor:
    """The weights after two steps with a typical mistake."""
    return two_steps(step_with_mistake(**mistake), parts)[0]


def step_with_mistake(divide=True, step_often=False, clear_often=False, clear=True):
    """A step in parts; the options are the typical mistakes. One part is the whole batch."""

    def step(model, optimizer, pixels, labels, parts):
        if clear:
            optimizer.zero_grad()
        for some, classes in zip(pixels.chunk(parts), labels.chunk(parts), strict=True):
            if clear_often or step_often:
                optimizer.zero_grad()
            loss = torch.nn.functional.cross_entropy(model(pixel_values=some).logits, classes)
            (loss / parts if divide else loss).backward()
            if step_often:
                optimizer.step()
        if not step_often:
            optimizer.step()
        return loss.item()

    return step


class CountSteps(Task):
    """How many steps a training has: the schedule of the notebook is made with it."""

    def __init__(self, pictures, batch, epochs):
        super().__init__()
        self.pictures, self.batch, self.epochs = int(pictures), int(batch), int(epochs)

    def _judge(self, answer):
        said, pictures, epochs = whole_number(answer), self.pictures, self.epochs
        full, rest = divmod(pictures, self.batch)
        in_one = full + bool(rest)
        mistakes = {
            " steps are one epoch.": in_one,
            f" steps leave {rest} pictures out in every epoch.": epochs * full,
            " counts pictures. The weights move once for a whole batch.": (
                epochs * pictures,
                pictures,
            ),
        }
        way = "many" if said > epochs * in_one else "few"
        otherwise = (
            f" steps are too {way} for {epochs} epochs of {pictures} pictures in batches of "
            f"{self.batch}."
        )
        if abs(said - epochs * pictures / self.batch) < 1:
            otherwise = " is near. But no batch goes across the end of an epoch."
        compare(said, epochs * in_one, str(said), mistakes, otherwise)
        return f"{in_one} batches in each of {epochs} epochs, one step for each."


class PicturesForInterval(Task):
    """How many test pictures a narrow interval takes."""

    def _judge(self, answer):
        said, accuracy = number(answer), 0.9
        n, pictures = round(said), f"{said:g} pictures"
        if said < 1:
            raise Wrong(f"{pictures} are less than one. Is the interval in points or shares?")
        if said > 1e9:
            raise Wrong(f"{pictures}: more than anyone has. Are 90 and 1 shares, 0.9 and 0.01?")
        low, high = training.wilson_interval(round(accuracy * n), n)
        half = 100 * (high - low) / 2
        seen = f"With {n} pictures the interval is {100 * low:.1f} to {100 * high:.1f} %"
        right = 1.96**2 * accuracy * (1 - accuracy) / 0.01**2
        if abs(said / right - 1) <= 0.05:
            return f"{seen}. That is why small test sets cannot tell good models apart."
        if abs(said / right - 4) <= 0.2:
            raise Wrong(f"{seen}: ± {half:.1f}. ± counts on each side, not the whole width.")
        if abs(said / right - 1 / 1.96**2) <= 0.005:
            raise Wrong(f"{seen}: ± {half:.1f}. That would be the 68 % interval; 95 % is wider.")
        way = "wide" if half > 1 else "narrow"
        raise Wrong(f"{seen}: ± {half:.2f} points, too {way}. ± 1 is wanted, within 5 % of n.")


class ConfidentMistakes(Task):
    """Which wrong answers were the most certain: the notebook shows them."""

    def _judge(self, answer):
        find = function(answer)
        for pictures, count in ((40, 5), (40, 40), (12, 3)):
            logits = 3 * random(pictures, 6, seed=pictures + count)
            logits += torch.arange(pictures)[:, None] % 7  # the softmax does not see this
            confidence, answers = logits.softmax(1).max(1)
            labels = torch.where(torch.arange(pictures) % 3 == 0, (answers + 1) % 6, answers)
            wrong = (answers != labels).nonzero().squeeze(1)
            case = f"With {pictures} pictures, {len(wrong)} of them wrong, and count = {count}"
            found = call(find, logits, labels, count, case=case)
            order = confidence[wrong].argsort(descending=True)
            by_logit = logits.amax(1)[wrong].argsort(descending=True)
            mistakes = {
                "your numbers count within the wrong pictures only.": order,
                "the least confident mistake comes first.": wrong[confidence[wrong].argsort()],
                "you sorted by the logit. Its softmax is the confidence.": wrong[by_logit],
                "right answers are among them.": confidence.argsort(descending=True),
            }
            said = indices(found, case, count)
            truth = wrong[order][:count].tolist()
            if said == truth:
                continue
            for words, outcome in mistakes.items():
                if said == outcome[:count].tolist():
                    raise Wrong(f"{case} {words}")
            if right := [index for index in said if index not in wrong.tolist()]:
                raise Wrong(f"{case} picture {right[0]} is not among the wrong answers.")
            if len(said) < len(truth):
                raise Wrong(f"{case} you returned {len(said)} indices; there are {len(truth)}.")
            if sorted(said) == sorted(truth):
                raise Wrong(f"{case} these are the right pictures in another order.")
            raise Wrong(f"{case} you returned {said[:5]}, but the first are {truth[:5]}.")
        return "What a model is surest of and wrong about is the best place to look for its faults."


def indices(found, case: str, count: int) -> list[int]:
    """What the learner's function returned, as a list of at most `count` indices."""
    values = numbers(found, f"{case} what your function returned")
    if values.ndim != 1:
        raise Wrong(f"{case} the shape is {values.shape}: a list of indices is wanted.")
    if not all(value == int(value) for value in values if np.isfinite(value)):
        raise Wrong(f"{case} you returned {quote(values)}: indices are whole numbers.")
    if len(values) > count:
        raise Wrong(f"{case} you returned {len(values)} indices, more than `count`.")
    return [int(value) if np.isfinite(value) else -1 for value in values]
