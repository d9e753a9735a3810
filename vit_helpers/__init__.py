"""Helpers for the hands-on course on Vision Transformers.

A notebook shows the idea; this package holds the plumbing. Every module is imported when it
is first used, so `import vit_helpers` is fast even though torch and transformers are not.

>>> from vit_helpers import runtime
>>> rt = runtime.start()
"""

import importlib

__version__ = "0.1.0"

_MODULES = (
    "attention",
    "data",
    "efficiency",
    "errors",
    "images",
    "models",
    "offline_kit",
    "plots",
    "resources",
    "runtime",
    "tasks",
    "training",
    "widgets",
)

__all__ = [*_MODULES, "show_source"]

# Modules that moved, and names of the first edition with what to use now.
_MOVED = {"explorer": "widgets.explorer", "history": "training.history", "train": "cli.train"}
_GONE = {
    "bench": "`python -m benchmarks inference` from a clone of the repository",
    "bench_training": "`python -m benchmarks training` from a clone of the repository",
    "cache": "vit_helpers.resources",
    "checkpoints": "vit_helpers.training",
    "doctor": "`python -m vit_helpers doctor`",
    "faithfulness": "vit_helpers.attention",
    "fetch": "vit_helpers.resources.download",
    "frozen": "vit_helpers.training.cache_features",
    "mirror": "vit_helpers.resources.flowers",
    "runner": "`python -m course run` from a clone of the repository",
    "strategies": "notebook 04, whose cells train each of them",
    "web": "vit_helpers.resources.download",
}


def show_source(obj):
    """Show the source code of a function or class of the course, with its docstring.

    Args:
        obj: A function, method, class or module written in Python. Of a `functools.partial` the
            function itself is shown.

    Returns:
        An IPython `Code` object that Jupyter shows with highlighted syntax.
    """
    import inspect
    from functools import partial

    from IPython.display import Code

    while isinstance(obj, partial):
        obj = obj.func
    return Code(inspect.getsource(obj), language="python")


def __getattr__(name):
    # PEP 562: a module of the package is imported at the first `vit_helpers.<module>`.
    if name in _MODULES:
        return importlib.import_module(f"{__name__}.{name}")
    if name in _MOVED:
        return importlib.import_module(f"{__name__}.{_MOVED[name]}")
    if name in _GONE:
        from .errors import CourseError

        raise CourseError(f"vit_helpers.{name} is gone; in its place: {_GONE[name]}.")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__():
    return sorted(__all__)
