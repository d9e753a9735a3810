"""The checkpoint of a training: one file, written whole, that knows which run it belongs to."""

import hashlib
import os
import random
import shutil
from pathlib import Path
from pickle import UnpicklingError
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch import nn

from .. import models
from ..errors import CourseError

NAME = "last.pt"
LOOKED_AT = 32  # pictures of a set by which it is known again
# How an optimizer computes, and not what: no part of a recipe.
_MEANS = {"foreach", "fused", "capturable", "differentiable", "decoupled_weight_decay"}
# The fingerprints from which the models of this process started, so that the same call goes on
# with a model that an interrupted call has changed.
started_from: WeakKeyDictionary = WeakKeyDictionary()


# --- the file ----------------------------------------------------------------------------------


def prepare(folder: Path, model: nn.Module) -> None:
    """Make the folder, and see whether checkpoints will fit, before hours of work.

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
    weights = sum(v.nbytes for v in model.state_dict().values())
    averages = 2 * sum(p.nbytes for p in models.trainable(model))  # AdamW's
    free = shutil.disk_usage(folder).free
    if free < 2 * weights + averages:  # twice: the last weights and the best ones
        raise CourseError(
            f"A checkpoint takes up to {(2 * weights + averages) / 1e6:.1f} MB, but "
            f"{str(folder)!r} has {free / 1e6:.1f} MB free: free some space on that disk or "
            "choose another folder."
        )


def write(folder: Path, state: dict) -> None:
    """Write the file. The old one stays until the new one is complete on the disk.

    Raises:
        CourseError: If it cannot be written.
    """
    temporary = folder / f"{NAME}.tmp"  # one name: what a killed process left is overwritten
    try:
        torch.save(state, temporary)
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        os.replace(temporary, folder / NAME)
    except (OSError, RuntimeError) as error:  # torch has a RuntimeError for a full disk
        free = shutil.disk_usage(folder).free / 1e6 if folder.is_dir() else 0
        raise CourseError(
            f"The checkpoint could not be written to {str(folder)!r} "
            f"({getattr(error, 'strerror', None) or 'the disk refused'}, {free:.1f} MB free): free "
            "some space on that disk, then run this again. What was saved before is whole."
        ) from None
    finally:
        temporary.unlink(missing_ok=True)


def read(folder: Path) -> dict | None:
    """What `write` wrote, or `None` where there is no checkpoint.

    Raises:
        CourseError: If the file is damaged, or none of this version of the course.
    """
    path = folder / NAME
    if not path.is_file():
        return None
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        if not isinstance(state, dict) or "run" not in state:
            raise KeyError("run")
    except (OSError, RuntimeError, EOFError, KeyError, ValueError, UnpicklingError) as error:
        raise CourseError(
            f"{str(path)!r} is not a checkpoint that can be read ({type(error).__name__}): delete "
            "it, or use another folder."
        ) from None
    return state


# --- which run it belongs to -------------------------------------------------------------------


def describe(model, optimizer, train_loader, val_loader, recipe: dict) -> dict:
    """What makes a run this one: its recipe, model, class names and pictures."""
    return {
        "recipe": dict(recipe),
        "optimizer": _describe_optimizer(optimizer),
        "classes": [str(name) for name in _class_names(model)],
        "shapes": {k: tuple(v.shape) for k, v in model.state_dict().items()},
        "training": _describe_set(train_loader, "training"),
        "validation": _describe_set(val_loader, "validation"),
        "start": fingerprint(model),
    }


def check_same_run(state: dict, here: dict, model: nn.Module) -> None:
    """Raise `CourseError` that names the first difference between a checkpoint and this run."""
    there = state["run"]
    for name in here["shapes"].keys() | there["shapes"].keys():
        old, new = there["shapes"].get(name), here["shapes"].get(name)
        if old != new:
            _refuse(f"another model ({name!r} is {old} there and {new} here)")
    if there["classes"] != here["classes"]:
        old, new = (_short(part["classes"]) for part in (there, here))
        _refuse(f"other classes ({old} there and {new} here)")
    for name, new in here["recipe"].items():
        if there["recipe"].get(name) != new:
            _refuse(f"another recipe ({name}={there['recipe'].get(name)} there, {name}={new} here)")
    if there["optimizer"] != here["optimizer"]:
        _refuse(f"another optimizer ({_difference(there['optimizer'], here['optimizer'])})")
    for part in ("training", "validation"):
        if reason := _other_pictures(there[part], here[part]):
            _refuse(f"other {part} pictures ({reason})")
    start = there["start"]
    known = start in (here["start"], started_from.get(model))
    if not (known or _has_weights(model, state["best"]) or _has_weights(model, state["model"])):
        _refuse("a model that started from other weights")


def fingerprint(model: nn.Module) -> str:
    """A digest of the weights that a run starts from, without those that start at random.

    These are a new head and the matrices of LoRA: in another process they are others.
    """
    digest = hashlib.blake2b(digest_size=16)
    for name, value in _body(model):
        digest.update(name.encode())
        digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()


def _body(model: nn.Module) -> list[tuple[str, nn.Parameter]]:
    inner = model.get_base_model() if hasattr(model, "get_base_model") else model  # of peft
    body = {id(p) for p in getattr(inner, "base_model", inner).parameters()}
    return [(n, p) for n, p in model.named_parameters() if id(p) in body and "lora_" not in n]


def _has_weights(model: nn.Module, weights: dict) -> bool:
    return all(torch.equal(p.detach().cpu(), weights[name]) for name, p in _body(model))


def _class_names(model: nn.Module) -> list:
    labels = getattr(model.config, "id2label", None) or {}
    return [labels[key] for key in sorted(labels)]


def _describe_optimizer(optimizer) -> list[dict]:
    """Kind and numbers of every parameter group, before a schedule changed them."""
    groups = []
    for group in optimizer.param_groups:
        weights = sum(p.numel() for p in group["params"])
        about = {"kind": type(optimizer).__name__, "weights": weights}
        for name, value in group.items():
            if name in ("params", "initial_lr") or name in _MEANS:
                continue
            value = group.get("initial_lr", value) if name == "lr" else value
            about[name] = float(value) if isinstance(value, torch.Tensor) else value
        groups.append(about)
    return groups


def _difference(there: list[dict], here: list[dict]) -> str:
    if len(there) != len(here):
        return f"{len(there)} groups of parameters there and {len(here)} here"
    for old, new in zip(there, here, strict=True):
        for name in old.keys() | new.keys():
            if old.get(name) != new.get(name):
                return f"{name}={old.get(name)} there, {name}={new.get(name)} here"
    return "they differ"


def _short(names: list[str]) -> str:
    text = ", ".join(names[:3])
    return f"{len(names)}: {text}" + ", ..." * (len(names) > 3)


def _refuse(difference: str) -> None:
    raise CourseError(
        f"The checkpoint in this folder is of {difference}: use another folder, or delete the "
        "checkpoint."
    )


# --- which pictures ----------------------------------------------------------------------------


def labels_of(dataset) -> list[int] | None:
    """The labels of a data set, where it can tell them without opening a picture."""
    if isinstance(dataset, torch.utils.data.Subset):
        labels = labels_of(dataset.dataset)
        return None if labels is None else [labels[i] for i in dataset.indices]
    if isinstance(dataset, torch.utils.data.TensorDataset):
        return [int(label) for label in dataset.tensors[-1].flatten()]
    if hasattr(dataset, "with_format"):  # of the library datasets
        plain = dataset.with_format(None)
        name = next((n for n in ("label", "labels") if n in plain.column_names), None)
        return None if name is None else list(plain[name])
    labels = getattr(dataset, "labels", getattr(dataset, "targets", None))
    return None if labels is None else [int(label) for label in labels]


def _describe_set(loader, name: str) -> dict:
    """Number, labels and the looks of some pictures of a set."""
    dataset = getattr(loader, "dataset", None)
    if dataset is None:
        return {"pictures": None, "labels": None, "look": None}
    labels = labels_of(dataset)
    text = None if labels is None else hashlib.sha256(str(labels).encode()).hexdigest()
    count = len(dataset)
    chosen = sorted({i * count // LOOKED_AT for i in range(LOOKED_AT)}) if count else []
    looks = []
    for index in chosen:
        try:
            looks.append(_look(dataset, index))
        except (OSError, SyntaxError) as error:  # PIL's words for a broken file
            raise CourseError(
                f"Picture {index} of the {name} set cannot be read ({type(error).__name__}): take "
                "it out."
            ) from None
    return {"pictures": count, "labels": text, "look": torch.stack(looks) if looks else None}


def _look(dataset, index: int) -> torch.Tensor:
    """A picture as 48 numbers, the same whatever machine decodes it and whatever augments it."""
    if isinstance(dataset, torch.utils.data.Subset):
        return _look(dataset.dataset, dataset.indices[index])
    item = _stored(dataset, index)
    if item is None:
        item = _transformed(dataset, index)
    if hasattr(item, "convert"):  # a PIL picture
        item = np.array(item.convert("RGB"))
    numbers = torch.as_tensor(item).cpu()
    scale = 1.0 if numbers.is_floating_point() else 255.0
    return nn.functional.adaptive_avg_pool1d(numbers.float().flatten()[None] / scale, 48)[0]


def _stored(dataset, index: int):
    """A picture as it is stored, before any transform, or `None` where one cannot get at it."""
    if hasattr(dataset, "with_format"):  # of the library datasets
        row = dataset.with_format(None)[index]
        return next((value for value in row.values() if hasattr(value, "convert")), None)
    return dataset.pictures[index] if hasattr(dataset, "pictures") else None


def _transformed(dataset, index: int) -> torch.Tensor:
    """An item after its transform, with the same random draws every time; none is used up."""
    python, numpy = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(devices=[]):  # transforms draw on the CPU
        random.seed(0)
        np.random.seed(0)
        torch.default_generator.manual_seed(0)
        try:
            item = dataset[index]
        finally:
            random.setstate(python)
            np.random.set_state(numpy)
    return item["pixel_values"] if isinstance(item, dict) else item[0]


def _other_pictures(there: dict, here: dict) -> str:
    if there["pictures"] != here["pictures"]:
        return f"{there['pictures']} there and {here['pictures']} here"
    if there["labels"] != here["labels"]:
        return "their labels differ"
    old, new = there["look"], here["look"]
    if old is None or new is None:
        return "" if old is new else "they cannot be compared"
    if old.shape != new.shape or not torch.allclose(old, new, atol=0.02):
        return "the pictures themselves differ"
    return ""
