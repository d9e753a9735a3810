"""Properties of pictures, numbers and folders that hold for any input, tried with hypothesis."""

import contextlib
import io
import math
import warnings

import datasets
import factories
import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from vit_helpers import data, efficiency, errors, images, models, plots, training
from vit_helpers.data.splits import SPLIT_WORDS
from vit_helpers.errors import CourseError

settings.register_profile(
    "properties", deadline=None, suppress_health_check=list(HealthCheck), max_examples=150
)
PROPERTIES = settings.get_profile("properties")
MODES = "1 L LA La P PA RGB RGBA RGBa RGBX CMYK YCbCr HSV I F I;16 I;16B".split()
SIZES = st.tuples(st.integers(1, 40), st.integers(1, 40))
XMP = (
    b'<?xpacket begin="" id="W5M0MpCehiHzreSzNTczkc9d"?>'
    b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF '
    b'xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#"><rdf:Description '
    b'xmlns:tiff="http://ns.adobe.com/tiff/1.0/" tiff:Orientation="%d"/></rdf:RDF></x:xmpmeta>'
)


def picture(mode: str, size: tuple[int, int], seed: int) -> Image.Image:
    """A picture of random numbers in a mode."""
    draw, (width, height) = np.random.default_rng(seed), size
    if mode in ("I", "F"):
        kind = np.int32 if mode == "I" else np.float32
        return Image.fromarray(draw.normal(0, 1000, (height, width)).astype(kind))
    if mode.startswith("I;16"):
        grey = draw.integers(0, 65536, (height, width)).astype(np.uint16)
        return Image.frombytes(mode, size, grey.tobytes())
    if mode == "1":
        return Image.fromarray(draw.integers(0, 2, (height, width)) > 0)
    if mode in ("P", "PA"):
        return picture("RGB", size, seed).quantize(7).convert(mode)
    bands = len(Image.new(mode, (1, 1)).getbands())
    return Image.frombytes(mode, size, draw.integers(0, 256, height * width * bands, np.uint8))


@pytest.fixture(scope="module")
def processors():
    from transformers import BitImageProcessor, ViTImageProcessor

    halves = {"image_mean": [0.4, 0.5, 0.6], "image_std": [0.2, 0.25, 0.3]}
    return {
        "square": ViTImageProcessor(size={"height": 24, "width": 24}, resample=2, **halves),
        "crop": BitImageProcessor(
            size={"shortest_edge": 20}, crop_size={"height": 16, "width": 16}, resample=3, **halves
        ),
        "as it is": ViTImageProcessor(size={"height": 24, "width": 24}, do_normalize=False),
        "0 to 255": ViTImageProcessor(
            size={"height": 24, "width": 24}, do_rescale=False, do_normalize=False
        ),
    }


# --- one way to RGB ------------------------------------------------------------------------------


@PROPERTIES
@given(st.sampled_from(MODES), SIZES, st.integers(0, 99))
def test_to_rgb_again_changes_nothing(mode, size, seed):
    once = images.to_rgb(picture(mode, size, seed))
    assert once.mode == "RGB" and once.size == size and once.info == {}
    assert images.to_rgb(once).tobytes() == once.tobytes()
    assert images.load_image(once).tobytes() == once.tobytes()
    assert data.to_tensor(once).shape == (3, size[1], size[0])


