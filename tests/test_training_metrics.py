"""Judging a classifier, and training on cached features."""

import numpy as np
import pytest
import torch
from factories import Colours, loaders, tiny
from hypothesis import given, settings
from hypothesis import strategies as st

from vit_helpers import models, training
from vit_helpers.errors import CourseError


def test_accuracy_counts_every_picture_once(rt):
    # Nine pictures in batches of 4, 4, 1: the mean of batch means would be another number.
    model = tiny()
    result = training.evaluate(model, loaders()[1])
    with torch.inference_mode():
        pixels = torch.stack([Colours(9, 0.0)[i][0] for i in range(9)])
        logits = model(pixel_values=pixels).logits
    assert torch.allclose(result.logits, logits, atol=2e-2)
    assert torch.equal(result.labels, Colours(9).labels)
    expected = float((result.logits.argmax(1) == Colours(9).labels).float().mean())
    assert result.accuracy == pytest.approx(expected)
    assert result.correct == round(9 * expected)
    assert result.interval == training.wilson_interval(result.correct, 9)
    assert result.loss == pytest.approx(
        float(torch.nn.functional.cross_entropy(result.logits, Colours(9).labels)), abs=1e-6
    )


def test_a_model_can_learn_after_it_was_judged(rt):
    model = tiny()
    training.evaluate(model, loaders()[1])
    assert not any(p.is_inference() for p in model.parameters())


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


def test_a_paired_comparison_decides_where_two_intervals_overlap():
    right_a = np.arange(200) < 150
    right_b = (np.arange(200) < 138) | (np.arange(200) >= 199)  # 12 worse, 1 better
    difference, low, high, p = training.paired_difference(right_a, right_b)
    assert difference == pytest.approx(11 / 200)
    assert 0 < low < difference < high and p < 0.01
    one, other = (training.wilson_interval(int(r.sum()), 200) for r in (right_a, right_b))
    assert other[1] > one[0]
    backwards = training.paired_difference(right_b, right_a)
    assert backwards[0] == -difference and backwards[3] == pytest.approx(p, abs=5e-3)


def test_a_paired_comparison_of_equals_decides_nothing():
    right = np.arange(50) % 3 > 0
    assert training.paired_difference(right, right) == (0.0, 0.0, 0.0, 1.0)
    with pytest.raises(CourseError, match="shapes"):
        training.paired_difference(right, right[:-1])


@settings(max_examples=15)
@given(st.integers(2, 40), st.randoms())
def test_the_exact_test_of_mcnemar_is_near(n, random):
    from scipy.stats import binomtest

    a = np.array([random.random() < 0.7 for _ in range(n)])
    b = np.array([random.random() < 0.5 for _ in range(n)])
    better, worse = int((a & ~b).sum()), int((b & ~a).sum())
    exact = binomtest(better, better + worse).pvalue if better + worse else 1.0
    # Twice a share of 10,000 draws: its standard error is at most 0.01; five of them.
    assert training.paired_difference(a, b)[3] == pytest.approx(exact, abs=0.05)


# --- cached features -----------------------------------------------------------------------------


def test_features_are_what_the_head_sees(rt):
    model = tiny()
    loader = loaders()[1]
    features, labels = training.cache_features(model, loader)
    assert features.shape == (9, 24) and features.dtype == np.float32
    logits = models.head(model)(torch.from_numpy(features))
    assert torch.allclose(logits, training.evaluate(model, loader).logits, atol=2e-2)
    assert list(labels) == list(Colours(9).labels)
    assert not models.head(model)._forward_pre_hooks


def test_linear_probe_learns_from_one_picture_per_class_without_a_warning(recwarn):
    features = torch.eye(30).numpy()
    probe = training.linear_probe(features, range(30))
    assert probe.score(features, range(30)) == 1.0
    assert len(recwarn) == 0


def test_head_alone_learns_from_features_and_repeats():
    features = torch.eye(3).repeat(5, 1)
    labels = torch.arange(3).repeat(5)
    head = training.train_head(features.numpy(), labels.numpy(), lr=0.1, steps=60)
    again = training.train_head(features, labels, lr=0.1, steps=60)
    assert (head(features).argmax(1) == labels).all()
    assert torch.equal(head.weight, again.weight)


def test_few_per_class_is_balanced_and_repeats():
    labels = torch.tensor([0, 1, 2] * 7)
    chosen = training.few_per_class(labels, 4, seed=3)
    assert labels[chosen].bincount().tolist() == [4, 4, 4]
    assert len(set(chosen)) == 12
    assert list(chosen) == list(training.few_per_class(labels, 4, seed=3))
    assert list(chosen) != list(training.few_per_class(labels, 4, seed=4))
    with pytest.raises(CourseError, match="Class 0 has 7 pictures, not 8"):
        training.few_per_class(labels, 8)
