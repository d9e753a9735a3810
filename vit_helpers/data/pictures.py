"""Pictures of a split as tensors: decoded once, augmented or not, in batches."""

import os
from collections.abc import Callable
from typing import Any

import torch
from PIL import Image

from .. import images, runtime
from ..errors import CourseError, whole_number
from .splits import class_names, image_column, labels_of, with_classes

# --- transforms ----------------------------------------------------------------------------------


class EvalTransform:
    """The processor's own steps, for one picture or a whole batch (see `images.to_pixels`).

    The transform that is used to evaluate and the one that is saved with the model must be the
    same, or the saved model sees other pictures than the ones it was judged on.
    """

    def __init__(self, processor):
        self.processor = processor

    def __call__(self, picture: torch.Tensor) -> torch.Tensor:
        """One uint8 picture (3, H, W), or several of one size (B, 3, H, W)."""
        if picture.dim() == 3:
            return self.batch([picture])[0]
        return self.batch(list(picture))

    def batch(self, pictures: list[torch.Tensor], resized: bool = False) -> torch.Tensor:
        """A list of uint8 pictures (3, H, W), their sizes may differ, as (B, 3, H', W')."""
        return images.to_pixels(pictures, self.processor, resized=resized)

    def __repr__(self) -> str:
        return f"EvalTransform({type(self.processor).__name__})"


class TrainTransform:
    """Random steps for each picture, then the processor's scale and normalisation for the batch.

    Steps of torchvision draw their random numbers once for whatever they are given: a batch would
    get one crop for all its pictures. So the random steps are taken picture by picture.

    Args:
        processor: Scales and normalises.
        steps: A transform of a uint8 picture (3, H, W) to one of the model's size.
    """

    def __init__(self, processor, steps: Callable):
        self.processor, self.steps = processor, steps

    def __call__(self, picture: torch.Tensor) -> torch.Tensor:
        """One uint8 picture (3, H, W)."""
        return self.batch([picture])[0]

    def batch(self, pictures: list[torch.Tensor]) -> torch.Tensor:
        """A list of uint8 pictures (3, H, W), their sizes may differ, as (B, 3, H', W')."""
        crops = [self.steps(picture) for picture in pictures]
        return images.to_pixels(crops, self.processor, resized=True)

    def __repr__(self) -> str:
        return f"TrainTransform({self.steps!r})"


def eval_transform(processor) -> EvalTransform:
    """The processor's own steps as a transform of uint8 tensors."""
    return EvalTransform(processor)


def train_transform(processor, scale=(0.6, 1.0), flip: bool = True, colour=None) -> TrainTransform:
    """Training augmentation: random colours, a random crop, a random flip, then normalise.

    Args:
        processor: Gives size, interpolation, mean and deviation.
        scale: Smallest and largest share of the area that a crop keeps. The default of
            torchvision, 0.08, can cut 9 x 9 pixels out of a 32 x 32 picture.
        flip: Whether to mirror half of the pictures.
        colour: How much brightness, contrast, saturation and hue may change, as in
            `torchvision.transforms.v2.ColorJitter`; `None` leaves the colours alone.
    """
    from torchvision.transforms import v2

    # Colours first, while the picture is small: enlarged to 224 pixels it would cost much more.
    recolour = [] if colour is None else [v2.ColorJitter(*colour)]
    size, how = images.model_size(processor), images.interpolation(processor)
    crop = v2.RandomResizedCrop(size, scale, interpolation=how, antialias=True)
    steps = [*recolour, crop, v2.RandomHorizontalFlip(0.5 if flip else 0.0)]
    return TrainTransform(processor, v2.Compose(steps))


def to_tensor(picture: Image.Image) -> torch.Tensor:
    """A picture as a uint8 tensor of shape (3, H, W)."""
    from torchvision.transforms.v2.functional import pil_to_tensor

    return pil_to_tensor(images.load_image(picture))


# --- a split in memory ---------------------------------------------------------------------------


class PictureSet(torch.utils.data.Dataset):
    """A split of a data set, decoded once and kept in memory as uint8.

    Decoding PNG and JPEG files again in each epoch costs more than the augmentation. Where the
    decoded pictures would take more than half of the free memory, they are decoded whenever they
    are asked for, and `loader` spreads that over worker processes.

    Large pictures are made smaller once: for `eval_transform` by the processor's own first steps,
    so the result is what it makes of the original; for others so that the shorter side has
    `max_side` pixels.

    Args:
        dataset: A split with a picture column and `label`.
        transform: Of one uint8 tensor (3, H, W) to the numbers that a model takes.
        max_side: See above.
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

    def __init__(
        self,
        dataset,
        transform,
        max_side: int = 512,
        in_memory: bool | None = None,
        names=None,
        resize=None,
    ):
        if names is not None:
            dataset = with_classes(dataset, list(names))
        self.transform = transform
        self.class_names = class_names(dataset)
        self.labels = torch.tensor(labels_of(dataset), dtype=torch.long)
        self._stored = _StoredPictures(dataset, transform, max_side)
        fits = self._stored.fits_into_memory() if in_memory is None else in_memory
        self.in_memory = fits
        self.pictures: list[torch.Tensor] | _StoredPictures = self._stored
        if self.in_memory:
            self.pictures = list(runtime.bar(self._stored, "decode"))

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
        if isinstance(self.transform, EvalTransform):
            return self.transform.batch(pictures, self._stored.resized), labels
        if hasattr(self.transform, "batch"):
            return self.transform.batch(pictures), labels
        return torch.stack([self.transform(picture) for picture in pictures]), labels

    def __getitems__(self, indices: list[int]) -> "Batch":
        """What torch's loader asks for: several items at once."""
        return Batch(*self.batch(indices))

    def with_transform(self, transform) -> "PictureSet":
        """The same pictures under another transform; decoded again only where that is needed."""
        other = object.__new__(PictureSet)
        other.__dict__ = {**self.__dict__, "transform": transform}
        stored = _StoredPictures(self._stored.dataset, transform, self._stored.max_side)
        if self._stored.stores_like(stored):
            return other
        other._stored = other.pictures = stored
        if other.in_memory:
            other.pictures = list(runtime.bar(stored, "decode"))
        return other


