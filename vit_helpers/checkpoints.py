"""A training run as a whole, and its checkpoint: saved after each epoch, continued to the bit."""

import os
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import nn

from . import models
from .errors import CourseError
from .history import History

NO_MEMORY = (
    "Not even one picture fits into the memory of the GPU: close other programs and notebooks "
    "that use it, or freeze more blocks."
)


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
        averages = 2 * sum(p.nbytes for p in models.trainable(self.model))  # AdamW's
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
