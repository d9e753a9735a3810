"""Where the repository lies, and everything that carries this address.

A copy of the course does not know its address until somebody tells it. Until then it shows no badge
and no link to a repository. `python -m course stamp OWNER/REPO` writes the address here, as badges
into the README and the titles of the notebooks, into the first cell of each notebook, and into
`CITATION.cff`. It needs nothing but Python: on GitHub a workflow runs it.
"""

import contextlib
import json
import re
import subprocess
from pathlib import Path

from vit_helpers.errors import CourseError

REPOSITORY = ""  # `stamp` writes OWNER/REPO here
BRANCH = "main"

# The first code cell of every notebook, folded. Where `vit_helpers` is installed it does nothing.
# Not `%pip`: outside Colab that tells every reader to restart the kernel, which is never needed.
FETCH_METADATA = {"cellView": "form", "jupyter": {"source_hidden": True}}
FETCH_CELL = """\
# @title Set-up: installs the course where it is missing, as on Colab
import os
import sys
from importlib.util import find_spec

course = os.environ.get("VIT_REPO", "{archive}")
if not find_spec("vit_helpers"):
    if not course:
        raise ModuleNotFoundError(
            "vit_helpers is not installed here. Run `%pip install FOLDER` in a new cell, where "
            "FOLDER is your copy of the course or its zip file. Then run this cell again."
        )
    get_ipython().system(f'"{{sys.executable}}" -m pip install --quiet --no-deps "{{course}}"')
    from vit_helpers.resources import packages

    packages.complete()"""

# GitHub's own rules for both names.
NAME = re.compile(r"[A-Za-z0-9](?:-?[A-Za-z0-9]){0,38}/(?!\.\.?$)(?!.*\.git$)[\w.-]{1,100}", re.A)
REPOSITORY_LINE = re.compile(r'^REPOSITORY = ".*?"', re.M)
CITATION_LINE = re.compile(r"^repository-code: .*\n", re.M)
ROW_BADGE = re.compile(
    r"(<!-- badge: (\w+) -->)(?:<br>\[!\[Open in .*?\)\]\(.*?\))?"
)  # in the README
BADGE_LINE = re.compile(r"^\[!\[Open in .*\n\n?", re.M)


def archive(repository: str) -> str:
    """Address of all files as one ZIP file, which pip can install; empty without a repository."""
    return f"https://github.com/{repository}/archive/{BRANCH}.zip" if repository else ""


def fetch_cell(repository: str) -> str:
    """Source of the first code cell: install the course where it is missing.

    `VIT_REPO` names another place to install from, such as a folder with a clone.
    """
    return FETCH_CELL.format(archive=archive(repository))


def launchers(notebook: str, repository: str) -> dict[str, tuple[str, str]]:
    """Where one notebook can be opened: `{service: (picture, address)}`; empty if not stamped."""
    if not repository:
        return {}
    path = f"{repository}/blob/{BRANCH}/notebooks/{notebook}.ipynb"
    lab = f"{repository}/{BRANCH}?urlpath=lab/tree/notebooks/{notebook}.ipynb"
    return {
        "Colab": (
            "https://colab.research.google.com/assets/colab-badge.svg",
            f"https://colab.research.google.com/github/{path}",
        ),
        "Kaggle": (
            "https://kaggle.com/static/images/open-in-kaggle.svg",
            f"https://kaggle.com/kernels/welcome?src=https://github.com/{path}",
        ),
        "Studio Lab": (
            "https://studiolab.sagemaker.aws/studiolab.svg",
            f"https://studiolab.sagemaker.aws/import/github/{path}",
        ),
        "Binder": ("https://mybinder.org/badge_logo.svg", f"https://mybinder.org/v2/gh/{lab}"),
    }


def badges(notebook: str, repository: str, only: tuple[str, ...] = ()) -> str:
    """The Markdown of a notebook's badges in one line; empty if there is no address yet."""
    return " ".join(
        f"[![Open in {name}]({picture})]({address})"
        for name, (picture, address) in launchers(notebook, repository).items()
        if not only or name in only
    )


def with_badges(markdown: str, repository: str) -> str:
    """The rows with a badge in each, or without any where the repository has no address yet."""

    def row(found: re.Match) -> str:
        badge = badges(found[2], repository, only=("Colab",))
        return found[1] + (f"<br>{badge}" if badge else "")

    return ROW_BADGE.sub(row, markdown)


