"""Training: the loop learns, repeats, resumes bit for bit, and refuses what cannot work."""

import dataclasses
import math
import signal
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import ViTConfig, ViTForImageClassification

from vit_helpers import checkpoints, data, models, runtime, training
from vit_helpers.errors import CourseError
from vit_helpers.history import measured

RECIPE = {"epochs": 3, "lr": 2e-3, "head_lr": 1e-2, "weight_decay": 0.01}


def tiny(classes=3, seed=0, depth=3, hidden=24):
    torch.manual_seed(seed)
    config = ViTConfig(
        image_size=16,
        patch_size=8,
        hidden_size=hidden,
        num_hidden_layers=depth,
        num_attention_heads=2,
        intermediate_size=32,
        num_labels=classes,
        hidden_dropout_prob=0.1,
    )
    return ViTForImageClassification(config)


class Colours(torch.utils.data.Dataset):
    """Easy pictures: class c is bright in channel c. A little noise stands for augmentation."""

    def __init__(self, count=24, noise=0.3):
        self.labels = torch.arange(count) % 3
        self.noise = noise

    def __len__(self):
        return len(self.labels)

    def __getitem__(self, i):
        picture = torch.zeros(3, 16, 16)
        picture[self.labels[i]] = 1.0
        return picture + self.noise * torch.randn(3, 16, 16), self.labels[i]


def loaders(count=24, batch=10, noise=0.3):
    train = data.loader(Colours(count, noise), batch, shuffle=True, seed=0)
    return train, data.loader(Colours(9, 0.0), 4)


def same_weights(a, b):
    other = b.state_dict()
    return all(torch.equal(value, other[name]) for name, value in a.state_dict().items())


# --- fit ---------------------------------------------------------------------------------------


def test_it_says_beforehand_how_long_it_will_take(rt, capsys):
    model, (train, val) = tiny(hidden=96, depth=6), loaders(count=200)
    ratios = []
    for _ in range(3):  # the fairest of three: another program may be busy in one of them
        forecast = training.seconds_an_epoch(model, train, val, 1.0)
        assert all(p.grad is None for p in model.parameters()) and not model.training
        history = training.fit(model, train, val, **RECIPE)
        ratios.append(forecast / min(row["seconds"] for row in history.rows))
    assert "3 epochs of 200 pictures: about ≈ " in capsys.readouterr().out
    assert any(1 / 2.5 < ratio < 2.5 for ratio in ratios), ratios


def test_it_learns_and_writes_one_row_an_epoch(rt):
    model = tiny()
    history = training.fit(model, *loaders(), **RECIPE)
    frame = history.to_frame()
    assert list(frame.index) == [1, 2, 3]
    assert frame["train loss"].iloc[-1] < frame["train loss"].iloc[0]
    assert training.evaluate(model, loaders()[1]).accuracy == 1.0
    assert not model.training


def test_the_same_seed_gives_the_same_bits(rt):
    first, second = tiny(), tiny()
    one = training.fit(first, *loaders(), **RECIPE)
    torch.rand(7)  # whatever a reader runs in between
    two = training.fit(second, *loaders(), **RECIPE)
    assert same_weights(first, second)
    assert one.to_frame()["train loss"].equals(two.to_frame()["train loss"])


@pytest.mark.parametrize("schedule", training.SCHEDULES)
def test_resumed_equals_uninterrupted(rt, tmp_path, capsys, schedule):
    recipe = RECIPE | {"schedule": schedule, "keep_patches": 0.5}
    whole = tiny()
    history = training.fit(whole, *loaders(), **recipe)

    training.fit(tiny(), *loaders(), **recipe, checkpoint_dir=tmp_path, stop_after=1)
    torch.manual_seed(99)  # another day, another process
    parts = tiny(seed=5)
    resumed = training.fit(parts, *loaders(), **recipe, checkpoint_dir=tmp_path)

    assert "Going on after epoch 1 of 3." in capsys.readouterr().out
    assert same_weights(whole, parts)
    same = ["train loss", "train accuracy", "validation loss", "validation accuracy"]
    assert history.to_frame()[same].equals(resumed.to_frame()[same])


def test_a_finished_run_is_not_trained_again(rt, tmp_path):
    first, second = tiny(), tiny(seed=5)
    training.fit(first, *loaders(), **RECIPE, checkpoint_dir=tmp_path)
    training.fit(second, *loaders(), **RECIPE, checkpoint_dir=tmp_path)
    assert same_weights(first, second)


