"""The table of tested versions holds what ran, and the oldest versions are declared once."""

import importlib.util
import re
from importlib import metadata
from pathlib import Path

import pytest
from packaging.version import Version

from vit_helpers import tested

ROOT = Path(__file__).parent.parent
README = "before\n<!-- tested -->\nold\n<!-- /tested -->\nafter\n"


@pytest.fixture
def root(tmp_path):
    (tmp_path / "docs").mkdir()
    (tmp_path / "README.md").write_text(README, encoding="utf-8")
    return tmp_path


def test_a_session_writes_its_row_with_the_versions_of_this_python(root):
    tested.record(root, "oldest-3.10", ["run", "unit"])
    text = (root / "README.md").read_text(encoding="utf-8")
    (row,) = re.findall(r"^\| oldest .*$", text, re.M)
    assert f"| {metadata.version('transformers')} |" in row
    assert row.endswith("| unit tests, notebooks executed |")
    assert text.startswith("before\n") and text.endswith("after\n")


def test_rows_go_from_old_to_new_and_a_session_that_starts_again_loses_its_own(root):
    for session in ("newest-3.9", "pinned-3.11", "oldest-3.10"):
        tested.record(root, session, ["unit"])
    assert list(tested.read(root)) == ["oldest-3.10", "pinned-3.11", "newest-3.9"]
    tested.forget(root, "pinned-3.11")
    assert list(tested.read(root)) == ["oldest-3.10", "newest-3.9"]
    assert "pinned" not in (root / "README.md").read_text(encoding="utf-8")


def test_the_readme_shows_what_the_file_holds():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    rows = tested.read(ROOT)
    assert tested.between(text, tested.MARKS, tested.table(rows)) == text


def versions(file: str) -> dict[str, str]:
    lines = (ROOT / file).read_text(encoding="utf-8").splitlines()
    return dict(line.split("==") for line in lines if "==" in line)


def test_the_oldest_versions_are_the_lower_ends_of_pyproject():
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    lower = dict(re.findall(r'"([a-z][\w-]*)>=([\d.]+)"', text))
    needed = re.findall(r'"([\w-]+)>=', text.split("\ndependencies = [")[1].split("\n]")[0])
    old = versions("requirements-oldest.txt")
    assert {name: lower[name] for name in needed} == old


def test_the_oldest_session_runs_with_nothing_newer_than_declared():
    rows = [row for name, row in tested.read(ROOT).items() if name.startswith("oldest")]
    old = versions("requirements-oldest.txt")
    for row in rows:
        for name in tested.LIBRARIES:
            assert Version(row["libraries"][name]) == Version(old[name])


@pytest.mark.skipif(not importlib.util.find_spec("nox"), reason="nox is not installed")
def test_every_session_of_nox_has_a_place_in_the_table():
    import nox

    spec = importlib.util.spec_from_file_location("noxfile", ROOT / "noxfile.py")
    noxfile = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(noxfile)
    sessions = [n for n, f in vars(noxfile).items() if hasattr(f, "python") and n != "nox"]
    assert tuple(sessions) == tested.KINDS
    assert nox.options.default_venv_backend == "uv"
