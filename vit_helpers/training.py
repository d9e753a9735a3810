"""Train and judge a classifier: the loop, accuracy with an interval, probes.

Read from the top: `fit` is the whole loop, `train_step` is its heart.
"""

import math
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from accelerate import Accelerator
from torch import nn
from torch.nn.functional import cross_entropy

from . import models, runtime
from .checkpoints import NO_MEMORY, Run
from .errors import CourseError, one_of
from .history import History

SCHEDULES = ("linear", "cosine")


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
) -> History:
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
        "trainable": len(models.trainable(model)),
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
        what = (
            f"{len(to_do)} epoch{'s' * (len(to_do) != 1)} of {len(train_loader.dataset)} pictures"
        )
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


def train_epoch(run: Run, train_loader, title: str) -> tuple[float, float]:
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


def train_step(run: Run, pixels, labels) -> tuple[float, torch.Tensor]:
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
    nn.utils.clip_grad_norm_(models.trainable(run.model), run.plan["clip"])
    run.scaler.step(run.optimiser)
    run.scaler.update()
    run.scheduler.step()
    return float(loss), logits


def gradients(run: Run, pixels, labels) -> tuple[torch.Tensor, torch.Tensor]:
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
    for p in models.trainable(model):
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
    if not models.trainable(model):
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