def test_resume_false_starts_again(rt, tmp_path):
    training.fit(tiny(seed=5), *loaders(), **RECIPE, checkpoint_dir=tmp_path)
    fresh, again = tiny(), tiny()
    training.fit(fresh, *loaders(), **RECIPE)
    training.fit(again, *loaders(), **RECIPE, checkpoint_dir=tmp_path, resume=False)
    assert same_weights(fresh, again)


def test_checkpoint_folder_holds_one_whole_file(rt, tmp_path):
    training.fit(tiny(), *loaders(), **RECIPE, checkpoint_dir=tmp_path / "new")
    assert [f.name for f in (tmp_path / "new").iterdir()] == ["last.pt"]


def test_checkpoint_holds_the_weights_once_where_the_last_epoch_is_the_best(rt, tmp_path):
    big = tiny(hidden=96)
    weights = sum(v.nbytes for v in big.state_dict().values())
    training.fit(big, *loaders(), **RECIPE, checkpoint_dir=tmp_path, stop_after=1)
    size = (tmp_path / "last.pt").stat().st_size
    assert size < 3.3 * weights  # the model, and AdamW's two averages of every weight
    again = tiny(hidden=96)
    training.fit(again, *loaders(), **RECIPE, checkpoint_dir=tmp_path, stop_after=1)
    assert same_weights(big, again)


@pytest.mark.parametrize("keep_best", [True, False])
def test_resumed_after_the_best_epoch_equals_uninterrupted(rt, tmp_path, monkeypatch, keep_best):
    # The best epoch is the first here, so the checkpoint of the second holds two sets of weights.
    def shrinking(self):
        return 1.0 / (1 + len(recorded))

    def recording(model, loader, **more):
        recorded.append(1)
        return evaluate(model, loader, **more)

    evaluate = training.evaluate
    monkeypatch.setattr(training, "evaluate", recording)
    monkeypatch.setattr(training.Evaluation, "accuracy", property(shrinking))
    recorded = []
    whole, parts = tiny(), tiny(seed=5)
    history = training.fit(whole, *loaders(), **RECIPE, keep_best=keep_best)
    recorded = []
    recipe = RECIPE | {"keep_best": keep_best, "checkpoint_dir": tmp_path}
    training.fit(tiny(), *loaders(), **recipe, stop_after=2)
    training.fit(parts, *loaders(), **recipe)
    assert history.best_epoch == 1
    assert same_weights(whole, parts)


# --- the recipe --------------------------------------------------------------------------------


def test_plain_attention_in_bf16_is_attention(rt):
    torch.manual_seed(0)
    query, key, value = torch.randn(3, 2, 4, 9, 8)
    layer = SimpleNamespace(training=False)
    output, weights = models.plain_bf16_attention(layer, query, key, value, None, 8**-0.5)
    expected = torch.nn.functional.scaled_dot_product_attention(query, key, value)
    assert torch.allclose(output, expected.transpose(1, 2), atol=1e-5)
    assert torch.allclose(weights.sum(-1), torch.ones(2, 4, 9), atol=1e-5)
    layer.training = True
    dropped = models.plain_bf16_attention(layer, query, key, value, None, 8**-0.5, dropout=0.5)[1]
    assert 0.2 < (dropped == 0).float().mean() < 0.8


def test_plain_attention_gives_the_gradients_of_the_fused_one(rt):
    model = tiny(hidden=32)
    model.eval()  # no dropout: both must see the same network
    pixels, labels = next(iter(loaders()[0]))
    gradients = {}
    for kind in ("sdpa", "plain_bf16"):
        model.zero_grad()
        with models.attention(model, kind), torch.autocast("cpu", torch.bfloat16):
            logits = model(pixel_values=pixels).logits
        torch.nn.functional.cross_entropy(logits.float(), labels).backward()
        gradients[kind] = torch.cat([p.grad.flatten() for p in model.parameters()])
    similar = torch.cosine_similarity(*gradients.values(), dim=0)
    assert similar > 0.999


