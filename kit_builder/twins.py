"""The two data twins: pictures drawn from open artwork, in the schema of the real data sets.

And ``my_folder``: 64 drawings in the layout that ``load_dataset("imagefolder")`` reads.

========== ============================== ======================================== ==============
twin       columns                        splits                                   pictures
========== ============================== ======================================== ==============
cifar10    ``img``, ``label`` (10 names)  train 2,000, test 1,000, validation 400  32 x 32, PNG
flowers102 ``image``, ``label`` (102)     train, validation, test: 1,020 each      160 x 160, WebP
========== ============================== ======================================== ==============

**Split by artist.** No artist has drawn for two splits (:data:`SPLIT_SETS`). :func:`plan` decides
for every picture which drawing it shows; the finished parquet files carry the same list in their
metadata, and :func:`sources` reads it back.

**Not won by colour.** The background is chosen without looking at the class; size, place, turn,
mirroring, light and tint vary; and a picture that would be a near copy of an earlier one
(:func:`dhash`) is drawn again. Everything follows from :data:`SEED`.
"""

from __future__ import annotations

import io
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageFilter

from vit_helpers.errors import CourseError
from vit_helpers.offline_kit import KIT

from . import artwork
from .classes import CIFAR10_DESIGNS, FLOWERS_DESIGNS, FOLDER_DESIGNS

if TYPE_CHECKING:
    import datasets
    import pyarrow as pa

_SOURCES = b"sources"  # key in the parquet metadata
SEED = 2021  # the year in which the Vision Transformer was published at ICLR

# Which icon sets each split is drawn from.
SPLIT_SETS: dict[str, dict[str, tuple[str, ...]]] = {
    "cifar10": {
        "train": ("noto", "noto-v1", "fluent-emoji", "fluent-emoji-flat"),
        "test": artwork.UNSEEN_SETS,
        "validation": ("emojione",),
    },
    "flowers102": {
        "train": ("noto", "noto-v1", "fluent-emoji", "fluent-emoji-flat"),
        "validation": ("emojione",),
        "test": artwork.UNSEEN_SETS,
    },
    "my_folder": {"all": (*artwork.TRAIN_SETS, *artwork.UNSEEN_SETS)},
}

# Two thirds of the cat drawings are faces; whole cats come up more often to make up for it.
_WEIGHT = {"cat": 5, "black-cat": 5, "cat-face": 2}

BACKGROUNDS = ("gradient", "spotlight", "horizon", "room", "stripes", "bokeh", "clouds")

# A drawing that stands out less than this from what is behind it is drawn again (see draw).
LEAST_CONTRAST = 0.18

# Two pictures whose 256-bit hashes differ in fewer bits than this count as near copies.
NEAR_COPY = 26


@dataclass(frozen=True)
class Twin:
    """What sets one twin apart from the other."""

    image_column: str
    designs: dict[str, tuple[str, ...]]
    per_class: dict[str, int]  # pictures a class, by split
    side: int  # pixels
    oversample: int  # drawn this many times larger, then reduced
    size: tuple[float, float]  # longest side of the drawing over the side of the picture
    turn: float  # largest rotation, degrees
    hue: float  # largest shift of the drawing's hue, as a share of the colour circle
    format: str


TWINS: dict[str, Twin] = {
    "cifar10": Twin(
        "img",
        CIFAR10_DESIGNS,
        {"train": 200, "test": 100, "validation": 40},
        side=32,
        oversample=4,
        size=(0.55, 0.95),
        turn=20,
        hue=0.08,
        format="PNG",
    ),
    "flowers102": Twin(
        "image",
        FLOWERS_DESIGNS,
        {"train": 10, "validation": 10, "test": 10},
        side=160,
        oversample=2,
        size=(0.5, 0.92),
        turn=25,
        hue=0.015,
        format="WEBP",
    ),
}

# What a learner's own pictures look like on a disk: a folder a class.
FOLDER = Twin(
    "image",
    FOLDER_DESIGNS,
    {"all": 16},
    side=160,
    oversample=2,
    size=(0.5, 0.92),
    turn=25,
    hue=0.015,
    format="WEBP",
)


