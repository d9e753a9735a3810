"""Pictures of a split as tensors: decoded once, augmented or not, in batches."""

import contextlib
import hashlib
import os
from collections.abc import Callable, Sequence
from pathlib import Path

import psutil
import torch
from torch.utils.data import BatchSampler, RandomSampler, SequentialSampler
from torchvision.transforms import InterpolationMode, v2

from .. import images, runtime
from ..errors import CourseError, whole_number
from .splits import class_names, image_column, labels_of

MAX_SIDE = 512  # pixels of the shorter side of a picture that is kept for augmentation
MOST_READ = 10_000  # files of a set, to know its pictures again


class Transform:
    """Turns uint8 pictures (3, H, W) into `pixel_values` by the processor's own steps.

    Random `steps` make a picture of the model's size first, which the processor then only scales
    and normalises. They are taken one by one: torchvision draws once for a whole batch.
    """

    def __init__(self, processor, steps: Callable | None = None):
        self.processor, self.steps = processor, steps

    def __repr__(self) -> str:  # by which a checkpoint knows it again
        return f"Transform({self.processor!r}, {self.steps!r})"

    def __call__(self, picture: torch.Tensor) -> torch.Tensor:
        """One picture (3, H, W)."""
        return self.batch([picture])[0]

    def batch(self, pictures: list[torch.Tensor]) -> torch.Tensor:
        """Pictures (3, H, W) of any sizes as (B, 3, H', W')."""
        if self.steps:
            pictures = [self.steps(picture) for picture in pictures]
        return images.to_pixels(pictures, self.processor, resized=self.steps is not None)


def eval_transform(processor) -> Transform:
    """The processor's own steps as a transform of uint8 tensors."""
    return Transform(processor)


def train_transform(processor) -> Transform:
    """Training augmentation: random crop, random flip, then the processor's normalisation."""
    # The default of torchvision, 8 % of the area, can cut 9 x 9 pixels out of 32 x 32.
    # It has PIL's box and Hamming filters for PIL pictures only.
    names = {0: "NEAREST", 1: "BICUBIC", 3: "BICUBIC"}
    how = InterpolationMode[names.get(getattr(processor, "resample", 2), "BILINEAR")]
    size = images.model_size(processor)
    crop = v2.RandomResizedCrop(size, scale=(0.6, 1.0), interpolation=how, antialias=True)
    return Transform(processor, v2.Compose([crop, v2.RandomHorizontalFlip()]))


class PictureSet(torch.utils.data.Dataset):
    """The items `(pixel_values, label)` of a split; a list of indices gives a batch.

    Pictures are decoded once. Where they would take more than half of the free memory, they are
    decoded whenever they are asked for, and `loader` spreads the work over processes.

    `dataset` has a picture column and `label`; `transform` makes what a model takes of one uint8
    tensor (3, H, W).
    """

    def __init__(self, dataset, transform, in_memory: bool | None = None):
        self.transform = transform
        self.class_names = class_names(dataset)
        self.labels = torch.tensor(labels_of(dataset), dtype=torch.long)
        # What a model is judged on keeps its size: the processor makes it smaller.
        judged = isinstance(transform, Transform) and transform.steps is None
        self.files = files = _Files(dataset, None if judged else MAX_SIDE)
        self.in_memory = files.fit_into_memory() if in_memory is None else in_memory
        self.pictures: Sequence = list(runtime.bar(files, "decode")) if self.in_memory else files

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index):
        """`(pixel_values, label)`, or a batch, made on the device (by a worker on the CPU)."""
        if not isinstance(index, (list, tuple)):
            pixels, labels = self[[index]]
            return pixels[0], labels[0]
        in_worker = torch.utils.data.get_worker_info() is not None
        device = "cpu" if in_worker else runtime.current().device
        pictures = [self.pictures[i].to(device) for i in index]
        if isinstance(self.transform, Transform):
            return self.transform.batch(pictures), self.labels[list(index)]
        return torch.stack([*map(self.transform, pictures)]), self.labels[list(index)]


class _Files(Sequence):
    """The pictures of a split as uint8 tensors, decoded at the moment they are asked for."""

    def __init__(self, dataset, most_side: int | None):
        import datasets

        self.column, self.most_side = image_column(dataset), most_side
        files = dataset.with_format(None).select_columns([self.column])
        self.files = files.cast_column(self.column, datasets.Image(decode=False))

    def __len__(self) -> int:
        return len(self.files)

    def stored(self, row) -> dict:
        """`bytes` or `path` of a file, as `datasets` has them."""
        file = self.files[row][self.column]
        if file is None or not (file.get("bytes") or file.get("path")):
            raise CourseError(f"Picture {row} of this split is missing: remove the row.")
        return file

    def __getitem__(self, row):
        file = self.stored(row)
        try:
            picture = images.to_tensor(file)
        except CourseError as error:
            raise CourseError(f"Picture {row} of this split: {error}") from None
        if self.most_side is None or min(picture.shape[1:]) <= self.most_side:
            return picture
        how = InterpolationMode.BICUBIC
        return v2.functional.resize(picture, [self.most_side], interpolation=how, antialias=True)

    def fit_into_memory(self) -> bool:
        """Whether all of them, if they are like the first, take at most half of what is free."""
        room = psutil.virtual_memory().available / 2
        return len(self) == 0 or len(self) * self[0].nbytes <= room


def digest_of_files(dataset) -> str | None:
    """A digest of the picture files of a `PictureSet` or a split; `None` where there are none."""
    files = getattr(dataset, "files", None)
    if hasattr(dataset, "column_names"):  # a split, not a `PictureSet`
        with contextlib.suppress(CourseError):  # it holds no pictures
            files = _Files(dataset, None)
    if not isinstance(files, _Files):
        return None
    digest = hashlib.sha256()
    for row in range(0, len(files), 1 + len(files) // MOST_READ):
        file = files.stored(row)
        digest.update(file["bytes"] or Path(file["path"]).read_bytes())
    return digest.hexdigest()


def loader(pictures, batch_size: int, shuffle: bool = False):
    """A `DataLoader` of `(pixel_values (B, 3, H, W), labels (B,))` of a `PictureSet`.

    `shuffle` draws a new order for each pass; `training.fit` seeds it.
    """
    if len(pictures) == 0:
        raise CourseError("This split has no pictures, so there is nothing to load.")
    # Decoded pictures in memory are served at once; elsewhere, workers decode ahead.
    workers = 0 if getattr(pictures, "in_memory", True) else min(4, os.cpu_count() or 1)
    generator = torch.Generator().manual_seed(runtime.current().seed)
    order = RandomSampler(pictures, generator=generator) if shuffle else SequentialSampler(pictures)
    batch_size = whole_number("batch_size", batch_size, least=1)
    return torch.utils.data.DataLoader(
        pictures,
        sampler=BatchSampler(order, batch_size, drop_last=False),
        batch_size=None,  # the set is asked for a batch at once, and nothing is stacked twice
        generator=generator,
        num_workers=workers,
        persistent_workers=workers > 0,
    )
