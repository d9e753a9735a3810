"""`python -m benchmarks start`: a process that classifies one picture, from nothing to its answer.

Each row is a program of its own that is started anew for every turn, in turns, so that a slow
minute of the machine hits them all. The first turn does not count: it brings the files into the
memory of the operating system, and what is measured is a warm start.
"""

import contextlib
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from transformers import AutoModelForImageClassification

from vit_helpers import efficiency, models, runtime
from vit_helpers.efficiency.deploy import SCRIPT
from vit_helpers.errors import CourseError

from . import variants
from .inference import calibration_pictures
from .machine import machine, model_name, save_results
from .widening import widen

LIMIT_S = 600  # a program that takes longer is ended
STANDALONE = ("onnxruntime", "numpy", "pillow")
WITH_TORCH = ("transformers", "torch", "torchvision", "pillow")

TRANSFORMERS = """
import sys

import torch
from PIL import Image
from transformers import AutoImageProcessor, AutoModelForImageClassification

folder, picture = sys.argv[1:]
processor = AutoImageProcessor.from_pretrained(folder)
model = AutoModelForImageClassification.from_pretrained(folder).eval()
pixels = processor(Image.open(picture).convert("RGB"), return_tensors="pt")
with torch.inference_mode():
    probabilities = model(**pixels).logits[0].softmax(-1)
best = probabilities.topk(min(5, len(probabilities)))
for probability, number in zip(best.values.tolist(), best.indices.tolist()):
    print(f"{probability:.3f} {model.config.id2label[number]}")
"""
PIPELINE = """
import sys

from transformers import pipeline

folder, picture = sys.argv[1:]
for answer in pipeline("image-classification", model=folder)(picture):
    print(f"{answer['score']:.3f} {answer['label']}")
"""
# Runs a program, then says the most memory that it held (in kB; Linux alone tells).
WRAPPER = """
import runpy, sys

sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
try:
    lines = open("/proc/self/status", encoding="utf-8").read().splitlines()
except OSError:
    lines = []
print("peak", *[line.split()[1] for line in lines if line.startswith("VmHWM")], file=sys.stderr)
"""


@dataclass(frozen=True)
class Request:
    """What to measure.

    Attributes:
        model: An id of the Hub or a folder of `save_pretrained`; `None` for the course's own.
        widen: How many times as wide the model is made first; 4 gives ViT-B/16's size.
        picture: A file; `None` for the sample photograph.
        rounds: In how many turns.
        folder: Where `start.json` goes.
        command: How this was asked for.
    """

    model: str | None = None
    widen: int = 1
    picture: Path | None = None
    rounds: int = 5
    folder: Path = Path("build/bench")
    command: str = ""


@dataclass(frozen=True)
class Program:
    """A way to classify one picture.

    Attributes:
        script: A Python program that takes two arguments: the model and the picture.
        model: Its model: a file, or a folder of `save_pretrained`.
        needs: What must be installed for it.
        missing: Why it cannot run here, or an empty text.
    """

    script: Path
    model: Path
    needs: Sequence[str]
    missing: str = ""


@dataclass(frozen=True)
class Start:
    """One run of a program.

    Attributes:
        first_answer: Seconds from the start of Python to the first line that it prints.
        whole: Seconds to its end.
        peak_mb: The most memory that it held, in MB; NaN where the system does not tell.
        answer: The first line, such as `0.987 cat`.
    """

    first_answer: float
    whole: float
    peak_mb: float
    answer: str


def start(program: Program, picture: Path) -> Start:
    """Start a program, and wait for its answer and its end.

    Raises:
        CourseError: If it fails, with its last words, or takes more than ten minutes.
    """
    command = [sys.executable, "-u", "-c", WRAPPER, program.script, program.model, picture]
    with tempfile.TemporaryFile() as errors:
        began = time.perf_counter()
        with subprocess.Popen(
            [str(word) for word in command], stdout=subprocess.PIPE, stderr=errors
        ) as process:
            timer = threading.Timer(LIMIT_S, process.kill)
            timer.start()
            try:
                answer = process.stdout.readline()  # type: ignore[union-attr]
                first = time.perf_counter() - began
                process.communicate()
            finally:
                timer.cancel()
        whole = time.perf_counter() - began
        errors.seek(0)
        said = errors.read().decode(errors="replace").strip().splitlines() or [""]
    if process.returncode < 0:
        raise CourseError(f"it was ended by signal {-process.returncode}")
    if process.returncode or not answer:
        raise CourseError(f"it failed: {said[-1][:160]}")
    peak = said[-1].split()[1:]
    memory = 1024 * int(peak[0]) / 1e6 if peak else float("nan")
    return Start(first, whole, memory, answer.decode(errors="replace").strip())


def installed_mb(names: Sequence[str]) -> float:
    """What pip installs for these packages and for what they require, in MB on this disk."""
    sizes: dict[str, int] = {}
    todo = list(names)
    while todo:
        name = canonicalize_name(todo.pop())
        if name in sizes:
            continue
        try:
            found = distribution(name)
        except PackageNotFoundError:  # wanted on another system, say
            continue
        paths = [Path(str(file.locate())) for file in found.files or ()]
        sizes[name] = sum(path.stat().st_size for path in paths if path.is_file())
        wanted = [Requirement(text) for text in found.requires or ()]
        todo += [w.name for w in wanted if w.marker is None or w.marker.evaluate({"extra": ""})]
    return sum(sizes.values()) / 1e6


