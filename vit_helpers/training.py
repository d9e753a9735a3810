"""Train and judge a classifier: the loop, its history, checkpoints, accuracy with an interval.

Read from the top: `fit` is the whole loop, `train_step` is its heart.
"""

import math
import os
import shutil
import time
from dataclasses import dataclass, field
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import nn
from torch.nn.functional import cross_entropy

from . import models, runtime
from .errors import CourseError, one_of

SCHEDULES = ("linear", "cosine")
NO_MEMORY = (
    "Not even one picture fits into the memory of the GPU: close other programs and notebooks "
    "that use it, or freeze more blocks."
)


# --- the loop ----------------------------------------------------------------------------------


def fit(
    model: nn.Module,
    train_loader,
    val_loader,
    *,
    epochs: int,
    lr: float,
    head_lr: float | None = None,
    weight_decay: float = 0.01,
    warmup: float = 0.1,
    schedule: str = "linear",
    clip: float = 1.0,
    label_smoothing: float = 0.0,
    layer_decay: float = 1.0,
    keep_patches: float = 1.0,
    patience: int | None = None,
    compiled: bool = False,
    checkpoint_dir: str | Path | None = None,
    resume: bool = True,
    keep_best: bool = True,
    stop_after: int | None = None,
    seed: int | None = None,
) -> "History":
    """Train a classifier and validate it after each epoch.

    Interrupted (the stop button, Ctrl-C), it prints where it stopped and returns: the model has
    the weights of its best epoch so far, and the history one row for each whole epoch. The same
    call again goes on from the checkpoint and ends with the same weights as if nothing had been.

    Started by `accelerate launch` on several processes, each of them learns from its own part of
    every batch, and the gradients are averaged. A batch that does not fit into the memory of a
    GPU is computed in parts, with the same result.

    Args:
        model: A ViT classifier. Parameters with `requires_grad=False` do not move.
        train_loader: Yields `(pixel_values (B, 3, H, W), labels (B,))`.
        val_loader: The same for the pictures that choose the best epoch.
        epochs: Passes over the training set.
        lr: Highest learning rate of AdamW.
        head_lr: The same for the new head, which starts from random numbers; `None` for `lr`.
        weight_decay: Of matrices; biases and norms are never decayed.
        warmup: Share of all steps in which the rate rises from 0.
        schedule: How the rate falls to 0 afterwards: `linear` or `cosine`.
        clip: Longest allowed gradient, in the Euclidean norm over all parameters.
        label_smoothing: Share of the target that is spread over all classes, 0 to 1 (Szegedy et
            al. 2016, section 7).
        layer_decay: The rate of each block is this times the rate of the block after it; 1 for
            the same rate everywhere (Bao et al. 2022, "BEiT", appendix). Early blocks are general
            and need smaller steps.
        keep_patches: Share of the patches that each training picture shows, another part every
            time: see `models.patch_dropout`. Validation sees all of them.
        patience: Stop early when so many epochs in a row were not better than the best; `None`
            for never.
        compiled: Whether `torch.compile` fuses the small steps of the network first. That takes
            a minute and pays after some hundred steps; it needs a C++ compiler on a CPU.
        checkpoint_dir: Folder for a checkpoint after each epoch, or `None` for none. It may lie
            on a mounted drive.
        resume: Whether to go on from the checkpoint in that folder, if there is one.
        keep_best: Whether the model ends with the weights of its best validation epoch.
        stop_after: Stop after this many epochs, as if the computer had been switched off.
        seed: Of shuffling and augmentation; `None` for the seed of the notebook.

    Returns:
        A `History` with one row an epoch.

    Raises:
        CourseError: If a loader is empty, a label has no output in the head, the loss is no
            longer a number, the checkpoint belongs to another run, none can be written, or
            `compiled` is asked for where there is no compiler.
    """
    rt = runtime.current()
    seed = rt.seed if seed is None else seed
    check_run(model, train_loader, val_loader, epochs)
    if compiled and (missing := runtime.missing_compiler(rt.device)):
        raise CourseError(f"{missing}, or leave out compiled=True.")
    seconds = seconds_an_epoch(model, train_loader, val_loader, keep_patches)

    # The autocast below chooses the number format, so accelerate is told to leave it alone.
    accelerator = Accelerator(cpu=rt.device.type == "cpu", mixed_precision="no")
    network, my_train_loader, my_val_loader = accelerator.prepare(model, train_loader, val_loader)
    total_steps = epochs * len(my_train_loader)
    groups = parameter_groups(model, lr, head_lr or lr, weight_decay, layer_decay)
    optimiser = torch.optim.AdamW(groups, fused=True)  # one pass over the weights in place of ten
    scheduler = make_schedule(optimiser, total_steps, warmup, schedule)
    scaler = torch.amp.GradScaler(
        rt.device.type, init_scale=1024, enabled=rt.precision == torch.float16
    )
    history = History()
    torch.manual_seed(seed + accelerator.process_index)  # each process augments in its own way
    if train_loader.generator is not None:
        train_loader.generator.manual_seed(seed)  # and all agree on the order of the pictures

    plan = {
        "epochs": epochs, "steps": total_steps, "lr": lr, "head_lr": head_lr,
        "weight_decay": weight_decay, "warmup": warmup, "schedule": schedule, "clip": clip,
        "label_smoothing": label_smoothing, "layer_decay": layer_decay,
        "keep_patches": keep_patches, "patience": patience, "keep_best": keep_best, "seed": seed,
        "trainable": len(trainable(model)),
    }  # fmt: skip
    if compiled and accelerator.num_processes == 1:
        network = torch.compile(model, dynamic=False)
    run = Run(
        model, network, optimiser, scheduler, scaler, train_loader, accelerator, history, plan
    )
    run.keep_weights()
    folder = None if checkpoint_dir is None else Path(checkpoint_dir)
    if folder is not None and resume:
        run.resume(folder)
    if folder is not None and len(history.rows) < epochs:
        run.prepare(folder)

    to_do = range(len(history.rows) + 1, min(epochs, stop_after or epochs) + 1)
    if accelerator.is_main_process:
        what = f"{len(to_do)} epochs of {len(train_loader.dataset)} pictures"
        runtime.announce(what, len(to_do) * seconds / accelerator.num_processes)
    try:
        for epoch in to_do:
            if history.stopped_improving(patience):
                accelerator.print(f"No better for {patience} epochs: stopped before {epoch}.")
                break
            began = time.perf_counter()
            rate = optimiser.param_groups[0]["lr"]
            with (
                models.attention(model, fastest_attention(model)),
                models.patch_dropout(model, keep_patches),
            ):
                loss, accuracy = train_epoch(run, my_train_loader, f"epoch {epoch} of {epochs}")
                seconds = time.perf_counter() - began
                val = evaluate(
                    model, my_val_loader, learning=True, gather=accelerator.gather_for_metrics
                )
            row = {
                "epoch": epoch,
                "train loss": loss,
                "train accuracy": accuracy,
                "validation loss": val.loss,
                "validation accuracy": val.accuracy,
                "learning rate at start": rate,
                "images/s": len(train_loader.dataset) / seconds,
                "seconds": time.perf_counter() - began,
            }
            run.finish_epoch(row, keep_best)
            if folder is not None:
                run.save(folder)
    except KeyboardInterrupt:
        if folder is not None and run.saved_epoch < len(history.rows):
            run.save(folder)  # the stop fell into the writing: without it that epoch would be lost
        print(run.where_it_stopped(folder if resume else None))
    finally:
        run.restore_kept()
        model.eval()
    return history


