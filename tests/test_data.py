"""Data: balanced parts, transforms equal to the processor, pictures of every sort."""

import io
import shutil
from dataclasses import replace

import factories
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from vit_helpers import data, images, models, resources, runtime
from vit_helpers.errors import CourseError

NAMES = ["ant", "bee", "cat"]


def picture_set(labels, size=(12, 10), pictures=None):
    """A small data set in the course's schema; picture i is filled with the grey value i."""
    import datasets

    pictures = pictures or [Image.new("RGB", size, (i, i, i)) for i in range(len(labels))]
    features = datasets.Features(
        {"img": datasets.Image(), "label": datasets.ClassLabel(names=NAMES)}
    )
    return datasets.Dataset.from_dict({"img": pictures, "label": labels}, features=features)


def file_of(picture, format="PNG", **options):
    buffer = io.BytesIO()
    picture.save(buffer, format, **options)
    return buffer.getvalue()


# --- data sets ---------------------------------------------------------------------------------

SCHEMAS = {
    "cifar10": ("img", 10, {"train", "validation", "test"}),
    "flowers102": ("image", 102, {"train", "validation", "test"}),
}


@pytest.mark.parametrize("name", SCHEMAS)
def test_twin_has_the_schema_of_the_original(rt, name):
    column, classes, splits = SCHEMAS[name]
    dataset = factories.load_dataset(name)
    assert set(dataset) == splits
    for split in dataset.values():
        assert data.image_column(split) == column
        assert set(split.features) == {column, "label"}
        assert len(data.class_names(split)) == classes
        assert set(split["label"]) == set(range(classes))
        assert isinstance(split[0][column], Image.Image)
        assert isinstance(split[0]["label"], int)


def test_cifar10_names_are_in_the_official_order(rt):
    names = data.class_names(factories.load_dataset("cifar10")["test"])
    assert names == ("airplane automobile bird cat deer dog frog horse ship truck".split())


def test_flowers_twin_has_the_official_ten_pictures_per_class(rt):
    flowers = factories.load_dataset("flowers102")
    for split in ("train", "validation"):
        assert torch.tensor(flowers[split]["label"]).bincount().tolist() == [10] * 102
    assert min(torch.tensor(flowers["test"]["label"]).bincount()) >= 10


def test_no_picture_is_in_two_splits(rt):
    for name, (column, _, splits) in SCHEMAS.items():
        dataset = factories.load_dataset(name)
        seen = [{p.tobytes() for p in dataset[split][column]} for split in splits]
        assert len(set.union(*seen)) == sum(map(len, seen))


def test_unknown_data_set(rt):
    with pytest.raises(CourseError, match="'mnist'.*'cifar10'"):
        factories.load_dataset("mnist")


@pytest.mark.parametrize("folder_is_there", [True, False])
def test_empty_or_missing_kit_folder(rt, tmp_path, monkeypatch, folder_is_there):
    shutil.copy(resources.KIT / "SHA256SUMS", tmp_path)
    if folder_is_there:
        (tmp_path / "cifar10").mkdir()
    monkeypatch.setattr(resources.table, "KIT", tmp_path)
    with pytest.raises(CourseError, match="lacks 'cifar10/test.parquet': reinstall"):
        factories.load_dataset("cifar10")


# --- take --------------------------------------------------------------------------------------


@settings(max_examples=30, deadline=None)
@given(
    labels=st.lists(st.integers(0, 2), min_size=9, max_size=40).filter(
        lambda values: min(values.count(c) for c in range(3)) >= 3
    ),
    count=st.integers(3, 9),
    seed=st.integers(0, 99),
)
def test_take_is_balanced_and_repeats(labels, count, seed):
    dataset = picture_set(labels, size=(2, 2)).select_columns(["label"])
    if count >= len(dataset):
        return
    part = data.balanced_subset(dataset, count, seed)
    expected = count // 3
    assert torch.tensor(part["label"]).bincount(minlength=3).tolist() == [expected] * 3
    assert list(part["label"]) == list(data.balanced_subset(dataset, count, seed)["label"])


