"""The checkpoint of a training: one file, written whole, that knows which run it belongs to."""

import hashlib
import os
import re
import shutil
from pathlib import Path
from pickle import UnpicklingError
from weakref import WeakKeyDictionary

import torch
from torch import nn

from ..data.pictures import digest_of_files
from ..errors import CourseError
from ..resources.files import written_whole

NAME = "last.pt"
# How an optimizer computes, and not what: no part of a run.
_MEANS = {"foreach", "fused", "capturable", "differentiable", "decoupled_weight_decay"}
# The fingerprints from which the models of this process started, so that the same call goes on
# with a model that an interrupted call has changed.
started_from: WeakKeyDictionary = WeakKeyDictionary()


def prepare(folder: Path) -> None:
    """Make the folder before hours of work; raises `CourseError` if that cannot be done."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise CourseError(
            f"The folder {str(folder)!r} for checkpoints cannot be made ({error.strerror}): "
            "choose another one."
        ) from None


def write(folder: Path, state: dict) -> None:
    """Write the file. The old one stays until the new one is complete on the disk."""
    try:
        with written_whole(folder / NAME) as part:
            torch.save(state, part)
            with part.open("rb+") as file:
                os.fsync(file.fileno())
    except (OSError, RuntimeError) as error:  # torch has a RuntimeError for a full disk
        free = shutil.disk_usage(folder).free / 1e6 if folder.is_dir() else 0
        raise CourseError(
            f"The checkpoint could not be written to {str(folder)!r} "
            f"({getattr(error, 'strerror', None) or 'the disk refused'}, {free:.1f} MB free): free "
            "some space on that disk, then run this again. What was saved before is whole."
        ) from None


def read(folder: Path) -> dict | None:
    """What `write` wrote, or `None` where there is no checkpoint."""
    path = folder / NAME
    if not path.is_file():
        return None
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        if not isinstance(state, dict) or "training pictures" not in state.get("run", {}):
            raise KeyError("run")
    except (OSError, RuntimeError, EOFError, KeyError, ValueError, UnpicklingError) as error:
        raise CourseError(
            f"{str(path)!r} is not a checkpoint that can be read ({type(error).__name__}): delete "
            "it, or use another folder."
        ) from None
    return state


def describe(model, optimizer, train_loader, val_loader, recipe: dict) -> dict:
    """What makes a run this one, as dictionaries of plain values and tensors."""
    names = getattr(model.config, "id2label", None) or {}
    return {
        "model": {name: tuple(value.shape) for name, value in model.state_dict().items()},
        "classes": {str(number): str(name) for number, name in names.items()},
        "recipe": {**recipe, "share of the patches": getattr(model, "kept_patches", 1.0)},
        "optimizer": _describe_optimizer(optimizer),
        "training pictures": _describe_set(train_loader),
        "validation pictures": _describe_set(val_loader),
        "start": _fingerprint(model),
    }


def check_same_run(there: dict, here: dict, model: nn.Module) -> None:
    """Raise `CourseError` that names the first difference between a checkpoint and this run."""
    for difference in _differences(there, here, model):
        raise CourseError(
            f"The checkpoint in this folder is of {difference}: use another folder, or delete the "
            "checkpoint."
        )


def _differences(there: dict, here: dict, model: nn.Module):
    for part in (name for name, about in here.items() if isinstance(about, dict)):
        other = f"other {part}" if part.endswith("s") else f"another {part}"
        for name in {**there[part], **here[part]}:
            old, new = there[part].get(name), here[part].get(name)
            if old != new:
                hidden = name in ("labels", "rows", "files", "transform")
                values = "they differ" if hidden else f"{old} there, {new} here"
                yield f"{other} ({name}: {values})"
    if there["start"] not in (here["start"], started_from.get(model)):
        yield "a model that started from other weights"


def _fingerprint(model: nn.Module) -> str:
    """A digest of the weights that a run starts from, without those that start at random.

    These are a new head and the matrices of LoRA: in another process they are others.
    """
    inner = model.get_base_model() if hasattr(model, "get_base_model") else model  # of peft
    body = {id(p) for p in getattr(inner, "base_model", inner).parameters()}
    digest = hashlib.blake2b(digest_size=16)
    for name, value in model.named_parameters():
        if id(value) in body and "lora_" not in name:
            digest.update(name.encode())
            digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()


def _describe_optimizer(optimizer) -> dict:
    """Kind and numbers of every parameter group, before a schedule changed them."""
    about: dict = {"kind": type(optimizer).__name__}
    for number, group in enumerate(optimizer.param_groups):
        about[f"weights of group {number}"] = sum(p.numel() for p in group["params"])
        for name, value in group.items():
            if name not in ("params", "initial_lr", *_MEANS):
                value = group.get("initial_lr", value) if name == "lr" else value
                value = float(value) if isinstance(value, torch.Tensor) else value
                about[f"{name} of group {number}"] = value
    return about


def labels_of(dataset) -> list[int] | None:
    """The labels of a data set, where it can tell them without opening a picture."""
    if isinstance(dataset, torch.utils.data.Subset):
        labels = labels_of(dataset.dataset)
        return labels and [labels[i] for i in dataset.indices]
    names = getattr(dataset, "column_names", ())
    column = next((name for name in ("label", "labels") if name in names), None)
    labels = getattr(dataset, "labels", getattr(dataset, "targets", None))
    labels = dataset.with_format(None)[column] if column else labels
    return None if labels is None else [int(label) for label in labels]


def _describe_set(loader) -> dict:
    """Number, labels, files and transform of the pictures, as far as the loader has them."""
    dataset = getattr(loader, "dataset", None)
    if dataset is None:
        return {}
    digest = hashlib.sha256(str(labels_of(dataset)).encode()).hexdigest()
    about: dict = {"number": len(dataset), "labels": digest, "rows": []}
    while isinstance(dataset, torch.utils.data.Subset):
        about["rows"].append([int(index) for index in dataset.indices])
        dataset = dataset.dataset
    transform = getattr(dataset, "transform", None)
    if hasattr(dataset, "column_names"):  # of the library datasets
        transform = dataset.format["format_kwargs"].get("transform")
    about["transform"] = re.sub(" at 0x[0-9a-fA-F]+", "", repr(transform))
    return about | {"files": digest_of_files(dataset)}
