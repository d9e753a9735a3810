"""The page of an executed notebook: whole, alone, with words beside its figures."""

import re

import nbformat
import pytest

from course.page import WIDGET_STATE, WIDGET_VIEW, formulas_as_mathml, html_page, strip_views

PICTURE = (
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAAAAAA6fptVAAAACklEQVR4nGNoAAAAggCBd81ytgAAAABJRU5ErkJggg=="
)


def output(data, alt="a grey dot"):
    return nbformat.v4.new_output("display_data", data, metadata={"image/png": {"alt": alt}})


def notebook(*outputs, markdown="# Title", widgets=None):
    cells = [
        nbformat.v4.new_markdown_cell(markdown),
        nbformat.v4.new_code_cell("x", outputs=list(outputs)),
    ]
    made = nbformat.v4.new_notebook(cells=cells)
    if widgets:
        made.metadata.widgets = {WIDGET_STATE: {"state": widgets}}
    return made


def test_a_page_loads_nothing_from_elsewhere():
    badge = "[![Open in Colab](https://example.org/badge.svg)](https://example.org/open)"
    page = html_page(notebook(output({"image/png": PICTURE}), markdown=badge), "Title")
    loads = re.findall(r"<(?:script|img|link|iframe)[^>]*(?:src|href)=.(?!data:)[^ >]*", page)
    assert not loads and "@import" not in page
    assert ">Open in Colab</a>" in page  # the words of the badge, and its address, stay


def test_figures_keep_their_words():
    page = html_page(notebook(output({"image/png": PICTURE}, alt="5 < 6 & more")), "Title")
    assert 'alt="5 &lt; 6 &amp; more"' in page


@pytest.mark.parametrize(
    ("text", "formulas"),
    [
        ("costs $5 and 6", 0),
        ("a value of $5 and of $6", 0),
        ("`$x$` is code", 0),
        ("```\n$$x$$\n```", 0),
        ("half: $\\tfrac12 A + \\tfrac12 I$,", 1),
        ("$$\\mathrm{softmax}\\left(\\frac{Q K^\\top}{\\sqrt{d_k}}\\right) V$$", 1),
        ("$d_k$ and $d$", 2),
    ],
)
def test_formulas_become_mathml_and_prices_do_not(text, formulas):
    assert formulas_as_mathml(text).count("<math") == formulas


def test_every_formula_of_the_course_is_understood():
    from course import runner

    for path in runner.find():
        for cell in nbformat.read(path, 4).cells:
            if cell.cell_type == "markdown":
                left = re.sub(r"```.*?```|`[^`]*`", "", formulas_as_mathml(cell.source), flags=re.S)
                assert "$" not in re.sub(r"<math.*?</math>", "", left), cell.source


def test_a_widget_that_needs_no_kernel_stays_alive_and_others_give_way():
    alive = {"state": {"_esm": "export default { render };", "_css": ".a {}", "words": "</script>"}}
    page = html_page(
        notebook(
            output({WIDGET_VIEW: {"model_id": "1"}, "image/png": PICTURE}),
            output({WIDGET_VIEW: {"model_id": "2"}, "text/plain": "a sentence in its place"}),
            widgets={"1": {**alive, "buffers": []}, "2": {"state": {}}},
        ),
        "Title",
    )
    assert "const widget = { render };" in page and 'alt="a grey dot"' in page
    assert "a sentence in its place" in page
    # Two of its own, and none that the data has smuggled in.
    assert page.count("</script>") == 2 and r"<\/script>" in page


def test_stored_notebooks_hold_no_widget_where_something_stands_beside_it():
    stored = notebook(
        output({WIDGET_VIEW: {"model_id": "1"}, "image/png": PICTURE}),
        output({WIDGET_VIEW: {"model_id": "2"}}),
        widgets={"1": {"state": {}}},
    )
    strip_views(stored)
    beside, alone = stored.cells[1].outputs
    assert list(beside.data) == ["image/png"] and list(alone.data) == [WIDGET_VIEW]
    assert "widgets" not in stored.metadata
