"""Measure against what people would use instead: `python -m benchmarks KIND`; see `--help`."""

import argparse
import importlib
import os
import sys
from pathlib import Path

from vit_helpers.errors import exit_status

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "build" / "bench"


def parser() -> argparse.ArgumentParser:
    """The kinds of measurement and their options, each a field of that module's `Request`."""
    top = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    kinds = top.add_subparsers(metavar="KIND", required=True)

    def add(module: str, about: str, *aliases: str) -> argparse.ArgumentParser:
        kind = kinds.add_parser(module, aliases=aliases, help=about)
        kind.set_defaults(module=module)
        kind.add_argument("--to", type=Path, default=RESULTS, dest="folder", help="for results")
        return kind

    one = add("photographs", "accuracy on real photographs, which VIT_REAL_PHOTOS names")
    one.add_argument("--photographs", type=Path, default=os.environ.get("VIT_REAL_PHOTOS"))
    one.add_argument(
        "--rows",
        nargs="+",
        default=[],
        dest="ways",
        metavar="ROW",
        help="of probe, all, frozen, scratch; all four if none",
    )
    one.add_argument("--pictures", nargs="+", type=int, default=[1000, 45000], metavar="N")
    one.add_argument("--probe-pictures", nargs="+", type=int, default=[5000], metavar="N")
    one.add_argument("--epochs", type=int, metavar="N", help="those of notebook 02 if none")
    one.add_argument("--keep-patches", type=float, metavar="SHARE", help="of a training picture")

    one = add("inference", "the table of notebook 05 for any ViT")
    one.add_argument("--model", help="an id of the Hub or a folder; the course's if none")
    one.add_argument("--widen", type=int, default=1, metavar="N", help="4: ViT-B/16's size")
    one.add_argument("--variants", nargs="+", default=[], dest="names", metavar="NAME")
    one.add_argument("--batch", nargs="+", type=int, default=[1, 8], dest="batches", metavar="N")
    one.add_argument("--pictures", type=int, help="200 in quick, 1,000 in full")
    one.add_argument("--rounds", type=int, default=20, help="in how many turns to measure")

    one = add("training", "fit against the loop of old tutorials and HF Trainer", "train")
    one.add_argument("--widen", type=int, default=1, metavar="N", help="4: ViT-B/16's size")
    one.add_argument("--pictures", type=int, default=32, metavar="N", help="in an epoch")
    one.add_argument("--batch", type=int, default=8, metavar="N")
    one.add_argument("--rounds", type=int, default=3, help="in how many turns to measure")
    one.add_argument("--loops", nargs="+", default=[], metavar="NAME", help="all if none")

    one = add("start", "a process that classifies one picture: first answer, memory, sizes")
    one.add_argument("--model", help="an id of the Hub or a folder; the course's if none")
    one.add_argument("--widen", type=int, default=1, metavar="N", help="4: ViT-B/16's size")
    one.add_argument("--picture", type=Path, help="the sample photograph if none")
    one.add_argument("--rounds", type=int, default=5, help="in how many turns to measure")

    one = add("page", "write what was measured into docs/measured.md")
    return top


def main(arguments: list[str] | None = None) -> int:
    """Measure. Returns the exit status."""
    words = sys.argv[1:] if arguments is None else arguments
    options = vars(parser().parse_args(words))
    name = options.pop("module")

    def command() -> int:
        from .machine import command_line

        module = importlib.import_module(f".{name}", __package__)
        return module.run(module.Request(**options, command=command_line(words)))

    return exit_status(command)


if __name__ == "__main__":
    sys.exit(main())
