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

    Returns NumPy's `(features (N, width), labels (N,))`, in the order of the loader.
    """
    head = models.head(model)
    layers = head if isinstance(head, nn.ModuleList) else [head]  # a DeiT may have two
    seen: dict[nn.Module, list[torch.Tensor]] = {layer: [] for layer in layers}

    def keep(layer, inputs):  # a copy: the input is a view of all tokens
        seen[layer].append(inputs[0].to("cpu", torch.float32, copy=True))

    hooks = [layer.register_forward_pre_hook(keep) for layer in layers]
    try:
        labels = evaluate(model, loader, "features").labels
    finally:
        for hook in hooks:
            hook.remove()
    return torch.cat([torch.cat(part) for part in seen.values()], dim=1).numpy(), labels.numpy()


def linear_probe(features, labels):
    """What does a model know? Fit a logistic regression on features (N, width) and labels (N,).

    Each column is standardised first. The result is a scikit-learn classifier.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler
    from threadpoolctl import threadpool_limits

    probe = make_pipeline(StandardScaler(), LogisticRegression(max_iter=2000))
    # The threads of NumPy's BLAS and those of torch would wait for each other: one is faster.
    with warnings.catch_warnings(), threadpool_limits(1, "blas"):
        # With one picture a class, it asks whether the labels are measurements.
        warnings.filterwarnings("ignore", message="The number of unique classes")
        return probe.fit(features, labels)


def train_head(features, labels, *, lr: float, steps: int, seed: int = 0):
    """Train a new head alone on features (N, width) and labels (N,) of `cache_features`.

    AdamW, 32 pictures drawn at random a step; a tenth of the steps are warm-up to `lr`, then a
    cosine. Returns a `torch.nn.Linear`; `head(torch.from_numpy(features))` gives logits.
    """
    from transformers import get_scheduler

    lr, steps = number("lr", lr, above=0, most=10), whole_number("steps", steps, least=1)
    seed = whole_number("seed", seed, 0, 2**63 - 1)
    features, labels = torch.as_tensor(features), torch.as_tensor(labels)
    generator = torch.Generator().manual_seed(seed)
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
    """Indices of `count` random pictures of every class, in ascending order."""
    import pandas as pd

    count, seed = whole_number("count", count, 1), whole_number("seed", seed, 0, 2**32 - 1)
    labels = pd.Series(np.asarray(labels))
    sizes = labels.value_counts()
    if (least := sizes.min()) < count:
        raise CourseError(f"Class {sizes.idxmin()} has {least} pictures, not {count}: take fewer.")
    return np.sort(labels.groupby(labels).sample(count, random_state=seed).index)
