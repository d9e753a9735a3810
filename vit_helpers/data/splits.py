"""Data sets: find the splits by their names, match labels by the names of classes, take a part."""

import re
import unicodedata
from pathlib import Path

import torch

from .. import runtime
from ..errors import CourseError, number, whole_number

# What a split is called in the names of files and folders.
SPLIT_WORDS = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "val", "dev"),
    "test": ("test", "testing", "eval", "evaluation"),
}
HIDDEN = (".", "__")  # how the names of hidden files and folders begin
PICTURE_SUFFIXES = tuple(".jpg .jpeg .jpe .jfif .png .webp .gif .bmp .tif .tiff".split())


def image_column(dataset) -> str:
    """Name of the column that holds the pictures (`img` or `image`)."""
    import datasets

    for name, feature in dataset.features.items():
        if isinstance(feature, datasets.Image):
            return name
    raise CourseError(f"No column of {dataset.column_names} holds pictures.")


def class_names(dataset) -> list[str]:
    """Class names in the order of their labels; raises `CourseError` if the split has none."""
    import datasets

    feature = dataset.features.get("label")
    if not isinstance(feature, datasets.ClassLabel):
        kinds = [f"{name} ({type(kind).__name__})" for name, kind in dataset.features.items()]
        raise CourseError(
            "A split needs a column 'label' of the type ClassLabel, which knows the class names; "
            f"the columns here are {', '.join(kinds)}."
        )
    return list(feature.names)


def labels_of(dataset) -> list[int]:
    """The labels of a split; a missing or wrong one is named with its row in a `CourseError`."""
    size = len(class_names(dataset))
    labels = list(dataset.with_format(None)["label"])
    for row, label in enumerate(labels):
        if label is None or not 0 <= label < size:
            raise CourseError(
                f"Row {row} of this split has the label {label!r}, but its classes are 0 to "
                f"{size - 1}: mend or remove the row."
            )
    return labels


def listed(words, most: int = 5, between: str = ", ") -> str:
    """The first words of a list, and how many more there are."""
    words = list(words)
    more = f" and {len(words) - most} more" if len(words) > most else ""
    return between.join(words[:most]) + more


def quoted(names) -> str:
    """`listed` with quotes around each name."""
    return listed(map(repr, names))


def balanced_subset(dataset, n: int | None, seed: int = 0):
    """A random part of a split, chosen by `seed`, with as many pictures of every class.

    `n` is about how many (rounded down to a multiple of the number of classes), `None` for the
    whole split; `VIT_PICTURES` may set an upper limit. Where a class has fewer, all of them are
    taken and a NOTE says so.
    """
    n = None if n is None else whole_number("n", n, least=1)
    if most := runtime.most_pictures():
        n = most if n is None else min(most, n)
        n = None if n >= len(dataset) else n
    if n is None:
        return dataset
    names = class_names(dataset)
    per_class = n // len(names)
    if per_class == 0:
        raise CourseError(f"{n} pictures are too few for {len(names)} classes.")
    chosen = [rows[:per_class] for rows in _shuffled_by_class(dataset, seed)]
    few = [f"{k!r} {len(c)}" for k, c in zip(names, chosen, strict=True) if len(c) < per_class]
    if len(set(map(len, chosen))) > 1:
        rest = f"; the other classes have {per_class} each" if len(few) < len(names) else ""
        print(f"NOTE: not balanced: {listed(few)}{rest}.")
    rows = sorted(row for rows in chosen for row in rows)
    return dataset if len(rows) == len(dataset) else dataset.select(rows)


def split_off(dataset, share: float, seed: int = 0):
    """Cut a random `share` (0 to 1) off a split: `(rest, part)`, each with all classes."""
    share = number("share", share, above=0, most=0.999)
    part = []
    for name, rows in zip(class_names(dataset), _shuffled_by_class(dataset, seed), strict=True):
        if len(rows) == 1:
            raise CourseError(
                f"The class {name!r} has one picture, but training needs one and validation "
                "another: add pictures, or a validation split of your own."
            )
        part += rows[: min(len(rows) - 1, max(1, round(share * len(rows))))] if rows else []
    if not part:
        raise CourseError("This split has no pictures, so nothing can be cut off.")
    rest = sorted(set(range(len(dataset))) - set(part))
    return dataset.select(rest), dataset.select(sorted(part))


def _shuffled_by_class(dataset, seed: int) -> list[list[int]]:
    """The rows of each class, in a random order."""
    labels = torch.tensor(labels_of(dataset), dtype=torch.long)
    order = _permutation(len(labels), seed)
    return [order[labels[order] == k].tolist() for k in range(len(class_names(dataset)))]


def random_indices(size: int, count: int, seed: int = 0) -> list[int]:
    """`count` different indices below `size`, the same ones for the same seed."""
    size = whole_number("size", size, least=0)
    count = whole_number("count", count, least=0, most=size)
    return _permutation(size, seed)[:count].tolist()


def _permutation(size: int, seed: int) -> torch.Tensor:
    seed = whole_number("seed", seed, least=0, most=2**63 - 1)
    return torch.randperm(size, generator=torch.Generator().manual_seed(seed))


