"""The README shows what the notebooks hold."""

import io
import json
import re
import shutil
from pathlib import Path

import nbformat
import pytest
from PIL import Image, ImageChops, ImageStat

from course import address, frontpage
from vit_helpers import cli, tasks

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("stem", frontpage.PICTURES)
def test_the_picture_is_the_one_in_the_saved_output(stem):
    stored = (ROOT / "docs" / "pictures" / f"{stem}.webp").read_bytes()
    content, words = frontpage.picture(ROOT, stem)
    pictures = [Image.open(io.BytesIO(webp)).convert("RGB") for webp in (stored, content)]
    assert pictures[0].size == pictures[1].size
    # Another release of the encoder may round otherwise; another figure differs far more.
    assert max(ImageStat.Stat(ImageChops.difference(*pictures)).mean) < 2
    assert len(stored) < 80_000
    assert f"![{words}](docs/pictures/{stem}.webp)" in README


def test_the_tables_are_those_that_refresh_writes():
    assert frontpage.with_tables(README, ROOT) == README


def test_the_course_map_counts_the_tasks():
    rows = re.findall(r"^\| (\d) [A-Z].*\| (\d+) \|$", README, flags=re.M)
    assert [(int(n), int(c)) for n, c in rows] == [
        (int(stem[:2]), len(tasks.of_notebook(stem))) for stem in frontpage.PICTURES
    ]
    assert f"tasks, {len(tasks.ALL)} in all" in README


def test_the_commands_of_the_readme_exist():
    known = cli.parser()._subparsers._group_actions[0].choices
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


def test_the_minutes_on_a_gpu_reach_readme_and_titles(course):
    frontpage.update(course)
    readme = (course / "README.md").read_text(encoding="utf-8")
    assert "minutes on a GPU (Some Card)" in readme
    assert re.search(r"^\| 1 Classify .*\| 0\.7 \|", readme, flags=re.M)
    assert re.search(r"^\| together .*\| 3\.5 \|", readme, flags=re.M)
    for stem in frontpage.PICTURES:
        notebook = nbformat.read(course / "notebooks" / f"{stem}.ipynb", as_version=4)
        told = notebook.cells[0].source.splitlines()[-1]
        assert told.endswith("On a GPU (Some Card): less than a minute.")


def test_an_update_without_new_minutes_changes_no_byte(course):
    shutil.copy(ROOT / "docs" / "timings.json", course / "docs")
    frontpage.update(course)
    for path in [*(ROOT / "notebooks").glob("*.ipynb"), ROOT / "README.md"]:
        assert (course / path.relative_to(ROOT)).read_bytes() == path.read_bytes()
