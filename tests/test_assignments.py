"""The notebooks as assignments: nbgrader itself takes them, clears them and grades them."""

import copy
import os
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

from course import __main__ as command_line
from course import assignments, editions, runner

pytest.importorskip("nbgrader")

NOTEBOOKS = sorted((Path(__file__).parent.parent / "notebooks").glob("*.ipynb"))
STEM = "01_classify"


def nbgrader(folder, *arguments):
    env = os.environ | {"VIT_SOURCE": "offline", "VIT_BARS": "off"}
    command = [sys.executable, "-m", "nbgrader", *arguments]
    done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stderr


def read(path):
    return nbformat.read(path, as_version=4)


@pytest.fixture(autouse=True)
def activated(monkeypatch):
    """As `source .venv/bin/activate` does: nbgrader looks for the command `alembic`."""
    scripts = str(Path(sys.executable).parent)
    monkeypatch.setenv("PATH", os.pathsep.join([scripts, os.environ["PATH"]]))


def cell_of(notebook, task):
    """The cell of a task in an assignment, which has a second one that grades it."""
    wanted = f"task-{task.id.replace('.', '-')}"
    described = (cell.metadata.get("nbgrader", {}) for cell in notebook.cells)
    return notebook.cells[[m.get("grade_id") for m in described].index(wanted)]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_every_task_has_a_cell_to_fill_and_a_locked_one_that_grades(path):
    notebook = assignments.assignment(read(path), path.stem)
    nbformat.validate(notebook)
    kinds = [
        (m["grade_id"], m["solution"], m["grade"], m["locked"], m.get("points"))
        for m in (cell.metadata.get("nbgrader") for cell in notebook.cells)
        if m
    ]
    expected = []
    for task in editions.of_notebook(path.stem):
        number = task.id.replace(".", "-")
        expected.append((f"task-{number}", True, False, False, None))
        points = assignments.POINTS[task.difficulty]
        expected.append((f"grade-{number}", False, True, True, points))
    assert kinds == expected
    assert all(not cell.get("outputs") for cell in notebook.cells)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_nbgrader_leaves_the_stubs_and_takes_every_solution_out(path):
    from nbgrader.nbgraderformat import MetadataValidator
    from nbgrader.preprocessors import ClearSolutions
    from traitlets.config import Config

    notebook = assignments.assignment(read(path), path.stem)
    MetadataValidator().validate_nb(notebook)
    config = Config()
    exec(assignments.CONFIG, {"get_config": lambda: config})
    notebook, _ = ClearSolutions(config=config).preprocess(notebook, {})
    for task in editions.of_notebook(path.stem):
        cell = cell_of(notebook, task)
        assert "SOLUTION" not in cell.source
        assert task.solution_code.strip() not in cell.source
        assert f"{task.stub.strip()}\n# Put your answer in place of the dots.\n" in cell.source
        compile(cell.source, "cell", "exec")


def grade(folder, stem):
    """Let nbgrader grade what was handed in: points by name."""
    from nbgrader.api import Gradebook

    nbgrader(folder, "autograde", stem, "--create")
    with Gradebook(f"sqlite:///{folder}/gradebook.db") as book:
        submissions = book.assignment_submissions(stem)
        return {s.student.id: s.score for s in submissions}, submissions[0].max_score


def hand_in(folder, name, notebook, stem):
    target = folder / "submitted" / name / stem / f"{stem}.ipynb"
    target.parent.mkdir(parents=True)
    nbformat.write(notebook, target)


NEEDED = ("fetch", "setup")  # the cells of 01 that its task on calibration wants before it
WRONG = "def ece(confidence, right, bins):\n    return 0.0"


