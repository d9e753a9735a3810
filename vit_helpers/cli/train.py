"""`python -m vit_helpers train`: the training of notebooks 02 and 04 without a notebook.

`accelerate launch -m vit_helpers train ...` runs it on several GPUs or processes: each takes
batches of its own, and the first one prints and writes.
"""

import contextlib
import json
import os
from argparse import Namespace
from collections.abc import Mapping
from pathlib import Path

import torch

from .. import data, models, runtime, training
from ..errors import CourseError

# What the notebooks use in the profile `full`. A folder has few pictures, as Flowers-102.
_FEW = {"epochs": 15, "lr": 6e-5, "head_lr": 1e-3, "schedule": "cosine", "freeze": 2 / 3}
RECIPES: Mapping[str, Mapping] = {
    "cifar10": {
        "epochs": 5, "batch": 32, "lr": 5e-5, "head_lr": 5e-5, "schedule": "linear", "freeze": 0
    },
    "flowers102": {"batch": 32, **_FEW},
    "folder": {"batch": 16, **_FEW},
}  # fmt: skip
CUT_OFF = 0.15  # of the training pictures, for each split that a data set lacks
STOPPED = 130  # the exit status of a program that Ctrl-C ended


def complete(options: Namespace) -> Namespace:
    """The options of the command, with the recipe's values for what was not asked for."""
    given = {name: value for name, value in vars(options).items() if value is not None}
    if "dataset" not in given and "folder" not in given:
        raise CourseError("Say what to learn from: cifar10, flowers102, or --folder with pictures.")
    name = given["folder"].resolve().name if "folder" in given else options.dataset
    results = {"to": Path("build/train") / (name or "folder")}
    recipe = RECIPES[options.dataset or "folder"]
    request = Namespace(**{**vars(options), **recipe, **results, **given})
    if request.lr == request.head_lr == 0:
        raise CourseError("--lr and --head-lr are both 0, so nothing would learn.")
    return request


def run(options: Namespace) -> int:
    """Train, test once, and save model, history and result. Returns the exit status."""
    request = complete(options)
    first = int(os.environ.get("RANK", "0")) == 0  # set by accelerate's launcher
    with contextlib.nullcontext() if first else contextlib.redirect_stdout(None):
        try:
            return _run(request, first)
        except KeyboardInterrupt:
            goes_on = (request.to / "checkpoint" / training.checkpoint.NAME).is_file()
            again = "goes on from its checkpoint" if goes_on else "starts from the beginning"
            print(f"\nStopped: the results are not complete. The same command {again}.", flush=True)
            return STOPPED


def _run(request: Namespace, first: bool) -> int:
    needs = [] if request.model else ["classifier"]
    if request.dataset and request.folder is None:
        needs.append(request.dataset)
    rt = runtime.start(*needs)
    path = request.model or rt.locate("classifier")
    splits = load_splits(request)
    processor = models.load_processor(path)
    model = models.load_with_new_head(data.class_names(splits["train"]), path=path)
    freeze(model, request.freeze)
    sets = picture_sets(request, processor, splits)
    epochs, count = request.epochs, len(sets["train"])
    plural = "s" * (epochs != 1)
    print(f"{epochs} epoch{plural} of {count} pictures, {len(sets['train'].class_names)} classes")
    history = fit(request, model, sets)
    if history.interrupted:
        return STOPPED
    if first:  # the others have nothing to write, and the test set is looked at once
        test = training.evaluate(model, data.loader(sets["test"], request.batch), "test")
        write(request.to, history, test, model, processor)
    print(end="", flush=True)
    return 0


def load_splits(request: Namespace) -> dict:
    """The splits `train`, `validation` and `test`; what is missing is cut off the first."""
    if request.folder is None:
        import datasets

        splits = dict(datasets.load_dataset(runtime.current().locate(request.dataset)))
    else:
        report = data.check_folder(request.folder)
        print(report)
        if report.serious:
            raise CourseError(
                f"{str(request.folder)!r} must be mended before a model learns from it: "
                f"{' '.join(report.serious)}"
            )
        splits = dict(data.load_folder(request.folder))
    missing = [name for name in ("test", "validation") if name not in splits]
    labels = data.labels_of(splits["train"])
    for label, name in enumerate(data.class_names(splits["train"])):
        count, parts = labels.count(label), " and ".join(missing)
        if missing and count <= len(missing):
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


def picture_sets(request: Namespace, processor, splits) -> dict[str, data.PictureSet]:
    """Training, validation and test pictures by the name of their split."""
    still = data.eval_transform(processor)
    moving = data.train_transform(processor) if request.augment else still
    sets = {}
    for name in ("train", "validation", "test"):
        part = data.balanced_subset(splits[name], None, runtime.current().seed)  # or VIT_PICTURES
        sets[name] = data.PictureSet(part, moving if name == "train" else still)
    return sets


def freeze(model, first_blocks: float) -> None:
    """Freeze the first blocks: so many, or such a share of them."""
    if first_blocks:
        depth = len(models.blocks(model)) if isinstance(first_blocks, float) else 1
        models.freeze(model, round(first_blocks * depth))


def fit(request: Namespace, model, sets: Mapping) -> training.History:
    """`training.fit`; where the memory of the GPU is too small, again with half the batch."""
    batch = request.batch
    while True:
        groups = training.parameter_groups(model, request.lr, request.head_lr)
        optimizer = torch.optim.AdamW(groups, fused=True)  # one pass over the weights, not ten
        network, train_loader, val_loader = shared(model, sets, batch)
        try:
            with models.patch_dropout(model, request.keep_patches):
                return training.fit(
                    network,
                    train_loader,
                    val_loader,
                    optimizer=optimizer,
                    epochs=request.epochs,
                    schedule=request.schedule,
                    checkpoint_dir=request.to / "checkpoint",
                )
        except training.OutOfMemory:
            if "WORLD_SIZE" in os.environ or batch == 1:
                raise
        # Out of the `except` block, or the traceback would keep what fills the memory.
        batch //= 2
        torch.cuda.empty_cache()
        print(f"NOTE: the memory of the GPU is too small for this batch: now {batch} at a time.")


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
    (low, high), count = test.interval, len(test.labels)
    print(history.to_frame().to_string(float_format="{:.3g}".format))
    print(f"test: {100 * test.accuracy:.1f} % of {count} pictures are right")
    print(f"95 % interval: {100 * low:.1f} to {100 * high:.1f} %")
    models.save(model, processor, folder / "model")
    history.to_frame().to_csv(folder / "history.csv")
    result = {"test accuracy": test.accuracy, "from": low, "to": high, "pictures": count}
    text = json.dumps(result | {"best epoch": history.best_epoch}, indent=1) + "\n"
    (folder / "result.json").write_text(text, encoding="utf-8")
    print(f"written to {folder}")
