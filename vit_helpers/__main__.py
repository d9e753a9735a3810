"""The command line: `python -m vit_helpers COMMAND`; `--help` lists the commands."""

import argparse
import io
import sys
from pathlib import Path

from . import address, cache, doctor, resources, runner, runtime
from .errors import CourseError


def parser() -> argparse.ArgumentParser:
    """The commands and their options."""
    top = argparse.ArgumentParser(prog="python -m vit_helpers", description=__doc__)
    commands = top.add_subparsers(dest="command", required=True)
    run = commands.add_parser("run", help="execute the notebooks into build/ and print a table")
    run.add_argument("notebooks", nargs="*", help="such as 01 or 03_attention; all if none")
    run.add_argument("--to", type=Path, default=runner.BUILD, help="folder for the results")
    run.add_argument("--record", action="store_true", help="keep the minutes in docs/timings.json")
    refresh = commands.add_parser("refresh", help="execute and store the outputs in notebooks/")
    refresh.add_argument("notebooks", nargs="*", help="such as 01 or 03_attention; all if none")
    test = commands.add_parser("test", help="unit tests, notebooks against outputs, lint")
    test.add_argument("only", nargs="?", default="all", choices=["all", *runner.TEST_STEPS])
    prefetch = commands.add_parser("prefetch", help="download all that the course needs")
    prefetch.add_argument("--to", type=Path, help="a folder to copy or share (set VIT_CACHE to it)")
    solve = commands.add_parser("solve", help="write the notebooks with all tasks solved")
    solve.add_argument("notebooks", nargs="*", help="such as 01 or 03_attention; all if none")
    solve.add_argument("--to", type=Path, default=runner.SOLVED, help="folder for the results")
    solve.add_argument("--run", action="store_true", help="execute them; every check must pass")
    progress = commands.add_parser("progress", help="table over submitted notebooks, as CSV")
    progress.add_argument("folder", type=Path, help="where they are; none is executed")
    site = commands.add_parser("site", help="write the course as static pages")
    site.add_argument("--to", type=Path, default=runner.BUILD / "site", help="folder for the pages")
    commands.add_parser("doctor", help="say what will and will not work on this machine")
    bench = commands.add_parser("bench", help="measure what this machine can do")
    kinds = bench.add_subparsers(dest="kind", required=True)
    inference = kinds.add_parser("inference", help="the table of notebook 05 for any ViT")
    inference.add_argument("--model", help="an id of the Hub or a folder; the course's if none")
    inference.add_argument("--widen", type=int, default=1, metavar="N", help="4: ViT-B/16's size")
    inference.add_argument("--variants", nargs="+", default=[], metavar="NAME", help="all if none")
    inference.add_argument("--batch", nargs="+", type=int, default=[1, 8], metavar="N")
    inference.add_argument("--pictures", type=int, help="200 in quick, 1,000 in full")
    inference.add_argument("--rounds", type=int, default=20, help="in how many turns to measure")
    inference.add_argument("--to", type=Path, default=runner.BUILD / "bench", help="for results")
    loops = kinds.add_parser("train", help="fit against the loop of old tutorials and HF Trainer")
    loops.add_argument("--widen", type=int, default=1, metavar="N", help="4: ViT-B/16's size")
    loops.add_argument("--pictures", type=int, default=32, metavar="N", help="in an epoch")
    loops.add_argument("--batch", type=int, default=8, metavar="N")
    loops.add_argument("--rounds", type=int, default=3, help="in how many turns to measure")
    loops.add_argument("--loops", nargs="+", default=[], metavar="NAME", help="all if none")
    loops.add_argument("--to", type=Path, default=runner.BUILD / "bench", help="for results")
    train = commands.add_parser("train", help="fine-tune and save; runs under accelerate launch")
    train.add_argument("dataset", choices=resources.DATASETS)
    train.add_argument("--data", dest="folder", type=Path, help="parquet files of your own")
    train.add_argument("--model", help="an id of the Hub or a folder; the course's if none")
    train.add_argument("--to", type=Path, default=runner.BUILD / "train", help="for results")
    for name, text in (
        ("epochs", "passes over the training set"),
        ("batch", "pictures in a batch of each process"),
        ("freeze", "how many of the first blocks do not learn"),
        ("pictures", "at most so many training pictures"),
        ("test-pictures", "the same for validation and for test"),
        ("patience", "stop after so many epochs that were no better"),
    ):
        train.add_argument(f"--{name}", type=int, metavar="N", help=text)
    train.add_argument("--lr", type=float, help="highest learning rate")
    train.add_argument("--head-lr", type=float, help="the same for the new head")
    train.add_argument("--layer-decay", type=float, default=1.0, help="of the rate, per block")
    train.add_argument("--label-smoothing", type=float, default=0.0)
    train.add_argument("--keep-patches", type=float, default=1.0, help="share of the patches")
    train.add_argument("--no-augment", dest="augment", action="store_false")
    train.add_argument("--compile", dest="compiled", action="store_true")
    stamp = commands.add_parser("stamp", help="write the repository's address where it is needed")
    stamp.add_argument("repository", metavar="OWNER/REPO")
    return top


