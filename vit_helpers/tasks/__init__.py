"""The learner's tasks: question, check, hints, solution. One module for each notebook.

In a notebook a task is made with the model and data of that notebook, and checked at once:

>>> from vit_helpers import tasks
>>> q1 = tasks.classify.CountTokens(model)
>>> answer = ...  # your answer: a whole number
>>> q1.check(answer)
○ Task 01.1: not attempted yet. Put your answer in place of the dots. q1.hint() helps.
"""

from ..errors import CourseError
from . import attention, cifar10, classify, flowers, inference
from .core import Record, Task, records

ALL = (
    *classify.TASKS,
    *cifar10.TASKS,
    *attention.TASKS,
    *flowers.TASKS,
    *inference.TASKS,
)


def of_notebook(stem: str) -> tuple[type[Task], ...]:
    """The tasks of a notebook, in order; none for a name that is not one of the course."""
    return tuple(task for task in ALL if task.notebook == stem)


def progress():
    """The learner's own tasks in this notebook: what was tried, and what is right.

    Returns:
        A pandas `DataFrame` with a row for each task of this notebook.

    Raises:
        CourseError: If no task has been made in this kernel.
    """
    import pandas as pd

    here = {task.notebook for task in ALL if task.id in records}
    if not here:
        raise CourseError("There is no task yet: run the cells of the notebook from the top.")
    rows = []
    for task in (task for task in ALL if task.notebook in here):
        record = records.get(task.id, Record(state="its cell has not been run"))
        rows.append(
            {
                "task": task.id,
                "title": task.title,
                "minutes": task.minutes,
                "difficulty": task.difficulty,
                "state": record.state,
                "tries": record.tries,
                "hints": record.hints,
            }
        )
    return pd.DataFrame(rows).set_index("task")
