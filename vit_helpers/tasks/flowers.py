"""Tasks of notebook 04: what learns, freezing, two learning rates, top-k accuracy."""

from collections.abc import Iterable

import torch

from .. import models
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
    tiny_vit,
    whole_number,
)


class ParametersThatLearn(Task):
    """How many parameters learn if more blocks are frozen."""

    title = "How many parameters are left to learn?"
    difficulty = EASY
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


class FreezeFirst(Task):
    """Freeze exactly the first blocks."""

    title = "Freeze exactly k blocks"
    difficulty = MEDIUM
    question = """
        Write `models.freeze` yourself. After `freeze_first(model, k)` the embeddings and the first
        `k` blocks are frozen, and everything else learns, **whatever was frozen before**. Parts
        are found with `models.embeddings(model)`, `models.blocks(model)` and `models.head(model)`.
        Your function changes the model and need not return anything. `k` is 1 or more.
        """
    make = "FreezeFirst()"
    stub = """
def freeze_first(model, k):
    return ...  # your code changes the model
"""
    solution_code = """
def freeze_first(model, k):
    model.requires_grad_(True)  # whatever was frozen before
    for part in [models.embeddings(model), *models.blocks(model)[:k]]:
        part.requires_grad_(False)
"""
    hints = (
        "part.requires_grad_(False) freezes all parameters of a part at once.",
        "Which parts come before block k? Not only blocks.",
        "Begin with everything trainable: model.requires_grad_(True). Then freeze.",
    )

    def _judge(self, answer):
        freeze_first = function(answer)
        for k, before in ((1, 0), (3, 0), (2, 4)):
            model = tiny_vit(blocks=5)
            for part in [models.embeddings(model), *models.blocks(model)[:before]][: 1 + before]:
                part.requires_grad_(not before)
            case = f"k = {k} and a model of 5 blocks"
            case += f", {before} of them frozen before" if before else ""
            call(freeze_first, model, k, case=case, returns=False)
            self._compare(model, k, before, case)
        return "Exactly these. Frozen parts cost no gradient, and the optimiser leaves them alone."

    def _compare(self, model, k, before, case):
        blocks = [frozen(block) for block in models.blocks(model)]
        embeddings, head = frozen(models.embeddings(model)), frozen(models.head(model))
        named = [i for i, share in enumerate(blocks) if share == 1]
        said = f"With {case}, you froze the blocks {named}"
        if any(0 < share < 1 for share in [*blocks, embeddings, head]):
            raise Wrong(f"With {case}, a part is frozen only in part: weights, but not biases?")
        if before and named == list(range(before)):
            raise Wrong(f"{said}. What was frozen before must learn again.")
        if named == list(range(5 - k, 5)) and k < 5:
            raise Wrong(f"{said}: the last {k}. The first blocks are the ones to keep.")
        if named == list(range(k + 1)) or named == list(range(k - 1)):
            raise Wrong(f"{said}: that is {len(named)}, not {k}.")
        if head:
            raise Wrong(f"With {case}, the head is frozen too. It has everything to learn.")
        if named != list(range(k)):
            raise Wrong(f"{said}, but it should be the first {k}.")
        if not embeddings:
            raise Wrong(f"{said}, but the embeddings still learn, and all blocks build on them.")
        rest = model.base_model.layernorm
        if frozen(rest):
            raise Wrong(f"With {case}, the last LayerNorm is frozen. It comes after the blocks.")


def frozen(part) -> float:
    """The share of a part's parameters that are frozen, from 0 to 1."""
    flags = [not p.requires_grad for p in part.parameters()]
    return sum(flags) / len(flags)


class TwoRates(Task):
    """Parameter groups for the optimiser."""

    title = "Two learning rates"
    difficulty = HARD
    question = """
        An optimiser takes a list of **groups**: `[{"params": [...], "lr": 0.1}, ...]`. Write the
        groups for our recipe: the head learns with `head_lr`, everything else that is trainable
        with `lr`. No parameter may stand in two groups, and frozen ones in none.
        """
    make = "TwoRates()"
    stub = """
def groups(model, lr, head_lr):
    return ...  # your code: a list of groups
"""
    solution_code = """
def groups(model, lr, head_lr):
    head = list(models.head(model).parameters())
    in_head = {id(p) for p in head}
    body = [p for p in model.parameters() if p.requires_grad and id(p) not in in_head]
    return [{"params": body, "lr": lr}, {"params": head, "lr": head_lr}]
"""
    hints = (
        "Two dictionaries in a list: one for the body, one for the head.",
        "models.head(model).parameters() are those of the head. The body is all the others.",
        "Compare parameters by id(p), because == compares their numbers. Ask p.requires_grad.",
    )

    def _judge(self, answer):
        groups = function(answer)
        model = tiny_vit(blocks=3)
        models.freeze(model, 2)
        names = {id(p): name for name, p in model.named_parameters()}
        parameters = dict(model.named_parameters())
        head = {id(p) for p in models.head(model).parameters()}
        case = "a model with 2 of 3 blocks frozen"
        result = call(groups, model, 0.01, 0.5, case=case)
        rates = self._rates(result, names)
        for name, parameter in parameters.items():
            found = rates.get(id(parameter), [])
            if len(found) > 1:
                raise Wrong(f"`{name}` stands in {len(found)} groups, with the rates {found}.")
            if found and not parameter.requires_grad:
                raise Wrong(
                    f"`{name}` is frozen, but stands in a group with the rate {found[0]:g}."
                )
            if not found and parameter.requires_grad:
                raise Wrong(f"`{name}` is trainable, but stands in no group.")
            wanted = 0.5 if id(parameter) in head else 0.01
            if found and found[0] != wanted:
                kind = "belongs to the head" if id(parameter) in head else "is not in the head"
                raise Wrong(
                    f"`{name}` {kind}, but its rate is {found[0]:g} (lr 0.01, head_lr 0.5)."
                )
        return "Each parameter once: the new head runs, the pre-trained body walks."

    def _rates(self, result, names) -> dict[int, list[float]]:
        if not isinstance(result, (list, tuple)):
            raise Wrong(f"Your function returned a {type(result).__name__}, but a list is wanted.")
        rates: dict[int, list[float]] = {}
        for i, group in enumerate(result):
            if not isinstance(group, dict) or not {"params", "lr"} <= set(group):
                raise Wrong(f"Group {i} is no dictionary with the keys 'params' and 'lr'.")
            rate, some = number(group["lr"], f"The rate of group {i}"), group["params"]
            if isinstance(some, torch.nn.Module):
                raise Wrong(f"The params of group {i} are a whole module: call its .parameters().")
            if not isinstance(some, Iterable):
                raise Wrong(f"The params of group {i} are {quote(some)}, but a list is wanted.")
            some = [some] if isinstance(some, torch.Tensor) else list(some)
            for parameter in some:
                if id(parameter) not in names:
                    what = type(parameter).__name__
                    raise Wrong(f"Group {i} holds a {what} that is no parameter of the model.")
                rates.setdefault(id(parameter), []).append(rate)
        return rates


class TopKAccuracy(Task):
    """The share of pictures whose class is among the k best."""

    title = "Top-k accuracy"
    difficulty = MEDIUM
    question = """
        Write top-k accuracy: the share of pictures whose true class is among the `k` classes with
        the highest logits. It gets logits of shape (pictures, classes) and labels of shape
        (pictures,). It returns a number from 0 to 1.
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


TASKS = register(
    "04_transfer_flowers102", [ParametersThatLearn, FreezeFirst, TwoRates, TopKAccuracy]
)
