"""Data sets, pictures, transforms and loaders. The same classes and columns from both sources."""

import os
import re
from pathlib import Path

import torch
from PIL import Image, ImageOps

from . import cache, offline_kit, resources, runtime
from .errors import CourseError, in_range, whole_number
from .images import decode as _decode
from .images import load_image, patches, to_rgb, unnormalise

__all__ = ["load_image", "patches", "unnormalise"]  # old places of names that moved to `images`


# --- data sets ---------------------------------------------------------------------------------


def load_dataset(name: str):
    """Load a data set of the course.

    Args:
        name: `cifar10` (columns `img`, `label`) or `flowers102` (`image`, `label`).

    Returns:
        A `datasets.DatasetDict` with the splits that the original has. `label` is a
        `ClassLabel`, so `ds["train"].features["label"].names` are the class names.
    """
    import datasets

    row = resources.get(name)
    folder = runtime.place(name)
    if runtime.current().source == "offline":
        files = sorted(folder.glob("*.parquet"))
        return datasets.DatasetDict({f.stem: _read_parquet([f]) for f in files})
    files = [f for f in cache.files(name, folder) if f.suffix == ".parquet"]
    splits = {f.stem.split("-")[0]: [] for f in files}
    for file in files:  # `train-00000-of-00002.parquet`, in order
        splits[file.stem.split("-")[0]].append(file)
    dataset = datasets.DatasetDict({s: _read_parquet(parts) for s, parts in splits.items()})
    dataset = _with_features_of_card(dataset, folder / "README.md")
    for split in dataset.values():
        row.check_labels(class_names(split))
    return dataset


def load_folder(folder: str | Path):
    """Load a data set of your own: parquet files with a picture column and `label`.

    The split of a file is in its name: `train`, `validation` or `test`.

    Args:
        folder: Where the files are, such as `cifar10-train.parquet`.

    Returns:
        A `datasets.DatasetDict` with the splits that were found.

    Raises:
        CourseError: If there are no training pictures in the folder, or a column is missing.
    """
    import datasets

    files = sorted(Path(folder).glob("*.parquet"))
    words = {f: re.split(r"[^a-z]+", f.stem.lower()) for f in files}
    splits = ("train", "validation", "test")
    parts = {split: [f for f in files if split in words[f]] for split in splits}
    if not parts["train"]:
        raise CourseError(f"There is no *train*.parquet in {str(folder)!r}: check the folder.")
    found = datasets.DatasetDict({s: _read_parquet(f) for s, f in parts.items() if f})
    for split in found:
        image_column(found[split])
        if not isinstance(found[split].features.get("label"), datasets.ClassLabel):
            raise CourseError(
                f"The split {split!r} needs a column 'label' of the type ClassLabel, which knows "
                f"the class names; its columns are {', '.join(found[split].column_names)}."
            )
    return found


def _read_parquet(paths: list[Path]):
    # Straight into memory: `Dataset.from_parquet` would write a second copy into a cache first.
    import datasets
    import pyarrow
    import pyarrow.parquet

    table = pyarrow.concat_tables([pyarrow.parquet.read_table(path) for path in paths])
    return datasets.Dataset(datasets.table.InMemoryTable(table))


def _with_features_of_card(dataset, card: Path):
    """The features that `datasets.load_dataset` would give: those of the card, if it has any."""
    from datasets.info import DatasetInfosDict

    infos = DatasetInfosDict.from_directory(str(card.parent)) if card.is_file() else {}
    features = next((info.features for info in infos.values() if info.features), None)
    if features is None or features == dataset["train"].features:
        return dataset
    return dataset.cast(features)


def image_column(dataset) -> str:
    """Name of the column that holds the pictures (`img` or `image`)."""
    import datasets

    for name, feature in dataset.features.items():
        if isinstance(feature, datasets.Image):
            return name
    raise CourseError(f"No column of {dataset.column_names} holds pictures.")


def class_names(dataset) -> list[str]:
    """Class names in the order of their labels."""
    return list(dataset.features["label"].names)


