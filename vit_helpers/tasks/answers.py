"""What a learner may put into a cell: numbers in any form, or a function, read and compared."""

import reprlib

import numpy as np
import torch

from .limit import TimeIsUp


class Wrong(Exception):
    """Raised by a check: the message tells the learner what is wrong with the answer."""


class NotAttempted(Exception):
    """Raised by a check when the dots of the stub are still there."""


def raised(error: BaseException) -> str:
    """An error in words: `raised ValueError: too large`."""
    try:
        text = " ".join(str(error).split())
    except BaseException:  # an error of the learner's own class may fail here
        text = ""
    short = text if len(text) <= 160 else text[:157] + "..."
    return f"raised {type(error).__name__}" + (f": {short.rstrip('.')}" if short else "")


def quote(value) -> str:
    """A value in a few words: numbers and short lists in full, arrays by their shape."""
    try:
        if isinstance(value, (torch.Tensor, np.ndarray)):
            kind = "tensor" if isinstance(value, torch.Tensor) else "array"
            shape = tuple(value.shape)
            if len(shape) <= 1 and int(np.prod(shape)) <= 6:
                return str(_plain(value).tolist())
            return f"{'an' if kind == 'array' else 'a'} {kind} of shape {shape}"
        if isinstance(value, (float, np.floating)):
            return f"{value:.6g}"
        if isinstance(value, np.generic):
            return repr(value.item())
        if callable(value):
            return f"the function `{getattr(value, '__name__', type(value).__name__)}`"
        return _short.repr(value)
    except TimeIsUp:
        raise
    except BaseException:  # its own `__repr__` fails
        return f"an object of type {type(value).__name__}"


_short = reprlib.Repr()
_short.maxstring = _short.maxother = 60


def _plain(value):
    """A tensor as an array, wherever it is and whether or not it keeps gradients."""
    if isinstance(value, torch.Tensor):
        kind = torch.float64 if value.is_floating_point() else value.dtype
        return value.detach().cpu().to(kind).numpy()
    return value


def numbers(answer, what: str = "Your answer") -> np.ndarray:
    """Any form of numbers as a float64 array: list, tuple, array, tensor, nested or not.

    Raises:
        Wrong: If it holds something else, or NaN, or if its rows differ in length.
        NotAttempted: If there are dots in it.
    """
    if answer is ... or (isinstance(answer, (list, tuple)) and any(a is ... for a in answer)):
        raise NotAttempted
    if answer is None:
        raise Wrong(f"{what} is None. Does your code end with a value, or with `return`?")
    if isinstance(answer, (str, bytes)):
        raise Wrong(f"{what} is the text {quote(answer)}, but numbers are wanted, without quotes.")
    if callable(answer):
        raise Wrong(f"{what} is {quote(answer)} itself. Call it, and give what it returns.")
    if isinstance(answer, (dict, set, frozenset)):
        raise Wrong(
            f"{what} is {quote(answer)}: {type(answer).__name__}s have no order; use a list."
        )
    if isinstance(answer, torch.Tensor) and (answer.layout != torch.strided or answer.is_meta):
        raise Wrong(f"{what} is a tensor without plain numbers in it: use an ordinary one.")
    try:
        array = np.asarray(_nested(answer))
        if array.dtype.kind in "SU":  # text; NumPy would turn "3" into 3
            raise TypeError
        complex_numbers = np.iscomplexobj(array)
        array = array.astype(np.float64) if not complex_numbers else array
    except (TypeError, ValueError, OverflowError, RuntimeError, RecursionError):
        raise Wrong(
            f"{what} is {quote(answer)}, which is not a number or a list of numbers."
        ) from None
    if complex_numbers:
        raise Wrong(f"{what} is {quote(answer)}: complex numbers have no place here.")
    if np.isnan(array).any():
        place = (
            "" if array.ndim == 0 else f" in {int(np.isnan(array).sum())} of {array.size} places"
        )
        raise Wrong(f"{what} is NaN (not a number){place}. Was 0 divided by 0, or inf by inf?")
    return array


def _nested(answer):
    """Tensors inside of lists as arrays, so that NumPy can put them together."""
    if isinstance(answer, torch.Tensor):
        return _plain(answer)
    if isinstance(answer, (list, tuple)):
        return [_nested(a) for a in answer]
    return answer


