import json
import os
import subprocess
import sys

import nbformat
import pytest

from course import runner
from course.__main__ import main as course_main
from vit_helpers import __main__
from vit_helpers.errors import CourseError


@pytest.fixture
def folder(monkeypatch, tmp_path):
    notebooks = tmp_path / "notebooks"
    notebooks.mkdir()
    monkeypatch.setattr(runner, "NOTEBOOKS", notebooks)
    monkeypatch.setattr(runner.frontpage, "update", lambda root: None)

    def add(name, *sources):
        cells = [nbformat.v4.new_code_cell(s) for s in sources]
        nbformat.write(nbformat.v4.new_notebook(cells=cells), notebooks / f"{name}.ipynb")

    return tmp_path, add


ON_A_CARD = "print('device Some Card · precision float16')"


def test_run_writes_notebook_page_and_table(folder, capsys):
    tmp_path, add = folder
    add("01_a", "print(6 * 7)", "1")
    assert runner.run(to=tmp_path / "build") == 0
    executed = nbformat.read(tmp_path / "build" / "01_a.ipynb", as_version=4)
    assert executed.cells[0].outputs[0].text == "42\n"
    assert "42" in (tmp_path / "build" / "01_a.html").read_text(encoding="utf-8")
    assert "01_a" in capsys.readouterr().out
    (timing,) = json.loads((tmp_path / "build" / "timings.json").read_text())
    assert timing["notebook"] == "01_a"
    assert list(timing["seconds"]) == [cell.id for cell in executed.cells]


def test_run_says_how_this_machine_compares_with_the_guide(folder, monkeypatch):
    tmp_path, _ = folder
    here = [runner.Run("01_a", minutes=1.0), runner.Run("02_b", minutes=3.0)]
    assert runner.against_the_guide(here) == ""  # there is no guide
    runner.record_timings([runner.Run("01_a", minutes=0.5), runner.Run("02_b", minutes=1.5)])
    monkeypatch.setenv("VIT_SOURCE", "offline")
    assert "says 2.0 minutes for this" in runner.against_the_guide(here)
    assert runner.against_the_guide(here).endswith("by 2.0.")
    assert runner.against_the_guide([*here, runner.Run("03_c", minutes=1)]) == ""
    assert runner.against_the_guide([runner.Run("01_a", error="no")]) == ""
    monkeypatch.setenv("VIT_PROFILE", "full")
    assert runner.against_the_guide(here) == ""


def test_run_keeps_the_minutes_of_its_device_when_it_is_told_to(folder, monkeypatch):
    tmp_path, add = folder
    add("01_a", ON_A_CARD)
    updated = []
    monkeypatch.setattr(runner.frontpage, "update", updated.append)
    assert __main__.main(["run", "--to", str(tmp_path / "build")]) == 0
    assert not (tmp_path / "docs").exists() and not updated
    assert __main__.main(["run", "--to", str(tmp_path / "build"), "--record"]) == 0
    written = json.loads((tmp_path / "docs" / "timings.json").read_text(encoding="utf-8"))
    assert list(written) == ["Some Card"] and list(written["Some Card"]) == ["01_a"]
    assert updated == [runner.ROOT]


def test_minutes_of_another_profile_are_not_kept(folder, monkeypatch, capsys):
    _, add = folder
    add("01_a", "1")
    monkeypatch.setenv("VIT_PROFILE", "full")
    assert __main__.main(["run", "--record"]) == 2
    assert "the kit in the profile quick" in capsys.readouterr().err


def test_a_failing_cell_is_named_and_the_others_still_run(folder, capsys):
    tmp_path, add = folder
    add("01_a", "1 + 1", "bad = 1 / 0")
    add("02_b", "print('fine')")
    assert runner.run(to=tmp_path / "build") == 1
    shown = capsys.readouterr()
    assert "cell 1 (bad = 1 / 0): ZeroDivisionError: division by zero" in shown.err
    assert "02_b: done" in shown.out


def test_refresh_leaves_a_failing_notebook_as_it_was(folder):
    tmp_path, add = folder
    add("01_a", "print('new')")
    add("02_b", "print('half')", "raise ValueError('no')")
    before = (tmp_path / "notebooks" / "02_b.ipynb").read_bytes()
    assert runner.refresh() == 1
    first = nbformat.read(tmp_path / "notebooks" / "01_a.ipynb", as_version=4)
    assert first.cells[0].outputs[0].text == "new\n"
    assert (tmp_path / "notebooks" / "02_b.ipynb").read_bytes() == before
    assert sorted(p.name for p in (tmp_path / "notebooks").iterdir()) == [
        "01_a.ipynb",
        "02_b.ipynb",
    ]


