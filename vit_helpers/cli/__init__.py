"""The command line: `python -m vit_helpers COMMAND`; `--help` lists the commands.

Those for maintainers and instructors live in `course/` and `benchmarks/`: from a clone they are
passed on; a wheel has neither, and says so.
"""

import argparse
import importlib
import importlib.util
import os
import sys
from pathlib import Path

from .. import resources, runtime
from ..errors import CourseError

# Command -> the package of the repository that has it, and what it does.
ELSEWHERE = {
    "run": ("course", "execute the notebooks into build/ and print a table"),
    "test": ("course", "unit tests, notebooks against their outputs, lint"),
    "solve": ("course", "write the notebooks with all tasks solved"),
    "refresh": ("course", "execute the notebooks and store their outputs"),
    "site": ("course", "write the course as static pages"),
    "progress": ("course", "table over submitted notebooks, as CSV"),
    "stamp": ("course", "write the repository's address where it is needed"),
    "bench": ("benchmarks", "measure what this machine can do"),
}


def _path(text: str) -> Path:
    return Path(os.path.expanduser(text))  # no shell does it in --to=~/results


def parser() -> argparse.ArgumentParser:
    """The commands and their options."""
    top = argparse.ArgumentParser(prog="python -m vit_helpers", description=__doc__.split("\n")[0])
    commands = top.add_subparsers(dest="command", required=True)
    commands.add_parser("doctor", help="say what will and will not work on this machine")
    bring = commands.add_parser("prefetch", help="download all that the course needs")
    bring.add_argument("--to", type=_path, help="a folder to copy or share (set VIT_CACHE to it)")
    text = "fine-tune and save; runs under accelerate launch"
    _add_train(commands.add_parser("train", help=text))
    for name, (package, text) in ELSEWHERE.items():
        if importlib.util.find_spec(package):
            commands.add_parser(name, help=text, add_help=False)
    return top


def _add_train(train: argparse.ArgumentParser) -> None:
    train.add_argument("dataset", nargs="?", choices=resources.DATASETS, help="of the course")
    text = "pictures of your own: a folder for each class, with or without train/, validation/ "
    text += "and test/ around them, or parquet files"
    train.add_argument("--folder", "--data", type=_path, metavar="DIR", help=text)
    train.add_argument("--model", help="an id of the Hub or a folder; the course's if none")
    train.add_argument("--to", type=_path, help="for results; build/train/NAME if none")
    for name, text in (
        ("epochs", "passes over the training set"),
        ("batch", "pictures in a batch of each process"),
        ("freeze", "how many of the first blocks do not learn"),
        ("pictures", "at most so many training pictures"),
        ("test-pictures", "the same for validation and for test"),
    ):
        train.add_argument(f"--{name}", type=int, metavar="N", help=text)
    train.add_argument("--lr", type=float, help="highest learning rate")
    train.add_argument("--head-lr", type=float, help="the same for the new head")
    train.add_argument("--label-smoothing", type=float, default=0.0)
    train.add_argument("--keep-patches", type=float, default=1.0, help="share of the patches")
    train.add_argument("--no-augment", dest="augment", action="store_false")


def main(arguments: list[str] | None = None) -> int:
    """Run one command. Returns the exit status."""
    arguments = sys.argv[1:] if arguments is None else arguments
    if arguments and arguments[0] in ELSEWHERE:
        return _pass_on(*arguments)
    options = parser().parse_args(arguments)
    try:
        if options.command == "doctor":
            from . import doctor

            return doctor.run()
        if options.command == "prefetch":
            return prefetch(options.to)
        from . import train  # needs torch, which the other commands do without

        values = {name: value for name, value in vars(options).items() if name != "command"}
        return train.run(train.Request(**values))
    except CourseError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except OSError as error:  # such as a file where --to wants a folder
        if error.filename is None:
            raise
        print(f"error: {error.filename}: {error.strerror}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\nStopped.", file=sys.stderr)
        return 130


def prefetch(to: Path | None) -> int:
    """Bring every resource to this machine, or into a folder. Returns 0."""
    folders = resources.bring(tuple(resources.RESOURCES), runtime.settings(), to, tries=2)
    total = 0
    for name, folder in folders.items():
        size = sum(path.stat().st_size for path in resources.files_of(name, folder))
        total += size
        print(f"{name:<12} {size / 1e6:>8,.1f} MB  {folder}")
    print(f"{'together':<12} {total / 1e6:>8,.1f} MB")
    if to:
        print(f"On each machine that can read this folder: VIT_CACHE={to.absolute()}")
    return 0


def _pass_on(command: str, *arguments: str) -> int:
    package, _ = ELSEWHERE[command]
    if not importlib.util.find_spec(package):
        print(
            f"error: {command!r} is in the folder {package}/ of the repository and not in the "
            "installed package: clone the repository and run it there.",
            file=sys.stderr,
        )
        return 2
    there = importlib.import_module(f"{package}.__main__")
    return there.main(list(arguments) if package == "benchmarks" else [command, *arguments])
