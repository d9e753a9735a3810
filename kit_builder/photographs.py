"""The photographs that the kit's model learns from: banks of small pictures, splits and targets.

The raw files are not part of the repository and must never be: ``VIT_REAL_PHOTOS`` names their
folder. Needed there: ``tiny-imagenet-train.parquet``, ``tiny-imagenet-classes.json``,
``sharp-photographs.parquet``, ``cifar10-train.parquet``, and the teacher's answers
``tiny-imagenet-teacher.parquet`` and ``sharp-teacher.parquet``.
"""

from __future__ import annotations

import io
import json
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from vit_helpers.errors import CourseError

CLASSES = 200  # of Tiny-ImageNet; the first outputs of the network
IMAGENET = 1000  # the teacher's classes, learnt beside and thrown away
SHARP_SIDE = 128  # the files have a shorter side of at most 128 pixels
HELD_OUT_A_CLASS = 10  # of 500 in Tiny-ImageNet: never learnt, 2,000 photographs in all
HELD_OUT_SHARP = 20  # of each class of Imagenette, never learnt

FILES = {
    "tiny-imagenet-train.parquet": ("image", "label"),
    "sharp-photographs.parquet": ("image", "source", "wnid"),
    "cifar10-train.parquet": ("img", "label"),
    "tiny-imagenet-teacher.parquet": ("index", "probability"),
    "sharp-teacher.parquet": ("index", "probability"),
}


@dataclass(frozen=True)
class Bank:
    """Photographs of one source, decoded, with what is to be learnt from them.

    Attributes:
        pixels: uint8 (n, 3, side, side); rectangular pictures are squeezed to a square, as the
            processor of the course does.
        labels: int64 (n,), -1 where there is none.
        teacher: int16 (n, 12) the teacher's most probable classes of ImageNet, or None.
        shares: float16 (n, 12) their probabilities, or None.
    """

    pixels: Tensor
    labels: Tensor
    teacher: Tensor | None = None
    shares: Tensor | None = None

    def __len__(self) -> int:
        return len(self.labels)

    def pick(self, keep: Tensor) -> Bank:
        """The rows where ``keep`` (bool, n) is true."""
        parts = (self.pixels, self.labels, self.teacher, self.shares)
        return Bank(*(None if part is None else part[keep] for part in parts))


def find_real(folder: Path | None = None) -> Path:
    """The folder with the raw files, whole.

    Raises:
        CourseError: the folder or a file in it is missing, or a file lacks a column.
    """
    import pyarrow.parquet as pq

    chosen = folder or os.environ.get("VIT_REAL_PHOTOS")
    if not chosen:
        raise CourseError("Name the folder with the photographs in VIT_REAL_PHOTOS.")
    for name, columns in FILES.items():
        path = Path(chosen) / name
        if not path.exists():
            raise CourseError(f"Training needs {name}, which is not in {str(chosen)!r}.")
        missing = set(columns) - set(pq.read_schema(path).names)
        if missing:
            raise CourseError(f"{path} has no column {', '.join(sorted(missing))}.")
    if not (Path(chosen) / "tiny-imagenet-classes.json").exists():
        raise CourseError(f"tiny-imagenet-classes.json is not in {str(chosen)!r}.")
    return Path(chosen)


def classes(real: Path) -> list[dict[str, str]]:
    """The 200 classes in the order of the labels: ``wnid`` and ``name``, as in ImageNet."""
    return json.loads((real / "tiny-imagenet-classes.json").read_text(encoding="utf-8"))


def decode(files: list[dict], side: int) -> Tensor:
    """Decode and squeeze to (n, 3, side, side), uint8."""

    def one(file: dict) -> np.ndarray:
        image = Image.open(io.BytesIO(file["bytes"])).convert("RGB")
        if image.size != (side, side):
            image = image.resize((side, side), Image.Resampling.BICUBIC)
        return np.asarray(image).transpose(2, 0, 1)

    pixels = np.empty((len(files), 3, side, side), np.uint8)
    with ThreadPoolExecutor(2) as pool:
        for i, array in enumerate(pool.map(one, files)):
            pixels[i] = array
    return torch.from_numpy(pixels)


