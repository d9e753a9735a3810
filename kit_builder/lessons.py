"""What the offline model is worth in the lessons: the rows of its card that take more than a look.

Everything is done as a reader of the course does it: the notebooks themselves are run, and the
int8 network is the one that the course builds. Used by ``evaluate``.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterable
from typing import Any

import torch
from datasets import load_dataset
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForImageClassification

from benchmarks import variants
from course import runner
from vit_helpers import data, efficiency, models, runtime, training
from vit_helpers.errors import CourseError

INT8 = "ONNX Runtime int8 dynamic"

# Of notebook 04 in the profile quick; the rate is the one that notebook 02 gives to random
# weights, because that of its fine-tuning is far too small for them.
FLOWERS = {"validation": 102, "test": 306, "batch": 32}
FROM_SCRATCH: dict[str, Any] = {
    "epochs": 2,
    "warmup": 0.1,
    "schedule": "cosine",
}
LR, KEEP_PATCHES = 5e-4, 0.5


def as_the_course_is_tested() -> None:
    """Choose offline kit, profile quick and seed 0, for this process and its notebooks."""
    os.environ |= {"VIT_SOURCE": "offline", "VIT_PROFILE": "quick", "VIT_SEED": "0"}


# Where a notebook shows a figure: the cell, and the words around it, all in per cent.
SHOWN = {
    "02": {
        "test": ("test", r"right in ([\d.]+) %"),
        "first epoch": ("compare", r"pre-trained, first epoch ([\d.]+) %"),
        "from scratch": ("compare", r"from scratch, same steps ([\d.]+) %"),
    },
    "04": {"test": ("test", r"top-1: ([\d.]+) %")},
}


def figures_of(notebook: str) -> dict[str, float]:
    """Run notebook ``02`` or ``04``; return the figures of `SHOWN` in per cent.

    Raises:
        CourseError: A cell of it fails.
    """
    as_the_course_is_tested()
    (path,) = runner.find([notebook])
    executed, run = runner.execute(path)
    if run.error:
        raise CourseError(f"{path.stem} failed in {run.error}; mend it and measure again.")
    return read_figures(executed, SHOWN[notebook])


def read_figures(executed, shown: dict[str, tuple[str, str]]) -> dict[str, float]:
    """Figures out of the outputs of an executed notebook.

    Raises:
        CourseError: A cell does not show its figure any more.
    """
    cells = {cell["id"]: cell for cell in executed["cells"]}
    found = {}
    for name, (cell, pattern) in shown.items():
        outputs = cells[cell]["outputs"]
        text = "".join(o.get("text", "") or o["data"].get("text/plain", "") for o in outputs)
        match = re.search(pattern, text)
        if not match:
            raise CourseError(f"Cell {cell} shows no {pattern!r}; kit_builder reads it there.")
        found[name] = float(match[1])
    return found


def flowers_from_scratch() -> float:
    """Accuracy (0 to 1) on the Flowers-102 twin of the same network from random weights.

    Notebook 04 trains no such network, so this does, with the notebook's pictures, augmentation,
    batches and epochs. All blocks learn: frozen at random they would be worth nothing.
    """
    as_the_course_is_tested()
    rt = runtime.start("classifier", "flowers102")
    flowers = load_dataset(rt.locate("flowers102"))
    processor = models.load_processor(rt.locate("classifier"))
    parts = {
        "train": flowers["train"],
        "validation": data.balanced_subset(
            flowers["validation"], FLOWERS["validation"], seed=rt.seed
        ),
        "test": data.balanced_subset(flowers["test"], FLOWERS["test"], seed=rt.seed),
    }
    loaders = {}
    for name, part in parts.items():
        learns = name == "train"
        moving = data.train_transform(processor)
        transform = moving if learns else data.eval_transform(processor)
        pictures = data.PictureSet(part, transform)
        loaders[name] = data.loader(pictures, FLOWERS["batch"], shuffle=learns)
    config = AutoConfig.from_pretrained(
        rt.locate("classifier"), id2label=dict(enumerate(data.class_names(flowers["train"])))
    )
    model = AutoModelForImageClassification.from_config(config).to(rt.device)
    optimizer = torch.optim.AdamW(training.parameter_groups(model, LR))
    with models.patch_dropout(model, KEEP_PATCHES):
        training.fit(
            model, loaders["train"], loaders["validation"], optimizer=optimizer, **FROM_SCRATCH
        )
    return training.evaluate(model, loaders["test"]).accuracy


def int8_agreement(model: nn.Module, pictures: Iterable[Tensor], other: Tensor) -> float:
    """How often the dynamic int8 network of the course answers as float32 does.

    One picture at a time, as in notebook 05: ONNX Runtime scales the activations of a batch
    together, so that the neighbours of a picture would have a say.

    Args:
        model: The classifier in float32.
        pictures: Normalised pictures, each (1, 3, H, W).
        other: Another picture, (1, 3, H, W), to try the engines on.

    Returns:
        The share of pictures with the same top class, 0 to 1.

    Raises:
        CourseError: The int8 network cannot be built here.
    """
    with contextlib.closing(variants.ExportContext(model, other)) as context:
        attempts = variants.build(context, variants.select(efficiency.BASELINE, INT8))
        engines = []
        for attempt in attempts:
            if attempt.engine is None:
                raise CourseError(f"{attempt.name} cannot be measured here: {attempt.reason}.")
            engines.append(attempt.engine)
        reference, int8 = engines
        same = [torch.equal(int8(p).argmax(1), reference(p).argmax(1)) for p in pictures]
    return sum(same) / len(same)