class Batch:
    """A finished batch that can also be read as a list of its items.

    torch's loader collects single items and stacks them; `loader` takes what is stacked already.
    """

    def __init__(self, pixels: torch.Tensor, labels: torch.Tensor):
        self.pixels, self.labels = pixels, labels

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index):
        return self.pixels[index], self.labels[index]


def _finished(batch: Any):
    if isinstance(batch, Batch):
        return batch.pixels, batch.labels
    return torch.utils.data.default_collate(batch)


class _StoredPictures:
    """The pictures of a split as uint8 tensors, decoded at the moment they are asked for."""

    def __init__(self, dataset, transform, max_side: int):
        import datasets

        self.column = image_column(dataset)
        self.dataset = dataset
        self.files = dataset.with_format(None).select_columns([self.column])
        self.files = self.files.cast_column(self.column, datasets.Image(decode=False))
        self.transform, self.max_side = transform, max_side
        self.resized = isinstance(transform, EvalTransform) and self._worth_resizing()

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, row: int) -> torch.Tensor:
        picture = to_tensor(self.decode(row))
        if self.resized:
            return images.resized(picture, self.transform.processor)
        return picture if isinstance(self.transform, EvalTransform) else self._shrunk(picture)

    def __iter__(self):
        return (self[row] for row in range(len(self)))

    def decode(self, row: int) -> Image.Image:
        """One picture in RGB; a broken one is named with its row and file."""
        file = self.files[row][self.column]
        if file is None or not (file.get("bytes") or file.get("path")):
            raise CourseError(f"Picture {row} of this split is missing: remove the row.")
        try:
            return images.load_image({"bytes": file.get("bytes"), "path": file.get("path")})
        except CourseError as error:
            raise CourseError(f"Picture {row} of this split: {error}") from None

    def fits_into_memory(self) -> bool:
        """Whether all of them, if they are like the first, take at most half of what is free."""
        import psutil

        if len(self) == 0:
            return True
        return len(self) * self[0].nbytes <= psutil.virtual_memory().available / 2

    def stores_like(self, other: "_StoredPictures") -> bool:
        """Whether a tensor that this one stores is what the other would store."""
        if self.resized or other.resized:
            mine, theirs = (getattr(s.transform, "processor", None) for s in (self, other))
            return self.resized == other.resized and mine is theirs
        both = (isinstance(s.transform, EvalTransform) for s in (self, other))
        return len(set(both)) == 1 or all(self._is_small(row) for row in self._sample())

    def _sample(self) -> list[int]:
        step = max(1, len(self) // 8)
        return list(range(0, len(self), step))[:8]

    def _is_small(self, row: int) -> bool:
        return min(self.decode(row).size) <= self.max_side

    def _worth_resizing(self) -> bool:
        """Whether the pictures take less memory once the processor has resized them.

        A processor whose steps cannot be taken in two parts gets the originals.
        """
        before = after = 0
        for row in self._sample():
            picture = to_tensor(self.decode(row))
            ready = images.resized(picture, self.transform.processor)
            if ready is None or not self._takes_two_parts(picture, ready):
                return False
            before, after = before + picture.nbytes, after + ready.nbytes
        return after < before

    def _takes_two_parts(self, picture, ready) -> bool:
        at_once, in_two = self.transform.batch([picture]), self.transform.batch([ready], True)
        return at_once.shape == in_two.shape and torch.equal(at_once, in_two)

    def _shrunk(self, picture: torch.Tensor) -> torch.Tensor:
        from torchvision.transforms.v2 import functional

        height, width = picture.shape[1:]
        factor = self.max_side / min(height, width)
        if factor >= 1:
            return picture
        size = [max(1, round(height * factor)), max(1, round(width * factor))]
        how = functional.InterpolationMode.BICUBIC
        return functional.resize(picture, size, interpolation=how, antialias=True)


def loader(pictures, batch_size: int, shuffle: bool = False, seed: int = 0):
    """A `DataLoader` of `(pixel_values (B, 3, H, W), labels (B,))` with its own seed.

    Args:
        pictures: A `PictureSet`, or any data set of `(pixel_values, label)`.
        batch_size: Pictures in a batch; the last one may be smaller.
        shuffle: Whether to draw a new order for each pass.
        seed: Of that order.

    Raises:
        CourseError: If the set is empty.
    """
    if len(pictures) == 0:
        raise CourseError("This split has no pictures, so there is nothing to load.")
    # Decoded pictures in memory are served at once; elsewhere, workers decode ahead.
    workers = 0 if getattr(pictures, "in_memory", True) else min(4, os.cpu_count() or 1)
    return torch.utils.data.DataLoader(
        pictures,
        batch_size=whole_number("batch_size", batch_size, least=1),
        shuffle=shuffle,
        generator=torch.Generator().manual_seed(whole_number("seed", seed)),
        num_workers=workers,
        persistent_workers=workers > 0,
        collate_fn=_finished,
    )
