"""An executed notebook as one HTML page that needs no kernel, no network and no second file.

Figures and formulas are inside. A widget that answers in the browser by itself (the attention
explorer) stays alive; of any other widget the page shows the picture or the sentence that the
notebook stores beside it.
"""

import copy
import html
import json
import re

WIDGET_VIEW = "application/vnd.jupyter.widget-view+json"
WIDGET_STATE = "application/vnd.jupyter.widget-state+json"
# nbconvert's own page takes scripts from the network and leaves out the words of figures.
TEMPLATE = """
{%- extends 'lab/index.html.j2' -%}
{%- block html_head_js -%}{%- endblock -%}
{%- block jupyter_widgets -%}{%- endblock -%}
{%- block html_head_js_mathjax -%}{%- endblock -%}
{%- block html_head_js_mermaidjs -%}{%- endblock -%}
{%- block html_head_css -%}
<style>
main { box-sizing: border-box; max-width: 62rem; margin: 0 auto; padding: 0 0.75rem; }
.jp-InputPrompt, .jp-OutputPrompt { display: none; }
.jp-OutputArea-output, .jp-CodeMirrorEditor { overflow-x: auto; }  /* on a phone */
.jp-RenderedImage img { max-width: 100%; height: auto; }
.jp-RenderedHTMLCommon pre {
  font-family: var(--jp-code-font-family);
  white-space: pre;
  overflow-x: auto;
}
@media (max-width: 40rem) { .dataframe :is(td, th) { white-space: nowrap; } }
math { font-size: 1.1em; }
</style>
{%- endblock -%}
{%- block data_png -%}
<div class="jp-RenderedImage jp-OutputArea-output">
<img src="data:image/png;base64,{{ output.data['image/png'] }}"
 alt="{{ output | get_metadata('alt', 'image/png') | escape_html }}"
{%- set width = output | get_metadata('width', 'image/png') -%}
{%- if width %} width="{{ width }}"{% endif %}>
</div>
{%- endblock data_png -%}
"""
# What anywidget does in a notebook, for a page without one: the state stands still, and a change
# goes nowhere but to the browser.
SCRIPT = """
{esm}
const place = document.getElementById("{place}");
const {{ state, buffers }} = JSON.parse(document.getElementById("{place}-state").textContent);
for (const {{ path, data }} of buffers) {{
  const bytes = Uint8Array.from(atob(data), (letter) => letter.charCodeAt(0));
  state[path[0]] = new DataView(bytes.buffer);
}}
const model = {{
  get: (name) => state[name],
  set: (name, value) => {{ state[name] = value; }},
  save_changes() {{}},
  on() {{}},
  off() {{}},
}};
const element = document.createElement("div");
await widget.render({{ model, el: element }});
place.replaceChildren(element);
"""
# Dollars in code are no formulas: code is matched first and left alone.
FORMULA = re.compile(r"(```.*?```|`[^`\n]*`)|\$\$(.+?)\$\$|(?<![\w$\\])\$([^$\n]+?)\$(?!\w)", re.S)

REMOTE_PICTURE = re.compile(r"!\[([^\]]*)\]\(https?://[^)]*\)")  # a badge: its words stay


def html_page(notebook, title: str) -> str:
    """The page of an executed notebook.

    Args:
        notebook: An nbformat notebook with outputs. Its `metadata.widgets`, if there, hold the
            state of its widgets, as `nbclient` stores it.
        title: The title of the page.

    Returns:
        HTML. It loads nothing: no script, font or style from elsewhere.
    """
    from jinja2 import DictLoader
    from nbconvert import HTMLExporter

    notebook = copy.deepcopy(notebook)
    states = notebook.metadata.pop("widgets", {}).get(WIDGET_STATE, {}).get("state", {})
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            cell.source = REMOTE_PICTURE.sub(r"\1", formulas_as_mathml(cell.source))
        for number, output in enumerate(cell.get("outputs", [])):
            data = output.get("data", {})
            if "text/markdown" in data:
                data["text/markdown"] = formulas_as_mathml(data["text/markdown"])
            view = data.pop(WIDGET_VIEW, None)
            state = states.get(view["model_id"]) if view else None
            if state and "_esm" in state["state"]:
                words = output.metadata.get("image/png", {}).get("alt", "")
                place = f"widget-{cell.id}-{number}"
                data["text/html"] = alive(place, state, data.get("image/png", ""), words)
    exporter = HTMLExporter(extra_loaders=[DictLoader({"page": TEMPLATE})], template_file="page")
    page, _ = exporter.from_notebook_node(notebook, {"metadata": {"name": title}})
    return page


def strip_views(notebook) -> None:
    """Take widgets out of a notebook that is to be stored, where something stands beside them.

    Without its kernel a widget is an error message in place of an output. The picture or the
    sentence that stands beside it is what a reader then sees.
    """
    notebook.metadata.pop("widgets", None)
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            if len(output.get("data", {})) > 1:
                output["data"].pop(WIDGET_VIEW, None)


def formulas_as_mathml(text: str) -> str:
    """Markdown with its TeX formulas (`$...$`, `$$...$$`) as MathML, which browsers draw alone."""
    from latex2mathml.converter import convert

    def mathml(match) -> str:
        code, block, inline = match.groups()
        if code:
            return code
        formula = convert(block or inline, display="block" if block else "inline")
        return formula.replace("\n", " ")

    return FORMULA.sub(mathml, text)


def alive(place: str, state: dict, picture: str, words: str) -> str:
    """A widget of anywidget as HTML: its picture, until its script has drawn it."""
    values = {k: v for k, v in state["state"].items() if k not in ("_esm", "_css")}
    stored = json.dumps({"state": values, "buffers": state.get("buffers", [])})
    stored = stored.replace("</", r"<\/")  # "</script>" inside the data would end it
    esm = state["state"]["_esm"].replace("export default", "const widget =")
    return (
        f"<style>{state['state'].get('_css', '')}</style>\n"
        f'<div id="{place}"><img src="data:image/png;base64,{picture}" '
        f'alt="{html.escape(words)}" style="max-width: 100%; height: auto"></div>\n'
        f'<script type="application/json" id="{place}-state">{stored}</script>\n'
        f'<script type="module">{SCRIPT.format(esm=esm, place=place)}</script>'
    )
