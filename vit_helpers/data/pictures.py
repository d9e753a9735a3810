"""Pictures of a split as tensors: decoded once, augmented or not, in batches."""

import os
from collections.abc import Callable, Sequence

import torch

from .. import images, runtime
from ..errors import CourseError, whole_number
from .splits import class_names, image_column, labels_of, with_classes

MAX_SIDE = 512  # pixels of the shorter side of a picture that is kept for training


class Transform:
    """Turns uint8 pictures (3, H, W) into `pixel_values`.

    Steps of torchvision draw their random numbers once for whatever they are given: a batch would
    get one crop for all its pictures. So the random steps are taken picture by picture.

    Args:
        processor: An image processor of transformers.
        steps: Random steps, from a picture to one of the model's size. The processor then only
            scales and normalises. `None` for the processor's own steps: what a model is judged
            on must be what the processor that is saved with it makes.
    """

    def __init__(self, processor, steps: Callable | None = None):
        self.processor, self.steps = processor, steps

    def __call__(self, picture: torch.Tensor) -> torch.Tensor:
        """One picture (3, H, W)."""
        return self.batch([picture])[0]

    def batch(self, pictures: list[torch.Tensor], resized: bool = False) -> torch.Tensor:
        """Pictures (3, H, W) of any sizes as (B, 3, H', W'); `resized` as in `images.to_pixels`."""
        if self.steps:
            pictures, resized = [self.steps(picture) for picture in pictures], True
        return images.to_pixels(pictures, self.processor, resized)


def eval_transform(processor) -> Transform:
    """The processor's own steps as a transform of uint8 tensors."""
    return Transform(processor)


def train_transform(processor) -> Transform:
    """Training augmentation: a random crop and a random flip, then the processor's normalisation.

    A crop keeps at least 60 % of the area. The default of torchvision, 8 %, can cut 9 x 9 pixels
    out of a 32 x 32 picture.
    """
    from torchvision.transforms import v2

    size, how = images.model_size(processor), images.interpolation(processor)
    crop = v2.RandomResizedCrop(size, scale=(0.6, 1.0), interpolation=how, antialias=True)
    return Transform(processor, v2.Compose([crop, v2.RandomHorizontalFlip()]))


class PictureSet(torch.utils.data.Dataset):
    """A split of a data set, decoded once and kept in memory as uint8.

    Where the decoded pictures would take more than half of the free memory, they are decoded
    whenever they are asked for, and `loader` spreads that over worker processes. Large pictures
    are made smaller once: for `eval_transform` by the processor's own first steps, which changes
    no result; for others so that the shorter side has `MAX_SIDE` pixels.

    Args:
        dataset: A split with a picture column and `label`.
        transform: Of one uint8 tensor (3, H, W) to the numbers that a model takes.
        in_memory: Whether to keep the decoded pictures; `None` for where they fit.
        names: Class names in the order of the model; labels are matched to it by name. `None`
            for the order that the split has.

    Attributes:
        pictures: The uint8 tensors (3, H, W), in order.
        labels: (N,).
        class_names: In the order of the labels.

    Each item is `(pixel_values, label)`; a list of indices gives a batch.

    Raises:
        CourseError: If a picture or a label cannot be read; it names the row and the file.
    """

    def __init__(self, dataset, transform, in_memory: bool | None = None, names=None):
        if names is not None:
            dataset = with_classes(dataset, list(names))
        self.transform = transform
        self.class_names = class_names(dataset)
        self.labels = torch.tensor(labels_of(dataset), dtype=torch.long)
        files = _Files(dataset, transform)
        self.resized = files.resized
        self.in_memory = files.fit_into_memory() if in_memory is None else in_memory
        self.pictures: Sequence = list(runtime.bar(files, "decode")) if self.in_memory else files

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index):
        if isinstance(index, (list, tuple)):
            return self.batch(index)
        pixels, labels = self.batch([index])
        return pixels[0], labels[0]

    def batch(self, indices) -> tuple[torch.Tensor, torch.Tensor]:
        """Several items as `(pixel_values (B, 3, H, W), labels (B,))`, made on the device.

        Small uint8 pictures travel to the device, and the work on them is done there; a worker
        process stays on the CPU.
        """
        in_worker = torch.utils.data.get_worker_info() is not None
        device = "cpu" if in_worker else runtime.current().device
        pictures = [self.pictures[index].to(device) for index in indices]
        labels = self.labels[list(indices)]
        if isinstance(self.transform, Transform):
            return self.transform.batch(pictures, self.resized), labels
        return torch.stack([self.transform(picture) for picture in pictures]), labels

    def __getitems__(self, indices: list[int]) -> "_Batch":
        """What torch's loader asks for: several items at once."""
        return _Batch(*self.batch(indices))