def prefetch(to: Path | None) -> int:
    """Bring every resource to this machine, or into a folder. Returns 0."""
    folders = cache.bring(tuple(resources.RESOURCES), runtime.bar, to, tries=2)
    total = 0
    for name, folder in folders.items():
        size = sum(path.stat().st_size for path in cache.files(name, folder))
        total += size
        print(f"{name:<12} {size / 1e6:>8,.1f} MB  {folder}")
    print(f"{'together':<12} {total / 1e6:>8,.1f} MB")
    if to:
        print(f"On each machine that can read this folder: VIT_CACHE={to.absolute()}")
    return 0


def stamp(repository: str) -> int:
    """Write the address of the repository into the files that carry it. Returns 0."""
    changed = address.stamp(repository, runner.ROOT)
    for path in changed:
        print(path.relative_to(runner.ROOT))
    print(f"{len(changed)} files now say {repository}")
    return 0


def progress(folder: Path) -> int:
    """Print a table over submitted notebooks as CSV. Returns 0."""
    from .tasks import editions

    rows = editions.read_submissions(folder)
    if isinstance(sys.stdout, io.TextIOWrapper):  # names of files, where Windows says cp1252
        sys.stdout.reconfigure(encoding="utf-8")
    editions.write_csv(rows, sys.stdout)
    return 0


def main(arguments: list[str] | None = None) -> int:
    """Run one command. Returns the exit status."""
    options = parser().parse_args(arguments)
    try:
        if options.command == "run":
            return runner.run(options.notebooks, options.to, options.record)
        if options.command == "refresh":
            return runner.refresh(options.notebooks)
        if options.command == "prefetch":
            return prefetch(options.to)
        if options.command == "solve":
            return runner.solve(options.notebooks, options.to, options.run)
        if options.command == "progress":
            return progress(options.folder)
        if options.command == "doctor":
            return doctor.run()
        if options.command == "site":
            return _site(options.to)
        if options.command == "bench":
            return _bench(options)
        if options.command == "train":
            return _train(options)
        if options.command == "stamp":
            return stamp(options.repository)
        return runner.test(options.only)
    except CourseError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


def _site(to: Path) -> int:
    from . import book  # needs Sphinx, which no learner has

    return book.build(to)


def _train(options: argparse.Namespace) -> int:
    from . import train

    values = {name: value for name, value in vars(options).items() if name != "command"}
    return train.run(train.Request(**values))


def _bench(options: argparse.Namespace) -> int:
    if options.kind == "train":
        from . import bench_training

        values = {k: v for k, v in vars(options).items() if k not in ("command", "kind", "to")}
        return bench_training.run(bench_training.Request(**values, folder=options.to))
    from . import bench  # needs torch, which the other commands do without

    request = bench.Request(
        model=options.model,
        widen=options.widen,
        batches=options.batch,
        names=options.variants,
        pictures=options.pictures,
        rounds=options.rounds,
        folder=options.to,
    )
    return bench.run(request)


if __name__ == "__main__":
    sys.exit(main())
