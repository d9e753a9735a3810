"""The interactive parts of the notebooks, made of ipywidgets (versions 7.7 and 8)."""

import base64
import html

import ipywidgets

from .. import images, models, plots
from ..errors import CourseError
from . import explorer as explorer

MOST_MB = 10  # Jupyter closes the connection over a larger message


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
        self.answer = ipywidgets.HTML(
            f"<p>No picture chosen yet. It may have up to {MOST_MB} MB.</p>"
        )
        super().__init__([self.button, self.answer])
        self.button.observe(self._changed, names="value")

    def _changed(self, change) -> None:
        if change["new"]:
            self.answer.value = "<p>The model is looking at it ...</p>"
            name, content = chosen_file(change["new"])
            try:
                self.answer.value = answer_page(self.model, self.processor, content, name)
            except Exception as error:  # no one sees what a callback raises
                words = html.escape(f"{name}: {type(error).__name__}: {error}")
                self.answer.value = f"<p>{words}. Choose another picture.</p>"

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
        picture = images.load_image(content)
    except CourseError as error:
        return f"<p>{html.escape(name)}: {html.escape(str(error))}</p>"
    top = models.top_classes(models.logits_of(model, processor, picture)[0], model)
    figure = plots.top_classes(picture, top)
    source = f"data:image/png;base64,{base64.b64encode(figure.png()).decode()}"
    return (
        f"<figure><figcaption>{html.escape(name)}</figcaption>"
        f'<img src="{source}" alt="{html.escape(figure.alt)}"></figure>'
    )
