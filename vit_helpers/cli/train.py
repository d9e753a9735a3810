"""`python -m vit_helpers train`: the training of notebooks 02 and 04 without a notebook.

The same functions as in the notebooks. `accelerate launch -m vit_helpers train ...` runs it on
several GPUs or processes: each takes batches of its own, and the first one writes the files.
"""

import contextlib
import json
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from accelerate import Accelerator

from .. import data, models, runtime, training
from ..errors import CourseError

# What the notebooks use in the profile `full`; a test compares them.
RECIPES: Mapping[str, Mapping] = {
    "cifar10": {
        "epochs": 5, "batch": 32, "lr": 5e-5, "head_lr": 5e-5, "schedule": "linear",
        "freeze": 0,
    },
    "flowers102": {
        "epochs": 15, "batch": 32, "lr": 6e-5, "head_lr": 1e-3, "schedule": "cosine",
        "freeze": 8,
    },
}  # fmt: skip
VALIDATION_SHARE = 0.1  # of the training set, where a data set has no validation split


@dataclass(frozen=True)
class Request:
    """What to train, on what, and how. `None` stands for the value in `RECIPES`.

    Attributes:
        dataset: `cifar10` or `flowers102`.
        folder: A folder of parquet files in place of the course's pictures: see
            `data.load_folder`.
        model: A folder of `save_pretrained` or an id of the Hub in place of the classifier.
        to: Where the trained model, `history.csv`, `result.json` and the checkpoint go.
        epochs: Passes over the training set.
        batch: Pictures in a batch of each process.
        lr: Highest learning rate.
        head_lr: The same for the head.
        freeze: How many of the first blocks stay as they are.
        pictures: At most so many training pictures; `None` for all.
        test_pictures: The same for validation and for test.
        keep_patches: Share of the patches that a training picture shows.
        augment: Whether training pictures are cropped and mirrored at random.
        label_smoothing: See `training.fit`.
    """

    dataset: str
    folder: Path | None = None
    model: str | None = None
    to: Path = Path("build/train")
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
        return RECIPES[self.dataset][name] if given is None else given


def run(request: Request) -> int:
    """Train, test once, and save model, history and result. Returns 0.

    Raises:
        CourseError: As `training.fit` and the loaders do.
    """
    first = int(os.environ.get("RANK", "0")) == 0  # set by accelerate's launcher
    with contextlib.ExitStack() as stack:
        if not first:
            silence = stack.enter_context(open(os.devnull, "w", encoding="utf-8"))
            stack.enter_context(contextlib.redirect_stdout(silence))
        return _run(request, first)


def _run(request: Request, first: bool) -> int:
    needs = ("classifier", request.dataset) if request.folder is None else ("classifier",)
    rt = runtime.setup(*needs)
    sets = picture_sets(request, models.load_processor(request.model))
    names = sets["train"].class_names
    model = models.load_with_new_head(names, path=request.model)
    models.freeze(model, request.value("freeze"))
    batch = request.value("batch")
    rates = request.value("lr"), request.value("head_lr")
    optimizer = torch.optim.AdamW(training.parameter_groups(model, *rates))
    accelerator = Accelerator(cpu=rt.device.type == "cpu", mixed_precision="no")
    train_loader = data.loader(sets["train"], batch, shuffle=True, seed=rt.seed)
    network, train_loader = accelerator.prepare(model, train_loader)
    mine = range(accelerator.process_index, len(sets["validation"]), accelerator.num_processes)
    val_loader = data.loader(torch.utils.data.Subset(sets["validation"], mine), batch)
    with models.patch_dropout(model, request.keep_patches):
        history = training.fit(
            network,
            train_loader,
            val_loader,
            optimizer=optimizer,
            epochs=request.value("epochs"),
            schedule=RECIPES[request.dataset]["schedule"],
            label_smoothing=request.label_smoothing,
            checkpoint_dir=request.to / "checkpoint",
        )
    if history.interrupted:
        return 130
    if first:  # the others have nothing to write, and the test set is looked at once
        test = training.evaluate(model, data.loader(sets["test"], batch), "test")
        low, high = test.interval
        print(history.table().to_string())
        print(f"test: {100 * test.accuracy:.1f} % of {len(test.labels)} pictures")
        print(f"95 % interval: {100 * low:.1f} to {100 * high:.1f} %")
        models.save(model, models.load_processor(request.model), request.to / "model")
        history.to_frame().to_csv(request.to / "history.csv")
        result = {"test accuracy": test.accuracy, "from": low, "to": high}
        result |= {"pictures": len(test.labels), "best epoch": history.best_epoch}
        text = json.dumps(result, indent=1) + "\n"
        (request.to / "result.json").write_text(text, encoding="utf-8")
        print(f"written to {request.to}")
    sys.stdout.flush()
    return 0


def picture_sets(request: Request, processor) -> dict[str, data.PictureSet]:
    """Training, validation and test pictures by the name of their split.

    Without a validation split a tenth of the training set is cut off. A folder without a test
    split is an error: an accuracy on pictures that helped to choose would flatter.

    Raises:
        CourseError: If there is no test split, or a part has no pictures.
    """
    seed = runtime.current().seed
    if request.folder is None:
        splits = dict(data.load_dataset(request.dataset))
    else:
        splits = dict(data.load_folder(request.folder))
    if "test" not in splits:
        raise CourseError(f"There is no *test*.parquet in {str(request.folder)!r}: add one.")
    if "validation" not in splits:
        rest, part = data.split_off(splits["train"], VALIDATION_SHARE, seed)
        splits |= {"train": rest, "validation": part}
    limits = {"train": request.pictures}
    still = data.eval_transform(processor)
    moving = data.train_transform(processor) if request.augment else still
    sets = {}
    for name in ("train", "validation", "test"):
        part = data.take(splits[name], limits.get(name, request.test_pictures), seed=seed)
        sets[name] = data.PictureSet(part, moving if name == "train" else still)
    return sets