def test_early_stop_after_epochs_that_were_no_better(rt, monkeypatch, capsys):
    accuracies = iter((0.2, 0.9, 0.4, 0.5, 0.99))
    evaluate = training.evaluate

    def fake(model, loader, **more):
        value = next(accuracies)
        monkeypatch.setattr(training.Evaluation, "accuracy", property(lambda self: value))
        return evaluate(model, loader, **more)

    monkeypatch.setattr(training, "evaluate", fake)
    history = training.fit(tiny(), *loaders(), **(RECIPE | {"epochs": 5, "patience": 2}))
    assert [row["epoch"] for row in history.rows] == [1, 2, 3, 4]
    assert history.best_epoch == 2
    assert "No better for 2 epochs: stopped before 5." in capsys.readouterr().out


def test_smooth_labels_are_part_of_the_loss(rt, monkeypatch):
    monkeypatch.setattr(runtime, "_current", dataclasses.replace(rt, precision=torch.float32))
    recipe = RECIPE | {"epochs": 1, "lr": 1e-9, "head_lr": 1e-9}
    losses = {}
    for smoothing in (0.0, 0.4):
        history = training.fit(
            no_dropout(tiny()), *loaders(noise=0), **recipe, label_smoothing=smoothing
        )
        losses[smoothing] = history.rows[0]["train loss"]
    with torch.no_grad():
        pixels, labels = (torch.stack(part) for part in zip(*Colours(24, 0), strict=True))
        logits = no_dropout(tiny())(pixel_values=pixels).logits
    for smoothing, loss in losses.items():
        expected = torch.nn.functional.cross_entropy(logits, labels, label_smoothing=smoothing)
        assert loss == pytest.approx(float(expected), abs=2e-4)
    assert abs(losses[0.0] - losses[0.4]) > 2e-3  # so the two cannot be taken for one another


def test_rates_fall_from_the_last_block_to_the_first():
    model = tiny(depth=3)
    groups = training.parameter_groups(model, 1.0, 5.0, 0.1, layer_decay=0.5)
    rate = {id(p): group["lr"] for group in groups for p in group["params"]}

    def rates(part):
        return {rate[id(p)] for p in part.parameters()}

    first, second, third = models.blocks(model)
    assert rates(models.head(model)) == {5.0}
    assert rates(third) == {0.5} and rates(second) == {0.25} and rates(first) == {0.125}
    assert rates(models.embeddings(model)) == {0.0625}
    assert rates(model.base_model.layernorm) == {1.0}
    assert sum(len(group["params"]) for group in groups) == len(list(model.parameters()))


@pytest.mark.parametrize("decay", [0.0, -1.0, 1.5, math.nan])
def test_layer_decay_out_of_range(decay):
    with pytest.raises(CourseError, match=f"layer_decay is {decay}"):
        training.parameter_groups(tiny(), 1.0, 1.0, 0.1, layer_decay=decay)


def out_of_memory_above(monkeypatch, largest):
    """Let the network fail as a full GPU does, for more pictures than `largest`."""
    original = ViTForImageClassification.forward
    sizes = []

    def forward(self, pixel_values, **more):
        if self.training and len(pixel_values) > largest and sizes is not None:
            raise torch.OutOfMemoryError("CUDA out of memory")
        sizes.append(len(pixel_values))
        return original(self, pixel_values, **more)

    monkeypatch.setattr(ViTForImageClassification, "forward", forward)
    return sizes


def no_dropout(model):
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    return model


def test_out_of_memory_computes_the_batch_in_parts_with_the_same_result(rt, monkeypatch, capsys):
    exact = dataclasses.replace(rt, precision=torch.float32)
    monkeypatch.setattr(runtime, "_current", exact)
    recipe = RECIPE | {"lr": 1e-3, "head_lr": 1e-3}
    whole, parts = no_dropout(tiny()), no_dropout(tiny())
    expected = training.fit(whole, *loaders(noise=0), **recipe)
    with monkeypatch.context() as context:
        sizes = out_of_memory_above(context, 3)
        history = training.fit(parts, *loaders(noise=0), **recipe)
    assert "each batch of 10 is computed in 4 parts" in capsys.readouterr().out
    assert max(sizes) <= 4
    for name in ("train loss", "validation loss"):
        assert history.to_frame()[name].tolist() == pytest.approx(
            expected.to_frame()[name].tolist(), rel=1e-3
        )


