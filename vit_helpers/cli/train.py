"""`python -m vit_helpers train`: the training of notebooks 02 and 04 without a notebook.

It learns from a data set of the course or from a folder of your own, with the functions of the
notebooks. `accelerate launch -m vit_helpers train ...` runs it on several GPUs or processes: each
takes batches of its own, and the first one prints and writes.
"""

import contextlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from .. import data, models, runtime, training
from ..errors import CourseError, number, whole_number

# What the notebooks use in the profile `full`. A folder has few pictures mostly, as Flowers-102.
RECIPES: Mapping[str, Mapping] = {
    "cifar10": {
        "epochs": 5, "batch": 32, "lr": 5e-5, "head_lr": 5e-5, "schedule": "linear",
        "freeze": 0,
    },
    "flowers102": {
        "epochs": 15, "batch": 32, "lr": 6e-5, "head_lr": 1e-3, "schedule": "cosine",
        "freeze": 2 / 3,
    },
    "folder": {
        "epochs": 15, "batch": 16, "lr": 6e-5, "head_lr": 1e-3, "schedule": "cosine",
        "freeze": 2 / 3,
    },
}  # fmt: skip
CUT_OFF = 0.15  # of the training pictures, for each split that a data set lacks
STOPPED = 130  # the exit status of a program that Ctrl-C ended


@dataclass(frozen=True)
class Request:
    """What to train, on what, and how: the options of the command, explained by its `--help`.

    `None` stands for the value in `RECIPES`.
    """

    dataset: str | None = None
    folder: Path | None = None
    model: str | None = None
    to: Path | None = None
    epochs: int | None = None
    batch: int | None = None
    lr: float | None = None
    head_lr: float | None = None
    freeze: int | None = None
    pictures: int | None = None
    test_pictures: int | None = None
    keep_patches: float = 1.0
    augment: bool = True
    label_smoothing: float = 0.0

    def value(self, name: str):
        """The value that was asked for, else that of the recipe."""
        given = getattr(self, name)
        return RECIPES[self.dataset or "folder"][name] if given is None else given

    @property
    def results(self) -> Path:
        """Where the results go."""
        name = self.dataset if self.folder is None else self.folder.resolve().name
        return Path("build/train") / (name or "folder") if self.to is None else Path(self.to)

    def check(self) -> None:
        """Raise `CourseError` for a number out of range, before anything is read or computed."""
        if self.dataset is None and self.folder is None:
            raise CourseError(
                "Say what to learn from: cifar10, flowers102, or --folder with pictures."
            )
        for name in ("epochs", "batch", "pictures", "test_pictures"):
            if getattr(self, name) is not None:
                whole_number(f"--{name.replace('_', '-')}", getattr(self, name), 1, 1_000_000)
        if self.freeze is not None:
            whole_number("--freeze", self.freeze, 0)
        rates = [
            number(f"--{name.replace('_', '-')}", self.value(name), least=0, most=10)
            for name in ("lr", "head_lr")
        ]
        if not any(rates):
            raise CourseError("--lr and --head-lr are both 0, so nothing would learn.")
        number("--keep-patches", self.keep_patches, above=0, most=1)
        number("--label-smoothing", self.label_smoothing, least=0, most=0.99)


def run(request: Request) -> int:
    """Train, test once, and save model, history and result. Returns the exit status.

    Raises:
        CourseError: As `training.fit` and the loaders do.
    """
    request.check()
    first = int(os.environ.get("RANK", "0")) == 0  # set by accelerate's launcher
    with contextlib.nullcontext() if first else contextlib.redirect_stdout(None):
        try:
            return _run(request, first)
        except KeyboardInterrupt:
            goes_on = (request.results / "checkpoint" / "last.pt").is_file()
            again = "goes on from its checkpoint" if goes_on else "starts from the beginning"
            print(f"\nStopped: no model was saved. The same command {again}.", flush=True)
            return STOPPED


def _run(request: Request, first: bool) -> int:
    needs = [] if request.model else ["classifier"]
    if request.dataset and request.folder is None:
        needs.append(request.dataset)
    rt = runtime.start(*needs)
    path = request.model or rt.locate("classifier")
    splits = load_splits(request)
    processor = models.load_processor(path)
    model = models.load_with_new_head(data.class_names(splits["train"]), path=path)
    freeze(model, request.value("freeze"))
    sets = picture_sets(request, processor, splits)
    epochs, count = request.value("epochs"), len(sets["train"])
    plural = "s" * (epochs != 1)
    print(f"{epochs} epoch{plural} of {count} pictures, {len(sets['train'].class_names)} classes")
    history = fit(request, model, sets)
    if history.interrupted:
        return STOPPED
    if first:  # the others have nothing to write, and the test set is looked at once
        test = training.evaluate(model, data.loader(sets["test"], request.value("batch")), "test")
        write(request.results, history, test, model, processor)
    print(end="", flush=True)
    return 0


# --- the pictures --------------------------------------------------------------------------------


