"""`python -m benchmarks page`: the tables of docs/measured.md come from files, all of them."""

import shutil
from pathlib import Path

import pandas as pd
import pytest

from benchmarks import page
from benchmarks.machine import save_results
from vit_helpers.errors import CourseError

ROOT = Path(__file__).resolve().parent.parent
ROW = {"from": 0.25, "to": 0.75, "best": True}
ROWS = {
    "photographs": {"how": "linear probe", "pictures": 5000, "epochs": float("nan")}
    | {"patches": 1.0, "accuracy": 0.5},
    "training": {"loop": "fit", "images/s": 2.5, "times": 2.0, "at most": 4.0}
    | {"of possible": 0.5, "first turn s": 3.0},
    "inference": {"engine": "fast", "batch": 1, "median ms": 12.5, "speed-up": 2.0}
    | {"agreement": 0.995, "agreement from": 0.97, "agreement to": 1.0}
    | {"computes in": "int8 + fp32", "of possible": 0.6, "MB": 88.0},
    "start": {"program": "one file", "first answer s": 0.5, "whole s": 0.6, "peak MB": 95.0}
    | {"model MB": 11.0, "installed MB": 120.0},
}
ABOUT = {"widen": 4, "pictures": 200, "batch": 8, "rounds": 3, "rates": {"CPU": {"fp32": 1e11}}}
SAID = {
    "photographs": "| linear probe | 5,000 |  | 100 % | 50.0 % | 25.0 to 75.0 % |",
    "training": "| **fit** | **2.5** | **2.0 (0.2 to 0.8)** | **4.0** | **50 %** | **3.0** |",
    "inference": "| **fast** | **12.5** | **2.00 (0.25 to 0.75)** | **99.5 % (97.0 to",
    "start": "| **one file** | **0.50 (0.25 to 0.75)** | **0.60** | **95** | **11.0** | **120** |",
}


@pytest.fixture
def course(tmp_path):
    """A folder with the page, and nothing measured."""
    (tmp_path / "docs").mkdir()
    shutil.copy(ROOT / "docs" / "measured.md", tmp_path / "docs")
    return tmp_path


def results(folder, kind):
    folder.mkdir(exist_ok=True)
    frame = pd.DataFrame([ROW | ROWS[kind]])
    frame = frame.set_index(next(iter(ROWS[kind])))
    about = ABOUT | {"commands": [f"python -m benchmarks {kind}"]}
    return save_results(frame, folder / f"{kind}.json", kind=kind, **about)


def test_the_page_says_what_the_files_say():
    assert page.text(ROOT) == (ROOT / "docs" / "measured.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("kind", page.KINDS)
def test_a_result_becomes_a_table_with_machine_versions_day_and_command(kind, course):
    path = results(course / "bench", kind)
    assert page.run(page.Request(course / "bench", course)) == 0
    written = (course / "docs" / "measured.md").read_text(encoding="utf-8")
    assert SAID[kind] in written
    assert f"\n    python -m benchmarks {kind}\n" in written
    content = page.read_results(path)
    for word in (content["date"], content["machine"]["processor"], "torch ", "GB of memory"):
        assert word in page.machine_line(content)
    assert page.machine_line(content) in written
    assert "2026-11-25" in written  # what is not made by a command stays


def test_files_of_other_machines_stay_and_nothing_measured_is_no_section(course):
    path = results(course / "bench", "start")
    page.run(page.Request(course / "bench", course))
    text = path.read_text(encoding="utf-8")
    units = page.read_results(path)["machine"]["units"]
    path.write_text(text.replace(f'"units": "{units}"', '"units": "AMX"'), encoding="utf-8")
    page.run(page.Request(course / "bench", course))
    written = (course / "docs" / "measured.md").read_text(encoding="utf-8")
    assert written.count("**one file**") == 2 and " with AMX" in written
    shutil.rmtree(course / "docs" / "measured")
    assert page.section("start", course / "docs" / "measured") == ""


def test_without_results_or_with_a_damaged_file_a_sentence_says_so(course):
    with pytest.raises(CourseError, match="measure first"):
        page.run(page.Request(course / "bench", course))
    (course / "bench").mkdir()
    (course / "bench" / "start.json").write_text("{}", encoding="utf-8")
    with pytest.raises(CourseError, match="start.json is no file of results"):
        page.run(page.Request(course / "bench", course))
