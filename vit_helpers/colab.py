"""What a hosted notebook needs and a prepared machine has: missing packages, shown widgets.

Colab brings torch, transformers, datasets and hundreds more, in versions that fit each other and
that are in use as soon as a notebook starts. So only what is absent is installed, and nothing
that is there changes: no restart, and nothing else on that machine breaks.
"""

import re
import subprocess
import sys
import tempfile
from importlib import metadata
from pathlib import Path

from .errors import CourseError

# Packages of a gigabyte and more, in a build that must fit the graphics card: never ours to choose.
NEVER_INSTALLED = ("torch", "torchvision")


def on_colab() -> bool:
    """Whether this is a notebook on Colab, whose kernel imports its own module first."""
    return "google.colab" in sys.modules


def prepare() -> None:
    """On Colab: install what is missing, and let it show widgets. Elsewhere nothing happens."""
    if on_colab():
        complete()
        show_widgets()


def missing() -> list[str]:
    """What the course needs and this Python lacks, as requirements such as `onnx>=1.17`."""
    lines = [line for line in metadata.requires("vit-helpers") or [] if "extra ==" not in line]
    return [line for line in lines if not _installed(_name(line))]


def _name(line: str) -> str:
    return re.split(r"[^\w.-]", line, maxsplit=1)[0]


def _installed(name: str) -> bool:
    try:
        metadata.version(name)
    except metadata.PackageNotFoundError:
        return False
    return True


def complete() -> None:
    """Install what is missing and change nothing that is there; silent if nothing is missing.

    Raises:
        CourseError: If torch is missing, or pip cannot install the rest.
    """
    lacking = missing()
    for line in lacking:
        if _name(line) in NEVER_INSTALLED:
            raise CourseError(
                f"{line} is missing here: install it as https://pytorch.org/get-started says for "
                "this machine, then run this cell again."
            )
    if not lacking:
        return
    print("Installing", ", ".join(lacking), flush=True)
    with tempfile.TemporaryDirectory() as folder:
        constraints = Path(folder) / "constraints.txt"
        constraints.write_text("".join(f"{pin}\n" for pin in _pins()), encoding="utf-8")
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--constraint", str(constraints)]
        result = subprocess.run([*pip, *lacking], capture_output=True, text=True, encoding="utf-8")
    if result.returncode:
        said = [line for line in result.stderr.splitlines() if line.startswith("ERROR")]
        reason = said[-1].removeprefix("ERROR: ") if said else "no reason given"
        raise CourseError(
            f"pip could not install {', '.join(lacking)} ({reason}): check the network, then run "
            "this cell again."
        )


def _pins() -> list[str]:
    """Every installed package at its present version, so that pip cannot change it."""
    pins = {}
    for package in metadata.distributions():
        name, version = package.metadata["Name"], package.version
        if name and re.fullmatch(r"[0-9][\w.!+-]*", version or ""):
            pins.setdefault(re.sub(r"[-_.]+", "-", name).lower(), f"{name}=={version}")
    return sorted(pins.values())


def show_widgets() -> None:
    """Let Colab show widgets that are not its own.

    It has ipywidgets 7 built in and shows that without help. To Colab ipywidgets 8 is as foreign
    as anybody's, progress bars included, until its manager for such widgets is switched on.
    """
    if int(metadata.version("ipywidgets").split(".")[0]) >= 8:
        from google.colab import output

        output.enable_custom_widget_manager()
