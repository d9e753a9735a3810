"""The wheel, which Colab's first cell installs, has `vit_helpers` alone and needs little."""

import os
import shutil
import subprocess
import sys
import zipfile
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parent.parent
SOURCES = ("pyproject.toml", "README.md", "LICENSE", "NOTICE")
# What executes, exports, checks or tests notebooks: never on a learner's machine.
MAINTAINERS = set(
    "hypothesis import-linter jupyterlab latex2mathml mypy nbclient nbconvert nbval nox playwright "
    "pytest pytest-cov ruff sphinx uv".split()
)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The wheel, built from a copy and unpacked."""
    pytest.importorskip("setuptools", minversion="77")
    copy = tmp_path_factory.mktemp("copy")
    for name in SOURCES:
        shutil.copy(ROOT / name, copy)
    ignore = shutil.ignore_patterns("__pycache__", ".*")
    for package in ("vit_helpers", "course", "kit_builder", "benchmarks"):
        shutil.copytree(ROOT / package, copy / package, ignore=ignore)
    code = "from setuptools import build_meta; build_meta.build_wheel('dist')"
    built = subprocess.run([sys.executable, "-c", code], cwd=copy, capture_output=True, text=True)
    assert built.returncode == 0, built.stderr
    (path,) = (copy / "dist").glob("*.whl")
    unpacked = tmp_path_factory.mktemp("unpacked")
    zipfile.ZipFile(path).extractall(unpacked)
    return unpacked


def test_it_has_the_package_alone_and_no_script_of_the_kit(wheel):
    tops = {path.name.split("-")[0] for path in wheel.iterdir()}
    assert tops == {"vit_helpers"}
    kit = wheel / "vit_helpers" / "offline_kit"
    assert [path.name for path in kit.rglob("*.py")] == ["__init__.py"]
    assert (kit / "SHA256SUMS").is_file() and list(kit.rglob("*.safetensors"))
    assert (wheel / "vit_helpers" / "widgets" / "explorer.js").is_file()
    assert (wheel / "vit_helpers" / "tasks" / "classify.md").is_file()


def needs(wheel) -> set[str]:
    """The names of all that is installed with the wheel, its needs' needs included."""
    (info,) = wheel.glob("*.dist-info")
    todo = [Requirement(line) for line in metadata.PathDistribution(info).requires]
    found: set[str] = set()
    while todo:
        requirement = todo.pop()
        name = canonicalize_name(requirement.name)
        if requirement.marker and not requirement.marker.evaluate({"extra": ""}):
            continue
        if name in found:
            continue
        found.add(name)
        todo += [Requirement(line) for line in metadata.requires(name) or []]
    return found


def test_it_brings_nothing_that_a_learner_does_not_need(wheel):
    if metadata.version("ipywidgets") < "8":
        pytest.skip("ipywidgets 7 itself brings Jupyter Notebook")
    found = needs(wheel)
    assert {"torch", "transformers", "ipywidgets", "numpy"} <= found
    assert not found & MAINTAINERS


def command(wheel, *arguments):
    """`python -m vit_helpers` from the wheel, in a folder that has no clone."""
    environment = {**os.environ, "PYTHONPATH": str(wheel), "VIT_SOURCE": "offline"}
    module = [sys.executable, "-m", "vit_helpers", *arguments]
    return subprocess.run(
        module, cwd=wheel, env=environment, capture_output=True, text=True, encoding="utf-8"
    )


def test_its_commands_are_those_of_a_learner(wheel):
    text = command(wheel, "--help").stdout
    assert all(name in text for name in ("doctor", "prefetch", "train"))


@pytest.mark.parametrize("name", ["solve", "bench"])
def test_a_command_of_the_clone_says_where_it_is(wheel, name):
    said = command(wheel, name)
    assert said.returncode == 2
    assert said.stderr.count("\n") == 1
    assert "clone the repository and run it there" in said.stderr
