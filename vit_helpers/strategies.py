"""How much of a model should learn? The same training under several strategies, in one table."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from torch import nn
from torch.utils.data import Dataset

from . import data, frozen, models, runtime, training
from .efficiency.memory import Growth
from .errors import CourseError
from .history import measured


@dataclass(frozen=True)
class Trial:
    """What one strategy took and reached.

    Attributes:
        accuracies: Validation accuracy (0 to 1) for each seed.
        judged: On how many pictures.
        seconds: Of the training of one seed, everything included.
        memory_mb: By how much memory grew at most: the tensors on a GPU, else the whole process.
        trainable: How many parameters learned.
    """

    accuracies: tuple[float, ...]
    judged: int
    seconds: float
    memory_mb: float
    trainable: int

    @property
    def accuracy(self) -> float:
        """The mean over the seeds."""
        return float(np.mean(self.accuracies))

    @property
    def interval(self) -> tuple[float, float]:
        """Where the true accuracy lies, with 95 % confidence.

        With one seed it is Wilson's interval, which knows only that the pictures are few. With
        several it is Student's, which knows only that the seeds differ.
        """
        if len(self.accuracies) == 1:
            return training.wilson_interval(round(self.accuracy * self.judged), self.judged)
        from scipy.stats import t

        n = len(self.accuracies)
        half = t.ppf(0.975, n - 1) * np.std(self.accuracies, ddof=1) / n**0.5
        return max(0.0, self.accuracy - half), min(1.0, self.accuracy + half)


def attempt(
    make: Callable[[], nn.Module],
    train_set: data.PictureSet,
    val_set: data.PictureSet,
    recipe: dict,
    *,
    batch_size: int,
    seeds: Sequence[int],
) -> Trial:
    """Train a model once for each seed and judge it on the validation pictures.

    Where every block is frozen, the picture's vector is computed once, without augmentation, and
    each epoch takes a moment.

    Args:
        make: Returns a new model in which the right parameters learn.
        train_set: Pictures to learn from.
        val_set: Pictures to judge on; the test set is not for comparing.
        recipe: Arguments of `training.fit`.
        batch_size: Pictures in a batch.
        seeds: Of the head's first weights, the order and the augmentation.

    Raises:
        CourseError: If there is no seed.
    """
    if not seeds:
        raise CourseError("seeds is empty, but at least one training is needed.")
    accuracies, seconds, memory = [], [], []
    for seed in seeds:
        runtime.seed_everything(seed)
        began = time.perf_counter()
        with Growth(runtime.current().device) as growth:
            model = make()
            learner, options = model, dict(recipe)
            sets: list[Dataset] = [train_set, val_set]
            if only_the_head_learns(model):
                still = train_set.with_transform(val_set.transform)
                sets = [frozen.remember(model, part, batch_size) for part in (still, val_set)]
                learner, options["keep_patches"] = frozen.Tail(model), 1.0
            history = training.fit(
                learner,
                data.loader(sets[0], batch_size, shuffle=True, seed=seed),
                data.loader(sets[1], batch_size),
                seed=seed,
                **options,
            )
        seconds.append(time.perf_counter() - began)
        memory.append(growth.host_mb if np.isnan(growth.device_mb) else growth.device_mb)
        best = history.rows[history.best_epoch - 1]
        accuracies.append(best["validation accuracy"])
    learned = sum(p.numel() for p in models.trainable(model))
    return Trial(
        tuple(accuracies), len(val_set), float(np.mean(seconds)), float(np.max(memory)), learned
    )


def only_the_head_learns(model: nn.Module) -> bool:
    """Whether everything but the head is frozen."""
    head = {id(p) for p in models.head(model).parameters()}
    return all(id(p) in head for p in models.trainable(model))


def table(trials: dict[str, Trial]):
    """The trials for readers: a `DataFrame` by strategy, each measured number marked."""
    import pandas as pd

    rows = {}
    for name, trial in trials.items():
        low, high = trial.interval
        rows[name] = {
            "trainable": f"{trial.trainable:,}",
            "validation accuracy, %": measured(100 * trial.accuracy),
            "from": measured(100 * low),
            "to": measured(100 * high),
            "minutes": measured(trial.seconds / 60, 2),
            "memory, MB": measured(trial.memory_mb, 0),
        }
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("strategy")
