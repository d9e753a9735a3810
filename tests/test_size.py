"""The helper package stays small enough to be read."""

import ast
import inspect
from pathlib import Path

import pytest

from vit_helpers import training

PACKAGE = Path(__file__).parent.parent / "vit_helpers"
FILES = sorted(PACKAGE.rglob("*.py"))
LINES, NAMES, LINES_OF_A_FILE, LINES_OF_A_FUNCTION, ARGUMENTS_OF_FIT = 8_000, 14, 500, 60, 12


def lines(path: Path) -> int:
    return len(path.read_text(encoding="utf-8").splitlines())


def functions(path: Path):
    """`(name, lines of code)` of every function: no docstring, comment or blank line counts."""
    text = path.read_text(encoding="utf-8")
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef):
            body = node.body[1:] if ast.get_docstring(node) else node.body
            first, last = (body[0].lineno, node.end_lineno) if body else (0, -1)
            inside = text.splitlines()[first - 1 : last]
            yield node.name, sum(bool(line.strip()) and line.strip()[0] != "#" for line in inside)


def test_the_package_as_a_whole():
    assert sum(map(lines, FILES)) <= LINES


def test_its_folder_can_be_taken_in_at_a_glance():
    names = {p.name for p in PACKAGE.iterdir() if p.name not in ("__pycache__", "__init__.py")}
    assert len(names - {"__main__.py"}) <= NAMES, sorted(names)


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_a_file_and_its_functions(path):
    assert lines(path) <= LINES_OF_A_FILE
    assert {name: n for name, n in functions(path) if n > LINES_OF_A_FUNCTION} == {}


def test_the_loop_fits_on_one_screen():
    assert len(inspect.signature(training.fit).parameters) <= ARGUMENTS_OF_FIT
    found = dict(functions(PACKAGE / "training" / "loop.py"))
    assert found["fit"] <= LINES_OF_A_FUNCTION
