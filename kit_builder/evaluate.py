"""Measures the offline model: ``python -m kit_builder.evaluate [--slow]``.

Prints the table of the model card; the rows for which notebooks are run only with ``--slow``
(some minutes more). Every picture is seen as a reader of the course would show it: 224 pixels,
all patches, through the classes and the saved processor of ``transformers``. The held-out
pictures are drawn anew, always the same ones: artists that no training saw, in chance sizes,
places and turns, on chance backgrounds.
"""

from __future__ import annotations

import argparse
import io
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from tqdm.auto import tqdm

from vit_helpers.offline_kit import KIT

from . import artwork, lessons
from .classes import CIFAR10_CLASSES, DRAWN_CLASSES, MODEL_LABELS

MODEL_DIR = KIT / "quarter"
SIDE, PATCH = 224, 16
HELD_OUT = KIT / "heldout" / "test.parquet"
INT8_PICTURES = 1000


@dataclass(frozen=True)
class HeldOut:
    """One picture of a drawing by an artist that no training saw."""

    image: Image.Image
    label: int
    drawing: int  # number of the drawing: several pictures show the same one
    outline: np.ndarray  # float (224, 224), 1 where the object covers the background


def background(rng: np.random.Generator) -> np.ndarray:
    """A plain, shaded, cloudy or grainy background, float (224, 224, 3) in 0..255."""
    kind = rng.integers(4)
    cells = (1, 2, 4, 7)[kind]
    colour = rng.uniform(0, 255, 3)
    spread = (0, 60, 50, 35)[kind]
    blobs = np.clip(colour + spread * rng.standard_normal((cells, cells, 3)), 0, 255)
    image = Image.fromarray(blobs.astype(np.uint8)).resize((SIDE, SIDE), Image.Resampling.BICUBIC)
    pixels = np.asarray(image, dtype=np.float32)
    return pixels + (kind == 3) * 12 * rng.standard_normal(pixels.shape)


def place(rgba: np.ndarray, rng: np.random.Generator) -> tuple[Image.Image, np.ndarray]:
    """Put a drawing (224, 224, 4) somewhere on a background: picture and outline."""
    drawing = Image.fromarray(rgba)
    if rng.random() < 0.5:
        drawing = drawing.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    size = int(rng.integers(110, 211))
    turn = float(np.clip(10 * rng.standard_normal(), -25, 25))
    # Colours are multiplied by alpha before resampling, or edges would get dark seams.
    drawing = drawing.convert("RGBa").rotate(turn, Image.Resampling.BICUBIC)
    drawing = drawing.resize((size, size), Image.Resampling.BICUBIC)
    pixels = np.frombuffer(drawing.tobytes(), np.uint8).reshape(size, size, 4).astype(np.float32)
    canvas = np.zeros((SIDE, SIDE, 4), np.float32)
    top, left = rng.integers(0, SIDE - size + 1, 2)
    canvas[top : top + size, left : left + size] = pixels
    alpha = canvas[..., 3:] / 255
    mixed = canvas[..., :3] + (1 - alpha) * background(rng)
    return Image.fromarray(np.clip(mixed, 0, 255).astype(np.uint8)), alpha[..., 0]


def held_out_pictures(views: int, seed: int = 2024) -> list[HeldOut]:
    """Every drawn class by every unseen artist who drew it, ``views`` pictures each."""
    rng = np.random.default_rng(seed)
    pictures, drawing = [], 0
    for label, name in enumerate(DRAWN_CLASSES, start=len(CIFAR10_CLASSES)):
        for set_name in artwork.UNSEEN_SETS:
            if artwork.has(set_name, name):
                rgba = np.array(artwork.render(set_name, name, SIDE))
                for _ in range(views):
                    image, outline = place(rgba, rng)
                    pictures.append(HeldOut(image, label, drawing, outline))
                drawing += 1
    return pictures


