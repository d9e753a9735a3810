"""The course with its oldest, its pinned and its newest libraries: `nox`, or `nox -s oldest-3.10`.

Each session makes an environment of its own and tests in it. A Python that is not on this machine
is skipped.
`nox -s newest-3.13 -- unit` runs one kind of test only: `unit`, `run` (execute the notebooks) or
`strict` (execute them and compare every output with the saved one).
"""

import os
import shutil
import subprocess

import nox

if shutil.which("pyenv"):  # it shows a Python that it has only if it is asked for that one
    names = subprocess.run(["pyenv", "versions", "--bare"], capture_output=True, text=True).stdout
    os.environ["PYENV_VERSION"] = ":".join(reversed(names.split()))

nox.needs_version = ">=2025.2"
nox.options.default_venv_backend = "uv"
nox.options.stop_on_first_error = False

TOOLS = ("hypothesis", "nbval", "pytest", "pyyaml")  # what the tests need, and no learner
COMPARED = ("fast-vit-rollout", "opencv-python-headless")  # a package to compare with
OFFLINE = {"VIT_SOURCE": "offline", "VIT_PROFILE": "quick", "VIT_SEED": "0", "VIT_BARS": "off"}


OLDEST = ["3.10", "3.11", "3.12"]  # NumPy 2.0 ends there


@nox.session(python=OLDEST)
def oldest(session: nox.Session) -> None:
    """The lower ends of pyproject.toml, as requirements-oldest.txt has them."""
    session.install("-r", "requirements-oldest.txt", *TOOLS)
    check(session, "unit", "run")


@nox.session(python=["3.11", "3.12", "3.13"])  # NumPy 2.4 and pandas 3 begin at Python 3.11
def pinned(session: nox.Session) -> None:
    """What requirements.txt has, as `make test` does."""
    session.install("-r", "requirements.txt")
    check(session, "unit", "strict")


@nox.session(python=["3.10", "3.11", "3.12", "3.13"])
def newest(session: nox.Session) -> None:
    """The newest of everything that the package index has for this Python."""
    session.install("--upgrade", "-e", ".[dev]")
    check(session, "unit")


@nox.session
def extras(session: nox.Session) -> None:
    """What needs packages that a learner may not have: OpenVINO, and a package to compare with."""
    session.install("-r", "requirements.txt", "-e", ".[openvino]", *COMPARED)
    session.run("pytest", "-q", "-k", "openvino or published_package", "tests", env=OFFLINE)


def check(session: nox.Session, *steps: str) -> None:
    """Run the tests."""
    session.install("--no-deps", "-e", ".")
    commands = {
        # The browser has the same pages whatever made them; what needs minutes is marked.
        "unit": ["pytest", "-q", "-m", "not browser", "tests"],
        "run": ["course", "run", "--to", f"build/{session.name}"],
        "strict": ["course", "test", "notebooks"],
    }
    steps = tuple(session.posargs) or steps
    for step in steps:
        session.run("python", "-m", *commands[step], env=OFFLINE)


if __name__ == "__main__":  # which of them is the first here, for `make test-oldest`
    checks = [[f"python{version}", "--version"] for version in OLDEST]
    there = [c for c in checks if shutil.which(c[0])]
    here = [c[0] for c in there if not subprocess.run(c, capture_output=True).returncode]
    print(here[0].removeprefix("python"))
