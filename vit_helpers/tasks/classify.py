"""Tasks of notebook 01: tokens, top-k, temperature, softmax."""

import torch

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
    shaped,
    whole_number,
)


class CountTokens(Task):
    """How many tokens a larger picture makes."""

    title = "More pixels, how many tokens?"
    difficulty = EASY
    question = """
        Predict: how many tokens would this model read if its pictures were 384 x 384 pixels, with
        patches of the same size as above?
        """
    make = "CountTokens(model)"
    stub = "answer = ...  # your answer: a whole number"
    solution_code = "answer = (384 // config.patch_size) ** 2 + 1  # the patches, and [CLS]"
    hints = (
        "How many patches of 16 pixels fit into one row of 384 pixels?",
        "As many rows as columns. And the model reads one token that belongs to no patch.",
        "In code: the number of patches is (384 // config.patch_size) ** 2.",
    )

    def __init__(self, model):
        super().__init__()
        self.config = model.config

    def _judge(self, answer):
        said = whole_number(answer)
        side = 384 // self.config.patch_size
        here = (self.config.image_size // self.config.patch_size) ** 2 + 1
        if said == side**2 + 1:
            return (
                f"{side} x {side} patches and [CLS]: each patch keeps its size, so there are more."
            )
        if said == side**2:
            raise Wrong(
                f"{said} is the number of patches. Does the model read nothing but patches?"
            )
        if said in (here, here - 1):
            raise Wrong(f"{said} is the number for pictures of {self.config.image_size} pixels.")
        if said in (side, side + 1):
            raise Wrong(f"{said} fits one row of patches. How many rows are there?")
        if said in (384**2, 384**2 + 1, 3 * 384**2):
            raise Wrong(f"{said} counts single pixels. A token stands for a whole patch.")
        way = "many" if said > side**2 + 1 else "few"
        raise Wrong(f"{said} tokens are too {way}. How many patches fit into one row?")


class TopK(Task):
    """Top-k without `torch.topk`."""

    title = "The best k without topk"
    difficulty = MEDIUM
    question = """
        `topk` gave us the five best classes. Write it yourself: `top_k` gets the logits of one
        picture and a number `k`. It returns the numbers of the `k` best classes, the best first.
        You may sort, but not call `torch.topk`.
        """
    make = "TopK(logits)"
    stub = """
def top_k(logits, k):
    return ...  # your code: the numbers of k classes, the best first
"""
    solution_code = """
def top_k(logits, k):
    order = logits.argsort(descending=True)  # class numbers, the best first
    return order[:k]
"""
    hints = (
        "You want the numbers of the classes, not their logits. Which function sorts numbers?",
        "argsort gives the places in sorted order. Which end of it holds the best?",
        "logits.argsort(descending=True), and then a slice.",
    )

    def __init__(self, logits):
        super().__init__()
        self.logits = torch.as_tensor(logits).detach().float().cpu().flatten()

    def _judge(self, answer):
        top_k = function(answer)
        cases = [(random(10), 3), (-random(6, seed=1).abs() - 1, 2), (random(8, seed=2), 8)]
        for logits, k in [*cases, (self.logits, 5)]:
            case = f"{len(logits)} logits and k = {k}"
            got = numbers(call(top_k, logits, k, case=case), "What your function returned")
            said = quote(torch.from_numpy(got))
            order = logits.argsort(descending=True)
            if got.ndim != 1:
                raise Wrong(
                    f"With {case} your function returned the shape {got.shape}, but a plain list "
                    "of class numbers is wanted. Are the logits in it too?"
                )
            if len(got) != k:
                raise Wrong(f"With {case} your function returned {len(got)} numbers: {said}.")
            got = torch.from_numpy(got)
            if close(got, order[:k], 0):
                continue
            if close(got, logits[order[:k]], 1e-4):
                raise Wrong(f"With {case} you returned the logits {said}, not the class numbers.")
            if close(got, order[:k].flip(0), 0):
                raise Wrong(
                    f"With {case} you returned {said}: the right ones, the best at the end."
                )
            if close(got, order.flip(0)[:k], 0):
                raise Wrong(f"With {case} you returned {said}: those are the worst classes.")
            if close(got, logits.abs().argsort(descending=True)[:k], 0):
                raise Wrong(
                    f"With {case} you returned {said}. A logit of -5 is large, but not good."
                )
            raise Wrong(f"With {case} you returned {said}, but at least one of these is wrong.")
        return "Sorting all classes finds the best; topk only does it faster, without sorting all."


class FindTemperature(Task):
    """The temperature at which a model claims 90 %."""

    title = "Make the model sound sure"
    difficulty = EASY
    target = 0.9
    question = """
        Try numbers: at which temperature does the model say its first class for the
        photograph with 90 %? The photograph's logits are `logits[0]`. Anything from 89 to 91 %
        counts.
        """
    make = "FindTemperature(logits[0])"
    stub = "answer = ...  # your answer: a temperature"
    solution_code = """
low, high = 0.001, 100.0
for _ in range(40):  # halve the range until the share fits
    answer = (low * high) ** 0.5
    share = (logits[0] / answer).softmax(dim=-1).max()
    low, high = (answer, high) if share > 0.9 else (low, answer)
"""
    hints = (
        "Compute (logits[0] / 0.5).softmax(dim=-1).max(), and try other numbers than 0.5.",
        "A smaller temperature makes it surer. Is the share at 1 above or below 90 %?",
        "Too sure: go half of the way to a larger number. Not sure enough: to a smaller one.",
    )

    def __init__(self, logits):
        super().__init__()
        self.logits = torch.as_tensor(logits).detach().cpu().double()

    def _judge(self, answer):
        said = number(answer)
        if said <= 0:
            turns = "turns the order of the classes round" if said else "would divide by zero"
            raise Wrong(f"A temperature of {said:g} {turns}: it must be above 0.")
        share = (self.logits / said).softmax(dim=-1).max().item()
        percent = f"{100 * share:.1f} %"
        if abs(share - self.target) <= 0.0101:
            return f"{percent}. The order of the classes is the same, and so is the accuracy."
        if 50 <= said <= 100:
            raise Wrong(
                f"{said:g} looks like a share in percent. With it as temperature: {percent}."
            )
        raise Wrong(f"With a temperature of {said:g} the model says {percent}, but 90 % is wanted.")


class Softmax(Task):
    """Softmax with a temperature that does not overflow."""

    title = "Write softmax, and make it safe"
    difficulty = HARD
    question = """
        Write softmax with a temperature, without calling one of the library. It gets logits of
        shape (classes,). The exponential of a number above 88 is too large for 32 bits, but your
        function must survive logits of 1000.
        """
    make = "Softmax(logits[0])"
    stub = """
def softmax(logits, temperature):
    return ...  # your code: shape (classes,), sums to one
"""
    solution_code = """
def softmax(logits, temperature):
    scaled = logits / temperature
    powers = (scaled - scaled.max()).exp()  # the largest is exp(0) = 1
    return powers / powers.sum()
"""
    hints = (
        "Softmax is exp(x) / sum(exp(x)). Where does the temperature go?",
        "If you take the same number off all logits, the result of softmax stays the same.",
        "Take off the largest logit: then the largest power is exp(0) = 1, and none is infinite.",
    )

    def __init__(self, logits):
        super().__init__()
        self.logits = torch.as_tensor(logits).detach().float().cpu()

    def _judge(self, answer):
        softmax = function(answer)
        cases = [(random(6), 1.0), (random(6, seed=1), 0.5), (self.logits, 4.0)]
        for logits, t in cases:
            case = f"{len(logits)} logits and temperature {t:g}"
            result = call(softmax, logits, t, case=case)
            got = shaped(result, logits.shape, case, "one number a class")
            truth = (logits / t).softmax(dim=-1)
            mistakes = {
                f"With {case} you returned logarithms: they are below zero.": truth.log(),
                f"With {case} you returned the powers. They do not sum to one yet.": (
                    (logits / t).exp()
                ),
                f"With {case} your shares are those of the sigmoid: each class on its own, "
                f"they sum to {got.sum():.2f}.": (logits / t).sigmoid(),
            }
            recognise(got, mistakes, 1e-5)
            if t != 1:
                mistakes = {
                    f"With {case} your largest share is {100 * got.max():.1f} %, as at "
                    "temperature 1. Is the temperature used?": logits.softmax(dim=-1),
                    f"With {case} your largest share is {100 * got.max():.1f} %. A larger "
                    "temperature should make it less sure.": (logits * t).softmax(dim=-1),
                }
                recognise(got, mistakes, 1e-5)
            if not close(got, truth, 1e-5):
                raise Wrong(
                    f"With {case} your shares sum to {got.sum():.4f} and the largest is "
                    f"{100 * got.max():.1f} %, but it should be {100 * truth.max():.1f} %."
                )
        case = "logits of 1000, 999 and 0"
        result = numbers_or_none(call(softmax, torch.tensor([1000.0, 999.0, 0.0]), 1.0, case=case))
        if result is None:
            raise Wrong(
                f"With small logits your function is right. With {case} it does not return "
                "numbers: exp(1000) is infinite. Can you make the logits smaller first?"
            )
        got = torch.as_tensor(result)
        truth = torch.tensor([1000.0, 999.0, 0.0]).softmax(dim=-1)
        if not close(got, truth, 1e-5):
            raise Wrong(f"With {case} you returned {quote(got)}: with smaller ones it was right.")
        return "Right also where the plain formula overflows. Libraries take off the maximum too."


def numbers_or_none(result):
    """The numbers of a result, or `None` where it holds NaN or something else."""
    try:
        return numbers(result)
    except Wrong:
        return None


TASKS = register("01_classify", [CountTokens, TopK, FindTemperature, Softmax])