@dataclass(frozen=True)
class Picture:
    """The plan of one picture: what it shows and on what, before anything is drawn."""

    index: int  # row in its split
    label: int
    set_name: str
    icon: str
    background: str


def _rng(*key: int) -> np.random.Generator:
    return np.random.default_rng([SEED, *key])


def _keys(twin: str, split: str) -> tuple[int, int]:
    return [*TWINS, "my_folder"].index(twin), list(SPLIT_SETS[twin]).index(split)


def plan(twin: str, split: str) -> list[Picture]:
    """Which drawing stands in which row. Deterministic, and cheap: nothing is drawn.

    Rows go round by round through all classes, each time in another order, so any first
    ``n * number_of_classes`` rows are balanced.

    Args:
        twin: ``cifar10`` or ``flowers102``.
        split: a key of ``SPLIT_SETS[twin]``.
    """
    spec = TWINS.get(twin, FOLDER)
    rng = _rng(*_keys(twin, split))
    per_class = spec.per_class[split]
    columns = []  # per class: its drawings in the order in which they are used
    for icons in spec.designs.values():
        by_set = {
            name: [i for i in icons for _ in range(_WEIGHT.get(i, 1)) if artwork.has(name, i)]
            for name in SPLIT_SETS[twin][split]
        }
        by_set = {name: found for name, found in by_set.items() if found}
        columns.append(list(_deal(by_set, per_class, rng)))
    pictures: list[Picture] = []
    backgrounds = np.resize(np.arange(len(BACKGROUNDS)), per_class)
    kinds = np.stack([rng.permutation(backgrounds) for _ in columns])  # (classes, per_class)
    for round_ in range(per_class):
        for label in rng.permutation(len(columns)).tolist():
            set_name, icon = columns[label][round_]
            kind = BACKGROUNDS[kinds[label, round_]]
            pictures.append(Picture(len(pictures), label, set_name, icon, kind))
    return pictures


def _deal(
    by_set: dict[str, list[str]], count: int, rng: np.random.Generator
) -> Iterator[tuple[str, str]]:
    """Yield ``count`` pairs (set, icon): sets in turn, and within a set all icons in turn."""
    decks: dict[str, list[str]] = {name: [] for name in by_set}
    order = rng.permutation(list(by_set)).tolist()
    for i in range(count):
        name = order[i % len(order)]
        if not decks[name]:
            decks[name] = rng.permutation(by_set[name]).tolist()
        yield name, decks[name].pop()


# --- drawing -----------------------------------------------------------------------------------


def _hsv(h: float, s: float, v: float) -> np.ndarray:
    """One colour, each component in 0..1 -> float array (3,) in 0..1."""
    i = np.array([5.0, 3.0, 1.0])
    k = (i + 6.0 * (h % 1.0)) % 6.0
    return v - v * s * np.clip(np.minimum(k, 4.0 - k), 0.0, 1.0)


def _palette(rng: np.random.Generator, n: int) -> np.ndarray:
    """n colours that go together, from one random hue: float array (n, 3)."""
    hue = rng.uniform()
    out = []
    for _ in range(n):
        out.append(_hsv(hue + rng.normal(0, 0.12), rng.uniform(0.05, 0.6), rng.uniform(0.35, 1.0)))
    return np.stack(out)


def _mix(a: np.ndarray, b: np.ndarray, t: np.ndarray) -> np.ndarray:
    """Blend colours (3,) by a weight map (h, w) -> (h, w, 3)."""
    return a + (b - a) * t[..., None]


def _soft_noise(rng: np.random.Generator, side: int, cells: int) -> np.ndarray:
    """Smooth random field (side, side) in 0..1 with about ``cells`` bumps along a side."""
    small = Image.fromarray(rng.uniform(0, 255, (cells + 1, cells + 1)).astype(np.uint8))
    return np.asarray(small.resize((side, side), Image.Resampling.BICUBIC), np.float32) / 255


