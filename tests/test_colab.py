"""On Colab: what the first cell installs, shown widgets, and each notebook alone."""

import contextlib
import json
import os
import shutil
import subprocess
import sys
import sysconfig
import time
import types
from importlib import metadata
from pathlib import Path

import nbformat
import pytest

from vit_helpers import runtime
from vit_helpers.errors import CourseError
from vit_helpers.resources import packages

ROOT = Path(__file__).parent.parent
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))


# --- what is missing ---------------------------------------------------------------------------


@pytest.fixture
def pip(monkeypatch):
    """A pip that installs nothing: what it was asked, its constraints, and its answer."""
    fake = types.SimpleNamespace(asked=[], constraints="", status=0, error="")

    def run(command, **kwargs):
        fake.asked.append(command)
        fake.constraints = Path(command[command.index("--constraint") + 1]).read_text()
        return subprocess.CompletedProcess(command, fake.status, "", fake.error)

    monkeypatch.setattr(packages.subprocess, "run", run)
    return fake


def lacking(monkeypatch, *names):
    there = [p for p in metadata.distributions() if p.metadata["Name"] not in names]
    monkeypatch.setattr(packages.metadata, "distributions", lambda: there)


def test_where_all_is_there_nothing_is_installed_and_nothing_said(pip, capsys):
    packages.complete()
    assert pip.asked == []
    assert capsys.readouterr() == ("", "")


def test_only_what_is_missing_is_installed_and_nothing_else_may_change(pip, monkeypatch, capsys):
    lacking(monkeypatch, "onnx", "onnxruntime")
    packages.complete()
    (command,) = pip.asked
    wanted = command[command.index("--constraint") + 2 :]
    assert [w.split(">")[0] for w in wanted] == ["onnx", "onnxruntime"]
    assert "--upgrade" not in command and command[:4] == [sys.executable, "-m", "pip", "install"]
    pins = pip.constraints.splitlines()
    for name in ("torch", "transformers", "numpy", "ipykernel"):
        assert f"{name}=={metadata.version(name)}" in pins
    assert "Installing onnx" in capsys.readouterr().out


def test_extras_are_no_need(pip, monkeypatch):
    lacking(monkeypatch, "resvg-py", "jupyterlab")
    packages.complete()
    assert pip.asked == []


@pytest.mark.parametrize("name", ["torch", "torchvision"])
def test_torch_is_never_installed(pip, monkeypatch, name):
    lacking(monkeypatch, name, "onnx")
    with pytest.raises(CourseError, match=f"{name}>=.* is missing here: install it as"):
        packages.complete()
    assert pip.asked == []


def test_what_pip_cannot_install_is_one_sentence(pip, monkeypatch):
    lacking(monkeypatch, "onnx")
    pip.status, pip.error = 1, "WARNING: Retrying\nERROR: No matching distribution found for onnx\n"
    with pytest.raises(CourseError, match=r"install onnx.* \(No matching .*\): check the network"):
        packages.complete()


