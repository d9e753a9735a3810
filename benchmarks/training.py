"""`python -m benchmarks training`: what `training.fit` saves, against two other loops.

All loops train the same network on the same pictures, in one process and in turns, so that a slow
minute of the machine hits them all. What is timed is the whole loop, with its pictures. The first
turn, in which libraries are imported and a compiler compiles, has a column of its own.
"""

import contextlib
import copy
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import pandas as pd
import torch
from datasets import load_dataset
from torch.nn.functional import cross_entropy

from vit_helpers import data, efficiency, images, models, runtime, training
from vit_helpers.errors import CourseError, one_of

from .machine import compiler_missing, free_gb, machine, model_name, save_results
from .widening import widen

OLD = "old tutorial"
CACHED_EPOCHS = 5  # cached features are computed once and serve so many epochs
HEAD_BATCH = 32  # of `training.train_head`
FROZEN_SHARE = 2 / 3  # of the blocks: 8 of 12
GRADIENTS = 2  # a backward pass costs about two forward passes


@dataclass(frozen=True)
class Request:
    """What to measure.

    Attributes:
        widen: How many times as wide the course's model is made; 4 gives ViT-B/16's shape.
        pictures: Training pictures in an epoch; a quarter as many validate.
        batch: Pictures in a batch.
        rounds: In how many turns.
        loops: Names of `LOOPS`; all if empty.
        folder: Where `training.csv` and `training.json` go.
        command: How this was asked for.
    """

    widen: int = 1
    pictures: int = 32
    batch: int = 8
    rounds: int = 3
    loops: Sequence[str] = ()
    folder: Path = Path("build/bench")
    command: str = ""


@dataclass(frozen=True)
class Lap:
    """One turn of a loop.

    Attributes:
        pictures: How many it learned from, each epoch counted.
        epochs: How many epochs that were.
        learning: Seconds without validation, but with everything that had to be computed first.
        whole: Seconds with validation and whatever else the loop does in an epoch.
        passes: What a picture needs in an epoch, counted in forward passes of the whole network.
    """

    pictures: int
    epochs: int
    learning: float
    whole: float
    passes: float = 1 + GRADIENTS


class Track:
    """What all loops share: the network and the pictures, as files and as decoded sets."""

    def __init__(self, request: Request):
        self.rt = runtime.start("classifier", "cifar10")
        self.request = request
        self.processor = models.load_processor(self.rt.locate("classifier"))
        cifar = load_dataset(self.rt.locate("cifar10"))
        self.names = data.class_names(cifar["train"])
        self.train = data.balanced_subset(cifar["train"], request.pictures, seed=self.rt.seed)
        self.val = data.balanced_subset(
            cifar["test"], max(10, request.pictures // 4), seed=self.rt.seed
        )
        self.model = models.load_with_new_head(self.names)
        if request.widen != 1:
            self.model = widen(self.model, request.widen)
        moving, still = data.train_transform(self.processor), data.eval_transform(self.processor)
        self.train_set = data.PictureSet(self.train, moving)
        self.still_set = data.PictureSet(self.train, still)
        self.val_set = data.PictureSet(self.val, still)

    @cached_property
    def compiled(self):
        """One network for all turns of the compiled loop: a fresh copy would compile again."""
        network = self.network()
        network.compile()
        return network

    def network(self, first_blocks: int = 0):
        """A fresh copy of the network, its first blocks frozen."""
        network = copy.deepcopy(self.model).to(self.rt.device)
        models.freeze(network, first_blocks)
        return network

    @property
    def frozen_blocks(self) -> int:
        """How many blocks the frozen rows freeze."""
        return round(FROZEN_SHARE * len(models.blocks(self.model)))


def old_tutorial(track: Track) -> Lap:
    """The loop of old tutorials: PIL pictures one by one, fp32, the training set judged again."""
    from torchvision import transforms

    size = images.model_size(track.processor)
    normalise = [
        transforms.ToTensor(),
        transforms.Normalize(track.processor.image_mean, track.processor.image_std),
    ]
    moving = transforms.Compose(
        [transforms.RandomResizedCrop(size), transforms.RandomHorizontalFlip(), *normalise]
    )
    still = transforms.Compose([transforms.Resize(size), *normalise])
    train, val = (
        torch.utils.data.DataLoader(
            part.with_transform(lambda rows, t=transform: _opened(rows, t)),
            batch_size=track.request.batch,
            shuffle=part is track.train,
        )
        for part, transform in ((track.train, moving), (track.val, still))
    )
    model, device = track.network(), track.rt.device
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-5)
    model.train()
    began = time.perf_counter()
    for rows in train:
        logits = model(pixel_values=rows["pixels"].to(device)).logits
        loss = cross_entropy(logits, rows["label"].to(device))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    runtime.synchronise(device)
    learning = time.perf_counter() - began
    model.eval()
    correct = 0
    with torch.no_grad():
        for loader in (train, val):
            for rows in loader:
                answers = model(pixel_values=rows["pixels"].to(device)).logits.argmax(1).cpu()
                correct += int((answers == rows["label"]).sum())
    return Lap(len(track.train), 1, learning, time.perf_counter() - began)