def load_splits(request: Request) -> dict:
    """The splits `train`, `validation` and `test`; what is missing is cut off the first.

    Raises:
        CourseError: If a folder has faults that would make the result false or impossible.
    """
    if request.folder is None:
        import datasets

        splits = dict(datasets.load_dataset(runtime.current().locate(request.dataset or "")))
    else:
        check(Path(request.folder))
        splits = dict(data.load_folder(request.folder))
    missing = [name for name in ("test", "validation") if name not in splits]
    names, labels = data.class_names(splits["train"]), data.labels_of(splits["train"])
    for label, name in enumerate(names):
        if missing and labels.count(label) <= len(missing):
            count, parts = labels.count(label), " and ".join(missing)
            raise CourseError(
                f"The class {name!r} has {count} training picture{'s' * (count != 1)}, but "
                f"{1 + len(missing)} are needed at least, as {parts} pictures are cut off: add "
                "some, or splits of your own."
            )
    for name in missing:
        seed = runtime.current().seed
        splits["train"], splits[name] = data.split_off(splits["train"], CUT_OFF, seed)
        print(f"There is no {name} split: {len(splits[name])} training pictures are taken for it.")
    return splits


def check(folder: Path) -> None:
    """Print what is in a folder of pictures; raise `CourseError` for what has to be mended."""
    if any(folder.rglob("*.parquet")):
        return  # `load_folder` names what is wrong with these
    report = data.check_folder(folder)
    print(report)
    serious = report.serious
    if not {"validation", "test"} <= report.counts.keys():
        serious = serious + report.repeated  # a cut at random would part them
    if serious:
        raise CourseError(
            f"{str(folder)!r} must be mended before a model learns from it: {' '.join(serious)}"
        )


def picture_sets(request: Request, processor, splits) -> dict[str, data.PictureSet]:
    """Training, validation and test pictures by the name of their split."""
    seed, names = runtime.current().seed, data.class_names(splits["train"])
    still = data.eval_transform(processor)
    moving = data.train_transform(processor) if request.augment else still
    sets = {}
    for name in ("train", "validation", "test"):
        limit = request.pictures if name == "train" else request.test_pictures
        part = data.balanced_subset(splits[name], limit, seed=seed)
        sets[name] = data.PictureSet(part, moving if name == "train" else still, names=names)
    return sets


def freeze(model, first_blocks: float) -> None:
    """Freeze the first blocks: so many, or such a share of them."""
    if first_blocks:
        depth = len(models.blocks(model)) if isinstance(first_blocks, float) else 1
        models.freeze(model, round(first_blocks * depth))


# --- training ------------------------------------------------------------------------------------


def fit(request: Request, model, sets: Mapping) -> training.History:
    """`training.fit`; where the memory of the GPU is too small, again with half the batch."""
    batch = request.value("batch")
    while True:
        try:
            return _fit(request, model, sets, batch)
        except training.OutOfMemory:
            if "WORLD_SIZE" in os.environ or batch == 1:
                raise
        # Out of the `except` block, or the traceback would keep what fills the memory.
        batch //= 2
        torch.cuda.empty_cache()
        print(f"NOTE: the memory of the GPU is too small for this batch: now {batch} at a time.")


def _fit(request: Request, model, sets: Mapping, batch: int) -> training.History:
    groups = training.parameter_groups(model, request.value("lr"), request.value("head_lr"))
    optimizer = torch.optim.AdamW(groups, fused=True)  # one pass over the weights in place of ten
    network, train_loader, val_loader = shared(model, sets, batch)
    with models.patch_dropout(model, request.keep_patches):
        return training.fit(
            network,
            train_loader,
            val_loader,
            optimizer=optimizer,
            epochs=request.value("epochs"),
            schedule=RECIPES[request.dataset or "folder"]["schedule"],
            label_smoothing=request.label_smoothing,
            checkpoint_dir=request.results / "checkpoint",
        )


def shared(model, sets: Mapping, batch: int):
    """Model and loaders; of several processes each gets a part of the pictures."""
    train_loader = data.loader(sets["train"], batch, shuffle=True)
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return model, train_loader, data.loader(sets["validation"], batch)
    from accelerate import Accelerator

    # `fit` chooses the number format, so accelerate is told to leave it alone.
    on_cpu = runtime.current().device.type == "cpu"
    accelerator = Accelerator(cpu=on_cpu, mixed_precision="no")
    network, train_loader = accelerator.prepare(model, train_loader)
    rank, count = accelerator.process_index, accelerator.num_processes
    if len(sets["validation"]) < count:
        raise CourseError(f"{count} processes need at least {count} validation pictures.")
    mine = torch.utils.data.Subset(sets["validation"], range(rank, len(sets["validation"]), count))
    return network, train_loader, data.loader(mine, batch)


def write(folder: Path, history: training.History, test, model, processor) -> None:
    """Print the result and write it with the model into a folder."""
    low, high = test.interval
    print(history.table().to_string())
    print(f"test: {100 * test.accuracy:.1f} % of {len(test.labels)} pictures are right")
    print(f"95 % interval: {100 * low:.1f} to {100 * high:.1f} %")
    models.save(model, processor, folder / "model")
    history.to_frame().to_csv(folder / "history.csv")
    result = {"test accuracy": test.accuracy, "from": low, "to": high}
    result |= {"pictures": len(test.labels), "best epoch": history.best_epoch}
    text = json.dumps(result, indent=1) + "\n"
    (folder / "result.json").write_text(text, encoding="utf-8")
    print(f"written to {folder}")
