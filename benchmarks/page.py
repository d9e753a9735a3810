"""`python -m benchmarks page`: write what was measured into `docs/measured.md`.

It takes the results of the four commands out of `build/bench` into `docs/measured/`, one file for
each kind of measurement and of machine, and makes the tables of the page from all files there.
A machine's older file of the same kind is replaced, those of other machines stay.
"""

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from course.frontpage import between
from vit_helpers.errors import CourseError
from vit_helpers.resources.files import written_whole

from .machine import read_results, slug

ROOT = Path(__file__).resolve().parent.parent
Cells = list[list[str]]


@dataclass(frozen=True)
class Request:
    """What to write.

    Attributes:
        folder: Where the commands left their results.
        root: The repository.
        command: Not used.
    """

    folder: Path = Path("build/bench")
    root: Path = ROOT
    command: str = ""


def run(request: Request) -> int:
    """Take the results over and write the page. Returns 0.

    Raises:
        CourseError: If there are no results anywhere, or a file is not one of results.
    """
    target = request.root / "docs" / "measured"
    target.mkdir(parents=True, exist_ok=True)
    for kind in KINDS:
        if (source := request.folder / f"{kind}.json").exists():
            path = target / file_name(kind, read_results(source))
            shutil.copyfile(source, path)
            print(f"taken over: {path.name}")
    if not list(target.glob("*.json")):
        raise CourseError(f"There are no results in {str(request.folder)!r}: measure first.")
    page = request.root / "docs" / "measured.md"
    with written_whole(page) as part:
        part.write_text(text(request.root), encoding="utf-8", newline="\n")
    print(f"written: {page}")
    return 0


def file_name(kind: str, content: dict) -> str:
    """Such as `inference-avx2-4-times-as-wide.json`."""
    about = content["machine"]
    parts = [kind, about["gpu"] or about["units"] or about["processor"], content.get("model") or ""]
    if content.get("widen", 1) != 1:
        parts.append(f"{content['widen']} times as wide")
    return slug(" ".join(parts)) + ".json"


def text(root: Path) -> str:
    """The page with its sections made from the files in `docs/measured/`."""
    page = (root / "docs" / "measured.md").read_text(encoding="utf-8")
    for kind in KINDS:
        marks = f"<!-- {kind} -->\n", f"<!-- /{kind} -->"
        page = between(page, marks, section(kind, root / "docs" / "measured"))
    return page


def section(kind: str, folder: Path) -> str:
    """The part of the page on one kind, from all its files; empty if there are none."""
    title, about, tables = KINDS[kind]
    files = [read_results(path) for path in sorted(folder.glob(f"{kind}-*.json"))]
    parts = [f"## {title}\n\n{about}\n"] if files else []
    for content in files:
        commands = "".join(f"    {command}\n" for command in content["commands"])
        parts.append(f"{machine_line(content)}\n\n{commands}\n{tables(content)}")
    return "\n".join(parts)


def machine_line(content: dict) -> str:
    """The day, what it was measured on, and with what."""
    about = content["machine"]
    units = f" with {about['units']}" if about["units"] else ""
    places = [about["gpu"], about["processor"] + units, _counted(about["cores"], "core")]
    places += [_counted(about["threads"], "thread"), f"{about['memory GB']} GB of memory"]
    versions = ", ".join(f"{name} {number}" for name, number in about["versions"].items())
    return f"{content['date']}. {', '.join(filter(None, places))}; {versions}:"


def _counted(count: int, word: str) -> str:
    return f"{count} {word}" + "s" * (count != 1)


def table(cells: Cells) -> str:
    """Rows of cells as Markdown; the first row is the head."""
    lines = [cells[0], ["---"] * len(cells[0]), *cells[1:]]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _bold(cells: list[str], best: bool) -> list[str]:
    return [f"**{cell}**" if best and cell else cell for cell in cells]


def _number(value, form: str = "{:,.1f}", none: str = "") -> str:
    return none if value is None else form.format(value)


def _percent(value, digits: int = 1) -> str:
    return _number(value, f"{{:.{digits}%}}").replace("%", " %")


def _range(row: dict, form: str) -> str:
    return f"{form.format(row['from'])} to {form.format(row['to'])}"


def _photographs(content: dict) -> str:
    head = ["how", "photographs", "epochs", "patches seen", "right", "95 % interval"]
    cells = [head]
    for row in content["rows"]:
        interval = f"{100 * row['from']:.1f} to {100 * row['to']:.1f} %"
        cells.append(
            [
                row["how"],
                f"{row['pictures']:,}",
                _number(row["epochs"], "{:.0f}"),
                _percent(row["patches"], 0),
                _percent(row["accuracy"]),
                interval,
            ]
        )
    return f"{_size(content)}.\n\n{table(cells)}"