def balanced_subset(dataset, n: int | None, seed: int = 0):
    """A random part of a split with the same number of pictures of every class.

    Where a class has fewer pictures than that, all of them are taken and a NOTE says so.
    `VIT_PICTURES` may set an upper limit.

    Args:
        dataset: A split with a `label` column.
        n: About how many pictures (rounded down to a multiple of the number of classes); `None`
            for the whole split, as it is.
        seed: Which part.

    Raises:
        CourseError: If that is less than one picture a class, or a label is missing.
    """
    if most := runtime.most_pictures():
        n = most if n is None else min(most, n)
        n = None if n >= len(dataset) else n
    if n is None:
        return dataset
    names = class_names(dataset)
    per_class = whole_number("n", n, least=1) // len(names)
    if per_class == 0:
        raise CourseError(f"{n} pictures are too few for {len(names)} classes.")
    labels = torch.tensor(labels_of(dataset))
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))
    chosen = [order[labels[order] == label][:per_class] for label in range(len(names))]
    few = {name: len(c) for name, c in zip(names, chosen, strict=True) if len(c) < per_class}
    if few:
        listed = ", ".join(f"{name!r} {count}" for name, count in list(few.items())[:5])
        more = f" and {len(few) - 5} more classes" if len(few) > 5 else ""
        print(f"NOTE: not balanced: {listed}{more}; the other classes have {per_class} each.")
    rows = torch.cat(chosen).sort().values.tolist()
    return dataset if len(rows) == len(dataset) else dataset.select(rows)


def labels_of(dataset) -> list[int]:
    """The labels of a split.

    Raises:
        CourseError: If one is missing or belongs to no class; it names the row.
    """
    labels, size = list(dataset["label"]), len(class_names(dataset))
    for row, label in enumerate(labels):
        if label is None or not 0 <= label < size:
            raise CourseError(
                f"Row {row} of this split has the label {label!r}, but its classes are 0 to "
                f"{size - 1}: mend or remove the row."
            )
    return labels


take = balanced_subset