def test_not_even_one_picture_fits(rt, monkeypatch):
    out_of_memory_above(monkeypatch, 0)
    with pytest.raises(CourseError, match="Not even one picture fits"):
        training.fit(tiny(), *loaders(), **RECIPE)


def test_compiled_whole_batches_and_the_short_one_as_it_is(rt, monkeypatch):
    sizes = []

    def compiled(model, dynamic):  # the real one takes a minute of g++
        def network(pixel_values):
            sizes.append(len(pixel_values))
            return model(pixel_values=pixel_values)

        return network

    monkeypatch.setattr(runtime, "missing_compiler", lambda device: "")
    monkeypatch.setattr(torch, "compile", compiled)
    as_it_is, faster = tiny(), tiny()
    training.fit(as_it_is, *loaders(count=24, batch=10), **RECIPE)
    training.fit(faster, *loaders(count=24, batch=10), **RECIPE, compiled=True)
    assert sizes == [10, 10] * 3  # and not 4, for which it would compile again
    assert same_weights(as_it_is, faster)


def test_compiling_without_a_compiler_is_refused_in_words(rt, monkeypatch):
    monkeypatch.setattr(runtime.shutil, "which", lambda name: None)
    with pytest.raises(CourseError, match="needs a C.. compiler: install g.. or clang, or leave"):
        training.fit(tiny(), *loaders(), **RECIPE, compiled=True)


def test_the_test_set_notices_a_second_look(rt, capsys):
    held_out = training.HeldOut(loaders()[1])
    first = held_out.evaluate(tiny())
    assert "look number" not in capsys.readouterr().out
    again = held_out.evaluate(tiny())
    assert "look number 2 at the test set" in capsys.readouterr().out
    assert torch.equal(first.logits, again.logits)


# --- interrupted, and a full disk --------------------------------------------------------------


def press_stop(monkeypatch, place, call):
    """Send the signal of Ctrl-C within the given call of `training.place`; calls count from 1."""
    original, calls = getattr(training, place), []

    def pressing(*args, **kwargs):
        calls.append(1)
        result = original(*args, **kwargs)
        if len(calls) == call:
            signal.raise_signal(signal.SIGINT)
        return result

    monkeypatch.setattr(training, place, pressing)


@pytest.mark.parametrize("place, call, epoch", [
    ("train_step", 2, 0), ("train_step", 5, 1), ("evaluate", 2, 1), ("train_step", 8, 2),
])  # fmt: skip
def test_ctrl_c_leaves_a_usable_model_and_loses_nothing(
    rt, tmp_path, monkeypatch, capsys, place, call, epoch
):
    whole, model = tiny(), tiny()
    expected = training.fit(whole, *loaders(), **RECIPE)
    at_epoch = tiny()
    if epoch:
        training.fit(at_epoch, *loaders(), **RECIPE, stop_after=epoch)
    at_epoch.eval()

    with monkeypatch.context() as context:
        press_stop(context, place, call)
        stopped = training.fit(model, *loaders(), **RECIPE, checkpoint_dir=tmp_path)
    said = capsys.readouterr().out
    assert f"Stopped after {epoch} of 3 epochs" in said
    assert ("goes on from the checkpoint" if epoch else "starts from the first epoch") in said
    assert [row["epoch"] for row in stopped.rows] == list(range(1, epoch + 1))
    assert same_weights(model, at_epoch)  # not those of half an epoch
    assert not model.training
    assert training.evaluate(model, loaders()[1]).logits.isfinite().all()

    resumed = training.fit(model, *loaders(), **RECIPE, checkpoint_dir=tmp_path)
    assert same_weights(model, whole)
    same = ["train loss", "train accuracy", "validation loss", "validation accuracy"]
    assert expected.to_frame()[same].equals(resumed.to_frame()[same])


@pytest.mark.parametrize("epoch", [1, 2])
def test_ctrl_c_while_the_checkpoint_is_written(rt, tmp_path, monkeypatch, capsys, epoch):
    whole, model = tiny(), tiny()
    training.fit(whole, *loaders(), **RECIPE)
    save, count = torch.save, []

    def stopped_half_way(state, path):
        count.append(1)
        if len(count) == epoch:
            path.write_bytes(b"half")
            signal.raise_signal(signal.SIGINT)
        save(state, path)

    with monkeypatch.context() as context:
        context.setattr(torch, "save", stopped_half_way)
        stopped = training.fit(model, *loaders(), **RECIPE, checkpoint_dir=tmp_path)
    assert len(stopped.rows) == epoch
    assert "goes on from the checkpoint" in capsys.readouterr().out
    assert [f.name for f in tmp_path.iterdir()] == ["last.pt"]
    training.fit(model, *loaders(), **RECIPE, checkpoint_dir=tmp_path)
    assert same_weights(model, whole)


