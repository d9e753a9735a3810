"""The data of the offline kit: schema, balance, artists, near copies, colours, sums, licences."""

import dataclasses
import hashlib
import importlib.util
import io

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from kit_builder import artwork, build, twins
from kit_builder.classes import (
    CIFAR10_CLASSES,
    CIFAR10_DESIGNS,
    DRAWN_CLASSES,
    FLOWERS_CLASSES,
    FLOWERS_DESIGNS,
    FOLDER_DESIGNS,
    MODEL_LABELS,
)
from vit_helpers.errors import CourseError
from vit_helpers.offline_kit import KIT, checksums, verify

ROOT = KIT.parents[1]
SPLITS = [(twin, split) for twin in twins.TWINS for split in twins.SPLIT_SETS[twin]]
SIZES = {"cifar10": {"train": 2000, "test": 1000, "validation": 400}}
SIZES["flowers102"] = dict.fromkeys(("train", "validation", "test"), 1020)

# The artwork is downloaded by the build only; where it lies there, the build itself is tested.
CAN_BUILD = importlib.util.find_spec("resvg_py") is not None and all(
    (artwork.CACHE / art.tarball).exists() for art in artwork.SETS.values()
)
needs_artwork = pytest.mark.skipif(
    not CAN_BUILD, reason="the build's artwork or resvg-py is not on this machine"
)


@pytest.fixture(scope="module")
def pictures():
    """(twin, split) -> (list of RGB pictures, labels (n,))."""
    out = {}
    for twin, split in SPLITS:
        table = pq.read_table(KIT / twin / f"{split}.parquet")
        cells = table[twins.TWINS[twin].image_column].to_pylist()
        images = [Image.open(io.BytesIO(cell["bytes"])).convert("RGB") for cell in cells]
        out[twin, split] = images, np.array(table["label"].to_pylist())
    return out


@pytest.fixture(scope="module")
def hashes(pictures):
    """(twin, split) -> hashes (n, 256) as -1 / +1, so that a product counts equal bits."""
    return {
        key: 2 * np.stack([twins.dhash(image) for image in images]).astype(np.float32) - 1
        for key, (images, _) in pictures.items()
    }


def distances(a, b):
    """Hamming distances (n, m) of two sets of hashes."""
    return (256 - a @ b.T) / 2


@pytest.mark.parametrize(("twin", "split"), SPLITS)
def test_schema_is_that_of_the_hub(twin, split):
    import datasets

    schema = pq.read_schema(KIT / twin / f"{split}.parquet")
    features = datasets.Features.from_arrow_schema(schema)
    column = {"cifar10": "img", "flowers102": "image"}[twin]
    assert list(features) == [column, "label"]
    assert isinstance(features[column], datasets.Image)
    assert isinstance(features["label"], datasets.ClassLabel)
    names = {"cifar10": CIFAR10_CLASSES, "flowers102": FLOWERS_CLASSES}[twin]
    assert features["label"].names == list(names)


def test_cifar10_names_are_in_the_official_order():
    official = "airplane automobile bird cat deer dog frog horse ship truck"
    assert list(CIFAR10_CLASSES) == official.split()


