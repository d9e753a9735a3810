"""`python -m benchmarks inference`: the same table for any ViT, and sentences for others."""

import dataclasses
import json

import factories
import pandas as pd
import pytest
import torch
from transformers import (
    ResNetConfig,
    ResNetForImageClassification,
    ViTImageProcessorFast,
)

from benchmarks import __main__ as command
from benchmarks import inference, machine, variants
from benchmarks.machine import save_results
from benchmarks.variants import Variant
from vit_helpers import efficiency, images, runtime


def test_tables_json_and_pictures_for_each_batch_size(vit_folder, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(efficiency, "matrix_rates", lambda device: {"fp32": 1e11})
    arguments = ["inference", "--model", str(vit_folder), "--variants", "PyTorch SDPA"]
    arguments += ["--batch", "1", "4", "--pictures", "16", "--rounds", "2", "--to", str(tmp_path)]
    assert command.main(arguments) == 0
    printed = capsys.readouterr().out
    assert "batch 1, 16 pictures" in printed and "batch 4, 16 pictures" in printed
    assert "threads" in printed and "recommended: " in printed
    content = json.loads((tmp_path / "inference.json").read_text(encoding="utf-8"))
    assert content["machine"]["threads"] >= 1
    assert content["model"] == vit_folder.name and str(tmp_path) not in json.dumps(content)
    for batch in (1, 4):
        rows = [row for row in content["rows"] if row["batch"] == batch]
        assert [row["engine"] for row in rows] == [efficiency.BASELINE, "PyTorch SDPA"]
        assert sum(row["best"] for row in rows) == 1
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


@pytest.fixture
def tiny(vit_folder):
    """The small ViT with its processor, and 16 pictures of its size as pixels."""
    model, processor = factories.load(vit_folder)
    pictures = torch.randint(0, 256, (16, 3, 32, 32), dtype=torch.uint8)
    return model, processor, images.to_pixels(list(pictures), processor, resized=True)


def test_the_pipeline_of_transformers_gives_the_logits_of_the_model(rt, tiny):
    model, processor, pixels = tiny
    context = variants.ExportContext(model, pixels, processor=processor)
    (attempt,) = variants.build(context, variants.select("HF pipeline"))
    context.close()
    with torch.no_grad():
        expected = model(pixels[:3]).logits
    assert torch.allclose(attempt.engine(pixels[:3]), expected, atol=1e-4)
    assert torch.allclose(attempt.engine(pixels[:1]), expected[:1], atol=1e-4)


def test_an_engine_that_fails_at_a_batch_or_answers_wrongly_is_never_recommended(rt, tiny):
    model, _, pixels = tiny

    def one_only(pictures):
        if len(pictures) > 1:
            raise RuntimeError("one picture only")
        return model(pictures).logits

    def engine(predict):
        return Variant("", lambda context: efficiency.Engine(predict))

    chosen = [
        *variants.select(efficiency.BASELINE),
        dataclasses.replace(engine(one_only), name="one only"),
        dataclasses.replace(engine(lambda p: torch.rand(len(p), 2)), name="random"),
    ]
    context = variants.ExportContext(model, pixels)
    attempts = variants.without_failing(variants.build(context, chosen), pixels[:4])
    context.close()
    assert [attempt.status for attempt in attempts] == ["ran", "failed", "ran"]
    assert "at batch 4: RuntimeError: one picture only" in attempts[1].reason
    engines = {a.name: a.engine for a in attempts if a.engine}
    said = variants.missing(attempts)
    with torch.no_grad():
        frame = inference._judged(efficiency.compare(engines, pixels, 2, missing=said, batch=4))
    assert frame["best"].tolist() == [True, False, False]
    assert "one picture only" in frame.loc["one only", "reason"]


def test_what_is_not_int8_counts_in_the_format_that_it_runs_in(monkeypatch):
    (openvino,) = variants.select("OpenVINO int8")
    operations = {"layers": 10.0, "attention": 2.0, "patches": 1.0}
    monkeypatch.setattr(runtime, "cpu_has_bf16", lambda: True)
    assert openvino.runs(operations) == {"int8": 10.0, "bf16": 3.0}
    monkeypatch.setattr(runtime, "cpu_has_bf16", lambda: False)
    assert openvino.runs(operations) == {"int8": 10.0, "fp32": 3.0}


def test_a_small_machine_says_what_it_leaves_out(monkeypatch):
    monkeypatch.setattr(machine.os, "cpu_count", lambda: 1)
    monkeypatch.setattr(machine, "free_gb", lambda: 0.5)
    monkeypatch.setattr(runtime, "cpu_abilities", lambda: {"sse2": True, "avx": True})
    said = " ".join(machine.poor_machine())
    assert "One core" in said and "No AVX2" in said and "Less than 2 GB" in said
    monkeypatch.setattr(runtime, "missing_compiler", lambda device: "")
    assert "AVX2" in variants.needs_compiler(torch.device("cpu"))
    assert "0.5 GB are free" in variants.needs_onnxruntime(torch.device("cpu"))
    assert machine.units() == "AVX"


def test_the_command_is_told_without_paths_of_this_machine(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    told = machine.command_line(["inference", "--to", "/here/there", "--model", "/a/b", "--rounds"])
    assert told.endswith("OMP_NUM_THREADS=2 python -m benchmarks inference --model b --rounds")
