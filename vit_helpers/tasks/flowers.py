"""Tasks of notebook 04: what learns, top-k accuracy, a paired test, merging LoRA."""

import numpy as np
import torch
from scipy.stats import binomtest

from .. import models
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
    random,
    recognise,
    register,
    shaped,
    whole_number,
)


class ParametersThatLearn(Task):
    """How many parameters learn if more blocks are frozen."""

    title = "How many parameters are left to learn?"
    difficulty = EASY
    minutes = 3
    question = """
        Predict, from the table above: how many parameters would learn if all blocks but the
        **last one** were frozen, and the embeddings too?
        """
    make = "ParametersThatLearn(model)"
    stub = "answer = ...  # your answer: a whole number"
    solution_code = """
learning = table["trainable"]
answer = learning["block 11"] + learning["last LayerNorm"] + learning["head"]
"""
    hints = (
        "Which rows of the table would still have a number in the column `trainable`?",
        "One block, the head, and something small between them.",
        "Add the rows block 11, last LayerNorm and head.",
    )

    def __init__(self, model):
        super().__init__()
        count = lambda part: sum(p.numel() for p in part.parameters())  # noqa: E731
        layers = models.blocks(model)
        self.total, self.block = count(model), count(layers[-1])
        self.head = count(models.head(model))
        self.rest = self.total - count(models.embeddings(model)) - count(layers) - self.head

    def _judge(self, answer):
        said = whole_number(answer)
        truth = self.block + self.rest + self.head
        if said == truth:
            return f"That is {100 * truth / self.total:.1f} % of {self.total:,} parameters."
        if said == self.total - truth:
            raise Wrong(f"{said:,} are frozen then. How many learn?")
        if said == self.block:
            raise Wrong(f"{said:,} is one block. What comes after the last block?")
        if said == truth - self.rest:
            raise Wrong(f"{said:,} is near: a small part between last block and head is missing.")
        if said == truth - self.head:
            raise Wrong(f"{said:,} leaves out the part that must learn from nothing.")
        if truth < said < self.total and (said - truth) % self.block == 0:
            more = (said - truth) // self.block
            raise Wrong(f"{said:,} is what learns if {1 + more} blocks are left.")
        if said == self.total:
            raise Wrong(f"{said:,} is the whole model.")
        raise Wrong(f"{said:,} is too {'much' if said > truth else 'little'}.")


class TopKAccuracy(Task):
    """The share of pictures whose class is among the k best."""

    title = "Top-k accuracy"
    difficulty = MEDIUM
    minutes = 8
    question = """
        Write top-k accuracy: the share of pictures whose true class is among the `k` classes with
        the highest logits. It gets logits of shape (pictures, classes) and labels of shape
        (pictures,). It returns a number from 0 to 1. The notebook reports top-5 with it.
        """
    make = "TopKAccuracy(result)"
    stub = """
def top_k_accuracy(logits, labels, k):
    return ...  # your code: a number from 0 to 1
"""
    solution_code = """
def top_k_accuracy(logits, labels, k):
    best = logits.topk(k, dim=1).indices  # (pictures, k)
    hits = (best == labels[:, None]).any(dim=1)
    return hits.float().mean()
"""
    hints = (
        "logits.topk(k, dim=1).indices has a row of k class numbers for each picture.",
        "Compare each row with its label: labels[:, None] has shape (pictures, 1).",
        "A picture is a hit if any of the k is right. Then the mean over the pictures.",
    )

    def __init__(self, result):
        super().__init__()
        self.logits, self.labels = result.logits.float().cpu(), result.labels.cpu()

    def _judge(self, answer):
        top_k_accuracy = function(answer)
        made = random(50, 7, seed=1), torch.arange(50) % 7
        ours = (self.logits, self.labels)
        for (logits, labels), k in ((made, 1), (made, 3), (made, 7), (ours, 5)):
            case = f"{len(labels)} pictures of {logits.shape[1]} classes and k = {k}"
            got = shaped(
                call(top_k_accuracy, logits, labels, k, case=case), (), case, "one number"
            ).item()
            truth = share_of_hits(logits, labels, k)
            # In bf16 logits are often alike; which of them comes first is nobody's mistake.
            least = share_of_hits(logits, labels, k, ties_win=False)
            said = f"With {case} you returned {got:.4g}"
            if least - 1e-4 < got < truth + 1e-4:
                continue
            if abs(got - 100 * truth) < 1e-2:
                raise Wrong(f"{said}. That is in percent; a share from 0 to 1 is wanted.")
            if abs(got - truth * len(labels)) < 1e-2:
                raise Wrong(f"{said}. That is how many; which share of all is it?")
            if abs(got - truth / k) < 1e-4:
                raise Wrong(f"{said}. Was it divided by k? Each picture is one case.")
            if abs(got - share_of_hits(logits, labels, 1)) < 1e-4:
                raise Wrong(f"{said}. That is top-1: is k used?")
            if abs(got - share_of_hits(-logits, labels, k)) < 1e-4:
                raise Wrong(f"{said}. That looks among the k lowest logits.")
            raise Wrong(f"{said}, which is too {'high' if got > truth else 'low'}.")
        return "With k = number of classes it is always 1: say k when you quote such a figure."


def share_of_hits(logits, labels, k: int, ties_win: bool = True) -> float:
    """Top-k accuracy by counting how many classes score higher than the true one.

    Without `ties_win`, a class with the same score counts as higher.
    """
    own = logits.gather(1, labels[:, None])
    higher = (logits > own).sum(dim=1) if ties_win else (logits >= own).sum(dim=1) - 1
    return (higher < k).float().mean().item()