def _opened(rows: dict, transform) -> dict:
    pictures = next(value for name, value in rows.items() if name != "label")
    return {"pixels": [transform(p.convert("RGB")) for p in pictures], "label": rows["label"]}


def hf_trainer(track: Track) -> Lap:
    """`transformers.Trainer` with its defaults, on the same PIL pictures, without validation."""
    from torchvision import transforms
    from transformers import Trainer, TrainingArguments

    moving = transforms.Compose(
        [
            transforms.RandomResizedCrop(images.model_size(track.processor)),
            transforms.RandomHorizontalFlip(),
            transforms.ToTensor(),
            transforms.Normalize(track.processor.image_mean, track.processor.image_std),
        ]
    )

    def prepared(rows):
        opened = _opened(rows, moving)
        return {"pixel_values": opened["pixels"], "labels": opened["label"]}

    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            folder,
            num_train_epochs=1,
            per_device_train_batch_size=track.request.batch,
            remove_unused_columns=False,  # else the pictures are dropped before the transform
            save_strategy="no",
            report_to=[],
            disable_tqdm=True,
            use_cpu=track.rt.device.type == "cpu",
        )
        trainer = Trainer(
            track.network(), arguments, train_dataset=track.train.with_transform(prepared)
        )
        began = time.perf_counter()
        with contextlib.redirect_stdout(None):  # it prints its own figures
            trainer.train()
        runtime.synchronise(track.rt.device)
        seconds = time.perf_counter() - began
    return Lap(len(track.train), 1, seconds, seconds)


def _fit(track: Track, model) -> Lap:
    train = data.loader(track.train_set, track.request.batch, shuffle=True)
    val = data.loader(track.val_set, track.request.batch)
    optimizer = torch.optim.AdamW(training.parameter_groups(model, 5e-5), fused=True)
    with contextlib.redirect_stdout(None):
        history = training.fit(model, train, val, optimizer=optimizer, epochs=1)
    (row,) = history.rows
    return Lap(len(track.train), 1, len(track.train) / row["images/s"], row["seconds"])


def fit(track: Track) -> Lap:
    """`training.fit`: every weight learns."""
    return _fit(track, track.network())


def fit_frozen(track: Track) -> Lap:
    """`training.fit` with the first two thirds of the blocks frozen."""
    lap = _fit(track, track.network(track.frozen_blocks))
    return replace(lap, passes=1 + GRADIENTS * (1 - FROZEN_SHARE))


def fit_compiled(track: Track) -> Lap:
    """`training.fit` with a network that `torch.compile` has compiled."""
    track.compiled.load_state_dict(track.model.state_dict())
    with efficiency.known_warnings_hidden():
        return _fit(track, track.compiled)


