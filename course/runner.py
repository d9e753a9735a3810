"""Execute the notebooks from the command line: `run`, `refresh` and `test`.

`run` writes executed notebooks and HTML pages to `build/`; `refresh` writes the outputs back
into `notebooks/`; `test` compares a new execution with those stored outputs.
"""

import contextlib
import json
import os
import re
import shutil
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vit_helpers.errors import CourseError
from vit_helpers.runtime import bar

from . import BUILD, ROOT, frontpage, read_notebook
from .page import html_page, strip_views

NOTEBOOKS = ROOT / "notebooks"
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
SOLVED = BUILD / "solved"
CELL_TIMEOUT_SECONDS = 1200
DEVICE = r"^device:? (.+?)(?: ·|,|$)"  # in the output of the set-up cell


@dataclass
class Run:
    """What one notebook took."""

    notebook: str
    device: str = frontpage.CPU  # or the name of the GPU
    minutes: float = 0.0
    peak_gib: float = 0.0
    error: str = ""
    seconds: dict[str, float] = field(default_factory=dict)  # of each code cell, by its id


class PeakMemory:
    """Watch the memory of a process and its children from a thread.

    After the `with` block `gib` is the largest memory seen, in GiB, sampled twice a second.
    What processes share is counted once (the proportional set size, on Linux): a process that
    has just forked would count twice otherwise.
    """

    def __init__(self, pid: int):
        self.pid = pid
        self.gib = 0.0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *exc):
        self._stop.set()
        self._thread.join()

    def _watch(self):
        import psutil

        process = psutil.Process(self.pid)
        while not self._stop.wait(0.5):
            try:
                family = [process, *process.children(recursive=True)]
                used = sum(_memory(p) for p in family)
            except psutil.Error:  # a worker that ended between the two lines
                continue
            self.gib = max(self.gib, used / 2**30)


def _memory(process) -> int:
    """Bytes of a process: its own, and its part of what it shares with others."""
    info = process.memory_full_info()
    return getattr(info, "pss", info.uss)  # only Linux knows how many share a page


def find_browser() -> str | None:
    """The path of a Chromium or Chrome on this machine; `VIT_BROWSER` may name another."""
    names = filter(None, (os.environ.get("VIT_BROWSER"), *BROWSERS))
    return next(filter(None, map(shutil.which, names)), None)


def find(names: list[str] | None = None) -> list[Path]:
    """Paths of the notebooks, in order; `names` picks some by the start of their name.

    Raises:
        CourseError: If there is none, or none of that name.
    """
    everything = sorted(NOTEBOOKS.glob("*.ipynb"))
    if not everything:
        raise CourseError("There are no notebooks here: run this from a clone of the repository.")
    if not names:
        return everything
    chosen = [p for p in everything if any(p.name.startswith(n) for n in names)]
    if not chosen:
        known = ", ".join(p.stem for p in everything)
        raise CourseError(f"No notebook starts with {' or '.join(names)}: there are {known}.")
    return chosen


def course_environment(**more: str) -> dict[str, str]:
    """The environment of a kernel: offline unless `VIT_SOURCE` says otherwise, without bars."""
    return {"VIT_SOURCE": "offline", **os.environ, "VIT_BARS": "off", **more}


