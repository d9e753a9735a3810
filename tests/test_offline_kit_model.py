"""Holds the committed weights of the offline model to its card."""

import json
import re

import pytest
import torch

from kit_builder import evaluate
from kit_builder.classes import CIFAR10_CLASSES, MODEL_LABELS
from kit_builder.lean_vit import LeanViT, patchify
from vit_helpers import offline_kit
from vit_helpers.errors import CourseError

QUARTER = offline_kit.KIT / "quarter"


@pytest.fixture(scope="module")
def judge():
    torch.set_num_threads(1)
    return evaluate.Judge(QUARTER)


def test_files_are_those_of_the_sums():
    for name in ("model.safetensors", "config.json", "preprocessor_config.json"):
        assert offline_kit.verify(f"quarter/{name}").stat().st_size <= 12_000_000


def test_shape_is_that_of_vit_base_at_a_quarter_of_the_width(judge):
    config = judge.model.config
    assert (config.image_size, config.patch_size) == (224, 16)
    assert (config.num_hidden_layers, config.num_attention_heads) == (12, 12)
    assert (config.hidden_size, config.intermediate_size) == (192, 768)
    assert judge.model.dtype == torch.float32


def test_labels_are_whole_numbers_and_the_ten_come_first(judge):
    config = judge.model.config
    assert [config.id2label[i] for i in range(10)] == list(CIFAR10_CLASSES)
    assert [config.id2label[i] for i in range(len(MODEL_LABELS))] == list(MODEL_LABELS)
    assert all(config.label2id[name] == i for i, name in config.id2label.items())
    stored = json.loads((QUARTER / "config.json").read_text(encoding="utf-8"))
    assert len(set(stored["label2id"].values())) == len(stored["id2label"])


def test_network_of_the_training_computes_the_same_as_transformers(judge):
    lean = LeanViT(len(MODEL_LABELS))
    mine = lean.transformers_state_dict()
    from safetensors.torch import load_file

    stored = load_file(QUARTER / "model.safetensors")
    assert mine.keys() == stored.keys()
    lean.load_transformers_state_dict(stored)
    x = torch.rand(2, 3, 224, 224, generator=torch.Generator().manual_seed(0)) * 2 - 1
    with torch.no_grad():
        torch.testing.assert_close(lean(patchify(x)), judge.model(x).logits, atol=5e-3, rtol=1e-3)


def test_every_photograph_of_the_kit_is_named_rightly(judge):
    answers = evaluate.name_photographs(judge)
    assert len(answers) >= 6
    assert {name: said.split(" (")[0] for name, said in answers.items()} == {
        name: name for name in answers
    }


def card_figure(pattern: str) -> float:
    """A measured figure out of the model card."""
    card = (offline_kit.KIT / "cards" / "quarter.md").read_text(encoding="utf-8")
    found = re.search(pattern, card)
    assert found, f"the card has no {pattern}"
    return float(found.group(1))


def test_held_out_drawings_reach_what_the_card_says(judge):
    images, labels = evaluate.read_pictures(evaluate.HELD_OUT)
    logits = judge.logits(images, "held-out")
    claimed = card_figure(r"small held-out set.*\| ([\d.]+) / [\d.]+ %")
    assert evaluate.top(logits, labels) == pytest.approx(claimed, abs=1.1)
    assert evaluate.top(logits, labels) >= 25


def test_the_card_has_a_figure_in_every_row():
    card = (offline_kit.KIT / "cards" / "quarter.md").read_text(encoding="utf-8")
    rows = card.split("| what | measured |")[1].split("\n\n")[0].splitlines()[2:]
    assert len(rows) >= 10
    for row in rows:
        assert re.search(r"\d", row.split("|")[2]), row
        assert "see notebook" not in row


def test_int8_keeps_the_answers(judge):
    from kit_builder import lessons

    images, _ = evaluate.read_pictures(evaluate.HELD_OUT)
    pixels = [judge.inputs([image])["pixel_values"] for image in images[::2]]
    assert len(pixels) >= 75
    assert lessons.int8_agreement(judge.model, pixels[1:], pixels[0]) >= 0.93


@pytest.mark.parametrize("number", ["02", "04"])
def test_a_row_of_the_card_is_read_off_the_saved_notebook(number):
    from course import runner
    from kit_builder import lessons

    (path,) = runner.find([number])
    saved = json.loads(path.read_text(encoding="utf-8"))
    for cell in saved["cells"]:
        for output in cell.get("outputs", []):
            for words in (output, output.get("data", {})):
                for kind in {"text", "text/plain"} & words.keys():
                    words[kind] = "".join(words[kind])
    shown = lessons.SHOWN[number]
    figures = lessons.read_figures(saved, shown)
    assert figures.keys() == shown.keys() and all(0 < f <= 100 for f in figures.values())
    with pytest.raises(CourseError, match="Cell test shows no 'no such words'"):
        lessons.read_figures(saved, {"test": ("test", "no such words")})


def test_calibration_error_of_a_perfect_and_of_a_boastful_model():
    labels = torch.tensor([0, 1] * 50)
    sure = torch.nn.functional.one_hot(labels, 2) * 100.0
    assert evaluate.calibration_error(sure, labels) == pytest.approx(0, abs=1e-3)
    assert evaluate.calibration_error(sure, labels.flip(0)) == pytest.approx(100, abs=1e-3)


def test_patches_are_cut_as_the_convolution_cuts_them():
    x = torch.randn(1, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    weight = torch.randn(5, 3, 16, 16, generator=torch.Generator().manual_seed(2))
    expected = torch.nn.functional.conv2d(x, weight, stride=16).flatten(2).transpose(1, 2)
    torch.testing.assert_close(patchify(x) @ weight.flatten(1).T, expected, atol=1e-3, rtol=1e-3)
