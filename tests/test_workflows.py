"""The workflows of GitHub: their commands are read from the files and run here."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import hub_stand_in
import pytest
import yaml

from course import address, book

ROOT = Path(__file__).parent.parent
FILES = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
NAME = "ada/vit-course"


def workflow(name):
    return yaml.safe_load((ROOT / ".github" / "workflows" / name).read_text(encoding="utf-8"))


def steps(name):
    """The steps of a workflow with a command, by their names."""
    jobs = workflow(name)["jobs"].values()
    found = [step for job in jobs for step in job["steps"] if "run" in step]
    return {step.get("name", step["run"]): step for step in found}


def run(step, folder, status=0, **variables):
    """Run the command of a step as GitHub does. Returns what it printed."""
    done = subprocess.run(
        ["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", step["run"]],
        cwd=folder,
        env={**os.environ, **variables},
        capture_output=True,
        text=True,
    )
    assert done.returncode == status, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout


def git(folder, *arguments):
    command = ["git", "-c", "user.name=Ada", "-c", "user.email=ada@example.org", *arguments]
    done = subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True)
    return done.stdout.strip()


@pytest.fixture
def clone(tmp_path):
    return cloned(tmp_path)


def cloned(tmp_path, kit=False):
    """A clone of a repository that holds this course, pushed for the first time."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True)
    if listed.returncode:
        pytest.skip("no git here")
    git(tmp_path, "init", "--quiet", "--bare", "--initial-branch=main", "origin.git")
    git(tmp_path, "clone", "--quiet", "origin.git", "clone")
    folder = tmp_path / "clone"
    for name in filter(None, listed.stdout.split("\0")):
        # The kit's pictures are many, and most commands need none.
        if (ROOT / name).is_file() and (kit or not name.startswith("vit_helpers/offline_kit/")):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes((ROOT / name).read_bytes())
    for path, text in address.stamped_files("", folder).items():
        path.write_text(text, encoding="utf-8")
    git(folder, "checkout", "--quiet", "-B", "main")
    git(folder, "add", "--all")
    git(folder, "commit", "--quiet", "--message", "x")
    git(folder, "push", "--quiet", "--set-upstream", "origin", "main")
    return folder


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.name)
def test_a_workflow_says_what_it_may_do_and_ends(path):
    read = yaml.safe_load(path.read_text(encoding="utf-8"))
    assert read["permissions"]
    for job in read["jobs"].values():
        assert job["runs-on"] == "ubuntu-latest"
        assert "timeout-minutes" in job or all("run" not in step for step in job["steps"])
        for step in job["steps"]:
            # What others write into the run, such as a title, is never part of a command.
            assert "${{" not in step.get("run", "")


def test_stamp_runs_once_and_opens_no_loop(clone, tmp_path):
    (step,) = steps("stamp.yml").values()
    assert workflow("stamp.yml")[True] == {"push": {"branches": ["main"]}}
    run(step, clone, GITHUB_REPOSITORY=NAME)
    pushed = git(tmp_path, "--git-dir=origin.git", "log", "--format=%s", "main").splitlines()
    assert pushed == ["The address of this repository: badges, first cells, citation", "x"]
    assert address.stamped_files(NAME, clone) == {}
    # Its own push, or any later one, finds a course that knows its address.
    assert run(step, clone, GITHUB_REPOSITORY=NAME) == "The course knows its address.\n"
    assert git(clone, "rev-parse", "HEAD") == git(clone, "rev-parse", "HEAD@{upstream}")
    assert len(git(clone, "log", "--format=%s").splitlines()) == 2


