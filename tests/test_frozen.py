"""Frozen parts are computed once: the same training, and never a stale cache."""

import dataclasses

import pytest
import torch
from test_training import no_dropout, tiny

from vit_helpers import data, frozen, models, runtime, training
from vit_helpers.errors import CourseError

RECIPE = {"epochs": 2, "lr": 1e-3, "head_lr": 1e-2}


def pictures(seed=0, count=12, transform=None):
    """A picture set without files: class c is bright in channel c."""
    draw = torch.Generator().manual_seed(seed)
    made = object.__new__(data.PictureSet)
    made.labels = torch.arange(count) % 3
    made.class_names = ["red", "green", "blue"]
    made.in_memory = True
    made.pictures = []
    for label in made.labels:
        picture = torch.randint(0, 128, (3, 16, 16), dtype=torch.uint8, generator=draw)
        picture[label] += 100
        made.pictures.append(picture)
    made.transform = transform or data.Transform(together=[scale])
    return made


def scale(pixels):
    return pixels.float() / 128 - 1


def frozen_model(first=2, seed=0):
    model = no_dropout(tiny(seed=seed))
    models.freeze(model, first)
    return model


@pytest.fixture
def exact(rt, monkeypatch):
    monkeypatch.setattr(runtime, "_current", dataclasses.replace(rt, precision=torch.float32))


@pytest.mark.parametrize("first", [1, 2, 3])
def test_the_tail_answers_as_the_whole_model(exact, first):
    model = frozen_model(first).eval()
    remembered = frozen.remember(model, pictures(), batch_size=5)
    pixels, labels = next(iter(data.loader(pictures(), 12)))
    tokens, same_labels = next(iter(data.loader(remembered, 12)))
    assert tokens.shape[1] == (1 if first == 3 else 5)
    assert torch.equal(labels, same_labels)
    tail = frozen.Tail(model).eval()
    with torch.no_grad():
        assert torch.allclose(
            tail(pixel_values=tokens).logits, model(pixel_values=pixels).logits, atol=1e-5
        )


def test_training_the_tail_is_training_the_model(exact):
    whole, by_parts = frozen_model(), frozen_model()
    train = data.loader(pictures(), 4, shuffle=True)
    val = data.loader(pictures(seed=1, count=6), 4)
    expected = training.fit(whole, train, val, **RECIPE)

    sets = [frozen.remember(by_parts, p) for p in (pictures(), pictures(seed=1, count=6))]
    loaders = data.loader(sets[0], 4, shuffle=True), data.loader(sets[1], 4)
    history = training.fit(frozen.Tail(by_parts), *loaders, **RECIPE)

    other = by_parts.state_dict()
    assert all(torch.allclose(v, other[k], atol=1e-5) for k, v in whole.state_dict().items())
    for name in ("train loss", "validation loss"):
        assert history.to_frame()[name].tolist() == pytest.approx(
            expected.to_frame()[name].tolist(), abs=1e-5
        )


def test_the_file_is_used_again_and_never_stale(rt, tmp_path, monkeypatch):
    def remember(model, set_):
        return frozen.remember(model, set_, folder=tmp_path).tokens

    first = remember(frozen_model(), pictures())
    assert len(list(tmp_path.iterdir())) == 1
    calls = []
    monkeypatch.setattr(frozen.data, "loader", lambda *a, f=data.loader: calls.append(1) or f(*a))
    assert (remember(frozen_model(), pictures()) == first).all() and not calls
    learnt = frozen_model()
    with torch.no_grad():
        models.head(learnt).weight += 1  # behind the frozen part: the tokens are the same
    remember(learnt, pictures())
    assert not calls

    moved = frozen_model()
    with torch.no_grad():
        models.blocks(moved)[1].layernorm_after.weight[0] += 1e-3
    darker = pictures(transform=data.Transform(together=[lambda p: scale(p) * 0.9]))
    other = pictures()
    other.pictures[-1] = 255 - other.pictures[-1]
    changed = [(moved, pictures()), (frozen_model(3), pictures()), (frozen_model(), darker)]
    changed += [(frozen_model(), other), (frozen_model(), pictures(count=9))]
    for number, case in enumerate(changed, start=1):
        remember(*case)
        assert len(calls) == number


def test_large_tokens_are_mapped_from_a_file(rt, tmp_path, monkeypatch):
    monkeypatch.setattr(frozen, "LARGE_BYTES", 10)
    in_file = frozen.remember(frozen_model(), pictures())
    monkeypatch.undo()
    in_memory = frozen.remember(frozen_model(), pictures())
    assert type(in_file.tokens).__name__ == "memmap"
    assert (in_file.tokens == in_memory.tokens).all()


def test_an_interrupted_computation_leaves_no_file(rt, tmp_path, monkeypatch):
    first_batch = next(iter(data.loader(pictures(), 4)))

    def stopped(*arguments):
        yield first_batch
        raise KeyboardInterrupt

    monkeypatch.setattr(frozen.data, "loader", stopped)
    with pytest.raises(KeyboardInterrupt):
        frozen.remember(frozen_model(), pictures(), folder=tmp_path)
    assert not list(tmp_path.glob("*.npy"))
    monkeypatch.undo()
    frozen.remember(frozen_model(), pictures(), folder=tmp_path)
    assert len(list(tmp_path.glob("*.npy"))) == 1


def test_one_weight_in_front_brings_the_whole_backward_pass_back(rt):
    model = frozen_model()
    models.embeddings(model).cls_token.requires_grad_(True)
    pixels, _ = next(iter(data.loader(pictures(), 4)))
    in_the_graph = []
    for block in models.blocks(model):
        block.register_forward_hook(
            lambda module, inputs, output: in_the_graph.append(
                (output[0] if isinstance(output, tuple) else output).requires_grad
            )
        )
    model(pixel_values=pixels)
    assert in_the_graph == [True, True, True]
    with pytest.raises(CourseError, match="embeddings can learn .*cls_token"):
        frozen.remember(model, pictures())


def test_random_pictures_and_empty_sets_are_refused(rt):
    noisy = pictures(transform=lambda p: scale(p) + torch.randn(3, 16, 16))
    with pytest.raises(CourseError, match="draws at random"):
        frozen.remember(frozen_model(), noisy)
    with pytest.raises(CourseError, match="the set is empty"):
        frozen.remember(frozen_model(), pictures(count=0))


def test_a_disk_without_room_is_noticed_first(rt, tmp_path, monkeypatch):
    usage = type("usage", (), {"free": 10})
    monkeypatch.setattr(frozen.shutil, "disk_usage", lambda path: usage)
    with pytest.raises(CourseError, match="GB free"):
        frozen.remember(frozen_model(), pictures(), folder=tmp_path)