class _Batch(list):
    """The items of a batch, for a loader that stacks them, and `finished`, for ours."""

    def __init__(self, pixels: torch.Tensor, labels: torch.Tensor):
        super().__init__(zip(pixels, labels, strict=True))
        self.finished = pixels, labels


def _finished(batch: list):
    return batch.finished if isinstance(batch, _Batch) else torch.utils.data.default_collate(batch)


class _Files(Sequence):
    """The pictures of a split as uint8 tensors, decoded at the moment they are asked for."""

    def __init__(self, dataset, transform):
        import datasets

        self.column = image_column(dataset)
        files = dataset.with_format(None).select_columns([self.column])
        self.files = files.cast_column(self.column, datasets.Image(decode=False))
        self.transform = transform
        self.processors_own = isinstance(transform, Transform) and transform.steps is None
        self.resized = self.processors_own and self._can_be_resized_first()

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, row):
        picture = self.decode(row)
        if self.resized:
            return images.resized(picture, self.transform.processor)
        if self.processors_own or min(picture.shape[1:]) <= MAX_SIDE:
            return picture
        from torchvision.transforms.v2 import functional

        how = functional.InterpolationMode.BICUBIC
        return functional.resize(picture, [MAX_SIDE], interpolation=how, antialias=True)

    def decode(self, row: int) -> torch.Tensor:
        """One picture (3, H, W); a broken one is named with its row and file."""
        file = self.files[row][self.column]
        if file is None or not (file.get("bytes") or file.get("path")):
            raise CourseError(f"Picture {row} of this split is missing: remove the row.")
        try:
            return images.to_tensor(file)
        except CourseError as error:
            raise CourseError(f"Picture {row} of this split: {error}") from None

    def fit_into_memory(self) -> bool:
        """Whether all of them, if they are like the first, take at most half of what is free."""
        import psutil

        room = psutil.virtual_memory().available / 2
        return len(self) == 0 or len(self) * self[0].nbytes <= room

    def _can_be_resized_first(self) -> bool:
        """Whether the processor's first steps, taken once, change no result and save memory."""
        before = after = 0
        for row in range(0, len(self), max(1, len(self) // 8))[:8]:
            picture = self.decode(row)
            ready = images.resized(picture, self.transform.processor)
            if ready is None or not torch.equal(
                self.transform.batch([picture]), self.transform.batch([ready], resized=True)
            ):
                return False
            before, after = before + picture.nbytes, after + ready.nbytes
        return after < before


def loader(pictures, batch_size: int, shuffle: bool = False):
    """A `DataLoader` of `(pixel_values (B, 3, H, W), labels (B,))` with its own order.

    Args:
        pictures: A `PictureSet`, or any data set of `(pixel_values, label)`; not an empty one.
        batch_size: Pictures in a batch; the last one may be smaller.
        shuffle: Whether to draw a new order for each pass. `training.fit` seeds it.
    """
    if len(pictures) == 0:
        raise CourseError("This split has no pictures, so there is nothing to load.")
    # Decoded pictures in memory are served at once; elsewhere, workers decode ahead.
    workers = 0 if getattr(pictures, "in_memory", True) else min(4, os.cpu_count() or 1)
    return torch.utils.data.DataLoader(
        pictures,
        batch_size=whole_number("batch_size", batch_size, least=1),
        shuffle=shuffle,
        generator=torch.Generator().manual_seed(runtime.current().seed),
        num_workers=workers,
        persistent_workers=workers > 0,
        collate_fn=_finished,
    )
