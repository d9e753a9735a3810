"""The learner's tasks: question, check, hints, solution. One module for each notebook.

>>> from vit_helpers import tasks
>>> q1 = tasks.classify.CountTokens(model)
>>> answer = ...  # your answer: a whole number
>>> q1.check(answer)
○ Task 01.1: not attempted yet. Put your answer in place of the dots. q1.hint() helps.
"""

from ..errors import CourseError
from . import attention as attention
from . import cifar10 as cifar10
from . import classify as classify
from . import flowers as flowers
from . import inference as inference
from .core import Record, Task, records

ALL = tuple(sorted(Task.__subclasses__(), key=lambda task: task.id))


def progress():
    """A `DataFrame` of the learner's tasks in this notebook; `CourseError` where none was made."""
    import pandas as pd

    here = {task.notebook for task in ALL if task.id in records}
    if not here:
        raise CourseError("There is no task yet: run the cells of the notebook from the top.")
    found = [task for task in ALL if task.notebook in here]
    rows = [records.get(task.id, Record("its cell has not been run")) for task in found]
    about = {name: [getattr(t, name) for t in found] for name in ("title", "minutes", "difficulty")}
    done = {name: [getattr(r, name) for r in rows] for name in ("state", "tries", "hints")}
    return pd.DataFrame(about | done, index=pd.Index([t.id for t in found], name="task"))
