"""`python -m benchmarks photographs`: rows, resume, and what is said about the files."""

import io
import json

import datasets
import numpy as np
import pytest
from PIL import Image

from benchmarks import __main__, photographs
from vit_helpers import training

NAMES = [f"class {k}" for k in range(10)]


def write(path, count):
    """Pictures of 8 pixels, each class of another grey."""
    files = []
    for row in range(count):
        buffer = io.BytesIO()
        grey = np.full((8, 8, 3), 25 * (row % 10), dtype=np.uint8)
        Image.fromarray(grey).save(buffer, "PNG")
        files.append({"bytes": buffer.getvalue(), "path": None})
    kinds = {"img": datasets.Image(), "label": datasets.ClassLabel(names=NAMES)}
    rows = {"img": files, "label": [row % 10 for row in range(count)]}
    datasets.Dataset.from_dict(rows, features=datasets.Features(kinds)).to_parquet(path)


@pytest.fixture
def folder(tmp_path):
    write(tmp_path / photographs.FILES["train"], 40)
    write(tmp_path / photographs.FILES["test"], 10)
    return tmp_path


def measure(folder, *more):
    options = ["--photographs", str(folder), "--to", str(folder / "results")]
    return __main__.main(["photographs", *options, *more])


def rows_in(folder):
    content = json.loads((folder / "results" / "photographs.json").read_text(encoding="utf-8"))
    return content, {(row["how"], row["pictures"]): row for row in content["rows"]}


TINY = ("--pictures", "10", "--probe-pictures", "20", "--epochs", "1")


def test_every_row_ends_in_the_table_with_its_interval(small, folder, capsys):
    assert measure(folder, *TINY) == 0
    content, rows = rows_in(folder)
    counts = {"probe": 20, "all": 10, "frozen": 10, "scratch": 10}
    assert set(rows) == {(photographs.WAYS[way], count) for way, count in counts.items()}
    said = capsys.readouterr().out
    for row in rows.values():
        assert row["of"] == 10 and row["accuracy"] == row["right"] / 10
        assert 0 <= row["from"] <= row["accuracy"] <= row["to"] <= 1
        assert row["how"] in said
    (command,) = content["commands"]
    assert command.endswith("python -m benchmarks photographs " + " ".join(TINY))
    assert str(folder) not in json.dumps(content)


def test_a_later_run_keeps_the_rows_of_an_earlier_one(small, folder):
    assert measure(folder, *TINY, "--rows", "probe") == 0
    assert measure(folder, *TINY, "--rows", "frozen") == 0
    content, rows = rows_in(folder)
    assert [key[0] for key in rows] == [photographs.WAYS["probe"], photographs.WAYS["frozen"]]
    assert len(content["commands"]) == 2


def test_a_stopped_run_says_so_and_goes_on_from_its_checkpoint(small, folder, monkeypatch, capsys):
    fit = training.fit

    def stopped(*arguments, **options):
        history = fit(*arguments, **options, stop_after=1)
        history.interrupted = True
        return history

    options = ("--rows", "all", "--pictures", "10", "--epochs", "2")
    monkeypatch.setattr(training, "fit", stopped)
    assert measure(folder, *options) == photographs.STOPPED
    assert "goes on" in capsys.readouterr().out
    monkeypatch.setattr(training, "fit", fit)
    assert measure(folder, *options) == 0
    assert "Going on after epoch 1 of 2" in capsys.readouterr().out


def test_files_that_are_missing_or_damaged_are_named(folder, capsys, monkeypatch):
    monkeypatch.delenv("VIT_REAL_PHOTOS", raising=False)
    assert __main__.main(["photographs"]) == 2
    assert "VIT_REAL_PHOTOS" in capsys.readouterr().err
    test = folder / photographs.FILES["test"]
    test.write_bytes(test.read_bytes()[:-100])
    assert measure(folder) == 2
    said = capsys.readouterr().err
    assert test.name in said and "copy it again" in said
    test.unlink()
    assert measure(folder) == 2
    assert f"There is no {test.name}" in capsys.readouterr().err


def test_a_number_that_cannot_be_is_refused_before_anything_is_trained(small, folder, capsys):
    assert measure(folder, "--pictures", "45000") == 2
    assert "from 10 to 30" in capsys.readouterr().err
    assert measure(folder, "--rows", "half") == 2
    assert "'half'" in capsys.readouterr().err
