"""Measures the kit's model: ``VIT_REAL_PHOTOS=/folder python -m kit_builder.evaluate_photographs``.

Prints the table that stands in the model card. Every picture is seen as a reader of the course
shows it: 224 pixels, all patches, through transformers' own model and the saved processor. The
photographs are those that training held out (``photographs.hold_out``) and the 1,000 of
CIFAR-10's test split; nothing was chosen by them but the temperature, by one half, and its error
is measured on the other.
"""

from __future__ import annotations

import argparse
import io
import os
import tempfile
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor
from tqdm.auto import tqdm

from benchmarks import photographs as cifar10
from vit_helpers import models, runtime
from vit_helpers.errors import CourseError
from vit_helpers.offline_kit import KIT

from . import photographs
from .evaluate import calibration_error, fit_temperature, top

MODEL = KIT / "quarter"
SIDE, PATCH = 224, 16

# What is right for each photograph of the kit; of the pair, what is on the left and on the right.
RIGHT = {
    "arch": {"triumphal arch"},
    "bison": {"bison"},
    "bison_and_cat": {"bison", "tabby", "Egyptian cat", "Persian cat"},
    "cat": {"tabby", "Egyptian cat", "Persian cat"},
    "dog": {"German shepherd"},
    "espresso": {"espresso"},
    "red_panda": {"lesser panda"},
}


