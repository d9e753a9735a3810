"""Training: the loop learns, repeats, resumes bit for bit, and refuses what cannot work."""

import ast
import dataclasses
import inspect
import math
import signal
import subprocess
import sys
import textwrap
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from factories import Colours, adamw, fitted, loaders, same_weights, tiny
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import ViTForImageClassification

from vit_helpers import models, runtime, training
from vit_helpers.errors import CourseError
from vit_helpers.training import loop, precision, state

SAME = ["train loss", "train accuracy", "validation loss", "validation accuracy"]


def reference(model, epochs=3, lr=2e-3, head_lr=1e-2, schedule="linear", smoothing=0.0):
    """What `fit` should do, without anything beside it. Returns the loss of every step."""
    from transformers import get_scheduler

    train, val = loaders()
    optimizer = adamw(model, lr, head_lr)
    steps = epochs * len(train)
    scheduler = get_scheduler(schedule, optimizer, round(0.1 * steps), steps)
    torch.manual_seed(0)
    train.generator.manual_seed(0)
    losses = []
    for _ in range(epochs):
        model.train()
        for pixels, labels in train:
            logits = model(pixel_values=pixels).logits
            loss = torch.nn.functional.cross_entropy(logits, labels, label_smoothing=smoothing)
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            scheduler.step()
            losses.append(float(loss.detach()))
        list(runtime.bar(val))  # it draws seeds for its workers, as in an evaluation
    return losses


@pytest.fixture
def fp32(rt):
    """A runtime that computes in fp32, whatever this machine is fast in."""
    with runtime.override(dataclasses.replace(rt, precision=torch.float32)):
        yield


# --- fit ---------------------------------------------------------------------------------------


def test_fit_can_be_read_on_one_screen():
    body = ast.parse(textwrap.dedent(inspect.getsource(training.fit))).body[0]
    assert len(body.args.args) + len(body.args.kwonlyargs) <= 12
    assert body.end_lineno - body.body[0].end_lineno <= 60  # without the docstring


def test_importing_it_leaves_the_environment_to_the_set_up_cell():
    # transformers and datasets read the environment when they are imported.
    code = "import sys; from vit_helpers import training; from vit_helpers.cli import train; "
    code += "print([n for n in ('transformers', 'datasets', 'accelerate') if n in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_it_learns_and_writes_one_row_an_epoch(rt, capsys):
    model = tiny()
    history = fitted(model)
    frame = history.to_frame()
    assert list(frame.index) == [1, 2, 3]
    assert frame["train loss"].iloc[-1] < frame["train loss"].iloc[0]
    assert training.evaluate(model, loaders()[1]).accuracy == 1.0
    assert not model.training
    assert [step["step"] for step in history.steps] == list(range(1, 10))
    assert [line[:13] for line in capsys.readouterr().out.splitlines()[-3:]] == [
        f"epoch {n} of 3:" for n in (1, 2, 3)
    ]


@pytest.mark.parametrize("schedule", ["linear", "cosine"])
@pytest.mark.parametrize("smoothing", [0.0, 0.3])
def test_its_losses_are_those_of_the_plain_loop(fp32, schedule, smoothing):
    history = fitted(tiny(), schedule=schedule, label_smoothing=smoothing)
    expected = reference(tiny(), schedule=schedule, smoothing=smoothing)
    assert [step["loss"] for step in history.steps] == pytest.approx(expected, abs=1e-6)


def test_the_same_seed_gives_the_same_bits(rt):
    first, second = tiny(), tiny()
    one = fitted(first)
    torch.rand(7)  # whatever a reader runs in between
    two = fitted(second)
    assert same_weights(first, second)
    assert one.steps == two.steps
    other = fitted(tiny(), seed=1)
    assert other.steps != one.steps


def test_batches_may_be_dictionaries(rt):
    class Rows(Colours):
        def __getitem__(self, i):
            pixels, label = super().__getitem__(i)
            return {"pixel_values": pixels, "labels": label}

    train, val = (torch.utils.data.DataLoader(Rows(24), batch_size=10) for _ in range(2))
    history = fitted(tiny(), train, val)
    assert len(history.rows) == 3
    assert training.evaluate(tiny(), val).logits.shape == (24, 3)
    assert training.cache_features(tiny(), val)[0].shape == (24, 24)

    class Others(Colours):
        def __getitem__(self, i):
            return {"img": super().__getitem__(i)[0]}

    with pytest.raises(CourseError, match="names img, but 'pixel_values' and 'labels'"):
        training.evaluate(tiny(), torch.utils.data.DataLoader(Others(3), batch_size=3))