def execute(path: Path):
    """Execute a notebook in a fresh kernel.

    Returns:
        `(notebook, run)`: the executed notebook (up to the failing cell, if one fails) and its
        `Run`.
    """
    from nbclient import NotebookClient
    from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError

    notebook = read_notebook(path)
    run = Run(path.stem)
    code_cells = sum(cell.cell_type == "code" for cell in notebook.cells)
    progress = bar(desc=path.stem, total=code_cells, unit="cell")
    place: dict[str, Any] = {"cell": 0}

    def started(cell, cell_index):
        place["cell"], place["began"] = cell_index, time.perf_counter()
        progress.set_postfix_str(_first_line(cell))

    def finished(cell, cell_index, execute_reply):
        place["ended"] = time.perf_counter()
        run.seconds[cell.id] = round(place["ended"] - place["began"], 1)
        progress.update()

    watch = contextlib.ExitStack()

    def kernel_started(notebook):
        place["memory"] = watch.enter_context(PeakMemory(client.km.provisioner.pid))

    client = NotebookClient(
        notebook,
        timeout=CELL_TIMEOUT_SECONDS,
        resources={"metadata": {"path": str(path.parent)}},
        extra_arguments=["--IPKernelApp.log_level=ERROR"],
        store_widget_state=True,  # the page shows widgets alive
        record_timing=False,
        on_notebook_start=kernel_started,
        on_cell_execute=started,
        on_cell_executed=finished,
    )
    start = time.perf_counter()
    with watch:
        try:
            client.execute(env=course_environment())
        except (CellExecutionError, CellTimeoutError, DeadKernelError) as error:
            cell = notebook.cells[place["cell"]]
            run.error = f"cell {place['cell']} ({_first_line(cell)}): {_short(error)}"
    run.device = _device(notebook)
    progress.close()
    # Nobody waits for the kernel to end, which takes seconds where torch was loaded.
    run.minutes = (place.get("ended", start) - start) / 60
    run.peak_gib = place["memory"].gib
    return notebook, run


def _device(notebook) -> str:
    """What the set-up cell says that it runs on."""
    outputs = [o for c in notebook.cells if c.cell_type == "code" for o in c.outputs]
    printed = "".join(output.get("text", "") for output in outputs)
    named = re.search(DEVICE, printed, re.M)
    return named[1] if named else frontpage.CPU


def _first_line(cell) -> str:
    lines = [line for line in cell.source.splitlines() if line.strip()]
    return lines[0][:40] if lines else ""


def _short(error: Exception) -> str:
    name, value = getattr(error, "ename", ""), getattr(error, "evalue", "")
    return f"{name}: {value}" if name else f"{type(error).__name__}: {error}"


def run(names: list[str] | None = None, to: Path = BUILD, record: bool = False) -> int:
    """Execute notebooks; write them and their HTML pages to `to`; print a table.

    Args:
        names: Which notebooks, as for `find`.
        to: The folder for the notebooks, the pages and `timings.json`.
        record: Whether to keep the minutes in `docs/timings.json` too, for this kind of device.
            README and titles then tell them, and a test says what to write into the guide.

    Returns:
        0, or 1 if a cell failed.

    Raises:
        CourseError: If minutes of another source or profile than the guide's are to be kept.
    """
    import nbformat

    if record and not _as_in_the_guide():
        raise CourseError("Only minutes from the kit in the profile quick are kept: unset VIT_*.")
    to.mkdir(parents=True, exist_ok=True)
    runs = []
    for path in find(names):
        notebook, result = execute(path)
        page = html_page(notebook, path.stem)
        (to / f"{path.stem}.html").write_text(page, encoding="utf-8")
        strip_views(notebook)
        nbformat.write(notebook, to / path.name)
        runs.append(result)
        print(f"{result.notebook}: {result.error or 'done'} ({result.minutes:.1f} min)", flush=True)
    (to / "timings.json").write_text(
        json.dumps([vars(r) for r in runs], indent=1) + "\n", encoding="utf-8"
    )
    print("\n" + table(runs))
    if words := against_the_guide(runs):
        print("\n" + words)
    if record:
        record_timings(runs)
        frontpage.update(ROOT)
    failed = [r for r in runs if r.error]
    for r in failed:
        print(f"\nFAILED {r.notebook}, {r.error}", file=sys.stderr)
    return 1 if failed else 0


