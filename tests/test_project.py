"""The project's own files: pins, and the notebooks as a reader of the repository sees them."""

import ast
import json
import re
import subprocess
from pathlib import Path

import pytest
import yaml

from course import frontpage
from vit_helpers import resources

ROOT = Path(__file__).parent.parent
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
NAMES = [
    "01_classify",
    "02_finetune_cifar10",
    "03_attention",
    "04_transfer_flowers102",
    "05_efficient_inference",
]


def pins() -> dict[str, str]:
    files = [ROOT / "requirements.txt", ROOT / "requirements-site.txt"]
    lines = [line for path in files for line in path.read_text(encoding="utf-8").splitlines()]
    found = [line.split("==") for line in lines if "==" in line]
    assert len(dict(found)) == len(found)  # none stands in both
    return dict(found)


def ranges() -> dict[str, str]:
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    return dict(re.findall(r'"([a-z][\w-]*)>=([\d.]+)[";]', text))


def test_environment_yml_uses_the_pins_of_requirements_txt():
    environment = yaml.safe_load((ROOT / "environment.yml").read_text(encoding="utf-8"))
    pip = next(d["pip"] for d in environment["dependencies"] if isinstance(d, dict))
    assert pip == ["-r requirements.txt"]


def test_every_pin_is_exact_and_inside_the_range_of_pyproject():
    def number(version):
        return tuple(int(part) for part in version.split("."))

    extras = ("resvg-py", "openvino", "nncf", "torchao")
    lower = {k: v for k, v in ranges().items() if k not in extras}
    assert set(lower) == set(pins())
    for name, version in pins().items():
        assert number(version) >= number(lower[name]), name


def read(path):
    return json.loads(path.read_text(encoding="utf-8"))


def cells(path, kind):
    return [c for c in read(path)["cells"] if c["cell_type"] == kind]


def test_all_five_notebooks_are_there():
    assert [p.stem for p in NOTEBOOKS] == NAMES


def figures(notebook) -> list[str]:
    """The words of every picture that a reader of the saved notebook sees, of whatever kind."""
    words = []
    for cell in notebook["cells"]:
        texts = ["".join(cell["source"])] if cell["cell_type"] == "markdown" else []
        for output in cell.get("outputs", []):
            for kind, content in output.get("data", {}).items():
                if kind.startswith("image/"):
                    words.append(output["metadata"].get(kind, {}).get("alt", ""))
                if kind in ("text/html", "text/markdown"):
                    texts.append("".join(content))
        for text in texts:
            words += [alt for alt, _ in re.findall(r"!\[([^]]*)\]\(([^)]+)\)", text)]
            for tag in re.findall(r"<(?:img|svg|canvas)\b[^>]*>", text):
                found = re.search(r"(?:alt|aria-label)=(\"[^\"]*\"|'[^']*')", tag)
                words.append(found[1][1:-1] if found else "")
    return words


def figures_without_words(notebook) -> list[str]:
    """Those of fewer than five words; a badge is a link with two or three."""
    return [w for w in figures(notebook) if len(w.split()) < 5 and not w.startswith("Open in ")]


def test_a_figure_without_words_is_found():
    def shown(data, **metadata):
        return {"output_type": "display_data", "data": data, "metadata": metadata}

    good = "a line that rises from left to right"
    outputs = {
        "png": shown({"image/png": "x"}, **{"image/png": {"alt": good}}),
        "png, none": shown({"image/png": "x"}),
        "jpeg, none": shown({"image/jpeg": "x"}),
        "svg, none": shown({"image/svg+xml": "<svg>"}),
        "html": shown({"text/html": f"<p><img src='a.png' alt='{good}'></p>"}),
        "html, none": shown({"text/html": "<p><img src='a.png'></p>"}),
        "html, empty": shown({"text/html": ['<img alt="" ', 'src="a.png">']}),
        "markdown, too few": shown({"text/markdown": "![a figure](a.png)"}),
    }
    for name, output in outputs.items():
        notebook = {"cells": [{"cell_type": "code", "source": "", "outputs": [output]}]}
        assert len(figures(notebook)) == 1
        assert bool(figures_without_words(notebook)) == ("," in name), name


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
class TestNotebook:
    def test_saved_outputs_hold_no_error_no_warning_and_no_path_of_a_machine(self, path):
        outputs = [o for c in cells(path, "code") for o in c["outputs"]]
        assert outputs, "no saved outputs: run `make refresh`"
        assert not [o for o in outputs if o["output_type"] == "error"]
        assert not [o for o in outputs if o.get("name") == "stderr"]
        text = "".join(
            json.dumps({k: v for k, v in o.get("data", {}).items() if k != "image/png"})
            + "".join(o.get("text", ""))
            for o in outputs
        )
        assert not re.search(r"/(home|root|Users|tmp|work|var)/|[A-Z]:\\\\", text)
        assert "Warning" not in text
        tokens = r"hf_[A-Za-z]{20}|gh[pousr]_\w{20}|AKIA[A-Z0-9]{16}|Bearer \w{16}"
        assert not re.search(tokens, text)

    def test_saved_outputs_are_of_one_run_from_the_top(self, path):
        """Outputs without a number are those of no run, and nbval refuses them."""
        counts = [c["execution_count"] for c in cells(path, "code")]
        assert counts == list(range(1, len(counts) + 1)), "run `make refresh`"

    def test_every_figure_has_words(self, path):
        notebook = read(path)
        assert figures(notebook)
        assert figures_without_words(notebook) == []

    def test_cells_are_short(self, path):
        for cell in cells(path, "code"):
            lines = "".join(cell["source"]).splitlines()
            assert len(lines) <= 20, lines[0]

    def test_one_title_and_headings_in_order(self, path):
        levels = [
            len(line) - len(line.lstrip("#"))
            for c in cells(path, "markdown")
            for line in "".join(c["source"]).splitlines()
            if re.match(r"#+ ", line)
        ]
        assert levels[0] == 1
        assert levels.count(1) == 1
        assert all(b - a <= 1 for a, b in zip(levels, levels[1:], strict=False))

    def test_one_code_path_for_both_sources(self, path):
        source = "".join("".join(c["source"]) for c in cells(path, "code"))
        assert not re.search(r"rt\.source|VIT_SOURCE|offline", source)

    def test_what_it_starts_with_can_come_from_the_hub(self, path):
        source = "".join("".join(c["source"]) for c in cells(path, "code"))
        needs = re.findall(r'"(\w+)"', re.search(r"runtime\.start\((.*?)\)", source)[1])
        assert needs
        assert set(needs) <= set(resources.RESOURCES)

    def test_no_widget_state_and_at_most_four_megabytes(self, path):
        assert "widgets" not in read(path)["metadata"]
        assert path.stat().st_size <= 4_000_000

    def test_the_title_says_the_minutes_that_were_measured(self, path):
        title = "".join(cells(path, "markdown")[0]["source"])
        assert title.endswith(frontpage.minutes_line(ROOT, path.stem))

    def test_links_to_the_previous_and_the_next_notebook(self, path):
        text = "".join("".join(c["source"]) for c in cells(path, "markdown"))
        i = NAMES.index(path.stem)
        for neighbour in NAMES[max(0, i - 1) : i] + NAMES[i + 1 : i + 2]:
            assert f"({neighbour}.ipynb)" in text


