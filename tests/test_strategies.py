"""Strategies of training: the right parameters learn, and the table says what was measured."""

import pytest
import torch
from test_frozen import pictures
from test_training import no_dropout, tiny

from vit_helpers import models, strategies, training
from vit_helpers.errors import CourseError

RECIPE = {"epochs": 2, "lr": 1e-3, "head_lr": 1e-2}


def attempt(change, seeds=(0,), **recipe):
    made = []

    def make():
        made.append(no_dropout(tiny()))
        change(made[-1])
        return made[-1]

    trial = strategies.attempt(
        make, pictures(), pictures(seed=1, count=6), RECIPE | recipe, batch_size=4, seeds=seeds
    )
    return trial, made


def test_the_head_alone():
    model = tiny()
    models.train_head_only(model)
    assert strategies.only_the_head_learns(model)
    assert len(models.trainable(model)) == 2
    models.freeze(model, 3)
    assert not strategies.only_the_head_learns(model)  # the last LayerNorm learns, too


def test_a_probe_changes_nothing_but_the_head(rt):
    trial, (model,) = attempt(models.train_head_only, keep_patches=0.5)
    before, after = tiny().state_dict(), model.state_dict()
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert moved == {"classifier.weight", "classifier.bias"}
    assert trial.trainable == 3 * 24 + 3


def test_lora_starts_where_the_model_was_and_moves_only_its_detours(rt):
    plain, changed = tiny().eval(), tiny().eval()
    models.add_lora(changed, rank=2)
    pixels = torch.randn(2, 3, 16, 16)
    with torch.no_grad():
        assert torch.allclose(plain(pixels).logits, changed(pixels).logits, atol=1e-6)
    trial, (model,) = attempt(models.add_lora)
    learned = {name for name, p in model.named_parameters() if p.requires_grad}
    assert all("lora_" in name or name.startswith("classifier.") for name in learned)
    assert trial.trainable == 3 * 24 + 3 + 3 * 2 * 2 * 24 * 8  # blocks, q and v, A and B, rank 8


@pytest.mark.parametrize("rank", [0, -1])
def test_lora_without_a_rank(rank):
    with pytest.raises(CourseError, match=f"rank is {rank}"):
        models.add_lora(tiny(), rank)


def test_each_seed_is_a_training_of_its_own_and_repeats(rt):
    trial, made = attempt(lambda model: None, seeds=(0, 1, 2))
    again, _ = attempt(lambda model: None, seeds=(0, 1, 2))
    assert len(trial.accuracies) == len(made) == 3
    assert trial.accuracies == again.accuracies
    with pytest.raises(CourseError, match="seeds is empty"):
        attempt(lambda model: None, seeds=())


def test_intervals():
    one = strategies.Trial((0.8,), 100, 1.0, 1.0, 1)
    assert one.interval == training.wilson_interval(80, 100)
    three = strategies.Trial((0.7, 0.8, 0.9), 100, 1.0, 1.0, 1)
    low, high = three.interval
    assert (low, high) == pytest.approx((0.8 - 4.303 * 0.1 / 3**0.5, 1.0), abs=1e-3)
    same = strategies.Trial((0.8, 0.8), 100, 1.0, 1.0, 1)
    assert same.interval == pytest.approx((0.8, 0.8))


def test_the_table_names_every_strategy():
    trials = {
        "probe": strategies.Trial((0.5,), 100, 6.0, 20.0, 1234),
        "everything": strategies.Trial((0.7,), 100, 60.0, 900.0, 5_500_000),
    }
    table = strategies.table(trials)
    assert list(table.index) == list(trials)
    assert table.loc["everything", "trainable"] == "5,500,000"
    assert table.loc["probe", "minutes"].strip() == "≈   0.10"