def test_a_data_set_of_the_hub_with_a_transform_of_ones_own(rt, tmp_path):
    import datasets
    from PIL import Image

    def part(colour):
        pictures = [Image.new("RGB", (16, 16), (colour, 255 * (i % 2), 0)) for i in range(8)]
        kinds = datasets.Features(
            {"img": datasets.Image(), "label": datasets.ClassLabel(names=["cat", "dog"])}
        )
        rows = {"img": pictures, "label": [i % 2 for i in range(8)]}
        return datasets.Dataset.from_dict(rows, features=kinds)

    def prepare(rows):
        pixels = [torch.rand(3, 16, 16) for _ in rows["img"]]  # augments to nothing but noise
        return {"pixel_values": pixels, "labels": rows["label"]}

    def batches(part):
        return torch.utils.data.DataLoader(part.with_transform(prepare), batch_size=4)

    red = part(255)
    other = red.select(range(7, -1, -1))
    fitted(tiny(2), batches(red), batches(red), epochs=1, checkpoint_dir=tmp_path)
    fitted(tiny(2), batches(red), batches(red), epochs=1, checkpoint_dir=tmp_path)
    with pytest.raises(CourseError, match="other training pictures .labels: they differ"):
        fitted(tiny(2), batches(other), batches(red), epochs=1, checkpoint_dir=tmp_path)
    with pytest.raises(CourseError, match="Class 2 .* has no training picture"):
        fitted(tiny(3), batches(red), batches(red))


@pytest.mark.parametrize("generator", [True, False])
@pytest.mark.parametrize("schedule", training.SCHEDULES)
def test_resumed_equals_uninterrupted(rt, tmp_path, capsys, schedule, generator):
    whole = tiny()
    history = fitted(whole, *loaders(generator=generator), schedule=schedule)

    def run(model, **more):
        recipe = {"schedule": schedule, "checkpoint_dir": tmp_path} | more
        return fitted(model, *loaders(generator=generator), **recipe)

    run(tiny(), stop_after=1)
    torch.manual_seed(99)  # another day, another process
    parts = tiny()
    resumed = run(parts)
    assert "Going on after epoch 1 of 3." in capsys.readouterr().out
    assert same_weights(whole, parts)
    assert history.to_frame()[SAME].equals(resumed.to_frame()[SAME])
    assert history.steps == resumed.steps


def test_the_same_objects_go_on_too(rt, tmp_path):
    whole, model = tiny(), tiny()
    fitted(whole)
    train, val = loaders()
    optimizer = adamw(model)
    for stop_after in (1, 2, None):
        fitted(model, train, val, optimizer, checkpoint_dir=tmp_path, stop_after=stop_after)
    assert same_weights(whole, model)


def test_a_new_head_may_differ_when_a_run_goes_on(rt, tmp_path):
    whole, parts = tiny(), tiny()
    fitted(whole)
    fitted(tiny(), checkpoint_dir=tmp_path, stop_after=1)
    torch.nn.init.normal_(parts.classifier.weight)  # it starts at random in every process
    fitted(parts, checkpoint_dir=tmp_path)
    assert same_weights(whole, parts)


def test_a_finished_run_is_not_trained_again(rt, tmp_path):
    first, second = tiny(), tiny()
    fitted(first, checkpoint_dir=tmp_path)
    history = fitted(second, checkpoint_dir=tmp_path)
    assert same_weights(first, second)
    assert len(history.rows) == 3


def test_checkpoint_folder_holds_one_whole_file(rt, tmp_path):
    fitted(tiny(), checkpoint_dir=tmp_path / "new")
    assert [f.name for f in (tmp_path / "new").iterdir()] == ["last.pt"]


