"""The course as a site of static pages: `python -m course site` writes `build/site`.

The live page, the notebooks with their saved outputs, the front page, the guide, the glossary, the
cards and the reference from docstrings, with search. No notebook is executed. What the notebooks
show from the real Hub lies beside them where `build/hub` has it (see hub.yml). The pages ask no
other host, so they can be read from a stick in a room without a network.

Sphinx makes the pages, with the settings in `docs/conf.py`. Here its source is written: what lies
in the repository under the same names, changed where the web needs something else than Jupyter.
"""

import contextlib
import json
import os
import pkgutil
import re
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

from vit_helpers.errors import CourseError

from . import frontpage, page, read_notebook, runner

SITE = runner.BUILD / "site"
SOURCE = runner.BUILD / "site-source"
HUB = runner.BUILD / "hub"  # pages and `timings.json` of `course run` with the real Hub
LIVE_PAGE = """\
# The live page

A whole Vision Transformer runs in it, in your browser. Choose, drop or take a picture; see the
answer, also after each block, and what every head looks at; hide patches and switch heads off, and
watch the answer change. Your picture stays on your machine.

<p class="launch"><a href="live/index.html">Open the live page</a>
<a href="vit-live.html" download>Save it as one file</a></p>

{film}

From a stick or a disk, open the one file: a browser does not let the folder load its model there.
"""
HUB_PAGE = """\
# The real model and data

What the same notebooks show with google/vit-base-patch16-224, CIFAR-10 and Flowers-102 from the
Hugging Face Hub, executed on two CPU cores of GitHub.

{rows}
"""
# What a page is made of, or a link of a page goes to.
FILES = (
    "README.md",
    "CONTRIBUTING.md",
    "CODE_OF_CONDUCT.md",
    "CITATION.cff",
    "LICENSE",
    "NOTICE",
    "docs/*.md",
    "docs/*.json",
    "docs/pictures/*.webp",
    "vit_helpers/offline_kit/cards/*.md",
)
# The modules that a notebook calls, in the order of the course. The reference has all others too.
CALLED = (
    "runtime",
    "data",
    "models",
    "training",
    "attention",
    "efficiency",
    "plots",
    "widgets",
    "tasks",
)
# The pages of `docs/`, in the order of the side bar: Sphinx refuses one that is in neither.
AROUND = ("instructor", "glossary", "running", "when", "accessibility")
INSIDE = ("maintainers", "measured")
EXPLORER = "03_attention", "explorer-code"  # the notebook and the cell that show it
HOME_LINK = re.compile(r"\]\((?:\.\./)*README\.md(#[^)]*)?\)")
# A picture of the README; on the site a style says how wide it is.
PICTURE = re.compile(r'<picture>.*?src="([^"]*)" alt="([^"]*)"></picture>', re.S)
FILM = re.compile(r"^!\[.*\]\(docs/pictures/live\.webp\)$", re.M)
LIVE_WORDS = re.compile(r"(watch the answer\.) `make live` writes .*?\n\n", re.S)
CONTENTS = """
```{{toctree}}
:hidden:
:caption: {caption}

{entries}
```
"""


def build(to: Path = SITE) -> int:
    """Write the site anew.

    Args:
        to: Its folder; what was in it is removed.

    Returns:
        0, or the exit status of Sphinx, for which every warning is an error.

    Raises:
        CourseError: If Sphinx is not installed, or the notebook with the explorer shows other
            maps than the course computes now.
    """
    if not find_spec("sphinx"):
        raise CourseError(
            "The site needs Sphinx: python -m pip install -r requirements-site.txt, or make site."
        )
    # As the saved outputs were made.
    os.environ |= {"VIT_SOURCE": "offline", "VIT_PROFILE": "quick", "VIT_SEED": "0"}
    write_source(SOURCE)
    shutil.rmtree(to, ignore_errors=True)
    command = [sys.executable, "-m", "sphinx", "--builder", "html", "--quiet", "--fresh-env"]
    command += ["--fail-on-warning", "--conf-dir", str(runner.ROOT / "docs")]
    command += ["--doctree-dir", str(SOURCE.parent / "site-doctrees"), str(SOURCE), str(to)]
    status = subprocess.run(command, cwd=runner.ROOT, env=os.environ).returncode
    if not status:
        from .live import build as live

        live.build(to / "live", to / "vit-live.html")
        for path in hub_pages():
            (to / "hub").mkdir(exist_ok=True)
            shutil.copyfile(path, to / "hub" / path.name)
        print(f"{to / 'index.html'}: {len(list(to.rglob('*.html')))} pages")
    return status


