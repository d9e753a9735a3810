"""The interactive parts of the notebooks, made of ipywidgets (versions 7.7 and 8)."""

import base64
import html

import ipywidgets

from .. import data, models, pixels, plots
from ..errors import CourseError, one_of
from . import explorer


class Box(ipywidgets.VBox):
    """A box that can stand with something else for pages where no widget runs.

    ipywidgets 7 would show itself without that; so both versions are shown by one method.
    """

    _ipython_display_ = None

    def _view(self) -> dict:
        view = {"version_major": 2, "version_minor": 0, "model_id": self.model_id}
        return {"application/vnd.jupyter.widget-view+json": view}


class UploadBox(Box):
    """A button to choose a picture, and below it the answer of the model.

    Attributes:
        button: The `FileUpload`; its value holds the chosen file.
        answer: An `HTML` widget: the picture with its top five classes, or what went wrong.
    """

    def __init__(self, model, processor):
        self.model, self.processor = model, processor
        self.button = ipywidgets.FileUpload(
            accept="image/*",
            multiple=False,
            description="Choose a picture",
            layout=ipywidgets.Layout(width="auto"),
        )
        self.answer = ipywidgets.HTML("<p>No picture chosen yet.</p>")
        super().__init__([self.button, self.answer])
        self.button.observe(self._changed, names="value")

    def _changed(self, change) -> None:
        if change["new"]:
            self.answer.value = "<p>The model is looking at it ...</p>"
            name, content = chosen_file(change["new"])
            self.answer.value = answer_page(self.model, self.processor, content, name)

    def _repr_mimebundle_(self, **kwargs):
        # Where no widget can run, as on a plain web page, a sentence stands in its place.
        words = (
            "An upload box: run this cell in Jupyter, choose a picture, and the model's top five "
            "classes appear here."
        )
        return {**self._view(), "text/plain": words}


def chosen_file(value) -> tuple[str, bytes]:
    """Name and content of the one file in the value of a `FileUpload`.

    ipywidgets 8 gives a tuple of files. Version 7, which Colab has, gives a dictionary by name.
    """
    if isinstance(value, dict):
        name, file = next(iter(value.items()))
        return name, bytes(file["content"])
    return value[0]["name"], bytes(value[0]["content"])


def upload_box(model, processor) -> UploadBox:
    """A box to upload a picture of your own: shows it with the model's top five classes.

    The picture goes to the machine that runs this notebook, and nowhere else.

    Args:
        model: A `ViTForImageClassification` in evaluation mode.
        processor: Its image processor.

    Returns:
        A widget; it shows itself as the last line of a cell.
    """
    return UploadBox(model, processor)


def answer_page(model, processor, content: bytes, name: str) -> str:
    """What the upload box shows for a file: an HTML page part.

    Args:
        model: A `ViTForImageClassification` in evaluation mode.
        processor: Its image processor.
        content: The bytes of the file.
        name: Its name, for the reader.

    Returns:
        The picture beside its top five classes; or one sentence if the file is no picture.
    """
    try:
        picture = data.load_image(content)
    except CourseError as error:
        return f"<p>{html.escape(name)}: {html.escape(str(error))}</p>"
    top = models.top_classes(models.logits_of(model, processor, picture)[0], model)
    figure = plots.top_classes(picture, top)
    source = f"data:image/png;base64,{base64.b64encode(figure.png()).decode()}"
    return (
        f"<figure><figcaption>{html.escape(name)}</figcaption>"
        f'<img src="{source}" alt="{html.escape(figure.alt)}"></figure>'
    )


