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
    """What stands for a notebook: a part of one figure, its description, and two of the aims."""

    cell: str  # id of the cell
    box: tuple[float, float, float, float]  # left, top, right, bottom, as shares of the figure
    words: str  # without results: the next run may have others
    aims: tuple[int, int]  # counted from 1, as they stand in the notebook's title


# Each part can be read at a width of 400 pixels: few things, and large letters.
PICTURES = {
    "01_classify": Picture(
        "patches",
        (0.334, 0, 1, 1),
        "A cat of 224 by 224 pixels, and the same picture cut into 196 patches",
        (3, 4),
    ),
    "02_finetune_cifar10": Picture(
        "compare",
        (0, 0, 0.8, 1),
        "Bars of accuracy: pre-trained, from scratch, and regression on raw pixels",
        (2, 6),
    ),
    "03_attention": Picture(
        "relevance-plot",
        (0, 0.49, 0.445, 0.735),
        "A bird, and on it the patches that speak for bird",
        (3, 5),
    ),
    "04_transfer_flowers102": Picture(
        "mine",
        (0, 0, 0.5, 0.245),
        "Three drawings, each with the answer of the model and its confidence",
        (5, 7),
    ),
    "05_efficient_inference": Picture(
        "figure",
        (0, 0.47, 0.635, 1),
        "How many times faster some engines are, with intervals",
        (2, 5),
    ),
}
WIDTH, QUALITY = 800, 85
# Beside the words; on a phone as wide as the page, above them.
PICTURE = """\
<picture><source media="(max-width: 600px)" srcset="{file}" width="94%">
<img align="left" width="27%" src="{file}" alt="{words}"></picture>"""
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
        (folder / f"{stem}.webp").write_bytes(picture(root, stem))
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


def picture(root: Path, stem: str) -> bytes:
    """The part of a figure that stands for a notebook, as a small WebP.

    Raises:
        CourseError: If the notebook has no such cell, or the cell no saved figure.
    """
    from PIL import Image

    data = _figure(root, stem, PICTURES[stem].cell)
    image = Image.open(io.BytesIO(base64.b64decode(data))).convert("RGB")
    sides = (*image.size, *image.size)
    edges = [round(share * n) for share, n in zip(PICTURES[stem].box, sides, strict=True)]
    image = image.crop((edges[0], edges[1], edges[2], edges[3]))
    image.thumbnail((WIDTH, WIDTH), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    image.save(buffer, "WEBP", quality=QUALITY, method=6)
    return buffer.getvalue()


def _figure(root: Path, stem: str, cell: str) -> str:
    """A saved picture in base64."""
    notebook = json.loads((root / "notebooks" / f"{stem}.ipynb").read_text(encoding="utf-8"))
    cells = [c for c in notebook["cells"] if c.get("id") == cell]
    for output in (output for c in cells for output in c["outputs"]):
        for kind in ("image/png", "image/webp", "image/jpeg"):
            if kind in output.get("data", {}):
                return output["data"][kind]
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
        told = [in_words(cpu[stem])] if stem in cpu else []  # the README says of what machine
        told += [f"{in_words(gpu[stem])} on a GPU ({card})"] if stem in gpu else []
        aims = re.findall(r"^- (.+)$", _first_cell(root, stem), re.M)
        chosen = [aims[number - 1] for number in PICTURES[stem].aims]
        rows.append(
            PICTURE.format(file=f"docs/pictures/{stem}.webp", words=PICTURES[stem].words)
            + f"\n[**{name(root, stem)}**](notebooks/{stem}.ipynb)"
            + (f", {', '.join(told)}" if told else "")
            + f'<br>You will {"; ".join(chosen)}.<!-- badge: {stem} --><br clear="left">\n'
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
    from .editions import of_notebook

    cpu, gpu, card = minutes(root)
    head = ["notebook", "machine, minutes", *[f"on a GPU ({card})"] * bool(card), "tasks, minutes"]
    rows = [head, ["---"] * len(head)]
    for stem in PICTURES:
        row = [stem, str(cpu.get(stem, "")), *[str(gpu.get(stem, ""))] * bool(card)]
        rows.append([*row, str(sum(task.minutes for task in of_notebook(stem)))])
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
