"""Tasks of notebook 02: a step in parts, the number of steps, intervals, confident mistakes."""

import numpy as np
import torch

from .. import training
from .core import (
    EASY,
    HARD,
    MEDIUM,
    Task,
    Wrong,
    call,
    close,
    function,
    number,
    numbers,
    quote,
    random,
    recognise,
    register,
    tiny_vit,
    whole_number,
)


class StepInParts(Task):
    """Gradient accumulation: one step from a batch that does not fit into memory."""

    title = "A training step in parts"
    difficulty = HARD
    minutes = 12
    question = """
        A batch of 64 pictures does not fit into your GPU? Then cut it into parts. Write a training
        step that runs the model on one part after the other and moves the weights **once**, just
        as the whole batch would have moved them. It returns the loss of the whole batch. The
        number of pictures can be divided by `parts`.
        """
    make = "StepInParts()"
    stub = """
def step_in_parts(model, optimizer, pixels, labels, parts):
    return ...  # your code: the loss of the whole batch
"""
    solution_code = """
def step_in_parts(model, optimizer, pixels, labels, parts):
    total = 0.0
    optimizer.zero_grad()
    for some, classes in zip(pixels.chunk(parts), labels.chunk(parts), strict=True):
        logits = model(pixel_values=some).logits
        loss = torch.nn.functional.cross_entropy(logits, classes) / parts
        loss.backward()  # adds to the gradients of the parts before
        total += loss.item()
    optimizer.step()
    return total
"""
    hints = (
        "backward() adds to the gradients that are there already. So which of the five lines "
        "stand in the loop over the parts, and which outside?",
        "Clear once before the loop, and move once after it. pixels.chunk(parts) cuts the batch.",
        "The loss is a mean. The sum of the means of 4 parts is 4 times the mean of the whole.",
    )

    def _judge(self, answer):
        step = function(answer)
        for parts in (2, 4):
            case = f"8 pictures in {parts} parts"
            got, losses = self._train(step, parts, case)
            truth, true_losses = self._train(step_at_once, parts)
            if not close(got, truth, 1e-5):
                self._explain(got, parts, case)
            said = number(losses[0], f"With {case} the loss that your function returned")
            if abs(said - true_losses[0]) > 1e-4:
                raise Wrong(
                    f"With {case} the weights are right. But your function returned a loss of "
                    f"{said:.4f}, and the loss of the whole batch is {true_losses[0]:.4f}."
                )
        return "Gradients add up, so the parts move the weights exactly as the whole batch does."

    def _train(self, step, parts: int, case: str = ""):
        """Two steps from the same weights: the weights after it as one vector, and the losses."""
        model = tiny_vit()
        # Not AdamW: it divides by the size of the gradient, which would hide a factor.
        optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
        losses = []
        for seed in range(2):
            pixels, labels = random(8, 3, 16, 16, seed=seed), torch.arange(8) % 3
            args = (model, optimizer, pixels, labels, parts)
            losses.append(call(step, *args, case=case))
        weights = torch.nn.utils.parameters_to_vector(model.parameters()).detach()
        return weights, losses

    def _explain(self, got, parts, case):
        before = torch.nn.utils.parameters_to_vector(tiny_vit().parameters()).detach()
        if close(got, before, 1e-7):
            raise Wrong(f"With {case} the weights are the same as before: they did not move.")
        if not got.isfinite().all():
            raise Wrong(f"With {case} some weights are no longer finite numbers.")
        moved = f"With {case} the weights moved by {(got - before).norm():.3f}"
        options = {
            f"{moved}, too far: the gradients of the parts add up to that of {parts} batches.": {
                "divide": False
            },
            f"{moved}: not once, but once for each part.": {"step_often": True},
            f"{moved}: only the last part counted. What does zero_grad() do in the loop?": {
                "clear_often": True
            },
            f"{moved}: the second step still had the gradients of the first.": {"clear": False},
        }
        mistakes = {
            words: self._train(step_with_mistake(**option), parts)[0]
            for words, option in options.items()
        }
        recognise(got, mistakes, 1e-5)
        raise Wrong(f"{moved}, but not to where the whole batch would have moved them.")


