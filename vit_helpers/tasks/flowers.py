"""Tasks of notebook 04: what learns, top-k accuracy, a paired test, merging LoRA."""

import numpy as np
import torch
from scipy.stats import binomtest

from .. import models
from .answers import call, compare, function, number, random, shaped, whole_number
from .core import Task


class ParametersThatLearn(Task):
    """How many parameters learn if more blocks are frozen."""

    def __init__(self, model):
        super().__init__()
        count = lambda part: sum(p.numel() for p in part.parameters())  # noqa: E731
        layers = models.blocks(model)
        self.total, self.block = count(model), count(layers[-1])
        self.head = count(models.head(model))
        self.rest = self.total - count(models.embeddings(model)) - count(layers) - self.head

    def _judge(self, answer):
        said, truth = whole_number(answer), self.block + self.rest + self.head
        more, left = divmod(said - truth, self.block)
        otherwise = f" is too {'much' if said > truth else 'little'}."
        if truth < said < self.total and not left:
            otherwise = f" is what learns if {1 + more} blocks are left."
        mistakes = {
            " are frozen then. How many learn?": self.total - truth,
            " is one block. What comes after the last block?": self.block,
            " is near: a small part between last block and head is missing.": truth - self.rest,
            " leaves out the part that must learn from nothing.": truth - self.head,
            " is the whole model.": self.total,
        }
        compare(said, truth, f"{said:,}", mistakes, otherwise)
        return f"That is {100 * truth / self.total:.1f} % of {self.total:,} parameters."


class TopKAccuracy(Task):
    """The share of pictures whose class is among the k best."""

    def __init__(self, result):
        super().__init__()
        self.logits, self.labels = result.logits.float().cpu(), result.labels.cpu()

    def _judge(self, answer):
        top_k_accuracy = function(answer)
        made = random(50, 7, seed=1), torch.arange(50) % 7
        ours = (self.logits, self.labels)
        for (logits, labels), k in ((made, 1), (made, 3), (made, 7), (ours, 5)):
            case = f"With {len(labels)} pictures of {logits.shape[1]} classes and k = {k}"
            result = call(top_k_accuracy, logits, labels, k, case=case)
            got = shaped(result, (), case, "one number").item()
            truth = share_of_hits(logits, labels, k)
            # In bf16 logits are often alike; which of them comes first is nobody's mistake.
            if share_of_hits(logits, labels, k, ties_win=False) - 1e-4 < got < truth + 1e-4:
                continue
            mistakes = {
                ". That is in percent; a share from 0 to 1 is wanted.": 100 * truth,
                ". That is how many; which share of all is it?": truth * len(labels),
                ". Was it divided by k? Each picture is one case.": truth / k,
                ". That is top-1: is k used?": share_of_hits(logits, labels, 1),
                ". That looks among the k lowest logits.": share_of_hits(-logits, labels, k),
            }
            otherwise = f", which is too {'high' if got > truth else 'low'}."
            compare(got, truth, f"{case} you returned {got:.4g}", mistakes, otherwise, 1e-4)
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

    def _judge(self, answer):
        p_value = function(answer)
        draw = np.random.default_rng(0)
        cases = [draw.random((2, 80)) < share for share in ([[0.8], [0.6]], [[0.5], [0.7]])]
        cases += [np.array([[True] * 9 + [False] * 6] * 2), np.eye(2, 20, dtype=bool)[:, ::-1]]
        for a, b in cases:
            only_a, only_b = int((a & ~b).sum()), int((b & ~a).sum())
            coins, pictures, both = only_a + only_b, len(a), int((a & b).sum())
            case = f"With {pictures} pictures, {only_a} right for a alone and {only_b} for b alone"
            got = number(call(p_value, a.copy(), b.copy(), case=case), f"{case} the p-value")
            truth, mistakes = 1.0, {}
            otherwise = ". They never disagree, so nothing speaks for a difference: 1."
            if coins:
                truth = binomtest(only_a, coins).pvalue
                wrong_coins = (both + only_a, both + only_b, only_a)
                mistakes = {
                    ". That is one-sided: a could have been worse as well.": tuple(
                        binomtest(only_a, coins, 0.5, s).pvalue for s in ("less", "greater")
                    ),
                    ". Are the pictures counted on which both say the same?": tuple(
                        binomtest(heads, pictures).pvalue for heads in wrong_coins
                    ),
                }
                otherwise = f", which is too {'large' if got > truth else 'small'}."
                if not 0 <= got <= 1 or abs(got - 100 * truth) < 1e-6:
                    otherwise = ". A p-value is a share from 0 to 1, not a percentage."
            compare(got, truth, f"{case} you returned {got:.4g}", mistakes, otherwise, 1e-6)
        return "Only disagreement counts, so the same pictures tell more than two intervals do."


class MergeLora(Task):
    """The matrix that LoRA has made, in one piece."""

    def _judge(self, answer):
        merged_weight = function(answer)
        for out, inputs, r, alpha in ((6, 6, 2, 8), (5, 7, 3, 3), (4, 9, 4, 1)):
            W, A, B = random(out, inputs), random(r, inputs, seed=1), random(out, r, seed=2)
            case = f"With W of {out} x {inputs}, r = {r} and alpha = {alpha}"
            result = call(merged_weight, W, A, B, alpha, case=case)
            got = shaped(result, W.shape, case, "that of W")
            update = B @ A
            truth = W + alpha / r * update
            mistakes = {
                " the update counts once, but it should count alpha / r times.": W + update,
                " the update counts alpha times. Divide by r.": W + alpha * update,
                " the update counts r / alpha times.": W + r / alpha * update,
                " that is the update alone; W is missing.": alpha / r * update,
                " that is W as it was.": W,
            }
            away = f" the largest difference is {(got - truth).abs().max():.3f}."
            compare(got, truth, case, mistakes, away, 1e-4)
        return "One matrix again, and the model is as fast as before."
