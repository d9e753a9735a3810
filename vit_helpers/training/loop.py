"""The training loop of the course: that of notebook 02 plus checkpoint, resume and best epoch."""

from pathlib import Path

from torch import nn
from torch.nn.functional import cross_entropy
from torch.nn.utils import clip_grad_norm_

from .history import History
from .metrics import evaluate
from .precision import autocast, gradient_scaler, train_mode
from .state import State


def fit(
    model: nn.Module,
    train_loader,
    val_loader,
    *,
    optimizer,
    epochs: int,
    schedule: str = "linear",
    warmup: float = 0.1,
    clip: float = 1.0,
    label_smoothing: float = 0.0,
    checkpoint_dir: str | Path | None = None,
    stop_after: int | None = None,
    seed: int | None = None,
) -> History:
    """Train a classifier: the loop of notebook 02 plus checkpoint, resume and best epoch.

    Interrupted (the stop button, Ctrl-C), it says where it stopped and returns. The model then has
    the weights of its best epoch so far. With a checkpoint folder the same call goes on from there
    and ends with the same weights as if nothing had been.

    Args:
        model: A ViT classifier. Parameters with `requires_grad=False` do not move.
        train_loader: Yields `(pixel_values, labels)`, or dictionaries with these two names.
        val_loader: The same, for the pictures that choose the best epoch.
        optimizer: Such as `AdamW(model.parameters(), lr=5e-5)`, with one or more groups.
        epochs: Passes over the training set.
        schedule: How the learning rate falls to 0: `linear` or `cosine`; or it stays, with
            `constant_with_warmup`.
        warmup: Share of all steps in which it rises from 0 first.
        clip: Longest allowed gradient, in the Euclidean norm over all parameters.
        label_smoothing: Share of the target that is spread over all classes, 0 to 1.
        checkpoint_dir: Folder for a checkpoint after each epoch, or `None` for none.
        stop_after: Stop after this many epochs, as if the computer had been switched off.
        seed: Of shuffling and augmentation; `None` for the seed of the notebook.

    Returns:
        A `History` with one row an epoch. The model has the weights of its best epoch.
    """
    from transformers import get_scheduler  # it takes seconds, and reads the environment

    recipe = {
        "epochs": epochs, "schedule": schedule, "warmup": warmup, "clip": clip,
        "label_smoothing": label_smoothing, "seed": seed,
    }  # fmt: skip
    state = State(model, optimizer, train_loader, val_loader, recipe)
    steps = epochs * len(train_loader)
    scheduler = get_scheduler(schedule, optimizer, round(warmup * steps), steps)
    scaler = gradient_scaler(state.device)

    with state.kept_in(checkpoint_dir, scheduler, scaler):
        for epoch in state.epochs_to_do(stop_after):
            train_mode(model)
            for pixels, labels in state.batches(epoch):
                with autocast(state.device):
                    logits = model(pixel_values=pixels).logits
                    loss = cross_entropy(logits.float(), labels, label_smoothing=label_smoothing)
                scaler.scale(loss).backward()
                scaler.unscale_(optimizer)
                clip_grad_norm_(model.parameters(), clip)
                scaler.step(optimizer)
                scaler.update()
                scheduler.step()
                optimizer.zero_grad()
                state.count(loss, logits, labels)
            state.finish_epoch(evaluate(model, val_loader))
    return state.history