def background(kind: str, side: int, rng: np.random.Generator) -> np.ndarray:
    """Draw one background.

    Args:
        kind: one of :data:`BACKGROUNDS`.
        side: pixels.
        rng: source of all randomness.

    Returns:
        float32 array (side, side, 3) in 0..1.
    """
    y, x = np.mgrid[0:side, 0:side].astype(np.float32) / side
    colours = _palette(rng, 4)
    angle = rng.uniform(0, 2 * np.pi)
    along = (x - 0.5) * np.cos(angle) + (y - 0.5) * np.sin(angle)  # -0.7 .. 0.7
    if kind == "gradient":
        out = _mix(colours[0], colours[1], np.clip(along + 0.5, 0, 1))
    elif kind == "spotlight":
        cx, cy, radius = rng.uniform(0.2, 0.8), rng.uniform(0.2, 0.8), rng.uniform(0.5, 1.0)
        out = _mix(colours[0], colours[1], np.clip(np.hypot(x - cx, y - cy) / radius, 0, 1))
    elif kind == "horizon":
        # A sky that fades towards the horizon, and two bands of rolling ground; half of them in
        # the colours of a landscape (blue above, green or sand below).
        if rng.uniform() < 0.5:
            colours[0] = _hsv(rng.uniform(0.5, 0.62), rng.uniform(0.1, 0.55), rng.uniform(0.7, 1))
            for band in (1, 2):
                hue = rng.choice([rng.uniform(0.22, 0.38), rng.uniform(0.06, 0.14)])
                colours[band] = _hsv(hue, rng.uniform(0.2, 0.6), rng.uniform(0.4, 0.9))
        level = rng.uniform(0.35, 0.75)
        out = _mix(colours[0], 0.5 + 0.5 * colours[0], np.clip(y / level, 0, 1))
        for band, colour in enumerate(colours[1:3]):
            waves = rng.uniform(0.5, 2.0), rng.uniform(0, 2 * np.pi), rng.uniform(0.0, 0.06)
            edge = level + 0.14 * band + waves[2] * np.sin(2 * np.pi * waves[0] * x + waves[1])
            cover = np.clip((y - edge) * side / 2 + 0.5, 0, 1)
            ground = _mix(colour, 0.6 * colour, np.clip(y - edge, 0, 1))
            out = out + (ground - out) * cover[..., None]
    elif kind == "room":
        # A wall that light falls on from one side, and a floor.
        level = rng.uniform(0.55, 0.8)
        wall = _mix(colours[0], 0.75 * colours[0], np.clip(along + 0.5, 0, 1))
        floor = _mix(0.7 * colours[1], colours[1], np.clip((y - level) / (1 - level), 0, 1))
        out = np.where((y > level)[..., None], floor, wall)
    elif kind == "stripes":
        period = rng.uniform(0.12, 0.4)
        wave = np.clip(0.5 + 3 * np.sin(2 * np.pi * along / period), 0, 1)
        strength = rng.uniform(0.25, 0.6)
        out = _mix(colours[0], colours[0] + strength * (colours[1] - colours[0]), wave)
    elif kind == "bokeh":
        # Lights out of focus.
        out = _mix(0.8 * colours[0], colours[0], np.clip(along + 0.5, 0, 1))
        for colour in np.concatenate([colours, _palette(rng, 4)]):
            cx, cy, radius = rng.uniform(0, 1), rng.uniform(0, 1), rng.uniform(0.08, 0.28)
            disc = np.clip((radius - np.hypot(x - cx, y - cy)) * 14, 0, 1) * rng.uniform(0.25, 0.6)
            out = out + (colour - out) * disc[..., None]
    elif kind == "clouds":
        field = 0.65 * _soft_noise(rng, side, 3) + 0.35 * _soft_noise(rng, side, 8)
        out = _mix(colours[0], colours[1], np.clip(2.2 * field - 0.6, 0, 1))
    else:
        raise ValueError(f"unknown background {kind!r}")
    return np.clip(out, 0, 1).astype(np.float32)


def _tint(icon: Image.Image, hue: float, saturation: float, value: float) -> Image.Image:
    """Shift the hue (share of the circle) and scale saturation and value of an RGBA image."""
    alpha = icon.getchannel("A")
    h, s, v = icon.convert("RGB").convert("HSV").split()
    h = h.point([int(round(i + 255 * hue)) % 256 for i in range(256)])
    s = s.point([min(255, int(round(i * saturation))) for i in range(256)])
    v = v.point([min(255, int(round(i * value))) for i in range(256)])
    out = Image.merge("HSV", (h, s, v)).convert("RGB")
    out.putalpha(alpha)
    return out


