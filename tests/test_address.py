"""The repository's address: nothing is shown before it is known, and `stamp` writes it whole."""

import json
import re
import shutil
import subprocess
import sys
import types
from pathlib import Path

import nbformat
import pytest
from IPython.core.inputtransformer2 import TransformerManager

import course.__main__ as command_line
from course import address
from vit_helpers.errors import CourseError
from vit_helpers.resources import packages

ROOT = Path(__file__).parent.parent
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
CARRIERS = ("course/address.py", "README.md", "CITATION.cff")
NAME = "ada/vit-course.x"


@pytest.fixture
def clone(tmp_path):
    """A copy of the files that carry the address, committed, as if it had none yet."""
    for path in [*(ROOT / name for name in CARRIERS), *NOTEBOOKS]:
        copy = tmp_path / path.relative_to(ROOT)
        copy.parent.mkdir(exist_ok=True)
        shutil.copyfile(path, copy)
    for path, text in address.stamped_files("", tmp_path).items():
        path.write_text(text, encoding="utf-8")
    git(tmp_path, "init", "--quiet")
    commit(tmp_path)
    return tmp_path


def git(folder, *arguments):
    subprocess.run(["git", *arguments], cwd=folder, check=True, capture_output=True)


def commit(folder):
    git(folder, "add", "--all")
    author = ("-c", "user.name=Ada", "-c", "user.email=ada@example.org")
    git(folder, *author, "commit", "--quiet", "--message", "x")


def contents(folder):
    files = (p for p in sorted(folder.rglob("*")) if ".git" not in p.parts)
    return {p: p.read_bytes() for p in files if p.is_file()}


# --- what is committed --------------------------------------------------------------------------


def test_every_file_says_the_address_of_the_course_and_no_placeholder():
    assert address.stamped_files(address.REPOSITORY, ROOT) == {}
    for path in [*(ROOT / name for name in CARRIERS[1:]), *NOTEBOOKS]:
        assert "OWNER/REPO" not in path.read_text(encoding="utf-8"), path


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_the_first_code_cell_is_folded_and_was_silent(path):
    cells = nbformat.read(path, as_version=4).cells
    fetch = next(c for c in cells if c.cell_type == "code")
    assert fetch.source == address.fetch_cell(address.REPOSITORY)
    assert dict(fetch.metadata) | address.FETCH_METADATA == dict(fetch.metadata)
    assert fetch.outputs == []


# --- stamp --------------------------------------------------------------------------------------


def test_a_copy_without_an_address_shows_no_badge_and_no_link_to_a_repository(clone):
    for path, content in contents(clone).items():
        if path.name != "address.py":
            assert b"![Open in" not in content, path
            assert b"github.com/" not in content or path.suffix == ".ipynb", path


def test_stamp_writes_the_address_everywhere_and_nothing_else(clone, monkeypatch, capsys):
    before = contents(clone)
    monkeypatch.setattr(command_line, "ROOT", clone)
    assert command_line.main(["stamp", NAME]) == 0
    assert "01_classify.ipynb" in capsys.readouterr().out
    readme = (clone / "README.md").read_text(encoding="utf-8")
    assert readme.count("[![Open in ") == len(NOTEBOOKS)
    for path in sorted((clone / "notebooks").glob("*.ipynb")):
        notebook = nbformat.read(path, as_version=4)
        nbformat.validate(notebook)
        title, text = notebook.cells[0].source, path.read_text(encoding="utf-8")
        for service, (_, link) in address.launchers(path.stem, NAME).items():
            assert f"[![Open in {service}](" in title and f"]({link})" in title
            assert NAME in link and f"{path.stem}.ipynb" in link
        colab_link = (
            f"https://colab.research.google.com/github/{NAME}/blob/main/notebooks/{path.name}"
        )
        assert colab_link in title and f"({colab_link})" in readme
        fetch = next(c for c in notebook.cells if c.cell_type == "code")
        assert f'"https://github.com/{NAME}/archive/main.zip"' in fetch.source
        assert text.count("archive/main.zip") == 1
    module = (clone / "course" / "address.py").read_text(encoding="utf-8")
    assert f'\nREPOSITORY = "{NAME}"  #' in module
    citation = (clone / "CITATION.cff").read_text(encoding="utf-8")
    assert citation.endswith(f"\nrepository-code: https://github.com/{NAME}\n")
    assert address.stamped_files(NAME, clone) == {}

    for path, text in address.stamped_files("", clone).items():  # and back: not a byte is lost
        path.write_text(text, encoding="utf-8")
    assert contents(clone) == before


def test_stamp_twice_changes_nothing_and_another_name_takes_its_place(clone, monkeypatch, capsys):
    monkeypatch.setattr(command_line, "ROOT", clone)
    command_line.main(["stamp", NAME])
    commit(clone)
    once = contents(clone)
    capsys.readouterr()
    assert command_line.main(["stamp", NAME]) == 0
    assert contents(clone) == once
    assert capsys.readouterr().out == "They say so already.\n"
    address.stamp("ada/vit-course", clone)  # a name that begins as the other one does
    assert all(NAME.encode() not in content for content in contents(clone).values())