def test_nothing_is_tracked_that_git_should_ignore():
    command = ["git", "ls-files", "--cached", "--ignored", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if listed.returncode:
        pytest.skip("no git here")
    assert listed.stdout == ""


# --- weights are data, never a program ---------------------------------------------------------


def calls():
    """Every call in the package: `(file and line, name called, its class or module, keywords)`."""
    for path in sorted((ROOT / "vit_helpers").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
                keywords = {k.arg: getattr(k.value, "value", None) for k in node.keywords}
                place = f"{path.relative_to(ROOT)}:{node.lineno}"
                yield place, node.func.attr, ast.unparse(node.func.value), keywords


def test_weights_come_from_safetensors_and_no_code_from_outside():
    # A pickle file is a program that runs when it is read, and so is remote code.
    models = [c for c in calls() if c[1] == "from_pretrained" and re.search("Model|For", c[2])]
    assert models
    for place, _, _, keywords in models:
        assert keywords.get("use_safetensors") is True, place
    for place, _, _, keywords in calls():
        assert not keywords.get("trust_remote_code"), place


def test_checkpoints_are_read_as_data():
    loads = [c for c in calls() if c[1] == "load" and c[2] in ("torch", "pickle", "joblib")]
    assert loads
    for place, _, _, keywords in loads:
        assert keywords.get("weights_only") is True, place


# --- budgets -----------------------------------------------------------------------------------

# All pictures, no block frozen in 02, no patch dropped: as beside published figures it must be.
FULL = {
    "02_finetune_cifar10": {
        "train_part": None, "random_cut": None, "val_part": None, "test_part": None, "BATCH": 64,
        "KEEP": 1.0, "EPOCHS": 5, "lr": 5e-5, "head_lr": 5e-4, "few": 2000,
    },
    "04_transfer_flowers102": {
        "val_part": None, "test_part": None, "EPOCHS": 15, "KEEP": 1.0,
        "kinds": 102, "(SIDE, WAY_EPOCHS)": 5,
    },
}  # fmt: skip


def budgets(source: str) -> dict:
    """What `rt.pick(full=...)` gives in the code of a notebook, by the name that gets it."""
    named = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Dict):
            named += [(key.value, value) for key, value in zip(node.keys, node.values, strict=True)]
        elif isinstance(node, ast.Assign) and not isinstance(node.value, ast.Dict):
            named.append((ast.unparse(node.targets[0]), node.value))
        elif isinstance(node, ast.keyword):
            named.append((node.arg, node.value))
    found = {}
    for name, value in named:
        for call in ast.walk(value):
            if isinstance(call, ast.Call) and ast.unparse(call.func) == "rt.pick":
                full = next(keyword.value for keyword in call.keywords if keyword.arg == "full")
                found[name] = ast.literal_eval(full)
    return found


@pytest.mark.parametrize("name", FULL)
def test_the_profile_full_is_the_published_recipe(name):
    path = next(p for p in NOTEBOOKS if p.stem == name)
    found = {}
    for cell in cells(path, "code"):
        source = "".join(cell["source"])
        if "rt.pick" in source:
            found |= budgets(source)
    assert found == FULL[name]