@pytest.mark.parametrize(
    "error", [OSError(28, "No space left on device"), RuntimeError("[enforce fail] unexpected pos")]
)
def test_disk_full_is_reported_and_the_last_checkpoint_is_whole(rt, tmp_path, monkeypatch, error):
    whole, model = tiny(), tiny()
    training.fit(whole, *loaders(), **RECIPE)
    training.fit(tiny(), *loaders(), **RECIPE, checkpoint_dir=tmp_path, stop_after=1)
    before = (tmp_path / "last.pt").read_bytes()

    def full_disk(state, path):
        path.write_bytes(b"half")
        raise error

    with monkeypatch.context() as context:
        context.setattr(torch, "save", full_disk)
        with pytest.raises(CourseError, match="checkpoint of epoch 2 .* free some space"):
            training.fit(model, *loaders(), **RECIPE, checkpoint_dir=tmp_path)
    assert (tmp_path / "last.pt").read_bytes() == before
    assert len(list(tmp_path.iterdir())) == 1
    training.fit(model, *loaders(), **RECIPE, checkpoint_dir=tmp_path)
    assert same_weights(model, whole)


def test_a_disk_that_is_too_small_is_noticed_before_the_first_step(rt, tmp_path, monkeypatch):
    model = tiny()
    monkeypatch.setattr(checkpoints.shutil, "disk_usage", lambda folder: SimpleNamespace(free=1000))
    monkeypatch.setattr(training, "train_step", None)
    with pytest.raises(CourseError, match="A checkpoint takes up to 0.3 MB, but .* 0.0 MB free"):
        training.fit(model, *loaders(), **RECIPE, checkpoint_dir=tmp_path)