class PairedTest(Task):
    """McNemar's exact test: two models on the same pictures."""

    title = "Two models, the same pictures"
    difficulty = HARD
    minutes = 10
    question = """
        Two models answered the same pictures. `right_a` and `right_b` say for each picture whether
        the answer was right. Write McNemar's test. Only the pictures on which they **disagree**
        can tell them apart. If neither model is better, each of those is a fair coin. Return the
        two-sided p-value: how often a fair coin gives at least so uneven a result. Without any
        disagreement it is 1. `binomtest` of `scipy.stats` counts coins. The notebook compares
        five trainings with your function.
        """
    make = "PairedTest()"
    stub = """
def p_value(right_a, right_b):
    return ...  # your code: a number from 0 to 1
"""
    solution_code = """
def p_value(right_a, right_b):
    from scipy.stats import binomtest

    only_a = int((right_a & ~right_b).sum())
    only_b = int((right_b & ~right_a).sum())
    if only_a + only_b == 0:
        return 1.0
    return binomtest(only_a, only_a + only_b, 0.5).pvalue
"""
    hints = (
        "right_a & ~right_b are the pictures that only a got right. Count them, and the reverse.",
        "How many coins were thrown, and how many fell on the side of a?",
        "binomtest(only_a, only_a + only_b, 0.5).pvalue, and 1 where there was no coin.",
    )

    def _judge(self, answer):
        p_value = function(answer)
        draw = np.random.default_rng(0)
        cases = [draw.random((2, 80)) < share for share in ([[0.8], [0.6]], [[0.5], [0.7]])]
        cases += [np.array([[True] * 9 + [False] * 6] * 2), np.eye(2, 20, dtype=bool)[:, ::-1]]
        for a, b in cases:
            only_a, only_b = int((a & ~b).sum()), int((b & ~a).sum())
            coins, pictures = only_a + only_b, len(a)
            case = f"{pictures} pictures, {only_a} right for a alone and {only_b} for b alone"
            got = number(call(p_value, a.copy(), b.copy(), case=case), f"With {case} the p-value")
            truth = binomtest(only_a, coins).pvalue if coins else 1.0
            if abs(got - truth) < 1e-6:
                continue
            said = f"With {case} you returned {got:.4g}"
            if not coins:
                raise Wrong(f"{said}. They never disagree, so nothing speaks for a difference: 1.")
            one_sided = [binomtest(only_a, coins, 0.5, s).pvalue for s in ("less", "greater")]
            if min(abs(got - p) for p in one_sided) < 1e-6:
                raise Wrong(f"{said}. That is one-sided: a could have been worse as well.")
            rest = np.sum(a & b) + only_a, np.sum(a & b) + only_b
            wrong_coins = (binomtest(int(rest[0]), pictures), binomtest(only_a, pictures))
            if min(abs(got - test.pvalue) for test in wrong_coins) < 1e-6:
                raise Wrong(f"{said}. Are the pictures counted on which both say the same?")
            if not 0 <= got <= 1 or abs(got - 100 * truth) < 1e-6:
                raise Wrong(f"{said}. A p-value is a share from 0 to 1, not a percentage.")
            raise Wrong(f"{said}, which is too {'large' if got > truth else 'small'}.")
        return "Only disagreement counts, so the same pictures tell more than two intervals do."


class MergeLora(Task):
    """The matrix that LoRA has made, in one piece."""

    title = "Merge LoRA into the matrix"
    difficulty = MEDIUM
    minutes = 6
    question = """
        After the training the detour is not needed any more: add it to the matrix. Write
        `merged_weight(W, A, B, alpha)` for $W$ of shape (out, in), $A$ of shape (r, in) and $B$ of
        shape (out, r). It returns the new matrix and leaves `W` as it is. The notebook compares
        it with what peft makes.
        """
    make = "MergeLora()"
    stub = """
def merged_weight(W, A, B, alpha):
    return ...  # your code: a matrix of the shape of W
"""
    solution_code = """
def merged_weight(W, A, B, alpha):
    r = A.shape[0]
    return W + alpha / r * (B @ A)
"""
    hints = (
        "The formula stands above the task. Which number is r?",
        "B @ A has the shape of W; A has r rows.",
        "The update counts alpha / r times.",
    )

    def _judge(self, answer):
        merged_weight = function(answer)
        for out, inputs, r, alpha in ((6, 6, 2, 8), (5, 7, 3, 3), (4, 9, 4, 1)):
            W, A, B = random(out, inputs), random(r, inputs, seed=1), random(out, r, seed=2)
            case = f"W of {out} x {inputs}, r = {r} and alpha = {alpha}"
            ours = W.clone()
            result = call(merged_weight, ours, A, B, alpha, case=case)
            got = shaped(result, W.shape, case, "that of W")
            truth = W + alpha / r * (B @ A)
            if close(got, truth, 1e-4):
                continue
            mistakes = {
                f"With {case} the update counts once, but it should count alpha / r times.": W
                + B @ A,
                f"With {case} the update counts alpha times. Divide by r.": W + alpha * (B @ A),
                f"With {case} the update counts r / alpha times.": W + r / alpha * (B @ A),
                f"With {case} that is the update alone; W is missing.": alpha / r * (B @ A),
                f"With {case} that is W as it was.": W,
            }
            recognise(got, mistakes, 1e-4)
            raise Wrong(f"With {case} the largest difference is {(got - truth).abs().max():.3f}.")
        return "One matrix again, and the model is as fast as before."


TASKS = register(
    "04_transfer_flowers102", [ParametersThatLearn, TopKAccuracy, PairedTest, MergeLora]
)