def seconds_an_epoch(model: nn.Module, train_loader, val_loader, keep_patches: float) -> float:
    """How long an epoch will take here, from one batch on trial: nothing learns from it."""

    def trial(images, labels):
        with autocast(learning=True):
            logits = model(pixel_values=images).logits
            loss = cross_entropy(logits.float(), labels)
        loss.backward()

    began = time.perf_counter()
    pixels, labels = next(iter(train_loader))
    fetched = time.perf_counter() - began
    check_labels(labels, model)
    pixels, labels = pixels.to(model.device), labels.to(model.device)
    train_mode(model)
    with (
        models.attention(model, fastest_attention(model)),
        models.patch_dropout(model, keep_patches),
    ):
        count = len(pixels)
        while True:
            try:
                trial(pixels[:1], labels[:1])  # warms up
                began = time.perf_counter()
                trial(pixels[:count], labels[:count])
                runtime.synchronise(model.device)
                break
            except torch.OutOfMemoryError:  # `fit` will compute the batch in parts, too
                if count == 1:
                    raise CourseError(NO_MEMORY) from None
                count //= 2
    learned = (time.perf_counter() - began) * len(pixels) / count
    model.zero_grad(set_to_none=True)
    model.eval()
    began = time.perf_counter()
    with (
        models.attention(model, fastest_attention(model)),
        torch.inference_mode(),
        autocast(learning=True),
    ):
        model(pixel_values=pixels[:count])
        runtime.synchronise(model.device)
    looked = (time.perf_counter() - began) / count
    return (fetched + learned) * len(train_loader) + looked * len(val_loader.dataset)


