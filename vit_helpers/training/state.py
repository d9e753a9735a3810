"""What a training keeps beside the model: counts, history, the best weights, the checkpoint."""

import contextlib
import copy
import math
import time
import traceback
from pathlib import Path

import torch
import torch.distributed as dist
from torch import nn

from .. import models, runtime
from ..errors import CourseError, number, one_of, whole_number
from . import checkpoint
from .history import History
from .metrics import Evaluation, check_labels, unpack, unwrapped
from .precision import autocast, fastest_attention, train_mode

SCHEDULES = ("linear", "cosine", "constant_with_warmup")
LOOK_EVERY = 10  # steps: reading a loss makes a GPU wait
WEIGHT_DECAY = 0.01


class OutOfMemory(CourseError):
    """A batch does not fit into the memory of the GPU."""


def parameter_groups(model: nn.Module, lr: float, head_lr: float | None = None) -> list[dict]:
    """Parameter groups for AdamW, of what learns: the head may have a learning rate of its own.

    Matrices decay; biases and norms do not.
    """
    head = {id(p) for p in models.head(model).parameters()}
    groups: dict[tuple[float, float], list] = {}
    for p in models.trainable(model):
        rate = head_lr if head_lr is not None and id(p) in head else lr
        groups.setdefault((rate, WEIGHT_DECAY if p.ndim > 1 else 0.0), []).append(p)
    return [{"params": p, "lr": rate, "weight_decay": w} for (rate, w), p in groups.items()]


