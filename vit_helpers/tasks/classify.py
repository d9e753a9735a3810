"""Tasks of notebook 01: count tokens, cut patches, a safe softmax, the calibration error."""

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
    minutes = 3
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


class CutPatches(Task):
    """A batch of pictures as a batch of flat patches."""

    title = "Cut a picture into patches"
    difficulty = MEDIUM
    minutes = 10
    question = """
        Write the cut yourself; the network of step 6 will read what your function returns. `cut`
        gets `pixels` of shape (pictures, channels, height, width) and the side `size` of a patch.
        It returns shape (pictures, patches, channels * size * size).

        The patches come row by row from the top left. Inside a patch come all numbers of the first
        channel, row by row, then those of the second, and so on. Height and width are multiples
        of `size`.
        """
    make = "CutPatches(pixels)"
    stub = """
def cut(pixels, size):
    return ...  # your code: shape (pictures, patches, channels * size * size)
"""
    solution_code = """
def cut(pixels, size):
    parts = pixels.unflatten(2, (-1, size)).unflatten(4, (-1, size))
    # (pictures, channels, rows, size, columns, size): bring rows and columns to the front
    parts = parts.permute(0, 2, 4, 1, 3, 5)
    return parts.flatten(3).flatten(1, 2)
"""
    hints = (
        "pixels.unflatten(2, (-1, size)) splits the height into rows of patches and lines inside "
        "a patch. The width can be split the same way.",
        "Six axes now. Put them in order with permute: pictures, rows, columns, channels, lines, "
        "and last the place inside a line.",
        "permute(0, 2, 4, 1, 3, 5), then flatten(3) for the numbers of a patch, and flatten(1, 2) "
        "for the list of patches.",
    )

    def __init__(self, pixels):
        super().__init__()
        self.pixels = pixels[:1].detach().float().cpu()

    def _judge(self, answer):
        cut = function(answer)
        for pixels, size in ((random(2, 3, 4, 6), 2), (random(1, 2, 6, 9), 3), (self.pixels, 16)):
            count, channels, height, width = pixels.shape
            case = f"pixels of shape {tuple(pixels.shape)} and size = {size}"
            truth = cut_patches(pixels, size)
            result = call(cut, pixels, size, case=case)
            got = shaped(result, truth.shape, case, "pictures, patches, numbers of a patch")
            if close(got, truth, 1e-6):
                continue
            six = pixels.unflatten(2, (-1, size)).unflatten(4, (-1, size))
            mistakes = {
                f"With {case} the numbers were only counted off in the order of memory: a patch "
                "then holds whole lines of the picture. Axes must be moved before.": (
                    pixels.reshape(truth.shape)
                ),
                f"With {case} your patches come column by column, but row by row is wanted.": (
                    six.permute(0, 4, 2, 1, 3, 5).reshape(truth.shape)
                ),
                f"With {case} the channels change fastest in your patches; they should change "
                "slowest.": six.permute(0, 2, 4, 3, 5, 1).reshape(truth.shape),
                f"With {case} lines and columns have changed places inside of your patches.": (
                    six.permute(0, 2, 4, 1, 5, 3).reshape(truth.shape)
                ),
            }
            recognise(got, mistakes, 1e-6)
            share = (got - truth).abs().gt(1e-6).cpu().double().mean()
            raise Wrong(f"With {case} {100 * share:.0f} % of your numbers are in a wrong place.")
        return "A row of your result is one patch. A linear layer makes a token of it."


def cut_patches(pixels: torch.Tensor, size: int) -> torch.Tensor:
    """Pictures (B, C, H, W) as patches (B, N, C * size * size), row by row."""
    return torch.nn.functional.unfold(pixels, size, stride=size).transpose(1, 2)


class Softmax(Task):
    """Softmax with a temperature that does not overflow."""

    title = "Write softmax, and make it safe"
    difficulty = HARD
    minutes = 8
    question = """
        Write softmax with a temperature, without calling one of the library; the figure below is
        drawn with yours. It gets logits of shape (classes,). The exponential of a number above 88
        is too large for 32 bits, but your function must survive logits of 1000.
        """
    make = "Softmax(logits)"
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