def read_bank(real: Path, name: str, side: int) -> Bank:
    """One raw file as a bank; of Imagenette the label is the line of its class in ImageNet."""
    import pyarrow.parquet as pq

    table = pq.read_table(real / f"{name}.parquet")
    column = "img" if "img" in table.column_names else "image"
    if "label" in table.column_names:
        labels = torch.tensor(table["label"].to_pylist())
    else:
        labels = torch.tensor([IMAGENETTE.get(w, -1) for w in table["wnid"].to_pylist()])
    answers = real / f"{name.removesuffix('-train').removesuffix('-photographs')}-teacher.parquet"
    teacher = shares = None
    if answers.exists():
        told = pq.read_table(answers)
        teacher = torch.tensor(np.stack(told["index"].to_numpy()))
        shares = torch.tensor(np.stack(told["probability"].to_numpy()).astype(np.float16))
    return Bank(decode(table[column].to_pylist(), side), labels, teacher, shares)


# The ten classes of Imagenette and their lines in ImageNet's list of 1,000.
IMAGENETTE = {
    "n01440764": 0,
    "n02102040": 217,
    "n02979186": 482,
    "n03000684": 491,
    "n03028079": 497,
    "n03394916": 566,
    "n03417042": 569,
    "n03425413": 571,
    "n03445777": 574,
    "n03888257": 701,
}


def hold_out(labels: Tensor, count: int) -> Tensor:
    """True for the last ``count`` rows of each class (labels of -1 are no class)."""
    held = torch.zeros(len(labels), dtype=torch.bool)
    for label in labels.unique().tolist():
        if label >= 0:
            held[(labels == label).nonzero().squeeze(1)[-count:]] = True
    return held


@dataclass(frozen=True)
class Photographs:
    """All banks, split: what is learnt, and what is only judged."""

    tiny: Bank
    sharp: Bank
    cifar: Bank
    tiny_held: Bank
    sharp_held: Bank

    @classmethod
    def load(cls, real: Path, cache: Path) -> Photographs:
        """Decode the raw files, once; later from the cache."""
        path = cache / "photographs.pt"
        if not path.exists():
            banks = [
                read_bank(real, "tiny-imagenet-train", 64),
                read_bank(real, "sharp-photographs", SHARP_SIDE),
                read_bank(real, "cifar10-train", 32),
            ]
            cache.mkdir(parents=True, exist_ok=True)
            partial = path.with_suffix(".partial")
            torch.save([vars(bank) for bank in banks], partial)
            os.replace(partial, path)
        tiny, sharp, cifar = (Bank(**b) for b in torch.load(path, weights_only=True, mmap=True))
        held, held_sharp = (
            hold_out(tiny.labels, HELD_OUT_A_CLASS),
            hold_out(sharp.labels, HELD_OUT_SHARP),
        )
        return cls(
            tiny.pick(~held),
            sharp.pick(~held_sharp),
            cifar,
            tiny.pick(held),
            sharp.pick(held_sharp),
        )


# The line of each of the 200 classes in ImageNet's list of 1,000 (torchvision's order).
LINES = (
    1,
    25,
    30,
    32,
    50,
    61,
    69,
    71,
    75,
    76,
    79,
    99,
    105,
    107,
    109,
    113,
    114,
    115,
    122,
    123,
    128,
    145,
    146,
    149,
    151,
    187,
    207,
    208,
    235,
    267,
    281,
    283,
    285,
    286,
    291,
    294,
    301,
    308,
    309,
    311,
    313,
    314,
    315,
    319,
    323,
    325,
    329,
    338,
    341,
    345,
    347,
    349,
    353,
    354,
    365,
    367,
    372,
    386,
    387,
    398,
    400,
    406,
    411,
    414,
    421,
    424,
    425,
    427,
    430,
    435,
    436,
    437,
    438,
    440,
    445,
    447,
    448,
    457,
    458,
    462,
    463,
    466,
    467,
    470,
    471,
    474,
    480,
    485,
    488,
    492,
    496,
    500,
    508,
    509,
    511,
    517,
    525,
    526,
    532,
    542,
    543,
    557,
    562,
    565,
    567,
    568,
    570,
    573,
    576,
    604,
    605,
    612,
    614,
    619,
    621,
    625,
    627,
    635,
    645,
    652,
    655,
    675,
    677,
    678,
    682,
    683,
    687,
    704,
    707,
    716,
    720,
    731,
    733,
    734,
    735,
    737,
    739,
    744,
    747,
    758,
    760,
    761,
    765,
    768,
    774,
    779,
    781,
    786,
    801,
    806,
    808,
    811,
    815,
    817,
    821,
    826,
    837,
    839,
    842,
    845,
    849,
    850,
    853,
    862,
    866,
    873,
    874,
    877,
    879,
    887,
    888,
    890,
    899,
    900,
    909,
    910,
    917,
    923,
    924,
    928,
    929,
    932,
    935,
    938,
    945,
    947,
    950,
    951,
    954,
    957,
    962,
    963,
    964,
    967,
    970,
    972,
    973,
    975,
    978,
    988,
)
