"""What the course brings from outside: the table, where a thing is here, how it gets here."""

from .store import (
    SPARE_BYTES,
    ResourceError,
    Settings,
    bring,
    files,
    find,
    hub_answers,
    size_in_words,
)
from .table import DATASETS, KIT, KIT_FOLDERS, RESOURCES, SOURCES, File, Resource, get
