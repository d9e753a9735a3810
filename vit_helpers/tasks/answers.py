"""What a learner may put into a cell: numbers in any form, or a function, read and compared."""

import reprlib

import numpy as np
import torch

from .limit import TimeIsUp


class Wrong(Exception):
    """Raised by a check: the message tells the learner what is wrong with the answer."""


class NotANumber(Wrong):
    """The answer holds NaN."""


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
            if len(shape) <= 1 and np.prod(shape) <= 6:
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


def numbers(answer, what: str = "Your answer") -> np.ndarray:
    """Any form of numbers as a float64 array: list, tuple, array, tensor, nested or not.

    Raises `Wrong` for anything else, `NotAttempted` for dots.
    """
    if answer is ... or (isinstance(answer, (list, tuple)) and any(a is ... for a in answer)):
        raise NotAttempted
    if answer is None:
        raise Wrong(f"{what} is None. Does your code end with a value, or with `return`?")
    said = f"{what} is {quote(answer)}"
    if isinstance(answer, (str, bytes)):
        raise Wrong(f"{what} is the text {quote(answer)}, but numbers are wanted, without quotes.")
    if callable(answer):
        raise Wrong(f"{said} itself. Call it, and give what it returns.")
    if isinstance(answer, (dict, set, frozenset)):
        raise Wrong(f"{said}: {type(answer).__name__}s have no order; use a list.")
    if isinstance(answer, torch.Tensor) and (answer.layout != torch.strided or answer.is_meta):
        raise Wrong(f"{what} is a tensor without plain numbers in it: use an ordinary one.")
    try:
        array = np.asarray(_plain(answer))
        if array.dtype.kind in "SU":  # text; NumPy would turn "3" into 3
            raise TypeError
        if not np.iscomplexobj(array):
            array = array.astype(np.float64)
    except (TypeError, ValueError, OverflowError, RuntimeError, RecursionError):
        raise Wrong(f"{said}, which is not a number or a list of numbers.") from None
    if np.iscomplexobj(array):
        raise Wrong(f"{said}: complex numbers have no place here.")
    if count := int(np.isnan(array).sum()):
        places = f" in {count} of {array.size} places" if array.ndim else ""
        raise NotANumber(
            f"{what} is NaN (not a number){places}. Was 0 divided by 0, or inf by inf?"
        )
    return array


def _plain(value):
    """Tensors as arrays, wherever they are, with gradients or not; those inside of lists too."""
    if isinstance(value, torch.Tensor):
        kind = torch.float64 if value.is_floating_point() else value.dtype
        return value.detach().cpu().to(kind).numpy()
    if isinstance(value, (list, tuple)):
        return [_plain(one) for one in value]
    return value


def number(answer, what: str = "Your answer") -> float:
    """One finite number as a float, or `Wrong`; a list or tensor with one number in it counts."""
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
    """One whole number as an int, or `Wrong`; 577.0 counts."""
    value = number(answer, what)
    if value != int(value):
        raise Wrong(f"{what} is {value:g}, but it must be a whole number.")
    return int(value)


def function(answer):
    """The answer if it can be called, or `Wrong`."""
    if callable(answer):
        return answer
    if answer is None:
        raise Wrong("Your answer is None, but a function is wanted: give its name, without ().")
    raise Wrong(f"Your answer is {quote(answer)}, but a function is wanted: give its name only.")


def call(answer, *args, case: str):
    """Call the learner's function with copies of the tensors, so that it may change them.

    `case` names the input for the message, such as `With 10 logits and k = 3`. Raises `Wrong` if it
    raises or returns nothing, `NotAttempted` if it returns the dots of the stub.
    """
    copies = [a.detach().clone() if isinstance(a, torch.Tensor) else a for a in args]
    try:
        result = answer(*copies)
    except TimeIsUp:
        raise
    except BaseException as error:  # SystemExit too: a check must not end the kernel
        raise Wrong(f"{case} your function {raised(error)}.") from None
    if result is ...:
        raise NotAttempted
    if result is None:
        raise Wrong(f"{case} your function returned None. Does it end with `return`?")
    return result


def shaped(result, shape: tuple, case: str, meaning: str) -> torch.Tensor:
    """What a function returned, as a float64 tensor of a certain shape, or `Wrong`.

    `case` is as for `call`; `meaning` says what the axes are, such as `tokens by tokens`.
    """
    array = numbers(result, f"{case} what your function returned")
    if array.shape != tuple(shape):
        raise Wrong(
            f"{case} your function returned the shape {array.shape}, but it should be "
            f"{tuple(shape)}: {meaning}."
        )
    return torch.tensor(array)


def compare(got, truth, said: str, mistakes: dict, otherwise: str, near=1e-5) -> None:
    """Raise `Wrong` if what the learner has differs from the truth: numbers or tensors.

    The message begins with `said`. `mistakes` has how it goes on for a typical mistake -> what the
    mistake leads to: a result, a tuple of results, or a function that computes it; `otherwise` is
    for all others. `near` is how far apart numbers may be, or a function that compares tensors.
    """
    equal = near if callable(near) else lambda a, b: bool(((a - b).abs() <= near).all())

    def is_like(outcomes) -> bool:
        outcomes = outcomes() if callable(outcomes) else outcomes
        several = outcomes if isinstance(outcomes, tuple) else (outcomes,)
        return any(equal(_double(got), _double(one).reshape(np.shape(got))) for one in several)

    if is_like(truth):
        return
    for words, outcomes in mistakes.items():
        if is_like(outcomes):
            raise Wrong(said + words)
    raise Wrong(said + otherwise)


def _double(values) -> torch.Tensor:
    """A number or a tensor as a tensor of float64."""
    if isinstance(values, torch.Tensor):
        return values.cpu().double()
    return torch.tensor(float(values), dtype=torch.float64)


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    """Random numbers with a generator of their own, normally distributed."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))
