"""Where the repository lies, and everything that carries this address.

`REPOSITORY` is the one place. `python -m course stamp OWNER/REPO` changes it here, in the
badges and first cells of the notebooks, and in the README; a test keeps them equal.
"""

import re
from pathlib import Path

from vit_helpers.errors import CourseError

REPOSITORY = "OWNER/REPO"
BRANCH = "main"

# What a notebook starts with. It must work alone, in a Python that has never heard of the course.
# Not `%pip`: outside Colab that tells every reader to restart the kernel, which is never needed.
FIRST_CELL = """\
import os
import sys
from importlib.util import find_spec

if not find_spec("vit_helpers"):  # as on Colab: fetch the course; torch and the like stay
    course = os.environ.get("VIT_REPO", "{archive}")
    get_ipython().system(f'"{{sys.executable}}" -m pip install --quiet --no-deps "{{course}}"')
    from vit_helpers import colab

    colab.complete()"""


def archive(repository: str = REPOSITORY) -> str:
    """Address of all files as one ZIP file, which pip can install."""
    return f"https://github.com/{repository}/archive/{BRANCH}.zip"


def first_cell(repository: str = REPOSITORY) -> str:
    """Source of the first code cell of every notebook: fetch the course where it is missing.

    Where `vit_helpers` can be imported it does nothing and prints nothing. `VIT_REPO` names
    another place to install from, such as a folder with a clone.
    """
    return FIRST_CELL.format(archive=archive(repository))


def badge(notebook: str, repository: str = REPOSITORY) -> str:
    """The Markdown of a notebook's "Open in Colab" badge, e.g. `badge("01_classify")`."""
    colab = "https://colab.research.google.com"
    return (
        f"[![Open in Colab]({colab}/assets/colab-badge.svg)]"
        f"({colab}/github/{repository}/blob/{BRANCH}/notebooks/{notebook}.ipynb)"
    )


def binder_badge(repository: str = REPOSITORY) -> str:
    """The Markdown of the README's Binder badge. Binder reads `environment.yml`."""
    binder = "https://mybinder.org"
    return (
        f"[![Open in Binder]({binder}/badge_logo.svg)]"
        f"({binder}/v2/gh/{repository}/{BRANCH}?urlpath=lab/tree/notebooks)"
    )


def stamp(repository: str, root: Path) -> list[Path]:
    """Write another address into every file that carries the present one.

    Args:
        repository: `OWNER/REPO` on GitHub.
        root: A clone of the repository.

    Returns:
        The files that changed.

    Raises:
        CourseError: If that is no `OWNER/REPO`, or `root` is no clone.
    """
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9-]*/[A-Za-z0-9._-]+", repository):
        raise CourseError(f"{repository!r} is no address: write OWNER/REPO, as on GitHub.")
    here = root / "course" / "address.py"
    notebooks = sorted((root / "notebooks").glob("*.ipynb"))
    if not here.is_file() or not notebooks:
        raise CourseError(f"{str(root)!r} is no clone of the course: run this from a clone.")
    line = re.compile(r'^REPOSITORY = "(.+)"$', re.MULTILINE)
    (old,) = line.findall(here.read_text(encoding="utf-8"))
    # As text, so that nothing else in a notebook changes. `old` ends where the name does.
    sites = r"github\.com/|google\.com/github/|mybinder\.org/v2/gh/"
    carried = re.compile(rf"({sites}){re.escape(old)}(?![\w.-])")
    changed = []
    for path in (here, root / "README.md", *notebooks):
        before = path.read_text(encoding="utf-8")
        after = carried.sub(rf"\g<1>{repository}", before)
        if path == here:
            after = line.sub(f'REPOSITORY = "{repository}"', after)
        if after != before:
            path.write_text(after, encoding="utf-8", newline="\n")
            changed.append(path)
    return changed
