"""`python -m benchmarks inference`: the table of notebook 05 for any ViT of transformers."""

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from datasets import load_dataset
from transformers import AutoModelForImageClassification

from vit_helpers import data, efficiency, images, models, plots, runtime
from vit_helpers.errors import CourseError
from vit_helpers.resources.files import written_whole

from . import variants
from .machine import machine, model_name, poor_machine, save_results
from .widening import widen

COLUMNS = (
    *("runs on", "median ms", "p5 ms", "p95 ms", "images/s", "speed-up", "95 %", "verdict", "MB"),
    *("agreement", "agreement 95 %", "logit difference", "accuracy", "same in a batch"),
    *("floor ms", "of possible"),
)
CALIBRATION_PICTURES = 48


@dataclass(frozen=True)
class Request:
    """What to measure.

    Attributes:
        model: An id of the Hub or a folder of `save_pretrained`; `None` for the course's own.
        widen: How many times as wide the model is made first, with the same answers. The
            course's own has the shape of ViT-B/16 with 4.
        batches: Batch sizes, each with a table of its own.
        names: Names of variants; all if empty.
        pictures: How many pictures; `None` for 200 in the profile quick and 1,000 in full.
        rounds: In how many turns.
        folder: Where tables, JSON and pictures go.
        command: How this was asked for.
    """

    model: str | None = None
    widen: int = 1
    batches: Sequence[int] = (1, 8)
    names: Sequence[str] = ()
    pictures: int | None = None
    rounds: int = 20
    folder: Path = Path("build/bench")
    command: str = ""


def run(request: Request) -> int:
    """Measure, print a table for each batch size, and write `inference.json`.

    Beside it lie `batch-N.csv` and `batch-N.png`. A variant that is missing, fails, or answers
    otherwise than the first row in more than one case of ten is a row with its reason.

    Returns:
        0, or 1 if a variant that should work here failed.

    Raises:
        CourseError: If the model cannot be loaded or is not a ViT, a variant is unknown, or a
            batch is larger than the number of pictures.
    """
    chosen = variants.select(*request.names) if request.names else list(variants.VARIANTS)
    baseline = variants.select(efficiency.BASELINE)
    chosen = baseline + [v for v in chosen if v not in baseline]
    rt = runtime.start("classifier", "cifar10")
    count = rt.pick(quick=200, full=1000) if request.pictures is None else request.pictures
    path = request.model or rt.locate("classifier")
    with models.loading(path):
        model = AutoModelForImageClassification.from_pretrained(
            path, attn_implementation="eager", dtype=torch.float32
        )
    model, processor = model.eval().to(rt.device), models.load_processor(path)
    models.blocks(model)  # a model that is no ViT is refused before anything else is done
    if request.widen != 1:
        model = widen(model, request.widen).to(rt.device)
    own, labels = data.evaluation_images(model, count, rt.seed)
    for batch in request.batches:
        if not 1 <= batch <= len(own):
            raise CourseError(f"The batch {batch} must be from 1 to the {len(own)} pictures.")
    pictures = images.to_pixels(own, processor)
    request.folder.mkdir(parents=True, exist_ok=True)
    calibration = calibration_pictures(processor, rt.seed)
    tables, failed = [], False
    context = variants.ExportContext(model, calibration, processor=processor)
    with contextlib.closing(context):
        rates = _rates(rt.device)
        print(f"\n{machine()['processor']}, {torch.get_num_threads()} threads")
        print("".join(f"{note}\n" for note in poor_machine()), end="")
        for device, own_rates in rates.items():
            table = efficiency.rate_table(own_rates, context.operations())
            print(f"{device}\n{efficiency.for_reading(table).to_string()}")
        built = variants.build(context, chosen)
        for batch in request.batches:
            attempts = variants.without_failing(built, pictures[:batch])
            failed |= any(attempt.status == "failed" for attempt in attempts)
            frame = efficiency.compare(
                {a.name: a.engine for a in attempts if a.engine is not None},
                pictures,
                min(request.rounds, len(pictures) // batch),
                missing=variants.missing(attempts),
                labels=labels,
                batch=batch,
                rates=rates,
            )
            tables.append(_judged(frame).assign(batch=batch))
            _show(tables[-1], batch, len(pictures))
            _write(tables[-1], request.folder / f"batch-{batch}")
    save_results(
        pd.concat(tables),
        request.folder / "inference.json",
        kind="inference",
        model=model_name(request.model),
        widen=request.widen,
        pictures=len(pictures),
        rates=rates,
        commands=[request.command],
    )
    print(f"\nwritten to {request.folder}")
    return int(failed)


def _judged(frame: pd.DataFrame) -> pd.DataFrame:
    """With the columns `best`, the fastest that may be recommended, and `reason` against a row."""
    wrong = frame["verdict"] == "unusable"
    said = [f"wrong: {share:.1%} of its answers agree" for share in frame.loc[wrong, "agreement"]]
    reason = frame["not here"].mask(wrong, pd.Series(said, frame.index[wrong], dtype=object))
    good = frame.loc[efficiency.recommend(frame), "speed-up"]
    return frame.assign(best=frame.index == good.idxmax(), reason=reason)


def _rates(device: torch.device) -> dict[str, dict[str, float]]:
    """The matrix rates by device: int8 engines run on the CPU, also where there is a GPU."""
    rates = {"CPU": efficiency.matrix_rates("cpu")}
    return rates if device.type == "cpu" else rates | {"GPU": efficiency.matrix_rates(device)}


def calibration_pictures(processor, seed: int) -> torch.Tensor:
    """Pictures for static quantisation: from a training split, never among those judged on."""
    train = load_dataset(runtime.current().locate("cifar10"))["train"]
    some = train.select(data.random_indices(len(train), CALIBRATION_PICTURES, seed))
    return images.to_pixels(list(some[data.image_column(some)]), processor)


def _show(frame: pd.DataFrame, batch: int, count: int) -> None:
    ran = frame[frame["not here"] == ""]
    print(f"\nbatch {batch}, {count} pictures")
    print(efficiency.for_reading(ran, COLUMNS).to_string())
    for name, reason in frame.loc[frame["reason"] != "", "reason"].items():
        print(f"{name}: {reason}")
    print(f"recommended: {' or '.join(efficiency.recommend(frame))}")
    ((name, best),) = frame[frame["best"]].iterrows()
    share = best["of possible"]
    if np.isfinite(share):
        print(f"{name} reaches {share:.0%} of the measured rates of {best['computes in']}")


def _write(frame: pd.DataFrame, stem: Path) -> None:
    with written_whole(stem.with_suffix(".csv")) as part:
        frame.to_csv(part)
    with written_whole(stem.with_suffix(".png")) as part:
        part.write_bytes(plots.speed_agreement(frame).png())