class State:
    """Keeps count of a training for `loop.fit`; the recipe holds the numbers of `fit`.

    Several processes may share the work, with a model and a training loader that `accelerate` has
    prepared: then each counts its own part, and the first one prints and writes.
    """

    def __init__(self, model: nn.Module, optimizer, train_loader, val_loader, recipe: dict):
        self.recipe = check_recipe(recipe)
        self.model = unwrapped(model)
        check_run(self.model, optimizer, train_loader, val_loader)
        self.recipe["batches"] = len(train_loader)
        self.optimizer, self.train_loader, self.val_loader = optimizer, train_loader, val_loader
        self.device = next(model.parameters()).device
        self.generator = getattr(train_loader, "generator", None)
        several = dist.is_available() and dist.is_initialized()
        self.rank, self.processes = (dist.get_rank(), dist.get_world_size()) if several else (0, 1)
        self.history = History()
        self.folder: Path | None = None
        self.saved_epoch = self.kept_epoch = 0
        self.kept = self._weights()
        self.first_optimizer = copy.deepcopy(optimizer.state_dict())

    @contextlib.contextmanager
    def kept_in(self, folder: str | Path | None, scheduler, scaler):
        """Go on from the checkpoint in a folder, and leave the best weights, whatever happens."""
        self.scheduler, self.scaler = scheduler, scaler
        self._begin(None if folder is None else Path(folder).expanduser())
        self.optimizer.zero_grad()  # nothing left of an earlier, interrupted step
        memory_full = False
        try:
            with fastest_attention(self.model):
                yield
        except KeyboardInterrupt:
            self.history.interrupted = True
            if self.folder is not None and self.saved_epoch < len(self.history.rows):
                self.save()  # the stop fell into the writing: without it that epoch would be lost
            self._print(self._where_it_stopped())
        except torch.OutOfMemoryError as error:
            traceback.clear_frames(error.__traceback__)  # they hold what filled the memory
            memory_full = True
        finally:
            self.model.load_state_dict(self.kept)
            self.model.eval()
            self.optimizer.zero_grad()
            if not self.history.rows:
                self.optimizer.load_state_dict(self.first_optimizer)
        if memory_full:
            batch = getattr(self.train_loader, "batch_size", None) or "this many"
            raise OutOfMemory(
                f"A batch of {batch} pictures does not fit into the memory of the GPU: make the "
                "loader with a smaller batch_size, or close other programs that use the GPU."
            ) from None

    def epochs_to_do(self, stop_after: int | None) -> range:
        """The epochs that are left."""
        last = self.recipe["epochs"]
        if stop_after is not None:
            last = min(last, whole_number("stop_after", stop_after, 1))
        return range(len(self.history.rows) + 1, last + 1)

    def batches(self, epoch: int):
        """The batches of the training set on the device, under a bar."""
        self.epoch, self.began = epoch, time.perf_counter()
        self.losses, self.sizes, self.rates, self.correct = [], [], [], 0
        title = f"epoch {epoch} of {self.recipe['epochs']}"
        with runtime.bar(desc=title, total=len(self.train_loader)) as self.bar:
            for batch in self.train_loader:
                pixels, labels = unpack(batch)
                check_labels(labels, self.model)
                if not self.rates:  # without dropout: the random numbers stay as they are
                    with autocast(self.device):
                        models.logits(self.model.eval(), pixels[:1])  # raises for what doesn't fit
                    train_mode(self.model)
                self.rates.append(float(self.optimizer.param_groups[0]["lr"]))
                yield pixels.to(self.device), labels.to(self.device)
                self.bar.update()
        runtime.synchronise(self.device)
        self.seconds_of_training = time.perf_counter() - self.began

    def count(self, loss: torch.Tensor, logits: torch.Tensor, labels: torch.Tensor) -> None:
        """Take note of one step."""
        self.losses.append(loss.detach())
        self.sizes.append(len(labels))
        self.correct += (logits.detach().argmax(1) == labels).sum()
        if self.device.type == "cpu" or len(self.losses) % LOOK_EVERY == 0:
            self._check_loss(float(self.losses[-1]), len(self.losses))
            speed = sum(self.sizes) / (time.perf_counter() - self.began)
            text = f"loss {float(self.losses[-1]):.3f}, {speed:.0f} images/s"
            self.bar.set_postfix_str(text, refresh=False)

    def finish_epoch(self, val: Evaluation) -> None:
        """Add a row to the history, keep the weights if they are the best, save, print a line."""
        losses = torch.stack(self.losses).tolist()
        for step, loss in enumerate([*losses, val.loss], 1):
            self._check_loss(loss, min(step, len(losses)))
        loss_sum = sum(loss * size for loss, size in zip(losses, self.sizes, strict=True))
        learnt = [loss_sum, float(self.correct), sum(self.sizes)]
        judged = [val.loss * len(val.labels), val.correct, len(val.labels)]
        parts = self._of_every_process(learnt + judged)
        totals = [sum(numbers) for numbers in zip(*parts, strict=True)]
        row = {
            "epoch": self.epoch,
            "train loss": totals[0] / totals[2],
            "train accuracy": totals[1] / totals[2],
            "validation loss": totals[3] / totals[5],
            "validation accuracy": totals[4] / totals[5],
            "learning rate at start": self.rates[0],
            "images/s": totals[2] / self.seconds_of_training,
            "seconds": time.perf_counter() - self.began,
        }
        if History([*self.history.rows, row]).best_epoch == self.epoch:
            self.kept, self.kept_epoch = self._weights(), self.epoch
        pairs = zip(losses, self.rates, strict=True)
        for step, (loss, rate) in enumerate(pairs, len(self.history.steps) + 1):
            self.history.steps.append({"step": step, "loss": loss, "learning rate": rate})
        self.history.rows.append(row)
        if self.folder is not None:
            self.save()
        self._print(
            f"epoch {self.epoch} of {self.recipe['epochs']}: loss {row['train loss']:.3f}, "
            f"validation accuracy {100 * row['validation accuracy']:.1f} %, "
            f"{row['seconds']:.0f} s"
        )

    def save(self) -> None:
        """Write the checkpoint. Of several processes the first one writes, for all."""
        random = self._of_every_process(self._random_state())
        if self.folder and self.rank == 0:
            weights = self.model.state_dict()
            state = {
                "run": self.run,
                "rows": self.history.rows,
                "steps": self.history.steps,
                "model": weights,
                # The same object where the last epoch is the best: torch writes its bytes once.
                "best": weights if self.kept_epoch == len(self.history.rows) else self.kept,
                "best epoch": self.kept_epoch,
                "optimizer": self.optimizer.state_dict(),
                "scheduler": self.scheduler.state_dict(),
                "scaler": self.scaler.state_dict(),
                "random": random,
            }
            checkpoint.write(self.folder, state)
        if self.processes > 1:
            dist.barrier()
        self.saved_epoch = len(self.history.rows)

    def _begin(self, folder: Path | None) -> None:
        seed = self.recipe["seed"]
        torch.manual_seed(seed + self.rank)  # each process augments in its own way
        if self.generator is not None:
            self.generator.manual_seed(seed)  # and all agree on the order of the pictures
        self.folder = folder
        if folder is None:
            return
        self.run = checkpoint.describe(
            self.model, self.optimizer, self.train_loader, self.val_loader, self.recipe
        )
        if (state := checkpoint.read(folder)) is not None:
            if self.rank == 0:  # the others judge by other validation pictures
                checkpoint.check_same_run(state["run"], self.run, self.model)
            self._load(state)
        checkpoint.started_from[self.model] = self.run["start"]
        if len(self.history.rows) < self.recipe["epochs"]:
            checkpoint.prepare(folder)

    def _load(self, state: dict) -> None:
        if len(state["random"]) != self.processes:
            raise CourseError(
                f"The checkpoint is of {len(state['random'])} processes, this run has "
                f"{self.processes}: start as many, or use another folder."
            )
        self.run = state["run"]
        self.kept, self.kept_epoch = state["best"], state["best epoch"]
        for part in ("model", "optimizer", "scheduler", "scaler"):
            getattr(self, part).load_state_dict(state[part])
        self.history.rows, self.history.steps = state["rows"], state["steps"]
        self.saved_epoch = len(self.history.rows)
        self._set_random_state(state["random"][self.rank])
        self._print(f"Going on after epoch {self.saved_epoch} of {self.recipe['epochs']}.")

    def _weights(self) -> dict:
        return {k: v.detach().cpu().clone() for k, v in self.model.state_dict().items()}

    def _where_it_stopped(self) -> str:
        done, epochs = len(self.history.rows), self.recipe["epochs"]
        has = f"the weights of epoch {self.kept_epoch}" if done else "its weights from before"
        goes_on = self.folder is not None and (self.folder / checkpoint.NAME).is_file()
        again = "goes on from the checkpoint" if goes_on else "starts from the first epoch"
        return (
            f"Stopped after {done} of {epochs} epochs: the model has {has}. The same call {again}."
        )

    def _check_loss(self, loss: float, step: int) -> None:
        if not math.isfinite(loss):
            raise CourseError(
                f"The loss is {loss} at step {step} of epoch {self.epoch}: lower the learning "
                "rate and try again. The model has the weights of its best epoch so far."
            )

    def _random_state(self) -> dict:
        return {
            "torch": torch.get_rng_state(),
            "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
            "loader": None if self.generator is None else self.generator.get_state(),
        }

    def _set_random_state(self, state: dict) -> None:
        torch.set_rng_state(state["torch"])
        if torch.cuda.is_available() and state["cuda"]:
            torch.cuda.set_rng_state_all(state["cuda"])
        if state["loader"] is not None and self.generator is not None:
            self.generator.set_state(state["loader"])

    def _of_every_process(self, mine) -> list:
        gathered: list = [mine] * self.processes
        if self.processes > 1:
            dist.all_gather_object(gathered, mine)
        return gathered

    def _print(self, text: str) -> None:
        if self.rank == 0:
            print(text, flush=True)