def write_source(to: Path) -> None:
    """Write what Sphinx reads into an empty folder."""
    shutil.rmtree(to, ignore_errors=True)
    for path in (path for pattern in FILES for path in sorted(runner.ROOT.glob(pattern))):
        copy = to / path.relative_to(runner.ROOT)
        copy.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix == ".md":
            copy.write_text(for_the_web(path.read_text(encoding="utf-8")), encoding="utf-8")
        else:
            shutil.copyfile(path, copy)
    (to / "README.md").unlink()
    readme = (runner.ROOT / "README.md").read_text(encoding="utf-8")
    (to / "index.md").write_text(for_the_web(front_page(readme)), encoding="utf-8")
    film = FILM.findall(with_pictures(readme))[0]
    (to / "live-page.md").write_text(LIVE_PAGE.format(film=film), encoding="utf-8")
    if rows := hub_rows():
        (to / "hub-edition.md").write_text(HUB_PAGE.format(rows=rows), encoding="utf-8")
    write_notebooks(to / "notebooks")
    write_reference(to / "reference")
    with (to / "index.md").open("a", encoding="utf-8") as index:
        for caption, entries in contents(to).items():
            index.write(CONTENTS.format(caption=caption, entries="\n".join(entries)))


def for_the_web(markdown: str) -> str:
    """Markdown that asks no other host: formulas as MathML, a badge as its words."""
    markdown = page.REMOTE_PICTURE.sub(r"\1", page.formulas_as_mathml(markdown))
    return HOME_LINK.sub(r"](/index.md\1)", markdown)


def front_page(readme: str) -> str:
    """The README where the live page is a click away and not a command."""
    there = FILM.sub(r"[\g<0>](live-page.md)", with_pictures(readme))
    return LIVE_WORDS.sub(
        r'\1\n\n<p class="launch"><a href="live/index.html">Open the live page</a></p>\n\n', there
    )


def with_pictures(readme: str) -> str:
    """The README with its pictures as Markdown has them."""
    return PICTURE.sub(r"![\2](\1)", readme)


def hub_pages() -> list[Path]:
    """The pages that `course run` wrote from the real Hub."""
    return sorted(HUB.glob("[0-9]*.html"))


def hub_rows() -> str:
    """A list of these pages with the minutes that they took; empty if there are none."""
    timings = HUB / "timings.json"
    runs = json.loads(timings.read_text(encoding="utf-8")) if timings.is_file() else []
    minutes = {run["notebook"]: run["minutes"] for run in runs if not run["error"]}
    return "\n".join(
        f'<p><a href="hub/{path.name}">{frontpage.name(runner.ROOT, path.stem)}</a>'
        f", {minutes[path.stem]:.1f} minutes</p>"
        for path in hub_pages()
        if path.stem in minutes
    )


def contents(source: Path) -> dict[str, list[str]]:
    """The pages in the order of the side bar, by the heading above them."""

    def named(pattern: str) -> list[str]:
        return [str(p.relative_to(source).with_suffix("").as_posix()) for p in source.glob(pattern)]

    return {
        "In the browser": ["live-page"],
        "Notebooks": sorted(named("notebooks/*.ipynb")),
        "Around them": [*(f"docs/{name}" for name in AROUND), *named("hub-edition.md")],
        "Reference": ["reference/index"],
        "The offline kit": sorted(named("vit_helpers/offline_kit/cards/*.md")),
        "For maintainers": [
            *(f"docs/{name}" for name in INSIDE),
            "CONTRIBUTING",
            "CODE_OF_CONDUCT",
        ],
    }


# --- notebooks ---------------------------------------------------------------------------------


def write_notebooks(to: Path) -> None:
    """Write the notebooks for Sphinx: words on figures, the first cell folded, the explorer."""
    import nbformat

    to.mkdir()
    for path in runner.find():
        notebook = read_notebook(path)
        for cell in notebook.cells:
            if cell.cell_type == "markdown":
                cell.source = for_the_web(cell.source)
            for output in cell.get("outputs", []):
                _prepare(cell, output)
        fetch = next(cell for cell in notebook.cells if cell.cell_type == "code")
        fetch.metadata["tags"] = ["hide-input"]  # for Colab; it says nothing to a reader
        if path.stem == EXPLORER[0]:
            wake_explorer(notebook)
        nbformat.write(notebook, to / path.name)