def draw(twin: str, split: str, picture: Picture, attempt: int = 0) -> tuple[Image.Image, float]:
    """Draw one picture of the plan.

    Args:
        twin: ``cifar10`` or ``flowers102``.
        split: split of the twin.
        picture: an entry of ``plan(twin, split)``.
        attempt: another number gives another pose, light and palette of the same plan.

    Returns:
        The RGB picture, and how far the drawing stands out from what is behind it: mean absolute
        difference of the channels over the drawing's area, 0 to 1.
    """
    spec = TWINS.get(twin, FOLDER)
    rng = _rng(*_keys(twin, split), 1 + picture.index, attempt)
    side = spec.side * spec.oversample
    back = background(picture.background, side, rng)

    # The drawing alone: cut to its outline, tinted, mirrored, scaled, turned.
    icon = Image.fromarray(artwork.render(picture.set_name, picture.icon, 256))
    icon = icon.crop(icon.getchannel("A").point(lambda a: 255 * (a > 8)).getbbox())
    hue = rng.uniform(-spec.hue, spec.hue)
    icon = _tint(icon, hue, rng.uniform(0.75, 1.2), rng.uniform(0.85, 1.1))
    if rng.uniform() < 0.5:
        icon = icon.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    longest = rng.uniform(*spec.size) * side
    scale = longest / max(icon.size)
    size = [max(1, round(s * scale)) for s in icon.size]
    # Premultiplied alpha ("RGBa") keeps dark fringes away from the outline.
    icon = icon.convert("RGBa").resize(size, Image.Resampling.LANCZOS)
    icon = icon.rotate(rng.uniform(-spec.turn, spec.turn), Image.Resampling.BICUBIC, expand=True)
    w, h = icon.size
    left = round(rng.uniform(min(0, side - w), max(0, side - w)))
    top = round(rng.uniform(min(0, side - h), max(0, side - h)))
    layer = Image.new("RGBa", (side, side))
    layer.paste(icon, (left, top))
    pixels = np.asarray(layer, np.float32) / 255
    colour, alpha = pixels[..., :3], pixels[..., 3:]

    # A soft shadow, thrown down and to one side.
    shift = side * rng.uniform(0.01, 0.05)
    shadow = layer.getchannel("a").filter(ImageFilter.GaussianBlur(side * rng.uniform(0.01, 0.04)))
    shadow = shadow.transform(
        (side, side), Image.Transform.AFFINE, (1, 0, rng.uniform(-1, 1) * shift, 0, 1, -shift)
    )
    dark = np.asarray(shadow, np.float32)[..., None] / 255 * rng.uniform(0.15, 0.5)
    behind = back * (1 - dark)
    area = alpha.sum() + 1e-6
    contrast = float((np.abs(colour - behind * alpha)).sum() / (3 * area))

    out = behind * (1 - alpha) + colour
    # The camera: exposure and contrast.
    out = (out - 0.5) * rng.uniform(0.85, 1.1) + 0.5 + rng.uniform(-0.08, 0.08)
    full = Image.fromarray((np.clip(out, 0, 1) * 255).round().astype(np.uint8))
    return full.resize((spec.side, spec.side), Image.Resampling.BOX), contrast


def dhash(image: Image.Image) -> np.ndarray:
    """Difference hash: is each cell of a 16 x 16 grid brighter than its left neighbour?

    Unlike a checksum it hardly changes when a picture is scaled or compressed, so a small
    distance between two hashes means that the two pictures look the same.

    Returns:
        bool array (256,).
    """
    grey = np.asarray(image.convert("L").resize((17, 16), Image.Resampling.BILINEAR), np.int16)
    return (grey[:, 1:] > grey[:, :-1]).ravel()


def encode(image: Image.Image, format_: str) -> bytes:
    """The picture as a file in memory: PNG without loss, WebP at quality 80."""
    buffer = io.BytesIO()
    if format_ == "PNG":
        image.save(buffer, "PNG", optimize=True)
    else:
        image.save(buffer, format_, quality=80, method=6)
    return buffer.getvalue()


