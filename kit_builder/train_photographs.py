"""Trains ``quarter``, the small Vision Transformer of the offline kit, on real photographs.

    VIT_REAL_PHOTOS=/folder python -m kit_builder.train_photographs --minutes 240

Each run goes on from the weights it is given (``--start``, by default those of the kit), so a
model can be trained over several evenings; within a run it goes on from its last checkpoint.

What one step does: every worker (a thread with a replica of the network, one a core) draws a batch
of its own from four kinds of pictures and answers with one head of 1,404 outputs:

* Tiny-ImageNet: its 200 labels, softened by the teacher's answer to the same photograph;
* sharp photographs: the teacher's answer over ImageNet's 1,000 classes;
* CIFAR-10: its ten labels, so that what is needed to transfer is not forgotten;
* drawings: 194 things, for the sake of the drawn twins.

Only the first 200 outputs are kept in the end. Most batches show 25 to 64 tokens instead of 197
(progressive resizing, Touvron et al. 2019; PatchDropout, Liu et al. 2022); the last part of the run
sees half or all of them at 224 pixels. The learning rate and the stages follow the share of the
minutes that is gone, so a slower machine ends properly too.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Generator, Tensor
from tqdm.auto import tqdm

from vit_helpers.errors import CourseError

from .lean_vit import GRID, PATCH, LeanViT, patchify
from .painting import Painter
from .photographs import CLASSES, IMAGENET, LINES, Photographs, find_real
from .train import save_atomically

ROOT = Path(__file__).resolve().parents[1]
CACHE = ROOT / ".cache" / "train"
TEN, DRAWN = 10, 194
TINY = slice(0, CLASSES)
TEACHER = slice(CLASSES, CLASSES + IMAGENET)
CIFAR = slice(TEACHER.stop, TEACHER.stop + TEN)
DRAWINGS = slice(CIFAR.stop, CIFAR.stop + DRAWN)
OUTPUTS = DRAWINGS.stop
WATCH_EVERY = 600  # seconds between two looks at held-out photographs
SAVE_EVERY = 120  # seconds between two checkpoints
PAUSE = 30.0  # seconds; a step that seems to take longer was interrupted


@dataclass(frozen=True)
class Recipe:
    """Everything that decides how the run goes."""

    minutes: float = 240.0
    batch: int = 48  # of each worker
    workers: int = 2
    mix: tuple[float, ...] = (0.46, 0.22, 0.22, 0.10)  # tiny, sharp, CIFAR-10, drawings
    lr: float = 5e-4
    warmup: float = 0.03
    weight_decay: float = 0.03
    smoothing: float = 0.05
    teacher_share: float = 0.4  # of the target of a labelled photograph
    ema: float = 0.9985
    seed: int = 0

    def rate(self, progress: float) -> float:
        """Linear warm-up, then a cosine to one fiftieth of the peak."""
        if progress < self.warmup:
            return self.lr * progress / self.warmup
        share = (progress - self.warmup) / (1 - self.warmup)
        return self.lr * (0.02 + 0.98 * (1 + math.cos(math.pi * min(share, 1))) / 2)

    def view(self, progress: float, rng: Generator) -> tuple[int, int | None]:
        """Side in pixels and number of kept patches (None for all) of the next batch."""
        views: tuple[tuple[int, int | None], ...]
        if progress < 0.8:
            views = ((80, None), (96, None), (96, None), (112, 36), (144, 36))
        elif progress < 0.93:
            views = ((128, None), (224, 64), (224, 98))
        else:
            views = ((224, 98), (224, None))
        return views[torch.randint(len(views), (), generator=rng).item()]


def initial_model(start: Path) -> LeanViT:
    """The network with the weights of ``start``; outputs that those lack begin at zero.

    A head of another number than 200 or 1,200 outputs has other classes, so none of it is taken.
    """
    from safetensors.torch import load_file

    torch.manual_seed(0)
    model = LeanViT(OUTPUTS)
    state = {name: tensor.float() for name, tensor in load_file(start).items()}
    for name in ("classifier.weight", "classifier.bias"):
        known = state[name]
        state[name] = torch.zeros(OUTPUTS, *known.shape[1:])
        if len(known) in (CLASSES, CLASSES + IMAGENET):
            state[name][: len(known)] = known
    model.load_transformers_state_dict(state)
    return model


def soft_targets(labels: Tensor, index: Tensor, share: Tensor, recipe: Recipe) -> Tensor:
    """Target (n, 200): the label, smoothed, mixed with what the teacher says of the 200."""
    target = F.one_hot(labels, CLASSES).float()
    target = target * (1 - recipe.smoothing) + recipe.smoothing / CLASSES
    said = teacher_among(index, share)
    mass = said.sum(1, keepdim=True)
    told = said / mass.clamp_min(1e-6)
    weight = recipe.teacher_share * mass.clamp(max=1)
    return target * (1 - weight) + told * weight


_POSITION = torch.full((IMAGENET,), CLASSES)
_POSITION[torch.tensor(LINES)] = torch.arange(CLASSES)


def teacher_among(index: Tensor, share: Tensor) -> Tensor:
    """The teacher's probabilities of the 200 classes, (n, 200); the rest is left out."""
    said = torch.zeros(len(index), CLASSES + 1)
    said.scatter_add_(1, _POSITION[index.long()], share.float())
    return said[:, :CLASSES]


