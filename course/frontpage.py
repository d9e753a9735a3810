"""What the README shows of each notebook: aims, minutes, and a picture from its saved output.

`make refresh` writes them, so the front page cannot show what the notebooks no longer do. The same
minutes stand in the title of each notebook and in `docs/measured.md`. What was not measured is not
mentioned.
"""

import base64
import io
import json
import re
from pathlib import Path
from typing import NamedTuple

from vit_helpers.errors import CourseError

from . import address, read_notebook


class Picture(NamedTuple):
    """The figure that stands for a notebook, and the part of it that is shown."""

    cell: str  # id of the cell
    box: tuple[float, float, float, float] = (0, 0, 1, 1)  # left, top, right, bottom, as shares


PICTURES = {
    "01_classify": Picture("batch-code", (0, 0, 0.5, 0.46)),
    "02_finetune_cifar10": Picture("train", (0, 0, 0.485, 1)),
    "03_attention": Picture("relevance-plot", (0, 0, 0.87, 0.47)),
    "04_transfer_flowers102": Picture("mine", (0, 0, 0.5, 0.49)),
    "05_efficient_inference": Picture("figure"),
}
WIDTH, QUALITY, AIMS = 800, 85, 3
# A third of the page beside the words; on a phone as wide as the page, above them.
PICTURE = """\
<picture><source media="(max-width: 600px)" srcset="{file}" width="94%">
<img align="left" width="26%" src="{file}" alt="{words}"></picture>"""
MINUTES = re.compile(r"Measured on two CPU cores: .*")
MARKS = "<!-- notebooks -->\n", "<!-- /notebooks -->"
MEASURED_MARKS = "<!-- measured -->\n", "<!-- /measured -->"
GUIDE_MARKS = "<!-- minutes -->\n", "<!-- /minutes -->"
CPU = "CPU"  # as the set-up cell calls it; anything else is the name of a GPU


def update(root: Path) -> None:
    """Write the pictures, the rows of the README, the tables in the docs, the titles' minutes."""
    folder = root / "docs" / "pictures"
    folder.mkdir(parents=True, exist_ok=True)
    for stem in PICTURES:
        (folder / f"{stem}.webp").write_bytes(picture(root, stem)[0])
    for path, text in texts(root).items():
        path.write_text(text, encoding="utf-8", newline="\n")
    for stem in PICTURES:
        tell_minutes(root, stem)


def texts(root: Path) -> dict[Path, str]:
    """The README and two pages of `docs/` with the parts that come from the notebooks."""
    rows = address.with_badges(notebook_rows(root), address.REPOSITORY)
    parts = (
        (root / "README.md", MARKS, rows),
        (root / "docs" / "measured.md", MEASURED_MARKS, measured_table(root)),
        (root / "docs" / "instructor.md", GUIDE_MARKS, guide_table(root)),
    )
    return {
        path: between(path.read_text(encoding="utf-8"), marks, new) for path, marks, new in parts
    }


def between(text: str, marks: tuple[str, str], new: str) -> str:
    """The text with what stands between two marks replaced."""
    before, rest = text.split(marks[0])
    _, after = rest.split(marks[1])
    return before + marks[0] + "\n" + new + "\n" + marks[1] + after