def features(twin: str) -> datasets.Features:
    """The schema: same column names and label type as the data set on the hub."""
    import datasets

    spec = TWINS[twin]
    names = list(spec.designs)
    return datasets.Features(
        {spec.image_column: datasets.Image(), "label": datasets.ClassLabel(names=names)}
    )


def _with_sources(schema: pa.Schema, rows: list[Picture]) -> pa.Schema:
    """Write into the schema's metadata which drawing each row shows (each name only once)."""
    shown = [f"{row.set_name}/{row.icon}" for row in rows]
    drawings = sorted(set(shown))
    note = {"drawings": drawings, "rows": [drawings.index(name) for name in shown]}
    return schema.with_metadata({**schema.metadata, _SOURCES: json.dumps(note).encode()})


def sources(twin: str, split: str, folder: Path = KIT) -> list[tuple[str, str]]:
    """Which drawing each row of a finished twin shows: pairs (icon set, icon name).

    Read from the parquet file alone; neither the artwork nor the pictures are opened.
    """
    import pyarrow.parquet as pq

    path = folder / twin / f"{split}.parquet"
    if not path.exists():
        raise CourseError(f"There is no {path}; build it with python -m {__package__}.build.")
    note = json.loads(pq.read_schema(path).metadata[_SOURCES])
    pairs = [tuple(name.split("/")) for name in note["drawings"]]
    return [pairs[i] for i in note["rows"]]


def _draw_rows(
    twin: str, split: str, rows: list[Picture], hashes: np.ndarray
) -> tuple[list[bytes], np.ndarray]:
    """Draw the pictures of a plan; none resembles another of its twin (``hashes``)."""
    from tqdm.auto import tqdm

    format_ = TWINS.get(twin, FOLDER).format
    files, again = [], 0
    bar = tqdm(rows, desc=f"{twin} {split}", unit="picture", disable=None)
    for picture in bar:
        # Draw until it can be seen well and resembles no earlier picture of the twin.
        for attempt in range(100):
            image, contrast = draw(twin, split, picture, attempt)
            data = encode(image, format_)
            code = dhash(Image.open(io.BytesIO(data)))
            nearest = (hashes ^ code).sum(axis=1).min(initial=256)
            if contrast >= LEAST_CONTRAST and nearest >= NEAR_COPY:
                break
        else:
            raise RuntimeError(f"no fresh picture found for {picture}")
        again += attempt
        hashes = np.concatenate([hashes, code[None]])
        files.append(data)
        bar.set_postfix(redrawn=again, refresh=False)
    return files, hashes


def build_folder(folder: Path = KIT) -> list[Path]:
    """Draw ``my_folder/<class>/<number>.webp``."""
    rows = plan("my_folder", "all")
    files, _ = _draw_rows("my_folder", "all", rows, np.zeros((0, 256), bool))
    names, written = list(FOLDER_DESIGNS), []
    for row, data in zip(rows, files, strict=True):
        number = sum(path.parent.name == names[row.label] for path in written)
        path = folder / "my_folder" / names[row.label] / f"{number:02d}.webp"
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_suffix(".part")
        part.write_bytes(data)
        os.replace(part, path)
        written.append(path)
    return written


def build(folder: Path = KIT, limit: int | None = None) -> list[Path]:
    """Draw both twins and write their parquet files (a few minutes in full).

    Args:
        folder: where ``cifar10/`` and ``flowers102/`` are written.
        limit: draw only the first so many rows of each split (for tests).

    Returns:
        The files written. A file appears only when it is complete.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    written = []
    for twin, spec in TWINS.items():
        hashes = np.zeros((0, 256), bool)
        for split in SPLIT_SETS[twin]:
            rows = plan(twin, split)[:limit]
            files, hashes = _draw_rows(twin, split, rows, hashes)
            schema = _with_sources(features(twin).arrow_schema, rows)
            cells = [{"bytes": data, "path": None} for data in files]
            columns = {spec.image_column: cells, "label": [row.label for row in rows]}
            path = folder / twin / f"{split}.parquet"
            path.parent.mkdir(parents=True, exist_ok=True)
            part = path.with_suffix(".part")
            pq.write_table(pa.table(columns, schema=schema), part, compression="snappy")
            os.replace(part, path)
            written.append(path)
    return written