@pytest.fixture
def released(tmp_path, monkeypatch):
    """01 with one task only, as nbgrader releases it: `(folder, task, notebook)`."""
    task = next(t for t in editions.of_notebook(STEM) if t.__name__ == "CalibrationError")
    notebook = read(runner.NOTEBOOKS / f"{STEM}.ipynb")
    wanted = (*NEEDED, editions.task_cell(notebook, STEM, task).id)
    notebook.cells = [cell for cell in notebook.cells if cell.id in wanted]
    assert [cell.id for cell in notebook.cells] == list(wanted)
    short = tmp_path / "short" / f"{STEM}.ipynb"
    short.parent.mkdir()
    nbformat.write(notebook, short)
    monkeypatch.setattr(assignments, "of_notebook", lambda stem: (task,))
    folder = tmp_path / "course"
    assignments.write([short], folder)
    nbgrader(folder, "generate_assignment", STEM, "--create")
    return folder, task, read(folder / "release" / STEM / f"{STEM}.ipynb")


def answered(notebook, task, answer):
    """A copy of what was released with this answer in the place of the stub."""
    edition = copy.deepcopy(notebook)
    cell = cell_of(edition, task)
    cell.source = cell.source.replace(task.stub.strip(), answer.strip())
    return edition


def test_a_solved_submission_gets_all_points_and_an_empty_one_none(released):
    folder, task, empty = released
    hand_in(folder, "ada", answered(empty, task, task.solution_code), STEM)
    hand_in(folder, "bo", empty, STEM)
    points, most = grade(folder, STEM)
    assert most == assignments.POINTS[task.difficulty]
    assert points == {"ada": most, "bo": 0}


@pytest.mark.slow
def test_who_changes_the_cell_that_grades_gains_nothing(released):
    """nbgrader puts its own cell back."""
    folder, task, empty = released
    bad = answered(empty, task, WRONG)
    bad.cells[-1].source = "pass"
    hand_in(folder, "cy", bad, STEM)
    points, _ = grade(folder, STEM)
    assert points == {"cy": 0}


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_a_whole_notebook_is_graded(path, tmp_path):
    assignments.write([path], tmp_path)
    nbgrader(tmp_path, "generate_assignment", path.stem, "--create")
    empty = read(tmp_path / "release" / path.stem / path.name)
    solved = copy.deepcopy(empty)
    for task in editions.of_notebook(path.stem):
        cell = cell_of(solved, task)
        cell.source = cell.source.replace(task.stub.strip(), task.solution_code.strip())
    hand_in(tmp_path, "ada", solved, path.stem)
    hand_in(tmp_path, "bo", empty, path.stem)
    points, most = grade(tmp_path, path.stem)
    assert most == assignments.points(path.stem)
    assert points == {"ada": most, "bo": 0}


def test_a_notebook_that_was_edited_is_refused_with_the_name_of_its_cell(
    tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(runner, "NOTEBOOKS", tmp_path / "notebooks")
    (tmp_path / "notebooks").mkdir()
    path = tmp_path / "notebooks" / f"{STEM}.ipynb"
    shutil.copyfile(runner.ROOT / "notebooks" / path.name, path)
    notebook = read(path)
    task = editions.of_notebook(STEM)[0]
    cell = editions.task_cell(notebook, STEM, task)
    cell.source = cell.source.replace(task.stub.strip(), "answer = 1")
    nbformat.write(notebook, path)
    assert command_line.main(["assignments", "01", "--to", str(tmp_path / "to")]) == 2
    assert capsys.readouterr().err == (
        f"error: The cell 'task-{task.__name__}' of 01_classify.ipynb does not hold the stub of "
        f"{task.__name__} (task 01.1): make both the same.\n"
    )
    assert not (tmp_path / "to").exists()


def test_a_notebook_without_tasks_is_named(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(runner, "NOTEBOOKS", tmp_path)
    nbformat.write(nbformat.v4.new_notebook(), tmp_path / "mine.ipynb")
    assert command_line.main(["assignments", "--to", str(tmp_path / "to")]) == 2
    assert "mine.ipynb is no notebook of the course" in capsys.readouterr().err
