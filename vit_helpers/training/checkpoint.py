"""The checkpoint of a training: one file, written whole, that knows which run it belongs to."""

import hashlib
import os
import shutil
from pathlib import Path
from pickle import UnpicklingError
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch import nn
from torch.nn.functional import adaptive_avg_pool1d

from .. import models
from ..errors import CourseError
from ..resources.files import written_whole

NAME = "last.pt"
LOOKED_AT = 32  # pictures of a set by which it is known again
# How an optimizer computes, and not what: no part of a run.
_MEANS = {"foreach", "fused", "capturable", "differentiable", "decoupled_weight_decay"}
# The fingerprints from which the models of this process started, so that the same call goes on
# with a model that an interrupted call has changed.
started_from: WeakKeyDictionary = WeakKeyDictionary()


# --- the file ----------------------------------------------------------------------------------


def prepare(folder: Path, model: nn.Module) -> None:
    """Make the folder, and see whether checkpoints will fit, before hours of work."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise CourseError(
            f"The folder {str(folder)!r} for checkpoints cannot be made ({error.strerror}): "
            "choose another one."
        ) from None
    weights = sum(v.nbytes for v in model.state_dict().values())
    averages = 2 * sum(p.nbytes for p in models.trainable(model))  # AdamW's
    needed, free = 2 * weights + averages, shutil.disk_usage(folder).free  # last and best weights
    if free < needed:
        raise CourseError(
            f"A checkpoint takes up to {needed / 1e6:.1f} MB, but {str(folder)!r} has "
            f"{free / 1e6:.1f} MB free: free some space on that disk or choose another folder."
        )


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


# --- which run it belongs to -------------------------------------------------------------------


def describe(model, optimizer, train_loader, val_loader, recipe: dict) -> dict:
    """What makes a run this one, as dictionaries of plain values and tensors."""
    names = getattr(model.config, "id2label", None) or {}
    return {
        "model": {name: tuple(value.shape) for name, value in model.state_dict().items()},
        "classes": {str(number): str(name) for number, name in names.items()},
        "recipe": dict(recipe),
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
            if name == "looks" and old is not None and new is not None:
                if old.shape != new.shape or not torch.allclose(old, new, atol=0.02):
                    yield f"{other} (they look different)"
            elif old != new:
                hidden = name in ("labels", "looks")
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


# --- which pictures ----------------------------------------------------------------------------


def labels_of(dataset) -> list[int] | None:
    """The labels of a data set, where it can tell them without opening a picture."""
    stored, indices = _stored(dataset)
    names = getattr(stored, "column_names", ())
    column = next((name for name in ("label", "labels") if name in names), None)
    labels = getattr(stored, "labels", getattr(stored, "targets", None))
    labels = list(stored[column]) if column else labels
    return None if labels is None else [int(labels[i]) for i in indices]


def _stored(dataset) -> tuple:
    """The data set without subsets and transforms, and the indices of its pictures in use."""
    if isinstance(dataset, torch.utils.data.Subset):
        stored, indices = _stored(dataset.dataset)
        return stored, [indices[i] for i in dataset.indices]
    plain = dataset.with_format(None) if hasattr(dataset, "with_format") else dataset
    return plain, range(len(dataset))


def _describe_set(loader) -> dict:
    """Number, labels, and the looks of some pictures where they can be had without a transform."""
    dataset = getattr(loader, "dataset", None)
    if dataset is None:
        return {}
    about: dict = {"number": len(dataset)}
    if (labels := labels_of(dataset)) is not None:
        about["labels"] = hashlib.sha256(str(labels).encode()).hexdigest()
    stored, indices = _stored(dataset)
    chosen = sorted({i * len(dataset) // LOOKED_AT for i in range(LOOKED_AT)})
    looks = [look for i in chosen if (look := _look(stored, indices[i])) is not None]
    return about | ({"looks": torch.stack(looks)} if looks else {})


def _look(stored, index: int) -> torch.Tensor | None:
    """A stored picture as 48 numbers, the same whatever machine decodes it."""
    if hasattr(stored, "column_names"):  # of the library datasets
        row = stored[index].values()
        picture = next((np.array(v.convert("RGB")) for v in row if hasattr(v, "convert")), None)
    else:
        picture = stored.pictures[index] if hasattr(stored, "pictures") else None
    if picture is None:
        return None
    return adaptive_avg_pool1d(torch.as_tensor(picture).float().cpu().flatten()[None] / 255, 48)[0]