def test_take_gives_different_pictures_and_another_part_for_another_seed(rt):
    dataset = picture_set([0, 1, 2] * 10)
    first = [p.getpixel((0, 0)) for p in data.balanced_subset(dataset, 12, seed=0)["img"]]
    other = [p.getpixel((0, 0)) for p in data.balanced_subset(dataset, 12, seed=1)["img"]]
    assert len(set(first)) == 12
    assert first != other


@pytest.mark.parametrize("count", [None, 30, 31])
def test_take_all(rt, count):
    dataset = picture_set([0, 1, 2] * 10)
    assert data.balanced_subset(dataset, count) is dataset


def test_take_too_few(rt):
    with pytest.raises(CourseError, match="2 pictures are too few for 3 classes"):
        data.balanced_subset(picture_set([0, 1, 2] * 2), 2)


# --- transforms --------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(32, 32), (224, 224), (300, 200), (97, 501)])
def test_eval_transform_equals_the_processor(rt, size):
    processor = factories.processor()
    noise = torch.randint(0, 256, (3, size[1], size[0]), dtype=torch.uint8)
    picture = Image.fromarray(noise.permute(1, 2, 0).numpy())
    expected = processor(picture, return_tensors="pt")["pixel_values"][0]
    ours = data.eval_transform(processor)(data.to_tensor(picture))
    assert ours.shape == expected.shape == (3, *images.model_size(processor))
    assert (ours - expected).abs().max() <= 1e-6


def test_train_transform_is_random_and_in_range(rt):
    processor = factories.processor()
    transform = data.train_transform(processor)
    picture = torch.randint(0, 256, (3, 32, 32), dtype=torch.uint8)
    first, second = transform(picture), transform(picture)
    assert first.shape == (3, *images.model_size(processor))
    assert not torch.equal(first, second)
    shown = images.unnormalise(first, processor)
    assert 0 <= shown.min() and shown.max() <= 1


def test_training_keeps_the_colours(rt):
    processor = factories.processor()
    picture = torch.full((3, 32, 32), 100, dtype=torch.uint8)
    picture[0] = 200  # one plain red: crops and flips cannot change it
    kept = data.train_transform(processor)(picture)
    assert torch.equal(kept, data.eval_transform(processor)(picture))


def test_unnormalise_undoes_the_normalisation(rt):
    processor = factories.processor()
    picture = torch.randint(0, 256, (3, *images.model_size(processor)), dtype=torch.uint8)
    back = images.unnormalise(data.eval_transform(processor)(picture), processor)
    assert torch.allclose(back, picture / 255, atol=1e-6)


# --- loaders -----------------------------------------------------------------------------------


def test_loader_shuffles_by_the_seed_of_the_run(rt):
    pictures = data.PictureSet(picture_set([0, 1, 2] * 8), lambda p: p.float())

    def order(seed):
        torch.rand(3)  # the global generator does not matter
        with runtime.override(replace(rt, seed=seed)):
            batches = data.loader(pictures, 5, shuffle=True)
        return [float(p[0, 0, 0]) for pixels, _ in batches for p in pixels]

    assert order(0) == order(0)
    assert order(0) != order(1)
    assert sorted(order(0)) == list(range(24))


def test_picture_set_keeps_labels_with_pictures(rt):
    pictures = data.PictureSet(picture_set([2, 0, 1]), lambda p: p)
    assert [(int(p[0, 0, 0]), int(label)) for p, label in (pictures[i] for i in range(3))] == [
        (0, 2),
        (1, 0),
        (2, 1),
    ]
    assert pictures.class_names == NAMES


