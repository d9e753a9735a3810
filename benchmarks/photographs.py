"""`python -m benchmarks photographs`: how often the course's classifier is right on CIFAR-10.

The photographs are not part of the repository. `VIT_REAL_PHOTOS` names the folder in which
`cifar10-train.parquet` and `cifar10-test-1000.parquet` lie: CIFAR-10's 50,000 training photographs
and 1,000 of its test photographs, columns `img` and `label`.

5,000 of the training photographs choose the best epoch and teach nothing. The test photographs
are looked at once for each row.
"""

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import torch
from torchvision.transforms import v2

from vit_helpers import data, images, models, runtime, training
from vit_helpers.data.pictures import Transform
from vit_helpers.errors import CourseError, one_of, whole_number

from .machine import machine, model_name, read_results, save_results, slug

WAYS = {
    "probe": "linear probe",
    "all": "fine-tuned, everything learns",
    "frozen": "fine-tuned, two thirds of the blocks frozen",
    "scratch": "from scratch, the same budget",
}
FILES = {"train": "cifar10-train.parquet", "test": "cifar10-test-1000.parquet"}
VALIDATION = 0.1  # of the training photographs
FROZEN_SHARE = 2 / 3  # of the blocks
STOPPED = 130  # the exit status of a program that Ctrl-C ended


@dataclass(frozen=True)
class Request:
    """What to measure.

    Attributes:
        photographs: The folder with the files; `None` if nobody named one.
        ways: Of `WAYS`; all if empty.
        pictures: How many photographs to learn from, a row for each number.
        probe_pictures: The same for the linear probe.
        epochs: Passes over them; `None` for those of notebook 02 in this profile.
        keep_patches: Share of a picture's patches that are seen in training, 0 to 1; `None` for
            that of notebook 02 in this profile.
        folder: Where `photographs.json` and the checkpoints go.
        command: How this was asked for.
    """

    photographs: Path | None
    ways: Sequence[str] = ()
    pictures: Sequence[int] = (1000, 45000)
    probe_pictures: Sequence[int] = (5000,)
    epochs: int | None = None
    keep_patches: float | None = None
    folder: Path = Path("build/bench")
    command: str = ""


@dataclass(frozen=True)
class Recipe:
    """How notebook 02 trains: AdamW, a linear schedule, label smoothing of 0.1.

    Attributes:
        epochs: Passes over the training photographs.
        batch: Photographs in a batch.
        keep: Share of the patches that are seen in training.
        lr: Learning rate of the body; 5e-4 from scratch, for all weights.
        head_lr: That of the new head.
    """

    epochs: int
    batch: int
    keep: float
    lr: float
    head_lr: float


def recipe_of(request: Request, rt: runtime.Runtime) -> Recipe:
    """The recipe of notebook 02 in this profile, with what was asked for instead."""
    quick = Recipe(epochs=3, batch=16, keep=0.3, lr=1e-4, head_lr=5e-3)
    usual = rt.pick(quick=quick, full=Recipe(5, 64, 1.0, 5e-5, 5e-4))
    epochs = usual.epochs if request.epochs is None else request.epochs
    keep = usual.keep if request.keep_patches is None else request.keep_patches
    return Recipe(whole_number("epochs", epochs, 1), usual.batch, keep, usual.lr, usual.head_lr)