def test_checkpoint_holds_the_weights_once_where_the_last_epoch_is_the_best(rt, tmp_path):
    big = tiny(hidden=96)
    weights = sum(v.nbytes for v in big.state_dict().values())
    fitted(big, checkpoint_dir=tmp_path, stop_after=1)
    size = (tmp_path / "last.pt").stat().st_size
    assert size < 3.3 * weights  # the model, and AdamW's two averages of every weight
    again = tiny(hidden=96)
    fitted(again, checkpoint_dir=tmp_path, stop_after=1)
    assert same_weights(big, again)


def with_accuracies(monkeypatch, *values):
    """Let the epochs have these validation accuracies, the last one again and again."""
    left = list(values)
    original = loop.evaluate

    def fake(model, loader):
        val = original(model, loader)
        n = len(val.labels)
        right = round((left.pop(0) if len(left) > 1 else left[0]) * n)
        answers = torch.cat([val.labels[:right], (val.labels[right:] + 1) % 3])
        return training.Evaluation(val.labels, torch.nn.functional.one_hot(answers, 3).float())

    monkeypatch.setattr(loop, "evaluate", fake)


def test_model_ends_with_its_best_epoch(rt, monkeypatch):
    second, model = tiny(), tiny()
    fitted(second, stop_after=2)
    with_accuracies(monkeypatch, 2 / 9, 8 / 9, 4 / 9)
    history = fitted(model)
    assert history.best_epoch == 2
    assert history.rows[1]["validation accuracy"] == pytest.approx(8 / 9)
    assert same_weights(model, second)


def test_resumed_after_the_best_epoch_equals_uninterrupted(rt, tmp_path, monkeypatch):
    # The best epoch is the first here, so the checkpoint of the second holds two sets of weights.
    whole, parts = tiny(), tiny()
    with_accuracies(monkeypatch, 8 / 9, 4 / 9, 2 / 9)
    history = fitted(whole)
    with_accuracies(monkeypatch, 8 / 9, 4 / 9)
    fitted(tiny(), checkpoint_dir=tmp_path, stop_after=2)
    with_accuracies(monkeypatch, 2 / 9)
    fitted(parts, checkpoint_dir=tmp_path)
    assert history.best_epoch == 1
    assert same_weights(whole, parts)


# --- a checkpoint of another run -----------------------------------------------------------------


def started(folder, **more):
    fitted(tiny(), checkpoint_dir=folder, stop_after=1, **more)


def refuses(folder, match, model=None, train=None, val=None, optimizer=None, **recipe):
    before = (folder / "last.pt").read_bytes()
    model = tiny() if model is None else model
    weights = {k: v.clone() for k, v in model.state_dict().items()}
    with pytest.raises(CourseError, match=match):
        fitted(model, train, val, optimizer, checkpoint_dir=folder, **recipe)
    assert (folder / "last.pt").read_bytes() == before
    assert all(torch.equal(v, weights[k]) for k, v in model.state_dict().items())


def test_another_model_is_another_run(rt, tmp_path):
    started(tmp_path)
    for other in (tiny(hidden=32), tiny(depth=2)):
        refuses(tmp_path, "of another model .vit.*: .* there, .* here", other)
    refuses(tmp_path, "started from other weights", tiny(seed=5))
    named = tiny()
    named.config.id2label = {0: "oak", 1: "elm", 2: "ash"}
    refuses(tmp_path, "other classes .0: LABEL_0 there, oak here", named)


@pytest.mark.parametrize("change, match", [
    ({"epochs": 4}, "another recipe .epochs: 3 there, 4 here"),
    ({"warmup": 0.2}, "warmup: 0.1 there, 0.2 here"),
    ({"clip": 0.5}, "clip: 1.0 there, 0.5 here"),
    ({"label_smoothing": 0.1}, "label_smoothing: 0.0 there"),
    ({"schedule": "cosine"}, "schedule: linear there"),
    ({"seed": 7}, "seed: 0 there, 7 here"),
])  # fmt: skip
def test_another_recipe_is_another_run(rt, tmp_path, change, match):
    started(tmp_path)
    refuses(tmp_path, match, **change)