def cached_head(track: Track) -> Lap:
    """Features computed once, then five epochs of a new head on them, with AdamW."""
    model, count = track.network(), len(track.train)
    train, val = (data.loader(s, track.request.batch) for s in (track.still_set, track.val_set))
    began = time.perf_counter()
    features, labels = training.cache_features(model, train)
    steps = max(1, CACHED_EPOCHS * count // HEAD_BATCH)
    head = training.train_head(features, labels, lr=1e-3, steps=steps)
    learning = time.perf_counter() - began
    judged, _ = training.cache_features(model, val)
    head(torch.from_numpy(judged)).argmax(1)
    whole = time.perf_counter() - began
    return Lap(CACHED_EPOCHS * count, CACHED_EPOCHS, learning, whole, passes=1 / CACHED_EPOCHS)


def probe(track: Track) -> Lap:
    """A linear probe: one forward pass, then a logistic regression. Counts as five epochs."""
    model = track.network()
    train, val = (data.loader(s, track.request.batch) for s in (track.still_set, track.val_set))
    began = time.perf_counter()
    classifier = training.linear_probe(*training.cache_features(model, train))
    learning = time.perf_counter() - began
    classifier.score(*training.cache_features(model, val))
    pictures, whole = CACHED_EPOCHS * len(track.train), time.perf_counter() - began
    return Lap(pictures, CACHED_EPOCHS, learning, whole, passes=1 / CACHED_EPOCHS)


COMPILED = "fit, compiled"
LOOPS: dict[str, Callable[[Track], Lap]] = {
    OLD: old_tutorial,
    "HF Trainer": hf_trainer,
    "fit": fit,
    COMPILED: fit_compiled,
    "fit, 8 of 12 frozen": fit_frozen,
    "cached features, a head": cached_head,
    "linear probe": probe,
}


def run(request: Request) -> int:
    """Measure, print a table, and write it as CSV and JSON. Returns 0.

    A loop that cannot run here is left out, and a sentence says why.

    Raises:
        CourseError: If there is no loop of that name, or the memory is too small for the network.
    """
    names = [one_of("The loop", name, tuple(LOOPS)) for name in request.loops or LOOPS]
    track = Track(request)
    _check_memory(track)
    left_out = {name: reason for name in names if (reason := _missing(name, track.rt.device))}
    names = [name for name in dict.fromkeys([OLD, *names]) if name not in left_out]
    laps: dict[str, list[Lap]] = {name: [] for name in names}
    first = {}
    order = list(names)
    for turn in runtime.bar(range(request.rounds + 1), "turns"):
        for name in order:
            lap = LOOPS[name](track)
            if turn:
                laps[name].append(lap)
            else:
                first[name] = lap.whole
        order = order[1:] + order[:1]
    table = summary(laps, track).assign(**{"first turn s": pd.Series(first)})
    best = table["times"].idxmax()
    print(f"\n{machine()['processor']}, {torch.get_num_threads()} threads")
    print(f"{request.pictures} pictures in batches of {request.batch}, {request.rounds} rounds")
    print(table.round(3).to_string())
    print(f"fastest: {best}, {table.loc[best, 'of possible']:.0%} of what the products allow")
    for name, reason in left_out.items():
        print(f"{name}: left out, {reason}")
    request.folder.mkdir(parents=True, exist_ok=True)
    table.to_csv(request.folder / "training.csv")
    about = {name: getattr(request, name) for name in ("widen", "pictures", "batch", "rounds")}
    about |= {"commands": [request.command], "left out": left_out, "model": model_name(None)}
    save_results(table, request.folder / "training.json", kind="training", **about)
    print(f"written to {request.folder}")
    return 0


def _missing(name: str, device: torch.device) -> str:
    """Why a loop cannot run here, or an empty text."""
    return compiler_missing(device) if name == COMPILED else ""


def _check_memory(track: Track) -> None:
    """Refuse a network that would fill the memory: swapping, nothing would be measured."""
    if track.rt.device.type != "cpu":
        return
    weights = sum(p.numel() for p in track.model.parameters())
    config = models.vision_config(track.model)
    tokens = (config.image_size // config.patch_size) ** 2 + 1
    # Of a block autograd keeps about 14 values a feature, and the scores and weights of attention.
    kept = tokens * (14 * config.hidden_size + 3 * config.num_attention_heads * tokens)
    values = 8 * weights + track.request.batch * config.num_hidden_layers * kept
    wanted, free = 4 * values / 1e9, free_gb()  # 8: two networks, gradients, AdamW's two, spare
    if wanted > free:
        raise CourseError(
            f"The largest loop wants about {wanted:.1f} GB of memory and {free:.1f} GB are free: "
            "take a smaller --widen or --batch, or close other programs."
        )


def summary(laps: dict[str, list[Lap]], track: Track):
    """Rates, ratios to the old loop turn by turn, and the share of the device's matrix rate.

    Returns:
        A `DataFrame` by loop: `images/s` (median), `times` (median ratio of images/s), `from` and
        `to` (its smallest and largest value over the turns), `s/epoch`, `epoch times` (median
        ratio of the time of a whole epoch), `of possible`: the operations that the loop needs in
        its seconds of learning, as a share of the fastest matrix product measured here, and
        `at most`: what `times` would be at that rate.
    """
    import numpy as np

    model = copy.deepcopy(track.model).eval().cpu()
    pixels = track.val_set[0][0][None]
    with models.attention(model, "eager"):
        counts = efficiency.count_operations(lambda x: model(pixel_values=x).logits, pixels)
    forward = sum(counts.values())
    fastest = max(efficiency.matrix_rates(track.rt.device)[f] for f in _formats(track.rt))
    rate = {
        name: np.array([lap.pictures / lap.learning for lap in ls]) for name, ls in laps.items()
    }
    epoch = {name: np.array([lap.whole / lap.epochs for lap in ls]) for name, ls in laps.items()}
    rows = {}
    for name in laps:
        ratios = rate[name] / rate[OLD]
        possible = fastest / (forward * laps[name][0].passes)  # images/s
        rows[name] = {
            "images/s": np.median(rate[name]),
            "times": np.median(ratios),
            "from": ratios.min(),
            "to": ratios.max(),
            "s/epoch": np.median(epoch[name]),
            "epoch times": np.median(epoch[OLD] / epoch[name]),
            "of possible": np.median(rate[name]) / possible,
            "at most": possible / np.median(rate[OLD]),
        }
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("loop")


def _formats(rt) -> tuple[str, ...]:
    """The number formats in which a network can be trained here."""
    named = {torch.bfloat16: "bf16", torch.float16: "fp16"}
    return ("fp32", *([named[rt.precision]] if rt.precision in named else []))
