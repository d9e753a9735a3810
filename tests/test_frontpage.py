"""The README shows what the notebooks hold."""

import io
import json
import re
import shutil
from pathlib import Path

import nbformat
import numpy as np
import pytest
from PIL import Image

from course import __main__ as course_commands
from course import address, frontpage
from vit_helpers import cli, tasks
from vit_helpers.errors import CourseError

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("stem", frontpage.PICTURES)
def test_the_picture_is_the_one_in_the_saved_output(stem):
    stored = (ROOT / "docs" / "pictures" / f"{stem}.webp").read_bytes()
    content = frontpage.picture(ROOT, stem)
    old, new = (
        np.asarray(Image.open(io.BytesIO(data)).convert("RGB")) for data in (stored, content)
    )
    assert old.shape == new.shape
    # WebP loses a little, and not the same in every release.
    assert np.abs(old.astype(int) - new.astype(int)).mean() < 3
    assert len(stored) < 150_000
    assert f'src="docs/pictures/{stem}.webp" alt="{frontpage.PICTURES[stem].words}"' in README


def test_readme_and_tables_are_those_that_refresh_writes():
    for path, text in frontpage.texts(ROOT).items():
        assert path.read_text(encoding="utf-8") == text, path


def words(markdown):
    """All that a reader can meet, and more: descriptions of pictures, commands, even tags."""
    return re.sub(r"[<>|]", " ", markdown).split()


def test_the_readme_is_short_and_speaks_of_nothing_that_is_missing():
    stamped = address.with_badges(README, "somebody/their-course")
    assert len(words(stamped)) <= 700
    assert not re.search(r"not (been )?(measured|tried|tested)|not yet|TODO", README)
    assert ("Twenty tasks" in README) == (len(tasks.ALL) == 20)


def documents():
    return [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")]


@pytest.mark.parametrize("path", documents(), ids=lambda p: p.name)
def test_commands_links_and_files_of_a_document_exist(path):
    text = path.read_text(encoding="utf-8")
    parsers = {"vit_helpers": cli.parser(), "course": course_commands.parser()}
    for package, command in re.findall(r"python -m (vit_helpers|course) (\w+)", text):
        assert command in parsers[package]._subparsers._group_actions[0].choices, command
    targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), flags=re.M)
    assert set(re.findall(r"(?:^|`)make ([a-z][\w-]*)(?=`|  |$)", text, flags=re.M)) <= set(targets)
    for link in re.findall(r"\]\(([^)#:\s]+)(?:#[^)]*)?\)|src=\"([^\"]+)\"", text):
        target = path.parent / (link[0] or link[1])
        assert target.exists(), target


@pytest.mark.parametrize(
    ("minutes", "words"),
    [
        (0.3, "less than a minute"),
        (0.8, "about 1 minute"),
        (1.3, "about 1.5 minutes"),
        (3.2, "about 3 minutes"),
    ],
)
def test_minutes_in_words(minutes, words):
    assert frontpage.in_words(minutes) == words


@pytest.fixture
def course(tmp_path):
    """A folder with what the front page reads, with a GPU in its minutes."""
    for part in ("notebooks", "docs"):
        shutil.copytree(ROOT / part, tmp_path / part)
    shutil.copy(ROOT / "README.md", tmp_path)
    path = tmp_path / "docs" / "timings.json"
    known = json.loads(path.read_text(encoding="utf-8"))
    known["Some Card"] = dict.fromkeys(frontpage.PICTURES, 0.7)
    path.write_text(json.dumps(known), encoding="utf-8")
    return tmp_path


def test_the_minutes_on_a_gpu_are_told_once_they_were_measured(course):
    assert "GPU (" not in README
    frontpage.update(course)
    readme = (course / "README.md").read_text(encoding="utf-8")
    assert readme.count(", less than a minute on a GPU (Some Card)<br>") == len(frontpage.PICTURES)
    measured = (course / "docs" / "measured.md").read_text(encoding="utf-8")
    assert "| minutes on a GPU (Some Card) |" in measured
    assert re.search(r"^\| together \|.*\| 3\.5 \|", measured, flags=re.M)
    guide = (course / "docs" / "instructor.md").read_text(encoding="utf-8")
    assert re.search(r"^\| 01_classify \| [\d.]+ \| 0\.7 \| \d+ \|", guide, flags=re.M)
    for stem in frontpage.PICTURES:
        notebook = nbformat.read(course / "notebooks" / f"{stem}.ipynb", as_version=4)
        told = notebook.cells[0].source.splitlines()[-1]
        assert told.endswith(" On a GPU (Some Card): less than a minute.")


def test_a_notebook_that_was_not_measured_has_no_row(course):
    path = course / "docs" / "timings.json"
    known = json.loads(path.read_text(encoding="utf-8"))["CPU"]
    del known["05_efficient_inference"]
    path.write_text(json.dumps({"CPU": known}), encoding="utf-8")
    table = frontpage.measured_table(course)
    assert table.count("\n") == 2 + 4 and "together" not in table


def test_an_update_without_new_minutes_changes_no_byte(course):
    shutil.copy(ROOT / "docs" / "timings.json", course / "docs")
    frontpage.update(course)
    for path in [
        *(ROOT / "notebooks").glob("*.ipynb"),
        *(ROOT / "docs").glob("*.md"),
        ROOT / "README.md",
    ]:
        assert (course / path.relative_to(ROOT)).read_bytes() == path.read_bytes()


def test_a_picture_that_is_not_there_is_named(course):
    with pytest.raises(
        CourseError, match="01_classify.ipynb has no saved figure in a cell 'nowhere'"
    ):
        frontpage._figure(course, "01_classify", "nowhere")