def stamped_notebook(text: str, name: str, repository: str) -> str:
    """The text of a notebook file with the address in its title and in its first code cell.

    Raises:
        CourseError: If it does not begin with a title and the cell that fetches the course.
    """
    notebook = json.loads(text)
    cells: list[dict] = notebook["cells"]
    fetch: dict = next((c for c in cells if c["cell_type"] == "code"), {"source": ""})
    source = "".join(fetch["source"])
    if source != FETCH_CELL.format(archive=_address_in(source)):
        raise CourseError(f"{name}: the first code cell is not the one that fetches the course.")
    title = "".join(cells[0]["source"])
    heading, _, rest = BADGE_LINE.sub("", title).partition("\n")
    if not heading.startswith("# "):
        raise CourseError(f"{name}: the first cell does not begin with a title.")
    line = badges(Path(name).stem, repository)
    title = f"{heading}\n\n{line}\n{rest}" if line else f"{heading}\n{rest}"
    if (title, fetch_cell(repository)) == ("".join(cells[0]["source"]), source):
        return text
    cells[0]["source"] = title.splitlines(keepends=True)
    fetch["source"] = fetch_cell(repository).splitlines(keepends=True)
    # As nbformat writes a file, so that nothing else changes.
    return json.dumps(notebook, indent=1, ensure_ascii=False, sort_keys=True) + "\n"


def _address_in(source: str) -> str:
    found = re.search(r'"VIT_REPO", "(.*?)"\)', source)
    return found[1] if found else ""


def stamped_files(repository: str, root: Path) -> dict[Path, str]:
    """What `stamp` would write: the new text of every file that does not say this address yet.

    Raises:
        CourseError: If `root` is no clone, or a file is not as the course has it.
    """
    here, readme, citation = (root / p for p in ("course/address.py", "README.md", "CITATION.cff"))
    notebooks = sorted((root / "notebooks").glob("*.ipynb"))
    if not notebooks or not all(path.is_file() for path in (here, readme, citation)):
        raise CourseError(f"{str(root)!r} is no clone of the course: run this from a clone.")
    texts = {
        path: path.read_text(encoding="utf-8") for path in (here, readme, citation, *notebooks)
    }
    new = {path: stamped_notebook(texts[path], path.name, repository) for path in notebooks}
    new[here] = REPOSITORY_LINE.sub(f'REPOSITORY = "{repository}"', texts[here], count=1)
    new[readme] = with_badges(texts[readme], repository)
    line = f"repository-code: https://github.com/{repository}\n" if repository else ""
    new[citation] = CITATION_LINE.sub("", texts[citation]) + line
    return {path: text for path, text in new.items() if text != texts[path]}


def stamp(repository: str, root: Path) -> list[Path]:
    """Write the address into every file that carries it: all of them, or none.

    Args:
        repository: `OWNER/REPO` on GitHub.
        root: A clone of the repository.

    Returns:
        The files that changed; empty if they say this already.

    Raises:
        CourseError: If that is no `OWNER/REPO`, `root` is no clone, a file is not as the course has
            it, something there is not committed, or a file cannot be written.
    """
    if not NAME.fullmatch(repository) or repository == "OWNER/REPO":
        raise CourseError(
            f"{repository!r} is no address: write OWNER/REPO with the two names of your repository "
            "on GitHub, such as ada/vit-course."
        )
    new = stamped_files(repository, root)
    if new and (changed := uncommitted(root)):
        raise CourseError(
            f"{changed[0]} has changes that are not committed: commit or stash them first, so that "
            "the stamp is a commit of its own."
        )
    old = {path: path.read_bytes() for path in new}
    try:
        for path, text in new.items():
            path.write_text(text, encoding="utf-8", newline="\n")
    except OSError as error:
        for path, content in old.items():
            with contextlib.suppress(OSError):
                path.write_bytes(content)
        raise CourseError(f"{error.filename}: {error.strerror}; nothing was changed.") from error
    return list(new)


def uncommitted(root: Path) -> list[str]:
    """Tracked files of a clone that differ from its last commit; none where there is no git."""
    command = ["git", "status", "--porcelain", "--untracked-files=no"]
    try:
        said = subprocess.run(command, cwd=root, capture_output=True, text=True, encoding="utf-8")
    except FileNotFoundError:
        return []
    return [line[3:] for line in said.stdout.splitlines()] if not said.returncode else []