def train_epoch(run: "Run", train_loader, title: str) -> tuple[float, float]:
    """One pass over the training set. Returns the mean `(loss, accuracy)` of that very pass.

    They are measured while the model learns, on augmented pictures, so they cost nothing; a
    second pass over the training set would cost as much again as all other forward passes.
    """
    train_mode(run.model)
    loss_sum, correct, seen = 0.0, 0, 0
    began = time.perf_counter()
    bar = runtime.bar(train_loader, title)
    for step, (pixels, labels) in enumerate(bar, start=1):
        check_labels(labels, run.model)
        loss, logits = train_step(run, pixels, labels)
        if not math.isfinite(loss):
            raise CourseError(
                f"The loss is {loss} at step {step} of {title}: lower the learning rate and run "
                "the cell again. The checkpoint of the epoch before is untouched."
            )
        loss_sum += loss * len(labels)
        correct += int((logits.argmax(1) == labels.to(logits.device)).sum())
        seen += len(labels)
        speed = seen / (time.perf_counter() - began)
        bar.set_postfix_str(f"loss {loss_sum / seen:.3f}, {speed:.0f} images/s", refresh=False)
    return run.mean_over_processes(loss_sum, correct, seen)


def train_step(run: "Run", pixels, labels) -> tuple[float, torch.Tensor]:
    """Learn from one batch: guess, measure the error, trace it back, clip, move.

    The scaler matters for fp16 only, whose small gradients would be rounded to 0; elsewhere it
    passes everything through.

    Returns:
        `(loss, logits (B, classes))` before the step.
    """
    try:
        loss, logits = gradients(run, pixels, labels)
    except torch.OutOfMemoryError:
        run.halve_parts(len(labels))
        return train_step(run, pixels, labels)
    run.scaler.unscale_(run.optimiser)
    nn.utils.clip_grad_norm_(trainable(run.model), run.plan["clip"])
    run.scaler.step(run.optimiser)
    run.scaler.update()
    run.scheduler.step()
    return float(loss), logits


def gradients(run: "Run", pixels, labels) -> tuple[torch.Tensor, torch.Tensor]:
    """The gradients of one batch, added up over as many parts as the memory makes necessary.

    Each part counts by its number of pictures, so the parts give the gradient of the whole batch.

    Returns:
        `(loss, logits (B, classes))`.
    """
    device, smoothing = run.model.device, run.plan["label_smoothing"]
    network = run.network_for(pixels)
    run.optimiser.zero_grad(set_to_none=True)
    loss_sum, answers = 0.0, []
    for x, y in zip(pixels.chunk(run.parts), labels.chunk(run.parts), strict=True):
        with autocast(learning=True):
            logits = network(pixel_values=x.to(device)).logits
            loss = cross_entropy(logits.float(), y.to(device), label_smoothing=smoothing)
        share = len(y) / len(labels)
        run.accelerator.backward(run.scaler.scale(share * loss))
        loss_sum += share * loss.detach()
        answers.append(logits.detach())
    return loss_sum, torch.cat(answers)


def autocast(*, learning: bool):
    """The context for a forward pass in the fast number format of this device.

    On a CPU a model that has learnt answers in fp32, as the saved one will.
    """
    rt = runtime.current()
    fast = rt.precision != torch.float32 and (learning or rt.device.type != "cpu")
    return torch.autocast(rt.device.type, dtype=rt.precision, enabled=fast)


def fastest_attention(model: nn.Module) -> str:
    """The attention that trains fastest here: fused (SDPA), but plain on a CPU with bf16.

    The fused backward pass gains nothing from bf16 on a CPU, while the plain one is two ordinary
    matrix products, which do.
    """
    rt = runtime.current()
    if rt.device.type == "cpu" and rt.precision == torch.bfloat16:
        return "plain_bf16"
    return model.config._attn_implementation


def train_mode(model: nn.Module) -> None:
    """Put a model in training mode, but the frozen parts in evaluation mode.

    A frozen block behaves as it will in use: no dropout. Nothing else is needed to save its
    cost: where embeddings and first blocks are frozen, no value in them asks for a gradient, so
    autograd keeps nothing of them and the backward pass stops at the first trainable block.
    """
    model.train()
    for module in model.modules():
        parameters = list(module.parameters())
        if parameters and not any(p.requires_grad for p in parameters):
            module.eval()


def trainable(model: nn.Module) -> list[nn.Parameter]:
    """The parameters that learn."""
    return [p for p in model.parameters() if p.requires_grad]


