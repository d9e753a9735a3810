"""What only a GPU can show; skipped where there is none. `python -m pytest -m gpu tests` asks.

Ratios are asserted and never times: what a card reaches depends on the card.
"""

import argparse
import dataclasses
import gc
import math

import factories
import pytest
import torch

from benchmarks import variants
from benchmarks.widening import widen
from course import runner
from vit_helpers import data, efficiency, images, models, runtime, training
from vit_helpers.cli import train

pytestmark = pytest.mark.gpu

PICTURES = 204  # at most of each split: two of every kind of flower
HALVES = [torch.bfloat16, torch.float16]


@pytest.fixture
def rt():
    """A runtime on the GPU, freshly seeded."""
    rt = runtime.start("classifier", "cifar10", "flowers102", "photo")
    assert rt.device.type == "cuda"
    return rt


@pytest.fixture
def precision(rt, request):
    """The number format of the run, as if the card were fast in that one."""
    if request.param == torch.bfloat16 and not torch.cuda.is_bf16_supported():
        pytest.skip("this card has no bf16")
    with runtime.override(dataclasses.replace(rt, precision=request.param)):
        yield request.param


@pytest.fixture(scope="module")
def large():
    """The course's model at the width of ViT-B/16: large enough to keep a card busy."""
    runtime.start("classifier")
    model, _ = factories.classifier("eager")
    return widen(model, 4).to(runtime.current().device)


def pictures_of(count, processor):
    part = data.balanced_subset(factories.load_dataset("cifar10")["train"], count, seed=0)
    return data.PictureSet(part, data.eval_transform(processor))


def fitted(count=160, batch=32):
    """One epoch from the same start. Returns the model and its history."""
    runtime.seed_everything(0)
    pictures = pictures_of(count, factories.processor())
    model = models.load_with_new_head(data.class_names(factories.load_dataset("cifar10")["train"]))
    loader = data.loader(pictures, batch, shuffle=True)
    optimizer = torch.optim.AdamW(training.parameter_groups(model, 5e-5, 1e-3))
    val_loader = data.loader(pictures, batch)
    return model, training.fit(model, loader, val_loader, optimizer=optimizer, epochs=1)


# --- the notebooks --------------------------------------------------------------------------------


@pytest.mark.parametrize("path", runner.find(), ids=lambda path: path.stem)
def test_a_notebook_runs_in_the_profile_full(path, monkeypatch):
    monkeypatch.setenv("VIT_PROFILE", "full")
    monkeypatch.setenv("VIT_PICTURES", str(PICTURES))
    notebook, run = runner.execute(path)
    print(f"{run.notebook}: {run.minutes:.1f} min, {run.peak_gib:.1f} GiB")
    assert not run.error
    assert run.device == torch.cuda.get_device_name()
    said = "".join(o.get("text", "") for c in notebook.cells[:4] for o in c.get("outputs", []))
    assert "profile full" in said


# --- number formats -------------------------------------------------------------------------------


@pytest.mark.parametrize("precision", HALVES, indirect=True)
def test_half_precision_learns_as_fp32_does(precision, rt):
    _, half = fitted()
    with runtime.override(dataclasses.replace(rt, precision=torch.float32)):
        _, full = fitted()
    first, second = half.rows[0], full.rows[0]
    assert abs(first["train loss"] - second["train loss"]) < 0.1 * second["train loss"]
    assert abs(first["validation accuracy"] - second["validation accuracy"]) <= 0.1


@pytest.mark.parametrize("precision", HALVES, indirect=True)
def test_half_precision_leaves_whole_weights_and_finite_numbers(precision):
    model, history = fitted()
    assert all(p.dtype == torch.float32 for p in model.parameters())
    assert all(torch.isfinite(p).all() for p in model.parameters())
    assert math.isfinite(history.rows[0]["train loss"])


# --- ratios ---------------------------------------------------------------------------------------


def test_fine_tuning_is_faster_in_the_cards_own_format(rt):
    pictures = pictures_of(320, factories.processor())
    large = widen(models.load_with_new_head(pictures.class_names), 4).to(rt.device)

    def rate(precision):
        loader = data.loader(pictures, 32, shuffle=True)
        # Two epochs: the first one also wakes the card.
        optimizer = torch.optim.AdamW(large.parameters(), lr=1e-6)
        val_loader = data.loader(pictures, 32)
        with runtime.override(dataclasses.replace(rt, precision=precision)):
            history = training.fit(large, loader, val_loader, optimizer=optimizer, epochs=2)
        return history.rows[-1]["images/s"]

    # TF32 is off by default, and half precision goes through the tensor cores.
    assert rate(rt.precision) > 1.3 * rate(torch.float32)


def test_inference_is_faster_in_half_precision_and_answers_the_same(rt, large):
    half = "PyTorch bf16" if rt.precision == torch.bfloat16 else "PyTorch fp16"
    own, _ = data.evaluation_images(large, 200, 0)
    pictures = images.to_pixels(own, factories.processor())
    context = variants.ExportContext(large, pictures[:8])
    attempts = variants.build(context, variants.select(efficiency.BASELINE, half))
    engines = {a.name: a.engine for a in attempts}
    frame = efficiency.compare(engines, pictures, rounds=4, batch=32)
    context.close()
    assert list(frame["runs on"]) == ["GPU", "GPU"]
    assert frame.loc[half, "speed-up"] > 1.5
    assert frame.loc[half, "agreement"] >= 0.98


# --- memory ---------------------------------------------------------------------------------------


@pytest.fixture
def little_memory(rt):
    """Half of what a step on a batch of 256 needs, as a limit for this process."""
    gc.collect()
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    fitted(320, 256)
    peak = torch.cuda.max_memory_allocated()
    gc.collect()
    torch.cuda.empty_cache()
    total = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.set_per_process_memory_fraction(0.5 * peak / total)
    yield
    torch.cuda.set_per_process_memory_fraction(1.0)


def test_a_batch_that_does_not_fit_is_a_sentence(little_memory):
    said = ""
    try:  # not `pytest.raises`, which would keep the frames and what they hold
        fitted(320, 256)
    except training.OutOfMemory as error:
        said = str(error)
    assert "does not fit into the memory of the GPU" in said
    fitted(64, 16)  # nothing of the failed step is left


def test_train_goes_on_with_a_smaller_batch(little_memory, tmp_path, capsys):
    pictures = pictures_of(320, factories.processor())
    model = models.load_with_new_head(pictures.class_names)
    request = argparse.Namespace(
        batch=256,
        lr=5e-5,
        head_lr=1e-3,
        keep_patches=1.0,
        epochs=1,
        schedule="linear",
        to=tmp_path,
    )
    history = train.fit(request, model, {"train": pictures, "validation": pictures})
    assert [row["epoch"] for row in history.rows] == [1]
    assert "now 128 at a time" in capsys.readouterr().out
