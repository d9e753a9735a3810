"""`python -m benchmarks start`: processes that classify a picture, and what they say and need."""

import math
import sys
from pathlib import Path

import factories
import pytest

from benchmarks import __main__, start
from vit_helpers.errors import CourseError


def program(tmp_path, text, **more):
    script = tmp_path / f"{abs(hash(text))}.py"
    script.write_text(text, encoding="utf-8")
    model = tmp_path / "model.bin"
    model.write_bytes(bytes(2_000_000))
    return start.Program(script, model, ("numpy",), **more)


def test_a_start_has_its_answer_its_seconds_and_its_memory(tmp_path):
    slow = program(tmp_path, "import time; print('0.9 cat'); time.sleep(0.3); print('0.1 dog')")
    once = start.start(slow, tmp_path / "picture")
    assert once.answer == "0.9 cat"
    assert once.whole - once.first_answer > 0.25
    if sys.platform == "linux":
        assert 2 < once.peak_mb < 60  # a bare Python, and nothing of this process


def test_a_program_that_fails_is_a_sentence(tmp_path):
    with pytest.raises(CourseError, match="it failed: ModuleNotFoundError"):
        start.start(program(tmp_path, "import no_such_thing"), tmp_path)
    with pytest.raises(CourseError, match="ended by signal 9"):
        start.start(program(tmp_path, "import os; os.kill(os.getpid(), 9)"), tmp_path)


def test_rows_that_fail_or_answer_otherwise_have_a_reason_and_are_not_best(tmp_path):
    found = {
        "right, slow": program(tmp_path, "import time; time.sleep(0.5); print('0.9 cat')"),
        "right": program(tmp_path, "print('0.8 cat')"),
        "wrong": program(tmp_path, "print('0.9 dog')"),
        "fails": program(tmp_path, "raise SystemExit('no')"),
        "not here": program(tmp_path, "print('0.9 cat') ", missing="not installed"),
    }
    table = start.measure(found, tmp_path, rounds=2)
    assert list(table.index[table["best"]]) == ["right"]
    assert table.loc["right", "model MB"] == pytest.approx(2)
    assert "answers '0.9 dog'" in table.loc["wrong", "reason"]
    assert table.loc["fails", "reason"] == "it failed: no"
    assert table.loc["not here", "reason"] == "not installed"
    assert math.isnan(table.loc["fails", "peak MB"])


def test_what_is_installed_counts_what_it_requires():
    alone = start.installed_mb(["numpy"])
    assert 5 < alone < 200
    assert start.installed_mb(["onnxruntime", "numpy"]) > alone
    assert start.installed_mb(["no-such-package"]) == 0


def test_a_picture_that_is_not_there_is_named(capsys):
    assert __main__.main(["start", "--picture", "gone.jpg"]) == 2
    assert "gone.jpg" in capsys.readouterr().err


def test_all_programs_give_the_same_answer_and_those_without_torch_take_less(
    rt, vit_folder, tmp_path
):
    model, processor = factories.load(vit_folder)
    found = start.programs(model, processor, tmp_path)
    once = {name: start.start(p, Path(rt.locate("photo"))) for name, p in found.items()}
    large, pipeline = once["transformers with torch"], once['pipeline("image-classification")']
    small = once["one ONNX file in fp32, no torch"]
    assert small.answer == large.answer == pipeline.answer
    assert "one ONNX file in int8, no torch" in once
    assert small.peak_mb < large.peak_mb / 2 and small.first_answer < large.first_answer
    assert start.installed_mb(start.STANDALONE) < start.installed_mb(start.WITH_TORCH) / 2
