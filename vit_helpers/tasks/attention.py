"""Tasks of notebook 03: entropy, the head that looks farthest, rollout, hidden patches."""

import math

import torch

from .answers import NotANumber, Wrong, call, compare, function, numbers, random, shaped
from .core import Task


class EntropyBits(Task):
    """Entropy of rows of attention, with zeros in them."""

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
        for name, rows in cases.items():
            case, truth = f"With {name}", torch.special.entr(rows).sum(dim=-1) / math.log(2)
            result = call(entropy_bits, rows, case=case)
            if isinstance(result, torch.Tensor) and result.ndim == 0 and rows.ndim > 1:
                raise Wrong(f"{case} you returned one number, but each row has its own.")
            try:
                got = shaped(result, truth.shape, case, "one number for each row")
            except NotANumber:
                nan = f"{case} your function returned NaN: 0 * log(0) is no number."
                raise Wrong(nan) from None
            mistakes = {
                ", in nats: the logarithm has another base than 2.": truth * 0.693147,
                ", with a logarithm of base 10.": truth * 0.30103,
                ". Entropy is not below zero: a logarithm of a share is.": -truth,
                ": divided by the number of tokens. It is a sum.": truth / rows.shape[-1],
                ". That is how many tokens; how many bits is that?": 2**truth,
            }
            said = f"{case} your function returned {got.flatten()[0]:.4f}"
            compare(got, truth, said, mistakes, f", but it is {truth.flatten()[0]:.4f}.", 1e-3)
        return (
            "A row with h bits is as undecided as one spread evenly over 2 to the power h tokens."
        )


class FarthestHead(Task):
    """The head with the largest mean attention distance."""

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
        said = f"({layer}, {head})"
        if (head, layer) == divmod(farthest, heads) and layer != head:
            raise Wrong(f"{said} has the right numbers in the wrong order.")
        if (layer - 1, head - 1) == divmod(farthest, heads):
            raise Wrong(f"{said} counts from one. Layers and heads start at 0.")
        if not (0 <= layer < layers and 0 <= head < heads):
            raise Wrong(f"There is no {said}: {layers} layers, {heads} heads, from 0.")
        there = self.distance[layer, head].item()
        if (layer, head) == divmod(farthest, heads):
            return f"Head {head} of layer {layer} looks {there:.0f} pixels far."
        if math.isnan(there):
            raise Wrong(f"{said} was left out: it gives nearly everything to a sink.")
        if (layer, head) == divmod(nearest, heads):
            raise Wrong(f"{said} looks {there:.0f} pixels far: the nearest.")
        raise Wrong(f"{said} looks {there:.1f} pixels far. Another one looks farther.")


class RolloutMax(Task):
    """Rollout with the maximum over the heads."""

    def __init__(self, attn):
        super().__init__()
        self.attn = attn[0].detach().float().cpu()

    def _judge(self, answer):
        rollout_max = function(answer)
        cases = {
            "3 layers of 2 heads and 5 tokens": random(3, 2, 5, 5).mul(2).softmax(dim=-1),
            "the attention of the first picture": self.attn,
        }
        for name, attn in cases.items():
            case, truth = f"With {name}", rollout(attn)
            result = call(rollout_max, attn, case=case)
            got = shaped(result, truth.shape, case, "tokens by tokens")
            mistakes = {
                ", as it should. But the heads were averaged.": {"heads": "mean"},
                ". Each row should sum to one, before the next layer.": {"normalise": None},
                ". Did you divide by the sum of each column?": {"normalise": -2},
                ", as it should. But the layers are in the wrong order.": {"later_left": False},
                ", as it should. But mix with the identity first, then divide.": {"early": True},
                ", as it should. But a token also keeps itself: where is the identity?": (
                    {"keep": 0.0}
                ),
            }
            mistakes = {words: rollout(attn, **option) for words, option in mistakes.items()}
            said = f"{case} your first row sums to {got[0].sum():.3f}"
            away = f" and {(got - truth).abs().max():.4f} is the largest difference."
            compare(got, truth, said, mistakes, away)
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

    def _judge(self, answer):
        hide = function(answer)
        scores = torch.stack([random(14 * 14, seed=s).view(14, 14) for s in (1, 2)])
        cases = [
            (random(1, 3, 6, 8).abs() + 1, torch.arange(12.0).view(1, 3, 4), 5),
            (random(2, 3, 224, 224) + 9, scores, 40),
            (random(2, 3, 224, 224) + 9, scores, 0),
        ]
        for pixels, maps, count in cases:
            size = pixels.shape[-2:]
            best, least = masked(maps, count, size), masked(-maps, count, size)
            of_first = masked(maps[:1].expand_as(maps), count, size)
            case = (
                f"With {len(pixels)} pictures, {maps[0].numel()} patches each, and count = {count}"
            )
            given = pixels.clone()
            result = call(lambda m, n, given=given: hide(given, m, n), maps, count, case=case)
            got = shaped(result, pixels.shape, case, "the shape of the pixels")
            mistakes = {
                " nothing was hidden.": pixels,
                " the least important patches were hidden.": pixels * (1 - least),
                " the most important patches are all that is left. Hide them.": pixels * best,
                " the second picture lost the patches of the first.": pixels * (1 - of_first),
                " the patches became black, at -1. Grey is 0.": pixels * (1 - best) - best,
            }
            zeros = got.eq(0).all(dim=1).cpu().double().mean() * maps[0].numel()
            otherwise = (
                f" about {zeros:.0f} patches are grey in your pictures, and some pixels are not "
                "what they should be. Are the right patches hidden, and whole?"
            )
            compare(got, pixels * (1 - best), case, mistakes, otherwise)
            if not torch.equal(given, pixels):
                raise Wrong(f"{case} the result is right, but `pixels` was changed. Take a copy.")
        return "What was hidden is grey now. How far does the probability of the class fall?"


def masked(maps: torch.Tensor, count: int, size) -> torch.Tensor:
    """1 on the pixels of the `count` highest patches, else 0: (B, 1, height, width)."""
    rank = maps.flatten(1).argsort(dim=1, descending=True).argsort(dim=1)
    mask = (rank < count).view_as(maps)[:, None].float()
    return torch.nn.functional.interpolate(mask, size=size)