def load_folder(folder: str | Path):
    """Load a folder of pictures as a `datasets.DatasetDict`, with the same classes in all splits.

    It holds folders such as `train/cat/` or `cat/` with pictures. Splits are found by their names
    (`SPLIT_WORDS`); classes without a split around them are for training.
    """
    import datasets

    folder = Path(folder).expanduser()
    if not folder.is_dir():
        raise CourseError(f"There is no folder {str(folder)!r}: check the path.")
    found = {
        split: {name: files for name, files in by_class.items() if files}
        for split, by_class in pictures_by_class(folder).items()
    }
    if not found.get("train"):
        there = f": it has {', '.join(found)} only" if found else ""
        raise CourseError(
            f"There are no training pictures in {str(folder)!r}{there}. It needs a folder with "
            "pictures for each class."
        )
    names = sorted(found["train"])
    kinds = {"image": datasets.Image(), "label": datasets.ClassLabel(names=names)}
    splits = {}
    for split in (split for split in SPLIT_WORDS if found.get(split)):
        if unknown := sorted(set(found[split]) - set(names)):
            raise CourseError(
                f"The split {split!r} of {str(folder)!r} has pictures of {quoted(unknown)}, but "
                f"there is no such class in train: {quoted(names)}."
            )
        pairs = [(str(file), name) for name in names for file in found[split].get(name, ())]
        columns = {"image": [f for f, _ in pairs], "label": [names.index(n) for _, n in pairs]}
        splits[split] = datasets.Dataset.from_dict(columns, features=datasets.Features(kinds))
    return datasets.DatasetDict(splits)


def _split_named(text: str) -> set[str]:
    """The splits that the words of a name stand for: `my-train-01` gives `{"train"}`."""
    words = re.split(r"[^a-z]+", text.lower())
    return {split for split, known in SPLIT_WORDS.items() if any(w in known for w in words)}


def pictures_by_class(folder: Path) -> dict[str, dict[str, list[Path]]]:
    """The picture files of a folder: split -> class -> paths.

    If every sub-folder is named like a split, the classes are one level further down; else the
    sub-folders are the classes of the training split. One folder around all is opened.
    """
    folder = _unwrapped(folder)
    if lists := [p for p in files_in(folder) if p.name in ("metadata.csv", "metadata.jsonl")]:
        raise CourseError(
            f"{str(lists[0])!r} is a list of labels, but here the classes are folders: put the "
            "pictures of each class into a folder of its own, and move the list away."
        )
    full = _full(folder)
    named = [child for child in full if len(_split_named(child.name)) == 1]
    if len(named) < len(full):
        if len(named) > 1 or any(not _loose(child) for child in named):
            others = quoted([child.name for child in full if child not in named])
            raise CourseError(
                f"In {str(folder)!r} the folders {quoted([child.name for child in named])} are "
                f"named like splits, but {others} beside them: rename or move what is no split."
            )
        inner = [{inside.name for inside in _full(child)} for child in full]
        deep = bool(full) and not any(map(_loose, full))
        if deep and all(map(_split_named, set.union(*inner))):
            raise CourseError(
                f"In {str(folder)!r} the splits lie inside the classes, as in {full[0].name!r}: "
                "make folders such as train and test, and put one for each class into them."
            )
        if deep and len(full) > 1 and len(alike := set.intersection(*inner)) > 1:
            raise CourseError(
                f"In {str(folder)!r} the folders {quoted(child.name for child in full)} all have "
                f"{quoted(sorted(alike))} in them: if they are splits, name them train, validation "
                "and test; if they are classes, put their pictures straight into them."
            )
    splits = named if named and len(named) == len(full) else [folder]
    found: dict[str, dict[str, list[Path]]] = {}
    for child in splits:
        split = "train" if child == folder else _split_named(child.name).pop()
        for inside in _folders(_unwrapped(child)):
            name = unicodedata.normalize("NFC", inside.name)  # a Mac writes é as two letters
            found.setdefault(split, {}).setdefault(name, []).extend(_pictures(inside))
    return found


def _unwrapped(folder: Path) -> Path:
    """The folder, or the only one in it, where that merely lies around all others."""
    full = _full(folder)
    wraps = len(full) == 1 and not _split_named(full[0].name) and not _loose(full[0])
    return _unwrapped(full[0]) if wraps else folder


def _folders(folder: Path) -> list[Path]:
    return sorted(p for p in folder.iterdir() if p.is_dir() and not p.name.startswith(HIDDEN))


def _full(folder: Path) -> list[Path]:
    return [child for child in _folders(folder) if _pictures(child)]


def _pictures(folder: Path) -> list[Path]:
    return [path for path in files_in(folder) if path.suffix.lower() in PICTURE_SUFFIXES]


def _loose(folder: Path) -> bool:
    """Whether pictures lie in a folder itself, and not only further below."""
    return any(path.parent == folder for path in _pictures(folder))


def files_in(folder: Path) -> list[Path]:
    """The files in a folder and below, without hidden ones."""
    paths = (path.relative_to(folder) for path in sorted(folder.rglob("*")) if path.is_file())
    return [folder / p for p in paths if not any(part.startswith(HIDDEN) for part in p.parts)]
