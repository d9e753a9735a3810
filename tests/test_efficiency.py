"""Efficient inference: engines agree with the model, timing is fair, failures are rows."""

import contextlib
import copy
import io
import warnings
from dataclasses import replace

import factories
import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import (
    ResNetConfig,
    ResNetForImageClassification,
    ViTForImageClassification,
)

from benchmarks import variants
from benchmarks.export import LogitsOnly, onnx_engine, with_attention
from benchmarks.variants import ExportContext, Variant
from vit_helpers import data, efficiency, images, plots, runtime
from vit_helpers.efficiency import BASELINE, Engine
from vit_helpers.errors import CourseError
from vit_helpers.resources.files import written_whole


@pytest.fixture(scope="module")
def model(small_config):
    torch.manual_seed(0)
    config = small_config(
        num_labels=5,
        initializer_range=0.3,  # logits far enough apart that rounding changes few answers
        attn_implementation="eager",
    )
    return ViTForImageClassification(config).eval()


@pytest.fixture(scope="module")
def pictures():
    return torch.randn(16, 3, 32, 32, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def context(model, pictures):
    context = ExportContext(model, pictures[:4], merged_per_layer=2)
    yield context
    context.close()


@pytest.fixture(scope="module")
def built(context):
    """The variants that take seconds, and what building them printed. A warning is an error."""
    slow = ("torch.compile", "torchao", "bf16, torch", "OpenVINO")
    chosen = [v for v in variants.VARIANTS if not v.name.startswith(slow)]
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            attempts = variants.build(context, chosen)
    return attempts, printed.getvalue()


@pytest.fixture(scope="module")
def attempts(built):
    return built[0]


class TestVariants:
    def test_names_are_unique_and_the_baseline_comes_first(self):
        names = [v.name for v in variants.VARIANTS]
        assert len(set(names)) == len(names)
        assert names[0] == BASELINE

    def test_none_fails_here(self, attempts):
        assert not [f"{a.name}: {a.reason}" for a in attempts if a.status == "failed"]

    def test_each_engine_answers_like_its_network_for_any_batch(self, context, attempts, pictures):
        for attempt in attempts:
            if attempt.engine is None:
                continue
            with torch.no_grad():
                expected = context.network(attempt.variant.merged)(pictures)
            for batch in (1, 2, 7):
                logits = attempt.engine(pictures[:batch])
                assert logits.dtype == torch.float32, attempt.name
                close = 1e-4 if attempt.variant.arithmetic == "fp32" else 0.5
                difference = (logits - expected[:batch]).abs().max()
                assert difference < close, (attempt.name, batch)

    def test_building_leaves_the_model_as_it_was(self, attempts, model):
        assert {p.dtype for p in model.parameters()} == {torch.float32}
        assert model.config._attn_implementation == "eager"

    def test_building_prints_nothing(self, built):
        assert built[1] == ""

    def test_nothing_half_written_is_left(self, context, attempts):
        assert not list(context.folder.glob("*.part"))

    def test_closing_deletes_the_exported_files(self, model, pictures):
        context = ExportContext(model, pictures[:1])
        folder = context.folder
        assert folder.is_dir()
        context.close()
        assert not folder.exists()

    def test_a_missing_compiler_is_a_row_with_its_reason(self, context, monkeypatch):
        monkeypatch.setattr("vit_helpers.runtime.shutil.which", lambda name: None)
        (attempt,) = variants.build(context, variants.select("torch.compile"))
        assert attempt.status == "not here"
        assert "C++ compiler" in attempt.reason

    def test_a_builder_that_raises_is_a_row_and_the_others_go_on(self, context):
        def broken(context):
            raise RuntimeError("no such kernel\nand a long story")

        bad = Variant("broken", broken)
        good = variants.select(BASELINE)
        failed, fine = variants.build(context, [bad, *good])
        assert (failed.status, failed.reason) == ("failed", "RuntimeError: no such kernel")
        assert fine.status == "ran"

    def test_an_engine_with_infinite_logits_is_failed(self, context):
        wrong = Variant("inf", lambda context: Engine(lambda x: x.sum() / torch.zeros(1), 1.0))
        (attempt,) = variants.build(context, [wrong])
        assert attempt.status == "failed"

    def test_an_unknown_name_is_named(self):
        with pytest.raises(CourseError, match="'fp64'"):
            variants.select("fp64")

    def test_twins_share_their_weights(self, model):
        twin = with_attention(model, "sdpa")
        assert twin.config._attn_implementation == "sdpa"
        for mine, theirs in zip(model.parameters(), twin.parameters(), strict=True):
            assert mine is theirs


class TestExportContext:
    def test_refuses_a_model_that_is_no_vit(self, pictures):
        config = ResNetConfig(embedding_size=8, hidden_sizes=[8, 8], depths=[1, 1])
        with pytest.raises(CourseError, match="not a ViT"):
            ExportContext(ResNetForImageClassification(config), pictures)

    def test_refuses_a_model_in_half_precision(self, model, pictures):
        half = copy.deepcopy(model).half()
        with pytest.raises(CourseError, match="float16"):
            ExportContext(half, pictures)

    @pytest.mark.parametrize("shape", [(0, 3, 32, 32), (3, 32, 32)])
    def test_refuses_no_calibration_pictures(self, model, shape):
        with pytest.raises(CourseError, match="calibration"):
            ExportContext(model, torch.zeros(shape))


class TestExport:
    def test_a_failing_export_leaves_nothing(self, tmp_path):
        with pytest.raises(KeyboardInterrupt), written_whole(tmp_path / "model.onnx") as part:
            part.write_text("half")
            raise KeyboardInterrupt
        assert not list(tmp_path.iterdir())

    def test_an_old_file_survives_a_failing_export(self, tmp_path):
        old = tmp_path / "model.onnx"
        old.write_text("old")
        with pytest.raises(ZeroDivisionError), written_whole(old):
            1 / 0  # noqa: B018
        assert old.read_text() == "old"

    def test_a_missing_file_is_named(self, tmp_path):
        with pytest.raises(CourseError, match="'gone.onnx'"):
            onnx_engine(tmp_path / "gone.onnx")

    def test_check_export_passes_equal_engines(self, pictures):
        engine = Engine(lambda x: x.mean((2, 3)), 1.0)
        table = efficiency.check_export(engine, engine, pictures)
        assert list(table.index) == [1, 2, 7]
        assert (table["largest difference"] == 0).all()

    @pytest.mark.parametrize("wrong", [0.1, float("nan")])
    def test_check_export_refuses_another_answer(self, pictures, wrong):
        right = Engine(lambda x: x.mean((2, 3)), 1.0)
        other = Engine(lambda x: x.mean((2, 3)) + (wrong if len(x) == 7 else 0.0), 1.0)
        with pytest.raises(CourseError, match="batch 7"):
            efficiency.check_export(other, right, pictures)


class TestRace:
    @given(
        names=st.integers(1, 4),
        inputs=st.integers(1, 12),
        data=st.data(),
    )
    @settings(max_examples=30, deadline=None)
    def test_each_call_gets_each_input_once_in_order(self, names, inputs, data):
        rounds = data.draw(st.integers(1, inputs))
        calls = {f"call {i}": lambda x, i=i: 10 * x + i for i in range(names)}
        seconds, answers = efficiency.race(calls, range(inputs), rounds)
        for i in range(names):
            assert answers[f"call {i}"] == [10 * x + i for x in range(inputs)]
            assert len(seconds[f"call {i}"]) == inputs

    def test_calls_take_turns_in_a_new_order_each_round(self):
        log = []
        calls = {name: lambda x, name=name: log.append(name) for name in "abc"}
        efficiency.race(calls, range(12), rounds=12)
        turns = ["".join(log[i : i + 6 : 2]) for i in range(0, len(log), 6)]
        assert len(turns) == 12 and all(sorted(turn) == list("abc") for turn in turns)
        assert log[::2] == log[1::2]  # each turn: one call to warm up, one that counts
        followers = {turn[i + 1] for turn in turns for i in range(2) if turn[i] == "a"}
        assert followers == {"b", "c"}  # nobody always runs behind the same other one

    def test_an_answer_keeps_no_graph(self):
        weight = torch.ones(3, requires_grad=True)
        _, answers = efficiency.race({"a": lambda x: weight * x}, [1.0, 2.0], rounds=1)
        assert not any(answer.requires_grad for answer in answers["a"])

    @pytest.mark.parametrize("rounds", [0, 3])
    def test_refuses_a_wrong_number_of_rounds(self, rounds):
        with pytest.raises(CourseError, match=f"rounds is {rounds}"):
            efficiency.race({"a": abs}, [1, 2], rounds)

    def test_a_true_difference_is_found_and_nothing_is_said_of_none(self):
        rng = np.random.default_rng(0)
        slow_moments = np.repeat(rng.uniform(1, 2, 20), 5)  # what hits a round hits both
        one, same, half = (slow_moments * rng.normal(1, 0.05, 100) for _ in range(3))
        table = efficiency.timing_table({"a": one, "b": same, "c": half / 2}, "a", rounds=20)
        assert list(table["verdict"]) == ["baseline", "cannot tell", "faster"]
        assert table.loc["c", "from"] < 2 < table.loc["c", "to"]
        assert table.loc["c", "to"] - table.loc["c", "from"] < 0.5
        turned = efficiency.timing_table({"a": half / 2, "b": one}, "a", rounds=20)
        assert turned.loc["b", "verdict"] == "slower"

    @given(count=st.integers(2, 30), seed=st.integers(0, 99), data=st.data())
    @settings(max_examples=20, deadline=None)
    def test_the_interval_is_that_of_the_timings_that_were_given(self, count, seed, data):
        rounds = data.draw(st.integers(2, count))
        times = np.random.default_rng(seed).uniform(1, 3, (2, count))
        low, high = efficiency.speedup_interval(*times, rounds)
        assert 1 / 3 <= low <= high <= 3
        assert efficiency.speedup_interval(times[0], times[0], rounds) == (1.0, 1.0)

    def test_one_round_tells_nothing(self):
        table = efficiency.timing_table({"a": [2.0, 2.0], "b": [1.0, 1.0]}, "a", rounds=1)
        assert table.loc["b", "verdict"] == "cannot tell"

    def test_timing_table_by_hand(self):
        seconds = {"slow": [0.2, 0.1, 0.3], "fast": [0.05, 0.05, 0.05]}
        table = efficiency.timing_table(seconds, "slow", 3, pictures_per_call=4)
        assert table.loc["slow", "median ms"] == pytest.approx(200)
        assert table.loc["fast", "speed-up"] == pytest.approx(4)
        assert table.loc["fast", "images/s"] == pytest.approx(80)
        assert table.loc["slow", "p95 ms"] == pytest.approx(290)
        assert table.loc["slow", "p5 ms"] == pytest.approx(110)

    def test_an_unknown_baseline_is_named(self):
        with pytest.raises(CourseError, match="'none'"):
            efficiency.timing_table({"a": [1.0]}, "none", 1)


class TestCompare:
    @pytest.fixture
    def engines(self, attempts):
        return {a.name: a.engine for a in attempts if a.engine}

    def test_every_engine_has_a_row_and_the_baseline_agrees_with_itself(self, engines, pictures):
        frame = efficiency.compare(engines, pictures, 2, missing={"torchao": "not installed"})
        assert list(frame.index) == [*engines, "torchao"]
        assert frame.loc[BASELINE, "speed-up"] == 1
        assert frame.loc[BASELINE, "agreement"] == 1
        assert frame.loc[BASELINE, "logit difference"] == 0
        shown = efficiency.for_reading(frame)
        assert shown.loc["torchao", "not here"] == "not installed"
        assert shown.loc["torchao", "median ms"] == "–"

    def test_without_the_baseline_there_is_nothing_to_compare(self, engines, pictures):
        others = {name: engine for name, engine in engines.items() if name != BASELINE}
        with pytest.raises(CourseError, match=BASELINE):
            efficiency.compare(others, pictures, rounds=1)

    def test_accuracy_intervals_and_shares_by_hand(self, engines, pictures, model):
        with torch.no_grad():
            right = model(pictures).logits.argmax(-1)
        labels = right.clone()
        labels[:4] = (labels[:4] + 1) % 5
        rates = {"CPU": {"fp32": 1e12}}
        frame = efficiency.compare(engines, pictures, 2, labels=labels, rates=rates)
        base = frame.loc[BASELINE]
        assert base["accuracy"] == 0.75
        assert base["agreement from"] < base["agreement"] == base["agreement to"] == 1
        assert base["same in a batch"] == 1
        assert base["computes in"] == "fp32"
        assert base["floor ms"] == pytest.approx(1e3 * engines[BASELINE].operations["fp32"] / 1e12)
        assert base["of possible"] == pytest.approx(base["floor ms"] / base["median ms"])
        assert np.isnan(frame.loc["ONNX Runtime int8 dynamic", "floor ms"])  # no int8 rate

    def test_the_rate_of_a_gpu_is_no_floor_for_an_engine_on_the_cpu(self, engines, pictures):
        frame = efficiency.compare(engines, pictures, 1, rates={"GPU": {"fp32": 1e15}})
        on_cpu = frame[frame["runs on"] == "CPU"]
        assert len(on_cpu) and on_cpu["floor ms"].isna().all()

    def test_batches_leave_out_what_is_left_over(self, engines, pictures):
        frame = efficiency.compare({BASELINE: engines[BASELINE]}, pictures[:10], 2, batch=4)
        rate = 4e3 / frame.loc[BASELINE, "median ms"]
        assert frame.loc[BASELINE, "images/s"] == pytest.approx(rate)

    @pytest.mark.parametrize("batch", [0, 17])
    def test_refuses_a_batch_that_does_not_fit(self, engines, pictures, batch):
        with pytest.raises(CourseError, match=f"batch is {batch}"):
            efficiency.compare(engines, pictures, 1, batch=batch)

    def test_refuses_labels_of_other_pictures(self, engines, pictures):
        with pytest.raises(CourseError, match="3 labels do not fit 16"):
            efficiency.compare(engines, pictures, 1, labels=torch.zeros(3))

    def test_an_engine_that_depends_on_neighbours_is_seen(self, engines, pictures):
        plain = engines[BASELINE]
        moody = Engine(lambda x: plain(x) * (1 if len(x) == 1 else -1), 1.0)
        frame = efficiency.compare({BASELINE: plain, "moody": moody}, pictures, rounds=1)
        assert frame.loc["moody", "same in a batch"] == 0
        assert frame.loc["moody", "agreement"] == 1

    def test_a_fast_engine_that_answers_wrongly_is_never_recommended(self, engines, pictures):
        constant = Engine(lambda x: torch.eye(5)[torch.arange(len(x)) % 5], 0.1)
        both = {BASELINE: engines[BASELINE], "constant": constant}
        frame = efficiency.compare(both, pictures, rounds=4)
        assert frame.loc["constant", "verdict"] == "unusable"
        assert efficiency.recommend(frame, 0.9) == [BASELINE]
        assert efficiency.pareto(frame) == [BASELINE]
        assert not frame.loc["constant", "pareto"]

    def test_recommendation_ties_and_front_by_hand(self):
        frame = pd.DataFrame(
            {
                "speed-up": [1.0, 1.01, 3.0, 2.9, 2.0, 9.0, np.nan],
                "from": [1.0, 0.9, 2.8, 2.7, 1.9, 8.0, np.nan],
                "to": [1.0, 1.1, 3.2, 3.1, 2.1, 10.0, np.nan],
                "agreement": [1.0, 1.0, 0.96, 0.95, 0.95, 0.5, np.nan],
                "verdict": ["baseline", "cannot tell", *3 * ["faster"], "unusable", np.nan],
            },
            index=[BASELINE, "same", "fast", "as fast", "beaten", "wrong", "missing"],
        )
        assert efficiency.pareto(frame) == ["same", "fast"]
        assert efficiency.recommend(frame) == ["fast", "as fast"]
        assert efficiency.recommend(frame, 0.99) == [BASELINE]
        with pytest.raises(CourseError, match="0.5"):
            efficiency.recommend(frame, 0.5)

    def test_agreement_by_hand(self):
        reference = torch.tensor([[1.0, 0.0], [0.0, 1.0], [3.0, 2.0], [0.0, 9.0]])
        other = reference.clone()
        other[2] = torch.tensor([2.0, 2.5])
        assert efficiency.agreement(other, reference) == 0.75

    def test_agreement_refuses_other_shapes(self):
        with pytest.raises(CourseError, match=r"\(2, 3\)"):
            efficiency.agreement(torch.zeros(2, 3), torch.zeros(3, 3))

    def test_a_table_for_reading_has_few_digits_and_intervals_in_one_column(self):
        frame = pd.DataFrame(
            {"speed-up": [1.0, 12.345], "from": [1.0, 11.1], "to": [1.0, np.nan], "x": ["a", "b"]}
        )
        frame["agreement from"], frame["agreement to"] = [0.981, np.nan], [1.0, np.nan]
        shown = efficiency.for_reading(frame, ["speed-up", "95 %", "agreement 95 %", "x"])
        assert list(shown["speed-up"]) == ["1.00", "12.35"]
        assert list(shown["95 %"]) == ["1.00 to 1.00", "11.10 to –"]
        assert list(shown["agreement 95 %"]) == ["98.1 to 100.0 %", "–"]
        assert list(shown["x"]) == ["a", "b"]
        # Padding would become &nbsp; in HTML, and a comparison of outputs would see the width.
        assert "&nbsp;" not in shown.to_html()


class TestRoofline:
    def test_operations_of_a_product_and_of_a_vit(self, model, pictures):
        linear = torch.nn.Linear(8, 3)
        assert efficiency.count_operations(linear, torch.zeros(5, 8))["layers"] == 2 * 8 * 3
        tokens, width, layers = 17, 24, 2
        products = 4 * width * width + 2 * width * 48  # q, k, v, out; the MLP
        expected = {
            "layers": 2 * (layers * tokens * products + width * 5),
            "attention": 2 * layers * tokens * 2 * tokens * width,  # scores and sum
            "patches": 2 * 16 * width * 3 * 8 * 8,
        }
        assert efficiency.count_operations(LogitsOnly(model), pictures) == expected

    def test_attention_and_patches_stay_in_fp32_where_layers_are_int8(self):
        kinds = {"layers": 8e9, "attention": 1e9, "patches": 1e9}
        assert efficiency.runs_in("int8", kinds) == {"int8": 8e9, "fp32": 2e9}
        assert efficiency.runs_in("bf16", kinds) == {"bf16": 10e9}
        rates = {"int8": 4e12, "fp32": 1e12}
        assert efficiency.floor_ms(efficiency.runs_in("int8", kinds), rates) == pytest.approx(4)
        assert efficiency.floor_ms(efficiency.runs_in("fp32", kinds), rates) == pytest.approx(10)
        assert np.isnan(efficiency.floor_ms({"bf16": 1e9}, rates))
        assert np.isnan(efficiency.floor_ms({}, rates))

    def test_rates_are_positive_and_a_table_says_the_floor(self):
        rates = efficiency.matrix_rates(seconds=0.01)
        assert {"fp32", "int8"} <= set(rates)
        assert ("bf16" in rates) == runtime.cpu_has_bf16()
        assert all(1e8 < rate < 1e16 for rate in rates.values())
        kinds = {"layers": 1e9, "attention": 0.0, "patches": 0.0}
        table = efficiency.rate_table({"fp32": 2e9}, kinds)
        assert table.loc["fp32", "floor ms"] == 500
        assert table.loc["fp32", "GOP/s"] == 2


class TestMissing:
    @pytest.mark.parametrize(
        "name, package",
        [
            ("OpenVINO int8", "openvino"),
            ("torchao int8 dynamic", "torchao"),
            ("ONNX Runtime fp32", "onnxruntime"),
        ],
    )
    def test_a_missing_engine_is_a_row_that_says_how_to_get_it(
        self, context, monkeypatch, name, package
    ):
        import importlib.util

        real = importlib.util.find_spec
        monkeypatch.setattr(
            importlib.util, "find_spec", lambda n, *a: None if n == package else real(n, *a)
        )
        (attempt,) = variants.build(context, variants.select(name))
        assert attempt.status == "not here"
        assert f"pip install {package}" in attempt.reason


def test_openvino_answers_like_its_network_where_it_is_installed(context, pictures):
    pytest.importorskip("openvino")
    pytest.importorskip("nncf")
    attempts = variants.build(context, [v for v in variants.VARIANTS if "OpenVINO" in v.name])
    for attempt in attempts:
        assert attempt.status != "failed", attempt.reason
        if attempt.engine is None:
            continue
        # nncf rounds sums and the patch convolution too, and this network is 24 numbers wide.
        close = {"fp32": 1e-4, "bf16": 0.5, "int8": 1.5}[attempt.variant.arithmetic]
        with torch.no_grad():
            expected = context.network(attempt.variant.merged)(pictures[:7])
        for batch in (1, 7):  # a bug of OpenVINO 2026.4 showed in batches only
            difference = (attempt.engine(pictures[:batch]) - expected[:batch]).abs().max()
            assert difference < close, (attempt.name, batch)
    # OpenVINO writes into folders only to learn a size: no file of it, whole or half, stays.
    assert not [path for path in context.folder.iterdir() if path.is_dir()]


def test_int8_of_openvino_covers_what_a_rare_picture_shows(model, pictures):
    """With nncf's own scales, the mean over pictures, the one bright picture would be cut off."""
    pytest.importorskip("openvino")
    pytest.importorskip("nncf")
    bright = torch.cat([pictures[:7], 6 * pictures[7:8]])
    context = ExportContext(model, bright)
    base, int8 = variants.build(context, variants.select(BASELINE, "OpenVINO int8"))
    assert int8.status == "ran", int8.reason
    error = (int8.engine(bright) - base.engine(bright)).abs().amax(1)
    context.close()
    assert error[7] < 0.3


def test_merged_int8_of_openvino_answers_a_picture_alone_as_in_a_batch(rt):
    pytest.importorskip("openvino")
    pytest.importorskip("nncf")
    model, processor = factories.classifier("eager")
    own, _ = data.evaluation_images(model, 4, rt.seed)
    some = images.to_pixels(own, processor)
    context = ExportContext(model, some)
    (merged,) = variants.build(context, variants.select("OpenVINO int8, merged"))
    alone, together = merged.engine(some[:1]), merged.engine(some)
    context.close()
    assert (alone - together[:1]).abs().max() < 1  # a graph fixed to one picture was off by 14


class TestFigures:
    def test_words_hold_every_engine(self, attempts, pictures):
        engines = {a.name: a.engine for a in attempts if a.engine}
        frame = efficiency.compare(engines, pictures[:4], 2, missing={"torchao": "not installed"})
        plot = plots.speed_agreement(frame)
        assert all(f"{name} " in plot.alt for name in engines)
        assert "torchao" not in plot.alt

    def test_a_row_each_with_the_front_in_bold_and_the_unusable_crossed_out(self):
        numbers = {"speed-up": [1.0, 3.0, 9.0], "from": [1.0, 2.5, 8.0], "to": [1.0, 3.5, 10.0]}
        numbers |= {"agreement": [1.0, 1.0, 0.5], "agreement from": [0.9, 0.9, 0.4]}
        frame = pd.DataFrame(numbers, index=[BASELINE, "fast", "wrong"])
        frame["agreement to"], frame["not here"] = [1.0, 1.0, 0.6], ""
        frame["computes in"], frame["verdict"] = "fp32", ["baseline", "faster", "unusable"]
        frame["pareto"] = frame.index.isin(efficiency.pareto(frame))
        plot = plots.speed_agreement(frame)
        plot.draw_without_rendering()
        speed, share = plot.axes
        names = speed.get_yticklabels()
        assert [name.get_text() for name in names] == list(frame.index)
        assert [name.get_fontweight() for name in names] == ["normal", "bold", "normal"]
        assert [name.get_position()[1] for name in names] == [0, 1, 2]
        for ax, high in ((speed, 9), (share, 50)):
            crosses = [line for line in ax.lines if line.get_marker() == "x"]
            assert [(*line.get_xdata(), *line.get_ydata()) for line in crosses] == [(high, 2)]
        assert "On the front: fast." in plot.alt

    def test_batch_sizes_timings_and_race_bars_say_what_they_show(self):
        table = pd.DataFrame({"engine": ["a", "a"], "batch": [1, 2], "images/s": [500.0, 1000.0]})
        assert "from batch 2" in plots.batch_sizes(table).alt
        assert "5 timings" in plots.timings([9.0, 8.0], [1.0, 2.0, 3.0]).alt
        table = efficiency.timing_table({"a": [0.1] * 4, "b": [0.05] * 4}, "a", rounds=2)
        assert "b 50.0 ms" in plots.race_bars(table).alt


def test_a_variant_is_one_entry(context, pictures):
    mine = replace(variants.select(BASELINE)[0], name="mine")
    attempts = variants.build(context, [*variants.select(BASELINE), mine])
    engines = {a.name: a.engine for a in attempts}
    assert efficiency.compare(engines, pictures, rounds=1).loc["mine", "agreement"] == 1
