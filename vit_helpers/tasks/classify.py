"""Tasks of notebook 01: count tokens, cut patches, a safe softmax, the calibration error."""

import torch

from .answers import Wrong, call, compare, function, numbers, quote, random, shaped, whole_number
from .core import Task


class CountTokens(Task):
    """How many tokens a larger picture makes."""

    def __init__(self, model):
        super().__init__()
        self.config = model.config

    def _judge(self, answer):
        said, size = whole_number(answer), self.config.image_size
        side = 384 // self.config.patch_size
        here = (size // self.config.patch_size) ** 2 + 1
        pixels = (384**2, 384**2 + 1, 3 * 384**2)
        mistakes = {
            " is the number of patches. Does the model read nothing but patches?": side**2,
            f" is the number for pictures of {size} pixels.": (here, here - 1),
            " fits one row of patches. How many rows are there?": (side, side + 1),
            " counts single pixels. A token stands for a whole patch.": pixels,
        }
        way = "many" if said > side**2 + 1 else "few"
        otherwise = f" tokens are too {way}. How many patches fit into one row?"
        compare(said, side**2 + 1, str(said), mistakes, otherwise)
        return f"{side} x {side} patches and [CLS]: each patch keeps its size, so there are more."


class CutPatches(Task):
    """A batch of pictures as a batch of flat patches."""

    def __init__(self, pixels):
        super().__init__()
        self.pixels = pixels[:1].detach().float().cpu()

    def _judge(self, answer):
        cut = function(answer)
        for pixels, size in ((random(2, 3, 4, 6), 2), (random(1, 2, 6, 9), 3), (self.pixels, 16)):
            case = f"With pixels of shape {tuple(pixels.shape)} and size = {size}"
            truth = torch.nn.functional.unfold(pixels, size, stride=size).mT
            result = call(cut, pixels, size, case=case)
            got = shaped(result, truth.shape, case, "pictures, patches, numbers of a patch")
            six = pixels.unflatten(2, (-1, size)).unflatten(4, (-1, size))
            mistakes = {
                " the numbers were only counted off in the order of memory: a patch then holds "
                "whole lines of the picture. Axes must be moved before.": pixels,
                " your patches come column by column, but row by row is wanted.": (
                    six.permute(0, 4, 2, 1, 3, 5)
                ),
                " the channels change fastest in your patches; they should change slowest.": (
                    six.permute(0, 2, 4, 3, 5, 1)
                ),
                " lines and columns have changed places inside of your patches.": (
                    six.permute(0, 2, 4, 1, 5, 3)
                ),
            }
            share = (got - truth).abs().gt(1e-6).cpu().double().mean()
            otherwise = f" {100 * share:.0f} % of your numbers are in a wrong place."
            compare(got, truth, case, mistakes, otherwise, 1e-6)
        return "A row of your result is one patch. A linear layer makes a token of it."


class Softmax(Task):
    """Softmax with a temperature that does not overflow."""

    def __init__(self, logits):
        super().__init__()
        self.logits = torch.as_tensor(logits).detach().float().cpu()

    def _judge(self, answer):
        softmax = function(answer)
        for logits, t in ((random(6), 1.0), (random(6, seed=1), 0.5), (self.logits, 4.0)):
            case = f"With {len(logits)} logits and temperature {t:g}"
            result = call(softmax, logits, t, case=case)
            got = shaped(result, logits.shape, case, "one number a class")
            truth, largest = (logits / t).softmax(dim=-1), f"{100 * got.max():.1f} %"
            mistakes = {
                " you returned logarithms: they are below zero.": truth.log(),
                " you returned the powers. They do not sum to one yet.": (logits / t).exp(),
                " your shares are those of the sigmoid: each class on its own, "
                f"they sum to {got.sum():.2f}.": (logits / t).sigmoid(),
                f" your largest share is {largest}, as at temperature 1. Is the temperature "
                "used?": logits.softmax(dim=-1),
                f" your largest share is {largest}. A larger temperature should make it less "
                "sure.": (logits * t).softmax(dim=-1),
            }
            otherwise = (
                f" your shares sum to {got.sum():.4f} and the largest is {largest}, but it should "
                f"be {100 * truth.max():.1f} %."
            )
            compare(got, truth, case, mistakes, otherwise)
        case, logits = "logits of 1000, 999 and 0", torch.tensor([1000.0, 999.0, 0.0])
        result = call(softmax, logits, 1.0, case=f"With {case}")
        try:
            got = torch.as_tensor(numbers(result))
        except Wrong:
            raise Wrong(
                f"With small logits your function is right. With {case} it does not return "
                "numbers: exp(1000) is infinite. Can you make the logits smaller first?"
            ) from None
        said = f"With {case} you returned {quote(got)}"
        compare(got, logits.softmax(dim=-1), said, {}, ": with smaller ones it was right.")
        return "Right also where the plain formula overflows. Libraries take off the maximum too."


class CalibrationError(Task):
    """The expected calibration error."""

    def _judge(self, answer):
        ece = function(answer)
        generator = torch.Generator().manual_seed(0)
        random_confidence = torch.rand(200, generator=generator) ** 2
        random_right = torch.rand(200, generator=generator) < 0.5
        few = torch.tensor([0.6, 0.8, 0.9, 0.3]), torch.tensor([True, True, False, True])
        one = torch.tensor([1.0, 0.85, 0.45, 0.55]), torch.tensor([False, True, True, True])
        cases = {
            "4 pictures and 2 bins": (*few, 2),
            "4 pictures, one of them with confidence 1, and 5 bins": (*one, 5),
            "200 pictures and 10 bins": (random_confidence, random_right, 10),
        }
        for name, (confidence, right, bins) in cases.items():
            case = f"With {name}"
            got = shaped(call(ece, confidence, right, bins, case=case), (), case, "one number")
            gaps, shares = gaps_and_shares(confidence.cpu().double(), right.cpu().double(), bins)
            truth = (shares * gaps.abs()).sum()
            mistakes = {
                "each bin counts the same in it, however few pictures it holds.": gaps.abs().mean(),
                "gaps of different signs cancel in it. Take their absolute values.": (
                    (shares * gaps).sum()
                ),
                "that is the accuracy, taken off the mean confidence. Are the bins used?": (
                    (confidence.mean() - right.cpu().double().mean()).abs()
                ),
                "that is the largest gap, but the mean is wanted.": gaps.abs().max(),
                "it has been divided by the number of bins once more.": truth / len(gaps),
                "in percent. Leave it between 0 and 1.": 100 * truth,
            }
            said = f"{case} your function returned {got:.4f}"
            mistakes = {f": {words}": outcome for words, outcome in mistakes.items()}
            compare(got, truth, said, mistakes, f", but it is {truth:.4f}.")
        return "0 would mean: of all answers given with 70 %, exactly 70 % are right."


def gaps_and_shares(confidence, right, bins: int):
    """Of each bin with pictures: mean confidence minus accuracy, and its share of all pictures."""
    number = (confidence * bins).long().clamp(max=bins - 1)
    inside = [number == b for b in number.unique()]
    gaps = [confidence[one].mean() - right[one].mean() for one in inside]
    return torch.stack(gaps), torch.stack([one.cpu().double().mean() for one in inside])
