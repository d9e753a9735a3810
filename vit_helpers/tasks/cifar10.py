"""Tasks of notebook 02: steps of training, the evaluation transform, accumulation, intervals."""

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
    random,
    recognise,
    register,
    shaped,
    tiny_vit,
    whole_number,
)


class EvalTransform(Task):
    """The processor's steps, one by one."""

    title = "Build the evaluation transform"
    difficulty = MEDIUM
    question = """
        Build the evaluation transform yourself: `prepare` gets a PIL picture in RGB, of any size,
        and returns a tensor of shape (3, 224, 224) with the numbers that the processor would
        make. Do not call the processor, but read `processor.size`, `processor.image_mean` and
        `processor.image_std`. `torchvision.transforms.v2` has all the steps.
        """
    make = "EvalTransform(processor, picture)"
    stub = """
def prepare(picture):
    return ...  # your code: a tensor of shape (3, 224, 224)
"""
    solution_code = """
def prepare(picture):
    import torch
    from torchvision.transforms import v2

    size = (processor.size["height"], processor.size["width"])
    steps = [
        v2.PILToTensor(),  # whole numbers from 0 to 255
        v2.Resize(size),
        v2.ToDtype(torch.float32, scale=True),  # from 0 to 1
        v2.Normalize(processor.image_mean, processor.image_std),  # from -1 to 1
    ]
    return v2.Compose(steps)(picture)
"""
    hints = (
        "Four steps: picture to tensor, resize, scale to 0..1, normalise.",
        "v2.PILToTensor, v2.Resize, v2.ToDtype(torch.float32, scale=True), v2.Normalize.",
        "Resize wants (height, width). A single number would keep the proportions. Normalise "
        "with the processor's own mean and deviation.",
    )

    def __init__(self, processor, picture):
        super().__init__()
        self.processor = processor
        picture = picture.convert("RGB")
        # The same picture in other sizes and positions: upright, wide, and as large as the input.
        self.pictures = [picture, picture.rotate(90).resize((50, 40)), picture.resize((224, 224))]

    def _judge(self, answer):
        prepare = function(answer)
        mean, deviation = (
            torch.tensor(values).view(3, 1, 1)
            for values in (self.processor.image_mean, self.processor.image_std)
        )
        for picture in self.pictures:
            truth = self.processor(images=picture, return_tensors="pt")["pixel_values"][0].cpu()
            case = f"a picture of {picture.width} x {picture.height} pixels"
            result = call(prepare, picture.copy(), case=case)
            got = torch.from_numpy(numbers(result, f"With {case} what your function returned"))
            if got.shape == (1, *truth.shape):
                raise Wrong(f"With {case} the shape is {tuple(got.shape)}: one axis too many.")
            if got.shape == (*truth.shape[1:], 3):
                raise Wrong(
                    f"With {case} the shape is {tuple(got.shape)}: the channels come first."
                )
            got = shaped(got, tuple(truth.shape), case, "channels, height, width")
            seen = f"With {case} your numbers run from {got.min():.2f} to {got.max():.2f}"
            unit = truth * deviation + mean
            if near(got, 255 * unit, 2.55):
                raise Wrong(f"{seen}: those are the values of the pixels, not scaled to 0..1.")
            if near(got, unit, 0.01):
                raise Wrong(f"{seen}: scaled, but not normalised.")
            if near(got, (255 * unit - mean) / deviation, 5):
                raise Wrong(f"{seen}: normalised, but not scaled to 0..1 before.")
            imagenet_mean = torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1)
            imagenet_deviation = torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)
            if near(got, (unit - imagenet_mean) / imagenet_deviation, 0.04):
                raise Wrong(
                    f"{seen}: normalised with ImageNet's mean and deviation. Are they ours?"
                )
            # Resizing with PIL differs a little from resizing a tensor; both are right.
            if not near(got, truth, 0.02):
                away = (got - truth).abs().mean()
                raise Wrong(f"{seen}, on average {away:.2f} away from the processor's. Which step?")
        return "The same numbers as the processor's: the model is judged on what it will be given."


def near(a: torch.Tensor, b: torch.Tensor, tolerance: float) -> bool:
    """Whether two pictures differ by at most `tolerance` on average."""
    return bool((a - b).abs().mean() <= tolerance)


