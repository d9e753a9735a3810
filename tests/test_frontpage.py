"""The README shows what the notebooks hold."""

import io
import re
from pathlib import Path

import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook
from PIL import Image

from vit_helpers import __main__, address, frontpage, tasks

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("stem", frontpage.PICTURES)
def test_the_picture_is_the_one_in_the_saved_output(stem):
    stored = (ROOT / "docs" / "pictures" / f"{stem}.png").read_bytes()
    content, words = frontpage.picture(ROOT, stem)
    pictures = [Image.open(io.BytesIO(png)).convert("RGB") for png in (stored, content)]
    assert pictures[0].size == pictures[1].size
    assert pictures[0].tobytes() == pictures[1].tobytes()
    assert len(stored) < 80_000
    assert f"![{words}](docs/pictures/{stem}.png)" in README


def test_the_tables_are_those_that_refresh_writes():
    assert frontpage.with_tables(README, ROOT) == README


def test_the_course_map_counts_the_tasks():
    rows = re.findall(r"^\| (\d) [A-Z].*\| (\d+) \|$", README, flags=re.M)
    assert [(int(n), int(c)) for n, c in rows] == [
        (int(stem[:2]), len(tasks.of_notebook(stem))) for stem in frontpage.PICTURES
    ]
    assert f"tasks, {len(tasks.ALL)} in all" in README


def test_the_commands_of_the_readme_exist():
    known = __main__.parser()._subparsers._group_actions[0].choices
    assert set(re.findall(r"python -m vit_helpers (\w+)", README)) <= set(known)
    targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), flags=re.M)
    assert set(re.findall(r"\bmake ([\w-]+)(?=`|  )", README)) <= set(targets)


def test_the_badges_open_this_repository():
    assert address.binder_badge() in README
    for stem in frontpage.PICTURES:
        assert address.badge(stem) in README


@pytest.mark.parametrize(
    ("minutes", "words"),
    [
        (0.3, "less than a minute"),
        (0.8, "about 1 minute"),
        (1.3, "about 1.5 minutes"),
        (3.2, "about 3 minutes"),
    ],
)
def test_refresh_writes_the_minutes_into_the_title(minutes, words):
    cells = [new_markdown_cell("# T\n\nMeasured on two CPU cores: ?"), new_code_cell("1")]
    notebook = new_notebook(cells=cells)
    frontpage.tell_minutes(notebook, minutes)
    line = f"Measured on two CPU cores: {words}. On a GPU: not measured yet."
    assert [c.source for c in notebook.cells] == [f"# T\n\n{line}", "1"]