def step_at_once(model, optimizer, pixels, labels, parts):
    """What the parts must equal: the five lines of the notebook, on the whole batch."""
    loss = torch.nn.functional.cross_entropy(model(pixel_values=pixels).logits, labels)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    return loss.item()


def step_with_mistake(divide=True, step_often=False, clear_often=False, clear=True):
    """A step in parts with one typical mistake; the check recognises it by its weights."""

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

    title = "How many steps?"
    difficulty = EASY
    minutes = 3
    question = """
        The schedule of the learning rate must know before the training how many steps there will
        be. Compute it for `EPOCHS` epochs over `train_part` in batches of `BATCH`. The last batch
        of an epoch may be smaller; it counts. The notebook goes on with your number.
        """
    make = "CountSteps(len(train_part), BATCH, EPOCHS)"
    stub = "answer = ...  # your answer: a whole number"
    solution_code = """
import math

answer = EPOCHS * math.ceil(len(train_part) / BATCH)  # each epoch has a last, smaller batch
"""
    hints = (
        "One step for each batch. How many batches has one epoch?",
        "len(train_part) / BATCH need not be a whole number. What happens to the rest, each epoch?",
        "math.ceil rounds up. Round before you multiply by the epochs.",
    )

    def __init__(self, pictures, batch, epochs):
        super().__init__()
        self.pictures, self.batch, self.epochs = int(pictures), int(batch), int(epochs)

    def _judge(self, answer):
        said = whole_number(answer)
        full, rest = divmod(self.pictures, self.batch)
        in_one = full + bool(rest)
        if said == self.epochs * in_one:
            return f"{in_one} batches in each of {self.epochs} epochs, one step for each."
        if said == in_one:
            raise Wrong(f"{said} steps are one epoch.")
        if said == self.epochs * full:
            raise Wrong(f"{said} steps leave {rest} pictures out in every epoch.")
        if said in {self.epochs * self.pictures, self.pictures}:
            raise Wrong(f"{said} counts pictures. The weights move once for a whole batch.")
        if abs(said - self.epochs * self.pictures / self.batch) < 1:
            raise Wrong(f"{said} is near. But no batch goes across the end of an epoch.")
        way = "many" if said > self.epochs * in_one else "few"
        raise Wrong(
            f"{said} steps are too {way} for {self.epochs} epochs of {self.pictures} pictures in "
            f"batches of {self.batch}."
        )