def test_what_installs_needs_nothing_that_may_be_missing():
    code = (
        "import sys; sys.modules.update(dict.fromkeys(('requests', 'filelock', 'torch', 'numpy')));"
        "from vit_helpers.resources import packages; packages.complete"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


# --- widgets -----------------------------------------------------------------------------------


@pytest.fixture
def fake_colab(monkeypatch):
    """Colab's own module, as far as the course uses it."""
    calls = []
    output = types.SimpleNamespace(enable_custom_widget_manager=lambda: calls.append("widgets"))
    module = types.ModuleType("google.colab")
    module.output = output
    package = types.ModuleType("google")
    package.colab = module
    monkeypatch.setitem(sys.modules, "google", package)
    monkeypatch.setitem(sys.modules, "google.colab", module)
    monkeypatch.setattr(packages, "complete", lambda: calls.append("complete"))
    return calls


@pytest.mark.parametrize("version, shown", [("7.7.1", False), ("8.1.9", True)])
def test_set_up_on_colab_completes_and_shows_widgets(fake_colab, monkeypatch, version, shown):
    # Colab shows ipywidgets 7 by itself; its manager for foreign widgets speaks version 8.
    monkeypatch.setattr(packages.metadata, "version", lambda name: version)
    packages.prepare()
    assert fake_colab == ["complete"] + ["widgets"] * shown


def test_set_up_prepares(fake_colab):
    runtime.start()
    assert fake_colab[0] == "complete"


def test_elsewhere_set_up_prepares_nothing(monkeypatch):
    monkeypatch.setattr(packages, "complete", lambda: pytest.fail("this is not Colab"))
    packages.prepare()


# --- each notebook alone, in a Python without the course ---------------------------------------

HIDDEN = ("vit_helpers", "__editable__", "onnx", "onnxruntime", "onnxscript", "onnx_ir")
FAKE_COLAB = """
class output:
    @staticmethod
    def enable_custom_widget_manager():
        print("custom widgets switched on")
"""


@pytest.fixture(scope="session")
def bare(tmp_path_factory):
    """A Python that has what Colab has, but neither the course nor what Colab lacks.

    It sees the packages of this Python through links, all but the hidden ones; the editable
    install of the course is one of these. `bare.copy` is the tracked part of this repository.
    """
    base = tmp_path_factory.mktemp("bare")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", base / "venv"], check=True)
    # dill, which names the caches of `datasets`, knows installed modules by this name of a folder.
    seen = base / "seen" / "site-packages"
    seen.mkdir(parents=True)
    for path in Path(sysconfig.get_path("purelib")).iterdir():
        if not path.name.lower().startswith(HIDDEN):
            (seen / path.name).symlink_to(path)
    fake = base / "fake"
    (fake / "google" / "colab").mkdir(parents=True)
    (fake / "google" / "colab" / "__init__.py").write_text(FAKE_COLAB)
    site = next((base / "venv").rglob("site-packages"))
    # On Colab its own module is imported before the first cell.
    (site / "seen.pth").write_text(f"{seen}\n{fake}\nimport google.colab\n")
    python = base / "venv" / ("Scripts" if os.name == "nt" else "bin") / "python"
    spec = base / "share" / "kernels" / "bare"
    spec.mkdir(parents=True)
    argv = [str(python), "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    (spec / "kernel.json").write_text(json.dumps({"argv": argv, "display_name": "bare"}))
    copy = base / "clone"
    tracked = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True)
    for name in filter(None, tracked.stdout.decode().split("\0")):
        with contextlib.suppress(FileNotFoundError):
            (copy / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / name, copy / name)
    return types.SimpleNamespace(python=python, site=site, copy=copy, share=base / "share")


def remove_the_course(bare):
    for path in bare.site.iterdir():
        if path.name != "seen.pth":
            shutil.rmtree(path) if path.is_dir() else path.unlink()


def execute(bare, notebook, folder, monkeypatch):
    """Execute a notebook in the bare Python, in an empty folder. Returns the seconds of each cell.

    The course is removed first, so that every notebook finds a Python without it.
    """
    from nbclient import NotebookClient

    remove_the_course(bare)
    monkeypatch.setenv("JUPYTER_PATH", str(bare.share))
    monkeypatch.setenv("VIT_REPO", str(bare.copy))
    monkeypatch.delenv("PYTHONPATH", raising=False)
    seconds = []
    NotebookClient(
        notebook,
        kernel_name="bare",
        timeout=600,
        resources={"metadata": {"path": str(folder)}},
        store_widget_state=False,
        on_cell_execute=lambda cell, cell_index: seconds.append(-time.perf_counter()),
        on_cell_executed=lambda **kwargs: seconds.append(seconds.pop() + time.perf_counter()),
    ).execute()
    return seconds


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_a_notebook_alone_fetches_the_course_in_seconds(bare, path, tmp_path, monkeypatch):
    monkeypatch.delenv("PYTHONPATH", raising=False)
    versions = "import torch, transformers, os; print(torch.__version__, torch.__path__[0])"
    before = subprocess.run([bare.python, "-c", versions], capture_output=True, text=True)
    remove_the_course(bare)
    # In the empty folder: `python -c` also looks where it was started.
    tried = subprocess.run(
        [bare.python, "-c", "import vit_helpers"], cwd=tmp_path, capture_output=True, text=True
    )
    assert "No module named 'vit_helpers'" in tried.stderr

    notebook = nbformat.read(path, as_version=4)
    code = [c for c in notebook.cells if c.cell_type == "code"]
    where = nbformat.v4.new_code_cell("import vit_helpers; print(vit_helpers.__file__)")
    notebook.cells = [*code[:2], where]  # fetch; import and set up
    seconds = execute(bare, notebook, tmp_path, monkeypatch)
    print(f"{path.stem}: fetched in {seconds[0]:.1f} s, set up in {seconds[1]:.1f} s")
    assert str(bare.site) in where.outputs[0].text
    text = "".join(o.get("text", "") for o in code[0].outputs)
    assert "Installing onnx" in text and "ERROR" not in text and "restart" not in text.lower(), text
    assert "custom widgets switched on" in code[1].outputs[0].text
    assert list(tmp_path.iterdir()) == []
    assert seconds[0] < 30
    after = subprocess.run([bare.python, "-c", versions], capture_output=True, text=True)
    assert before.stdout == after.stdout != ""


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_a_notebook_runs_whole_alone(bare, path, tmp_path, monkeypatch):
    notebook = nbformat.read(path, as_version=4)
    seconds = execute(bare, notebook, tmp_path, monkeypatch)
    print(f"{path.stem}: {sum(seconds):.0f} s, of which the first cell {seconds[0]:.1f} s")
    assert not [o for c in notebook.cells for o in c.get("outputs", []) if o.output_type == "error"]