def parameter_groups(
    model: nn.Module, lr: float, head_lr: float, weight_decay: float, layer_decay: float = 1.0
) -> list:
    """Groups for AdamW: the head has its own rate; biases and norms are not decayed.

    With a `layer_decay` below 1 the rate falls from the last block to the first and on to the
    embeddings, by that factor each.
    """
    if not 0 < layer_decay <= 1:
        raise CourseError(f"layer_decay is {layer_decay}, but it must be above 0, at most 1.")
    rates = {id(p): lr for p in model.parameters()}
    rates |= {id(p): head_lr for p in models.head(model).parameters()}
    if layer_decay < 1:
        parts = [models.embeddings(model), *models.blocks(model)]
        for below, part in enumerate(reversed(parts)):
            rates |= {id(p): lr * layer_decay ** (below + 1) for p in part.parameters()}
    groups: dict[tuple[float, float], list] = {}
    for p in trainable(model):
        decay = weight_decay if p.ndim > 1 else 0.0
        groups.setdefault((rates[id(p)], decay), []).append(p)
    return [{"params": p, "lr": lr, "weight_decay": decay} for (lr, decay), p in groups.items()]


def make_schedule(optimiser, total_steps: int, warmup: float, schedule: str):
    """A learning rate that rises in a straight line, then falls to 0.

    Args:
        optimiser: Its rates are the highest ones.
        total_steps: Steps of the whole training.
        warmup: Share of them in which the rate rises, 0 to 1. The first steps of a new head are
            wild; a small rate keeps them from spoiling the pre-trained weights.
        schedule: `linear`, or `cosine` (Loshchilov and Hutter 2017, without restarts).
    """
    one_of("schedule", schedule, SCHEDULES)
    if not 0 <= warmup <= 1:
        raise CourseError(f"warmup is {warmup}, but it must be a share of the steps, 0 to 1.")
    warm = round(warmup * total_steps)

    def factor(step: int) -> float:
        if step < warm:
            return (step + 1) / (warm + 1)
        rest = (step - warm) / max(1, total_steps - warm)
        return 1 - rest if schedule == "linear" else 0.5 * (1 + math.cos(math.pi * rest))

    return torch.optim.lr_scheduler.LambdaLR(optimiser, factor)


def check_run(model: nn.Module, train_loader, val_loader, epochs: int) -> None:
    """Raise `CourseError` where training could not work."""
    for name, loader in (("training", train_loader), ("validation", val_loader)):
        if len(loader) == 0:
            raise CourseError(f"The {name} loader is empty: give it at least one picture.")
    if epochs < 1:
        raise CourseError(f"epochs is {epochs}, but at least one epoch is needed.")
    if not trainable(model):
        raise CourseError("Every parameter is frozen: unfreeze the head, or nothing can learn.")
    labels = torch.as_tensor(getattr(train_loader.dataset, "labels", range(0)))
    missing = sorted(set(range(model.config.num_labels)) - set(labels.tolist()))
    if len(labels) and missing:
        raise CourseError(
            f"Class {missing[0]} ({model.config.id2label[missing[0]]!r}) has no training picture, "
            "so the model could never learn it: add pictures, or leave it out of the head."
        )


def check_labels(labels: torch.Tensor, model: nn.Module) -> None:
    """Raise `CourseError` for a label that the head has no output for."""
    classes = model.config.num_labels
    wrong = labels[(labels < 0) | (labels >= classes)]
    if len(wrong):
        raise CourseError(
            f"Label {int(wrong[0])} has no output: the head has {classes} classes, numbered 0 to "
            f"{classes - 1}. Load the model with the class names of this data set."
        )


# --- history -----------------------------------------------------------------------------------


@dataclass
class History:
    """What happened in each epoch.

    Attributes:
        rows: One dictionary an epoch: losses and accuracies (0 to 1) of training and validation,
            learning rate at its start, images/s of the training pass, seconds of all.
    """

    rows: list[dict] = field(default_factory=list)

    @property
    def best_epoch(self) -> int:
        """Number of the epoch with the highest validation accuracy; the lower loss breaks ties."""
        if not self.rows:
            raise CourseError("The history is empty: call fit first.")
        best = max(self.rows, key=lambda r: (r["validation accuracy"], -r["validation loss"]))
        return best["epoch"]

    def stopped_improving(self, patience: int | None) -> bool:
        """Whether the last `patience` epochs were all no better than the best one."""
        if patience is None or not self.rows:
            return False
        return self.rows[-1]["epoch"] - self.best_epoch >= patience

    def to_frame(self):
        """The rows as a pandas `DataFrame` of plain numbers, indexed by epoch."""
        import pandas as pd

        return pd.DataFrame(self.rows).set_index("epoch")

    def table(self):
        """The same for readers: rounded, in percent, each number marked as measured."""
        import pandas as pd

        rows = {
            row["epoch"]: {
                "train loss": measured(row["train loss"], 3),
                "validation loss": measured(row["validation loss"], 3),
                "train accuracy, %": measured(100 * row["train accuracy"]),
                "validation accuracy, %": measured(100 * row["validation accuracy"]),
                "images/s": measured(row["images/s"], 0),
            }
            for row in self.rows
        }
        return pd.DataFrame.from_dict(rows, orient="index").rename_axis("epoch")


