"""What the README shows of each notebook: a picture from its saved output, minutes, memory.

`make refresh` writes them, so the front page cannot show what the notebooks no longer do. The
minutes on a CPU and on a GPU also stand in the title of each notebook.
"""

import base64
import io
import json
import re
from pathlib import Path

from vit_helpers.errors import CourseError

from . import address

# The id of the cell whose figure stands for a notebook.
PICTURES = {
    "01_classify": "bars",
    "02_finetune_cifar10": "confusion",
    "03_attention": "heads-code",
    "04_transfer_flowers102": "confused",
    "05_efficient_inference": "figure",
}
WIDTH, QUALITY, AIMS = 640, 85, 3
MINUTES = re.compile(r"Measured on two CPU cores: .*")
MARKS = "<!-- notebooks -->\n", "<!-- /notebooks -->"
MEASURED_MARKS = "<!-- measured -->\n", "<!-- /measured -->"
NOT_YET = "not measured yet"
CPU = "CPU"  # as the set-up cell calls it; anything else is the name of a GPU


def update(root: Path) -> None:
    """Write `docs/pictures/*.webp`, the tables in `README.md`, and the minutes in the titles."""
    folder = root / "docs" / "pictures"
    folder.mkdir(parents=True, exist_ok=True)
    for stem in PICTURES:
        (folder / f"{stem}.webp").write_bytes(picture(root, stem)[0])
    path = root / "README.md"
    path.write_text(with_tables(path.read_text(encoding="utf-8"), root), encoding="utf-8")
    for stem in PICTURES:
        tell_minutes(root, stem)


def with_tables(readme: str, root: Path) -> str:
    """The text of the README with its two tables written anew."""
    readme = between(readme, MARKS, notebooks_table(root))
    return between(readme, MEASURED_MARKS, measured_table(root))


def between(text: str, marks: tuple[str, str], new: str) -> str:
    """The text with what stands between two marks replaced."""
    before, rest = text.split(marks[0])
    _, after = rest.split(marks[1])
    return before + marks[0] + "\n" + new + "\n" + marks[1] + after


def picture(root: Path, stem: str) -> tuple[bytes, str]:
    """The figure that stands for a notebook, as a small WebP, and its first words.

    Raises:
        CourseError: If the cell in `PICTURES` is gone or shows no figure.
    """
    from PIL import Image

    notebook = json.loads((root / "notebooks" / f"{stem}.ipynb").read_text(encoding="utf-8"))
    cells = [c for c in notebook["cells"] if c.get("id") == PICTURES[stem]]
    shown = [o for c in cells for o in c["outputs"] if "image/png" in o.get("data", {})]
    if not shown:
        raise CourseError(
            f"{stem} has no cell {PICTURES[stem]!r} with a figure: name another cell in PICTURES "
            "of course/frontpage.py."
        )
    output = shown[0]
    alt = output["metadata"]["image/png"]["alt"]
    words = re.findall(r"^.{30,}?(?=[.;] |[.;]?$)", alt)[0]
    image = Image.open(io.BytesIO(base64.b64decode(output["data"]["image/png"]))).convert("RGB")
    image.thumbnail((WIDTH, WIDTH), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    image.save(buffer, "WEBP", quality=QUALITY, method=6)
    return buffer.getvalue(), words


def notebooks_table(root: Path) -> str:
    """A row for each notebook: name and badge, what one will be able to do, picture."""
    # The spaces keep the column as wide as its pictures need; Markdown knows no other way.
    wide = "&nbsp;" * 3 + "from&nbsp;its&nbsp;saved&nbsp;output" + "&nbsp;" * 3
    table = f"| notebook | what you will be able to do | {wide} |\n|---|---|---|\n"
    for stem in PICTURES:
        text = _first_cell(root, stem)
        aims = "; ".join(re.findall(r"^- (.+)$", text, re.M)[:AIMS])
        words = picture(root, stem)[1].replace("|", "/")
        table += (
            f"| **[{name(root, stem)}](notebooks/{stem}.ipynb)**<br>{address.badge(stem)}"
            f" | {aims} | ![{words}](docs/pictures/{stem}.webp) |\n"
        )
    return table


def measured_table(root: Path) -> str:
    """A row for each notebook: minutes on a CPU and on a GPU, memory."""
    memory = json.loads((root / "docs" / "memory.json").read_text(encoding="utf-8"))
    cpu, gpu, card = minutes(root)
    on_gpu = f"minutes on a GPU ({card})" if card else "minutes on a GPU"
    table = (
        f"| notebook | minutes on a CPU | {on_gpu} | peak memory |\n|---|---|---|---|\n"
    )
    for stem in PICTURES:
        table += (
            f"| {name(root, stem).split(':')[0]} | {cpu[stem]} | {gpu.get(stem, NOT_YET)} "
            f"| {memory[stem]} GiB |\n"
        )
    whole = round(sum(gpu.values()), 1) if len(gpu) == len(PICTURES) else NOT_YET
    peak = max(memory[stem] for stem in PICTURES)
    return table + f"| together | {round(sum(cpu.values()), 1)} | {whole} | {peak} GiB |\n"


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
    """Write into the title of a notebook how long it took on a CPU and on a GPU."""
    import nbformat

    cpu, gpu, card = minutes(root)
    there = f"On a GPU ({card}): {in_words(gpu[stem])}." if stem in gpu else f"On a GPU: {NOT_YET}."
    line = f"Measured on two CPU cores: {in_words(cpu[stem])}. {there}"
    path = root / "notebooks" / f"{stem}.ipynb"
    notebook = nbformat.read(path, as_version=4)
    notebook.cells[0].source = MINUTES.sub(line, notebook.cells[0].source)
    nbformat.write(notebook, path)


def in_words(minutes: float) -> str:
    """About how long that is, to half a minute."""
    half = max(1, round(2 * minutes) / 2)
    return "less than a minute" if minutes < 0.75 else f"about {half:g} minute" + "s" * (half > 1)
