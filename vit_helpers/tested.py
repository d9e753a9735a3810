"""Which versions the course was tested with: the table in the README, written by the run.

A session of nox (`noxfile.py`) takes its row away when it starts and writes it when everything in
it has passed. So a row is never older than the last attempt, and never of something that failed.
"""

import json
import platform
import sys
from importlib import metadata
from pathlib import Path

from .frontpage import between

MARKS = "<!-- tested -->\n", "<!-- /tested -->"
LIBRARIES = ("torch", "torchvision", "transformers", "datasets", "numpy", "onnxruntime")
# What a step of a session is, in words.
STEPS = {
    "unit": "unit tests",
    "run": "notebooks executed",
    "strict": "notebooks compared with their saved outputs",
}
# The order of the rows: by kind of session, then by Python.
KINDS = ("oldest", "pinned", "newest")


def record(root: Path, session: str, steps: list[str]) -> None:
    """Write the row of a session that has passed, with the versions of this very Python.

    Args:
        root: The repository.
        session: Its name, such as `oldest-3.10`.
        steps: What was done, keys of `STEPS`.
    """
    known = {
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "libraries": {name: metadata.version(name).split("+")[0] for name in LIBRARIES},
        "steps": [step for step in STEPS if step in steps],
    }
    _store(root, read(root) | {session: known})


def forget(root: Path, session: str) -> None:
    """Take the row of a session away: it is being tested again."""
    _store(root, {name: row for name, row in read(root).items() if name != session})


def read(root: Path) -> dict[str, dict]:
    """The rows in `docs/tested.json`, by the name of their session."""
    path = root / "docs" / "tested.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}


def _store(root: Path, rows: dict[str, dict]) -> None:
    ordered = dict(sorted(rows.items(), key=_order))
    path = root / "docs" / "tested.json"
    path.write_text(json.dumps(ordered, indent=1) + "\n", encoding="utf-8")
    readme = root / "README.md"
    text = readme.read_text(encoding="utf-8")
    readme.write_text(between(text, MARKS, table(ordered)), encoding="utf-8")


def _order(item: tuple[str, dict]) -> tuple:
    kind = item[0].split("-")[0]
    place = KINDS.index(kind) if kind in KINDS else len(KINDS)
    return place, [int(part) for part in item[1]["python"].split(".") if part.isdecimal()]


def table(rows: dict[str, dict]) -> str:
    """The rows as a table in Markdown."""
    heads = ["libraries", "Python", *LIBRARIES, "system", "what passed"]
    lines = [heads, ["---"] * len(heads)]
    for session, row in rows.items():
        versions = [row["libraries"][name] for name in LIBRARIES]
        passed = ", ".join(STEPS[step] for step in row["steps"])
        lines.append([session.split("-")[0], row["python"], *versions, row["system"], passed])
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def main(arguments: list[str]) -> None:
    """`forget SESSION`, or `record SESSION STEP ...`, for the repository in this folder."""
    command, session, *steps = arguments
    if command == "forget":
        forget(Path.cwd(), session)
    else:
        record(Path.cwd(), session, steps)


if __name__ == "__main__":
    main(sys.argv[1:])