def test_pictures_that_do_not_fit_into_memory_are_decoded_by_workers(rt, monkeypatch):
    import psutil

    dataset = picture_set([0, 1, 2] * 8)
    transform = data.eval_transform(factories.processor())
    in_memory = data.PictureSet(dataset, transform)
    little = type("memory", (), {"available": 2 * len(dataset) * 3 * 12 * 10 - 1})
    monkeypatch.setattr(psutil, "virtual_memory", lambda: little)
    decoded_later = data.PictureSet(dataset, transform)
    assert in_memory.in_memory and not decoded_later.in_memory
    assert data.loader(in_memory, 5).num_workers == 0
    assert data.loader(decoded_later, 5).num_workers > 0
    for places in (range(24), [3, 20, 3]):
        pairs = zip(
            data.loader(torch.utils.data.Subset(in_memory, places), 5),
            data.loader(torch.utils.data.Subset(decoded_later, places), 5),
            strict=True,
        )
        for (pixels, labels), (later, same_labels) in pairs:
            assert torch.equal(pixels, later) and torch.equal(labels, same_labels)


@given(
    sizes=st.lists(st.tuples(st.integers(4, 40), st.integers(4, 40)), min_size=1, max_size=5),
    seed=st.integers(0, 99),
)
@settings(max_examples=20, deadline=None)
def test_a_batch_is_its_pictures_one_by_one(sizes, seed):
    draw = torch.Generator().manual_seed(seed)
    pictures = [
        torch.randint(0, 256, (3, *size), dtype=torch.uint8, generator=draw) for size in sizes
    ]
    processor = models.load_processor(resources.get("classifier").twin_path)
    for transform in (data.eval_transform(processor), data.train_transform(processor)):
        torch.manual_seed(seed)
        together = transform.batch(pictures)
        torch.manual_seed(seed)
        one_by_one = torch.stack([transform(picture) for picture in pictures])
        assert torch.allclose(together, one_by_one, atol=1e-6)


def test_every_picture_of_a_batch_gets_a_crop_of_its_own(rt):
    picture = torch.randint(0, 256, (3, 32, 32), dtype=torch.uint8)
    batch = data.train_transform(factories.processor()).batch([picture] * 4)
    assert not any(torch.equal(batch[0], other) for other in batch[1:])


def test_picture_set_shrinks_large_pictures_once(rt):
    pictures = data.PictureSet(picture_set([0], size=(900, 600)), lambda p: p)
    assert pictures.pictures[0].shape == (3, 512, 768)


def test_a_large_picture_that_a_model_is_judged_on_equals_the_processor(rt):
    processor = factories.processor()
    photo = Image.fromarray(torch.randint(0, 256, (600, 640, 3), dtype=torch.uint8).numpy())
    judged = data.PictureSet(picture_set([0], pictures=[photo]), data.eval_transform(processor))
    expected = processor(photo, return_tensors="pt")["pixel_values"][0]
    assert (judged[0][0] - expected).abs().max() <= 1e-6


def test_loader_of_nothing(rt):
    with pytest.raises(CourseError, match="no pictures"):
        data.loader(data.PictureSet(picture_set([]), lambda p: p), 4)


# --- single pictures ---------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["RGB", "L", "1", "P", "CMYK", "RGBA", "LA", "I;16"])
def test_every_kind_of_picture_becomes_rgb(rt, mode):
    picture = images.load_image(Image.new(mode, (7, 5)))
    assert picture.mode == "RGB" and picture.size == (7, 5)


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_transparent_becomes_white(rt, mode):
    content = file_of(Image.new(mode, (4, 4)))  # all zero: fully transparent black
    assert images.load_image(content).getpixel((0, 0)) == (255, 255, 255)


def test_palette_with_transparent_colour_becomes_white(rt):
    content = file_of(Image.new("P", (4, 4)), "GIF", transparency=0)
    assert images.load_image(content).getpixel((0, 0)) == (255, 255, 255)