def table(runs: list[Run]) -> str:
    """The summary that `run` prints: notebook, minutes, peak memory."""
    lines = [f"{'notebook':<28} {'minutes':>7} {'peak GiB':>8}"]
    for r in runs:
        failed = f"  FAILED in {r.error}" if r.error else ""
        lines.append(f"{r.notebook:<28} {r.minutes:>7.1f} {r.peak_gib:>8.1f}{failed}")
    minutes, peak = sum(r.minutes for r in runs), max(r.peak_gib for r in runs)
    lines.append(f"{'together':<28} {minutes:>7.1f} {peak:>8.1f}")
    return "\n".join(lines)


def against_the_guide(runs: list[Run]) -> str:
    """How much longer this machine takes than the one that the instructor's guide speaks of.

    Empty where the runs are not those of the guide: from another source or profile, or failed.
    """
    known = _recorded("timings.json").get(frontpage.CPU, {})
    if not _as_in_the_guide() or any(r.error or r.notebook not in known for r in runs):
        return ""
    here, there = sum(r.minutes for r in runs), sum(known[r.notebook] for r in runs)
    if not there:
        return ""
    return (
        f"The instructor's guide says {there:.1f} minutes for this, so multiply the minutes of the "
        f"machine there by {here / there:.1f}."
    )


def _as_in_the_guide() -> bool:
    env = course_environment()
    return env["VIT_SOURCE"] == "offline" and env.get("VIT_PROFILE", "quick") == "quick"


def refresh(names: list[str] | None = None) -> int:
    """Execute notebooks and store their outputs in `notebooks/`; a failing one is left as it was.

    What each took goes to `docs/timings.json`, which the instructor's guide is checked against.

    Returns:
        0, or 1 if a cell failed.
    """
    import nbformat

    failed = False
    for path in find(names):
        notebook, result = execute(path)
        if result.error:
            print(f"FAILED {result.notebook}, {result.error}", file=sys.stderr)
            failed = True
            continue
        strip_views(notebook)
        # Only what a reader needs: the version of Python and the like differ by machine.
        notebook.metadata = nbformat.from_dict(
            {
                "kernelspec": {
                    "display_name": "Python 3",
                    "language": "python",
                    "name": "python3",
                },
                "language_info": {"name": "python"},
            }
        )
        partial = path.with_suffix(".part")
        nbformat.write(notebook, partial)
        partial.replace(path)
        record_timings([result])
        record_memory([result])
        print(f"{result.notebook}: refreshed ({result.minutes:.1f} min)", flush=True)
    frontpage.update(ROOT)
    return int(failed)


def record_timings(runs: list[Run]) -> None:
    """Write the minutes of notebooks to `docs/timings.json`, under the device that they ran on.

    The lines of other notebooks and of other devices stay.
    """
    minutes = _recorded("timings.json")
    for run in runs:
        if not run.error:
            there = minutes.get(run.device, {}) | {run.notebook: round(run.minutes, 1)}
            minutes[run.device] = dict(sorted(there.items()))
    _add("timings.json", minutes)


def record_memory(runs: list[Run]) -> None:
    """Write the peak memory of notebooks in GiB to `docs/memory.json`."""
    _add("memory.json", {r.notebook: round(r.peak_gib, 1) for r in runs if not r.error})


def _add(name: str, lines: dict) -> None:
    path = NOTEBOOKS.parent / "docs" / name
    path.parent.mkdir(exist_ok=True)
    text = json.dumps(dict(sorted((_recorded(name) | lines).items())), indent=1)
    path.write_text(text + "\n", encoding="utf-8")


def _recorded(name: str) -> dict:
    path = NOTEBOOKS.parent / "docs" / name
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}