def number(answer, what: str = "Your answer") -> float:
    """Any form of one number as a float; a list or tensor with one number in it counts.

    Raises:
        Wrong: If it is not one finite number.
    """
    if isinstance(answer, (bool, np.bool_)):
        raise Wrong(f"{what} is {answer}, but a number is wanted.")
    array = numbers(answer, what)
    if array.size != 1:
        raise Wrong(f"{what} has {array.size} numbers (shape {array.shape}), but one is wanted.")
    value = float(array.reshape(()))
    if not np.isfinite(value):
        raise Wrong(f"{what} is {value}: no finite number.")
    return value


def whole_number(answer, what: str = "Your answer") -> int:
    """Any form of one whole number as an int; 577.0 counts.

    Raises:
        Wrong: If it is not one whole number.
    """
    value = number(answer, what)
    if value != int(value):
        raise Wrong(f"{what} is {value:g}, but it must be a whole number.")
    return int(value)


def function(answer):
    """Return the answer if it can be called.

    Raises:
        Wrong: If it cannot.
    """
    if callable(answer):
        return answer
    if answer is None:
        raise Wrong("Your answer is None, but a function is wanted: give its name, without ().")
    raise Wrong(f"Your answer is {quote(answer)}, but a function is wanted: give its name only.")


def call(answer, *args, case: str, returns: bool = True):
    """Call the learner's function.

    Args:
        answer: The function.
        args: Its arguments; tensors are copied, so that a function may change them.
        case: The input in words, for the message, such as `10 logits and k = 3`.
        returns: Whether the function has to return something.

    Raises:
        Wrong: If it raises (its error is quoted), or returns nothing.
        NotAttempted: If it returns the dots of the stub.
    """
    copies = [a.detach().clone() if isinstance(a, torch.Tensor) else a for a in args]
    try:
        result = answer(*copies)
    except TimeIsUp:
        raise
    except BaseException as error:  # SystemExit too: a check must not end the kernel
        raise Wrong(f"With {case} your function {raised(error)}.") from None
    if result is ...:
        raise NotAttempted
    if result is None and returns:
        raise Wrong(f"With {case} your function returned None. Does it end with `return`?")
    return result


def shaped(result, shape: tuple, case: str, meaning: str) -> torch.Tensor:
    """What a function returned, as a float64 tensor of a certain shape.

    Args:
        result: What it returned.
        shape: The right shape.
        case: The input in words.
        meaning: What the axes are, for the message, such as `(tokens, tokens)`.

    Raises:
        Wrong: If it holds no numbers, NaN, or has another shape.
    """
    array = numbers(result, f"With {case} what your function returned")
    if array.shape != tuple(shape):
        raise Wrong(
            f"With {case} your function returned the shape {array.shape}, but it should be "
            f"{tuple(shape)}: {meaning}."
        )
    return torch.tensor(array)


def close(a: torch.Tensor, b: torch.Tensor, tolerance: float) -> bool:
    """Whether two tensors differ by at most `tolerance` in every place."""
    if a.shape != b.shape:
        return False
    return bool(((a.cpu().double() - b.cpu().double()).abs() <= tolerance).all())


def recognise(result: torch.Tensor, mistakes: dict, tolerance: float) -> None:
    """Raise `Wrong` if a result equals that of a typical mistake.

    Args:
        result: What the learner's function returned.
        mistakes: What to say about a mistake, and the result that it leads to.
        tolerance: How near counts as equal.
    """
    for message, outcome in mistakes.items():
        if close(result, torch.as_tensor(outcome), tolerance):
            raise Wrong(message)


def tiny_vit(classes: int = 3, blocks: int = 5, seed: int = 0):
    """A ViT small enough to be trained within a check: 8 wide, pictures of 16 x 16 pixels."""
    from transformers import ViTConfig, ViTForImageClassification

    config = ViTConfig(
        hidden_size=8,
        num_hidden_layers=blocks,
        num_attention_heads=2,
        intermediate_size=16,
        image_size=16,
        patch_size=8,
        num_labels=classes,
        initializer_range=0.3,
    )
    with torch.random.fork_rng(devices=[]):  # the notebook's own random numbers stay as they are
        torch.manual_seed(seed)
        return ViTForImageClassification(config).eval()


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    """Random numbers with a generator of their own, normally distributed."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))