@pytest.mark.parametrize(
    "orientation, corner", [(1, (0, 0)), (3, (7, 3)), (6, (3, 0)), (8, (0, 7))]
)
def test_exif_orientation_is_applied(rt, tmp_path, orientation, corner):
    picture = Image.new("RGB", (8, 4))
    picture.putpixel((0, 0), (255, 255, 255))
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / "photo.png"
    picture.save(path, exif=exif)
    upright = images.load_image(path)
    assert upright.size == ((4, 8) if orientation in (6, 8) else (8, 4))
    assert upright.getpixel(corner) == (255, 255, 255)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("damage", ["odd value", "odd header"])
def test_a_damaged_note_of_the_camera_does_not_cost_the_picture(rt, kind, damage):
    exif = Image.Exif()
    exif[0x0112], exif[0x0128], exif[0x010F] = 6, 2, "maker"
    tags = bytearray(exif.tobytes())
    if damage == "odd value":  # a tag that must be a number is said to be bytes
        place = tags.index(b"\x01\x28\x00\x03")
        tags[place + 2 : place + 4] = b"\x00\x07"
    else:
        tags[tags.index(b"MM") + 1] = 1
    content = file_of(Image.new("RGB", (8, 4), "red"), kind, exif=bytes(tags))
    picture = images.load_image(content)
    red, green, blue = picture.getpixel((2, 2))
    assert red > 250 and max(green, blue) < 5
    # Turned upright where the orientation can be read, else as it is stored.
    assert picture.size == ((4, 8) if damage == "odd value" else (8, 4))


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_sixteen_bits_keep_their_brightness(rt, kind):
    sixteen = Image.fromarray(np.array([[0, 257 * 10, 257 * 200, 65535]], dtype=np.uint16))
    picture = images.load_image(file_of(sixteen, kind))
    assert [picture.getpixel((x, 0)) for x in range(4)] == [(v,) * 3 for v in (0, 10, 200, 255)]


@pytest.mark.parametrize("kind", [np.int32, np.float32])
def test_numbers_without_a_range_are_stretched_from_black_to_white(rt, kind):
    heights = Image.fromarray(np.array([[-500, 0, 500]], dtype=kind))
    picture = images.load_image(file_of(heights, "TIFF"))
    assert [picture.getpixel((x, 0))[0] for x in range(3)] == [0, 128, 255]
    flat = images.load_image(Image.fromarray(np.full((2, 2), 7, dtype=kind)))
    assert set(flat.tobytes()) == {0}


def test_holes_in_measured_numbers_count_as_the_lowest(rt, recwarn):
    numbers = np.array([[np.nan, np.inf, -np.inf, -1, 1]], dtype=np.float32)
    picture = images.load_image(file_of(Image.fromarray(numbers), "TIFF"))
    assert [picture.getpixel((x, 0))[0] for x in range(5)] == [0, 255, 0, 0, 255]
    assert not recwarn.list


def test_path_string_bytes_and_picture_give_the_same(rt, tmp_path):
    picture = Image.effect_noise((9, 6), 50).convert("RGB")
    path = tmp_path / "a.png"
    path.write_bytes(file_of(picture))
    for source in (path, str(path), path.read_bytes(), memoryview(path.read_bytes()), picture):
        assert images.load_image(source).tobytes() == picture.tobytes()


@pytest.mark.parametrize(
    "content",
    [b"", b"hello", file_of(Image.effect_noise((64, 64), 50))[:200], b"<svg></svg>"],
    ids=["empty", "text", "cut off", "svg"],
)
def test_what_is_no_picture_is_named(rt, tmp_path, content):
    path = tmp_path / "broken.png"
    path.write_bytes(content)
    with pytest.raises(CourseError, match="broken.png' is not a picture that can be read"):
        images.load_image(path)
    with pytest.raises(CourseError, match="'the uploaded file' is not a picture"):
        images.load_image(content)


def test_missing_file_and_folder(rt, tmp_path):
    with pytest.raises(CourseError, match="There is no file .*no_such.jpg"):
        images.load_image(tmp_path / "no_such.jpg")
    with pytest.raises(CourseError, match="There is no file"):
        images.load_image(tmp_path)


