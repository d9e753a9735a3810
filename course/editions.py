"""The solved edition of the notebooks, and a table over submitted ones."""

import csv
import json
import re
from collections import Counter
from pathlib import Path

from vit_helpers.errors import CourseError
from vit_helpers.tasks import ALL
from vit_helpers.tasks.core import NOT_ATTEMPTED, RIGHT, WRONG, YOUR_TIME, Task

from . import read_notebook

NOT_RUN = "not run"
# What `Task.check` prints.
LINE = re.compile(rf"^[✓✗○] Task (\d\d\.\d): ({RIGHT}|{WRONG}|{NOT_ATTEMPTED})( \(after)?", re.M)
TIME = re.compile(rf"^✓ Task (\d\d\.\d): .*{YOUR_TIME} (\d+) min\.$", re.M)
LARGEST_BYTES = 100_000_000


def of_notebook(stem: str) -> tuple[type[Task], ...]:
    """The tasks of a notebook, in order; none for a name that is not one of the course."""
    return tuple(task for task in ALL if task.notebook == stem)


# --- what the notebooks hold ---------------------------------------------------------------------

HOW_TASKS_WORK = (
    "> **How the tasks work.** Put your answer in place of the dots and run the cell. `check` says "
    "at once whether it is right. `q1.hint()` in a cell of your own helps; call it again, and it "
    "helps more. `q1.solution()` shows one way to do it. Where the notebook goes on with what you "
    "have built, `q1.answer()` gives yours once it is right, and ours until then."
)


def question(task: type[Task]) -> str:
    """The cell above the learner's cell, in Markdown."""
    head = f"### Task {task.number}: {task.title}"
    about = f"*About {task.minutes} minutes · {task.difficulty}*"
    return "\n\n".join([head, about, task.question] + [HOW_TASKS_WORK] * (task.number == 1))


def learners_cell(task: type[Task]) -> str:
    """The learner's cell: make the task, the stub, the check."""
    module, variable = task.__module__.rpartition(".")[2], f"q{task.number}"
    space = "\n\n" if "def " in task.stub else ""  # two empty lines around a function
    return (
        f"{variable} = tasks.{module}.{task.make}\n{space}{task.stub}\n{space}"
        f"{variable}.check({task.given()})"
    )


# --- the solved edition --------------------------------------------------------------------------


def solve(notebook, stem: str) -> list[str]:
    """Put the solution of every task in place of its stub, and clear all outputs.

    Args:
        notebook: As `nbformat.read` returns it; it is changed.
        stem: Its name, such as `01_classify`.

    Returns:
        The ids of the solved tasks.

    Raises:
        CourseError: If a task has no cell in the notebook, or its cell no longer holds its stub.
    """
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    for cell in code:
        cell.outputs, cell.execution_count = [], None
    for task in of_notebook(stem):
        cell = task_cell(notebook, stem, task)
        cell.source = cell.source.replace(task.stub, task.solution_code)
    return [task.id for task in of_notebook(stem)]


def task_cell(notebook, stem: str, task: type[Task]):
    """The cell of a notebook that holds the stub of a task.

    Raises:
        CourseError: If there is no such cell, or if it no longer holds the stub.
    """
    cells = [c for c in notebook.cells if c.cell_type == "code" and _call_of(task) in c.source]
    if len(cells) != 1:
        raise CourseError(
            f"Task {task.id} has {len(cells)} cells in {stem}.ipynb, but it must have one: "
            f"look for {_call_of(task)!r} in the cell 'task-{task.__name__}'."
        )
    if cells[0].source.count(task.stub) != 1:
        raise CourseError(
            f"The cell {cells[0].id!r} of {stem}.ipynb does not hold the stub of {task.__name__} "
            f"(task {task.id}): make both the same."
        )
    return cells[0]


def _call_of(task: type[Task]) -> str:
    return f"tasks.{task.__module__.rpartition('.')[2]}.{task.__name__}("


def solve_all(paths: list[Path], to: Path) -> list[Path]:
    """Write the solved edition of notebooks to a folder. Returns the files."""
    import nbformat

    to.mkdir(parents=True, exist_ok=True)
    written = []
    for path in paths:
        notebook = read_notebook(path)
        solve(notebook, path.stem)
        nbformat.write(notebook, to / path.name)
        written.append(to / path.name)
    return written


