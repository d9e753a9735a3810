"""One file with everything inside, and a process that has no torch."""

import ast
import sys

import numpy as np
import pytest
import torch
from PIL import ExifTags, Image
from transformers import ViTConfig, ViTForImageClassification, ViTImageProcessorFast

from benchmarks.export import export_onnx
from vit_helpers import efficiency, images
from vit_helpers.efficiency import deploy, standalone
from vit_helpers.errors import CourseError

NAMES = ["äpple", "pear, or so", "<fig>", "kiwi", "plum", "nut"]


@pytest.fixture(scope="module")
def made(small_config, tmp_path_factory):
    """Model, processor, the deployable file, and a folder for pictures."""
    torch.manual_seed(0)
    config = small_config(initializer_range=0.3, id2label=dict(enumerate(NAMES)))
    model = ViTForImageClassification(config).eval()
    processor = ViTImageProcessorFast(size={"height": 32, "width": 32})
    folder = tmp_path_factory.mktemp("deploy")
    example = torch.randn(2, 3, 32, 32)
    source = export_onnx(model, example, folder / "network.onnx")
    file = efficiency.export_deployable(model, processor, source, folder / "all.onnx")
    return model, processor, file, folder


def photo(width, height, mode="RGB", seed=0):
    rng = np.random.default_rng(seed)
    small = Image.fromarray(rng.integers(0, 255, (7, 5, 3), dtype=np.uint8))
    return small.resize((width, height), Image.Resampling.BICUBIC).convert(mode)


def holed():
    """A picture whose edge is transparent, black below."""
    array = np.asarray(photo(64, 48, "RGBA")).copy()
    array[:10] = 0
    return Image.fromarray(array)


def turned(orientation):
    picture = photo(60, 40)
    picture.getexif()[ExifTags.Base.Orientation] = orientation
    return picture


def sixteen_bits():
    return Image.fromarray(np.asarray(photo(50, 40, "L")).astype(np.uint16) * 257)


KINDS = {
    "wide.tif": lambda: photo(90, 61),
    "tall.png": lambda: photo(20, 300),
    "same.png": lambda: photo(32, 32),
    "grey.png": lambda: photo(32, 40, "L"),
    "bits.png": lambda: photo(64, 48, "L").point(lambda value: 255 * (value > 128), "1"),
    "palette.gif": lambda: photo(64, 48, "P"),
    "print.tif": lambda: photo(64, 48, "CMYK"),
    "video.jpg": lambda: photo(64, 48, "YCbCr"),
    "hole.png": holed,
    "grey16.png": sixteen_bits,
    "heights.tif": lambda: Image.fromarray(np.asarray(photo(50, 40, "L"), np.float32) * 3 - 90),
    "turned6.jpg": lambda: turned(6),
    "turned5.png": lambda: turned(5),
}


@pytest.mark.parametrize("name", KINDS)
def test_it_answers_as_model_and_processor_do_for_any_picture(made, name):
    model, processor, file, folder = made
    picture = KINDS[name]()
    picture.save(folder / name, exif=picture.getexif(), quality=95)
    answers = dict(standalone.classify(str(file), str(folder / name)))
    with Image.open(folder / name) as opened:
        assert np.array_equal(standalone.to_rgb(opened), images.to_rgb(opened))
    pixels = images.to_pixels(folder / name, processor)
    with torch.no_grad():
        expected = model(pixels).logits.softmax(-1)[0]
    for number, probability in enumerate(expected.tolist()):
        if NAMES[number] in answers:
            assert answers[NAMES[number]] == pytest.approx(probability, abs=0.01)
    assert next(iter(answers)) == NAMES[int(expected.argmax())]


@pytest.mark.parametrize(
    "options",
    [{}, {"do_normalize": False}, {"resample": 3}, {"image_mean": [0.1, 0.2, 0.3]}],
)
def test_the_file_makes_the_processors_own_pixel_values(tmp_path, options):
    import onnx
    import onnxruntime

    processor = ViTImageProcessorFast(size={"height": 32, "width": 24}, **options)
    graph = deploy._before(processor)
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)])
    model.ir_version = 10
    onnx.save(model, tmp_path / "before.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "before.onnx")
    picture = photo(90, 70)
    (got,) = session.run(None, {"picture": np.asarray(picture)})
    expected = images.to_pixels(picture, processor).numpy()
    level = expected.std() / 40  # about one of the 256 steps of a colour
    assert np.abs(got - expected).max() <= 2 * level
    assert np.abs(got - expected).mean() <= 0.1 * level


def test_a_fresh_process_without_torch_gives_the_same_answer(made):
    model, processor, file, folder = made
    photo(80, 60).save(folder / "photo.png")
    alone = efficiency.run_standalone(file, folder / "photo.png")
    with torch.no_grad():
        logits = model(images.to_pixels(folder / "photo.png", processor)).logits[0]
    assert alone.answers[0].split(" ", 1)[1] == NAMES[int(logits.argmax())]
    assert len(alone.answers) == 5
    assert 0 < alone.seconds < deploy.TIMEOUT_SECONDS
    if sys.platform == "linux":
        assert 10 < alone.memory_mb < 400  # with torch it would be 700


@pytest.mark.parametrize("name", ["torch", "transformers", "vit_helpers", "pandas"])
def test_the_process_has_three_packages_and_no_other(made, tmp_path, monkeypatch, name):
    script = tmp_path / "cheat.py"
    script.write_text(f"import {name}")
    monkeypatch.setattr(deploy, "SCRIPT", script)
    with pytest.raises(CourseError, match="cheat.py failed without torch: ModuleNotFoundError"):
        efficiency.run_standalone(made[2], "photo.png")


def test_the_script_imports_three_packages():
    source = deploy.SCRIPT.read_text(encoding="utf-8")
    imported = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            imported |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            imported.add(node.module)
    assert imported == {"sys", "numpy", "onnxruntime", "PIL"}


def test_an_unknown_way_to_resize_is_refused(made):
    model, _, _, folder = made
    odd = ViTImageProcessorFast(size={"height": 32, "width": 32}, resample=0)
    with pytest.raises(CourseError, match="method 0"):
        efficiency.export_deployable(model, odd, folder / "network.onnx", folder / "x.onnx")
    assert not list(folder.glob("*x.onnx"))


def test_what_the_one_file_could_not_follow_is_refused(made):
    model, processor, _, folder = made
    same = ViTImageProcessorFast(size={"height": 32, "width": 32}, do_resize=False)
    with pytest.raises(CourseError, match="keeps a size"):
        efficiency.export_deployable(model, same, folder / "network.onnx", folder / "x.onnx")
    config = ViTConfig(**{**model.config.to_dict(), "num_channels": 1})
    with pytest.raises(CourseError, match="takes 1 channels"):
        grey = ViTForImageClassification(config)
        efficiency.export_deployable(grey, processor, folder / "network.onnx", folder / "x.onnx")


def test_a_processor_that_crops_is_refused(made):
    model, _, _, folder = made
    odd = ViTImageProcessorFast(size={"height": 32, "width": 32})
    odd.size = {"shortest_edge": 32}
    with pytest.raises(CourseError, match="crops"):
        efficiency.export_deployable(model, odd, folder / "network.onnx", folder / "x.onnx")