class Judge:
    """The saved model as the course loads it, with eager attention."""

    def __init__(self, folder: Path = MODEL) -> None:
        from transformers import AutoImageProcessor, ViTForImageClassification

        self.processor = AutoImageProcessor.from_pretrained(folder)
        self.model = ViTForImageClassification.from_pretrained(
            folder, attn_implementation="eager", dtype=torch.float32
        ).eval()
        self.names = [self.model.config.id2label[i] for i in range(self.model.config.num_labels)]

    def inputs(self, images: list[Image.Image]) -> dict:
        """Pixel values as the saved processor makes them."""
        return self.processor(images=images, return_tensors="pt")

    @torch.inference_mode()
    def logits(self, images: list[Image.Image], what: str = "", batch: int = 25) -> Tensor:
        """Logits (n, classes)."""
        starts = tqdm(range(0, len(images), batch), desc=what, leave=False, disable=None)
        return torch.cat([self.model(**self.inputs(images[i : i + batch])).logits for i in starts])

    @torch.inference_mode()
    def last_attention(self, images: list[Image.Image], batch: int = 20) -> Tensor:
        """[CLS] attention of the last layer, mean over heads: (n, 14, 14)."""
        parts = []
        for i in range(0, len(images), batch):
            out = self.model(**self.inputs(images[i : i + batch]), output_attentions=True)
            parts.append(out.attentions[-1][:, :, 0, 1:].mean(1))
        return torch.cat(parts).unflatten(1, (SIDE // PATCH, SIDE // PATCH))


def read_pictures(path: Path, rows: list[int] | None = None) -> tuple[list[Image.Image], Tensor]:
    """Pictures and labels of a parquet file (columns ``img`` or ``image``, and ``label``)."""
    import pyarrow.parquet as pq

    table = pq.read_table(path)
    table = table if rows is None else table.take(rows)
    column = "img" if "img" in table.column_names else "image"
    files = table[column].to_pylist()
    images = [Image.open(io.BytesIO(file["bytes"])).convert("RGB") for file in files]
    return images, torch.tensor(table["label"].to_pylist())


def held_out_rows(real: Path) -> list[int]:
    """Rows of Tiny-ImageNet that training held out, ordered by class."""
    import pyarrow.parquet as pq

    labels = pq.read_table(real / "tiny-imagenet-train.parquet", columns=["label"])["label"]
    labels = torch.tensor(labels.to_pylist())
    rows = photographs.hold_out(labels, photographs.HELD_OUT_A_CLASS).nonzero().squeeze(1)
    return rows[labels[rows].argsort(stable=True)].tolist()


def attention_on_object(attention: Tensor, boxes: Tensor) -> float:
    """The box's share of the attention over its share of the area, mean over pictures.

    Args:
        attention: (n, 14, 14).
        boxes: left, top, right, bottom in pictures of 64 pixels, (n, 4).
    """
    edges = torch.arange(15) * 64 / 14
    shares = []
    for grid, (left, upper, right, lower) in zip(attention, boxes.tolist(), strict=True):
        x = (edges[1:].clamp(max=right) - edges[:-1].clamp(min=left)).clamp(min=0)
        y = (edges[1:].clamp(max=lower) - edges[:-1].clamp(min=upper)).clamp(min=0)
        cover = y[:, None] * x[None] / (64 / 14) ** 2
        if 0 < cover.mean() < 0.9:  # a box around everything says nothing
            shares.append((grid / grid.sum() * cover).sum() / cover.mean())
    return torch.stack(shares).mean().item()


def name_photographs(judge: Judge) -> dict[str, tuple[str, float, bool]]:
    """What the model says to each photograph of the kit: class, per cent, and whether right."""
    files = sorted((KIT / "photos").glob("*.jpg"))
    images = [Image.open(file).convert("RGB") for file in files]
    said = {}
    for file, row in zip(files, judge.logits(images).softmax(1), strict=True):
        name = judge.names[int(row.argmax())].split(",")[0]
        said[file.stem] = name, 100 * row.max().item(), name in RIGHT[file.stem]
    return said


def cifar10_probe(folder: Path, real: Path, count: int = 5000) -> float:
    """Accuracy (0 to 1) of the linear probe that ``python -m benchmarks photographs`` measures."""
    runtime.start()
    shots = cifar10.Photographs(real, models.load_processor(folder))
    return cifar10.probe(models.load_with_new_head(shots.names, folder), shots, count)["accuracy"]


def int8_agreement(judge: Judge, images: list[Image.Image]) -> float:
    """Per cent of the pictures that ONNX Runtime's dynamic int8 names as float32 does."""
    from onnxruntime import InferenceSession
    from onnxruntime.quantization import QuantType, quantize_dynamic

    with tempfile.TemporaryDirectory() as folder:
        whole, small = Path(folder) / "fp32.onnx", Path(folder) / "int8.onnx"
        example = judge.inputs(images[:2])["pixel_values"]
        torch.onnx.export(
            judge.model,
            (example,),
            whole,
            dynamo=True,
            external_data=False,
            input_names=["pixel_values"],
            dynamic_shapes=({0: torch.export.Dim("batch")},),
        )
        quantize_dynamic(whole, small, weight_type=QuantType.QInt8)
        sessions = [InferenceSession(str(path)) for path in (whole, small)]
    same = 0
    for image in tqdm(images, desc="int8", leave=False, disable=None):
        pixels = judge.inputs([image])["pixel_values"].numpy()
        answers = [s.run(None, {"pixel_values": pixels})[0].argmax() for s in sessions]
        same += int(answers[0] == answers[1])
    return 100 * same / len(images)


def calibrate(folder: Path, real: Path) -> float:
    """Divide the head by the temperature that fits the first half of the held-out photographs."""
    from safetensors.torch import load_file, save_file

    judge = Judge(folder)
    images, labels = read_pictures(real / "tiny-imagenet-train.parquet", held_out_rows(real)[::2])
    temperature = fit_temperature(judge.logits(images, "calibrating"), labels)
    path = folder / "model.safetensors"
    state = load_file(path)
    for name in ("classifier.weight", "classifier.bias"):
        state[name] = (state[name].float() / temperature).half()
    partial = path.with_suffix(".partial")
    save_file(state, partial, metadata={"format": "pt"})
    partial.chmod(0o644)  # safetensors makes it readable for its owner only
    partial.replace(path)
    return temperature


def write_held_out(logits: Tensor, labels: Tensor, names: list[str], path: Path) -> None:
    """The model's answers to the second half of the held-out photographs: ``logits``, ``label``.

    The photographs themselves may not be passed on; the answers to them may.
    """
    import datasets

    features = datasets.Features(
        {
            "logits": datasets.Sequence(datasets.Value("float16"), len(names)),
            "label": datasets.ClassLabel(names=names),
        }
    )
    rows = {"logits": logits.half().numpy(), "label": labels.numpy()}
    path.parent.mkdir(parents=True, exist_ok=True)
    datasets.Dataset.from_dict(rows, features=features).to_parquet(path)


def run(folder: Path = MODEL, real: Path | None = None) -> str:
    """Measure everything; write ``heldout/test.parquet`` for the kit's own model; the table."""
    import pyarrow.parquet as pq

    real = photographs.find_real(real)
    judge = Judge(folder)
    rows = held_out_rows(real)
    images, labels = read_pictures(real / "tiny-imagenet-train.parquet", rows)
    logits = judge.logits(images, "Tiny-ImageNet")
    table = {
        "Tiny-ImageNet, 2,000 held-out photographs, 200 classes, top-1 / top-5": (
            f"{top(logits, labels):.1f} / {top(logits, labels, 5):.1f} %"
        ),
        "expected calibration error, the 1,000 of them that the temperature was not fitted on": (
            f"{calibration_error(logits[1::2], labels[1::2]):.1f} %"
        ),
    }
    if folder.resolve() == MODEL.resolve():
        write_held_out(logits[1::2], labels[1::2], judge.names, KIT / "heldout" / "test.parquet")
    boxes = pq.read_table(real / "tiny-imagenet-boxes.parquet").take(rows[::4])["box"]
    attention = judge.last_attention(images[::4])
    share = attention_on_object(attention, torch.tensor(boxes.to_pylist()))
    table[
        "share of the last layer's [CLS] attention that falls on the object's box, over the "
        "box's share of the area (500 of the photographs)"
    ] = f"{share:.2f}"
    said = name_photographs(judge)
    right = sum(good for _, _, good in said.values())
    words = ", ".join(f"{file}: {name} {share:.0f} %" for file, (name, share, _) in said.items())
    table["the photographs of the kit, a right class first"] = f"{right} of {len(said)} ({words})"
    table["CIFAR-10, linear probe on 5,000 photographs, 1,000 of the test split"] = (
        f"{100 * cifar10_probe(folder, real):.1f} %"
    )
    table[
        "ONNX Runtime dynamic int8 against float32, the same first class, 1,000 held-out "
        "photographs"
    ] = f"{int8_agreement(judge, images[1::2]):.1f} %"
    return "\n".join(
        ["| what | measured |", "|---|---|", *(f"| {a} | {b} |" for a, b in table.items())]
    )


def main() -> None:
    """The command line; see the head of this file."""
    parser = argparse.ArgumentParser(description="Measure the small network of the offline kit.")
    parser.add_argument("--model", type=Path, default=MODEL)
    parser.add_argument("--real", type=Path, default=os.environ.get("VIT_REAL_PHOTOS"))
    args = parser.parse_args()
    print(run(args.model, args.real))


if __name__ == "__main__":
    try:
        main()
    except CourseError as error:
        raise SystemExit(str(error)) from None