def test_another_optimizer_is_another_run(rt, tmp_path):
    started(tmp_path)
    for make, match in (
        (lambda m: adamw(m, lr=1e-3), "another optimizer .lr of group 0: 0.002 there, 0.001 here"),
        (lambda m: torch.optim.SGD(m.parameters(), lr=1e-3), "kind: AdamW there, SGD here"),
        (lambda m: torch.optim.AdamW(m.parameters(), weight_decay=0.5), "of group 0"),
    ):
        model = tiny()
        refuses(tmp_path, match, model, optimizer=make(model))
    frozen = tiny()
    models.freeze(frozen, 1)
    refuses(tmp_path, "another optimizer", frozen)


def test_other_pictures_are_another_run(rt, tmp_path):
    started(tmp_path)
    train, val = loaders()
    refuses(
        tmp_path, "other training pictures .number: 24 there, 27 here", None, loaders(27)[0], val
    )
    refuses(tmp_path, "other validation pictures .number: 9 there", None, train, train)
    shifted = loaders()[0]
    shifted.dataset.labels = (shifted.dataset.labels + 1) % 3
    refuses(tmp_path, "other training pictures .labels: they differ", None, shifted, val)


def test_other_rows_of_the_same_pictures_are_another_run(rt, tmp_path):
    (train, _), val = loaders(27), loaders()[1]

    def of(rows):
        part = torch.utils.data.Subset(train.dataset, rows)
        return torch.utils.data.DataLoader(part, batch_size=4)

    labels = [int(label) for label in train.dataset.labels]
    first = [labels.index(label) for label in range(3)]
    last = [26 - labels[::-1].index(label) for label in range(3)]
    fitted(tiny(), of(first), val, checkpoint_dir=tmp_path)
    refuses(tmp_path, "other training pictures .rows: they differ", None, of(last), val)


@pytest.mark.parametrize("keep", [0, 100, 5000])
def test_broken_checkpoint(rt, tmp_path, keep):
    started(tmp_path)
    path = tmp_path / "last.pt"
    path.write_bytes(path.read_bytes()[:keep])
    refuses(tmp_path, "not a checkpoint that can be read")


def test_a_file_of_something_else_is_no_checkpoint(rt, tmp_path):
    torch.save({"plan": {}}, tmp_path / "last.pt")  # of the first edition
    refuses(tmp_path, "not a checkpoint that can be read")


# --- number formats, frozen parts ----------------------------------------------------------------


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


@pytest.mark.parametrize("has_bf16, kind", [(True, "plain_bf16"), (False, "sdpa")])
def test_bf16_and_plain_attention_where_the_cpu_is_fast_in_them(rt, monkeypatch, has_bf16, kind):
    monkeypatch.setattr(runtime, "cpu_has_bf16", lambda: has_bf16)
    device, dtype = runtime.choose_device()
    if device.type != "cpu":
        pytest.skip("this rule is about CPUs")
    model, seen = tiny(), set()
    models.blocks(model)[0].register_forward_hook(
        lambda *_: seen.add((model.config._attn_implementation, torch.is_autocast_enabled("cpu")))
    )
    _, val = loaders()
    for run in (
        lambda: fitted(model),
        lambda: training.evaluate(model, val),
        lambda: training.cache_features(model, val),
    ):
        seen.clear()
        with runtime.override(dataclasses.replace(rt, precision=dtype)):
            run()
        assert seen == {(kind, has_bf16)}
        assert model.config._attn_implementation == "sdpa"


def test_frozen_parts_do_not_move_and_cost_no_backward_pass(rt):
    model = tiny()
    models.freeze(model, 2)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    needs_graph = {}

    def hook(name, output):
        tokens = output[0] if isinstance(output, tuple) else output
        if torch.is_grad_enabled():  # not while a picture is tried first
            needs_graph.setdefault(name, tokens.requires_grad)

    for i, block in enumerate(models.blocks(model)):
        block.register_forward_hook(lambda module, inputs, output, i=i: hook(i, output))
    fitted(model, epochs=1)
    moved = {k for k, v in model.state_dict().items() if not torch.equal(v, before[k])}
    assert moved == {k for k, p in model.named_parameters() if p.requires_grad}
    assert needs_graph == {0: False, 1: False, 2: True}