def against(logits: Tensor, target: Tensor) -> Tensor:
    """Cross entropy of soft targets, summed over the batch."""
    return -(target * logits.log_softmax(1)).sum()


class Worker:
    """One replica of the network, with its own source of chance."""

    def __init__(self, number: int, recipe: Recipe, painter: Painter, dtype: torch.dtype) -> None:
        self.number, self.recipe, self.painter, self.dtype = number, recipe, painter, dtype
        self.replica = LeanViT(OUTPUTS).to(dtype)

    def gradients(self, master: LeanViT, step: int, side: int, kept: int | None) -> Tensor:
        """Draw a batch, leave its gradients in the replica; return loss and shares named right."""
        torch.set_num_threads(1)
        recipe = self.recipe
        with torch.no_grad():
            torch._foreach_copy_(list(self.replica.parameters()), list(master.parameters()))
        rng = torch.Generator().manual_seed((recipe.seed * 1_000_003 + step) * 64 + self.number)
        counts = [round(recipe.batch * share) for share in recipe.mix]
        with torch.no_grad():
            parts = self.painter.batch(counts, side, rng)
            x = torch.cat([part.pixels for part in parts]).clamp_(0, 1).mul_(2).sub_(1)
            keep = None
            if kept is not None:
                keep = torch.rand(len(x), (side // PATCH) ** 2, generator=rng).argsort(1)[:, :kept]
        logits = self.replica(patchify(x).to(self.dtype), keep).float()
        tiny, sharp, cifar, drawn = logits.split(counts)
        t, s, c, d = parts
        loss = against(tiny[:, TINY], soft_targets(t.labels, t.teacher, t.shares, recipe))
        loss = loss + 0.3 * self.as_the_teacher(tiny, t)
        loss = loss + self.as_the_teacher(sharp, s)
        said = teacher_among(s.teacher, s.shares)
        loss = loss + against(sharp[:, TINY], said * (said.sum(1, keepdim=True) > 0.3))
        kinds = ((cifar[:, CIFAR], c.labels), (drawn[:, DRAWINGS], d.labels))
        for outputs, labels in kinds:
            loss = loss + F.cross_entropy(outputs, labels, label_smoothing=0.1, reduction="sum")
        loss = loss / len(x)
        self.replica.zero_grad(set_to_none=True)
        loss.backward()
        right = [(tiny[:, TINY].argmax(1) == t.labels).float().mean()]
        right += [(o.argmax(1) == y).float().mean() for o, y in kinds]
        return torch.stack([loss.detach(), *right])

    @staticmethod
    def as_the_teacher(logits: Tensor, part) -> Tensor:
        """Cross entropy against the teacher's twelve classes, their sum made one."""
        share = part.shares.float() / part.shares.float().sum(1, keepdim=True)
        picked = logits[:, TEACHER].log_softmax(1).gather(1, part.teacher.long())
        return -(share * picked).sum()


class Trainer:
    """The loop with its state: weights, their running average, optimizer, step and seconds."""

    def __init__(self, recipe: Recipe, model: LeanViT, painter: Painter, cache: Path) -> None:
        self.recipe, self.master, self.cache = recipe, model, cache
        self.average = LeanViT(OUTPUTS)
        self.average.load_state_dict(model.state_dict())
        decay = [p for p in model.parameters() if p.ndim == 2]
        plain = [p for p in model.parameters() if p.ndim != 2]
        self.optimizer = torch.optim.AdamW(
            [
                {"params": decay, "weight_decay": recipe.weight_decay},
                {"params": plain, "weight_decay": 0.0},
            ],
            betas=(0.9, 0.99),
            fused=True,
        )
        capable = torch.cpu.get_capabilities()
        fast = any(capable.get(name) for name in ("avx512_bf16", "amx_bf16", "bf16"))
        dtype = torch.bfloat16 if fast else torch.float32
        self.workers = [Worker(i, recipe, painter, dtype) for i in range(recipe.workers)]
        self.pool = ThreadPoolExecutor(recipe.workers)
        self.step, self.seconds, self.pictures = 0, 0.0, 0

    @property
    def progress(self) -> float:
        """Share of the time that is gone."""
        return self.seconds / (60 * self.recipe.minutes)

    def train_step(self) -> Tensor:
        """One update of the weights; returns the workers' mean, see :meth:`Worker.gradients`."""
        recipe = self.recipe
        rng = torch.Generator().manual_seed(recipe.seed + self.step)
        side, kept = recipe.view(self.progress, rng)
        jobs = [
            self.pool.submit(w.gradients, self.master, self.step, side, kept) for w in self.workers
        ]
        seen = torch.stack([job.result() for job in jobs]).mean(0)
        replicas = [list(w.replica.parameters()) for w in self.workers]
        for p, *copies in zip(self.master.parameters(), *replicas, strict=True):
            p.grad = sum(c.grad.float() for c in copies) / len(copies)
        torch.nn.utils.clip_grad_norm_(self.master.parameters(), 1.0)
        for group in self.optimizer.param_groups:
            group["lr"] = recipe.rate(self.progress)
        self.optimizer.step()
        self.step += 1
        self.pictures += recipe.batch * recipe.workers
        decay = min(recipe.ema, self.step / (self.step + 10))
        with torch.no_grad():
            torch._foreach_lerp_(
                list(self.average.parameters()), list(self.master.parameters()), 1 - decay
            )
        return seen

    def save(self) -> None:
        """Write a checkpoint from which :meth:`resume` goes on."""
        state = {
            "recipe": json.dumps(asdict(self.recipe)),
            "master": self.master.state_dict(),
            "average": self.average.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "counts": (self.step, self.seconds, self.pictures),
        }
        save_atomically(state, self.cache / "checkpoint.pt")

    def resume(self) -> bool:
        """Load the checkpoint if there is one of the same recipe.

        Raises:
            CourseError: the checkpoint belongs to another recipe.
        """
        path = self.cache / "checkpoint.pt"
        if not path.exists():
            return False
        state = torch.load(path, weights_only=True)
        if state["recipe"] != json.dumps(asdict(self.recipe)):
            raise CourseError(f"{path} belongs to another recipe; delete it to start afresh.")
        self.master.load_state_dict(state["master"])
        self.average.load_state_dict(state["average"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.step, self.seconds, self.pictures = state["counts"]
        return True


class Watch:
    """Held-out photographs, looked at every few minutes: tells whether a run is worth going on.

    The finished weights are always the last average, so nothing is chosen by these figures.
    """

    def __init__(self, photographs: Photographs, cache: Path) -> None:
        every = slice(None, None, 4)
        self.tiny = photographs.tiny_held.pixels[every], photographs.tiny_held.labels[every]
        self.sharp = photographs.sharp_held.pixels, photographs.sharp_held.labels
        self.log = cache / "log"

    def look(self, trainer: Trainer, seen: str) -> str:
        """Measure the average at full size, write a line into the log and return it."""
        model = trainer.average
        tiny = self.top(model, *self.tiny, TINY)
        sharp = self.top(model, *self.sharp, TEACHER)
        line = (
            f"minute {trainer.seconds / 60:.1f} step {trainer.step} "
            f"pictures {trainer.pictures} | Tiny-ImageNet {tiny} | Imagenette of 1,000 {sharp} | "
            f"training {seen}"
        )
        with self.log.open("a", encoding="utf-8") as f:
            f.write(line + "\n")
        return line

    @staticmethod
    @torch.inference_mode()
    def top(model: LeanViT, pixels: Tensor, labels: Tensor, outputs: slice) -> str:
        """Top-1 / top-5 in per cent among a slice of the outputs."""
        ranks = []
        for part in pixels.split(32):
            x = F.interpolate(part / 255, size=GRID * PATCH, mode="bilinear", antialias=True)
            ranks.append(model(patchify(x * 2 - 1))[:, outputs].topk(5).indices)
        hits = torch.cat(ranks) == labels[:, None]
        return f"{100 * hits[:, 0].float().mean():.1f} / {100 * hits.any(1).float().mean():.1f} %"


def export(model: LeanViT, names: list[str], folder: Path) -> None:
    """Write the first 200 outputs as a checkpoint of transformers, in half precision."""
    from safetensors.torch import save_file
    from transformers import ViTConfig, ViTImageProcessor

    config = ViTConfig(
        hidden_size=192,
        num_hidden_layers=12,
        num_attention_heads=12,
        intermediate_size=768,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        id2label=dict(enumerate(names)),
        label2id={name: i for i, name in enumerate(names)},
        architectures=["ViTForImageClassification"],
    )
    folder.mkdir(parents=True, exist_ok=True)
    config.save_pretrained(folder)
    ViTImageProcessor().save_pretrained(folder)
    state = model.transformers_state_dict()
    for name in ("classifier.weight", "classifier.bias"):
        state[name] = state[name][TINY]
    half = {name: tensor.half().contiguous() for name, tensor in state.items()}
    partial = folder / "model.partial"
    save_file(half, partial, metadata={"format": "pt"})
    partial.chmod(0o644)  # safetensors makes it readable for its owner only
    partial.replace(folder / "model.safetensors")


def run(recipe: Recipe, start: Path, to: Path, cache: Path = CACHE) -> None:
    """Train for the given minutes, then write the model to ``to``."""
    from .photographs import classes

    real = find_real()
    names = [row["name"] for row in classes(real)]
    photographs = Photographs.load(real, cache)
    painter = Painter.load(photographs, cache)
    trainer = Trainer(recipe, initial_model(start), painter, cache)
    watch = Watch(photographs, cache)
    if trainer.resume():
        print(f"going on at minute {trainer.seconds / 60:.1f}", flush=True)
    else:
        print(watch.look(trainer, "not begun"), flush=True)
    looked = saved = trainer.seconds
    bar = tqdm(total=100, desc="training", disable=not sys.stderr.isatty())
    mean = None
    while trainer.progress < 1:
        began = time.monotonic()
        seen = trainer.train_step()
        trainer.seconds += min(
            time.monotonic() - began, PAUSE
        )  # a laptop that slept learnt nothing
        mean = seen if mean is None else mean.lerp(seen, 0.02)
        bar.update(round(100 * trainer.progress) - bar.n)
        if trainer.seconds - saved > SAVE_EVERY:
            trainer.save()
            saved = trainer.seconds
        if trainer.seconds - looked > WATCH_EVERY:
            loss, *right = mean.tolist()
            words = f"loss {loss:.2f}, right " + " ".join(f"{100 * r:.0f}" for r in right)
            print(watch.look(trainer, words), flush=True)
            looked = trainer.seconds
    trainer.save()
    print(watch.look(trainer, "ended"), flush=True)
    export(trainer.average, names, to)


def main() -> None:
    """The command line; see the head of this file."""
    kit = ROOT / "vit_helpers" / "offline_kit" / "quarter"
    parser = argparse.ArgumentParser(description="Train the small network of the offline kit.")
    parser.add_argument("--minutes", type=float, default=Recipe.minutes)
    parser.add_argument("--start", type=Path, default=kit / "model.safetensors")
    parser.add_argument("--to", type=Path, default=kit)
    parser.add_argument("--cache", type=Path, default=CACHE)
    args = parser.parse_args()
    if not 0 < args.minutes < 1e5:
        parser.error("--minutes must be a number above 0.")
    run(Recipe(minutes=args.minutes), args.start, args.to, args.cache)


if __name__ == "__main__":
    try:
        main()
    except CourseError as error:
        sys.exit(str(error))