def read(folder: Path | None) -> dict:
    """The photographs as splits of `datasets`: `train` and `test`, columns `img` and `label`.

    Raises:
        CourseError: If no folder is named, or a file is missing, damaged, or has other columns.
    """
    import datasets
    import pyarrow
    from pyarrow import parquet

    if folder is None:
        raise CourseError(
            f"Name the folder with {' and '.join(FILES.values())} in VIT_REAL_PHOTOS, or with "
            "--photographs."
        )
    splits = {}
    for split, name in FILES.items():
        path = Path(folder).expanduser() / name
        if not path.is_file():
            raise CourseError(f"There is no {name} in {str(folder)!r}: copy it there.")
        try:
            table = parquet.read_table(path, columns=["img", "label"])
            found = datasets.Dataset(datasets.table.InMemoryTable(table))
        except (pyarrow.ArrowException, OSError, ValueError) as error:
            reason = (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")
            raise CourseError(f"{name} cannot be read ({reason}): copy it again.") from None
        if set(found.column_names) != {"img", "label"} or not len(found):
            raise CourseError(f"{name} has not the columns img and label: copy it again.")
        splits[split] = found
    return splits


class Photographs:
    """The splits, and the sets that the rows share.

    Args:
        folder: Where the files lie.
        processor: Of the classifier.

    Raises:
        CourseError: As `read`, and if a picture is broken.
    """

    def __init__(self, folder: Path | None, processor):
        self.rt, self.processor = runtime.current(), processor
        splits = read(folder)
        self.names = data.class_names(splits["train"])
        self.train, self.val = data.split_off(splits["train"], VALIDATION, self.rt.seed)
        self.test = self._set(splits["test"], data.eval_transform(processor), FILES["test"])

    def _set(self, part, transform, name: str) -> data.PictureSet:
        try:
            return data.PictureSet(part, transform)
        except CourseError as error:
            raise CourseError(f"{name}: {error}") from None

    def still(self, count: int) -> data.PictureSet:
        """So many training photographs, as the processor makes them."""
        part = data.balanced_subset(self.train, self.checked(count), self.rt.seed)
        return self._set(part, data.eval_transform(self.processor), FILES["train"])

    def moving(self, count: int) -> data.PictureSet:
        """The same with the augmentation of notebook 02."""
        part = data.balanced_subset(self.train, self.checked(count), self.rt.seed)
        colours = v2.ColorJitter(brightness=0.4, contrast=0.4, saturation=0.8, hue=0.1)
        crop = v2.RandomResizedCrop(images.model_size(self.processor), scale=(0.6, 1.0))
        steps = v2.Compose([colours, crop, v2.RandomHorizontalFlip()])
        return self._set(part, Transform(self.processor, steps), FILES["train"])

    def judging(self, count: int) -> data.PictureSet:
        """Photographs that choose the epoch: as many as there are to learn from, 500 or more."""
        part = data.balanced_subset(self.val, min(len(self.val), max(500, count)), self.rt.seed)
        return self._set(part, data.eval_transform(self.processor), FILES["train"])

    def checked(self, count: int) -> int:
        """The number itself, if there are so many photographs of every class."""
        return whole_number("pictures", count, len(self.names), len(self.train))


def run(request: Request) -> int:
    """Measure, print a table, and write it after each row.

    A run that was stopped goes on from its checkpoints. Rows that this machine measured earlier,
    with the same libraries and the same model, stay in the file.

    Returns:
        0, or 130 if it was stopped.

    Raises:
        CourseError: As `Photographs`; and if a way is unknown or a number out of range.
    """
    ways = [one_of("The row", way, tuple(WAYS)) for way in request.ways or WAYS]
    read(request.photographs)  # before anything takes time
    rt = runtime.start("classifier")
    recipe = recipe_of(request, rt)
    shots = Photographs(request.photographs, models.load_processor(rt.locate("classifier")))
    wanted = [*request.pictures] * bool(set(ways) - {"probe"})
    for count in wanted + [*request.probe_pictures] * ("probe" in ways):
        shots.checked(count)
    request.folder.mkdir(parents=True, exist_ok=True)
    path = request.folder / "photographs.json"
    rows, commands = _earlier(path, request.command)
    for row in _rows(ways, request, recipe, shots):
        if row is None:
            print("Stopped: the rows that are done are written. The same command goes on.")
            return STOPPED
        rows[row["how"], row["pictures"]] = row
        frame = pd.DataFrame([rows[key] for key in sorted(rows, key=_order)])
        about = {"kind": "photographs", "model": model_name(None), "commands": commands}
        save_results(frame.set_index("how"), path, **about)
    print(f"\n{_shown(frame).to_string(index=False)}\nwritten to {path}")
    return 0


def _order(key: tuple[str, int]) -> tuple[int, int]:
    return list(WAYS.values()).index(key[0]), key[1]


def _earlier(path: Path, command: str) -> tuple[dict, list[str]]:
    """What the same machine measured before: its rows, and the commands with this one."""
    known = read_results(path) if path.exists() else {}
    if (known.get("machine"), known.get("model")) != (machine(), model_name(None)):
        return {}, [command]
    rows = {(row["how"], row["pictures"]): row for row in known["rows"]}
    return rows, list(dict.fromkeys([*known["commands"], command]))


def _rows(ways, request: Request, recipe: Recipe, shots: Photographs) -> Iterator[dict | None]:
    """A row after the other; `None` after Ctrl-C."""
    if "probe" in ways:
        for count in request.probe_pictures:
            yield probe(models.load_with_new_head(shots.names), shots, count, recipe.batch)
    for count in request.pictures if set(ways) - {"probe"} else ():
        sets = {"train": shots.moving(count), "val": shots.judging(count)}
        for way in (way for way in ways if way != "probe"):
            yield train(way, count, sets, recipe, shots, request.folder / "checkpoints")


def probe(model, shots: Photographs, count: int, batch: int = 16) -> dict:
    """A linear probe on the features of so many photographs, judged on the test photographs."""
    print(f"{WAYS['probe']}, {count} photographs", flush=True)
    began = time.perf_counter()
    still = data.loader(shots.still(count), batch)
    classifier = training.linear_probe(*training.cache_features(model, still))
    features, labels = training.cache_features(model, data.loader(shots.test, batch))
    right = int((classifier.predict(features) == labels).sum())
    minutes = (time.perf_counter() - began) / 60
    row = _row("probe", count, right, len(labels), minutes)
    return row | {"epochs": None, "patches": 1.0}


def train(
    way: str, count: int, sets: Mapping, recipe: Recipe, shots: Photographs, folder: Path
) -> dict | None:
    """Train, with a checkpoint after each epoch, and test once; `None` after Ctrl-C.

    Args:
        way: `all`, `frozen` or `scratch`.
        count: How many photographs to learn from.
        sets: `train` and `val`, each a `PictureSet`.
        recipe: How.
        shots: The test photographs and the names of the classes.
        folder: For checkpoints, each in a folder of its own.
    """
    print(f"{WAYS[way]}, {count} photographs", flush=True)
    runtime.seed_everything(shots.rt.seed)  # the same start for every row, and after a stop
    model = models.load_with_new_head(shots.names)
    lr, head_lr = recipe.lr, recipe.head_lr
    if way == "scratch":
        model = type(model)(model.config).to(shots.rt.device)
        lr = head_lr = 5e-4  # a rate that suits a start from nothing, as in the notebook
    depth = len(models.blocks(model))
    models.freeze(model, round(FROZEN_SHARE * depth) if way == "frozen" else 0)
    groups = training.parameter_groups(model, lr, head_lr)
    name = slug(f"{way} {count} {recipe.epochs} epochs {recipe.keep:g} of the patches")
    with models.patch_dropout(model, recipe.keep):
        history = training.fit(
            model,
            data.loader(sets["train"], recipe.batch, shuffle=True),
            data.loader(sets["val"], recipe.batch),
            optimizer=torch.optim.AdamW(groups, fused=True),
            epochs=recipe.epochs,
            label_smoothing=0.1,
            checkpoint_dir=folder / name,
        )
    if history.interrupted:
        return None
    judged = training.evaluate(model, data.loader(shots.test, recipe.batch), "test")
    minutes = sum(row["seconds"] for row in history.rows) / 60
    row = _row(way, count, judged.correct, len(judged.labels), minutes)
    return row | {
        "epochs": recipe.epochs,
        "patches": recipe.keep,
        "best epoch": history.best_epoch,
        "batch": recipe.batch,
        "lr": lr,
        "head lr": head_lr,
        "images/s": sum(r["images/s"] for r in history.rows) / len(history.rows),
    }


def _row(way: str, count: int, right: int, of: int, minutes: float) -> dict:
    low, high = training.wilson_interval(right, of)
    said = {"how": WAYS[way], "pictures": count, "right": right, "of": of, "minutes": minutes}
    print(f"right: {right} of {of} ({100 * low:.1f} to {100 * high:.1f} %)", flush=True)
    return said | {"accuracy": right / of, "from": low, "to": high}


def _shown(frame) -> pd.DataFrame:
    percent = [f"{100 * a:.1f} %" for a in frame["accuracy"]]
    pairs = zip(frame["from"], frame["to"], strict=True)
    interval = [f"{100 * a:.1f} to {100 * b:.1f} %" for a, b in pairs]
    columns = frame[["how", "pictures", "epochs", "patches", "minutes"]].round(1)
    return columns.assign(accuracy=percent, **{"95 %": interval})
