"""Tasks of notebook 03: entropy, the head that looks farthest, rollout, hidden patches."""

import math

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
    numbers,
    random,
    recognise,
    register,
    shaped,
)


class EntropyBits(Task):
    """Entropy of rows of attention, with zeros in them."""

    title = "How many places does a head look at?"
    difficulty = MEDIUM
    minutes = 7
    question = """
        Write the entropy of rows of attention, in bits: $-\\sum_i p_i \\log_2 p_i$ along the last
        axis. A row can hold exact zeros. They add nothing to the entropy, although $\\log 0$ is
        infinite. Your function gets rows of shape (..., tokens) and returns shape (...): one number
        for each row. The next cell calls it with all rows of all heads.
        """
    make = "EntropyBits(attn)"
    stub = """
def entropy_bits(rows):
    return ...  # your code: one number for each row, in bits
"""
    solution_code = """
def entropy_bits(rows):
    logs = rows.clamp(min=1e-12).log2()  # a weight of zero then gives 0 * -40 = 0
    return -(rows * logs).sum(dim=-1)
"""
    hints = (
        "What does a row give that spreads evenly over 16 tokens? log2(16) = 4 bits.",
        "0 times minus infinity is NaN in a computer. What if no number is quite zero when you "
        "take the logarithm?",
        "rows.clamp(min=1e-12).log2() is finite. torch.log2 counts in bits, torch.log does not.",
    )

    def __init__(self, attn):
        super().__init__()
        self.rows = attn[:1, -1, :2].detach().float().cpu()

    def _judge(self, answer):
        entropy_bits = function(answer)
        even = torch.zeros(197)
        even[:16] = 1 / 16
        cases = {
            "real rows of the last layer": self.rows,
            "a row spread evenly over 8 tokens": torch.full((8,), 1 / 8),
            "a row spread evenly over 16 of 197 tokens": even,
            "rows with all weight on one token": torch.eye(5)[1:3],
        }
        for case, rows in cases.items():
            truth = torch.special.entr(rows).sum(dim=-1) / math.log(2)
            result = call(entropy_bits, rows, case=case)
            if has_nan(result):
                raise Wrong(f"With {case} your function returned NaN: 0 * log(0) is no number.")
            if isinstance(result, torch.Tensor) and result.ndim == 0 and rows.ndim > 1:
                raise Wrong(f"With {case} you returned one number, but each row has its own.")
            got = shaped(result, truth.shape, case, "one number for each row")
            said = f"With {case} your function returned {got.flatten()[0]:.4f}"
            mistakes = {
                f"{said}, in nats: the logarithm has another base than 2.": truth * 0.693147,
                f"{said}, with a logarithm of base 10.": truth * 0.30103,
                f"{said}. Entropy is not below zero: a logarithm of a share is.": -truth,
                f"{said}: divided by the number of tokens. It is a sum.": truth / rows.shape[-1],
                f"{said}. That is how many tokens; how many bits is that?": 2**truth,
            }
            if close(got, truth, 1e-3):
                continue
            recognise(got, mistakes, 1e-3)
            raise Wrong(f"{said}, but it is {truth.flatten()[0]:.4f}.")
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
    minutes = 4
    question = """
        Each full dot on the left of the figure is a head. Which one looks farthest? The distances
        are in `distance`, of shape (layers, heads), with NaN for the heads that were left out;
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
            raise Wrong(f"({layer}, {head}) was left out: it gives nearly everything to a sink.")
        if (layer, head) == divmod(nearest, heads):
            raise Wrong(f"({layer}, {head}) looks {there:.0f} pixels far: the nearest.")
        raise Wrong(f"({layer}, {head}) looks {there:.1f} pixels far. Another one looks farther.")


class RolloutMax(Task):
    """Rollout with the maximum over the heads."""

    title = "Rollout with the strongest head"
    difficulty = HARD
    minutes = 10
    question = """
        Above, the heads were averaged. Write rollout with the **maximum** over the heads; the
        figure below shows yours beside the others. Your function gets the attention of one
        picture, of shape (layers, heads, tokens, tokens), and returns shape (tokens, tokens). Use
        the same steps as above: half of the attention, half of the identity. After a maximum the
        rows no longer sum to one, so divide each row of that half-and-half mixture by its sum,
        before the next layer.
        """
    make = "RolloutMax(attn)"
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
        "Take the function above and change what is done to the heads. amax(dim=0) is the maximum.",
        "Which axis is a row's? In a[i, j], row i is summed over j, the last axis.",
        "The later layer stands on the left: mixed = a @ mixed.",
    )

    def __init__(self, attn):
        super().__init__()
        self.attn = attn[0].detach().float().cpu()

    def _judge(self, answer):
        rollout_max = function(answer)
        cases = {
            "3 layers of 2 heads and 5 tokens": random(3, 2, 5, 5).mul(2).softmax(dim=-1),
            "the attention of the first picture": self.attn,
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


class HidePatches(Task):
    """Pictures without their most important patches."""

    title = "Hide the most important patches"
    difficulty = MEDIUM
    minutes = 9
    question = """
        Write the function that the measurement below stands on. `hide` gets a batch of pictures as
        `pixels` of shape (pictures, 3, height, width), a map for each as `scores` of shape
        (pictures, rows, columns), and a number `count`. It returns the pictures, with the `count`
        patches of the highest score set to 0, the grey in the middle of the model's values. All
        other pixels stay as they are.
        """
    make = "HidePatches()"
    stub = """
