"""`bench train`: every loop trains, the table is made turn by turn, nothing is counted twice."""

import json

import pytest

from benchmarks import __main__
from benchmarks import training as bench_training
from benchmarks.training import Lap
from vit_helpers.errors import CourseError


def test_every_loop_but_the_compiled_one_ends_in_a_table(rt, small, tmp_path, capsys):
    loops = [name for name in bench_training.LOOPS if name != bench_training.COMPILED]
    options = ["--pictures", "10", "--batch", "5", "--rounds", "1", "--to", str(tmp_path)]
    assert __main__.main(["train", *options, "--loops", *loops]) == 0
    said = capsys.readouterr().out
    report = json.loads((tmp_path / "training.json").read_text(encoding="utf-8"))
    assert [row["loop"] for row in report["rows"]] == loops
    assert all(name in said for name in loops) and "fastest: " in said
    for row in report["rows"]:
        assert 0 < row["from"] <= row["times"] <= row["to"]
        assert row["images/s"] > 0 and row["of possible"] > 0
        assert row["at most"] == pytest.approx(row["times"] / row["of possible"], rel=0.2)
        assert row["first turn s"] > 0
    assert report["rows"][0]["times"] == 1


def test_a_loop_that_cannot_run_here_is_left_out_with_its_reason(
    rt, small, tmp_path, capsys, monkeypatch
):
    monkeypatch.setattr(bench_training, "compiler_missing", lambda device: "no compiler")
    bench_training.run(
        bench_training.Request(
            pictures=10, batch=5, rounds=1, loops=["fit, compiled"], folder=tmp_path
        )
    )
    assert "fit, compiled: left out, no compiler" in capsys.readouterr().out
    report = json.loads((tmp_path / "training.json").read_text(encoding="utf-8"))
    assert [row["loop"] for row in report["rows"]] == [bench_training.OLD]


def test_a_network_that_would_fill_the_memory_is_refused(rt, small, monkeypatch):
    monkeypatch.setattr(bench_training, "free_gb", lambda: 0.01)
    with pytest.raises(CourseError, match="GB of memory"):
        bench_training.run(bench_training.Request(pictures=10))


def test_an_unknown_loop_is_named(rt, capsys):
    assert __main__.main(["train", "--loops", "fastest"]) == 2
    assert "The loop is 'fastest'" in capsys.readouterr().err


def test_ratios_are_those_of_the_turns(rt, small):
    track = bench_training.Track(bench_training.Request(pictures=10))
    laps = {
        bench_training.OLD: [Lap(10, 1, 2.0, 4.0), Lap(10, 1, 4.0, 8.0)],  # a slow second turn
        "fit": [Lap(10, 1, 1.0, 1.0), Lap(10, 1, 2.0, 2.0)],
        "cached": [Lap(50, 5, 2.0, 5.0), Lap(50, 5, 4.0, 10.0)],
    }
    table = bench_training.summary(laps, track)
    assert table["times"].tolist() == pytest.approx([1, 2, 5])
    assert table["epoch times"].tolist() == pytest.approx([1, 4, 4])
    assert table.loc["fit", ["from", "to"]].tolist() == pytest.approx([2, 2])


def test_what_a_loop_need_not_compute_raises_what_is_possible(rt, small):
    track = bench_training.Track(bench_training.Request(pictures=10))
    laps = {
        bench_training.OLD: [Lap(10, 1, 1.0, 1.0)],
        "probe": [Lap(50, 5, 1.0, 1.0, passes=1 / 5)],
    }
    table = bench_training.summary(laps, track)
    assert table.loc["probe", "at most"] == pytest.approx(
        15 * table.loc[bench_training.OLD, "at most"]
    )