@pytest.mark.parametrize(("twin", "split"), SPLITS)
def test_every_class_has_the_same_number_of_pictures(pictures, twin, split):
    images, labels = pictures[twin, split]
    classes = len(twins.TWINS[twin].designs)
    assert len(images) == SIZES[twin][split]
    assert set(np.bincount(labels, minlength=classes)) == {SIZES[twin][split] // classes}
    # Any first rounds are balanced too, so that a subset may be taken from the top.
    assert set(np.bincount(labels[: 3 * classes], minlength=classes)) == {3}
    side = {"cifar10": 32, "flowers102": 160}[twin]
    assert {image.size for image in images} == {(side, side)}


@pytest.mark.parametrize(("twin", "split"), SPLITS)
def test_pictures_show_their_class(pictures, twin, split):
    designs = list(twins.TWINS[twin].designs.values())
    labels = pictures[twin, split][1]
    shown = twins.sources(twin, split)
    assert len(shown) == len(labels)
    assert all(icon in designs[label] for (_, icon), label in zip(shown, labels, strict=True))


@pytest.mark.parametrize("twin", twins.TWINS)
def test_no_artist_drew_for_two_splits(twin):
    artists = [
        {artwork.SETS[name].artist for name, _ in twins.sources(twin, split)}
        for split in twins.SPLIT_SETS[twin]
    ]
    assert sum(map(len, artists)) == len(set().union(*artists))


def test_unseen_artists_are_not_among_the_training_sets():
    seen = {artwork.SETS[name].artist for name in artwork.TRAIN_SETS}
    assert not seen & {artwork.SETS[name].artist for name in artwork.UNSEEN_SETS}
    assert set(artwork.TRAIN_SETS) | set(artwork.UNSEEN_SETS) == set(artwork.SETS)


def test_twins_share_no_drawing_with_what_the_model_learns_to_name():
    cifar = {icon for icons in CIFAR10_DESIGNS.values() for icon in icons}
    flowers = {icon for icons in FLOWERS_DESIGNS.values() for icon in icons}
    assert not cifar & flowers
    assert not (cifar | flowers) & set(DRAWN_CLASSES)
    assert not set(FLOWERS_CLASSES) & set(MODEL_LABELS)
    assert len(FLOWERS_CLASSES) == 102
    assert 150 <= len(DRAWN_CLASSES) <= 200
    assert len(set(MODEL_LABELS)) == len(MODEL_LABELS) == 10 + len(DRAWN_CLASSES)


@pytest.mark.parametrize("twin", twins.TWINS)
def test_no_near_copies(hashes, twin):
    splits = list(twins.SPLIT_SETS[twin])
    for i, a in enumerate(splits):
        for b in splits[i:]:
            apart = distances(hashes[twin, a], hashes[twin, b])
            if a == b:
                np.fill_diagonal(apart, 256)
            assert apart.min() >= twins.NEAR_COPY, (a, b)


def test_hash_finds_a_near_copy(pictures):
    image = pictures["flowers102", "train"][0][0]
    other = pictures["flowers102", "train"][0][1]
    copy = image.resize((90, 90)).point(lambda value: min(255, value + 8))
    code = twins.dhash(image)
    assert (code ^ twins.dhash(copy)).sum() < twins.NEAR_COPY / 2
    assert (code ^ twins.dhash(other)).sum() >= twins.NEAR_COPY


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_colour_alone_does_not_win(pictures):
    from sklearn.linear_model import LogisticRegression

    def flat(split):
        images, labels = pictures["cifar10", split]
        return np.stack([np.asarray(i, np.float32).ravel() / 255 for i in images]), labels

    # 0.01 is the best of the strengths 1e-4 to 1 on this very test set: a bound from above.
    model = LogisticRegression(C=0.01, max_iter=200).fit(*flat("train"))
    assert 0.15 < model.score(*flat("test")) < 0.45


def test_background_does_not_tell_the_class(pictures):
    from sklearn.linear_model import LogisticRegression

    def corners(split):
        images, labels = pictures["cifar10", split]
        stack = np.stack([np.asarray(i, np.float32) / 255 for i in images])
        edges = [stack[:, y : y + 4, x : x + 4].mean((1, 2)) for y in (0, 28) for x in (0, 28)]
        return np.concatenate(edges, 1), labels

    model = LogisticRegression(max_iter=500).fit(*corners("train"))
    assert model.score(*corners("test")) < 0.15  # chance is 0.1


def test_sums_match_the_files():
    sums = checksums()
    files = [path.relative_to(KIT).as_posix() for path in build.data_files()]
    assert sorted(sums) == sorted(files)
    assert "photos/cat.jpg" in sums
    for name in sums:
        assert verify(name) == KIT / name


def test_a_damaged_file_is_named(tmp_path):
    whole = tmp_path / "cifar10" / "test.parquet"
    whole.parent.mkdir()
    whole.write_bytes(b"some bytes")
    build.write_sums(tmp_path)
    assert verify("cifar10/test.parquet", tmp_path) == whole
    whole.write_bytes(b"some byt")
    with pytest.raises(CourseError, match="'cifar10/test.parquet'.*damaged.*git checkout"):
        verify("cifar10/test.parquet", tmp_path)
    whole.unlink()
    with pytest.raises(CourseError, match="lacks 'cifar10/test.parquet'"):
        verify("cifar10/test.parquet", tmp_path)
    with pytest.raises(CourseError, match="lacks 'cifar10/dev.parquet'"):
        verify("cifar10/dev.parquet", tmp_path)


def test_the_kit_is_small_enough():
    assert build.total_size() <= build.LIMIT


def test_notice_names_every_work_and_licence():
    notice = (ROOT / "NOTICE").read_text(encoding="utf-8")
    for art in artwork.SETS.values():
        for text in (art.package, art.version, art.artist, art.title, art.spdx, art.url):
            assert text in notice, text
    for text in ("Stefan van der Walt", "CC0-1.0", "CIFAR-10"):
        assert text in notice, text
    for line in notice.splitlines():
        if "licences/" in line:
            assert (ROOT / line.split()[-1]).is_file(), line
    assert (ROOT / "LICENSE").read_text(encoding="utf-8").startswith("MIT License")


def test_the_sample_photograph_is_as_large_as_its_original():
    with Image.open(KIT / "photos" / "cat.jpg") as photo:
        assert (photo.format, photo.mode, photo.size) == ("JPEG", "RGB", (451, 300))


def test_every_photograph_is_pinned_and_nothing_else_is_there():
    files = {path.name for path in (KIT / "photos").iterdir()}
    assert files == {f"{name}.jpg" for name in (*(p.name for p in build.PHOTOS), build.PAIR[0])}
    assert len(files) == 7


@pytest.mark.parametrize("photo", build.PHOTOS, ids=lambda photo: photo.name)
def test_photograph(photo):
    path = KIT / "photos" / f"{photo.name}.jpg"
    with Image.open(path) as image:
        assert (image.format, image.mode) == ("JPEG", "RGB")
        assert max(image.size) <= photo.side
        size = f"{image.width} x {image.height}"
    assert path.stat().st_size <= 60_000
    assert photo.name in MODEL_LABELS
    assert photo.licence in ("CC0-1.0", "public domain")
    # The card has a row for it, and NOTICE a paragraph, with author, licence and source.
    card = (KIT / "cards" / "photo.md").read_text(encoding="utf-8")
    (row,) = [line for line in card.splitlines() if line.startswith(f"| `photos/{photo.name}.jpg`")]
    for text in (size, photo.author, photo.licence, photo.url):
        assert text in row, text
    notice = (ROOT / "NOTICE").read_text(encoding="utf-8")
    paragraph = notice.split(f"photos/{photo.name}.jpg")[1].split("\n\n")[0]
    for text in (photo.author, photo.licence, photo.url):
        assert text in paragraph, text


def test_a_picture_is_taken_out_of_a_resource_file_by_its_sum(tmp_path):
    picture = b"RIFF" + (8).to_bytes(4, "little") + b"WEBPabcd"
    other = b"RIFF" + (8).to_bytes(4, "little") + b"WEBPwxyz"
    (tmp_path / "some.rcc").write_bytes(b"qres" + other + b"RIFF..." + picture + b"end")
    digest = hashlib.sha256(picture).hexdigest()
    photo = build.Photo("cat", "package", "some.rcc:cat.webp", digest, "", "", "")
    assert build.read_original(photo, tmp_path) == picture
    with pytest.raises(CourseError, match="does not hold the pinned some.rcc:cat.webp"):
        build.read_original(dataclasses.replace(photo, sha256="0" * 64), tmp_path)


def test_a_changed_original_is_refused(tmp_path):
    for photo in build.PHOTOS:
        build.original(photo, tmp_path).write_bytes(b"another picture")
    with pytest.raises(CourseError, match="not the pinned photograph"):
        build.fetch_photos(tmp_path)


@pytest.mark.parametrize("card", ["cifar10", "flowers102", "my_folder", "photo"])
def test_cards(card):
    text = (KIT / "cards" / f"{card}.md").read_text(encoding="utf-8")
    for heading in ("Motivation", "Composition", "Licence", "Limits"):
        assert f"## {heading}" in text


def test_unknown_names_are_refused():
    with pytest.raises(CourseError, match="no icon set 'openmoji'"):
        artwork.names("openmoji")
    with pytest.raises(ValueError, match="plaid"):
        twins.background("plaid", 8, np.random.default_rng(0))


def test_my_folder_is_an_image_folder():
    import datasets

    folder = datasets.load_dataset("imagefolder", data_dir=str(KIT / "my_folder"))["train"]
    assert folder.features["label"].names == sorted(FOLDER_DESIGNS)
    assert np.bincount(folder["label"]).tolist() == [16] * len(FOLDER_DESIGNS)
    assert {image.size for image in folder["image"]} == {(160, 160)}


@needs_artwork
@pytest.mark.parametrize(("twin", "split"), SPLITS)
def test_files_follow_the_plan(twin, split):
    rows = twins.plan(twin, split)
    assert [(row.set_name, row.icon) for row in rows] == twins.sources(twin, split)
    # Every class stands equally often before every kind of background, to within one.
    kinds, classes = len(twins.BACKGROUNDS), len(twins.TWINS[twin].designs)
    table = np.zeros((classes, kinds), int)
    for row in rows:
        table[row.label, twins.BACKGROUNDS.index(row.background)] += 1
    assert table.max() - table.min() <= 1


@needs_artwork
def test_artwork_has_every_drawing():
    for icons in FLOWERS_DESIGNS.values():
        sets = {name for name in artwork.SETS if any(artwork.has(name, i) for i in icons)}
        assert {"twemoji", "emojione"} <= sets
        assert len(sets & set(twins.SPLIT_SETS["flowers102"]["train"])) >= 2
    for icon in DRAWN_CLASSES:
        assert artwork.has("twemoji", icon), icon
        assert sum(artwork.has(name, icon) for name in artwork.TRAIN_SETS) >= 3, icon


@needs_artwork
def test_render_has_the_asked_size_and_an_outline():
    pixels = artwork.render("twemoji", "cat", 48)
    assert (pixels.shape, pixels.dtype) == ((48, 48, 4), np.uint8)
    assert pixels[..., 3].min() == 0 and pixels[..., 3].max() == 255
    with pytest.raises(CourseError, match="'fxemoji' has no 'unobtainium'"):
        artwork.render("fxemoji", "unobtainium", 48)


@needs_artwork
def test_alias_that_mirrors_its_parent():
    right = artwork.render("fluent-emoji-flat", "backhand-index-pointing-right", 64)
    left = artwork.render("fluent-emoji-flat", "backhand-index-pointing-left", 64)
    apart = np.abs(right.astype(int) - left[:, ::-1].astype(int)).mean()
    assert apart < 2


@needs_artwork
def test_two_builds_write_the_same_bytes(tmp_path):
    first = twins.build(tmp_path / "a", limit=6)
    second = twins.build(tmp_path / "b", limit=6)
    assert [p.read_bytes() for p in first] == [p.read_bytes() for p in second]
    assert not list(tmp_path.rglob("*.part"))
    # And the same pictures as in the kit, of which they are the first rows.
    for path in first:
        twin, split = path.parent.name, path.stem
        column = twins.TWINS[twin].image_column
        ours = pq.read_table(KIT / twin / f"{split}.parquet")[column].slice(0, 6).to_pylist()
        made = [row["bytes"] for row in pq.read_table(path)[column].to_pylist()]
        if split == list(twins.SPLIT_SETS[twin])[0]:  # later splits avoid copies of earlier ones
            assert made == [row["bytes"] for row in ours]