def test_too_large_a_file(rt, tmp_path, monkeypatch):
    monkeypatch.setattr(images, "MAX_BYTES", 100)
    path = tmp_path / "big.png"
    path.write_bytes(bytes(101))
    with pytest.raises(CourseError, match="larger than"):
        images.load_image(path)


def test_sample_photo(rt):
    photo = images.load_image()
    assert photo.mode == "RGB" and min(photo.size) >= 224


# --- patches -----------------------------------------------------------------------------------


@given(
    rows=st.integers(1, 5),
    columns=st.integers(1, 5),
    side=st.integers(1, 6),
    batch=st.integers(1, 3),
)
@settings(deadline=None)
def test_patches_put_together_are_the_picture(rows, columns, side, batch):
    pixels = torch.arange(batch * 3 * rows * columns * side**2, dtype=torch.float32)
    pixels = pixels.view(batch, 3, rows * side, columns * side)
    cut = images.patches(pixels, side)
    assert cut.shape == (batch, rows * columns, 3, side, side)
    grid = cut.view(batch, rows, columns, 3, side, side).permute(0, 3, 1, 4, 2, 5)
    assert torch.equal(grid.reshape(pixels.shape), pixels)


def test_patches_that_do_not_fit():
    with pytest.raises(CourseError, match="Patches of 16 pixels do not fit a picture of 224 x 225"):
        images.patches(torch.zeros(1, 3, 225, 224), 16)


@given(size=st.integers(1, 50), seed=st.integers(0, 99))
def test_random_indices_differ_and_repeat(size, seed):
    some = data.random_indices(size, size // 2, seed)
    assert len(set(some)) == len(some) == size // 2
    assert all(0 <= i < size for i in some)
    assert some == data.random_indices(size, size // 2, seed)


def test_more_random_indices_than_there_are():
    with pytest.raises(CourseError):
        data.random_indices(5, 9)


# --- pictures that the classifier knows --------------------------------------------------------


@pytest.fixture
def classifier(rt):
    return factories.classifier()[0]


def test_own_pictures_are_of_classes_that_the_classifier_names_mostly_right(classifier):
    pictures, labels = data.evaluation_images(classifier)
    assert len(pictures) == len(labels) == 200
    assert len(set(labels.tolist())) >= 190
    assert {p.mode for p in pictures} == {"RGB"}
    transform = data.eval_transform(factories.processor())
    some = torch.stack([transform(data.to_tensor(p)) for p in pictures[::10]])
    with torch.inference_mode():
        answers = classifier(some).logits.argmax(-1)
    assert (answers == labels[::10]).float().mean() > 0.6


def test_more_own_pictures_than_there_are(classifier):
    pictures, labels = data.evaluation_images(classifier, 450)
    assert len(pictures) == len(labels) == 200


def test_own_pictures_have_no_labels_for_a_model_with_other_names(classifier):
    classifier.config.id2label = {i: f"thing {i}" for i in range(204)}
    pictures, labels = data.evaluation_images(classifier, 20)
    assert (len(pictures), labels) == (20, None)


def test_own_pictures_from_the_hub_are_photographs_without_the_deer(classifier, monkeypatch):
    twin = factories.load_dataset("cifar10")
    folder = str(resources.get("cifar10").twin_path)
    asked = []
    monkeypatch.setattr(runtime.Runtime, "locate", lambda rt, name: asked.append(name) or folder)
    with runtime.override(replace(runtime.current(), source="hub")):
        pictures, labels = data.evaluation_images(classifier, 60)
    deer = data.class_names(twin["test"]).index("deer")
    never = {r["img"].convert("RGB").tobytes() for r in twin["test"] if r["label"] == deer}
    assert asked == ["cifar10"] and labels is None
    assert len(pictures) == 60
    assert never and not never & {p.tobytes() for p in pictures}


@pytest.mark.parametrize("count", [0, -3])
def test_no_own_pictures_are_refused(classifier, count):
    with pytest.raises(CourseError, match=f"n is {count}"):
        data.evaluation_images(classifier, count)
