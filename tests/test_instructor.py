"""The instructor's guide says what is true of the course."""

import json
import re
from pathlib import Path

import pytest

from course import frontpage, runner
from vit_helpers import tasks

ROOT = Path(__file__).parent.parent
GUIDE = (ROOT / "docs" / "instructor.md").read_text(encoding="utf-8")
TIMINGS, _, _ = frontpage.minutes(ROOT)


def section(heading):
    return GUIDE.split(f"\n## {heading}\n")[1].split("\n## ")[0]


@pytest.mark.parametrize("heading", ["Half a day", "A day"])
def test_a_plan_adds_up_and_names_tasks_that_there_are(heading):
    plan = section(heading)
    rows = re.findall(r"^\| (\d+) \| (.+) \|$", plan, flags=re.M)
    assert sum(int(minutes) for minutes, _ in rows) == int(
        re.search(r"Together: (\d+) minutes", plan)[1]
    )
    for minutes, what in rows:
        if what[:2].isdigit():
            here = [t for t in tasks.ALL if t.id.startswith(what[:2])]
            numbers = re.search(r"tasks ([\d, and]+)", what)
            chosen = [int(n) for n in re.findall(r"\d", numbers[1])] if numbers else range(1, 9)
            assert max(chosen) <= len(here) or not numbers
            work = sum(t.minutes for t in here if t.number in chosen)
            assert work + TIMINGS[here[0].notebook] <= int(minutes), what


def test_the_steps_that_a_page_names_are_in_the_notebooks():
    when = (ROOT / "docs" / "when.md").read_text(encoding="utf-8")
    named = re.findall(r"\b(0\d),? (?:from )?steps? (\d+)(?: to (\d+))?", GUIDE + when)
    assert len(named) >= 5
    for notebook, *numbers in named:
        (path,) = runner.find([notebook])
        cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
        text = "\n".join("".join(cell["source"]) for cell in cells)
        steps = {int(n) for n in re.findall(r"^## (\d+)\. ", text, flags=re.M)}
        assert {int(n) for n in numbers if n} <= steps, (notebook, numbers)


def test_the_minutes_are_kept_by_device_and_notebook(monkeypatch, tmp_path):
    monkeypatch.setattr(runner, "NOTEBOOKS", tmp_path / "notebooks")
    runner.record_timings([runner.Run("02_b", minutes=2.04)])
    runner.record_timings([runner.Run("01_a", minutes=0.51), runner.Run("03_c", error="no")])
    runner.record_timings([runner.Run("01_a", "Some Card", minutes=0.2)])
    assert frontpage.minutes(tmp_path) == ({"01_a": 0.5, "02_b": 2.0}, {"01_a": 0.2}, "Some Card")
    text = (tmp_path / "docs" / "timings.json").read_text(encoding="utf-8")
    assert list(json.loads(text)["CPU"]) == ["01_a", "02_b"]


def test_memory_is_kept_by_notebook(monkeypatch, tmp_path):
    monkeypatch.setattr(runner, "NOTEBOOKS", tmp_path / "notebooks")
    runner.record_memory([runner.Run("02_b", peak_gib=1.26)])
    runner.record_memory([runner.Run("01_a"), runner.Run("03_c", error="no")])
    written = json.loads((tmp_path / "docs" / "memory.json").read_text(encoding="utf-8"))
    assert written == {"01_a": 0.0, "02_b": 1.3}