def own_pictures(model, count: int | None = None, seed: int = 0):
    """Pictures of things that the classifier has a class for.

    A picture of something unknown lies between classes, and a breath moves its answer. Whether a
    faster model answers the same is judged on these.

    Offline they are drawings by artists that the classifier never saw, one of each class, and six
    photographs. From the Hub they are CIFAR-10's test photographs, without the deer, which is in
    none of the 1,000 classes of ImageNet.

    Args:
        model: The classifier; it knows the names of its classes.
        count: About how many; 200 by default. More than there are: as many views are added,
            mirrored and cropped.
        seed: Of the choice and of the views.

    Returns:
        `(pictures, labels)`: a list of PIL pictures, and their labels as the classifier numbers
        them (N,), or `None` where its classes have other names.

    Raises:
        CourseError: If `count` is below 1.
    """
    count = 200 if count is None else count
    if count < 1:
        raise CourseError(f"count is {count}, but must be 1 or more pictures.")
    if runtime.current().source == "hub":
        test = load_dataset("cifar10")["test"]
        names = class_names(test)
        known = [i for i, label in enumerate(test["label"]) if names[label] != "deer"]
        chosen = random_indices(len(known), min(count, len(known)), seed)
        pictures = [to_rgb(test[known[i]][image_column(test)]) for i in chosen]
        return _views(pictures, count, seed), None
    pictures, labels = _kit_pictures(model)
    if labels is not None:
        labels = labels.repeat(-(-count // len(pictures)))[:count]
    return _views(pictures, count, seed), labels


def _kit_pictures(model):
    """The offline classifier's own pictures, with their labels in the order of `model`."""
    import json

    folder = resources.get("classifier").twin_path
    names = json.loads((folder / "config.json").read_text(encoding="utf-8"))["id2label"]
    held_out = _read_parquet_table(folder / "heldout.parquet")
    pictures = [_decode(file["bytes"], "a held-out picture") for file in held_out["image"]]
    said = [names[str(label)] for label in held_out["label"]]
    for path in offline_kit.verify_twin("photos"):
        pictures.append(load_image(path))
        said.append(path.stem)
    numbers = {name: number for number, name in model.config.id2label.items()}
    if not set(said) <= set(numbers):
        return pictures, None
    return pictures, torch.tensor([numbers[name] for name in said])


def _read_parquet_table(path: Path) -> dict[str, list]:
    import pyarrow.parquet

    return pyarrow.parquet.read_table(path).to_pydict()


def _views(pictures: list, count: int, seed: int) -> list:
    """The pictures, then mirrored and slightly cropped views of them, `count` in all."""
    draw = torch.Generator().manual_seed(seed)
    views = pictures[:count]
    while len(views) < count:
        picture = ImageOps.mirror(pictures[len(views) % len(pictures)])
        left, top, right, bottom = (0.1 * torch.rand(4, generator=draw)).tolist()
        width, height = picture.size
        box = (left * width, top * height, (1 - right) * width, (1 - bottom) * height)
        views.append(picture.crop(tuple(round(edge) for edge in box)))
    return views


# --- from pictures to tensors ------------------------------------------------------------------


def model_size(processor) -> tuple[int, int]:
    """`(height, width)` in pixels of the pictures that the processor makes."""
    size = processor.size
    return int(size["height"]), int(size["width"])


def eval_transform(processor):
    """The processor's own steps as a torchvision transform: resize, scale to 0..1, normalise.

    The transform that is used to evaluate and the one that is saved with the model must be the
    same, or the saved model sees other pictures than the ones it was judged on.

    Returns:
        A `Transform` of uint8 tensors (..., 3, H, W) to float tensors (..., 3, 224, 224).
    """
    return Transform(together=[resize(processor), *_to_model_range(processor)])


def resize(processor):
    """The processor's first step alone: resize to the model's size, as uint8 (..., 3, 224, 224).

    On a picture that has that size already it changes nothing.
    """
    from torchvision.transforms import v2

    return v2.Resize(model_size(processor), _interpolation(processor), antialias=True)


def train_transform(processor, scale=(0.6, 1.0), flip: bool = True, colour=None):
    """Training augmentation: random colours, a random crop, a random flip, then normalise.

    Args:
        processor: Gives size, interpolation, mean and deviation.
        scale: Smallest and largest share of the area that a crop keeps. The default of
            torchvision, 0.08, would cut 9 x 9 pixels out of a 32 x 32 picture.
        flip: Whether to mirror half of the pictures.
        colour: How much brightness, contrast, saturation and hue may change, as in
            `torchvision.transforms.v2.ColorJitter`; `None` leaves the colours alone.

    Returns:
        A `Transform` of a uint8 tensor (3, H, W) to a float tensor (3, 224, 224).
    """
    from torchvision.transforms import v2

    # Colours first, while the picture is small: enlarged to 224 pixels it would cost much more.
    recolour = [] if colour is None else [v2.ColorJitter(*colour)]
    size, interpolation = model_size(processor), _interpolation(processor)
    return Transform(
        each=[
            *recolour,
            v2.RandomResizedCrop(size, scale, interpolation=interpolation, antialias=True),
            v2.RandomHorizontalFlip(0.5 if flip else 0.0),
        ],
        together=_to_model_range(processor),
    )


class Transform:
    """From uint8 pictures to the numbers that a model takes, for one picture or a whole batch.

    Steps of torchvision draw their random numbers once for whatever they are given: a batch would
    get one crop for all its pictures. So random steps are taken for each picture, and those that
    are the same for all are taken once for the batch.

    Args:
        each: Steps for every picture on its own.
        together: Steps for the whole batch.
    """

    def __init__(self, each=(), together=()):
        from torchvision.transforms import v2

        self.each = v2.Compose(list(each)) if each else v2.Identity()
        self.together = v2.Compose(list(together)) if together else v2.Identity()

    def __call__(self, picture: torch.Tensor) -> torch.Tensor:
        """One picture (3, H, W), or several to be treated alike (..., 3, H, W)."""
        return self.together(self.each(picture))

    def batch(self, pictures: list[torch.Tensor]) -> torch.Tensor:
        """A list of pictures (3, H, W), their sizes may differ, as one tensor (B, 3, H', W')."""
        pictures = [self.each(picture) for picture in pictures]
        if len({picture.shape for picture in pictures}) == 1:
            return self.together(torch.stack(pictures))
        return torch.stack([self.together(picture) for picture in pictures])

    def __repr__(self) -> str:
        return f"Transform(each={self.each!r}, together={self.together!r})"


def _interpolation(processor):
    from torchvision.transforms import InterpolationMode

    by_pil_number = {0: "NEAREST", 2: "BILINEAR", 3: "BICUBIC"}
    return InterpolationMode[by_pil_number[int(processor.resample)]]


def _to_model_range(processor) -> list:
    from torchvision.transforms import v2

    return [
        v2.ToDtype(torch.float32, scale=True),
        v2.Normalize(processor.image_mean, processor.image_std),
    ]


def to_tensor(picture: Image.Image) -> torch.Tensor:
    """A PIL picture as a uint8 tensor of shape (3, H, W)."""
    from torchvision.transforms.v2.functional import pil_to_tensor

    return pil_to_tensor(to_rgb(picture))


class PictureSet(torch.utils.data.Dataset):
    """A split of a data set, decoded once and kept in memory as uint8.

    Decoding PNG and JPEG files again in each epoch costs more than the augmentation. Where the
    decoded pictures would take more than half of the free memory, they are decoded whenever they
    are asked for, and `loader` spreads that over worker processes.

    Args:
        dataset: A split with a picture column and `label`.
        transform: Applied to one uint8 tensor (3, H, W) whenever it is asked for.
        max_side: Larger pictures are shrunk once so that their shorter side has this length.
        resize: Done once in place of shrinking, for pictures that are not augmented: with
            `resize(processor)`, large photographs give exactly what the processor would.
        in_memory: Whether to keep the decoded pictures; `None` for where they fit.

    Attributes:
        pictures: The uint8 tensors (3, H, W), in order.
        labels: (N,).

    Each item is `(pixel_values, label)`.
    """

    def __init__(
        self, dataset, transform, max_side: int = 256, resize=None, in_memory: bool | None = None
    ):
        self.transform = transform
        self.class_names = class_names(dataset)
        self.labels = torch.tensor(dataset["label"])
        stored = _StoredPictures(dataset, max_side, resize)
        self.in_memory = stored.fit_into_memory() if in_memory is None else in_memory
        self.pictures: list[torch.Tensor] | _StoredPictures = stored
        if self.in_memory:
            self.pictures = list(runtime.bar(stored, "decode"))

    def __len__(self) -> int:
        return len(self.pictures)

    def __getitem__(self, index):
        return self.transform(self.pictures[index]), self.labels[index]

    def __getitems__(self, places: list[int]) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """Several items, made together on the device.

        torch's loader prefers this to asking for one item after the other. Small uint8 pictures
        travel to the device, and the work on them is done there; a worker process stays on the
        CPU.
        """
        in_worker = torch.utils.data.get_worker_info() is not None
        device = "cpu" if in_worker else runtime.current().device
        pictures = [self.pictures[place].to(device) for place in places]
        if isinstance(self.transform, Transform):
            pixels = self.transform.batch(pictures)
        else:
            pixels = torch.stack([self.transform(picture) for picture in pictures])
        return list(zip(pixels, self.labels[places], strict=True))

    def subset(self, places) -> "PictureSet":
        """Some of the pictures, by their places, in that order."""
        places = [int(place) for place in places]
        other = self.with_transform(self.transform)
        other.labels = self.labels[places]
        if isinstance(self.pictures, _StoredPictures):
            other.pictures = self.pictures.select(places)
        else:
            other.pictures = [self.pictures[place] for place in places]
        return other

    def with_transform(self, transform) -> "PictureSet":
        """The same decoded pictures under another transform; nothing is decoded or copied."""
        other = object.__new__(PictureSet)
        other.__dict__ = {**self.__dict__, "transform": transform}
        return other


class _StoredPictures:
    """The pictures of a split as uint8 tensors, decoded at the moment they are asked for."""

    def __init__(self, dataset, max_side: int, resize=None):
        self.dataset = dataset
        self.column = image_column(dataset)
        self.max_side = max_side
        self.resize = resize

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, place: int) -> torch.Tensor:
        picture = self.dataset[place][self.column]
        if self.resize is not None:
            return self.resize(to_tensor(picture))
        return to_tensor(_shrink(picture, self.max_side))

    def __iter__(self):
        return (self[place] for place in range(len(self)))

    def select(self, places: list[int]) -> "_StoredPictures":
        """Some of them, by their places."""
        return _StoredPictures(self.dataset.select(places), self.max_side, self.resize)

    def fit_into_memory(self) -> bool:
        """Whether all of them, if they are like the first, take at most half of what is free."""
        import psutil

        if len(self) == 0:
            return True
        return len(self) * self[0].nbytes <= psutil.virtual_memory().available / 2


def _shrink(picture: Image.Image, side: int) -> Image.Image:
    factor = side / min(picture.size)
    if factor >= 1:
        return picture
    size = [max(1, round(length * factor)) for length in picture.size]
    return picture.convert("RGB").resize(size, Image.Resampling.BICUBIC)


def loader(pictures, batch_size: int, shuffle: bool = False, seed: int = 0):
    """A `DataLoader` of `(pixel_values (B, 3, 224, 224), labels (B,))` with its own seed.

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
        batch_size=batch_size,
        shuffle=shuffle,
        generator=torch.Generator().manual_seed(seed),
        num_workers=workers,
        persistent_workers=workers > 0,
    )


def random_indices(size: int, count: int, seed: int = 0) -> list[int]:
    """`count` different indices below `size`, the same ones for the same seed."""
    in_range("count", count, size + 1)
    return torch.randperm(size, generator=torch.Generator().manual_seed(seed))[:count].tolist()
