"""`python -m benchmarks inference`: the same table for any ViT, and sentences for others."""

import json

import pandas as pd
import pytest
import torch
from transformers import (
    ResNetConfig,
    ResNetForImageClassification,
    ViTConfig,
    ViTForImageClassification,
    ViTImageProcessorFast,
)

from benchmarks import __main__ as command
from benchmarks.machine import save_results
from vit_helpers import efficiency


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A small ViT on disk, of classes that the course does not know."""
    torch.manual_seed(0)
    config = ViTConfig(
        hidden_size=24,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=48,
        image_size=32,
        patch_size=8,
    )
    place = tmp_path_factory.mktemp("vit")
    ViTForImageClassification(config).save_pretrained(place)
    ViTImageProcessorFast(size={"height": 32, "width": 32}).save_pretrained(place)
    return place


def test_tables_json_and_pictures_for_each_batch_size(folder, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(efficiency, "matrix_rates", lambda device: {"fp32": 1e11})
    arguments = ["inference", "--model", str(folder), "--variants", "PyTorch SDPA"]
    arguments += ["--batch", "1", "4", "--pictures", "16", "--rounds", "2", "--to", str(tmp_path)]
    assert command.main(arguments) == 0
    printed = capsys.readouterr().out
    assert "batch 1, 16 pictures" in printed and "batch 4, 16 pictures" in printed
    assert "threads" in printed and "recommended: " in printed
    for batch in (1, 4):
        content = json.loads((tmp_path / f"batch-{batch}.json").read_text(encoding="utf-8"))
        assert content["batch"] == batch
        assert content["machine"]["threads"] >= 1
        assert [row["engine"] for row in content["rows"]] == [efficiency.BASELINE, "PyTorch SDPA"]
        table = pd.read_csv(tmp_path / f"batch-{batch}.csv", index_col="engine")
        assert table.loc[efficiency.BASELINE, "agreement"] == 1
        assert table["accuracy"].isna().all()  # its classes have no known labels
        assert (tmp_path / f"batch-{batch}.png").read_bytes().startswith(b"\x89PNG")


def test_a_model_that_is_no_vit_is_refused_in_a_sentence(tmp_path, capsys):
    config = ResNetConfig(embedding_size=8, hidden_sizes=[8, 8], depths=[1, 1])
    ResNetForImageClassification(config).save_pretrained(tmp_path)
    ViTImageProcessorFast(size={"height": 32, "width": 32}).save_pretrained(tmp_path)
    assert command.main(["inference", "--model", str(tmp_path)]) == 2
    assert "not a ViT" in capsys.readouterr().err


def test_a_model_that_is_not_there_is_named(tmp_path, capsys):
    assert command.main(["inference", "--model", str(tmp_path / "gone")]) == 2
    assert "gone" in capsys.readouterr().err


def test_an_unknown_variant_is_named_before_anything_is_loaded(capsys):
    assert command.main(["inference", "--variants", "fp64"]) == 2
    assert "'fp64'" in capsys.readouterr().err


@pytest.mark.parametrize("batch", ["0", "17"])
def test_a_batch_that_does_not_fit_is_named_before_anything_is_loaded(capsys, batch):
    assert command.main(["inference", "--pictures", "16", "--batch", batch]) == 2
    assert f"batch {batch}" in capsys.readouterr().err


def test_json_holds_null_for_what_was_not_measured(tmp_path):
    frame = pd.DataFrame({"median ms": [1.5, float("nan")]}, index=["a", "b"]).rename_axis("engine")
    path = save_results(frame, tmp_path / "table.json", model="tiny")
    content = json.loads(path.read_text(encoding="utf-8"))
    assert [row["median ms"] for row in content["rows"]] == [1.5, None]
    assert content["machine"]["threads"] == torch.get_num_threads()
    assert content["model"] == "tiny"
