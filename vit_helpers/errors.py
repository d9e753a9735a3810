"""The one exception of the course: a sentence, not a traceback of five libraries."""

import math
import operator
import sys


class CourseError(Exception):
    """Something the reader can mend. The message names the value and says what to do."""

    def _render_traceback_(self):
        # IPython calls this in place of printing the traceback.
        return [f"{type(self).__name__}: {self}"]


def show_sentences() -> None:
    """In a plain Python, too, a `CourseError` is a sentence, and no letter stops a print."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")
    if sys.excepthook is sys.__excepthook__:
        sys.excepthook = _show


def _show(kind, error, trace):
    if issubclass(kind, CourseError):
        print(f"{kind.__name__}: {error}", file=sys.stderr)
    else:
        sys.__excepthook__(kind, error, trace)


def exit_status(command) -> int:
    """What a command line ends with: `command()`, or 2 after a sentence, or 130 after Ctrl-C."""
    show_sentences()
    try:
        return command()
    except CourseError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except OSError as error:  # such as a file where --to wants a folder
        if error.filename is None:
            raise
        print(f"error: {error.filename}: {error.strerror}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\nStopped: what is written is whole.", file=sys.stderr)
        return 130


def one_of(name, value, allowed):
    """Return `value` if it is one of `allowed`, else raise a `CourseError` that lists them."""
    if value in allowed:
        return value
    choices = ", ".join(repr(a) for a in allowed)
    raise CourseError(f"{name} is {value!r}, but it must be one of {choices}.")


def whole_number(name, value, least=None, most=None):
    """`value` as an `int` (from NumPy or torch, too) if it is in range, or a `CourseError`."""
    return _number(name, value, operator.index, "a whole number", least=least, most=most)


def number(name, value, above=None, least=None, most=None):
    """`value` as a `float` if it is finite and in range, or a `CourseError`."""
    return _number(name, value, float, "a number", above, least, most)


def _number(name, value, convert, kind, above=None, least=None, most=None):
    try:
        found = math.nan if isinstance(value, (bool, str, bytes)) else convert(value)
    except (TypeError, ValueError, OverflowError, RuntimeError):
        found = math.nan
    low = -math.inf if least is None else least
    high = math.inf if most is None else most
    if low <= found <= high and abs(found) != math.inf and (above is None or found > above):
        return found
    limits = (("above", above), ("from", least), ("to", most))
    wanted = kind + "".join(f" {word} {end}" for word, end in limits if end is not None)
    raise CourseError(f"{name} is {value!r}, but it must be {wanted}.")


# Names of the first edition, with what to use now.
OLD_NAMES = {
    "bench": "`python -m benchmarks inference` from a clone of the repository",
    "data.load_image": "images.load_image",
    "data.own_pictures": "data.evaluation_images",
    "data.patches": "images.patches",
    "data.take": "data.balanced_subset",
    "data.to_rgb": "images.to_rgb",
    "data.unnormalise": "images.unnormalise",
    "doctor": "`python -m vit_helpers doctor`",
    "efficiency.run_alone": "efficiency.run_standalone",
    "explorer": "vit_helpers.widgets.explorer",
    "faithfulness": "vit_helpers.attention",
    "frozen": "vit_helpers.training.cache_features",
    "models.load": "from_pretrained(path)",
    "models.load_classifier": "from_pretrained(rt.locate('classifier'))",
    "models.load_saved": "from_pretrained(folder)",
    "runner": "`python -m course run` from a clone of the repository",
    "runtime.setup": "runtime.start",
    "strategies": "notebook 04, whose cells train each of them",
    "train": "`python -m vit_helpers train`",
    "training.cls_features": "training.cache_features",
}


def old_names(module):
    """The `__getattr__` of a module (PEP 562): for an old name, a sentence on what to use now."""

    def find(name):
        old = f"{module}.{name}".removeprefix("vit_helpers.")
        if old in OLD_NAMES:
            raise CourseError(f"{old} is gone; in its place: {OLD_NAMES[old]}.")
        raise AttributeError(f"module {module!r} has no attribute {name!r}")

    return find