def test_a_folder_that_cannot_be_made_is_noticed_before_the_first_step(rt, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setattr(training, "train_step", None)
    with pytest.raises(CourseError, match="cannot be made .*choose another one"):
        training.fit(tiny(), *loaders(), **RECIPE, checkpoint_dir=tmp_path / "file" / "folder")


def test_what_a_killed_process_left_is_overwritten(rt, tmp_path):
    (tmp_path / "last.pt.tmp").write_bytes(b"half of a checkpoint")
    training.fit(tiny(), *loaders(), **(RECIPE | {"epochs": 1}), checkpoint_dir=tmp_path)
    assert [f.name for f in tmp_path.iterdir()] == ["last.pt"]


def test_a_loss_that_is_no_number_leaves_the_weights_of_the_last_good_epoch(rt):
    model, untouched = tiny(), tiny()
    with pytest.raises(CourseError, match="loss is nan"):
        training.fit(model, *loaders(noise=math.nan), **RECIPE)
    assert same_weights(model, untouched)


def test_model_ends_with_its_best_epoch(rt, monkeypatch):
    accuracies = iter((0.2, 0.9, 0.4))
    weights = []
    model = tiny()

    def fake(model, loader, **unused):
        weights.append({k: v.clone() for k, v in model.state_dict().items()})
        result = training.Evaluation(torch.zeros(1, dtype=torch.long), torch.zeros(1, 3))
        value = next(accuracies)
        monkeypatch.setattr(training.Evaluation, "accuracy", property(lambda self: value))
        return result

    monkeypatch.setattr(training, "evaluate", fake)
    history = training.fit(model, *loaders(), **RECIPE)
    assert history.best_epoch == 2
    assert all(torch.equal(v, weights[1][k]) for k, v in model.state_dict().items())


def graph_recorder(record, name):
    def hook(module, inputs, output):
        tokens = output[0] if isinstance(output, tuple) else output
        record.setdefault(name, tokens.requires_grad)

    return hook


def test_frozen_parts_do_not_move_and_cost_no_backward_pass(rt):
    model = tiny()
    models.freeze(model, 2)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    needs_graph = {}
    for i, block in enumerate(models.blocks(model)):
        block.register_forward_hook(graph_recorder(needs_graph, i))
    training.fit(model, *loaders(), **(RECIPE | {"epochs": 1}))
    moved = {k for k, v in model.state_dict().items() if not torch.equal(v, before[k])}
    learning = {k for k, p in model.named_parameters() if p.requires_grad}
    assert moved == learning
    assert needs_graph == {0: False, 1: False, 2: True}


@pytest.mark.parametrize("has_bf16, kind", [(True, "plain_bf16"), (False, "sdpa")])
def test_plain_attention_only_where_bf16_makes_it_faster(rt, monkeypatch, has_bf16, kind):
    monkeypatch.setattr(runtime, "cpu_has_bf16", lambda: has_bf16)
    device, precision = runtime.choose_device()
    if device.type != "cpu":
        pytest.skip("this rule is about CPUs")
    monkeypatch.setattr(runtime, "_current", dataclasses.replace(rt, precision=precision))
    model, seen = tiny(), []
    monkeypatch.setattr(
        training,
        "train_epoch",
        lambda run, loader, title: seen.append(run.model.config._attn_implementation) or (1.0, 0.5),
    )
    before = model.config._attn_implementation
    training.fit(model, *loaders(), epochs=1, lr=1e-3)
    assert before == "sdpa"
    assert seen == [kind]
    assert model.config._attn_implementation == before


def test_frozen_parts_are_in_evaluation_mode(rt):
    model = tiny()
    models.freeze(model, 2)
    training.train_mode(model)
    assert not models.embeddings(model).training
    assert [block.training for block in models.blocks(model)] == [False, False, True]
    assert model.training


def test_training_accuracy_is_that_of_the_training_pass(rt, monkeypatch):
    seen = []
    original = training.train_step

    def spy(run, pixels, labels):
        loss, logits = original(run, pixels, labels)
        seen.append((logits.argmax(1) == labels).float())
        return loss, logits

    monkeypatch.setattr(training, "train_step", spy)
    history = training.fit(tiny(), *loaders(), **(RECIPE | {"epochs": 1}))
    assert history.rows[0]["train accuracy"] == pytest.approx(float(torch.cat(seen).mean()))


# --- schedule and parameter groups -------------------------------------------------------------


@given(
    steps=st.integers(1, 200),
    warmup=st.floats(0, 1),
    schedule=st.sampled_from(training.SCHEDULES),
)
def test_rate_rises_then_falls_and_stays_within_bounds(steps, warmup, schedule):
    optimiser = torch.optim.AdamW([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    scheduler = training.make_schedule(optimiser, steps, warmup, schedule)
    rates = []
    for _ in range(steps):
        rates.append(optimiser.param_groups[0]["lr"])
        optimiser.step()
        scheduler.step()
    warm = round(warmup * steps)
    assert all(0 < r <= 1 for r in rates)
    assert rates[:warm] == sorted(rates[:warm])
    assert rates[warm:] == sorted(rates[warm:], reverse=True)
    assert optimiser.param_groups[0]["lr"] == pytest.approx(0, abs=1e-9) or warm == steps


def test_head_has_its_own_rate_and_vectors_do_not_decay():
    model = tiny()
    groups = training.parameter_groups(model, lr=1e-4, head_lr=1e-2, weight_decay=0.1)
    by_id = {id(p): group for group in groups for p in group["params"]}
    assert len(by_id) == len(list(model.parameters()))
    for name, p in model.named_parameters():
        assert by_id[id(p)]["lr"] == (1e-2 if name.startswith("classifier") else 1e-4)
        assert (by_id[id(p)]["weight_decay"] == 0) == (p.ndim == 1)


# --- judging -----------------------------------------------------------------------------------


def test_accuracy_counts_every_picture_once(rt):
    # Nine pictures in batches of 4, 4, 1: the mean of batch means would be another number.
    model = tiny()
    result = training.evaluate(model, data.loader(Colours(9, 0.0), 4))
    with torch.inference_mode():
        pixels = torch.stack([Colours(9, 0.0)[i][0] for i in range(9)])
        logits = model(pixel_values=pixels).logits
    assert torch.allclose(result.logits, logits, atol=1e-6)
    expected = float((logits.argmax(1) == Colours(9).labels).float().mean())
    assert result.accuracy == pytest.approx(expected)
    assert result.correct == int(result.right.sum())
    assert result.loss == pytest.approx(
        float(torch.nn.functional.cross_entropy(logits, Colours(9).labels)), abs=1e-6
    )


def test_top_k_grows_to_one():
    labels = torch.tensor([0, 1, 2])
    logits = torch.tensor([[3.0, 2, 1], [3, 2, 1], [3, 2, 1]])
    result = training.Evaluation(labels, logits)
    assert [round(result.top(k), 3) for k in (1, 2, 3, 5)] == [0.333, 0.667, 1.0, 1.0]
    assert result.top(1) == pytest.approx(result.accuracy)


def test_features_are_what_the_head_sees(rt):
    model = tiny()
    loader = data.loader(Colours(9, 0.0), 4)
    features, labels = training.cls_features(model, loader)
    assert features.shape == (9, 24)
    logits = models.head(model)(torch.from_numpy(features))
    assert torch.allclose(logits, training.evaluate(model, loader).logits, atol=1e-5)
    assert list(labels) == list(Colours(9).labels)


def test_wilson_against_published_values():
    # Newcombe (1998), table I: 81 of 263, 15 of 148, 0 of 20, 1 of 29.
    published = {
        (81, 263): (0.2553, 0.3662),
        (15, 148): (0.0624, 0.1605),
        (0, 20): (0.0000, 0.1611),
        (1, 29): (0.0061, 0.1718),
    }
    for (correct, n), expected in published.items():
        assert training.wilson_interval(correct, n) == pytest.approx(expected, abs=1e-4)


@given(st.integers(1, 5000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_wilson_is_an_interval_around_the_share(pair):
    correct, n = pair
    low, high = training.wilson_interval(correct, n)
    assert 0 <= low <= correct / n + 1e-12 and correct / n - 1e-12 <= high <= 1
    mirror = training.wilson_interval(n - correct, n)
    assert mirror == pytest.approx((1 - high, 1 - low))


@pytest.mark.parametrize("correct, n", [(0, 0), (-1, 5), (6, 5)])
def test_wilson_refuses_what_is_no_share(correct, n):
    with pytest.raises(CourseError, match="no share"):
        training.wilson_interval(correct, n)


def test_table_marks_every_measured_number(rt):
    history = training.fit(tiny(), *loaders(), **(RECIPE | {"epochs": 1}))
    table = history.table()
    assert all(cell.startswith("≈ ") for cell in table.to_numpy().ravel())
    assert measured(9.87) == "≈    9.9"
    assert len(measured(99.87)) == len(measured(9.87))


# --- what cannot work --------------------------------------------------------------------------


class Nothing(Colours):
    def __init__(self):
        self.labels = torch.zeros(0, dtype=torch.long)


def test_empty_loaders(rt):
    train, val = loaders()
    empty = torch.utils.data.DataLoader(Nothing(), batch_size=2)
    with pytest.raises(CourseError, match="training loader is empty"):
        training.fit(tiny(), empty, val, **RECIPE)
    with pytest.raises(CourseError, match="validation loader is empty"):
        training.fit(tiny(), train, empty, **RECIPE)
    with pytest.raises(CourseError, match="loader is empty"):
        training.evaluate(tiny(), empty)


def test_a_class_without_a_training_picture(rt):
    with pytest.raises(CourseError, match="Class 3 .* has no training picture"):
        training.fit(tiny(classes=4), *loaders(), **RECIPE)


def test_label_outside_the_head(rt):
    train, val = loaders()
    with pytest.raises(CourseError, match="Label 2 has no output: the head has 2 classes"):
        training.fit(tiny(classes=2), train, val, **RECIPE)
    with pytest.raises(CourseError, match="Label 2 has no output"):
        training.evaluate(tiny(classes=2), val)


def test_loss_that_is_no_number_stops_and_keeps_the_checkpoint(rt, tmp_path):
    training.fit(tiny(), *loaders(), **RECIPE, checkpoint_dir=tmp_path, stop_after=1)
    before = (tmp_path / "last.pt").read_bytes()
    train, val = loaders(noise=math.nan)
    with pytest.raises(CourseError, match="loss is nan at step 1 of epoch 2 of 3"):
        training.fit(tiny(), train, val, **RECIPE, checkpoint_dir=tmp_path)
    assert (tmp_path / "last.pt").read_bytes() == before


def test_checkpoint_of_another_model_or_recipe(rt, tmp_path):
    training.fit(tiny(), *loaders(), **RECIPE, checkpoint_dir=tmp_path, stop_after=1)
    for other in (tiny(hidden=32), tiny(depth=2)):
        with pytest.raises(CourseError, match="belongs to another model"):
            training.fit(other, *loaders(), **RECIPE, checkpoint_dir=tmp_path)
    with pytest.raises(CourseError, match="made with epochs=3, this run has epochs=4"):
        training.fit(tiny(), *loaders(), **(RECIPE | {"epochs": 4}), checkpoint_dir=tmp_path)
    frozen = tiny()
    models.freeze(frozen, 1)
    with pytest.raises(CourseError, match="made with trainable="):
        training.fit(frozen, *loaders(), **RECIPE, checkpoint_dir=tmp_path)


def test_checkpoint_on_another_frozen_body(rt, tmp_path):
    one, other = tiny(seed=0), tiny(seed=5)
    for model in (one, other):
        models.freeze(model, 2)
    training.fit(one, *loaders(), **RECIPE, checkpoint_dir=tmp_path, stop_after=1)
    with pytest.raises(CourseError, match="the frozen weights .* differ"):
        training.fit(other, *loaders(), **RECIPE, checkpoint_dir=tmp_path)


@pytest.mark.parametrize("keep", [0, 100, 5000])
def test_broken_checkpoint(rt, tmp_path, keep):
    training.fit(tiny(), *loaders(), **RECIPE, checkpoint_dir=tmp_path, stop_after=1)
    path = tmp_path / "last.pt"
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(CourseError, match="not a checkpoint that can be read"):
        training.fit(tiny(), *loaders(), **RECIPE, checkpoint_dir=tmp_path)


def test_nothing_to_learn_or_no_epochs(rt):
    model = tiny().requires_grad_(False)
    with pytest.raises(CourseError, match="Every parameter is frozen"):
        training.fit(model, *loaders(), **RECIPE)
    with pytest.raises(CourseError, match="epochs is 0"):
        training.fit(tiny(), *loaders(), **(RECIPE | {"epochs": 0}))


def test_unknown_schedule_and_warmup(rt):
    with pytest.raises(CourseError, match="schedule is 'step'"):
        training.fit(tiny(), *loaders(), **RECIPE, schedule="step")
    with pytest.raises(CourseError, match="warmup is 5"):
        training.fit(tiny(), *loaders(), **RECIPE, warmup=5)


# --- few pictures, many classes ----------------------------------------------------------------


def test_few_per_class_is_balanced_and_repeats():
    labels = torch.tensor([0, 1, 2] * 7)
    chosen = training.few_per_class(labels, 4, seed=3)
    assert labels[chosen].bincount().tolist() == [4, 4, 4]
    assert len(set(chosen)) == 12
    assert list(chosen) == list(training.few_per_class(labels, 4, seed=3))
    assert list(chosen) != list(training.few_per_class(labels, 4, seed=4))
    with pytest.raises(CourseError, match="Class 0 has 7 pictures, not 8"):
        training.few_per_class(labels, 8)


def test_most_confused_ignores_right_answers_and_empty_cells():
    matrix = [[50, 3, 0], [7, 40, 0], [0, 3, 60]]
    assert training.most_confused(matrix, 2) == [(1, 0, 7), (0, 1, 3)]
    assert training.most_confused(matrix, 9) == [(1, 0, 7), (0, 1, 3), (2, 1, 3)]
    assert training.most_confused([[4, 0], [0, 4]], 3) == []
    assert matrix[0][0] == 50


def test_linear_probe_learns_from_one_picture_per_class_without_a_warning(recwarn):
    features = torch.eye(30).numpy()
    probe = training.linear_probe(features, range(30))
    assert probe.score(features, range(30)) == 1.0
    assert len(recwarn) == 0


def test_head_alone_learns_from_features_and_repeats():
    features = torch.eye(3).repeat(5, 1)
    labels = torch.arange(3).repeat(5)
    head = training.train_head(features.numpy(), labels.numpy(), lr=0.1, steps=60)
    again = training.train_head(features.numpy(), labels.numpy(), lr=0.1, steps=60)
    assert (head(features).argmax(1) == labels).all()
    assert torch.equal(head.weight, again.weight)
