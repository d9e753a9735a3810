"""Measure: `python -m benchmarks inference` and `python -m benchmarks training`; see `--help`."""

import argparse
import sys
from pathlib import Path

from vit_helpers.errors import exit_status

RESULTS = Path(__file__).resolve().parent.parent / "build" / "bench"


def parser() -> argparse.ArgumentParser:
    """The kinds of measurement and their options."""
    top = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    kinds = top.add_subparsers(dest="kind", required=True)
    inference = kinds.add_parser("inference", help="the table of notebook 05 for any ViT")
    inference.add_argument("--model", help="an id of the Hub or a folder; the course's if none")
    inference.add_argument("--widen", type=int, default=1, metavar="N", help="4: ViT-B/16's size")
    inference.add_argument("--variants", nargs="+", default=[], metavar="NAME", help="all if none")
    inference.add_argument("--batch", nargs="+", type=int, default=[1, 8], metavar="N")
    inference.add_argument("--pictures", type=int, help="200 in quick, 1,000 in full")
    inference.add_argument("--rounds", type=int, default=20, help="in how many turns to measure")
    inference.add_argument("--to", type=Path, default=RESULTS, help="for results")
    training = kinds.add_parser(
        "training",
        aliases=["train"],
        help="fit against the loop of old tutorials and HF Trainer",
    )
    training.add_argument("--widen", type=int, default=1, metavar="N", help="4: ViT-B/16's size")
    training.add_argument("--pictures", type=int, default=32, metavar="N", help="in an epoch")
    training.add_argument("--batch", type=int, default=8, metavar="N")
    training.add_argument("--rounds", type=int, default=3, help="in how many turns to measure")
    training.add_argument("--loops", nargs="+", default=[], metavar="NAME", help="all if none")
    training.add_argument("--to", type=Path, default=RESULTS, help="for results")
    return top


def main(arguments: list[str] | None = None) -> int:
    """Measure. Returns the exit status."""
    options = parser().parse_args(arguments)
    command = _inference if options.kind == "inference" else _training
    return exit_status(lambda: command(options))


def _inference(options: argparse.Namespace) -> int:
    from . import inference

    request = inference.Request(
        model=options.model,
        widen=options.widen,
        batches=options.batch,
        names=options.variants,
        pictures=options.pictures,
        rounds=options.rounds,
        folder=options.to,
    )
    return inference.run(request)


def _training(options: argparse.Namespace) -> int:
    from . import training

    values = {k: v for k, v in vars(options).items() if k not in ("kind", "to")}
    return training.run(training.Request(**values, folder=options.to))


if __name__ == "__main__":
    sys.exit(main())
