"""Train on cached features: with a frozen body, a picture has to pass through it only once."""

import warnings

import numpy as np
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from .. import models
from ..errors import CourseError, number, whole_number
from .metrics import evaluate


def cache_features(model: nn.Module, loader):
    """What the head sees of every picture: for a ViT, the [CLS] token after the last LayerNorm.

    Args:
        model: A ViT classifier.
        loader: As for `evaluate`; without augmentation and in a fixed order.

    Returns:
        `(features (N, width), labels (N,))` as NumPy arrays, ready for scikit-learn.

    Raises:
        CourseError: If the loader is empty or the model cannot take such pictures.
    """
    head = models.head(model)
    layers = head if isinstance(head, nn.ModuleList) else [head]  # a DeiT may have two
    seen: list[list[torch.Tensor]] = [[] for _ in layers]

    def keep(i):  # a copy: the input is a view of all tokens
        return lambda layer, inputs: seen[i].append(inputs[0].to("cpu", torch.float32, copy=True))

    hooks = [layer.register_forward_pre_hook(keep(i)) for i, layer in enumerate(layers)]
    try:
        labels = evaluate(model, loader, "features", any_label=True).labels
    finally:
        for hook in hooks:
            hook.remove()
    # `evaluate` tries one picture first: the last rows are those of the set.
    features = [torch.cat(part)[-len(labels) :] for part in seen]
    return torch.cat(features, dim=1).numpy(), labels.numpy()


def linear_probe(features, labels):
    """Fit a logistic regression on features: the cheapest way to ask what a model knows.

    Features (N, width) and labels (N,) are those of `cache_features`; each column is standardised
    first. The result is a scikit-learn classifier with `predict` and `score`.

    Raises:
        CourseError: If there are fewer than two classes, or a feature is not a finite number.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    features, labels = _checked(features, labels)
    if len(np.unique(labels)) < 2:
        raise CourseError("All pictures are of one class: a probe needs at least two classes.")
    probe = make_pipeline(StandardScaler(), LogisticRegression(max_iter=2000))
    with warnings.catch_warnings():
        # With one picture a class, scikit-learn asks whether the labels are measurements.
        warnings.filterwarnings("ignore", message="The number of unique classes")
        return probe.fit(features, labels)


def train_head(features, labels, *, lr: float, steps: int, seed: int = 0):
    """Train a new head alone on features (N, width) and labels (N,) of `cache_features`.

    AdamW, 32 pictures drawn at random a step; a tenth of the steps are warm-up to `lr`, then a
    cosine. All steps take about a second.

    Returns:
        A `torch.nn.Linear`; `head(torch.from_numpy(features))` gives logits.
    """
    from transformers import get_scheduler

    lr, steps = number("lr", lr, least=0), whole_number("steps", steps, 1)
    features, labels = (torch.from_numpy(part) for part in _checked(features, labels))
    generator = torch.Generator().manual_seed(whole_number("seed", seed, 0))
    head = nn.Linear(features.shape[1], int(labels.max()) + 1)
    nn.init.normal_(head.weight, std=0.02, generator=generator)
    nn.init.zeros_(head.bias)
    optimizer = torch.optim.AdamW(head.parameters(), lr=lr)
    scheduler = get_scheduler("cosine", optimizer, steps // 10, steps)
    for _ in range(steps):
        chosen = torch.randint(len(labels), (32,), generator=generator)
        loss = cross_entropy(head(features[chosen]), labels[chosen])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        scheduler.step()
    return head


def few_per_class(labels, count: int, seed: int = 0) -> np.ndarray:
    """Indices of `count` random pictures of every class, in ascending order.

    Raises:
        CourseError: If a class has fewer pictures than that.
    """
    import pandas as pd

    count, seed = whole_number("count", count, 1), whole_number("seed", seed, 0, 2**32 - 1)
    labels = pd.Series(np.asarray(labels))
    sizes = labels.value_counts()
    if (sizes < count).any():
        raise CourseError(
            f"Class {sizes.idxmin()} has {sizes.min()} pictures, not {count}: ask for fewer."
        )
    return np.sort(labels.groupby(labels).sample(count, random_state=seed).index)


def _checked(features, labels) -> tuple[np.ndarray, np.ndarray]:
    features = np.asarray(features, dtype=np.float32)
    labels = np.asarray(labels, dtype=np.int64)
    if features.ndim != 2 or labels.shape != (len(features),) or len(features) == 0:
        raise CourseError(
            f"Features of shape {features.shape} and labels of shape {labels.shape} do not belong "
            "together: (N, width) and (N,) are needed, N at least 1."
        )
    if not np.isfinite(features).all():
        row = int(np.flatnonzero(~np.isfinite(features).all(1))[0])
        raise CourseError(f"The features of picture {row} are not finite: check the model.")
    if labels.min() < 0:
        raise CourseError(f"Label {labels.min()} is below 0: labels are numbered from 0.")
    return features, labels
