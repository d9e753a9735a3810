"""Packages that a hosted notebook lacks, and its widgets.

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

from ..errors import CourseError


def prepare() -> None:
    """On Colab: install what is missing, and let it show widgets. Elsewhere nothing happens."""
    if "google.colab" not in sys.modules:  # its kernel imports that first
        return
    complete()
    # Colab shows ipywidgets 7 by itself. Version 8, progress bars included, counts as foreign.
    if int(metadata.version("ipywidgets").split(".")[0]) >= 8:
        from google.colab import output

        output.enable_custom_widget_manager()


def complete() -> None:
    """Install what is missing and change nothing that is there; silent if nothing is missing.

    Raises:
        CourseError: If torch is missing, or pip cannot install the rest.
    """
    pins = _installed()
    lacking = _missing(pins)
    for line in lacking:
        if re.match(r"torch(vision)?\b", line):  # in a build that must fit the graphics card
            raise CourseError(
                f"{line} is missing here: install it as https://pytorch.org/get-started says for "
                "this machine, then run this cell again."
            )
    if not lacking:
        return
    print("Installing", ", ".join(lacking), flush=True)
    with tempfile.TemporaryDirectory() as folder:
        constraints = Path(folder) / "constraints.txt"  # so that pip cannot change what is there
        constraints.write_text("\n".join(pins.values()), encoding="utf-8")
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--constraint", str(constraints)]
        result = subprocess.run([*pip, *lacking], capture_output=True, text=True, encoding="utf-8")
    if result.returncode:
        said = [line for line in result.stderr.splitlines() if line.startswith("ERROR")]
        reason = said[-1].removeprefix("ERROR: ") if said else "no reason given"
        raise CourseError(
            f"pip could not install {', '.join(lacking)} ({reason}): check the network, then run "
            "this cell again."
        )


def _missing(pins: dict[str, str]) -> list[str]:
    """What the course needs and this Python lacks, as requirements such as `onnx>=1.17`."""
    lines = [line for line in metadata.requires("vit-helpers") or [] if "extra ==" not in line]
    return [line for line in lines if _normal(re.split(r"[^\w.-]", line)[0]) not in pins]


def _installed() -> dict[str, str]:
    """Every installed package: name -> `name==version`."""
    found = {}
    for package in metadata.distributions():
        name, version = package.metadata["Name"], package.version
        if name and re.fullmatch(r"[0-9][\w.!+-]*", version or ""):
            found.setdefault(_normal(name), f"{name}=={version}")
    return dict(sorted(found.items()))


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()