def _training(content: dict) -> str:
    head = ["loop", "images/s", "times", "at most", "of possible", "first turn, s"]
    best = max(content["rows"], key=lambda row: row["times"])
    cells = [head]
    for row in content["rows"]:
        times = f"{row['times']:.1f} ({_range(row, '{:.1f}')})"
        line = [row["loop"], _number(row["images/s"]), times, _number(row["at most"])]
        line += [_percent(row["of possible"], 0), _number(row["first turn s"])]
        cells.append(_bold(line, row is best))
    about = f"{_size(content)}, {content['pictures']} pictures in batches of {content['batch']}, "
    return f"{about}{_counted(content['rounds'], 'round')} in turns.\n\n{table(cells)}"


def _inference(content: dict) -> str:
    rates = [
        f"{device} {', '.join(f'{name} {rate / 1e9:,.0f}' for name, rate in found.items())}"
        for device, found in content["rates"].items()
    ]
    parts = [
        f"{_size(content)}, {content['pictures']} pictures. Matrix rates of the same run in GOP/s: "
        f"{'; '.join(rates)}.\n"
    ]
    for batch in dict.fromkeys(row["batch"] for row in content["rows"]):
        head = [f"batch {batch}", "ms", "times", "agreement", "computes in", "of possible", "MB"]
        cells = [head]
        for row in content["rows"]:
            if row["batch"] != batch or row["median ms"] is None:
                continue
            low, high = _percent(row["agreement from"]), _percent(row["agreement to"])
            line = [row["engine"], _number(row["median ms"])]
            line.append(f"{row['speed-up']:.2f} ({_range(row, '{:.2f}')})")
            line.append(f"{_percent(row['agreement'])} ({low.removesuffix(' %')} to {high})")
            line += [row["computes in"], _percent(row["of possible"], 0), _number(row["MB"])]
            cells.append(_bold(line, row["best"]))
        parts.append(table(cells))
    return "\n".join(parts)


def _start(content: dict) -> str:
    head = ["program", "first answer, s", "whole, s", "memory, MB", "model, MB", "installed, MB"]
    cells = [head]
    for row in content["rows"]:
        if row["first answer s"] is None:
            continue
        first = f"{row['first answer s']:.2f} ({_range(row, '{:.2f}')})"
        line = [row["program"], first, _number(row["whole s"], "{:.2f}")]
        line += [_number(row["peak MB"], "{:,.0f}"), _number(row["model MB"])]
        line.append(_number(row["installed MB"], "{:,.0f}"))
        cells.append(_bold(line, row["best"]))
    return f"{_size(content)}, {_counted(content['rounds'], 'round')} in turns.\n\n{table(cells)}"


def _size(content: dict) -> str:
    name = content.get("model") or "The kit's classifier"
    wide = content.get("widen", 1)
    if wide == 1:
        return name
    return f"{name} made {wide} times as wide" + ", the size of ViT-B/16" * (wide == 4)


# By kind: the title of its section, what its columns are, and the function that makes its tables.
KINDS: dict[str, tuple[str, str, Callable[[dict], str]]] = {
    "photographs": (
        "Accuracy on real photographs",
        "CIFAR-10, with the course's classifier and the recipe of notebook 02; `VIT_REAL_PHOTOS` "
        "names the folder with the photographs. `right` is the share of 1,000 test photographs, "
        "with its interval (Wilson). "
        "[The card of the kit's model](../vit_helpers/offline_kit/cards/quarter.md) says which "
        "training photographs it had met before; the test photographs it had not.\n\n"
        "Published, for comparison: ViT-B/16 pre-trained on ImageNet-21k and fine-tuned at 384 "
        "pixels on all training photographs is right for 98.6 to 99.0 % of the 10,000 test "
        "photographs ([google-research/vision_transformer]"
        "(https://github.com/google-research/vision_transformer)).",
        _photographs,
    ),
    "training": (
        "Training",
        "`times` is images/s against the loop of old tutorials, the median over the rounds, with "
        "the smallest and the largest. `at most` is what it would be at the rate of the fastest "
        "matrix product in the same run, and `of possible` the share of it that is reached. Loops "
        "with cached features compute them once for five epochs. The first turn imports libraries "
        "and compiles; it does not count. The fastest is in bold.",
        _training,
    ),
    "inference": (
        "Inference",
        "Milliseconds of a call, how many times faster than the first row and the share of "
        "pictures with the same answer as the first row, both with 95 % intervals. `of possible` "
        "is the share of the time that the products alone would take at the measured rates of the "
        "formats that the engine computes in. In bold: the fastest with at least 95 % agreement.",
        _inference,
    ),
    "start": (
        "Start-up, memory, sizes",
        "A new process classifies the sample photograph: seconds to its first answer (the median, "
        "the smallest and the largest) and to its end, with all files in the memory of the system "
        "already. `installed` is what pip brings for it. The fastest is in bold.",
        _start,
    ),
}