def solve(names: list[str] | None = None, to: Path = SOLVED, execute_them: bool = False) -> int:
    """Write the solved edition of the notebooks to `to`: every task with its solution.

    Args:
        names: Which notebooks, as for `find`.
        to: The folder for the solved notebooks.
        execute_them: Whether to execute them too, and to insist that every check is passed.

    Returns:
        0, or 1 if a cell failed or a check was not passed.

    Raises:
        CourseError: If the stub of a task is not in its notebook.
    """
    import nbformat

    from . import editions

    failed = False
    for path in editions.solve_all(find(names), to):
        if not execute_them:
            print(path)
            continue
        notebook, result = execute(path)
        strip_views(notebook)
        nbformat.write(notebook, path)
        states = editions.states(notebook)
        problem = result.error or ", ".join(f"{k}: {v}" for k, v in states.items() if v != "right")
        print(f"{path.stem}: {problem or f'{len(states)} checks passed'}", flush=True)
        failed = failed or bool(problem)
    return int(failed)


def notebook_tests(folder: Path) -> list[str]:
    """The command that executes notebooks and compares every output with the stored one.

    The output of a cell with the tag `nbval-ignore-output` is not compared, nor is what
    `tests/nbval_sanitize.cfg` names.
    """
    return [
        *(sys.executable, "-m", "pytest", "-q", "--nbval", "--nbval-current-env"),
        *("--nbval-cell-timeout", str(CELL_TIMEOUT_SECONDS), "-p", "no:cacheprovider"),
        *("--nbval-sanitize-with", str(ROOT / "tests" / "nbval_sanitize.cfg"), str(folder)),
    ]


def test(only: str = "all") -> int:
    """Lint, unit tests, and every notebook against its stored outputs.

    The solved edition takes as long as the notebooks again, so `all` leaves it to `.ci/run`, and
    what needs a browser too. The notebooks run from the offline kit in the quick profile with
    seed 0, because that is how the stored outputs were made.

    Args:
        only: `lint` (ruff, mypy, import contract), `unit`, `notebooks`, `solved` (run it: every
            check must pass, and results lie in their ranges), `browser`, `coverage` (unit tests
            again, 90 % of the package must be run), `site` (build it and open it in a browser),
            or `all`: the first three.

    Returns:
        0, or the exit status of the first step that failed.
    """
    env = course_environment(VIT_SOURCE="offline", VIT_PROFILE="quick", VIT_SEED="0")
    if only in ("browser", "site") and not find_browser():
        raise CourseError(
            "The browser tests need a Chromium: install Debian's (apt-get install chromium), or "
            "name another in VIT_BROWSER."
        )
    if only == "site":
        env["VIT_SITE"] = "1"
    if only == "solved":
        env["VIT_RESULTS"] = str(SOLVED)
    if only in ("all", "unit", "notebooks", "coverage"):  # two processes, a thread each
        env = {"OMP_NUM_THREADS": "1"} | env
    if only == "all":
        return _step("lint", env) or max(_step("unit", env), _step("notebooks", env))
    return _step(only, env)


def commands_of(step: str) -> list[list]:
    """What to run for a step of `test`, one after the other."""
    python: list = [sys.executable, "-m"]
    pytest = [*python, "pytest", "-q"]
    imports = Path(sys.executable).with_name("lint-imports")
    two = ["-n", "2", "--dist"]
    unit = [*pytest, *two, "worksteal", "-m", "not browser", "tests"]
    steps: dict[str, list[list]] = {
        "lint": [[*python, "ruff", "check", "."], [*python, "mypy"], [imports]],
        "unit": [unit],
        "notebooks": [[*notebook_tests(NOTEBOOKS), *two, "loadfile"]],
        "solved": [[*python, "course", "solve", "--run"], [*pytest, "tests/test_results.py"]],
        "coverage": [[*unit, "--cov=vit_helpers"]],
        "browser": [[*pytest, "-s", "-m", "browser", "tests"]],
        "site": [[*pytest, "tests/test_site.py"]],
    }
    return steps[step]


def _step(name: str, env: dict[str, str]) -> int:
    print(f"== {name}", flush=True)
    for command in commands_of(name):
        if status := subprocess.run(command, cwd=ROOT, env=env).returncode:
            print(f"FAILED: {name}", file=sys.stderr)
            return status
    return 0