def check_recipe(recipe: dict) -> dict:
    """The numbers of a recipe as Python's own types; `CourseError` for one out of range."""
    seed = runtime.current().seed if recipe["seed"] is None else recipe["seed"]
    return {
        "epochs": whole_number("epochs", recipe["epochs"], 1, 1_000_000),
        "schedule": one_of("schedule", recipe["schedule"], SCHEDULES),
        "warmup": number("warmup", recipe["warmup"], least=0, most=1),
        "clip": number("clip", recipe["clip"], above=0),
        "label_smoothing": number("label_smoothing", recipe["label_smoothing"], least=0, most=1),
        "seed": whole_number("seed", seed, 0, 2**63 - 1),
    }


def check_run(model: nn.Module, optimizer, train_loader, val_loader) -> None:
    """Raise `CourseError` where training could not work."""
    for name, loader in (("training", train_loader), ("validation", val_loader)):
        if not hasattr(loader, "__len__") or len(loader) == 0:
            raise CourseError(f"The {name} loader is empty: give it at least one picture.")
    learns = {id(p) for p in models.trainable(model)}
    if not learns:
        raise CourseError("Every parameter is frozen: unfreeze the head, or nothing can learn.")
    groups = optimizer.param_groups
    if not learns & {id(p) for group in groups for p in group["params"]}:
        raise CourseError(
            "The optimizer has none of the parameters of this model that can learn: build it "
            "after the model, from model.parameters()."
        )
    rates = [number("lr", group.get("initial_lr", group["lr"]), least=0) for group in groups]
    if not any(rates):
        raise CourseError("Every learning rate is 0, so nothing would learn: give one above 0.")
    labels = checkpoint.labels_of(getattr(train_loader, "dataset", None))
    missing = sorted(set(range(model.config.num_labels)) - set(labels or ()))
    if labels and missing:
        raise CourseError(
            f"Class {missing[0]} ({model.config.id2label[missing[0]]!r}) has no training picture, "
            "so the model could never learn it: add pictures, or leave it out of the head."
        )
