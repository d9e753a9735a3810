"""The one exception of the course: a sentence, not a traceback of five libraries."""


class CourseError(Exception):
    """Something the reader can mend. The message names the value and says what to do."""

    def _render_traceback_(self):
        # IPython calls this in place of printing the traceback.
        return [f"{type(self).__name__}: {self}"]


def one_of(name, value, allowed):
    """Return `value` if it is one of `allowed`, else raise a `CourseError` that lists them."""
    if value in allowed:
        return value
    choices = ", ".join(repr(a) for a in allowed)
    raise CourseError(f"{name} is {value!r}, but it must be one of {choices}.")


def in_range(name, value, size):
    """Return `value` if it is an index of `size` things, else raise a `CourseError`.

    Negative numbers count from the end, as in a Python list.
    """
    if isinstance(value, bool) or not isinstance(value, int):
        raise CourseError(f"{name} is {value!r}, but it must be a whole number.")
    if -size <= value < size:
        return value % size
    raise CourseError(
        f"There is no {name} {value}: this model has {size}, numbered 0 to {size - 1}."
    )
