"""`python -m vit_helpers train`: from a folder to a saved model, on one process and on two."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from argparse import Namespace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from factories import tiny
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from transformers import AutoImageProcessor, AutoModelForImageClassification, ViTImageProcessor

from vit_helpers import data, images, models, training
from vit_helpers.cli import main, parser, train
from vit_helpers.training import loop, state

ROOT = Path(__file__).parent.parent
COLOURS = {"rot": (220, 40, 30), "grün": (30, 200, 60), "blau": (40, 60, 210)}


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """A tiny model of random weights with its processor, as `save_pretrained` writes them."""
    folder = tmp_path_factory.mktemp("small")
    tiny(classes=5, dropout=0.0).save_pretrained(folder)
    ViTImageProcessor(size={"height": 16, "width": 16}).save_pretrained(folder)
    return folder


def paint(folder, count=8, colours=COLOURS, seed=0, size=(20, 24)):
    """A folder with one sub-folder of noisy pictures for each colour."""
    random = np.random.default_rng(seed)
    for name, colour in colours.items():
        (folder / name).mkdir(parents=True)
        for i in range(count):
            noise = random.integers(-30, 30, (*size, 3))
            picture = np.clip(np.array(colour) + noise, 0, 255).astype(np.uint8)
            Image.fromarray(picture).save(folder / name / f"{i}.png")
    return folder


@pytest.fixture
def go(rt, small, tmp_path, monkeypatch, capsys):
    """Runs the command in a folder of its own; returns `(status, what it said)`."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments, model=small):
        given = [*map(str, arguments), "--model", str(model)]
        status = main(["train", *given])
        said = capsys.readouterr()
        return status, said.out + said.err

    return run


FAST = ["--epochs", "2", "--batch", "8", "--lr", "2e-3", "--head-lr", "1e-2", "--freeze", "0"]


def files(folder):
    return sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())


# --- a folder of one's own -----------------------------------------------------------------------


@pytest.mark.parametrize("splits", [[], ["train", "val", "test"], ["train", "test"]])
def test_from_a_folder_to_a_saved_model(go, tmp_path, splits):
    for number, split in enumerate(splits or ["."]):
        paint(tmp_path / "mine" / split, seed=number)
    status, said = go("--folder", tmp_path / "mine", *FAST)
    assert status == 0, said
    for words in ("rot 8", "epoch 1 of 2: loss", "epoch 2 of 2", "95 % interval:", "3 classes"):
        assert words in said
    for split in ("validation", "test"):
        brought = split in splits or (split == "validation" and "val" in splits)
        assert (f"There is no {split} split" in said) != brought
    assert said.splitlines()[-1] == "written to build/train/mine"
    results = tmp_path / "build/train/mine"
    assert {
        "checkpoint/last.pt", "history.csv", "model/config.json", "model/model.safetensors",
        "model/preprocessor_config.json", "result.json",
    } <= set(files(results))  # fmt: skip

    model = AutoModelForImageClassification.from_pretrained(results / "model").eval()
    processor = AutoImageProcessor.from_pretrained(results / "model", use_fast=True)
    assert model.config.id2label == dict(enumerate(sorted(COLOURS)))
    pictures = [Image.new("RGB", (20, 24), COLOURS[name]) for name in sorted(COLOURS)]
    with torch.no_grad():
        answers = model(pixel_values=images.to_pixels(pictures, processor)).logits.argmax(1)
    assert answers.tolist() == [0, 1, 2]
    result = json.loads((results / "result.json").read_text(encoding="utf-8"))
    assert result["from"] <= result["test accuracy"] <= result["to"]


def test_the_same_command_goes_on_and_gives_the_same_model(go, tmp_path, monkeypatch):
    paint(tmp_path / "mine")
    assert go("--folder", "mine", *FAST, "--to", "whole")[0] == 0
    with monkeypatch.context() as context:
        press(context, (loop, "clip_grad_norm_"), call=5)
        assert go("--folder", "mine", *FAST, "--to", "parts")[0] == 130
    status, said = go("--folder", "mine", *FAST, "--to", "parts")
    assert status == 0 and "Going on after epoch 1 of 2." in said
    whole, parts = (Path(to, "model/model.safetensors").read_bytes() for to in ("whole", "parts"))
    assert whole == parts