@pytest.mark.parametrize(
    "name",
    [
        "", "ada", "ada/", "/vit", "ada/vit/x", "https://github.com/a/b", 'a/b"; x = "', "a b/c",
        "OWNER/REPO", "-ada/vit", "a--b/c", "ada/..", "ada/vit.git", "ada/vit\n",
        "ada/" + "x" * 101,
    ],
)  # fmt: skip
def test_stamp_refuses_what_is_no_address(clone, name, monkeypatch, capsys):
    before = contents(clone)
    monkeypatch.setattr(command_line, "ROOT", clone)
    arguments = ["stamp", "--", name] if name.startswith("-") else ["stamp", name]
    assert command_line.main(arguments) == 2
    said = capsys.readouterr().err
    assert "write OWNER/REPO" in said and said.count("\n") == 1
    assert contents(clone) == before


def test_stamp_wants_a_clean_tree(clone):
    readme = clone / "README.md"
    readme.write_text(readme.read_text(encoding="utf-8") + "mine\n", encoding="utf-8")
    before = contents(clone)
    with pytest.raises(CourseError, match=r"^README\.md has changes .* commit or stash them first"):
        address.stamp(NAME, clone)
    assert contents(clone) == before


def test_stamp_without_git(clone):
    shutil.rmtree(clone / ".git")
    assert address.stamp(NAME, clone)


def test_stamp_outside_a_clone(tmp_path):
    with pytest.raises(CourseError, match="no clone of the course"):
        address.stamp(NAME, tmp_path)


@pytest.mark.parametrize(
    ("cell", "source", "says"),
    [(0, "mine", "does not begin with a title"), (1, "import torch", "not the one that fetches")],
)
def test_stamp_names_the_notebook_that_is_not_as_the_course_has_it(clone, cell, source, says):
    path = clone / "notebooks" / "03_attention.ipynb"
    notebook = nbformat.read(path, as_version=4)
    notebook.cells[cell].source = source
    nbformat.write(notebook, path)
    commit(clone)
    before = contents(clone)
    with pytest.raises(CourseError, match=rf"^03_attention\.ipynb: .*{says}"):
        address.stamp(NAME, clone)
    assert contents(clone) == before


def test_where_a_file_cannot_be_written_all_stay_as_they_were(clone, monkeypatch):
    before = contents(clone)
    write = Path.write_text

    def fails_once(path, text, **kwargs):
        if path.name == "03_attention.ipynb":
            raise OSError(28, "No space left on device", str(path))
        return write(path, text, **kwargs)

    monkeypatch.setattr(Path, "write_text", fails_once)
    with pytest.raises(CourseError, match="No space left on device; nothing was changed"):
        address.stamp(NAME, clone)
    assert contents(clone) == before


def test_stamp_needs_nothing_but_python(clone):
    """As on GitHub: no package is there but the course's own files."""
    for name in ("course", "vit_helpers"):
        for path in (ROOT / name).glob("*.py"):
            (clone / name).mkdir(exist_ok=True)
            if not (clone / name / path.name).exists():
                shutil.copyfile(path, clone / name / path.name)
    commit(clone)
    bare = [sys.executable, "-I", "-S", "-c"]
    code = (
        "import sys; sys.path.insert(0, '.'); from course.__main__ import main; main(sys.argv[1:])"
    )
    done = subprocess.run([*bare, code, "stamp", NAME], cwd=clone, capture_output=True, text=True)
    assert f"files now say {NAME}" in done.stdout, done.stderr


# --- the first cell -----------------------------------------------------------------------------


def run_first_cell(monkeypatch, found, repository):
    """Run the cell as IPython would, and record the commands that it would run."""
    import importlib.util

    asked = []
    shell = types.SimpleNamespace(system=asked.append)
    source = TransformerManager().transform_cell(address.fetch_cell(repository))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: found)
    names = {"get_ipython": lambda: shell}
    exec(compile(source, "first cell", "exec"), names)
    return asked


@pytest.mark.parametrize("repository", ["", NAME])
def test_where_the_course_is_installed_the_first_cell_does_nothing(monkeypatch, capsys, repository):
    monkeypatch.setattr(packages, "complete", lambda: pytest.fail("nothing is to be installed"))
    assert run_first_cell(monkeypatch, object(), repository) == []
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("repository", "variable", "place"),
    [
        (NAME, None, f"https://github.com/{NAME}/archive/main.zip"),
        (NAME, "/some/clone", "/some/clone"),
        ("", "/some/clone", "/some/clone"),
    ],
)
def test_where_it_is_not_the_first_cell_installs_it_without_its_needs(
    monkeypatch, repository, variable, place
):
    completed = []
    monkeypatch.setattr(packages, "complete", lambda: completed.append(1))
    monkeypatch.delenv("VIT_REPO", raising=False)
    if variable:
        monkeypatch.setenv("VIT_REPO", variable)
    asked = run_first_cell(monkeypatch, None, repository)
    assert asked == [f'"{sys.executable}" -m pip install --quiet --no-deps "{place}"']
    assert completed == [1]


def test_where_there_is_no_address_the_first_cell_says_how_to_get_the_course(monkeypatch):
    monkeypatch.delenv("VIT_REPO", raising=False)
    with pytest.raises(ModuleNotFoundError, match=r"Run `%pip install FOLDER` in a new cell"):
        run_first_cell(monkeypatch, None, "")


# --- the workflow that stamps -------------------------------------------------------------------


def test_the_notebooks_metadata_is_what_jupyterlab_and_colab_read():
    assert json.loads(json.dumps(address.FETCH_METADATA)) == {
        "cellView": "form",
        "jupyter": {"source_hidden": True},
    }
    assert re.match(r"# @title \w", address.FETCH_CELL)