def test_the_browser_tests_insist_on_a_browser_and_all_does_without(monkeypatch, capsys):
    commands = []

    def run(command, **kwargs):
        commands.append(command)
        return subprocess.CompletedProcess(command, 0)

    monkeypatch.setattr(runner, "BROWSERS", ("no-such-browser",))
    monkeypatch.delenv("VIT_BROWSER", raising=False)
    monkeypatch.setattr(runner.subprocess, "run", run)
    assert __main__.main(["test", "browser"]) == 2
    assert "need a Chromium: install Debian's" in capsys.readouterr().err
    assert commands == []
    assert __main__.main(["test"]) == 0
    assert len(commands) == 5 and not [c for c in commands if "browser" in map(str, c)]


@pytest.mark.parametrize("which", ["unit", "notebooks", "none"])
def test_unit_tests_and_notebooks_may_fail_and_both_are_shown(monkeypatch, capfd, which):
    def commands(step):
        return [[sys.executable, "-c", f"print('this is {step}'); exit({int(step == which)})"]]

    monkeypatch.setattr(runner, "commands_of", commands)
    assert runner.test() == int(which != "none")
    shown = capfd.readouterr()
    assert all(f"this is {step}" in shown.out for step in ("lint", "unit", "notebooks"))
    assert shown.err == ("" if which == "none" else f"FAILED: {which}\n")


def test_unknown_notebook_and_empty_folder_are_one_sentence(folder, capsys):
    _, add = folder
    with pytest.raises(CourseError, match="no notebooks here"):
        runner.find()
    add("01_a", "1")
    assert __main__.main(["run", "09"]) == 2
    assert "No notebook starts with 09: there are 01_a." in capsys.readouterr().err


@pytest.mark.parametrize(
    "content",
    [b"", b"[]", b"null", b"{}", b'{"nbformat": 99}', b"<<<<<<< HEAD\n{}", b"<html>", b"\xff\xfe{"],
)
def test_what_is_no_whole_notebook_is_one_sentence_with_its_name(folder, capsys, content):
    tmp_path, _ = folder
    (tmp_path / "notebooks" / "01_a.ipynb").write_bytes(content)
    for command in ("run", "solve", "assignments"):
        assert course_main([command, "01", "--to", str(tmp_path / "out")]) == 2
        said = capsys.readouterr().err
        assert "01_a.ipynb is no whole notebook" in said and "\n" not in said.strip()
        assert ("merge marks" in said) == content.startswith(b"<<<")


def test_the_kernel_is_that_of_this_python_whatever_an_editor_wrote(folder):
    tmp_path, _ = folder
    cells = [nbformat.v4.new_code_cell("6 * 7")]
    notebook = nbformat.v4.new_notebook(cells=cells)
    notebook.metadata["kernelspec"] = {"name": "my-env", "display_name": "My env"}
    text = "\ufeff" + nbformat.writes(notebook)
    (tmp_path / "notebooks" / "01_a.ipynb").write_text(text, encoding="utf-8")
    assert runner.run(to=tmp_path / "build") == 0


def test_a_file_in_the_way_is_one_sentence(folder, capsys):
    tmp_path, add = folder
    add("01_a", "1")
    (tmp_path / "file").write_text("x")
    for to in (tmp_path / "file", tmp_path / "file" / "in"):
        assert course_main(["run", "--to", str(to)]) == 2
        assert f"error: {to}: " in capsys.readouterr().err


def test_the_environment_is_offline_unless_it_says_otherwise(monkeypatch):
    monkeypatch.delenv("VIT_SOURCE", raising=False)
    assert runner.course_environment()["VIT_SOURCE"] == "offline"
    monkeypatch.setenv("VIT_SOURCE", "hub")
    assert runner.course_environment()["VIT_SOURCE"] == "hub"


@pytest.mark.parametrize(
    ("stored", "tags", "same"),
    [
        ("precision float32, 12 layers\n", [], True),
        ("precision bfloat16, 12 layers\n", [], True),
        ("precision float32, 11 layers\n", [], False),
        ("precision float32, 11 layers\n", ["nbval-ignore-output"], True),
    ],
)
def test_outputs_are_compared_unless_a_tag_says_otherwise(tmp_path, stored, tags, same):
    cell = nbformat.v4.new_code_cell(
        "print('precision float32, 12 layers')",
        execution_count=1,
        metadata={"tags": tags},
        outputs=[nbformat.v4.new_output("stream", name="stdout", text=stored)],
    )
    nbformat.write(nbformat.v4.new_notebook(cells=[cell]), tmp_path / "a.ipynb")
    status = subprocess.run(runner.notebook_tests(tmp_path), capture_output=True).returncode
    assert (status == 0) == same


FORK = """
import os, time
block = bytearray(300_000_000)
if os.fork() == 0:
    time.sleep(1.5)
    os._exit(0)
os.wait()
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
def test_memory_shared_with_a_forked_process_counts_once():
    with subprocess.Popen([sys.executable, "-c", FORK]) as process:
        with runner.PeakMemory(process.pid) as peak:
            process.wait()
    assert 0.27 < peak.gib < 0.4