FAULTS = {
    "unreadable": (
        lambda d: (d / "rot/kaputt.jpg").write_bytes(b"\xff\xd8\xff\xe0 no picture"),
        ["rot/kaputt.jpg"],
    ),
    "empty file": (lambda d: (d / "blau/leer.png").write_bytes(b""), ["blau/leer.png"]),
    "one class": (
        lambda d: [shutil.rmtree(d / name) for name in ("rot", "blau")], ["one class", "grün"]
    ),
    "twice, and a part is cut off": (
        lambda d: shutil.copy(d / "rot/0.png", d / "rot/again.png"), ["rot/0.png", "rot/again.png"]
    ),
    "in two classes": (lambda d: shutil.copy(d / "rot/0.png", d / "blau"), ["two classes"]),
    "two pictures only": (
        lambda d: [(d / f"rot/{i}.png").unlink() for i in range(6)], ["'rot' has 2 training pict"]
    ),
    "no pictures at all": (
        lambda d: [shutil.rmtree(d / name) for name in COLOURS], ["no pictures in sub-folders"]
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", FAULTS)
def test_a_folder_with_faults_is_a_sentence_and_nothing_is_written(go, tmp_path, name):
    spoil, words = FAULTS[name]
    spoil(paint(tmp_path / "mine"))
    status, said = go("--folder", "mine", *FAST)
    assert status == 2
    error = said[said.index("error: ") :]
    assert all(word in error for word in words), error
    assert not (tmp_path / "build").exists()


def test_the_same_picture_in_two_splits_is_named(go, tmp_path):
    paint(tmp_path / "mine/train")
    paint(tmp_path / "mine/test", seed=1)
    shutil.copy(tmp_path / "mine/train/rot/3.png", tmp_path / "mine/test/rot/other.png")
    status, said = go("--folder", "mine", *FAST)
    assert status == 2
    assert "train/rot/3.png" in said and "test/rot/other.png" in said
    assert not (tmp_path / "build").exists()


def test_there_is_no_such_folder_or_nothing_to_learn_from(go):
    status, said = go("--folder", "nowhere", *FAST)
    assert status == 2 and "nowhere" in said
    status, said = go(*FAST)
    assert status == 2 and "Say what to learn from" in said


def test_other_pictures_or_names_in_the_same_folder_are_refused(go, tmp_path):
    two = {"cat": (200, 60, 30), "dog": (30, 60, 200)}
    for number, split in enumerate(("train", "test")):
        paint(tmp_path / "A" / split, colours=two, seed=number)
        paint(tmp_path / "B" / split, colours={"oak": two["cat"], "elm": two["dog"]}, seed=number)
        paint(tmp_path / "C" / split, count=9, colours=two, seed=number)
    assert go("cifar10", "--data", "A", *FAST, "--to", "out")[0] == 0
    before = {name: (tmp_path / "out" / name).read_bytes() for name in files(tmp_path / "out")}
    for other, words in (("B", "other classes"), ("C", "other training pictures")):
        status, said = go("cifar10", "--data", other, *FAST, "--to", "out")
        assert status == 2 and words in said and "use another folder" in said
    assert {n: (tmp_path / "out" / n).read_bytes() for n in files(tmp_path / "out")} == before
    status, said = go("cifar10", "--data", "A", *FAST, "--to", "out")
    assert status == 0


@pytest.mark.parametrize(
    "change, words",
    [
        (["--no-augment"], "other training pictures (transform: they differ)"),
        (["--keep-patches", "0.5"], "another recipe (share of the patches: 1.0 there, 0.5 here)"),
        (["--data", "one"], "other training pictures (files: they differ)"),
    ],
)
def test_another_run_in_the_same_folder_is_named(go, tmp_path, change, words):
    for number, split in enumerate(("train", "val", "test")):
        paint(tmp_path / "A" / split, seed=number)
    assert go("--data", "A", *FAST, "--to", "out")[0] == 0
    shutil.copytree(tmp_path / "A", tmp_path / "one")
    Image.new("RGB", (20, 24), (9, 9, 9)).save(tmp_path / "one/train/rot/5.png")
    status, said = go("--data", "A", *FAST, "--to", "out", *change)
    assert status == 2 and words in said, said


@pytest.mark.parametrize("classes, each", [(5, 4), (100, 3)])
def test_few_pictures_of_many_classes(rt, tmp_path, classes, each):
    colours = {f"c{i:03}": (2 * i, 90, 90) for i in range(classes)}
    folder = paint(tmp_path / "few", count=each, colours=colours, size=(8, 8))
    splits = train.load_splits(Namespace(folder=folder))
    assert {name: len(part) for name, part in splits.items()} == {
        "train": classes * (each - 2), "validation": classes, "test": classes
    }  # fmt: skip
    for part in splits.values():
        assert sorted(set(data.labels_of(part))) == list(range(classes))


def test_a_model_that_is_not_there_is_one_sentence(go, tmp_path):
    paint(tmp_path / "mine")
    status, said = go("--folder", "mine", *FAST, model="nowhere")
    assert status == 2 and "cannot be loaded as an image classifier" in said


# --- numbers -------------------------------------------------------------------------------------

WHOLE = ["--epochs", "--batch", "--freeze"]
SHARES = ["--lr", "--head-lr", "--keep-patches"]
WRONG = st.one_of(
    st.tuples(
        st.sampled_from(WHOLE), st.sampled_from(["-1", "1.5", "nan", "inf", "", "ten", "9" * 30])
    ),
    st.tuples(
        st.sampled_from(SHARES), st.sampled_from(["-0.1", "nan", "inf", "-inf", "1e400", "", "x"])
    ),
    st.tuples(st.sampled_from(WHOLE[:2]), st.just("0")),
    st.tuples(st.just("--keep-patches"), st.sampled_from(["0", "1.01"])),
)


@given(WRONG)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_number_out_of_range_is_a_sentence_before_anything_is_computed(capsys, pair):
    option, value = pair
    if (option, value) == ("--freeze", "9" * 30):
        return  # more blocks than any model has, said when the model is known
    with pytest.MonkeyPatch.context() as context:
        context.setattr(train.runtime, "start", lambda *_: pytest.fail("it has begun"))
        try:
            status = main(["train", "cifar10", f"{option}={value}"])
        except SystemExit as exit:  # argparse's own sentence
            status = exit.code
    assert status == 2
    assert option in capsys.readouterr().err


def test_rates_of_zero(go, tmp_path):
    paint(tmp_path / "mine")
    status, said = go("--folder", "mine", "--lr", "0", "--head-lr", "0")
    assert status == 2 and "nothing would learn" in said
    status, said = go("--folder", "mine", *FAST, "--lr", "0")
    assert status == 0
    body = AutoModelForImageClassification.from_pretrained("build/train/mine/model").vit
    before = tiny(classes=5).vit.state_dict()
    assert all(torch.equal(value, before[name]) for name, value in body.state_dict().items())


def test_more_frozen_blocks_than_there_are(go, tmp_path):
    paint(tmp_path / "mine")
    status, said = go("--folder", "mine", "--freeze", "9")
    assert status == 2 and "3" in said
    assert not (tmp_path / "build").exists()


# --- what goes wrong on the way ------------------------------------------------------------------


def press(context, place, call=1):
    """Send the signal of Ctrl-C in the given call of a function."""
    original, calls = getattr(*place), []

    def pressing(*args, **kwargs):
        calls.append(1)
        if len(calls) == call:
            signal.raise_signal(signal.SIGINT)
        return original(*args, **kwargs)

    context.setattr(*place, pressing)


@pytest.mark.parametrize("place, call, left, words", [
    ((train.data, "load_folder"), 1, [], "starts from the beginning"),
    ((loop, "clip_grad_norm_"), 2, [], "Stopped after 0 of 2 epochs"),
    ((loop, "clip_grad_norm_"), 5, ["last.pt"], "Stopped after 1 of 2 epochs"),
    ((train.training, "evaluate"), 1, ["last.pt"], "goes on from its checkpoint"),
])  # fmt: skip
def test_ctrl_c_says_where_it_stands_and_ends_with_130(
    go, tmp_path, monkeypatch, place, call, left, words
):
    paint(tmp_path / "mine")
    with monkeypatch.context() as context:
        press(context, place, call)
        status, said = go("--folder", "mine", *FAST)
    assert status == 130
    assert words in said and "Traceback" not in said
    build = tmp_path / "build/train/mine"
    assert files(build) == [f"checkpoint/{name}" for name in left]


def test_a_model_that_is_no_longer_finite_is_never_saved(go, tmp_path, monkeypatch):
    paint(tmp_path / "mine")
    monkeypatch.setattr(
        loop, "clip_grad_norm_", lambda ps, c: [p.grad.fill_(float("nan")) for p in ps]
    )
    status, said = go("--folder", "mine", *FAST)
    assert status == 2 and "The loss is nan" in said
    assert files(tmp_path / "build") == []


def test_a_batch_too_large_for_the_memory_is_halved(go, tmp_path, monkeypatch):
    paint(tmp_path / "mine")
    sizes, original = [], state.State.batches

    def batches(self, epoch):
        for pixels, labels in original(self, epoch):
            if len(pixels) > 4:
                raise torch.OutOfMemoryError("CUDA out of memory")
            sizes.append(len(pixels))
            yield pixels, labels

    monkeypatch.setattr(state.State, "batches", batches)
    status, said = go("--folder", "mine", *FAST, "--batch", "16")
    assert status == 0
    assert "now 8 at a time" in said and "now 4 at a time" in said
    assert max(sizes) == 4


def test_a_batch_of_one_that_does_not_fit_is_a_sentence(go, tmp_path, monkeypatch):
    paint(tmp_path / "mine")

    def batches(self, epoch):
        raise torch.OutOfMemoryError("CUDA out of memory")
        yield

    monkeypatch.setattr(state.State, "batches", batches)
    status, said = go("--folder", "mine", *FAST, "--batch", "1")
    assert status == 2 and "does not fit into the memory" in said
    assert files(tmp_path / "build") == []


# --- processes -----------------------------------------------------------------------------------


def command(*arguments, launcher, **more):
    module = [*launcher, "-m", "vit_helpers", "train", *map(str, arguments)]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)} | more
    return subprocess.run(
        module, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=600
    )


