"""The interactive parts of the notebooks: the upload box and the attention explorer."""

import base64
import html
from pathlib import Path

import anywidget
import traitlets

from .. import images, models, plots
from ..errors import CourseError
from . import explorer as explorer

MOST_MB = 10  # Jupyter closes the connection over a larger message


class UploadBox(anywidget.AnyWidget):
    """A button to choose a picture, and below it the answer of the model.

    `upload.js` sends the file, or says why not; what is larger than `MOST_MB` never leaves the
    browser. `answer` is HTML: the picture with its top five classes, or what went wrong.
    """

    _esm = Path(__file__).parent / "upload.js"
    _ipython_display_ = None  # ipywidgets 7 would show itself without the sentence below

    answer = traitlets.Unicode().tag(sync=True)
    most_mb = traitlets.Int(MOST_MB).tag(sync=True)

    def __init__(self, model, processor):
        self.model, self.processor = model, processor
        super().__init__(answer=f"<p>No picture chosen yet. It may have up to {MOST_MB} MB.</p>")
        self.on_msg(self._received)

    def _received(self, _, message: dict, buffers: list) -> None:
        name = str(message.get("name", "the picture"))
        self.answer = "<p>The model is looking at it ...</p>"
        try:
            self.answer = answer_page(self.model, self.processor, bytes(buffers[0]), name)
        except (Exception, KeyboardInterrupt) as error:  # no one sees what a callback raises
            words = f"{name} could not be classified ({error!r}): choose another picture."
            self.answer = f"<p>{html.escape(words)}</p>"

    def _repr_mimebundle_(self, **kwargs):
        # Where no widget can run, as on a plain web page, a sentence stands in its place.
        data, metadata = super()._repr_mimebundle_(**kwargs)
        words = (
            "An upload box: run this cell in Jupyter, choose a picture, and the model's top five "
            "classes appear here."
        )
        return {**data, "text/plain": words}, metadata


def upload_box(model, processor) -> UploadBox:
    """A box to upload a picture of your own: shows it with the model's top five classes.

    The picture goes to the machine that runs this notebook, and nowhere else. The model is a
    `ViTForImageClassification` in evaluation mode, with its image processor.
    """
    return UploadBox(model, processor)


def answer_page(model, processor, content: bytes, name: str) -> str:
    """HTML for the bytes of a file: the picture beside its top five classes, or what is wrong."""
    try:
        picture = images.load_image(content)
    except CourseError as error:
        return f"<p>{html.escape(name)}: {html.escape(str(error))}</p>"
    top = models.top_classes(models.logits_of(model, processor, picture)[0], model)
    figure = plots.top_classes(picture, top)
    source = f"data:image/png;base64,{base64.b64encode(figure.png()).decode()}"
    return (
        f"<figure><figcaption>{html.escape(name)}</figcaption>"
        f'<img src="{source}" alt="{html.escape(figure.alt)}" style="max-width: 100%"></figure>'
    )