# --- what learners have handed in ----------------------------------------------------------------


def states(notebook: dict) -> dict[str, str]:
    """The state of every task in an executed notebook, read from what its checks printed.

    Nothing is executed. Where a task was checked in several cells, the best result counts.

    Args:
        notebook: The parsed JSON of a notebook, format 4.

    Returns:
        By id, for all tasks of that notebook: `right`, `right after the solution`, `not yet`,
        `not attempted yet` or `not run`. Empty if the notebook holds no task of the course.
    """
    printed: dict[str, list[str]] = {}
    seen = set()
    for cell in notebook["cells"]:
        if cell["cell_type"] != "code":
            continue
        source = "".join(cell["source"])
        seen |= {task.id for task in ALL if _call_of(task) in source}
        for output in cell["outputs"]:
            for number, state, after in LINE.findall("".join(output.get("text", ""))):
                printed.setdefault(number, []).append(state + " after the solution" * bool(after))
    if not seen:
        return {}
    prefix, _ = Counter(i.split(".")[0] for i in seen).most_common(1)[0]
    best = (RIGHT, f"{RIGHT} after the solution", WRONG, NOT_ATTEMPTED)
    return {
        task.id: min(printed.get(task.id, [NOT_RUN]), key=(*best, NOT_RUN).index)
        for task in ALL
        if task.id.startswith(prefix)
    }


def minutes(notebook: dict) -> dict[str, int]:
    """How many minutes tasks took until they were right, by id, from what their checks printed."""
    outputs = [o for c in notebook["cells"] if c["cell_type"] == "code" for o in c["outputs"]]
    found: dict[str, int] = {}
    for output in outputs:
        for number, taken in TIME.findall("".join(output.get("text", ""))):
            found[number] = min(int(taken), found.get(number, int(taken)))
    return found


def read_submissions(folder: Path) -> list[dict]:
    """One row for each notebook in a folder and its subfolders, in the order of their names.

    Args:
        folder: Where the submitted notebooks are.

    Returns:
        Rows with `file`, `notebook`, `right`, `tasks`, a state for each task (`task 1`, ...), and
        the minutes that it took, where its check printed them (`minutes 1`, ...).

    Raises:
        CourseError: If there is no such folder, or no notebook in it.
    """
    if not folder.is_dir():
        raise CourseError(f"There is no folder {str(folder)!r}: give the one with the notebooks.")
    files = sorted(
        p for p in folder.rglob("*.ipynb") if ".ipynb_checkpoints" not in p.parts and p.is_file()
    )
    if not files:
        raise CourseError(f"There are no notebooks (.ipynb) in {str(folder)!r} or below it.")
    return [_row(path, folder) for path in files]


def _row(path: Path, folder: Path) -> dict:
    # A spreadsheet would take a name that begins with one of these for a formula.
    name = path.relative_to(folder).as_posix()
    row = {"file": f"'{name}" if name[0] in "=+-@" else name}
    try:
        if path.stat().st_size > LARGEST_BYTES:
            raise ValueError
        notebook = json.loads(path.read_text(encoding="utf-8"))
        found, taken = states(notebook), minutes(notebook)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return row | {"notebook": "cannot be read"}
    if not found:
        return row | {"notebook": "no task of the course"}
    stem = next(task.notebook for task in ALL if task.id in found)
    right = sum(state.startswith(RIGHT) for state in found.values())
    by_task = {f"task {number.split('.')[1]}": state for number, state in found.items()}
    times = {f"minutes {i.split('.')[1]}": taken[i] for i in found if i in taken}
    return row | {"notebook": stem, "right": right, "tasks": len(found), **by_task, **times}


def write_csv(rows: list[dict], file) -> None:
    """Write the rows of `read_submissions` as CSV with a header."""
    most = max(len(of_notebook(task.notebook)) for task in ALL)
    columns = ["file", "notebook", "right", "tasks"]
    columns += [f"{kind} {i + 1}" for kind in ("task", "minutes") for i in range(most)]
    writer = csv.DictWriter(file, columns, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
