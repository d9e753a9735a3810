"""Tasks of notebook 03: one head by hand, entropy, the head that looks farthest, rollout."""

import math
from functools import cached_property

import torch

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
    numbers,
    random,
    recognise,
    register,
    shaped,
)


class HeadMap(Task):
    """The attention of one head from its queries and keys."""

    title = "Attention by hand"
    difficulty = HARD
    question = """
        Write the attention of one head. Your function gets the queries `q` and the keys `k` of
        this head, both of shape (tokens, d): one row a token. It returns the map of shape (tokens,
        tokens): softmax($Q K^\\top / \\sqrt{d}$), each row summing to one. The check takes q and k
        out of our model and compares with the model's own maps, to 0.00001.
        """
    make = "HeadMap(model, pixels)"
    stub = """
def head_map(q, k):
    return ...  # your code: shape (tokens, tokens)
"""
    solution_code = """
def head_map(q, k):
    scores = q @ k.T / q.shape[-1] ** 0.5  # each query with each key
    return scores.softmax(dim=-1)  # over the keys: each row sums to one
"""
    hints = (
        "Compare each query with each key: a matrix product with one of them transposed.",
        "Divide by the root of d, the length of a query. Then softmax over the keys.",
        "q @ k.T has a row for each query. dim=-1 is the axis of the keys.",
    )

    def __init__(self, model, pixels):
        super().__init__()
        self.model, self.pixels = model, pixels[:1]

    @cached_property
    def parts(self):
        """Queries, keys and attentions of the model, by layer and head."""
        return queries_keys_attentions(self.model, self.pixels)

    def _judge(self, answer):
        head_map = function(answer)
        layers, heads = self.model.config.num_hidden_layers, self.model.config.num_attention_heads
        queries, keys, attentions = self.parts
        for layer, head in ((0, 0), (layers // 2, heads // 2), (layers - 1, heads - 1)):
            q, k, truth = (part[layer][head] for part in (queries, keys, attentions))
            case = f"layer {layer}, head {head}"
            result = call(head_map, q, k, case=case)
            got = shaped(result, truth.shape, case, "one row a query, one column a key")
            if close(got, truth, 1e-5):
                continue
            d, scores = q.shape[-1], q @ k.T
            row = f"With {case} your first row sums to {got[0].sum():.4f}"
            largest = f"With {case} your largest weight is {got.max():.4f}"
            mistakes = {
                f"{row}: those are the scores. What turns scores into shares?": scores / d**0.5,
                f"{row}, your first column to 1: softmax went along the wrong axis.": (
                    (scores / d**0.5).softmax(dim=0)
                ),
                f"{row}, but where is the root of d? {largest}.": scores.softmax(dim=-1),
                f"{largest}. Did you divide by d, or by its root?": (scores / d).softmax(dim=-1),
                f"{row}, but the queries and keys have changed places.": (
                    (scores.T / d**0.5).softmax(dim=-1)
                ),
            }
            recognise(got, mistakes, 1e-5)
            away = (got - truth).abs().max()
            raise Wrong(f"{row} and your map is up to {away:.4f} away from the model's own.")
        return "Your map is the model's own: that is all there is to the weights of a head."


def queries_keys_attentions(model, pixels):
    """What each head of a ViT computes for one picture.

    Args:
        model: A ViT loaded with `attn_implementation="eager"`.
        pixels: Shape (1, 3, H, W).

    Returns:
        Three tensors on the CPU: queries and keys of shape (layers, heads, tokens, d), and the
        attentions of shape (layers, heads, tokens, tokens).
    """
    seen = {"q": [], "k": []}
    hooks = []
    for block in models.blocks(model):
        for name, module in block.named_modules():
            # transformers 5 says q_proj and k_proj; before, it was query and key.
            for letter, ends in (("q", ("q_proj", "query")), ("k", ("k_proj", "key"))):
                if name.endswith(ends):
                    keep = seen[letter]
                    hooks.append(
                        module.register_forward_hook(lambda m, i, o, to=keep: to.append(o))
                    )
    try:
        with torch.no_grad():
            attentions = model(pixel_values=pixels, output_attentions=True).attentions
    finally:
        for hook in hooks:
            hook.remove()
    heads = model.config.num_attention_heads
    queries, keys = (
        torch.cat(seen[letter]).unflatten(-1, (heads, -1)).transpose(1, 2).float().cpu()
        for letter in ("q", "k")
    )
    return queries, keys, torch.cat(attentions).float().cpu()


class EntropyBits(Task):
    """Entropy of a row of attention, with zeros in it."""

    title = "How many places does a head look at?"
    difficulty = MEDIUM
    question = """
        Write the entropy of one row of attention, in bits: $-\\sum_i p_i \\log_2 p_i$. A row can
        hold exact zeros. They add nothing to the entropy, although $\\log 0$ is infinite. Your
        function gets a row of shape (tokens,) and returns one number.
        """
    make = "EntropyBits(outputs.attentions)"
    stub = """
def entropy_bits(row):
    return ...  # your code: one number, in bits
"""
    solution_code = """
def entropy_bits(row):
    p = row[row > 0]  # a weight of zero adds nothing
    return -(p * p.log2()).sum()
"""
    hints = (
        "What does a row give that spreads evenly over 16 tokens? log2(16) = 4 bits.",
        "0 times minus infinity is NaN in a computer. Which weights can you leave out?",
        "row[row > 0] keeps the others. torch.log2 counts in bits, torch.log does not.",
    )

    def __init__(self, attentions):
        super().__init__()
        self.row = attentions[-1][0, 0, 0].detach().float().cpu()

    def _judge(self, answer):
        entropy_bits = function(answer)
        even = torch.zeros(197)
        even[:16] = 1 / 16
        rows = {
            "a real row of the last layer": self.row,
            "a row spread evenly over 8 tokens": torch.full((8,), 1 / 8),
            "a row spread evenly over 16 of 197 tokens": even,
            "a row with all weight on one token": torch.eye(5)[2],
        }
        for case, row in rows.items():
            truth = torch.special.entr(row).sum() / torch.log(torch.tensor(2.0))
            result = call(entropy_bits, row, case=case)
            if has_nan(result):
                raise Wrong(f"With {case} your function returned NaN: 0 * log(0) is no number.")
            got = shaped(result, (), case, "one number")
            said = f"With {case} your function returned {got:.4f}"
            mistakes = {
                f"{said}, in nats: the logarithm has another base than 2.": truth * 0.693147,
                f"{said}, with a logarithm of base 10.": truth * 0.30103,
                f"{said}. Entropy is not below zero: a logarithm of a share is.": -truth,
                f"{said}: divided by the number of tokens. It is a sum.": truth / len(row),
                f"{said}. That is how many tokens; how many bits is that?": 2**truth,
            }
            if close(got, truth, 1e-3):
                continue
            recognise(got, mistakes, 1e-3)
            raise Wrong(f"{said}, but it is {'more' if truth > got else 'less'}.")
        return (
            "A row with h bits is as undecided as one spread evenly over 2 to the power h tokens."
        )


def has_nan(result) -> bool:
    """Whether a result holds NaN (in a form that `numbers` reads)."""
    try:
        numbers(result)
    except Wrong as wrong:
        return "NaN" in str(wrong)
    return False


class FarthestHead(Task):
    """The head with the largest mean attention distance."""

    title = "Which head looks farthest?"
    difficulty = EASY
    question = """
        Each dot on the left of the figure is a head. Which one looks farthest? The distances are in
        `distance`, of shape (layers, heads), with NaN for a head that has none;
        `distance.nan_to_num(0)` puts 0 there. Answer with a pair: `(layer, head)`.
        """
    make = "FarthestHead(distance)"
    stub = "answer = ...  # your answer: (layer, head)"
    solution_code = (
        "answer = divmod(distance.nan_to_num(0).argmax().item(), heads)  # row and column"
    )
    hints = (
        "distance.nan_to_num(0).argmax() gives one number: it counts on through all layers.",
        "Each layer has as many places as there are heads. What does divmod(27, 12) give?",
        "divmod(distance.nan_to_num(0).argmax().item(), heads) is the pair.",
    )

    def __init__(self, distance):
        super().__init__()
        self.distance = torch.as_tensor(distance).detach().cpu().clone()

    def _judge(self, answer):
        layers, heads = self.distance.shape
        farthest = self.distance.nan_to_num(0).argmax().item()
        nearest = self.distance.nan_to_num(torch.inf).argmin().item()
        pair = numbers(answer).flatten()
        if len(pair) == 1 and pair[0] == farthest:
            raise Wrong(f"{farthest} counts through all layers. Which layer and head is that?")
        if len(pair) != 2:
            raise Wrong(f"Your answer has {len(pair)} numbers, but it should be (layer, head).")
        if not all(float(p).is_integer() for p in pair):
            raise Wrong(f"{pair.tolist()} should be two whole numbers: (layer, head).")
        layer, head = (int(p) for p in pair)
        if (layer, head) == divmod(farthest, heads):
            return (
                f"Head {head} of layer {layer} looks {self.distance[layer, head]:.0f} pixels far."
            )
        if (head, layer) == divmod(farthest, heads):
            raise Wrong(f"({layer}, {head}) has the right numbers in the wrong order.")
        if (layer - 1, head - 1) == divmod(farthest, heads):
            raise Wrong(f"({layer}, {head}) counts from one. Layers and heads start at 0.")
        if not (0 <= layer < layers and 0 <= head < heads):
            raise Wrong(f"There is no ({layer}, {head}): {layers} layers, {heads} heads, from 0.")
        there = self.distance[layer, head].item()
        if math.isnan(there):
            raise Wrong(f"({layer}, {head}) has no distance: it looks at [CLS] alone.")
        if (layer, head) == divmod(nearest, heads):
            raise Wrong(f"({layer}, {head}) looks {there:.0f} pixels far: the nearest.")
        raise Wrong(f"({layer}, {head}) looks {there:.1f} pixels far. Another one looks farther.")


class RolloutMax(Task):
    """Rollout with the maximum over the heads."""

    title = "Rollout with the strongest head"
    difficulty = HARD
    question = """
        Above, the heads were averaged. Write rollout with the **maximum** over the heads. Your
        function gets the attention of one picture, of shape (layers, heads, tokens, tokens), and
        returns shape (tokens, tokens). Use the same steps as above: half of the attention, half of
        the identity. After a maximum the rows no longer sum to one, so divide each row of that
        half-and-half mixture by its sum, before the next layer.
        """
    make = "RolloutMax(outputs.attentions)"
    stub = """
def rollout_max(attn):
    return ...  # your code: shape (tokens, tokens)
"""
    solution_code = """
def rollout_max(attn):
    identity = torch.eye(attn.shape[-1])
    mixed = identity
    for layer in attn:  # (heads, tokens, tokens)
        a = 0.5 * layer.amax(dim=0) + 0.5 * identity
        a = a / a.sum(dim=-1, keepdim=True)  # each row sums to one
        mixed = a @ mixed
    return mixed
"""
    hints = (
        "Take the loop of step 7 and change what is done to the heads. amax(dim=0) is the maximum.",
        "Which axis is a row's? In a[i, j], row i is summed over j, the last axis.",
        "The later layer stands on the left: mixed = a @ mixed.",
    )

    def __init__(self, attentions):
        super().__init__()
        self.attentions = torch.cat([a[:1] for a in attentions]).detach().float().cpu()

    def _judge(self, answer):
        rollout_max = function(answer)
        cases = {
            "3 layers of 2 heads and 5 tokens": random(3, 2, 5, 5).mul(2).softmax(dim=-1),
            "the attention of this picture": self.attentions,
        }
        for case, attn in cases.items():
            truth = rollout(attn)
            result = call(rollout_max, attn, case=case)
            got = shaped(result, truth.shape, case, "tokens by tokens")
            if close(got, truth, 1e-5):
                continue
            row = f"With {case} your first row sums to {got[0].sum():.3f}"
            mistakes = {
                f"{row}, as it should. But the heads were averaged.": rollout(attn, heads="mean"),
                f"{row}. Each row should sum to one, before the next layer.": rollout(
                    attn, normalise=None
                ),
                f"{row}. Did you divide by the sum of each column?": rollout(attn, normalise=-2),
                f"{row}, as it should. But the layers are in the wrong order.": rollout(
                    attn, later_left=False
                ),
                f"{row}, as it should. But mix with the identity first, then divide.": rollout(
                    attn, early=True
                ),
                f"{row}, as it should. But a token also keeps itself: where is the identity?": (
                    rollout(attn, keep=0.0)
                ),
            }
            recognise(got, mistakes, 1e-5)
            raise Wrong(f"{row} and {(got - truth).abs().max():.4f} is the largest difference.")
        return "A maximum lets single strong heads through; the mean lets them drown in the others."


def rollout(attn, heads="max", normalise=-1, later_left=True, keep=0.5, early=False):
    """Rollout of one picture; the options are the typical mistakes."""
    mixed = identity = torch.eye(attn.shape[-1])
    for layer in attn:
        a = layer.amax(dim=0) if heads == "max" else layer.mean(dim=0)
        if early:
            a = a / a.sum(dim=-1, keepdim=True)
        a = (1 - keep) * a + keep * identity
        if normalise is not None:
            a = a / a.sum(dim=normalise, keepdim=True)
        mixed = a @ mixed if later_left else mixed @ a
    return mixed


TASKS = register("03_attention", [HeadMap, EntropyBits, FarthestHead, RolloutMax])
