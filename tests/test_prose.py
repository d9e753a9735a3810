"""The text of the course: what a reader can rely on finding in it."""

import json
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))


def sources(path: Path, *kinds: str) -> list[str]:
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    return [
        "".join(c["source"]) for c in cells if c["cell_type"] in (kinds or ("markdown", "code"))
    ]


def prose_cells(path: Path) -> list[str]:
    return sources(path, "markdown")


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
class TestNotebook:
    def test_it_opens_with_what_you_will_be_able_to_do(self, path):
        opening = prose_cells(path)[0]
        assert opening.startswith("# ")
        assert "**What you will be able to do**\n\n- " in opening

    def test_it_closes_with_a_summary_a_self_test_and_where_next(self, path):
        headings = re.findall(r"^#{2,3} (.*)$", "\n".join(prose_cells(path)), flags=re.M)
        assert headings[-3:] == ["Summary", "Test yourself", "Where next"]
        cells = prose_cells(path)
        test = next(cell for cell in cells if "### Test yourself" in cell)
        questions, answers = test.split("### Test yourself")[1].split("<details>")
        numbered = [len(re.findall(r"^\d\. ", part, flags=re.M)) for part in (questions, answers)]
        assert numbered[0] == numbered[1] >= 3
        assert "../docs/glossary.md" in test


class TestGlossary:
    entries = re.findall(
        r"^- \*\*(.+?)\*\*: .+ \[([\d, ]+)\]$",
        (ROOT / "docs" / "glossary.md").read_text(encoding="utf-8"),
        flags=re.M,
    )

    def test_it_is_in_alphabetical_order_without_a_word_twice(self):
        names = [name.strip("[]").lower() for name, _ in self.entries]
        assert names == sorted(set(names))
        assert len(names) >= 40

    def test_every_word_occurs_in_the_notebooks_that_it_points_to(self):
        for name, numbers in self.entries:
            for number in numbers.split(", "):
                path = next(p for p in NOTEBOOKS if p.name.startswith(number))
                everything = " ".join(sources(path)).lower().replace("-", " ")
                # "freezing" is there where "freeze" is.
                names = [part.lower().replace("-", " ") for part in re.split(r", | and ", name)]
                stems = [re.sub(r"(ation|ing)$", "", part) for part in names]
                assert any(stem in everything for stem in stems), (name, number)
