"""The command line: `python -m vit_helpers run | refresh | test`."""

import argparse
import sys
from pathlib import Path

from . import runner
from .errors import CourseError


def parser() -> argparse.ArgumentParser:
    """The commands and their options."""
    top = argparse.ArgumentParser(prog="python -m vit_helpers", description=__doc__)
    commands = top.add_subparsers(dest="command", required=True)
    run = commands.add_parser("run", help="execute the notebooks into build/ and print a table")
    run.add_argument("notebooks", nargs="*", help="such as 01 or 03_attention; all if none")
    run.add_argument("--to", type=Path, default=runner.BUILD, help="folder for the results")
    refresh = commands.add_parser("refresh", help="execute and store the outputs in notebooks/")
    refresh.add_argument("notebooks", nargs="*", help="such as 01 or 03_attention; all if none")
    test = commands.add_parser("test", help="unit tests, notebooks against outputs, ruff")
    test.add_argument("only", nargs="?", default="all", choices=["all", *runner.TEST_STEPS])
    return top


def main(arguments: list[str] | None = None) -> int:
    """Run one command. Returns the exit status."""
    options = parser().parse_args(arguments)
    try:
        if options.command == "run":
            return runner.run(options.notebooks, options.to)
        if options.command == "refresh":
            return runner.refresh(options.notebooks)
        return runner.test(options.only)
    except CourseError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