def picture(root: Path, stem: str) -> tuple[bytes, str]:
    """The figure that stands for a notebook, as a small WebP, and its first words.

    Raises:
        CourseError: If the notebook has no such cell, or the cell no saved figure.
    """
    from PIL import Image

    cell, box = PICTURES[stem]
    data, alt = _figure(root, stem, cell)
    image = Image.open(io.BytesIO(base64.b64decode(data))).convert("RGB")
    edges = [
        round(share * side) for share, side in zip(box, (*image.size, *image.size), strict=True)
    ]
    image = image.crop((edges[0], edges[1], edges[2], edges[3]))
    image.thumbnail((WIDTH, WIDTH), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    image.save(buffer, "WEBP", quality=QUALITY, method=6)
    return buffer.getvalue(), alt


def _figure(root: Path, stem: str, cell: str) -> tuple[str, str]:
    """A saved picture in base64, and the first words that describe it."""
    notebook = json.loads((root / "notebooks" / f"{stem}.ipynb").read_text(encoding="utf-8"))
    cells = [c for c in notebook["cells"] if c.get("id") == cell]
    for output in (output for c in cells for output in c["outputs"]):
        for kind in ("image/png", "image/webp", "image/jpeg"):
            if kind in output.get("data", {}):
                alt = output["metadata"][kind]["alt"]
                words = re.findall(r"^.{30,}?(?=[.;] |[.;]?$)", alt)[0]
                return output["data"][kind], words.replace('"', "'")
    raise CourseError(
        f"{stem}.ipynb has no saved figure in a cell {cell!r}: mend PICTURES in "
        "course/frontpage.py, or run `make refresh`."
    )


def notebook_rows(root: Path) -> str:
    """For each notebook: a picture, a link, the minutes, what one will be able to do, a badge.

    The picture floats: a table would squeeze it on a narrow page.
    """
    cpu, gpu, card = minutes(root)
    rows = []
    for stem in PICTURES:
        _, words = _figure(root, stem, PICTURES[stem].cell)
        told = [f"{in_words(cpu[stem])} on two CPU cores"] if stem in cpu else []
        told += [f"{in_words(gpu[stem])} on a GPU ({card})"] if stem in gpu else []
        aims = re.findall(r"^- (.+)$", _first_cell(root, stem), re.M)[:AIMS]
        rows.append(
            PICTURE.format(file=f"docs/pictures/{stem}.webp", words=words)
            + f"\n[**{name(root, stem)}**](notebooks/{stem}.ipynb)"
            + (f", {', '.join(told)}" if told else "")
            + f'<br>You will {"; ".join(aims)}.<!-- badge: {stem} --><br clear="left">\n'
        )
    return "\n".join(rows)


def measured_table(root: Path) -> str:
    """A row for each notebook that was measured: minutes and memory."""
    memory = json.loads((root / "docs" / "memory.json").read_text(encoding="utf-8"))
    cpu, gpu, card = minutes(root)
    head = ["notebook", "minutes on two CPU cores"]
    head += [f"minutes on a GPU ({card})"] * bool(card) + ["peak memory"]
    rows = [head, ["---"] * len(head)]
    for stem in (stem for stem in PICTURES if stem in cpu):
        row = [name(root, stem).split(":")[0], str(cpu[stem])]
        row += [str(gpu.get(stem, ""))] * bool(card)
        rows.append([*row, f"{memory[stem]} GiB" if stem in memory else ""])
    if set(cpu) >= set(PICTURES):
        row = ["together", str(round(sum(cpu[stem] for stem in PICTURES), 1))]
        whole = round(sum(gpu.values()), 1) if set(gpu) >= set(PICTURES) else ""
        rows.append([*row, *[str(whole)] * bool(card), ""])
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


def guide_table(root: Path) -> str:
    """A row for each notebook: minutes of the machine, and those that its tasks say."""
    from vit_helpers import tasks

    cpu, gpu, card = minutes(root)
    head = ["notebook", "machine, minutes", *[f"on a GPU ({card})"] * bool(card), "tasks, minutes"]
    rows = [head, ["---"] * len(head)]
    for stem in PICTURES:
        row = [stem, str(cpu.get(stem, "")), *[str(gpu.get(stem, ""))] * bool(card)]
        rows.append([*row, str(sum(task.minutes for task in tasks.of_notebook(stem)))])
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


def minutes(root: Path) -> tuple[dict[str, float], dict[str, float], str]:
    """The minutes in `docs/timings.json`: `(on a CPU, on a GPU, name of the GPU)`, by notebook.

    Of several GPUs it is the one that stands first; without one, the last two are empty.
    """
    known = json.loads((root / "docs" / "timings.json").read_text(encoding="utf-8"))
    card = next((device for device in known if device != CPU), "")
    return known.get(CPU, {}), known.get(card, {}), card


def name(root: Path, stem: str) -> str:
    """The number and the title of a notebook."""
    (title,) = re.findall(r"^# \d+ (.+)$", _first_cell(root, stem), re.M)
    return f"{int(stem[:2])} {title}"


def _first_cell(root: Path, stem: str) -> str:
    notebook = json.loads((root / "notebooks" / f"{stem}.ipynb").read_text(encoding="utf-8"))
    return "".join(notebook["cells"][0]["source"])


def tell_minutes(root: Path, stem: str) -> None:
    """Write into the title of a notebook how long it took, on the devices that were measured."""
    import nbformat

    path = root / "notebooks" / f"{stem}.ipynb"
    notebook = read_notebook(path)
    notebook.cells[0].source = MINUTES.sub(minutes_line(root, stem), notebook.cells[0].source)
    nbformat.write(notebook, path)


def minutes_line(root: Path, stem: str) -> str:
    """The last line of a notebook's title."""
    cpu, gpu, card = minutes(root)
    line = f"Measured on two CPU cores: {in_words(cpu[stem])}."
    return line + (f" On a GPU ({card}): {in_words(gpu[stem])}." if stem in gpu else "")


def in_words(minutes: float) -> str:
    """About how long that is, to half a minute."""
    half = max(1, round(2 * minutes) / 2)
    return "less than a minute" if minutes < 0.75 else f"about {half:g} minute" + "s" * (half > 1)