def test_two_processes_learn_as_one_with_the_doubled_batch(go, small, tmp_path):
    for number, split in enumerate(("train", "val", "test")):
        paint(tmp_path / "mine" / split, seed=number)
    shared = ["--folder", tmp_path / "mine", "--epochs", "2", "--freeze", "0"]
    shared += ["--no-augment", "--lr", "1e-3"]
    status, said = go(*shared, "--batch", "4", "--to", tmp_path / "one")
    assert status == 0, said
    # "--multi_gpu" stands for several processes on this computer; the course takes the CPU where
    # there is no GPU. "lo" keeps them from looking for each other in the network.
    launcher = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu"]
    launcher += ["--num_processes", "2", "--num_machines", "1", "--mixed_precision", "no"]
    with socket.socket() as free:  # old versions of accelerate do not look for a free port itself
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    launcher += ["--dynamo_backend", "no", "--main_process_port", port]
    alone = {"GLOO_SOCKET_IFNAME": "lo", "CUDA_VISIBLE_DEVICES": ""}
    shared += ["--model", small, "--batch", "2", "--to", tmp_path / "two"]
    two = command(*shared, launcher=launcher, **alone)
    assert two.returncode == 0, two.stderr
    again = command(*shared, launcher=launcher, **alone)
    assert again.returncode == 0, again.stderr
    assert again.stdout.count("Going on after epoch 2 of 2.") == 1
    first, second = (pd.read_csv(tmp_path / n / "history.csv") for n in ("one", "two"))
    for column in ("train loss", "validation loss"):
        assert second[column].tolist() == pytest.approx(first[column].tolist(), rel=0.02), column
    assert two.stdout.count("written to") == 1  # one process speaks and writes
    assert two.stdout.count("device") == 1
    assert {"history.csv", "result.json", "model/model.safetensors", "checkpoint/last.pt"} <= set(
        files(tmp_path / "two")
    )


def test_the_recipes_can_be_fitted(rt):
    for name, recipe in train.RECIPES.items():
        what = ["--folder", "x"] if name == "folder" else [name]
        request = train.complete(parser().parse_args(["train", *what]))
        assert request.schedule in training.SCHEDULES
        assert request.lr == recipe["lr"]
        assert not request.to.is_absolute()  # from the working folder on, never in the package
    model = models.load_with_new_head(["a", "b"])
    train.freeze(model, train.RECIPES["folder"]["freeze"])
    frozen = [not next(b.parameters()).requires_grad for b in models.blocks(model)]
    assert frozen == [True] * 8 + [False] * 4
