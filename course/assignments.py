"""The notebooks as assignments for nbgrader: `python -m course assignments`.

Each task becomes two cells: the learner's, with our solution between nbgrader's marks, and one that
grades it with the check of the course. `nbgrader generate_assignment` takes the solutions out and
leaves the stubs; `nbgrader autograde` runs what was handed in and counts the points.
"""

from pathlib import Path

from vit_helpers.errors import CourseError
from vit_helpers.tasks.core import EASY, HARD, MEDIUM

from . import editions, read_notebook
from .editions import of_notebook

POINTS = {EASY: 1, MEDIUM: 2, HARD: 3}
CONFIG = '''\
"""Settings of nbgrader for this folder: run its commands from here."""

import os

c = get_config()
c.CourseDirectory.course_id = "vit"
# In place of a solution; the stub with its dots stands above it.
c.ClearSolutions.code_stub = {"python": "# Put your answer in place of the dots."}
c.ExecutePreprocessor.timeout = 1200  # seconds for a cell: some train a model
os.environ.setdefault("VIT_SOURCE", "offline")  # every submission is graded on the same pictures
'''
GRADER = """\
# {points} points
verdict = tasks.{module}.{make}.verdict({given})
assert verdict.state == "right", verdict.message"""


def write(paths: list[Path], to: Path) -> list[Path]:
    """Write a folder for nbgrader: `source/NAME/NAME.ipynb` for each notebook, and the settings.

    Args:
        paths: The notebooks of the course.
        to: The folder of the nbgrader course. What is released or handed in there stays.

    Returns:
        The files written.

    Raises:
        CourseError: If the cell of a task is gone, or no longer holds its stub.
    """
    import nbformat

    made = {path: assignment(read_notebook(path), path.stem) for path in paths}
    to.mkdir(parents=True, exist_ok=True)
    (to / "nbgrader_config.py").write_text(CONFIG, encoding="utf-8")
    written = [to / "nbgrader_config.py"]
    for path, notebook in made.items():
        target = to / "source" / path.stem / path.name
        target.parent.mkdir(parents=True, exist_ok=True)
        nbformat.write(notebook, target)
        written.append(target)
    return written


def assignment(notebook, stem: str):
    """A notebook with nbgrader's cells in it, without outputs; it is changed and returned.

    Raises:
        CourseError: If the cell of a task is gone, or no longer holds its stub.
    """
    from nbformat.v4 import new_code_cell

    if not of_notebook(stem):
        raise CourseError(f"{stem}.ipynb is no notebook of the course: it has no tasks.")
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
    for task in of_notebook(stem):
        cell = editions.task_cell(notebook, stem, task)
        marked = f"{task.stub}\n### BEGIN SOLUTION\n{task.solution_code}\n### END SOLUTION"
        cell.source = cell.source.replace(task.stub, marked)
        cell.metadata["nbgrader"] = _metadata(f"task-{task.id}", solution=True)
        grader = new_code_cell(
            GRADER.format(
                points=POINTS[task.difficulty],
                module=task.__module__.rpartition(".")[2],
                make=task.make,
                given=task.given(),
            ),
            id=f"grade-{task.__name__}",
        )
        points = POINTS[task.difficulty]
        grader.metadata["nbgrader"] = _metadata(f"grade-{task.id}", grade=True, points=points)
        notebook.cells.insert(notebook.cells.index(cell) + 1, grader)
    return notebook


def points(stem: str) -> int:
    """What a whole notebook is worth."""
    return sum(POINTS[task.difficulty] for task in of_notebook(stem))


def _metadata(grade_id: str, *, solution=False, grade=False, points: int | None = None) -> dict:
    """nbgrader's own description of a cell; its schema is at nbgrader/nbgraderformat/v3.py."""
    described = {
        "schema_version": 3,
        "grade_id": grade_id.replace(".", "-"),
        "grade": grade,
        "solution": solution,
        "locked": grade,
        "task": False,
    }
    return described | ({} if points is None else {"points": points})