def write_held_out(path: Path, side: int = 112) -> None:
    """Keep one held-out picture per class beside the weights, for tests without the artwork.

    Columns ``image`` (WebP of 112 pixels) and ``label``; about half a megabyte.
    """
    import datasets
    import pyarrow as pa
    import pyarrow.parquet as pq

    first: dict[int, Image.Image] = {}
    for picture in held_out_pictures(views=1):
        first.setdefault(picture.label, picture.image)
    files = []
    for image in first.values():
        buffer = io.BytesIO()
        small = image.resize((side, side), Image.Resampling.LANCZOS)
        small.save(buffer, "WEBP", quality=80, method=6)
        files.append({"bytes": buffer.getvalue(), "path": None})
    names = datasets.ClassLabel(names=list(MODEL_LABELS))
    schema = datasets.Features({"image": datasets.Image(), "label": names}).arrow_schema
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table({"image": files, "label": list(first)}, schema=schema), path)


def read_pictures(path: Path) -> tuple[list[Image.Image], Tensor]:
    """Pictures and labels of a parquet file with columns ``img`` or ``image``, and ``label``."""
    import pyarrow.parquet as pq

    table = pq.read_table(path)
    column = "img" if "img" in table.column_names else "image"
    files = table[column].to_pylist()
    images = [Image.open(io.BytesIO(file["bytes"])).convert("RGB") for file in files]
    return images, torch.tensor(table["label"].to_pylist())