class MapForm(Box):
    """Sliders for layer, head and token, and below them the attention map that they choose.

    Attributes:
        show: One map, or the table of all layers and heads.
        layer: Slider of the layer.
        head: Slider of the head; its first place is the mean of all heads.
        query: Slider of the token that asks: [CLS] (and registers), then the patches.
        image: The map, a JPEG file.
        words: What it shows, in a sentence.
    """

    ONE, ALL = "one map", "all layers and heads"

    def __init__(self, painter: pixels.Painter):
        self.painter = painter
        rows, columns = painter.grid
        tokens = ["[CLS]", *(f"register {i}" for i in range(1, painter.special))]
        tokens += [f"row {r + 1}, column {c + 1}" for r in range(rows) for c in range(columns)]
        heads = [("mean", -1), *((str(head), head) for head in range(painter.heads))]
        self.show = ipywidgets.ToggleButtons(
            options=(self.ONE, self.ALL), style={"button_width": "auto"}
        )
        self.layer = ipywidgets.IntSlider(
            painter.layers - 1, min=0, max=painter.layers - 1, description="Layer"
        )
        self.head = ipywidgets.SelectionSlider(options=heads, description="Head")
        self.query = ipywidgets.SelectionSlider(
            options=[(name, i) for i, name in enumerate(tokens)], description="From"
        )
        self.image = ipywidgets.Image(format="jpeg")
        self.words = ipywidgets.HTML()
        for control in (self.show, self.layer, self.head, self.query):
            control.observe(self._changed, names="value")
        self._changed()
        super().__init__(
            [self.show, self.layer, self.head, self.query, self.image, self.words],
        )

    def _changed(self, change=None) -> None:
        one = self.show.value == self.ONE
        self.layer.disabled = self.head.disabled = not one
        picture = self.picture()
        self.image.value = pixels.as_jpeg(picture)
        self.image.layout.max_width = f"{picture.width}px"  # not blown up to the cell's width
        self.words.value = f'<p role="status">{html.escape(self.sentence())}</p>'

    def picture(self):
        """What the sliders choose, as a PIL picture."""
        if self.show.value == self.ALL:
            return self.painter.all(self.query.value)
        return self.painter.one(self.layer.value, self._chosen_head(), self.query.value)

    def _chosen_head(self) -> int | None:
        # -1 on the slider: `None` would mean for ipywidgets that nothing is chosen.
        return None if self.head.value < 0 else self.head.value

    def sentence(self) -> str:
        """What the sliders choose, in words."""
        if self.show.value == self.ALL:
            return (
                f"All maps from {self.query.label}: a row for each of {self.painter.layers} "
                f"layers, a column for each of {self.painter.heads} heads, each map scaled to "
                "its own largest weight."
            )
        head = f"mean of {self.painter.heads} heads"
        if self._chosen_head() is not None:
            head = f"head {self.head.value}"
        weights = self.painter.weights(self.layer.value, self._chosen_head(), self.query.value)
        return (
            f"Layer {self.layer.value}, {head}, from {self.query.label}: the largest weight, "
            f"{plots.percent(weights.max())}, is in {plots.place(weights)}."
        )

    def _repr_mimebundle_(self, **kwargs):
        # Where no widget can run, the picture stands there as it is now, with its words.
        words = self.sentence()
        bundle = {
            **self._view(),
            "image/png": base64.b64encode(pixels.as_png(self.picture())).decode(),
            "text/plain": f"A form with sliders: run this cell in Jupyter and move them. {words}",
        }
        return bundle, {"image/png": {"alt": words}}


def map_form(picture, attn, grid: tuple[int, int], show: str = MapForm.ONE) -> MapForm:
    """Sliders to leaf through the attention maps of one picture.

    Args:
        picture: The PIL picture.
        attn: Shape (L, H, T, T): the attention of this picture; a tensor or an array.
        grid: `(rows, columns)` of patches, from `attention.grid_size`.
        show: What is shown first: `one map`, or `all layers and heads`.

    Returns:
        A widget; it shows itself as the last line of a cell. Its kernel draws, in about a
        hundredth of a second.

    Raises:
        CourseError: If shapes do not fit together or `show` is something else.
    """
    one_of("show", show, (MapForm.ONE, MapForm.ALL))
    form = MapForm(pixels.Painter(picture, explorer.checked(attn, grid), grid))
    form.show.value = show
    return form
