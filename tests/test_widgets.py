"""The upload box answers with the top five, and in words where the file is no picture."""

import io

import numpy as np
import pytest
import torch
from IPython.core.formatters import DisplayFormatter
from PIL import Image
from transformers import ViTConfig, ViTForImageClassification, ViTImageProcessorFast

from vit_helpers import widgets


@pytest.fixture(scope="module")
def box():
    names = {i: f"thing <{i}>" for i in range(7)}
    config = ViTConfig(
        hidden_size=24,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=24,
        image_size=32,
        id2label=names,
        label2id={name: i for i, name in names.items()},
    )
    torch.manual_seed(0)
    processor = ViTImageProcessorFast(size={"height": 32, "width": 32})
    return widgets.upload_box(ViTForImageClassification(config).eval(), processor)


def png(mode="RGB", size=(50, 40)):
    buffer = io.BytesIO()
    Image.new(mode, size, "red" if mode.startswith("RGB") else 90).save(buffer, "PNG")
    return buffer.getvalue()


def upload(box, content, name="mine.png"):
    """What the browser does: one message with the name, and the file as its buffer."""
    box._handle_custom_msg({"name": name}, [memoryview(content)])


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L"])
def test_an_uploaded_picture_gets_its_top_five(box, mode):
    upload(box, png(mode), f"{mode}.png")
    page = box.answer
    assert f"{mode}.png" in page and "data:image/png;base64," in page
    assert "top 5 classes" in page
    assert page.count("thing &lt;") == 5


def test_a_second_picture_replaces_the_first(box):
    upload(box, png(), "first.png")
    upload(box, png(size=(60, 40)), "second.png")
    assert "second.png" in box.answer and "first.png" not in box.answer


def test_a_file_that_is_no_picture_is_answered_in_one_sentence(box):
    upload(box, b"hello, I am text", "<b>notes.txt")
    assert box.answer.startswith("<p>&lt;b&gt;notes.txt: ")
    assert "is not a picture that can be read" in box.answer


@pytest.mark.parametrize("error", [ValueError("odd"), MemoryError("full"), KeyboardInterrupt()])
def test_whatever_fails_ends_in_a_sentence(box, monkeypatch, error):
    def fail(*_):
        raise error

    monkeypatch.setattr(widgets, "answer_page", fail)
    upload(box, png(), "mine.png")
    assert type(error).__name__ in box.answer and "choose another picture" in box.answer
    box._handle_custom_msg({}, [])
    assert "IndexError" in box.answer


def test_it_is_a_widget_with_a_sentence_for_plain_pages(box):
    bundle, _ = DisplayFormatter().format(box)  # as a notebook asks
    assert "application/vnd.jupyter.widget-view+json" in bundle
    assert bundle["text/plain"].startswith("An upload box:")


def test_the_answer_shows_what_the_model_says(box):
    picture = Image.fromarray(np.full((32, 32, 3), 200, dtype=np.uint8))
    logits = widgets.models.logits_of(box.model, box.processor, picture)
    assert logits.shape == (1, 7)
    top = widgets.models.top_classes(logits[0], box.model, k=10)
    assert len(top) == 7 and sum(share for _, share in top) == pytest.approx(1)
    assert top[0][0] == f"thing <{int(logits.argmax())}>"
    assert [share for _, share in top] == sorted((s for _, s in top), reverse=True)