def test_frozen_parts_are_in_evaluation_mode():
    model = tiny()
    models.freeze(model, 2)
    precision.train_mode(model)
    assert not models.embeddings(model).training
    assert [block.training for block in models.blocks(model)] == [False, False, True]
    assert model.training


def test_a_model_with_lora_learns_and_goes_on(rt, tmp_path):
    def detoured():
        from peft import LoraConfig, inject_adapter_in_model

        model = tiny()
        ends = {name.rpartition(".")[2] for name, _ in models.blocks(model).named_modules()}
        targets = sorted(ends & {"query", "value", "q_proj", "v_proj"})  # transformers 4.57, 5
        inject_adapter_in_model(LoraConfig(r=2, lora_alpha=4, target_modules=targets), model)
        for name, p in model.named_parameters():
            p.requires_grad_("lora_" in name)
        models.head(model).requires_grad_(True)
        return model

    whole, parts = detoured(), detoured()
    fitted(whole)
    fitted(detoured(), checkpoint_dir=tmp_path, stop_after=1)
    fitted(parts, checkpoint_dir=tmp_path)
    assert same_weights(whole, parts)


def out_of_memory_above(monkeypatch, largest):
    """Let the network fail as a full GPU does, for more pictures than `largest`."""
    original = ViTForImageClassification.forward

    def forward(self, pixel_values, **more):
        if self.training and len(pixel_values) > largest:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return original(self, pixel_values, **more)

    monkeypatch.setattr(ViTForImageClassification, "forward", forward)


def test_out_of_memory_is_a_sentence_and_changes_nothing(rt, monkeypatch):
    out_of_memory_above(monkeypatch, 3)
    model = tiny()
    with pytest.raises(state.OutOfMemory, match="A batch of 10 pictures does not fit"):
        fitted(model)
    assert same_weights(model, tiny())
    assert all(p.grad is None for p in model.parameters())
    assert len(fitted(model, *loaders(batch=3)).rows) == 3


# --- interrupted, and a full disk --------------------------------------------------------------


def press_stop(monkeypatch, owner, name, call):
    """Send the signal of Ctrl-C after the given call of a function; calls count from 1."""
    original, calls = getattr(owner, name), []

    def pressing(*args, **kwargs):
        calls.append(1)
        result = original(*args, **kwargs)
        if len(calls) == call:
            signal.raise_signal(signal.SIGINT)
        return result

    monkeypatch.setattr(owner, name, pressing)


PLACES = {
    "clip": (loop, "clip_grad_norm_"), "count": (state.State, "count"),
    "evaluate": (loop, "evaluate"), "keep": (state.State, "_weights"),
}  # fmt: skip


@pytest.mark.parametrize("place, call, epoch", [
    ("clip", 2, 0), ("count", 2, 0), ("clip", 5, 1), ("evaluate", 2, 1), ("count", 8, 2),
    ("keep", 3, 1),
])  # fmt: skip
def test_ctrl_c_leaves_a_usable_model_and_loses_nothing(
    rt, tmp_path, monkeypatch, capsys, place, call, epoch
):
    whole, model = tiny(), tiny()
    expected = fitted(whole)
    at_epoch = tiny()
    if epoch:
        fitted(at_epoch, stop_after=epoch)
    at_epoch.eval()

    train, val = loaders()
    optimizer = adamw(model)
    with monkeypatch.context() as context:
        press_stop(context, *PLACES[place], call)
        stopped = fitted(model, train, val, optimizer, checkpoint_dir=tmp_path)
    said = capsys.readouterr().out
    assert stopped.interrupted
    assert f"Stopped after {epoch} of 3 epochs" in said
    assert ("goes on from the checkpoint" if epoch else "starts from the first epoch") in said
    assert [row["epoch"] for row in stopped.rows] == list(range(1, epoch + 1))
    assert same_weights(model, at_epoch)  # not those of half an epoch
    assert not model.training
    assert training.evaluate(model, loaders()[1]).logits.isfinite().all()

    resumed = fitted(model, train, val, optimizer, checkpoint_dir=tmp_path)
    assert not resumed.interrupted
    assert same_weights(model, whole)
    assert expected.to_frame()[SAME].equals(resumed.to_frame()[SAME])


