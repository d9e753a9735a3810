"""An old place of `training.History`, until notebook 04 no longer asks for it."""

from .training import History

__all__ = ["History", "measured"]


def measured(value: float, digits: int = 1, width: int = 6) -> str:
    """A number as text of a fixed width."""
    return f"{value:{width}.{digits}f}"
