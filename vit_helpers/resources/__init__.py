"""What the course brings from outside: the table, where a thing is here, how it gets here."""

import importlib

from .table import DATASETS, KIT, KIT_FOLDERS, RESOURCES, SOURCES, File, Resource, get

_OF_STORE = set(
    "SPARE_BYTES ResourceError Settings bring files_of find hub_answers size_in_words".split()
)


def __getattr__(name):
    # Not at the top: a Python without requests and filelock can then import `packages`.
    if name in _OF_STORE:
        return getattr(importlib.import_module(f"{__name__}.store"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