def _prepare(cell, output) -> None:
    data = output.get("data", {})
    if "text/markdown" in data:
        data["text/markdown"] = for_the_web(data["text/markdown"])
    if "image/png" in data:
        about = output.metadata["image/png"]
        words = about["alt"]
        output.metadata = {"image/png": {k: about[k] for k in ("alt", "width") if k in about}}
        cell.metadata["mystnb"] = {"image": {"alt": words}}


def wake_explorer(notebook) -> None:
    """Put the explorer, alive, in the place of its picture in notebook 03.

    Its data is too large for the repository, so a stored notebook has its picture only. Here the
    same maps are computed again, from the model and the photograph of the offline kit.

    Raises:
        CourseError: If the words of the stored picture are not those of the new explorer.
    """
    cell = next(cell for cell in notebook.cells if cell.get("id") == EXPLORER[1])
    output = next(o for o in cell.outputs if "image/png" in o.get("data", {}))
    widget = explorer_of_the_course()
    words, stored = widget.poster.alt, output.metadata["image/png"]["alt"]
    if words != stored:
        raise CourseError(
            f"The saved output of {EXPLORER[0]} is not what the explorer of the site shows. Saved: "
            f"{stored!r}. Now: {words!r}. Run `make refresh`, or mend book.explorer_of_the_course."
        )
    state = widget.get_manager_state(widgets=[widget])["state"][widget.model_id]
    picture = output["data"]["image/png"]
    output["data"] = {"text/html": page.alive("attention-explorer", state, picture, words)}


def explorer_of_the_course():
    """The explorer as the cell `explorer-code` of notebook 03 makes it: an `AttentionExplorer`."""
    import torch
    from transformers import AutoModelForImageClassification

    from vit_helpers import attention, images, models, runtime
    from vit_helpers.widgets import explorer

    from .maps import maps, relevance, rollout

    with contextlib.redirect_stdout(None):
        rt = runtime.start("classifier", "photo")
    path = rt.locate("classifier")
    model = AutoModelForImageClassification.from_pretrained(path, attn_implementation="eager")
    model, processor = model.eval().to(rt.device), models.load_processor(path)
    photo = images.load_image()
    pixels = images.to_pixels(photo, processor).to(model.device)
    attn = maps(model, pixels).cpu()
    followed = {"rollout": rollout(attn)[0]}
    top = models.logits_of(model, processor, photo)[0].topk(2).indices.tolist()
    for label in top:
        name = model.config.id2label[label].split(",")[0]
        asked = torch.tensor([label], device=model.device)
        followed[f"relevance for {name}"] = relevance(model, pixels, asked)[0]
    return explorer.explore(photo, attn[0], attention.grid_size(model), followed)


# --- reference ---------------------------------------------------------------------------------


def modules() -> list[str]:
    """Every module of the package: those that a notebook calls first, the others by name."""
    root = str(runner.ROOT / "vit_helpers")
    names = [m.name for m in pkgutil.walk_packages([root]) if m.name != "__main__"]
    for package in [m.name for m in pkgutil.iter_modules([root]) if m.ispkg]:
        inside = pkgutil.iter_modules([str(Path(root, package))])
        names += [f"{package}.{m.name}" for m in inside]
    names = sorted(set(names))
    called = [n for top in CALLED for n in names if n.split(".")[0] == top]
    return called + [name for name in names if name not in called]


def write_reference(to: Path) -> None:
    """Write a page for every module, and one that lists them."""
    to.mkdir()
    lists = {True: "", False: ""}
    for name in modules():
        title = f"``{name}``"
        (to / f"{name}.rst").write_text(
            f"{title}\n{'=' * len(title)}\n\n.. automodule:: vit_helpers.{name}\n"
            # matplotlib writes a docstring for `set` into each of its subclasses.
            "   :members:\n   :exclude-members: set\n"
            # What a package takes from its modules stands there.
            "   :ignore-module-all:\n",
            encoding="utf-8",
        )
        lists[name.split(".")[0] in CALLED] += f"   {name}\n"
    toctree = ".. toctree::\n   :maxdepth: 1\n\n"
    (to / "index.rst").write_text(
        "Reference\n=========\n\nThe helper package ``vit_helpers``, from its docstrings.\n\n"
        f"What the notebooks call\n-----------------------\n\n{toctree}{lists[True]}\n"
        f"Behind the scenes\n-----------------\n\n{toctree}{lists[False]}",
        encoding="utf-8",
    )
