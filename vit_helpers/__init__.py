"""Helpers for the hands-on course on Vision Transformers: the plumbing behind its notebooks."""

import importlib

__version__ = "0.1.0"

_MODULES = tuple(
    "attention data efficiency errors images models offline_kit plots resources runtime tasks "
    "training widgets".split()
)
__all__ = [*_MODULES, "show_source"]


def show_source(obj):
    """The source code of a function, class or module of the course, highlighted by Jupyter."""
    import inspect

    from IPython.display import Code

    return Code(inspect.getsource(obj), language="python")


def __getattr__(name):
    # PEP 562: a module of the package is imported at the first `vit_helpers.<module>`.
    if name in _MODULES:
        return importlib.import_module(f"{__name__}.{name}")
    from .errors import old_names

    return old_names(__name__)(name)