@pytest.mark.parametrize("epoch", [1, 2])
def test_ctrl_c_while_the_checkpoint_is_written(rt, tmp_path, monkeypatch, capsys, epoch):
    whole, model = tiny(), tiny()
    fitted(whole)
    save, count = torch.save, []

    def stopped_half_way(content, path):
        count.append(1)
        if len(count) == epoch:
            path.write_bytes(b"half")
            signal.raise_signal(signal.SIGINT)
        save(content, path)

    with monkeypatch.context() as context:
        context.setattr(torch, "save", stopped_half_way)
        stopped = fitted(model, checkpoint_dir=tmp_path)
    assert len(stopped.rows) == epoch
    assert "goes on from the checkpoint" in capsys.readouterr().out
    assert [f.name for f in tmp_path.iterdir()] == ["last.pt"]
    fitted(model, checkpoint_dir=tmp_path)
    assert same_weights(model, whole)


@pytest.mark.parametrize(
    "error", [OSError(28, "No space left on device"), RuntimeError("[enforce fail] unexpected pos")]
)
def test_disk_full_is_reported_and_the_last_checkpoint_is_whole(rt, tmp_path, monkeypatch, error):
    whole, model = tiny(), tiny()
    fitted(whole)
    started(tmp_path)
    before = (tmp_path / "last.pt").read_bytes()

    def full_disk(content, path):
        path.write_bytes(b"half")
        raise error

    with monkeypatch.context() as context:
        context.setattr(torch, "save", full_disk)
        with pytest.raises(CourseError, match="checkpoint could not be written .* free some space"):
            fitted(model, checkpoint_dir=tmp_path)
    assert (tmp_path / "last.pt").read_bytes() == before
    assert len(list(tmp_path.iterdir())) == 1
    fitted(model, checkpoint_dir=tmp_path)
    assert same_weights(model, whole)


def test_what_cannot_be_written_is_noticed_before_the_first_step(rt, tmp_path, monkeypatch):
    monkeypatch.setattr(loop, "train_mode", None)
    (tmp_path / "file").write_text("")
    with pytest.raises(CourseError, match="cannot be made .*choose another one"):
        fitted(tiny(), checkpoint_dir=tmp_path / "file" / "folder")


def test_what_a_killed_process_left_is_overwritten(rt, tmp_path):
    (tmp_path / "last.pt.part").write_bytes(b"half of a checkpoint")
    fitted(tiny(), epochs=1, checkpoint_dir=tmp_path)
    assert [f.name for f in tmp_path.iterdir()] == ["last.pt"]


def test_a_loss_that_is_no_number_leaves_the_weights_of_the_last_good_epoch(rt, tmp_path):
    model = tiny()
    with pytest.raises(CourseError, match="loss is nan at step 1 of epoch 1: lower"):
        fitted(model, *loaders(noise=math.nan))
    assert same_weights(model, tiny())
    one = tiny()
    fitted(one, stop_after=1)
    started(tmp_path)
    before = (tmp_path / "last.pt").read_bytes()
    broken = adamw(model)
    with pytest.MonkeyPatch.context() as context:
        context.setattr(loop, "clip_grad_norm_", lambda p, c: [q.grad.fill_(math.nan) for q in p])
        with pytest.raises(CourseError, match="loss is nan at step 2 of epoch 2"):
            fitted(model, optimizer=broken, checkpoint_dir=tmp_path)
    assert (tmp_path / "last.pt").read_bytes() == before
    assert same_weights(model, one)


def test_weights_that_break_in_the_last_step_are_not_kept(rt, tmp_path, monkeypatch):
    model, calls = tiny(), []

    def breaks(parameters, clip):
        calls.append(1)
        if len(calls) == 3:  # the last step of the first epoch
            [p.grad.fill_(math.nan) for p in parameters]

    monkeypatch.setattr(loop, "clip_grad_norm_", breaks)
    with pytest.raises(CourseError, match="loss is nan"):
        fitted(model, checkpoint_dir=tmp_path)
    assert same_weights(model, tiny())
    assert not list(tmp_path.iterdir())


# --- what cannot work --------------------------------------------------------------------------


class Nothing(Colours):
    def __init__(self):
        self.labels = torch.zeros(0, dtype=torch.long)