def test_the_hubs_edition_goes_to_a_branch_and_from_there_to_the_site(clone, tmp_path):
    keep = steps("hub.yml")["Keep them on the branch hub-edition"]
    (clone / "build" / "hub").mkdir(parents=True)
    for word in ("first", "second"):  # next month it takes the place of the one before
        (clone / "build" / "hub" / "01_classify.html").write_text(word, encoding="utf-8")
        (clone / "build" / "hub" / "timings.json").write_text("[]", encoding="utf-8")
        run(keep, clone)
        git(clone, "worktree", "remove", "--force", ".cache/edition")  # GitHub starts afresh
        git(clone, "branch", "--delete", "--force", "hub-edition")
    fetch = next(step for name, step in steps("ci.yml").items() if name.startswith("Fetch"))
    git(tmp_path, "clone", "--quiet", "origin.git", "later")
    run(fetch, tmp_path / "later")
    found = sorted((tmp_path / "later" / "build" / "hub").iterdir())
    assert [path.name for path in found] == ["01_classify.html", "timings.json"]
    assert found[0].read_text(encoding="utf-8") == "second"
    assert git(tmp_path, "--git-dir=origin.git", "rev-list", "--count", "hub-edition") == "1"


def test_without_a_hubs_edition_ci_goes_on(clone):
    fetch = next(step for name, step in steps("ci.yml").items() if name.startswith("Fetch"))
    run(fetch, clone)
    assert not (clone / "build" / "hub").exists()


def test_the_steps_for_the_hub_are_commands_that_there_are():
    commands = [step["run"] for step in steps("hub.yml").values()]
    assert commands[:4] == [
        "make .venv/installed",
        ".venv/bin/python -m vit_helpers prefetch",
        "VIT_NETWORK=1 .venv/bin/python -m pytest -q -m network tests/test_hub.py",
        ".venv/bin/python -m course run $NOTEBOOKS --to build/hub",
    ]
    assert workflow("hub.yml")["env"]["VIT_SOURCE"] == "hub"
    files = {p.name: p.read_text(encoding="utf-8") for p in (ROOT / "tests").glob("*.py")}
    marked = [n for n, text in files.items() if re.search(r"^@pytest\.mark\.network", text, re.M)]
    assert marked == ["test_hub.py"]  # no other file is collected


LAST = "predict"  # of notebook 01: the five most probable classes
# The mirrors are reached by TLS only, which the stand-in does not speak.
WITHOUT_MIRRORS = "--deselect tests/test_hub.py::test_the_mirrors_are_where_the_table_says"


@pytest.mark.slow
def test_the_hubs_edition_is_made_step_by_step(tmp_path, monkeypatch):
    """All steps of hub.yml with the first half of 01, from a stand-in for the Hub and the network.

    What is not run is the installation: `.venv` is the Python of this test.
    """
    clone = cloned(tmp_path, kit=True)
    shorten(clone / "notebooks" / "01_classify.ipynb")
    (clone / ".venv" / "bin").mkdir(parents=True)
    executable(clone / ".venv" / "bin" / "python", f'exec "{sys.executable}" "$@"')
    (clone / ".venv" / "installed").touch()
    executable(tmp_path / "tools" / "gh", GH)
    files = hub_stand_in.as_published()
    with hub_stand_in.StandIn(files) as hub:
        proxies = ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY")
        given = {
            **workflow("hub.yml")["env"],
            **dict.fromkeys(proxies, hub.address),
            "no_proxy": "127.0.0.1",
            "NO_PROXY": "127.0.0.1",
            "HF_ENDPOINT": hub.address,
            "HOME": str(tmp_path / "home"),  # nobody has downloaded anything
            "VIT_CACHE": str(clone / ".cache" / "vit"),
            "NOTEBOOKS": "01",
            "PYTHONPATH": str(clone),
            "PYTEST_ADDOPTS": WITHOUT_MIRRORS,
            "PATH": os.pathsep.join([str(tmp_path / "tools"), os.environ["PATH"]]),
            "LOG": str(tmp_path / "log"),
            "GH_TOKEN": "",
        }
        for name in ("HF_HOME", "HF_HUB_CACHE", "HF_DATASETS_CACHE", "HF_HUB_OFFLINE"):
            monkeypatch.delenv(name, raising=False)
        printed = {name: run(step, clone, **given) for name, step in steps("hub.yml").items()}
        assert hub.log
        # Were the labels published in another order, the check would end the run.
        config = next(name for name in hub.files if name.endswith("/config.json"))
        hub.files[config] = hub.files[config].replace(b"golden retriever", b"tabby")
        given["VIT_CACHE"] = str(tmp_path / "another")
        check = steps("hub.yml")["Check the published logits, labels and data sets"]
        given["PYTEST_ADDOPTS"] += " -k label_order"
        assert "test_label_order" in run(check, clone, status=1, **given)
    assert "4 passed" in printed["Check the published logits, labels and data sets"]
    assert (tmp_path / "log").read_text(encoding="utf-8") == "workflow run ci.yml\n"
    git(tmp_path, "clone", "--quiet", "origin.git", "later")
    fetch = next(step for name, step in steps("ci.yml").items() if name.startswith("Fetch"))
    run(fetch, tmp_path / "later")
    monkeypatch.setattr(book, "HUB", tmp_path / "later" / "build" / "hub")
    assert re.search(r'href="hub/01_classify\.html">1 Classify.* minutes', book.hub_rows())
    page = (book.HUB / "01_classify.html").read_text(encoding="utf-8")
    assert "source hub" in page and "Egyptian cat" in page


