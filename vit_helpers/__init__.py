"""Helpers for the hands-on course on Vision Transformers: the plumbing behind its notebooks."""

import importlib

__version__ = "0.1.0"

_MODULES = tuple(
    "attention data efficiency errors images models offline_kit plots resources runtime tasks "
    "training widgets".split()
)
__all__ = [*_MODULES, "show_source"]

# Modules of the first edition, with what to use now.
_GONE = {
    "bench": "`python -m benchmarks inference` from a clone of the repository",
    "bench_training": "`python -m benchmarks training` from a clone of the repository",
    "cache": "vit_helpers.resources",
    "checkpoints": "vit_helpers.training",
    "colab": "vit_helpers.resources.packages",
    "doctor": "`python -m vit_helpers doctor`",
    "explorer": "vit_helpers.widgets.explorer",
    "faithfulness": "vit_helpers.attention",
    "fetch": "vit_helpers.resources.download",
    "frozen": "vit_helpers.training.cache_features",
    "history": "vit_helpers.training.history",
    "mirror": "vit_helpers.resources.flowers",
    "runner": "`python -m course run` from a clone of the repository",
    "strategies": "notebook 04, whose cells train each of them",
    "train": "`python -m vit_helpers train`",
    "web": "vit_helpers.resources.download",
}


def show_source(obj):
    """The source code of a function, class or module of the course, highlighted by Jupyter."""
    import inspect

    from IPython.display import Code

    return Code(inspect.getsource(obj), language="python")


def __getattr__(name):
    # PEP 562: a module of the package is imported at the first `vit_helpers.<module>`.
    if name in _MODULES:
        return importlib.import_module(f"{__name__}.{name}")
    if name in _GONE:
        from .errors import CourseError

        raise CourseError(f"vit_helpers.{name} is gone; in its place: {_GONE[name]}.")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
