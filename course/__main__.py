"""The command line of maintainers: `python -m course COMMAND`; `--help` lists the commands."""

import argparse
import io
import sys
from pathlib import Path

from vit_helpers.errors import exit_status

from . import BUILD, ROOT, address

TEST_STEPS = ("unit", "notebooks", "lint", "solved", "coverage", "browser", "site")


def parser() -> argparse.ArgumentParser:
    """The commands and their options."""
    top = argparse.ArgumentParser(prog="python -m course", description=__doc__)
    commands = top.add_subparsers(dest="command", required=True)
    run = commands.add_parser("run", help="execute the notebooks into build/ and print a table")
    run.add_argument("notebooks", nargs="*", help="such as 01 or 03_attention; all if none")
    run.add_argument("--to", type=Path, default=BUILD, help="folder for the results")
    run.add_argument("--record", action="store_true", help="keep the minutes in docs/timings.json")
    refresh = commands.add_parser("refresh", help="execute and store the outputs in notebooks/")
    refresh.add_argument("notebooks", nargs="*", help="such as 01 or 03_attention; all if none")
    test = commands.add_parser("test", help="unit tests, notebooks against outputs, lint")
    test.add_argument("only", nargs="?", default="all", choices=["all", *TEST_STEPS])
    solve = commands.add_parser("solve", help="write the notebooks with all tasks solved")
    solve.add_argument("notebooks", nargs="*", help="such as 01 or 03_attention; all if none")
    solve.add_argument("--to", type=Path, default=BUILD / "solved", help="folder for the results")
    solve.add_argument("--run", action="store_true", help="execute them; every check must pass")
    assign = commands.add_parser("assignments", help="write the notebooks as nbgrader takes them")
    assign.add_argument("notebooks", nargs="*", help="such as 01 or 03_attention; all if none")
    assign.add_argument("--to", type=Path, default=BUILD / "assignments", help="nbgrader's folder")
    progress = commands.add_parser("progress", help="table over submitted notebooks, as CSV")
    progress.add_argument("folder", type=Path, help="where they are; none is executed")
    site = commands.add_parser("site", help="write the course as static pages")
    site.add_argument("--to", type=Path, default=BUILD / "site", help="folder for the pages")
    live = commands.add_parser("live", help="write the live page: a whole ViT in the browser")
    live.add_argument("--to", type=Path, default=BUILD / "live", help="folder for the page")
    live.add_argument("--model", type=Path, help="folder of save_pretrained; the kit's if none")
    live.add_argument("--film", action="store_true", help="the moving picture of the README too")
    stamp = commands.add_parser("stamp", help="write the repository's address where it is needed")
    stamp.add_argument("repository", metavar="OWNER/REPO")
    return top


def main(arguments: list[str] | None = None) -> int:
    """Run one command. Returns the exit status."""
    options = parser().parse_args(arguments)
    return exit_status(lambda: _run(options))


def _run(options: argparse.Namespace) -> int:
    if options.command == "stamp":  # with nothing but Python, so before the other imports
        return stamp(options.repository)
    from . import runner

    if options.command == "run":
        return runner.run(options.notebooks, options.to, options.record)
    if options.command == "refresh":
        return runner.refresh(options.notebooks)
    if options.command == "solve":
        return runner.solve(options.notebooks, options.to, options.run)
    if options.command == "assignments":
        from . import assignments

        for path in assignments.write(runner.find(options.notebooks), options.to):
            print(path)
        return 0
    if options.command == "progress":
        return progress(options.folder)
    if options.command == "site":
        from . import book  # needs Sphinx, which no learner has

        options.to.mkdir(parents=True, exist_ok=True)
        return book.build(options.to)
    if options.command == "live":
        from .live import build

        one_file = options.to.with_name(f"vit-{options.to.name}.html")
        status = build.build(options.to, one_file, options.model)
        if options.film:
            from .live import film

            film.film(options.to, ROOT / "docs" / "pictures" / "live.webp")
        return status
    return runner.test(options.only)


def stamp(repository: str) -> int:
    """Write the address of the repository into the files that carry it. Returns 0."""
    changed = address.stamp(repository, ROOT)
    for path in changed:
        print(path.relative_to(ROOT))
    print(f"{len(changed)} files now say {repository}" if changed else "They say so already.")
    return 0


def progress(folder: Path) -> int:
    """Print a table over submitted notebooks as CSV. Returns 0."""
    from . import editions

    rows = editions.read_submissions(folder)
    if isinstance(sys.stdout, io.TextIOWrapper):  # names of files, where Windows says cp1252
        sys.stdout.reconfigure(encoding="utf-8")
    editions.write_csv(rows, sys.stdout)
    return 0


if __name__ == "__main__":
    sys.exit(main())