def shorten(path):
    """Keep the first half of notebook 01."""
    notebook = json.loads(path.read_text(encoding="utf-8"))
    ids = [cell["id"] for cell in notebook["cells"]]
    notebook["cells"] = notebook["cells"][: ids.index(LAST) + 1]
    path.write_text(json.dumps(notebook), encoding="utf-8")


def executable(path, script):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(script if script.startswith("#!") else f"#!/bin/sh\n{script}\n", "utf-8")
    path.chmod(0o755)


PYTHON = f"""#!/bin/sh
case "$*" in
  "-m venv .venv") mkdir -p .venv/bin && cp "$0" .venv/bin/python ;;
  "-m pip install "*) exec "{sys.executable}" "$@" --dry-run ;;
  "-m pytest "*) exec "{sys.executable}" "$@" --collect-only ;;
  *) exec "{sys.executable}" "$@" ;;
esac
"""


@pytest.mark.slow
def test_the_newest_libraries_are_tried_step_by_step(tmp_path):
    """All steps of newest.yml: pip says what it would install, pytest what it would run.

    Of the notebooks, the first half of 01 is executed.
    """
    clone = cloned(tmp_path, kit=True)
    for path in (clone / "notebooks").glob("*.ipynb"):
        shorten(path) if path.stem == "01_classify" else path.unlink()
    executable(tmp_path / "tools" / "python", PYTHON)
    given = {
        "PATH": os.pathsep.join([str(tmp_path / "tools"), os.environ["PATH"]]),
        "PYTHONPATH": str(clone),
    }
    printed = {
        name: run(step, clone, **given)
        for name, step in steps("newest.yml").items()
        if "if" not in step
    }
    assert list(printed) == [
        "Install the newest of everything", "Unit tests", "Execute the notebooks"
    ]  # fmt: skip
    assert "\ntorch==" in (clone / "versions.txt").read_text(encoding="utf-8")
    assert re.search(r"\d{3,} .*collected|\d{3,}/\d+ tests collected", printed["Unit tests"])
    assert (clone / "build" / "01_classify.html").is_file()


GH = """#!/bin/sh
echo "$@" >> "$LOG"
[ "$2" != list ] || cat "$OPEN"
"""


@pytest.mark.parametrize(("is_open", "opens"), [("", True), ("7\n", False)])
def test_one_issue_is_opened_when_the_newest_libraries_break_something(tmp_path, is_open, opens):
    step = steps("newest.yml")["Open an issue when something broke"]
    assert step["if"] == "failure()"
    tools = tmp_path / "tools"
    executable(tools / "gh", GH)
    (tmp_path / "open").write_text(is_open, encoding="utf-8")
    (tmp_path / "versions.txt").write_text("torch==99\n", encoding="utf-8")
    variables = {
        "PATH": os.pathsep.join([str(tools), os.environ["PATH"]]),
        "LOG": str(tmp_path / "log"),
        "OPEN": str(tmp_path / "open"),
        "RUN": "https://example.org/7",
    }
    run(step, tmp_path, **variables)
    asked = (tmp_path / "log").read_text(encoding="utf-8")
    assert ("issue create" in asked) == opens
    if opens:
        body = (tmp_path / "issue.md").read_text(encoding="utf-8")
        assert "https://example.org/7" in body and "torch==99" in body