def programs(model, processor, folder: Path) -> dict[str, Program]:
    """The programs by name, with their files in a folder.

    Args:
        model: A classifier in float32.
        processor: Its processor.
        folder: For models and scripts.
    """
    saved = models.save(model, processor, folder / "model")
    with_torch = {}
    for name, text in (("transformers", TRANSFORMERS), ("pipeline", PIPELINE)):
        (folder / f"{name}.py").write_text(text, encoding="utf-8")
        with_torch[name] = Program(folder / f"{name}.py", saved, WITH_TORCH)
    found = {
        "transformers with torch": with_torch["transformers"],
        'pipeline("image-classification")': with_torch["pipeline"],
    }
    files = {"fp32": "ONNX Runtime fp32", "int8": "ONNX Runtime int8 dynamic"}
    calibration = calibration_pictures(processor, runtime.current().seed)
    with contextlib.closing(variants.ExportContext(model, calibration)) as context:
        for format_name, variant in files.items():
            (attempt,) = variants.build(context, variants.select(variant))
            path, missing = folder / f"{format_name}.onnx", attempt.reason
            if attempt.engine is not None and attempt.engine.file is not None:
                efficiency.export_deployable(model, processor, attempt.engine.file, path)
            name = f"one ONNX file in {format_name}, no torch"
            found[name] = Program(SCRIPT, path, STANDALONE, missing)
    return found


def run(request: Request) -> int:
    """Measure, print a table, and write it as JSON.

    A program that fails, or answers otherwise than transformers does, is a row with its reason.

    Returns:
        0, or 1 if a program failed.

    Raises:
        CourseError: If the model or the picture cannot be read.
    """
    rt = runtime.start("classifier", "cifar10", "photo")
    path = request.model or rt.locate("classifier")
    picture = Path(request.picture or rt.locate("photo")).resolve()
    if not picture.is_file():
        raise CourseError(f"There is no file {str(request.picture)!r}: check the path.")
    with models.loading(path):
        model = AutoModelForImageClassification.from_pretrained(path, dtype=torch.float32)
    model, processor = model.eval(), models.load_processor(path)
    if request.widen != 1:
        model = widen(model, request.widen)
    with tempfile.TemporaryDirectory(prefix="vit-start-") as folder:
        found = programs(model, processor, Path(folder))
        del model
        table = measure(found, picture, request.rounds)
    print(f"\n{machine()['processor']}, {request.rounds} rounds")
    print(table.drop(columns="reason").round(2).to_string())
    for name, reason in table.loc[table["reason"] != "", "reason"].items():
        print(f"{name}: {reason}")
    request.folder.mkdir(parents=True, exist_ok=True)
    save_results(
        table,
        request.folder / "start.json",
        kind="start",
        model=model_name(request.model),
        widen=request.widen,
        rounds=request.rounds,
        commands=[request.command],
    )
    print(f"written to {request.folder}")
    return int(table["first answer s"].isna().any())


def measure(found: dict[str, Program], picture: Path, rounds: int) -> pd.DataFrame:
    """Start every program once to warm up and then so many times, in turns.

    Returns:
        A `DataFrame` by program: `first answer s` (median) with its smallest and largest value
        `from` and `to`, `whole s`, `peak MB`, `model MB`, `installed MB`, `answer`, `reason` (why
        it cannot be used, or empty) and `best`: the fastest of those that can.
    """
    reasons = {name: program.missing for name, program in found.items()}
    starts: dict[str, list[Start]] = {name: [] for name in found}
    order = list(found)
    for turn in runtime.bar(range(rounds + 1), "turns"):
        for name in order:
            if reasons[name]:
                continue
            try:
                once = start(found[name], picture)
            except CourseError as error:
                reasons[name], starts[name] = str(error), []
                continue
            if turn:
                starts[name].append(once)
        order = order[1:] + order[:1]
    rows = {}
    for name, program in found.items():
        row: dict = {"reason": reasons[name]}
        if runs := starts[name]:
            seconds = np.array([once.first_answer for once in runs])
            row |= {
                "first answer s": np.median(seconds),
                "from": seconds.min(),
                "to": seconds.max(),
                "whole s": np.median([once.whole for once in runs]),
                "peak MB": np.median([once.peak_mb for once in runs]),
                "model MB": _size(program.model),
                "installed MB": installed_mb(program.needs),
                "answer": runs[0].answer,
            }
        rows[name] = row
    columns = ["first answer s", "from", "to", "whole s", "peak MB", "model MB", "installed MB"]
    frame = pd.DataFrame.from_dict(rows, orient="index", columns=None)
    frame = frame.reindex(columns=[*columns, "answer", "reason"]).rename_axis("program")
    right = str(frame["answer"].iloc[0]).partition(" ")[2]
    for name, answer in frame["answer"].dropna().items():
        if answer.partition(" ")[2] != right:
            frame.loc[name, "reason"] = f"answers {answer!r}, where transformers says {right!r}"
    good = frame.loc[frame["reason"] == "", "first answer s"]
    return frame.assign(best=frame.index == (good.idxmin() if len(good) else None))


def _size(path: Path) -> float:
    files = [path] if path.is_file() else [file for file in path.iterdir() if file.is_file()]
    return sum(map(efficiency.megabytes, files))
