"""The text of the course: how hard it is to read, and what a reader can rely on finding."""

import json
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
GRADE = 10  # a reader of about 15 years


def sources(path: Path, *kinds: str) -> list[str]:
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    return [
        "".join(c["source"]) for c in cells if c["cell_type"] in (kinds or ("markdown", "code"))
    ]


def prose_cells(path: Path) -> list[str]:
    return sources(path, "markdown")


def words(text: str) -> list[str]:
    return re.findall(r"[A-Za-z][A-Za-z'’]*", text)


def syllables(word: str) -> int:
    """Groups of vowels, less a silent e at the end."""
    word = re.sub(r"(?<=[^l])e$|(?<=[^td])ed$|(?<=[^s])es$", "", word.lower())
    return max(1, len(re.findall(r"[aeiouy]+", word)))


def plain(markdown: str) -> str:
    """Prose alone: no headings, tables, code, formulas and addresses."""
    markdown = re.sub(r"```.*?```|\$\$.*?\$\$", "", markdown, flags=re.S)
    markdown = re.sub(r"^(\||#).*$|\[!\[.*?\)\]\(.*?\)|<[^>]+>", "", markdown, flags=re.M)
    markdown = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", markdown)
    return re.sub(r"`[^`]*`|\$[^$]*\$", "it", markdown).replace("*", "")


def grade(markdown: str) -> float:
    """Flesch-Kincaid grade: the school years that a text asks for.

    Source: Kincaid et al. 1975, "Derivation of New Readability Formulas", page 14.
    """
    text = plain(markdown)
    # An item of a list is a sentence also where it ends without a full stop.
    sentences = [s for s in re.split(r"(?<=[.!?])\s+|\n+", text) if words(s)]
    count = len(words(text))
    if not sentences:
        return 0.0
    long_words = sum(syllables(word) for word in words(text)) / count
    return 0.39 * count / len(sentences) + 11.8 * long_words - 15.59


def test_the_grade_tells_plain_from_heavy_text():
    assert grade("The cat sat on the mat. It was warm. It slept.") < 2
    heavy = (
        "Notwithstanding considerable terminological heterogeneity, contemporary methodological "
        "investigations systematically demonstrate the incontrovertible superiority of "
        "hierarchical representational architectures."
    )
    assert grade(heavy) > 20
    gettysburg = (
        "Four score and seven years ago our fathers brought forth on this continent, a new "
        "nation, conceived in Liberty, and dedicated to the proposition that all men are created "
        "equal. Now we are engaged in a great civil war, testing whether that nation, or any "
        "nation so conceived and so dedicated, can long endure. We are met on a great "
        "battle-field of that war."
    )
    assert 8 < grade(gettysburg) < 13


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
class TestNotebook:
    def test_every_prose_cell_is_plain_english(self, path):
        for cell in prose_cells(path):
            if len(words(plain(cell))) >= 30:
                assert grade(cell) <= GRADE, cell

    def test_it_opens_with_what_you_will_be_able_to_do(self, path):
        opening = prose_cells(path)[0]
        assert opening.startswith("# ")
        assert "**What you will be able to do**\n\n- " in opening

    def test_it_closes_with_a_summary_a_self_test_and_where_next(self, path):
        headings = re.findall(r"^#{2,3} (.*)$", "\n".join(prose_cells(path)), flags=re.M)
        assert headings[-4:] == ["Your progress", "Summary", "Test yourself", "Where next"]
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
                stems = [part.lower().replace("-", " ") for part in re.split(r", | and ", name)]
                assert any(stem in everything for stem in stems), (name, number)

    def test_it_is_plain_english(self):
        for line in (ROOT / "docs" / "glossary.md").read_text(encoding="utf-8").splitlines():
            if len(words(line)) >= 15:
                assert grade(line) <= GRADE + 2, line  # one sentence, with a hard word in front
