"""Every name of the course and of a library that a cell uses is there, and takes those arguments.

Nothing is executed: a renamed function is found in a second and not after minutes of training.
"""

import ast
import importlib
import inspect
import json
import types
from importlib.util import find_spec
from pathlib import Path

import nbformat
import pytest
from IPython.core.inputtransformer2 import TransformerManager

from vit_helpers import runtime

ROOT = Path(__file__).parent.parent
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
KNOWN = {"rt": runtime.Runtime}  # what a cell makes and the next ones use
UNKNOWN = object()
OPTIONAL = {"torchao"}  # imported only where it is installed


def trees(path):
    """`(id of the cell, its syntax tree)` of every code cell."""
    for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
        if cell["cell_type"] == "code":
            source = TransformerManager().transform_cell("".join(cell["source"]))
            yield cell["id"], ast.parse(source)


def imported(node) -> dict:
    """Name -> what an import statement binds it to."""
    if isinstance(node, ast.Import):
        found = {a.asname or a.name.split(".")[0]: a for a in node.names}
        return {
            name: importlib.import_module(a.name if a.asname else name) for name, a in found.items()
        }
    names = {}
    if node.module.split(".")[0] in OPTIONAL and not find_spec(node.module.split(".")[0]):
        return names
    for alias in node.names:
        module = importlib.import_module(node.module)
        try:
            names[alias.asname or alias.name] = getattr(module, alias.name)
        except AttributeError:  # a module that nothing has imported yet
            names[alias.asname or alias.name] = importlib.import_module(
                f"{node.module}.{alias.name}"
            )
    return names


def resolve(node, names: dict):
    """What an expression like `plots.top_classes` stands for; `UNKNOWN` if only a run can tell.

    Raises:
        AttributeError: If a module or class has no such name.
    """
    if isinstance(node, ast.Name):
        return names.get(node.id, UNKNOWN)
    if not isinstance(node, ast.Attribute):
        return UNKNOWN
    owner = resolve(node.value, names)
    if owner is UNKNOWN:
        return UNKNOWN
    if owner is runtime.Runtime and node.attr in runtime.Runtime.__annotations__:
        return UNKNOWN  # a field has no default to look at
    if not isinstance(owner, types.ModuleType | type):
        return UNKNOWN
    return getattr(owner, node.attr)


def problems(path) -> list[str]:
    """What a notebook asks for and cannot have, as sentences."""
    found, names = [], dict(KNOWN)
    for cell, tree in trees(path):
        for node in ast.walk(tree):
            if isinstance(node, ast.Import | ast.ImportFrom):
                if getattr(node, "module", "") == "google.colab":
                    continue
                names |= imported(node)
        calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
        asked_for = {c.args[1].value for c in calls if ast.unparse(c.func) == "hasattr"}
        for node in ast.walk(tree):
            try:
                if isinstance(node, ast.Attribute):
                    resolve(node, names)
                if isinstance(node, ast.Call):
                    takes(resolve(node.func, names), node)
            except (AttributeError, TypeError) as error:
                if getattr(error, "name", None) in asked_for:
                    continue
                found.append(f"cell {cell}, line {node.lineno}: {ast.unparse(node)[:60]}: {error}")
    return found


def takes(function, call: ast.Call) -> None:
    """Raise a `TypeError` if a function of the course would not take the arguments of a call."""
    if not getattr(function, "__module__", "").startswith("vit_helpers"):
        return
    starred = any(isinstance(a, ast.Starred) for a in call.args)
    if starred or any(k.arg is None for k in call.keywords):
        return
    arguments = [None] * len(call.args)
    if inspect.isfunction(function) and "self" in inspect.signature(function).parameters:
        arguments.insert(0, None)
    inspect.signature(function).bind(*arguments, **{k.arg: None for k in call.keywords})


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_what_a_cell_uses_is_there(path):
    assert problems(path) == []


def notebook(folder, *sources):
    cells = [{"cell_type": "code", "id": str(i), "source": s} for i, s in enumerate(sources)]
    path = folder / "x.ipynb"
    path.write_text(json.dumps({"cells": cells}), encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("source", "count"),
    [
        ("from vit_helpers import plots\nplots.no_such_figure(1)", 2),
        ("from vit_helpers import plots\nplots.percent(0.5, colour='red')", 1),
        ("from vit_helpers import plots\nplots.percent(0.5)", 0),
        ("import torch\ntorch.nn.functional.softmaxx", 1),
        ("import torch\nhasattr(torch, 'gone') and torch.gone()", 0),
        ("rt.device, rt.pick(quick=1, full=2)", 0),
        ("rt.no_such_thing", 1),
        ("rt.pick(quickly=1, full=2)", 1),
    ],
)
def test_a_missing_name_or_argument_is_found(tmp_path, source, count):
    assert len(problems(notebook(tmp_path, source))) == count


def test_a_name_that_cannot_be_imported_is_found(tmp_path):
    with pytest.raises(ImportError):
        problems(notebook(tmp_path, "from vit_helpers import no_such_module"))


def test_own_pictures_are_prepared_in_the_one_way():
    """The loader of 04 takes pictures of one's own: see-through ones are white, not black."""
    import datasets
    import torch
    from PIL import Image

    from vit_helpers import images

    notebook = nbformat.read(ROOT / "notebooks" / "04_transfer_flowers102.ipynb", 4)
    (source,) = (cell.source for cell in notebook.cells if cell.get("id") == "loaders")
    scope = {"images": images}
    exec(source.split("train_loader")[0], scope)
    kinds = datasets.Features({"image": datasets.Image(), "label": datasets.Value("int64")})
    clear = {"image": [Image.new("RGBA", (2, 2))], "label": [0]}
    part = datasets.Dataset.from_dict(clear, features=kinds)
    seen = []
    rows = scope["loader"](part, lambda picture: seen.append(picture) or torch.zeros(3))
    assert len(list(rows)) == 1 and seen[0].getpixel((0, 0)) == (255, 255, 255)