def hide(pixels, scores, count):
    return ...  # your code: shape (pictures, 3, height, width)
"""
    solution_code = """
def hide(pixels, scores, count):
    flat = scores.flatten(1)  # (pictures, patches)
    best = flat.topk(count, dim=1).indices
    hidden = torch.zeros_like(flat).scatter(1, best, 1.0).view_as(scores)
    # Each patch as large as its square of pixels, and one mask for all three channels.
    hidden = torch.nn.functional.interpolate(hidden[:, None], size=pixels.shape[-2:])
    return pixels * (1 - hidden.to(pixels))
"""
    hints = (
        "scores.flatten(1).topk(count, dim=1).indices names the patches to hide in each picture.",
        "Make a mask of the shape of `scores`, 1 where a patch is hidden: scatter writes the ones.",
        "torch.nn.functional.interpolate(mask[:, None], size=pixels.shape[-2:]) enlarges the mask "
        "to the pixels. What must they be multiplied with?",
    )

    def _judge(self, answer):
        hide = function(answer)
        scores = torch.stack([random(14 * 14, seed=s).view(14, 14) for s in (1, 2)])
        cases = [
            (random(1, 3, 6, 8).abs() + 1, torch.arange(12.0).view(1, 3, 4), 5),
            (random(2, 3, 224, 224) + 9, scores, 40),
            (random(2, 3, 224, 224) + 9, scores, 0),
        ]
        for pixels, maps, count in cases:
            case = f"{len(pixels)} pictures, {maps[0].numel()} patches each, and count = {count}"
            result = call(hide, pixels, maps, count, case=case)
            got = shaped(result, pixels.shape, case, "the shape of the pixels")
            truth = pixels * (1 - masked(maps, count, pixels))
            if close(got, truth, 1e-5):
                continue
            zeros = got.eq(0).all(dim=1).cpu().double().mean() * maps[0].numel()
            mistakes = {
                f"With {case} nothing was hidden.": pixels,
                f"With {case} the least important patches were hidden.": (
                    pixels * (1 - masked(-maps, count, pixels))
                ),
                f"With {case} the most important patches are all that is left. Hide them.": (
                    pixels * masked(maps, count, pixels)
                ),
                f"With {case} the second picture lost the patches of the first.": (
                    pixels * (1 - masked(maps[:1].expand_as(maps), count, pixels))
                ),
                f"With {case} the patches became black, at -1. Grey is 0.": (
                    pixels * (1 - masked(maps, count, pixels)) - masked(maps, count, pixels)
                ),
            }
            recognise(got, mistakes, 1e-5)
            raise Wrong(
                f"With {case} about {zeros:.0f} patches are grey in your pictures, and some "
                "pixels are not what they should be. Are the right patches hidden, and whole?"
            )
        return "What was hidden is grey now. How far does the probability of the class fall?"


def masked(maps: torch.Tensor, count: int, pixels: torch.Tensor) -> torch.Tensor:
    """1 on the pixels of the `count` highest patches, else 0: shape (B, 1, H, W)."""
    rank = maps.flatten(1).argsort(dim=1, descending=True).argsort(dim=1)
    mask = (rank < count).view_as(maps)[:, None].float()
    return torch.nn.functional.interpolate(mask, size=pixels.shape[-2:])


TASKS = register("03_attention", [EntropyBits, FarthestHead, RolloutMax, HidePatches])