class CountSteps(Task):
    """How many steps a training has."""

    title = "How many steps?"
    difficulty = EASY
    batch, epochs = 50, 7
    question = """
        Predict: suppose BATCH were 50. How often would the optimiser move the weights in 7 epochs
        over our training pictures? The last batch of an epoch may be smaller; it counts.
        """
    make = "CountSteps(train_set)"
    stub = "answer = ...  # your answer: a whole number"
    solution_code = """
import math

answer = 7 * math.ceil(len(train_set) / 50)  # each epoch has a last, smaller batch
"""
    hints = (
        "One step for each batch. How many batches has one epoch?",
        "len(train_set) / 50 is no whole number. What happens to the rest, in each epoch?",
        "math.ceil rounds up. Round before you multiply by the epochs.",
    )

    def __init__(self, train_set):
        super().__init__()
        self.pictures = len(train_set)

    def _judge(self, answer):
        said = whole_number(answer)
        full, rest = divmod(self.pictures, self.batch)
        truth = self.epochs * (full + bool(rest))
        if said == truth:
            return (
                f"{full + bool(rest)} batches in each of {self.epochs} epochs, one step for each."
            )
        if said == full + bool(rest):
            raise Wrong(f"{said} steps are one epoch.")
        if said == self.epochs * full:
            raise Wrong(f"{said} steps leave {rest} pictures out in every epoch.")
        if said in {self.epochs * self.pictures, self.pictures}:
            raise Wrong(f"{said} counts pictures. The weights move once for a whole batch.")
        if abs(said - self.epochs * self.pictures / self.batch) < 1:
            raise Wrong(f"{said} is near. But no batch goes across the end of an epoch.")
        way = "many" if said > truth else "few"
        raise Wrong(f"{said} steps are too {way} for {self.pictures} pictures in batches of 50.")


class StepInParts(Task):
    """Gradient accumulation: one step from a batch that does not fit into memory."""

    title = "A training step in parts"
    difficulty = HARD
    question = """
        A batch of 64 pictures does not fit into your GPU? Then cut it into parts. Write a training
        step that runs the model on one part after the other and moves the weights **once**, just
        as the whole batch would have moved them. It returns the loss of the whole batch. The
        number of pictures can be divided by `parts`.
        """
    make = "StepInParts()"
    stub = """
def step_in_parts(model, optimiser, pixels, labels, parts):
    return ...  # your code: the loss of the whole batch
"""
    solution_code = """
def step_in_parts(model, optimiser, pixels, labels, parts):
    total = 0.0
    optimiser.zero_grad()
    for some, classes in zip(pixels.chunk(parts), labels.chunk(parts), strict=True):
        logits = model(pixel_values=some).logits
        loss = torch.nn.functional.cross_entropy(logits, classes) / parts
        loss.backward()  # adds to the gradients of the parts before
        total += loss.item()
    optimiser.step()
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
        optimiser = torch.optim.SGD(model.parameters(), lr=0.5)
        losses = []
        for seed in range(2):
            pixels, labels = random(8, 3, 16, 16, seed=seed), torch.arange(8) % 3
            args = (model, optimiser, pixels, labels, parts)
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


def step_at_once(model, optimiser, pixels, labels, parts):
    """What the parts must equal: the five lines of the notebook, on the whole batch."""
    loss = torch.nn.functional.cross_entropy(model(pixel_values=pixels).logits, labels)
    optimiser.zero_grad()
    loss.backward()
    optimiser.step()
    return loss.item()


def step_with_mistake(divide=True, step_often=False, clear_often=False, clear=True):
    """A step in parts with one typical mistake; the check recognises it by its weights."""

    def step(model, optimiser, pixels, labels, parts):
        if clear:
            optimiser.zero_grad()
        for some, classes in zip(pixels.chunk(parts), labels.chunk(parts), strict=True):
            if clear_often or step_often:
                optimiser.zero_grad()
            loss = torch.nn.functional.cross_entropy(model(pixel_values=some).logits, classes)
            (loss / parts if divide else loss).backward()
            if step_often:
                optimiser.step()
        if not step_often:
            optimiser.step()
        return loss.item()

    return step


class PicturesForInterval(Task):
    """How many test pictures a narrow interval takes."""

    title = "How many test pictures do you need?"
    difficulty = MEDIUM
    accuracy = 0.9
    question = """
        Suppose that a model is right in 90 % of the cases. How many test pictures does it take
        until the 95 % interval is about 90 % ± 1 point, so from 89 to 91 %? Try
        `training.wilson_interval(correct, n)`, or compute it. An answer within 5 % counts.
        """
    make = "PicturesForInterval()"
    stub = "answer = ...  # your answer: a number of pictures"
    solution_code = (
        "answer = 1.96**2 * 0.9 * (1 - 0.9) / 0.01**2  # from ± = 1.96 sqrt(p (1 - p) / n)"
    )
    hints = (
        "Try training.wilson_interval(900, 1000). Is that too wide or too narrow?",
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


TASKS = register(
    "02_finetune_cifar10", [EvalTransform, CountSteps, StepInParts, PicturesForInterval]
)