class CalibrationError(Task):
    """The expected calibration error."""

    title = "One number for calibration"
    difficulty = MEDIUM
    minutes = 10
    question = """
        Write the expected calibration error; the diagram below shows yours. `ece` gets
        `confidence` (one number from 0 to 1 for each picture), `right` (True where the answer was
        right) and the number of `bins`. Split the range from 0 to 1 into bins of equal width. In
        each bin that holds pictures, take the distance between the mean confidence and the share
        of right answers. Return the mean of these distances, where each bin counts by its number
        of pictures. A confidence of exactly 1 belongs to the last bin.
        """
    make = "CalibrationError()"
    stub = """
def ece(confidence, right, bins):
    return ...  # your code: one number from 0 to 1
"""
    solution_code = """
def ece(confidence, right, bins):
    number = (confidence * bins).long().clamp(max=bins - 1)  # the bin of each picture
    error = 0.0
    for b in number.unique():
        inside = number == b
        gap = confidence[inside].mean() - right[inside].float().mean()
        error += inside.float().mean() * gap.abs()
    return error
"""
    hints = (
        "(confidence * bins).long() is the number of each picture's bin. What happens at 1?",
        "For one bin: inside = number == b picks its pictures, and inside.float().mean() is the "
        "share of all pictures that it holds.",
        "Add up share * (mean confidence - mean of right).abs() over the bins.",
    )

    def _judge(self, answer):
        ece = function(answer)
        generator = torch.Generator().manual_seed(0)
        cases = {
            "4 pictures and 2 bins": (
                torch.tensor([0.6, 0.8, 0.9, 0.3]),
                torch.tensor([True, True, False, True]),
                2,
            ),
            "4 pictures, one of them with confidence 1, and 5 bins": (
                torch.tensor([1.0, 0.85, 0.45, 0.55]),
                torch.tensor([False, True, True, True]),
                5,
            ),
            "200 pictures and 10 bins": (
                torch.rand(200, generator=generator) ** 2,
                torch.rand(200, generator=generator) < 0.5,
                10,
            ),
        }
        for case, (confidence, right, bins) in cases.items():
            truth, others = calibration(confidence, right, bins)
            result = call(ece, confidence, right, bins, case=case)
            got = shaped(result, (), case, "one number")
            if close(got, truth, 1e-5):
                continue
            said = f"With {case} your function returned {got:.4f}"
            mistakes = {f"{said}: {words}": value for words, value in others.items()}
            recognise(got, mistakes, 1e-5)
            raise Wrong(f"{said}, but it is {truth:.4f}.")
        return "0 would mean: of all answers given with 70 %, exactly 70 % are right."


def calibration(confidence, right, bins: int):
    """The expected calibration error, and what typical mistakes give: `(error, {words: value})`."""
    confidence, right = confidence.cpu().double(), right.cpu().double()
    number = (confidence * bins).long().clamp(max=bins - 1)
    gaps, shares = [], []
    for b in number.unique():
        inside = number == b
        gaps.append(confidence[inside].mean() - right[inside].mean())
        shares.append(inside.cpu().double().mean())
    gaps, shares = torch.stack(gaps), torch.stack(shares)
    others = {
        "each bin counts the same in it, however few pictures it holds.": gaps.abs().mean(),
        "gaps of different signs cancel in it. Take their absolute values.": (shares * gaps).sum(),
        "that is the accuracy, taken off the mean confidence. Are the bins used?": (
            confidence.mean() - right.mean()
        ).abs(),
        "that is the largest gap, but the mean is wanted.": gaps.abs().max(),
        "it has been divided by the number of bins once more.": (shares * gaps.abs()).mean(),
        "in percent. Leave it between 0 and 1.": 100 * (shares * gaps.abs()).sum(),
    }
    return (shares * gaps.abs()).sum(), others


TASKS = register("01_classify", [CountTokens, CutPatches, Softmax, CalibrationError])