def measured(value: float, digits: int = 1, width: int = 6) -> str:
    """A number as text with the sign for "measured in this run": `measured(9.87)` is `≈    9.9`.

    The width is fixed, so that a table does not change its shape when a number does.
    """
    return f"≈ {value:{width}.{digits}f}"


# --- judging -----------------------------------------------------------------------------------


@dataclass
class Evaluation:
    """What a model answered on a set of pictures.

    Attributes:
        labels: The true classes, (N,).
        logits: One row of scores a picture, (N, classes), float32 on the CPU.
    """

    labels: torch.Tensor
    logits: torch.Tensor

    @property
    def predictions(self) -> torch.Tensor:
        """The class with the highest score for each picture, (N,)."""
        return self.logits.argmax(1)

    @property
    def confidences(self) -> torch.Tensor:
        """The softmax probability of the predicted class, (N,)."""
        return self.logits.softmax(1).amax(1)

    @property
    def right(self) -> torch.Tensor:
        """For each picture whether the prediction is right, (N,) of bool."""
        return self.predictions == self.labels

    @property
    def correct(self) -> int:
        """How many predictions are right."""
        return int(self.right.sum())

    @property
    def accuracy(self) -> float:
        """Share of right predictions. Every picture counts once, also in a short last batch."""
        return self.correct / len(self.labels)

    @property
    def loss(self) -> float:
        """Mean cross-entropy over all pictures."""
        return float(cross_entropy(self.logits, self.labels))

    def top(self, k: int) -> float:
        """Share of pictures whose true class is among the `k` highest scores."""
        best = self.logits.topk(min(k, self.logits.shape[1]), dim=1).indices
        return float((best == self.labels[:, None]).any(1).float().mean())


def evaluate(
    model: nn.Module, loader, desc: str = "evaluate", *, learning: bool = False, gather=None
) -> Evaluation:
    """Let a model answer on every picture of a loader, without learning.

    Args:
        model: A ViT classifier.
        loader: Yields `(pixel_values (B, 3, H, W), labels (B,))`.
        desc: Title of the bar.
        learning: Whether to compute in the number format of a training, which is faster on a
            CPU and rounds more: enough to choose an epoch.
        gather: Where several processes share the work, what brings their answers together.

    Raises:
        CourseError: If the loader is empty or a label has no output in the head.
    """
    if len(loader) == 0:
        raise CourseError("There are no pictures to evaluate on: the loader is empty.")
    model.eval()
    labels, logits = [], []
    with torch.inference_mode():
        for pixels, batch_labels in runtime.bar(loader, desc):
            check_labels(batch_labels, model)
            with autocast(learning=learning):
                answer = model(pixel_values=pixels.to(model.device)).logits
            if gather:
                answer, batch_labels = gather((answer, batch_labels.to(model.device)))
            labels.append(batch_labels.cpu())
            logits.append(answer.float().cpu())
    return Evaluation(torch.cat(labels), torch.cat(logits))


class HeldOut:
    """A test set that notices when it is looked at more than once.

    Whoever tries ten models on a test set and takes the best one has trained on the test set, a
    little: the accuracy of the winner is partly luck.

    Args:
        loader: As for `evaluate`.

    Attributes:
        uses: How often it has been looked at.
    """

    def __init__(self, loader):
        self.loader = loader
        self.uses = 0

    def evaluate(self, model: nn.Module) -> Evaluation:
        """Judge a model, and say so if it is not the first look."""
        self.uses += 1
        if self.uses > 1:
            print(
                f"NOTE: this is look number {self.uses} at the test set. That is fair only if "
                "nothing is chosen by what it shows."
            )
        return evaluate(model, self.loader, "test")


