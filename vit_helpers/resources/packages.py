"""Packages that a hosted notebook lacks, and its widgets.

Only what is absent is installed: Colab's own packages fit each other and are in use already.
"""

import re
import subprocess
import sys
import tempfile
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

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


def required() -> list[Requirement]:
    """What the course needs, without extras."""
    return [r for r in map(Requirement, metadata.requires("vit-helpers") or []) if not r.marker]


def complete() -> None:
    """Install what is missing and change nothing that is there; silent if nothing is missing."""
    pins = _installed()
    lacking = [need for need in required() if canonicalize_name(need.name) not in pins]
    if not lacking:
        return
    wanted = ", ".join(map(str, lacking))
    for need in lacking:
        if need.name in ("torch", "torchvision"):  # in a build that must fit the graphics card
            raise CourseError(
                f"{need} is missing here: install it as https://pytorch.org/get-started says for "
                "this machine, then run this cell again."
            )
    print("Installing", wanted, flush=True)
    with tempfile.TemporaryDirectory() as folder:
        constraints = Path(folder) / "constraints.txt"  # so that pip cannot change what is there
        constraints.write_text("\n".join(pins.values()), encoding="utf-8")
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--constraint", str(constraints)]
        pip += map(str, lacking)
        result = subprocess.run(pip, capture_output=True, text=True, encoding="utf-8")
    if result.returncode:
        said = [line for line in result.stderr.splitlines() if line.startswith("ERROR")]
        reason = said[-1].removeprefix("ERROR: ") if said else "no reason given"
        raise CourseError(
            f"pip could not install {wanted} ({reason}): check the network, then run this cell "
            "again."
        )


def _installed() -> dict[str, str]:
    """Every installed package: name -> `name==version`."""
    found = {}
    for package in metadata.distributions():
        name, version = package.metadata["Name"], package.version
        if name and re.fullmatch(r"[0-9][\w.!+-]*", version or ""):
            found.setdefault(canonicalize_name(name), f"{name}=={version}")
    return found
