"""Look through a folder of pictures before a model learns from it."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

from .. import images, runtime
from ..errors import CourseError
from .splits import PICTURE_SUFFIXES, SPLIT_WORDS, files_in, listed, pictures_by_class

FEW = 5  # pictures of a class, in the training split


@dataclass
class FolderCheck:
    """What `check_folder` found; printed, it is a table and a list."""

    counts: dict[str, dict[str, int]]  # pictures that can be read: split -> class -> number
    problems: list[str]  # one sentence each; empty if there is nothing to mend
    serious: list[str]  # those that make training impossible or its result false

    def __str__(self) -> str:
        lines = []
        for split, by_class in self.counts.items():
            listed = ", ".join(f"{name} {count}" for name, count in by_class.items())
            lines.append(f"{split}: {sum(by_class.values())} pictures ({listed})")
        return "\n".join([*lines, *(f"- {p}" for p in self.problems or ["nothing to mend"])])

    __repr__ = __str__


def check_folder(path: str | Path) -> FolderCheck:
    """Check a folder with a sub-folder for each class, or for each split and class.

    It finds files that cannot be read, the same pixels in two splits or classes, and classes that
    are too small, alone, or absent from a split.
    """
    folder = Path(path).expanduser()
    if not folder.is_dir():
        raise CourseError(f"There is no folder {str(path)!r}: check the path.")
    found = pictures_by_class(folder)
    if not any(files for by_class in found.values() for files in by_class.values()):
        raise CourseError(
            f"There are no pictures in sub-folders of {str(path)!r}: make one folder for each "
            "class, and put its pictures there."
        )
    counts, unreadable, seen = _read_all(folder, found)
    in_both, repeated = _repeated(seen)
    impossible, of_classes = _class_problems(counts)
    serious = unreadable + in_both + impossible
    problems = serious + repeated + of_classes + _ignored(folder, found)
    if not {"validation", "test"} <= counts.keys():
        serious += repeated  # a cut at random would part them
    return FolderCheck(counts, problems, serious)


def _read_all(folder: Path, found):
    """Open every picture: `(counts, sentences on unreadable ones, digest -> files)`."""
    unreadable: list[str] = []
    seen: dict[bytes, list[tuple[str, str, str]]] = {}
    every = [(s, c, f) for s, by_class in found.items() for c, fs in by_class.items() for f in fs]
    counts = {s: dict.fromkeys(sorted(found[s]), 0) for s in SPLIT_WORDS if s in found}
    for split, name, file in runtime.bar(every, "check"):
        path = file.relative_to(folder).as_posix()
        try:
            picture = images.load_image(file)
        except CourseError as error:
            unreadable.append(f"{path} cannot be used: {str(error).replace(str(file), path)}")
            continue
        counts[split][name] += 1
        digest = hashlib.sha256(repr(picture.size).encode() + picture.tobytes()).digest()
        seen.setdefault(digest, []).append((split, name, path))
    return counts, unreadable, seen


def _repeated(seen) -> tuple[list[str], list[str]]:
    """Sentences on pictures in two splits or classes, and on others that are there twice."""
    sentences, repeated = [], []
    for same in seen.values():
        splits, classes = {s for s, _, _ in same}, {c for _, c, _ in same}
        files = listed((path for _, _, path in same), 3, " and ")
        if len(splits) > 1:
            sentences.append(
                f"The same picture is in {' and '.join(sorted(splits))}: {files}. Keep one, or "
                "the model is tested on what it has learnt."
            )
        if len(classes) > 1:
            sentences.append(f"The same picture has two classes: {files}. Keep the right one.")
        elif len(splits) == 1 and len(same) > 1:
            repeated.append(
                f"The same picture is there {len(same)} times: {files}. Keep one of them."
            )
    return sentences, repeated


def _class_problems(counts: dict[str, dict[str, int]]) -> tuple[list[str], list[str]]:
    """Sentences on classes with which nothing can be learnt, and on others."""
    impossible, sentences = [], []
    first = "train" if "train" in counts else next(iter(counts))
    names = [name for name, count in counts[first].items() if count]
    if first != "train":
        impossible.append("There is no training split: name one folder 'train'.")
    if len(names) == 1:
        impossible.append(f"There is one class only, {names[0]!r}: a classifier needs two or more.")
    for name, count in counts[first].items():
        if count == 0:
            impossible.append(f"The class {name!r} has no picture in {first} that can be read.")
        elif count < FEW:
            many = "picture" + "s" * (count != 1)
            sentences.append(f"The class {name!r} has {count} {many} in {first}: add some.")
    for split, by_class in counts.items():
        there = {name for name, count in by_class.items() if count}
        if missing := [name for name in names if name not in there]:
            sentences.append(f"The split {split} has no pictures of {', '.join(missing)}.")
        if extra := sorted(there.difference(names)):
            impossible.append(f"The split {split} has classes that {first} lacks: {extra}.")
    lower = [name.lower() for name in names]
    if alike := [name for name in names if lower.count(name.lower()) > 1]:
        sentences.append(f"These classes differ in capitals only: {', '.join(alike)}.")
    return impossible, sentences


def _ignored(folder: Path, found) -> list[str]:
    """One sentence on files that no split uses."""
    used = {f for by_class in found.values() for files in by_class.values() for f in files}
    used |= {p for p in files_in(folder) if p.name.lower() in ("thumbs.db", "desktop.ini")}
    rest = [p.relative_to(folder).as_posix() for p in files_in(folder) if p not in used]
    ends = ", ".join(s.lstrip(".") for s in PICTURE_SUFFIXES)
    advice = f"Pictures lie in the folder of a class and end in {ends}."
    return [f"Not used: {listed(rest)}. {advice}"] if rest else []
