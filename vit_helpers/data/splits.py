"""Data sets: find the splits by their names, match labels by the names of classes, take a part."""

import re
import string
from itertools import takewhile
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


# --- columns and classes -------------------------------------------------------------------------


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
        raise CourseError(
            "A split needs a column 'label' of the type ClassLabel, which knows the class names; "
            f"the columns here are {', '.join(dataset.column_names)}."
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


def with_classes(dataset, names: list[str]):
    """The same pictures with labels that count through `names`, matched by the names of classes.

    Raises:
        CourseError: If a picture has a class that is not among them.
    """
    import datasets

    own = class_names(dataset)
    if own == names:
        return dataset
    labels = labels_of(dataset)
    unknown = [own[label] for label in sorted(set(labels)) if own[label] not in names]
    if unknown:
        raise CourseError(
            f"There are pictures of {_listed(unknown)}, but no such class among the {len(names)} "
            f"that are known: {_listed(names)}."
        )
    numbers = {name: number for number, name in enumerate(names)}
    matched = [numbers[own[label]] for label in labels]
    feature = datasets.ClassLabel(names=names)
    order = dataset.column_names
    dataset = dataset.remove_columns("label").add_column("label", matched, feature=feature)
    return dataset.select_columns(order)


def _listed(names, most: int = 5) -> str:
    shown = ", ".join(repr(name) for name in names[:most])
    return shown + (f" and {len(names) - most} more" if len(names) > most else "")


# --- a part of a split ---------------------------------------------------------------------------


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
    few = {name: len(c) for name, c in zip(names, chosen, strict=True) if len(c) < per_class}
    if few:
        shown = ", ".join(f"{name!r} {count}" for name, count in list(few.items())[:5])
        more = f" and {len(few) - 5} more classes fewer" if len(few) > 5 else ""
        rest = f"; the other classes have {per_class} each" if len(few) < len(names) else ""
        print(f"NOTE: not balanced: {shown}{more}{rest}.")
    rows = sorted(row for rows in chosen for row in rows)
    return dataset if len(rows) == len(dataset) else dataset.select(rows)


def split_off(dataset, share: float, seed: int = 0):
    """Cut a random `share` (0 to 1) off a split: `(rest, part)`.

    Every class gives at least one picture and keeps at least one.

    Raises:
        CourseError: If a class has one picture only.
    """
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
    return torch.randperm(size, generator=torch.Generator().manual_seed(seed))


# --- a folder of your own ------------------------------------------------------------------------


def load_folder(folder: str | Path):
    """Load a data set of your own: parquet files, or a folder of pictures for each class.

    Splits are found by the names of files or folders (`SPLIT_WORDS`); class folders without a
    split around them are the training split. Labels are matched by the names of their classes.

    Args:
        folder: Holds files such as `cats-train.parquet` with a picture column and `label`, or
            folders such as `train/cat/` or `cat/` with pictures.

    Returns:
        A `datasets.DatasetDict` with the splits that were found, in the order train, validation,
        test. All have the same class names in the same order.

    Raises:
        CourseError: If there are no training pictures, a file is broken, has other columns or no
            known split in its name, or a split has a class that the training pictures lack.
    """
    import datasets

    folder = Path(folder).expanduser()
    if not folder.is_dir():
        raise CourseError(f"There is no folder {str(folder)!r}: check the path.")
    files = [path for path in files_in(folder) if path.suffix == ".parquet"]
    found = _parquet_splits(folder, files) if files else _picture_splits(folder)
    if "train" not in found:
        there = f": it has {', '.join(found)} only" if found else ""
        raise CourseError(
            f"There are no training pictures in {str(folder)!r}{there}. It needs a parquet file "
            "with 'train' in its name, or a folder with pictures for each class."
        )
    names = class_names(found["train"])
    for split, dataset in found.items():
        try:
            found[split] = with_classes(dataset, names)
        except CourseError as error:
            raise CourseError(f"The split {split!r} of {str(folder)!r}: {error}") from None
    return datasets.DatasetDict({s: found[s] for s in SPLIT_WORDS if s in found})


def _split_named(text: str) -> set[str]:
    """The splits that the words of a name stand for: `my-train-01` gives `{"train"}`."""
    words = re.split(r"[^a-z]+", text.lower())
    return {split for split, known in SPLIT_WORDS.items() if any(w in known for w in words)}


def _parquet_splits(folder: Path, files: list[Path]) -> dict:
    """The splits of parquet files, in the order of their file names."""
    names = {file: file.relative_to(folder).with_suffix("").as_posix() for file in files}
    # Files such as `train_test_split-train` and `train_test_split-test` share their beginning.
    same = takewhile(lambda letters: len(set(letters)) == 1, zip(*names.values(), strict=False))
    shared = "".join(letters[0] for letters in same) if len(files) > 1 else ""
    shared = shared.rstrip(string.ascii_letters)
    parts: dict[str, list[Path]] = {}
    for file, name in names.items():
        splits = _split_named(name)
        if len(splits) > 1:
            splits = _split_named(name.removeprefix(shared))
        if len(splits) != 1:
            what = "several splits" if len(splits) > 1 else "no split"
            raise CourseError(
                f"The name of {file.name!r} stands for {what}: put one of the words train, "
                "validation and test into it, or move the file away."
            )
        parts.setdefault(splits.pop(), []).append(file)
    return {split: _joined(files) for split, files in parts.items()}


def _joined(files: list[Path]):
    """Several parquet files as one split: same columns, labels matched by name."""
    import datasets

    tables = [_read_parquet(file) for file in files]
    column, names = image_column(tables[0]), []
    for file, table in zip(files, tables, strict=True):
        if image_column(table) != column:
            raise CourseError(
                f"{file.name!r} has its pictures in {image_column(table)!r}, but "
                f"{files[0].name!r} in {column!r}: give them the same columns."
            )
        names += [name for name in class_names(table) if name not in names]
    alike = [with_classes(t.select_columns([column, "label"]), names) for t in tables]
    return datasets.concatenate_datasets(alike) if len(alike) > 1 else alike[0]


def _read_parquet(file: Path):
    """A parquet file, straight into memory, checked for pictures and labels."""
    import datasets
    import pyarrow
    import pyarrow.parquet

    try:
        table = pyarrow.parquet.read_table(file)
        dataset = datasets.Dataset(datasets.table.InMemoryTable(table))
        if dataset.features.get("label") == datasets.Value("string"):
            dataset = dataset.class_encode_column("label")
        image_column(dataset)
        class_names(dataset)
    except (pyarrow.ArrowException, OSError, ValueError, KeyError, TypeError) as error:
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise CourseError(f"{str(file)!r} cannot be read as parquet: {reason}") from None
    except CourseError as error:
        raise CourseError(f"{str(file)!r}: {error}") from None
    return dataset


def _picture_splits(folder: Path) -> dict:
    """The splits of a folder with a sub-folder for each class, or for each split and class."""
    import datasets

    found = {}
    for split, by_class in pictures_by_class(folder).items():
        names = sorted(name for name, files in by_class.items() if files)
        label = datasets.ClassLabel(names=names)
        features = datasets.Features({"image": datasets.Image(), "label": label})
        rows = [(str(file), i) for i, name in enumerate(names) for file in by_class[name]]
        if rows:
            columns = {"image": [path for path, _ in rows], "label": [i for _, i in rows]}
            found[split] = datasets.Dataset.from_dict(columns, features=features)
    return found


def pictures_by_class(folder: Path) -> dict[str, dict[str, list[Path]]]:
    """The picture files of a folder: split -> class -> paths.

    If every sub-folder is named like a split, the classes are one level further down; else the
    sub-folders are the classes of the training split. One folder around all is opened.

    Raises:
        CourseError: If folders of splits and others lie side by side, or splits inside classes.
    """
    folder = _unwrapped(folder)
    full = [child for child in _folders(folder) if _pictures(child)]
    named = [child for child in full if len(_split_named(child.name)) == 1]
    if len(named) < len(full):
        if len(named) > 1 or any(not _loose(child) for child in named):
            others = _listed([child.name for child in full if child not in named])
            raise CourseError(
                f"In {str(folder)!r} the folders {_listed([child.name for child in named])} are "
                f"named like splits, but {others} beside them: rename or move what is no split."
            )
        inner = [c for child in full for c in _folders(child) if _pictures(c)]
        if not any(map(_loose, full)) and all(_split_named(child.name) for child in inner):
            raise CourseError(
                f"In {str(folder)!r} the splits lie inside the classes, as in {full[0].name!r}: "
                "make folders such as train and test, and put one for each class into them."
            )
    splits = named if named and len(named) == len(full) else [folder]
    found: dict[str, dict[str, list[Path]]] = {}
    for child in splits:
        split = "train" if child == folder else _split_named(child.name).pop()
        for inside in _folders(_unwrapped(child)):
            found.setdefault(split, {}).setdefault(inside.name, []).extend(_pictures(inside))
    return found


def _unwrapped(folder: Path) -> Path:
    """The folder, or the only one in it, where that merely lies around all others."""
    full = [child for child in _folders(folder) if _pictures(child)]
    wraps = len(full) == 1 and not _split_named(full[0].name) and not _loose(full[0])
    return _unwrapped(full[0]) if wraps else folder


def _pictures(folder: Path) -> list[Path]:
    return [path for path in files_in(folder) if path.suffix.lower() in PICTURE_SUFFIXES]


def _loose(folder: Path) -> bool:
    """Whether pictures lie in a folder itself, and not only further below."""
    return any(path.parent == folder for path in _pictures(folder))


def _folders(folder: Path) -> list[Path]:
    return sorted(p for p in folder.iterdir() if p.is_dir() and not p.name.startswith(HIDDEN))


def files_in(folder: Path) -> list[Path]:
    """The files in a folder and below, without hidden ones."""
    return [
        path
        for path in sorted(folder.rglob("*"))
        if path.is_file()
        and not any(part.startswith(HIDDEN) for part in path.relative_to(folder).parts)
    ]
