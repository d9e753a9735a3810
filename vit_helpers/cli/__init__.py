"""The command line: `python -m vit_helpers COMMAND`; `--help` lists the commands."""

import argparse
import importlib
import importlib.util
import sys
from pathlib import Path

from .. import resources, runtime
from ..errors import CourseError, exit_status, number, whole_number

# Commands for maintainers, and the package of the repository that has them.
ELSEWHERE = dict.fromkeys("run test solve refresh site progress stamp".split(), "course")
ELSEWHERE["bench"] = "benchmarks"


def _path(text: str) -> Path:
    return Path(text).expanduser()  # no shell does it in --to=~/results


def _in_range(check, convert, **limits):
    """An argparse type: `convert(text)` if `errors.number` or `whole_number` takes it."""

    def read(text: str):
        try:
            return check("the number", convert(text), **limits)
        except CourseError as error:
            raise argparse.ArgumentTypeError(str(error)) from None

    read.__name__ = "number"  # argparse's word for what `convert` refuses
    return read


def parser() -> argparse.ArgumentParser:
    """The commands and their options."""
    top = argparse.ArgumentParser(prog="python -m vit_helpers", description=__doc__)
    commands = top.add_subparsers(dest="command", required=True)
    commands.add_parser("doctor", help="say what will and will not work on this machine")
    bring = commands.add_parser("prefetch", help="download all that the course needs")
    bring.add_argument("--to", type=_path, help="a folder to copy or share (set VIT_CACHE to it)")
    text = "fine-tune and save; runs under accelerate launch"
    _add_train(commands.add_parser("train", help=text))
    return top


def _add_train(train: argparse.ArgumentParser) -> None:
    train.add_argument("dataset", nargs="?", choices=resources.DATASETS, help="of the course")
    text = "pictures of your own: a folder for each class, with or without train/, validation/ "
    text += "and test/ around them"
    train.add_argument("--folder", "--data", type=_path, metavar="DIR", help=text)
    train.add_argument("--model", help="an id of the Hub or a folder; the course's if none")
    train.add_argument("--to", type=_path, help="for results; build/train/NAME if none")
    some = _in_range(whole_number, int, least=1, most=1_000_000)
    rate = _in_range(number, float, least=0, most=10)
    for name, kind, text in (
        ("epochs", some, "passes over the training set"),
        ("batch", some, "pictures in a batch of each process"),
        ("freeze", _in_range(whole_number, int, least=0), "how many of the first blocks stay"),
        ("lr", rate, "highest learning rate"),
        ("head-lr", rate, "the same for the new head"),
    ):
        train.add_argument(f"--{name}", type=kind, metavar="N", help=text)
    share = _in_range(number, float, above=0, most=1)
    train.add_argument("--keep-patches", type=share, default=1.0, help="share of the patches")
    train.add_argument("--no-augment", dest="augment", action="store_false")


def main(arguments: list[str] | None = None) -> int:
    """Run one command. Returns the exit status."""
    arguments = sys.argv[1:] if arguments is None else arguments
    if arguments and arguments[0] in ELSEWHERE:
        return _pass_on(arguments)
    options = parser().parse_args(arguments)
    return exit_status(lambda: _run(options))


def _run(options: argparse.Namespace) -> int:
    if options.command == "doctor":
        from . import doctor

        return doctor.run()
    if options.command == "prefetch":
        return prefetch(options.to)
    from . import train  # needs torch, which the other commands do without

    return train.run(options)


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


def _pass_on(arguments: list[str]) -> int:
    package = ELSEWHERE[arguments[0]]
    if not importlib.util.find_spec(package):
        print(
            f"error: {arguments[0]!r} is in the folder {package}/ of the repository and not in the "
            "installed package: clone the repository and run it there.",
            file=sys.stderr,
        )
        return 2
    there = importlib.import_module(f"{package}.__main__")
    return there.main(arguments if package == "course" else arguments[1:])