# JPEG keeps about 8 x 8 pixels together; a picture of two halves survives it.
def two_halves(size):
    whole = Image.new("RGB", size, "black")
    whole.paste((255, 255, 255), (0, 0, size[0], size[1] // 2))
    return whole


TURNS = {1: "top", 2: "top", 3: "bottom", 4: "bottom", 5: "left", 6: "right", 7: "right", 8: "left"}


@PROPERTIES
@given(
    st.sampled_from(["JPEG", "PNG", "WEBP", "TIFF"]),
    st.sampled_from(["EXIF", "XMP"]),
    st.integers(1, 8),
    st.tuples(st.integers(2, 6), st.integers(2, 6)),
)
def test_the_note_on_orientation_is_followed_once(kind, where, turn, eighths):
    size = (16 * eighths[0], 16 * eighths[1])
    exif = Image.Exif()
    exif[0x0112] = turn
    note = {"exif": exif} if where == "EXIF" else {"xmp": XMP % turn}
    if where == "XMP" and kind == "TIFF":
        note = {"tiffinfo": {700: XMP % turn}}
    if where == "XMP" and kind == "PNG":
        from PIL.PngImagePlugin import PngInfo

        text = PngInfo()
        text.add_itxt("XML:com.adobe.xmp", (XMP % turn).decode())
        note = {"pnginfo": text}
    buffer = io.BytesIO()
    two_halves(size).save(buffer, kind, **note)
    loaded = images.load_image(buffer.getvalue())
    assert loaded.size == (size if turn < 5 else size[::-1])
    white = np.asarray(loaded).mean(2) > 127
    middle = {
        "top": white[: len(white) // 2],
        "bottom": white[len(white) // 2 :],
        "left": white[:, : white.shape[1] // 2],
        "right": white[:, white.shape[1] // 2 :],
    }[TURNS[turn]]
    assert middle.mean() > 0.9 and white.mean() < 0.6
    for again in (images.to_rgb(loaded), images.load_image(loaded)):
        assert again.tobytes() == loaded.tobytes() and again.size == loaded.size
    buffer = io.BytesIO()
    loaded.save(buffer, "PNG")  # the note is not written again
    assert images.load_image(buffer.getvalue()).size == loaded.size


@PROPERTIES
@given(
    st.binary(max_size=80), st.sampled_from(["exif", "xmp", "XML:com.adobe.xmp", "transparency"])
)
def test_notes_that_are_nonsense_do_no_harm(content, key):
    plain = Image.new("RGB", (5, 4), (9, 8, 7))
    plain.info[key] = content
    try:
        found = images.load_image(plain)
    except CourseError:
        return
    assert found.size in ((5, 4), (4, 5)) and found.mode == "RGB"


@PROPERTIES
@given(st.binary(max_size=300))
def test_any_bytes_are_a_picture_or_a_sentence(content):
    try:
        assert images.load_image(content).mode == "RGB"
    except CourseError as error:
        assert "\n" not in str(error)


# --- one way to pixel values ---------------------------------------------------------------------


@PROPERTIES
@given(
    st.sampled_from(MODES),
    SIZES,
    st.integers(0, 99),
    st.sampled_from(["square", "crop", "as it is", "0 to 255"]),
)
def test_pixel_values_are_those_of_the_processor_for_the_upright_rgb_picture(
    processors, mode, size, seed, name
):
    processor = processors[name]
    some, upright = picture(mode, size, seed), images.to_rgb(picture(mode, size, seed))
    tensor = torch.from_numpy(np.array(upright)).permute(2, 0, 1)
    expected = processor(images=[tensor], return_tensors="pt", input_data_format="channels_first")
    expected = expected["pixel_values"].float()
    for same in (some, upright, tensor, [some]):
        assert torch.equal(images.to_pixels(same, processor), expected)
    shown = images.unnormalise(expected, processor)
    assert shown.min() >= 0 and shown.max() <= 1


@settings(PROPERTIES, max_examples=25)
@given(
    st.lists(st.tuples(st.sampled_from(MODES), SIZES), min_size=1, max_size=4),
    st.integers(0, 99),
    st.sampled_from(["square", "crop"]),
    st.integers(1, 40),
)
def test_a_set_gives_what_its_pictures_give_alone(processors, rt, kinds, seed, name, factor):
    processor = processors[name]
    pictures, files = [], []
    for number, (mode, (width, height)) in enumerate(kinds):
        size = (width * factor, height) if number % 2 else (width, height * factor)
        if mode not in ("1", "L", "LA", "P", "RGB", "RGBA", "I;16"):
            mode = "RGB"
        buffer = io.BytesIO()
        picture(mode, size, seed).save(buffer, "PNG")
        files.append({"bytes": buffer.getvalue(), "path": None})
        pictures.append(images.load_image(buffer.getvalue()))
    features = datasets.Features(
        {"image": datasets.Image(), "label": datasets.ClassLabel(names=["a", "b"])}
    )
    columns = {"image": files, "label": [i % 2 for i in range(len(files))]}
    dataset = datasets.Dataset.from_dict(columns, features=features)
    alone = images.to_pixels(pictures, processor)
    for in_memory in (True, False):
        split = data.PictureSet(dataset, data.eval_transform(processor), in_memory=in_memory)
        pixels, labels = split[list(range(len(files)))]
        assert torch.allclose(pixels, alone, atol=1e-6) and labels.tolist() == columns["label"]
        assert torch.allclose(split[0][0], alone[0], atol=1e-6)
        (batch, _), = data.loader(split, len(files))  # fmt: skip
        assert torch.equal(batch, pixels)


@PROPERTIES
@given(
    st.sampled_from(["L", "LA", "P", "RGB", "RGBA", "CMYK", "I", "F", "I;16", "1"]),
    SIZES, st.integers(0, 99), st.sampled_from(["PNG", "TIFF", "JPEG", "WEBP", "GIF"]),
    st.integers(1, 8), st.none() | st.integers(0, 255), st.booleans(),
)  # fmt: skip
def test_the_deployed_script_opens_pictures_as_the_course_does(
    mode, size, seed, kind, turn, clear, odd
):
    from vit_helpers.efficiency import standalone

    some, buffer = picture(mode, size, seed), io.BytesIO()
    if odd and mode == "F":
        some.putpixel((0, 0), math.nan)
    exif = Image.Exif()
    exif[0x0112] = turn
    more = {"transparency": clear} if clear is not None and mode in ("L", "P", "I;16") else {}
    try:
        some.save(buffer, kind, exif=exif, **more)
    except (OSError, ValueError, TypeError):  # not a mode of this kind of file
        return
    expected = images.load_image(buffer.getvalue())
    with Image.open(buffer) as opened:
        assert np.array_equal(standalone.to_rgb(opened), expected)


def test_a_long_thin_picture_is_never_enlarged_to_gigabytes(processors):
    with pytest.raises(CourseError, match="60000 x 1 pixels is too long and thin"):
        images.to_pixels(Image.new("RGB", (60000, 1)), _enlarging())
    assert images.to_pixels(Image.new("RGB", (60000, 1)), processors["square"]).shape[-1] == 24


def _enlarging():
    from transformers import BitImageProcessor

    return BitImageProcessor(
        size={"shortest_edge": 224}, crop_size={"height": 224, "width": 224},
    )  # fmt: skip


def test_a_processor_that_makes_several_sizes_is_refused_in_a_sentence():
    from transformers import ViTImageProcessor

    pictures = [Image.new("RGB", (9, 5)), Image.new("RGB", (5, 9))]
    for given_ in ({"do_resize": False}, {"size": {"shortest_edge": 8}}):
        with pytest.raises(CourseError, match="cannot make pixel values .* of one size"):
            images.to_pixels(pictures, ViTImageProcessor(**given_))


# --- names, not numbers --------------------------------------------------------------------------

NAMES = st.lists(
    st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=8),
    min_size=2, max_size=6, unique=True,
)  # fmt: skip


def split_of(names, labels):
    features = datasets.Features(
        {"image": datasets.Image(), "label": datasets.ClassLabel(names=names)}
    )
    pictures = [Image.new("RGB", (2, 2), (row, 0, 0)) for row in range(len(labels))]
    return datasets.Dataset.from_dict({"image": pictures, "label": labels}, features=features)


LAYOUTS = st.dictionaries(
    st.sampled_from(sorted(SPLIT_WORDS)), st.integers(0, 3), min_size=1, max_size=3
)


@settings(PROPERTIES, max_examples=60)
@given(
    LAYOUTS, st.lists(st.sampled_from(["cat", "dog", "a b", "Ω", "猫"]), min_size=2, unique=True)
)
def test_splits_are_found_by_their_names_in_folders(tmp_path_factory, layout, classes):
    folder = tmp_path_factory.mktemp("pictures")
    for split, number in layout.items():
        words = SPLIT_WORDS[split]
        for row, name in enumerate(classes):
            place = folder / words[number % len(words)].upper() / name
            place.mkdir(parents=True)
            Image.new("RGB", (3, 3), (row, len(split), number)).save(place / "1.png")
    report = data.check_folder(folder)
    assert set(report.counts) == set(layout)
    assert all(sum(by_class.values()) == len(classes) for by_class in report.counts.values())
    if "train" in layout:
        found = data.load_folder(folder)
        assert set(found) == set(layout)
        assert all(data.class_names(part) == sorted(classes) for part in found.values())


AB = ["a/1", "b/1"]


@pytest.mark.parametrize(
    ("layout", "found"),
    [
        ("train/+ test/+", {"train": AB, "test": AB}),
        ("zip/train/+ zip/test/+", {"train": AB, "test": AB}),  # one folder around all
        ("train_set/+ val-2/+ __MACOSX/train/+", {"train": AB, "validation": AB}),
        ("train/images/+", {"train": AB}),
        ("train/\u00e9/1 test/e\u0301/1", {"train": ["\u00e9/1"], "test": ["\u00e9/1"]}),
        ("bus/1 car/1 train/1", {"train": ["bus/1", "car/1", "train/1"]}),  # a class
        ("train/+ test/+ backup/+", "'test', 'train' are named like splits, but 'backup'"),
        ("train/+ holdout/+", "'train' are named like splits, but 'holdout'"),
        ("train/1 test/1 control/1", "are named like splits, but 'control'"),
        ("cat/train/1 cat/test/1 dog/train/1", "the splits lie inside the classes"),
        ("trainset/+ testset/+", "'testset', 'trainset' all have 'a', 'b' in them: if they are sp"),
        ("data/learn/+ data/judge/+", "'judge', 'learn' all have 'a', 'b' in them"),
        ("cat/old/1 cat/new/1 dog/new/1", {"train": ["cat/new/1", "cat/old/1", "dog/new/1"]}),
        ("images/train/1 images/val/1", "no training pictures"),
    ],
)
def test_a_folder_is_read_as_it_was_meant_or_refused(rt, tmp_path, layout, found):
    for path in layout.split():
        for file in (path,) if path[-1] == "1" else (path[:-1] + end for end in AB):
            (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (3, 3)).save(tmp_path / f"{file}.png")
    if isinstance(found, str):
        with pytest.raises(CourseError, match=found):
            data.load_folder(tmp_path)
        return
    splits = data.load_folder(tmp_path)
    read = {name: [data.class_names(s)[k] for k in s["label"]] for name, s in splits.items()}
    assert read == {name: [path.split("/")[0] for path in paths] for name, paths in found.items()}


@settings(PROPERTIES, max_examples=100)
@given(st.lists(st.integers(0, 12), min_size=2, max_size=5), st.integers(1, 60), st.integers(0, 9))
def test_balanced_means_balanced_or_says_by_how_much_not(rt, counts, n, seed):
    labels = [k for k, count in enumerate(counts) for _ in range(count)]
    if not labels:
        return
    split = split_of([f"c{k}" for k in range(len(counts))], labels)
    output = io.StringIO()
    with contextlib.redirect_stdout(output):
        try:
            part = data.balanced_subset(split, n, seed)
        except CourseError as error:
            assert n < len(counts) and "too few" in str(error)
            return
    wanted = n // len(counts)
    found = [list(part["label"]).count(k) for k in range(len(counts))]
    assert found == [min(wanted, count) for count in counts]
    assert ("NOTE: not balanced" in output.getvalue()) == (len(set(found)) > 1)


@settings(PROPERTIES, max_examples=60)
@given(st.lists(st.integers(2, 9), min_size=1, max_size=6), st.floats(0.01, 0.9), st.integers(0, 9))
def test_every_class_is_in_both_parts_of_a_cut(counts, share, seed):
    labels = [k for k, count in enumerate(counts) for _ in range(count)]
    rest, part = data.split_off(
        split_of([f"c{k}" for k in range(len(counts))], labels), share, seed
    )
    assert len(rest) + len(part) == len(labels)
    assert set(rest["label"]) == set(part["label"]) == set(labels)


# --- numbers -------------------------------------------------------------------------------------

ANYTHING = st.one_of(
    st.integers(), st.floats(), st.text(max_size=5), st.none(), st.booleans(),
    st.integers(-99, 99).map(np.int64), st.floats(width=32).map(np.float32), st.just([1]),
    st.integers(-99, 99).map(torch.tensor), st.complex_numbers(), st.binary(max_size=3),
)  # fmt: skip


@PROPERTIES
@given(ANYTHING, st.integers(-5, 5))
def test_a_number_is_in_range_or_a_sentence(value, least):
    for check in (errors.whole_number, errors.number):
        try:
            found = check("x", value, least=least)
        except CourseError as error:
            assert str(error).startswith("x is ") and "must be" in str(error)
        else:
            assert math.isfinite(found) and found >= least and found == value


# Functions with a number, which is the one argument here.
ASKED = {
    "balanced_subset": lambda x: data.balanced_subset(split_of(["a", "b"], [0, 1]), x),
    "its seed": lambda x: data.balanced_subset(split_of(["a", "b"], [0, 1]), 2, x),
    "split_off": lambda x: data.split_off(split_of(["a"], [0, 0]), x),
    "random_indices": lambda x: data.random_indices(9, x),
    "loader": lambda x: data.loader([1], x),
    "patches": lambda x: images.patches(torch.zeros(1, 3, 8, 8), x),
    "few_per_class": lambda x: training.few_per_class([0, 0, 1, 1], x),
    "the seed of few_per_class": lambda x: training.few_per_class([0, 0, 1, 1], 1, x),
    "rate of train_head": lambda x: training.train_head(
        np.eye(2, dtype="f"), [0, 1], lr=x, steps=2
    ),
    "wilson_interval": lambda x: training.wilson_interval(x, 9),
    "n of wilson_interval": lambda x: training.wilson_interval(0, x),
    "race": lambda x: efficiency.race({"a": abs}, [1, 2], x),
    "top_classes": lambda x: models.top_classes(torch.zeros(3), factories.tiny(), x),
    "patch_dropout": lambda x: models.patch_dropout(factories.tiny(), x).__enter__(),
    "freeze": lambda x: models.freeze(factories.tiny(), x),
    "new head": lambda x: models.load_with_new_head(x, "nowhere"),
}


@PROPERTIES
@given(st.sampled_from(sorted(ASKED)), ANYTHING)
def test_a_function_takes_a_number_or_says_why_not(rt, name, value):
    with contextlib.redirect_stdout(io.StringIO()):
        try:
            found = ASKED[name](value)
        except CourseError as error:
            assert "must be" in str(error) or name in (
                "balanced_subset",
                "few_per_class",
                "patches",
            )
            return
    if name == "rate of train_head":
        assert torch.isfinite(found.weight).all()


# --- words in figures ----------------------------------------------------------------------------

WORDS = st.one_of(
    st.text(st.characters(exclude_categories=["Cs"]), max_size=60),
    st.sampled_from(
        ["$", "a $5 or $6 {", "x_{1", "\\alpha$^$", "猫", "قطة", "🐈🐕", "a" * 5000, r"\$"]
    ),
)


@settings(PROPERTIES, max_examples=15)
@given(st.lists(WORDS, min_size=2, max_size=3, unique=True))
def test_any_words_are_drawn_without_an_error_or_a_warning(names):
    photo = Image.new("RGB", (20, 20))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        # Python hides these from a reader; an old matplotlib with a new pyparsing has many.
        warnings.simplefilter("ignore", DeprecationWarning)
        figure = plots.top_classes(photo, [(name, 0.5) for name in names])
        assert max(Image.open(io.BytesIO(figure.png())).size) < 3000
        plots.image_grid([photo] * len(names), titles=names, title=names[0]).png()


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("cat", "cat"),
        ("a $5 or $6", r"a \$5 or \$6"),
        ("قطة", "□"),
        ("a🐈🐕b", "a□b"),
        ("_x", " _x"),
    ],
)
def test_words_are_drawn_right_or_replaced(name, shown):
    from vit_helpers.plots.shared import drawable

    assert drawable(name) == shown
    assert len(drawable("x" * 99)) == 32


def test_no_pictures_are_a_sentence():
    with pytest.raises(CourseError, match="no pictures to show"):
        plots.image_grid([])