class PicturesForInterval(Task):
    """How many test pictures a narrow interval takes."""

    title = "How many test pictures do you need?"
    difficulty = MEDIUM
    minutes = 5
    accuracy = 0.9
    question = """
        Suppose that a model is right in 90 % of the cases. How many test pictures does it take
        until the 95 % interval is about 90 % ± 1 point, so from 89 to 91 %? Try
        `binomtest(correct, n).proportion_ci(method="wilson")`, or compute it. An answer within 5 %
        counts.
        """
    make = "PicturesForInterval()"
    stub = "answer = ...  # your answer: a number of pictures"
    solution_code = (
        "answer = 1.96**2 * 0.9 * (1 - 0.9) / 0.01**2  # from ± = 1.96 sqrt(p (1 - p) / n)"
    )
    hints = (
        'Try binomtest(900, 1000).proportion_ci(method="wilson"). Too wide or too narrow?',
        "Four times as many pictures make the interval half as wide.",
        "± = 1.96 * sqrt(p * (1 - p) / n). Put in 0.01 and 0.9, and solve for n.",
    )

    def _judge(self, answer):
        said = number(answer)
        if said < 1:
            raise Wrong(
                f"{said:g} pictures are less than one. Is the interval in points or shares?"
            )
        if said > 1e9:
            raise Wrong(
                f"{said:g} pictures: more than anyone has. Are 90 and 1 shares, 0.9 and 0.01?"
            )
        n = round(said)
        low, high = training.wilson_interval(round(self.accuracy * n), n)
        half = 100 * (high - low) / 2
        seen = f"With {n} pictures the interval is {100 * low:.1f} to {100 * high:.1f} %"
        right = 1.96**2 * self.accuracy * (1 - self.accuracy) / 0.01**2
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

    title = "The most confident mistakes"
    difficulty = MEDIUM
    minutes = 8
    question = """
        Write a function that finds the pictures with a **wrong** answer, the most confident one
        first. It gets logits of shape (pictures, classes) and labels of shape (pictures,). It
        returns the indices of at most `count` pictures. Confidence is the probability of the
        answer. The notebook shows what your function finds.
        """
    make = "ConfidentMistakes()"
    stub = """
def most_confident_mistakes(logits, labels, count):
    return ...  # your code: indices of at most `count` pictures
"""
    solution_code = """
def most_confident_mistakes(logits, labels, count):
    confidence, answers = logits.softmax(dim=1).max(dim=1)
    wrong = (answers != labels).nonzero().squeeze(1)
    order = confidence[wrong].argsort(descending=True)
    return wrong[order][:count]
"""
    hints = (
        "logits.softmax(dim=1).max(dim=1) returns two things: the confidence and the answer.",
        "(answers != labels).nonzero().squeeze(1) are the indices of the wrong ones.",
        "Sort only the wrong ones: confidence[wrong].argsort(descending=True) counts within them, "
        "so index `wrong` with it.",
    )

    def _judge(self, answer):
        find = function(answer)
        for pictures, count in ((40, 5), (40, 40), (12, 3)):
            logits = 3 * random(pictures, 6, seed=pictures + count)
            logits += torch.arange(pictures)[:, None] % 7  # the softmax does not see this
            confidence, answers = logits.softmax(1).max(1)
            labels = torch.where(torch.arange(pictures) % 3 == 0, (answers + 1) % 6, answers)
            wrong = (answers != labels).nonzero().squeeze(1)
            truth = wrong[confidence[wrong].argsort(descending=True)][:count].tolist()
            case = f"{pictures} pictures, {len(wrong)} of them wrong, and count = {count}"
            found = call(find, logits, labels, count, case=case)
            self._compare(found, truth, wrong, logits, confidence, count, case)
        return "What a model is surest of and wrong about is the best place to look for its faults."

    def _compare(self, found, truth, wrong, logits, confidence, count, case):
        values = numbers(found, f"With {case} what your function returned")
        if values.ndim != 1:
            raise Wrong(f"With {case} the shape is {values.shape}: a list of indices is wanted.")
        if not all(value == int(value) for value in values if np.isfinite(value)):
            raise Wrong(f"With {case} you returned {quote(values)}: indices are whole numbers.")
        said = [int(value) if np.isfinite(value) else -1 for value in values]
        if said == truth:
            return
        if len(said) > count:
            raise Wrong(f"With {case} you returned {len(said)} indices, more than `count`.")
        within = confidence[wrong].argsort(descending=True)[:count].tolist()
        by_logit = wrong[logits.amax(1)[wrong].argsort(descending=True)][:count].tolist()
        everything = confidence.argsort(descending=True)[:count].tolist()
        least = wrong[confidence[wrong].argsort()][:count].tolist()
        if said == within:
            raise Wrong(f"With {case} your numbers count within the wrong pictures only.")
        if said == least:
            raise Wrong(f"With {case} the least confident mistake comes first.")
        if said == by_logit:
            raise Wrong(f"With {case} you sorted by the logit. Its softmax is the confidence.")
        if said == everything:
            raise Wrong(f"With {case} right answers are among them.")
        right = [index for index in said if index not in wrong.tolist()]
        if right:
            raise Wrong(f"With {case} picture {right[0]} is not among the wrong answers.")
        if len(said) < len(truth):
            raise Wrong(f"With {case} you returned {len(said)} indices; there are {len(truth)}.")
        if sorted(said) == sorted(truth):
            raise Wrong(f"With {case} these are the right pictures in another order.")
        raise Wrong(f"With {case} you returned {said[:5]}, but the first are {truth[:5]}.")


TASKS = register(
    "02_finetune_cifar10", [StepInParts, CountSteps, PicturesForInterval, ConfidentMistakes]
)