def cls_features(model: nn.Module, loader, desc: str = "features"):
    """The [CLS] token after the last LayerNorm, which is what the head sees, for every picture.

    Says beforehand about how long it will take, as measured on the first batch.

    Returns:
        `(features (N, hidden), labels (N,))` as NumPy arrays, ready for scikit-learn.
    """
    model.eval()
    features, labels = [], []
    began = time.perf_counter()
    with torch.inference_mode():
        for pixels, batch_labels in runtime.bar(loader, desc):
            with autocast(learning=False):
                tokens = model.base_model(pixel_values=pixels.to(model.device)).last_hidden_state
            features.append(tokens[:, 0].float().cpu())
            labels.append(batch_labels)
            if len(features) == 1:
                seconds = (time.perf_counter() - began) * len(loader)
                runtime.announce(f"{desc} of {len(loader.dataset)} pictures", seconds)
    return torch.cat(features).numpy(), torch.cat(labels).numpy()


def most_confused(matrix, count: int) -> list[tuple[int, int, int]]:
    """The largest numbers of a confusion matrix off its diagonal.

    Returns:
        `(true class, answered class, how often)`, most frequent first; at most `count` of them,
        fewer where there are fewer kinds of mistakes.
    """
    import numpy as np

    mistakes = np.array(matrix)
    np.fill_diagonal(mistakes, 0)
    order = np.argsort(-mistakes, axis=None, kind="stable")[:count]
    pairs = [divmod(int(place), len(mistakes)) for place in order]
    return [
        (row, column, int(mistakes[row, column])) for row, column in pairs if mistakes[row, column]
    ]


def linear_probe(features, labels):
    """Fit a logistic regression on features: the cheapest way to ask what a model knows.

    Args:
        features: Shape (N, hidden), as from `cls_features`. Each column is standardised first.
        labels: Shape (N,).

    Returns:
        A scikit-learn classifier with `predict` and `score`.
    """
    import warnings

    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    probe = make_pipeline(StandardScaler(), LogisticRegression(max_iter=2000))
    with warnings.catch_warnings():
        # With one picture a class, scikit-learn asks whether the labels are measurements.
        warnings.filterwarnings("ignore", message="The number of unique classes")
        return probe.fit(features, labels)


def train_head(features, labels, *, lr: float, steps: int, batch: int = 32, seed: int = 0):
    """Train a new head alone on features that are computed already: a second for all steps.

    Args:
        features: Shape (N, hidden), as from `cls_features`.
        labels: Shape (N,).
        lr: Learning rate of AdamW; it falls to 0 as in `fit`.
        steps: Number of batches.
        batch: Features in a batch, drawn at random.
        seed: Of the first weights and the draws.

    Returns:
        A `torch.nn.Linear`; `head(torch.from_numpy(features))` gives logits.
    """
    features, labels = torch.as_tensor(features), torch.as_tensor(labels)
    generator = torch.Generator().manual_seed(seed)
    head = nn.Linear(features.shape[1], int(labels.max()) + 1)
    nn.init.normal_(head.weight, std=0.02, generator=generator)
    nn.init.zeros_(head.bias)
    optimiser = torch.optim.AdamW(head.parameters(), lr=lr)
    scheduler = make_schedule(optimiser, steps, warmup=0.1, schedule="cosine")
    for _ in range(steps):
        chosen = torch.randint(len(labels), (batch,), generator=generator)
        loss = cross_entropy(head(features[chosen]), labels[chosen])
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        scheduler.step()
    return head


def few_per_class(labels, count: int, seed: int = 0):
    """Places of `count` random pictures of every class, in ascending order.

    Raises:
        CourseError: If a class has fewer pictures than that.
    """
    import numpy as np

    labels = np.asarray(labels)
    random = np.random.default_rng(seed)
    chosen = []
    for label in np.unique(labels):
        places = np.flatnonzero(labels == label)
        if len(places) < count:
            raise CourseError(
                f"Class {label} has {len(places)} pictures, not {count}: ask for less."
            )
        chosen.append(random.choice(places, count, replace=False))
    return np.sort(np.concatenate(chosen))


