"""What the README shows of each notebook: a picture from its saved output, and its minutes.

`make refresh` writes both, so the front page cannot show what the notebooks no longer do.
"""

import base64
import io
import json
import re
from pathlib import Path

# The id of the cell whose figure stands for a notebook.
PICTURES = {
    "01_classify": "bars",
    "02_finetune_cifar10": "confusion",
    "03_attention": "heads-code",
    "04_transfer_flowers102": "confused",
    "05_efficient_inference": "figure",
}
WIDTH, COLOURS, AIMS = 500, 64, 3
MARKS = "<!-- notebooks -->\n", "<!-- /notebooks -->"


def update(root: Path) -> None:
    """Write `docs/pictures/*.png` and the table of notebooks in `README.md`."""
    folder, rows = root / "docs" / "pictures", []
    folder.mkdir(parents=True, exist_ok=True)
    for stem in PICTURES:
        content, words = picture(root, stem)
        (folder / f"{stem}.png").write_bytes(content)
        rows.append(row(root, stem, words))
    path = root / "README.md"
    path.write_text(with_table(path.read_text(encoding="utf-8"), rows), encoding="utf-8")


def picture(root: Path, stem: str) -> tuple[bytes, str]:
    """The figure that stands for a notebook, as a small PNG, and its first words."""
    from PIL import Image

    notebook = json.loads((root / "notebooks" / f"{stem}.ipynb").read_text(encoding="utf-8"))
    cell = next(c for c in notebook["cells"] if c.get("id") == PICTURES[stem])
    output = next(o for o in cell["outputs"] if "image/png" in o.get("data", {}))
    alt = output["metadata"]["image/png"]["alt"]
    words = re.findall(r"^.{30,}?(?=[.;] |[.;]?$)", alt)[0]
    image = Image.open(io.BytesIO(base64.b64decode(output["data"]["image/png"]))).convert("RGB")
    image.thumbnail((WIDTH, WIDTH), Image.Resampling.LANCZOS)
    palette, buffer = image.quantize(COLOURS), io.BytesIO()
    image.quantize(COLOURS, palette=palette).save(buffer, "PNG", optimize=True)
    return buffer.getvalue(), words


def row(root: Path, stem: str, words: str) -> str:
    """A row of the table: name and minutes, the first things one will be able to do, picture."""
    notebook = json.loads((root / "notebooks" / f"{stem}.ipynb").read_text(encoding="utf-8"))
    title = "".join(notebook["cells"][0]["source"])
    (name,) = re.findall(r"^# \d+ (.+)$", title, re.M)
    aims = re.findall(r"^- (.+)$", title, re.M)
    minutes = json.loads((root / "docs" / "timings.json").read_text(encoding="utf-8"))[stem]
    words = words.replace("|", "/")
    return (
        f"| **[{int(stem[:2])} {name}](notebooks/{stem}.ipynb)**<br>{minutes} minutes"
        f" | {'; '.join(aims[:AIMS])} | ![{words}](docs/pictures/{stem}.png) |\n"
    )


def with_table(readme: str, rows: list[str]) -> str:
    """The text of the README with its table of notebooks written anew."""
    head = "| notebook | what you will be able to do | from its saved output |\n|---|---|---|\n"
    return between(readme, MARKS, head + "".join(rows))


def between(text: str, marks: tuple[str, str], new: str) -> str:
    """The text with what stands between two marks replaced."""
    before, rest = text.split(marks[0])
    _, after = rest.split(marks[1])
    return before + marks[0] + "\n" + new + "\n" + marks[1] + after
