"""`python -m vit_helpers train`: as the notebooks, on several processes, on real photographs."""

import ast
import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from vit_helpers import data, models, runtime
from vit_helpers.cli import train
from vit_helpers.errors import CourseError

ROOT = Path(__file__).parent.parent
REAL = ROOT.parent / "shared" / "real"
ENVIRONMENT = {"VIT_SOURCE": "offline", "VIT_PROFILE": "quick", "VIT_BARS": "off"}
SMALL = ["--pictures", "20", "--test-pictures", "10", "--epochs", "1", "--no-augment"]


def command(*arguments, launcher=(), **more):
    module = [*launcher, "-m", "vit_helpers", "train", *map(str, arguments)]
    start = [] if launcher else [sys.executable]
    environment = {**os.environ, **ENVIRONMENT, "OMP_NUM_THREADS": "1", **more}
    return subprocess.run(
        [*start, *module], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=600
    )


@pytest.mark.parametrize("name, notebook, constants", [
    ("cifar10", "02_finetune_cifar10", {"BATCH": 32}),
    ("flowers102", "04_transfer_flowers102", {"EPOCHS": 15}),
])  # fmt: skip
def test_recipes_are_those_of_the_notebooks(name, notebook, constants):
    cells = json.loads((ROOT / f"notebooks/{notebook}.ipynb").read_text(encoding="utf-8"))["cells"]
    source = "".join(next(c["source"] for c in cells if c["id"] == "train"))
    body = ast.parse(source).body
    value = next(n.value for n in body if isinstance(n, ast.Assign) and n.targets[0].id == "recipe")
    full = runtime.Runtime(None, None, "hub", "full", 0)
    recipe = eval(ast.unparse(value), {"rt": full, **constants})
    for key in ("epochs", "lr", "head_lr", "schedule"):
        assert train.RECIPES[name][key] == recipe[key], key


def test_two_processes_learn_as_one_with_the_doubled_batch(tmp_path):
    shared = ["cifar10", *SMALL, "--epochs", "2"]
    one = command(*shared, "--batch", "4", "--to", tmp_path / "one", CUDA_VISIBLE_DEVICES="")
    assert one.returncode == 0, one.stderr
    # "--multi_gpu" stands for several processes on this computer; the course takes the CPU where
    # there is no GPU. "lo" keeps them from looking for each other in the network.
    launcher = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu"]
    launcher += ["--num_processes", "2", "--num_machines", "1", "--mixed_precision", "no"]
    with socket.socket() as free:  # old versions of accelerate do not look for a free port itself
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    launcher += ["--dynamo_backend", "no", "--main_process_port", port]
    alone = {"GLOO_SOCKET_IFNAME": "lo", "CUDA_VISIBLE_DEVICES": ""}
    two = command(*shared, "--batch", "2", "--to", tmp_path / "two", launcher=launcher, **alone)
    assert two.returncode == 0, two.stderr
    first, second = (pd.read_csv(tmp_path / n / "history.csv") for n in ("one", "two"))
    for column in ("train loss", "validation loss"):
        assert second[column].tolist() == pytest.approx(first[column].tolist(), rel=0.02), column
    assert two.stdout.count("written to") == 1  # one process speaks and writes
    assert two.stdout.count("device") == 1
    written = {path.name for path in (tmp_path / "two").rglob("*") if path.is_file()}
    assert {"history.csv", "result.json", "model.safetensors", "last.pt"} <= written


def test_a_folder_without_a_test_split_or_pictures(rt, tmp_path):
    with pytest.raises(CourseError, match="no .train.*parquet"):
        data.load_folder(tmp_path)
    part = data.load_dataset("cifar10")["train"].select(range(4))
    part.to_parquet(tmp_path / "mine-train.parquet")
    with pytest.raises(CourseError, match="no .test.*parquet"):
        train.picture_sets(train.Request("cifar10", folder=tmp_path), models.load_processor())


def test_the_split_is_a_word_of_the_name(rt, tmp_path):
    part = data.load_dataset("cifar10")["train"].select(range(4))
    part.to_parquet(tmp_path / "latest-train.parquet")  # "latest" is no "test"
    assert list(data.load_folder(tmp_path)) == ["train"]


def test_a_model_that_is_not_there_is_one_sentence(rt, tmp_path):
    for load in (models.load_processor, lambda p: models.load_with_new_head(["a"], path=p)):
        with pytest.raises(CourseError, match="cannot be loaded as an image classifier"):
            load(tmp_path / "nothing")


@pytest.mark.skipif(not REAL.is_dir(), reason="no real photographs on this machine")
def test_real_photographs(tmp_path):
    """Half a minute of training the head on photographs must beat 70 % of the test photographs."""
    arguments = ["cifar10", "--data", REAL, "--pictures", "400", "--test-pictures", "200"]
    arguments += ["--epochs", "1", "--batch", "8", "--freeze", "10", "--keep-patches", "0.5"]
    done = command(*arguments, "--head-lr", "3e-3", "--lr", "1e-4", "--to", tmp_path)
    assert done.returncode == 0, done.stderr
    result = json.loads((tmp_path / "result.json").read_text(encoding="utf-8"))
    assert result["pictures"] == 200
    assert result["test accuracy"] > 0.7, result