def test_empty_loaders(rt):
    train, val = loaders()
    empty = torch.utils.data.DataLoader(Nothing(), batch_size=2)
    with pytest.raises(CourseError, match="training loader is empty"):
        fitted(tiny(), empty, val)
    with pytest.raises(CourseError, match="validation loader is empty"):
        fitted(tiny(), train, empty)
    for look in (training.evaluate, training.cache_features):
        with pytest.raises(CourseError, match="loader is empty"):
            look(tiny(), empty)


def test_labels_and_head_must_fit(rt):
    train, val = loaders()
    with pytest.raises(CourseError, match="Class 3 .* has no training picture"):
        fitted(tiny(classes=4), train, val)
    with pytest.raises(CourseError, match="Label 2 has no output: the head has 2 classes"):
        fitted(tiny(classes=2), train, val)
    with pytest.raises(CourseError, match="Label 2 has no output"):
        training.evaluate(tiny(classes=2), val)


def test_nothing_to_learn(rt):
    model = tiny()
    optimizer = adamw(model)
    with pytest.raises(CourseError, match="optimizer has none of the parameters of this model"):
        fitted(tiny(), optimizer=optimizer)
    with pytest.raises(CourseError, match="Every learning rate is 0"):
        fitted(model, optimizer=adamw(model, 0.0, 0.0))
    with pytest.raises(CourseError, match="Every parameter is frozen"):
        fitted(model.requires_grad_(False), optimizer=optimizer)


ODD = st.sampled_from([0, -1, 0.5, 1.5, 10**400, math.nan, math.inf, -math.inf, "3", None, True])


NUMBERS = st.sampled_from(["epochs", "warmup", "clip", "label_smoothing", "stop_after"])


@given(name=NUMBERS, value=ODD)
@settings(max_examples=60)
def test_numbers_out_of_range_are_a_sentence_before_anything_is_computed(name, value):
    runtime.start("classifier")
    fine = {
        "epochs": False, "stop_after": value in (None, 10**400), "warmup": value in (0, 0.5),
        "clip": value in (0.5, 1.5), "label_smoothing": value in (0, 0.5),
    }[name] and value is not True  # fmt: skip
    if fine:
        return
    model = tiny()
    model.register_forward_pre_hook(lambda *_: pytest.fail("something was computed"))
    with pytest.raises(CourseError, match=name):
        fitted(model, **{name: value})


def test_numbers_of_numpy_count(rt, tmp_path):
    recipe = {"warmup": np.float32(0.25), "seed": np.int64(3)}
    history = fitted(tiny(), epochs=np.int64(1), **recipe, checkpoint_dir=tmp_path)
    assert len(history.rows) == 1
    again = fitted(tiny(), epochs=1, warmup=0.25, seed=3, checkpoint_dir=tmp_path)
    assert again.steps == history.steps


def test_unknown_schedule(rt):
    with pytest.raises(CourseError, match="schedule is 'step', but it must be one of 'linear'"):
        fitted(tiny(), schedule="step")


def test_an_empty_history_is_a_sentence():
    with pytest.raises(CourseError, match="history is empty"):
        training.History().to_frame()
    with pytest.raises(CourseError, match="history is empty"):
        training.History().best_epoch  # noqa: B018


# --- parameter groups ----------------------------------------------------------------------------


def test_head_has_its_own_rate_and_vectors_do_not_decay():
    model = tiny()
    groups = training.parameter_groups(model, lr=1e-4, head_lr=1e-2)
    by_id = {id(p): group for group in groups for p in group["params"]}
    assert len(by_id) == len(list(model.parameters()))
    for name, p in model.named_parameters():
        assert by_id[id(p)]["lr"] == (1e-2 if name.startswith("classifier") else 1e-4)
        assert (by_id[id(p)]["weight_decay"] == 0) == (p.ndim == 1)


def test_a_rate_of_zero_for_the_head_means_zero(rt):
    model = tiny()
    head = models.head(model).weight.detach().clone()
    fitted(model, optimizer=adamw(model, head_lr=0.0))
    assert torch.equal(models.head(model).weight, head)
    assert not same_weights(model, tiny())