class Judge:
    """The saved model as the course loads it, eager attention included."""

    def __init__(self, model_dir: Path = MODEL_DIR) -> None:
        from transformers import AutoImageProcessor, ViTForImageClassification

        self.processor = AutoImageProcessor.from_pretrained(model_dir)
        self.model = ViTForImageClassification.from_pretrained(
            model_dir, attn_implementation="eager", dtype=torch.float32, use_safetensors=True
        ).eval()

    @torch.inference_mode()
    def logits(self, images: list[Image.Image], what: str, batch: int = 32) -> Tensor:
        """(n, labels), with a progress bar."""
        starts = tqdm(range(0, len(images), batch), desc=what, leave=False)
        return torch.cat([self.model(**self.inputs(images[i : i + batch])).logits for i in starts])

    def inputs(self, images: list[Image.Image]) -> dict:
        """Pixel values as the saved processor makes them."""
        return self.processor(images=images, return_tensors="pt")

    @torch.inference_mode()
    def last_attention(self, images: list[Image.Image], batch: int = 20) -> Tensor:
        """[CLS] attention of the last layer, mean over heads: (n, 14, 14)."""
        parts = []
        for i in range(0, len(images), batch):
            out = self.model(**self.inputs(images[i : i + batch]), output_attentions=True)
            parts.append(out.attentions[-1][:, :, 0, 1:].mean(1))
        return torch.cat(parts).unflatten(1, (SIDE // PATCH, SIDE // PATCH))


def top(logits: Tensor, labels: Tensor, k: int = 1) -> float:
    """Per cent of the rows whose label is among the k highest logits."""
    return 100 * (logits.topk(k).indices == labels[:, None]).any(1).float().mean().item()


def fit_temperature(logits: Tensor, labels: Tensor) -> float:
    """The temperature with the smallest negative log-likelihood (Guo et al. 2017)."""
    candidates = torch.logspace(-1, 1, 401)
    losses = [torch.nn.functional.cross_entropy(logits / t, labels) for t in candidates]
    return candidates[int(torch.stack(losses).argmin())].item()


def calibration_error(logits: Tensor, labels: Tensor, bins: int = 15) -> float:
    """Expected calibration error in per cent (Naeini et al. 2015).

    How far confidence lies from accuracy, averaged over equally wide bins of confidence.
    """
    confidence, answer = logits.softmax(1).max(1)
    right = (answer == labels).float()
    which = (confidence * bins).long().clamp_max(bins - 1)
    error = 0.0
    for b in range(bins):
        inside = which == b
        if inside.any():
            gap = (right[inside].mean() - confidence[inside].mean()).abs().item()
            error += gap * inside.float().mean().item()
    return 100 * error


def attention_on_object(judge: Judge, pictures: list[HeldOut], count: int = 200) -> float:
    """The object's share of the last layer's mean [CLS] attention over its share of the area.

    1 means that attention falls anywhere; evenly spaced pictures are taken.
    """
    chosen = [pictures[i] for i in np.linspace(0, len(pictures) - 1, count).astype(int)]
    attention = judge.last_attention([p.image for p in chosen])
    attention = attention / attention.sum(dim=(1, 2), keepdim=True)
    outlines = torch.from_numpy(np.stack([p.outline for p in chosen]))
    cover = torch.nn.functional.avg_pool2d(outlines[:, None], PATCH)[:, 0]
    return ((attention * cover).sum() / cover.mean(dim=(1, 2)).sum()).item()


def name_photographs(judge: Judge) -> dict[str, str]:
    """What the model says to each photograph of the kit, whose file name is the right class."""
    files = [p for p in sorted((KIT / "photos").glob("*.jpg")) if "_and_" not in p.stem]
    images = [Image.open(file).convert("RGB") for file in files]
    answers = {}
    for file, row in zip(files, judge.logits(images, "samples").softmax(1), strict=True):
        best = int(row.argmax())
        answers[file.stem] = f"{judge.model.config.id2label[best]} ({100 * row[best]:.0f} %)"
    return answers


def first_half(pictures: list[HeldOut]) -> Tensor:
    """True for the pictures of every second drawing: temperatures are fitted on these."""
    return torch.tensor([p.drawing % 2 == 0 for p in pictures])


def calibrate(model_dir: Path = MODEL_DIR) -> float:
    """Divide the head of a saved model by the temperature fitted on half of the drawings.

    The answers stay the same; the probabilities become ones that can be believed.
    """
    from safetensors.torch import load_file, save_file

    judge = Judge(model_dir)
    pictures = held_out_pictures(views=2)
    half = [p for p, chosen in zip(pictures, first_half(pictures), strict=True) if chosen]
    logits = judge.logits([p.image for p in half], "calibrating")
    temperature = fit_temperature(logits, torch.tensor([p.label for p in half]))
    path = model_dir / "model.safetensors"
    state = load_file(path)
    for name in ("classifier.weight", "classifier.bias"):
        state[name] = (state[name].float() / temperature).half()
    partial = path.with_suffix(".partial")
    save_file(state, partial, metadata={"format": "pt"})
    partial.chmod(0o644)  # safetensors makes it readable for its owner only
    partial.replace(path)
    return temperature


def int8_agreement(judge: Judge, pictures: list[HeldOut], count: int = INT8_PICTURES) -> float:
    """Share (0 to 1) of evenly spaced pictures that dynamic int8 names as float32 does."""
    chosen = [pictures[i].image for i in np.linspace(0, len(pictures) - 1, count).astype(int)]
    pixels = (judge.inputs([p])["pixel_values"] for p in tqdm(chosen, desc="int8", leave=False))
    with Image.open(KIT / "photos" / "cat.jpg") as photo:
        other = judge.inputs([photo.convert("RGB")])["pixel_values"]
    return lessons.int8_agreement(judge.model, pixels, other)


def run(
    model_dir: Path = MODEL_DIR, *, real: Path | None = None, slow: bool = False
) -> dict[str, Any]:
    """Measure, print the table and return its figures by name.

    Args:
        model_dir: the model.
        real: folder with ``cifar10-test-1000.parquet``; if not given, the environment variable
            ``VIT_REAL_PHOTOS`` names it. Without that file its rows stay empty.
        slow: whether to run notebooks 02 and 04 too. They use the model of the kit.
    """
    judge = Judge(model_dir)
    figures: dict[str, Any] = {}

    folder = real or os.environ.get("VIT_REAL_PHOTOS")
    if folder and (Path(folder) / "cifar10-test-1000.parquet").exists():
        real_file = Path(folder) / "cifar10-test-1000.parquet"
        images, labels = read_pictures(real_file)
        logits = judge.logits(images, "photographs")
        figures["photographs_top1"] = top(logits[:, : len(CIFAR10_CLASSES)], labels)
        figures["photographs_top1_all"] = top(logits, labels)

    pictures = held_out_pictures(views=4)
    labels = torch.tensor([p.label for p in pictures])
    logits = judge.logits([p.image for p in pictures], "drawings")
    figures["drawn_pictures"] = len(pictures)
    figures["drawn_top1"] = top(logits, labels)
    figures["drawn_top5"] = top(logits, labels, 5)
    # Fitted and measured on different drawings, not only on different pictures of the same.
    even = first_half(pictures)
    temperature = fit_temperature(logits[even], labels[even])
    figures["temperature"] = temperature
    figures["calibration_error"] = calibration_error(logits[~even] / temperature, labels[~even])
    figures["attention_on_object"] = attention_on_object(judge, pictures)

    images, labels = read_pictures(HELD_OUT)
    logits = judge.logits(images, "small set")
    figures["small_top1"], figures["small_top5"] = top(logits, labels), top(logits, labels, 5)

    answers = name_photographs(judge)
    figures["sample"] = answers.pop("cat")
    figures["others_right"] = sum(said.startswith(f"{name} (") for name, said in answers.items())
    figures["others"] = ", ".join(f"{name}: {said}" for name, said in answers.items())

    figures["int8_agreement"] = 100 * int8_agreement(judge, pictures)
    if slow:
        tuned = lessons.figures_of("02")
        figures["cifar10_twin"] = tuned["test"]
        figures["cifar10_twin_gain"] = tuned["first epoch"] - tuned["from scratch"]
        figures["flowers_twin"] = lessons.figures_of("04")["test"]
        figures["flowers_twin_scratch"] = 100 * lessons.flowers_from_scratch()
    print(table(figures))
    return figures


def table(figures: dict[str, Any]) -> str:
    """The figures as a Markdown table."""
    missing = "not measured here"
    photographs = figures.get("photographs_top1")
    share = f"{photographs:.1f} %" if photographs is not None else missing
    among_all = figures.get("photographs_top1_all")
    share_all = f"{among_all:.1f} %" if among_all is not None else missing
    drawn = f"{figures['drawn_top1']:.1f} / {figures['drawn_top5']:.1f} %"
    temperature = f"(temperature {figures['temperature']:.2f})"
    cifar10 = flowers = "measured with `--slow`"
    if "flowers_twin" in figures:
        gain = figures["cifar10_twin_gain"]
        cifar10 = f"{figures['cifar10_twin']:.1f} %; {gain:.1f} points"
        gain = figures["flowers_twin"] - figures["flowers_twin_scratch"]
        flowers = f"{figures['flowers_twin']:.1f} %; {gain:.1f} points"
    rows = [
        ("real CIFAR-10 photographs (1,000), top-1 among the ten", share),
        (f"the same, top-1 among all {len(CIFAR10_CLASSES) + len(DRAWN_CLASSES)}", share_all),
        (
            f"{len(DRAWN_CLASSES)} drawn classes, artists never seen "
            f"({figures['drawn_pictures']:,} pictures), top-1 / top-5",
            drawn,
        ),
        (
            "the small held-out set beside the weights (one picture a class), top-1 / top-5",
            f"{figures['small_top1']:.1f} / {figures['small_top5']:.1f} %",
        ),
        ("the sample photograph (a cat) is named", figures["sample"]),
        (
            "the other sharp photographs in `photos/`, all 204 labels allowed",
            f"{figures['others_right']} right ({figures['others']})",
        ),
        (
            f"expected calibration error on unseen artists {temperature}",
            f"{figures['calibration_error']:.1f} %",
        ),
        (
            "object's share of the last layer's [CLS] attention over its share of the area",
            f"{figures['attention_on_object']:.2f}",
        ),
        (
            "fine-tuning on the CIFAR-10 twin (notebook 02, `quick`), unseen artists; after one "
            "epoch, above the same network from scratch",
            cifar10,
        ),
        (
            "the Flowers-102 twin, ten pictures a class, 8 blocks frozen (notebook 04, `quick`), "
            "unseen artists; above the same network from scratch",
            flowers,
        ),
        (
            f"ONNX dynamic int8 against float32: the same class first ({INT8_PICTURES:,} held-out "
            "drawings)",
            f"{figures['int8_agreement']:.1f} %",
        ),
    ]
    lines = ["| what | measured |", "|---|---|", *(f"| {a} | {b} |" for a, b in rows)]
    return "\n".join(lines)


def main() -> None:
    """Command line: ``python -m kit_builder.evaluate``."""
    parser = argparse.ArgumentParser(description="Measure the small network of the offline kit.")
    parser.add_argument("--model", type=Path, default=MODEL_DIR)
    parser.add_argument("--real", type=Path, help="folder with cifar10-test-1000.parquet")
    parser.add_argument("--slow", action="store_true", help="also run notebooks 02 and 04")
    args = parser.parse_args()
    if args.slow and args.model.resolve() != MODEL_DIR.resolve():
        parser.error("--slow measures the model of the kit: leave --model away.")
    run(args.model, real=args.real, slow=args.slow)


if __name__ == "__main__":
    main()