def wilson_interval(correct: int, n: int, z: float = 1.96) -> tuple[float, float]:
    """Where the true accuracy lies, given `correct` of `n` right answers.

    Wilson's score interval (1927) stays within 0 and 1 and is honest for small `n` and for
    shares near 0 or 1, where "share plus or minus two deviations" is not.

    Args:
        correct: Right answers.
        n: All answers, at least 1.
        z: Width in standard deviations: 1.96 for 95 %.

    Returns:
        `(low, high)`, both within 0 and 1.
    """
    if n < 1 or not 0 <= correct <= n:
        raise CourseError(
            f"{correct} right of {n} is no share: it needs 0 <= right <= all, all > 0."
        )
    share = correct / n
    centre = (share + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z / (1 + z**2 / n) * math.sqrt(share * (1 - share) / n + z**2 / (4 * n**2))
    return max(0.0, centre - half), min(1.0, centre + half)


# --- checkpoints -------------------------------------------------------------------------------


@dataclass
class Run:
    """Everything that a training run is made of, so that it can be saved and continued.

    Attributes:
        model: Learns.
        network: The same model as accelerate or `torch.compile` has prepared it: with several
            processes its backward pass averages their gradients.
        optimiser: AdamW; keeps two moving averages for each parameter.
        scheduler: Sets the learning rate.
        scaler: Scales the loss in fp16.
        train_loader: Its generator decides the order of the pictures.
        accelerator: Knows the processes that share the work.
        history: One row for each epoch that is done.
        plan: The numbers of the recipe; a checkpoint of another recipe is refused.
        kept: The weights that the model will end with, on the CPU: those of the best epoch so
            far, or of the last one where the best is not asked for.
        kept_epoch: Which epoch that is; 0 before the first.
        saved_epoch: The last epoch in the checkpoint; 0 before the first.
        parts: In how many parts a batch is computed; more than 1 after memory ran out.
    """

    model: nn.Module
    network: nn.Module
    optimiser: torch.optim.Optimizer
    scheduler: Any
    scaler: Any
    train_loader: Any
    accelerator: Accelerator
    history: History
    plan: dict
    kept: dict = field(default_factory=dict)
    kept_epoch: int = 0
    saved_epoch: int = 0
    parts: int = 1

    def network_for(self, pixels: torch.Tensor) -> nn.Module:
        """What computes this batch: a compiled network knows batches of one size only."""
        if self.accelerator.num_processes == 1 and len(pixels) != self.train_loader.batch_size:
            return self.model  # the short batch at the end: not worth another minute of compiling
        return self.network

    def mean_over_processes(self, loss_sum: float, correct: int, seen: int) -> tuple[float, float]:
        """The mean `(loss, accuracy)` of an epoch over the pictures of all processes."""
        if self.accelerator.num_processes > 1:
            mine = torch.tensor([loss_sum, correct, seen], device=self.model.device)
            loss_sum, correct, seen = self.accelerator.reduce(mine).tolist()
        return loss_sum / seen, correct / seen

    def halve_parts(self, batch: int) -> None:
        """Compute batches in twice as many parts from now on, because the memory ran out.

        Raises:
            CourseError: If a part is one picture already, or if other processes wait.
        """
        if self.accelerator.num_processes > 1:
            raise CourseError(
                f"A batch of {batch} pictures does not fit into the memory of a GPU: with several "
                "processes, give a smaller batch."
            ) from None
        if self.parts >= batch:
            raise CourseError(NO_MEMORY) from None
        self.parts = min(2 * self.parts, batch)
        self.optimiser.zero_grad(set_to_none=True)
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        print(
            f"The memory of the GPU ran out: from now on each batch of {batch} is computed in "
            f"{self.parts} parts. The result is the same."
        )

    def keep_weights(self) -> None:
        """Keep a copy of the present weights."""
        self.kept = {k: v.detach().cpu().clone() for k, v in self.model.state_dict().items()}

    def finish_epoch(self, row: dict, keep_best: bool) -> None:
        """Add a row to the history, and keep the weights if they are the ones to end with."""
        rows = [*self.history.rows, row]
        if not keep_best or History(rows).best_epoch == row["epoch"]:
            self.keep_weights()
            self.kept_epoch = row["epoch"]
        self.history.rows.append(row)

    def restore_kept(self) -> None:
        """Give the model the weights that were kept."""
        self.model.load_state_dict(self.kept)

    def where_it_stopped(self, folder: Path | None) -> str:
        """What a reader who interrupted the training needs to know."""
        done, epochs = len(self.history.rows), self.plan["epochs"]
        has = f"the weights of epoch {self.kept_epoch}" if done else "its weights from before"
        goes_on = folder is not None and (folder / "last.pt").is_file()
        again = "goes on from the checkpoint" if goes_on else "starts from the first epoch"
        return (
            f"Stopped after {done} of {epochs} epochs: the model has {has}. The same call {again}."
        )

    def prepare(self, folder: Path) -> None:
        """Make the folder of the checkpoints, and see whether they will fit, before hours of work.

        Raises:
            CourseError: If the folder cannot be made, or the disk has too little space.
        """
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise CourseError(
                f"The folder {str(folder)!r} for checkpoints cannot be made ({error.strerror}): "
                "choose another one."
            ) from None
        weights = sum(v.nbytes for v in self.model.state_dict().values())
        averages = 2 * sum(p.nbytes for p in trainable(self.model))  # AdamW's
        free = shutil.disk_usage(folder).free
        if free < 2 * weights + averages:  # twice: the last weights and the best ones
            raise CourseError(
                f"A checkpoint takes up to {(2 * weights + averages) / 1e6:.1f} MB, but "
                f"{str(folder)!r} has {free / 1e6:.1f} MB free: free some space on that disk or "
                "choose another folder."
            )

    def save(self, folder: Path) -> None:
        """Write `last.pt`. The old file stays whole until the new one is complete, on the disk.

        Of several processes the first one writes, for all.
        """
        random = gather_object([self._random_state()])
        if self.accelerator.is_main_process:
            self._write(folder, random)
        self.accelerator.wait_for_everyone()
        self.saved_epoch = len(self.history.rows)

    def _write(self, folder: Path, random: list[dict]) -> None:
        weights = self.model.state_dict()
        state = {
            "plan": self.plan,
            "history": self.history.rows,
            "model": weights,
            # The same object where the last epoch is the best: torch writes its bytes once.
            "best": weights if self.kept_epoch == len(self.history.rows) else self.kept,
            "best epoch": self.kept_epoch,
            "optimiser": self.optimiser.state_dict(),
            "scheduler": self.scheduler.state_dict(),
            "scaler": self.scaler.state_dict(),
            "random": random,
        }
        temporary = folder / "last.pt.tmp"  # one name: what a killed process left is overwritten
        try:
            torch.save(state, temporary)
            with temporary.open("rb+") as file:
                os.fsync(file.fileno())
            os.replace(temporary, folder / "last.pt")
        except (OSError, RuntimeError) as error:  # torch has a RuntimeError for a full disk
            free = shutil.disk_usage(folder).free / 1e6
            raise CourseError(
                f"The checkpoint of epoch {len(self.history.rows)} could not be written to "
                f"{str(folder)!r} ({getattr(error, 'strerror', None) or 'the disk refused'}, "
                f"{free:.1f} MB free): free some space on that disk, then run this cell again. "
                "What was saved before is whole."
            ) from None
        finally:
            temporary.unlink(missing_ok=True)

    def resume(self, folder: Path) -> None:
        """Continue from `last.pt` in a folder; without one, start from the beginning."""
        path = folder / "last.pt"
        if not path.is_file():
            return
        try:
            state = torch.load(path, map_location="cpu", weights_only=True)
            self._check_same_run(state)
            self.kept, self.kept_epoch = state["best"], state["best epoch"]
        except CourseError:
            raise
        except (OSError, RuntimeError, EOFError, KeyError, UnpicklingError) as error:
            raise CourseError(
                f"{path.name} is not a checkpoint that can be read ({type(error).__name__}): "
                "delete it, or call fit with resume=False."
            ) from None
        self.model.load_state_dict(state["model"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.scheduler.load_state_dict(state["scheduler"])
        self.scaler.load_state_dict(state["scaler"])
        self.history.rows = state["history"]
        self.saved_epoch = len(self.history.rows)
        self._set_random_state(state["random"][self.accelerator.process_index])
        done, epochs = len(self.history.rows), self.plan["epochs"]
        self.accelerator.print(f"Going on after epoch {done} of {epochs}.")

    def _check_same_run(self, state: dict) -> None:
        here = {k: tuple(v.shape) for k, v in self.model.state_dict().items()}
        there = {k: tuple(v.shape) for k, v in state["model"].items()}
        if here != there:
            name = next(k for k in [*there, *here] if here.get(k) != there.get(k))
            raise CourseError(
                f"The checkpoint belongs to another model ({name!r} is {there.get(name)} there "
                f"and {here.get(name)} here): use another folder, or resume=False."
            )
        for name, value in self.plan.items():
            if state["plan"][name] != value:
                raise CourseError(
                    f"The checkpoint was made with {name}={state['plan'][name]}, this run has "
                    f"{name}={value}: use another folder, or resume=False."
                )
        for name, p in self.model.named_parameters():
            if not p.requires_grad and not torch.equal(p.detach().cpu(), state["model"][name]):
                raise CourseError(
                    f"The checkpoint belongs to another model: the frozen weights {name!r} differ. "
                    "Use another folder, or resume=False."
                )

    def _random_state(self) -> dict:
        generator = self.train_loader.generator
        return {
            "torch": torch.get_rng_state(),
            "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
            "loader": None if generator is None else generator.get_state(),
        }

    def _set_random_state(self, state: dict) -> None:
        torch.set_rng_state(state["torch"])
        if torch.cuda.is_available() and state["cuda"]:
            torch.cuda.set_rng_state_all(state["cuda"])
        if state["loader"] is not None:
            self.train_loader.generator.set_state(state["loader"])
