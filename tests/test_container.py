"""The container and the dev container: what they copy is there, what they run are real commands."""

import fnmatch
import json
import os
import re
import shlex
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
DOCKERFILE = (ROOT / "Dockerfile").read_text(encoding="utf-8")
DEV = json.loads((ROOT / ".devcontainer" / "devcontainer.json").read_text(encoding="utf-8"))
KNOWN = {"FROM", "RUN", "USER", "WORKDIR", "ENV", "COPY", "EXPOSE", "CMD"}


def instructions():
    """`(word, rest)` of each instruction, lines joined, comments gone."""
    text = re.sub(r"^#.*\n", "", DOCKERFILE, flags=re.M)
    lines = re.sub(r"\\\n\s*", "", text).splitlines()
    return [tuple(line.split(" ", 1)) for line in lines if line.strip()]


def test_the_dockerfile_is_well_formed():
    found = instructions()
    assert {word for word, _ in found} == KNOWN
    assert found[0] == ("FROM", "python:3.11-slim")  # the Python that the pins are tested with
    words = [word for word, _ in found]
    assert words.index("USER") < words.index("COPY")  # nothing of the course runs as root
    assert json.loads(found[-1][1])[:2] == ["jupyter", "lab"]


def test_what_is_copied_is_there_and_what_is_built_is_not_copied():
    for word, rest in instructions():
        if word == "COPY":
            *sources, _ = [part for part in shlex.split(rest) if not part.startswith("--")]
            assert all((ROOT / source).exists() for source in sources)
    ignored = (ROOT / ".dockerignore").read_text(encoding="utf-8").split()
    for name in (".git", ".venv", "build", ".cache"):
        assert any(fnmatch.fnmatch(name, pattern) for pattern in ignored), name


def test_the_dev_container_is_the_same_container():
    assert (ROOT / ".devcontainer" / DEV["build"]["dockerfile"]).resolve() == ROOT / "Dockerfile"
    assert (ROOT / ".devcontainer" / DEV["build"]["context"]).resolve() == ROOT
    assert DEV["remoteUser"] == dict(instructions())["USER"]


@pytest.mark.slow
def test_the_commands_run_in_a_clean_folder(tmp_path):
    """All but the system's packages: pip says what it would install, and installs the course."""
    course, home = tmp_path / "course", tmp_path / "home"
    home.mkdir()
    subprocess.run(["git", "clone", "--quiet", ROOT, course], check=True)
    venv = tmp_path / "venv"
    env = os.environ | {
        "HOME": str(home),
        "PATH": f"{venv / 'bin'}{os.pathsep}{os.environ['PATH']}",
    }
    env.pop("PYTHONPATH", None)
    commands = [rest for word, rest in instructions() if word == "RUN" and "apt-get" not in rest]
    assert len(commands) == 3
    for command in [*commands, DEV["postCreateCommand"]]:
        command = command.replace("/opt/venv", f"--system-site-packages {venv}")
        command = command.replace("/tmp/pins.txt", str(tmp_path / "pins.txt"))
        command = command.replace("python -m venv", f"{sys.executable} -m venv")
        command = command.replace("-r ", "--dry-run -r ")
        if "vit_helpers doctor" in command:  # it finds the libraries in the Python of this test
            env["PYTHONPATH"] = sysconfig.get_path("purelib")
        done = subprocess.run(
            command, shell=True, cwd=course, env=env, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stdout + done.stderr
