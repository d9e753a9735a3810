"""One file with everything inside, and a process that has no torch."""

import ast
import sys

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import ViTConfig, ViTForImageClassification, ViTImageProcessorFast

from vit_helpers import data, efficiency, models
from vit_helpers.efficiency import deploy, standalone
from vit_helpers.errors import CourseError

NAMES = ["äpple", "pear, or so", "<fig>", "kiwi", "plum", "nut"]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Model, processor, the deployable file, and a folder for pictures."""
    torch.manual_seed(0)
    config = ViTConfig(
        hidden_size=24,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=48,
        image_size=32,
        patch_size=8,
        initializer_range=0.3,
        **models.label_maps(NAMES),
    )
    model = ViTForImageClassification(config).eval()
    processor = ViTImageProcessorFast(size={"height": 32, "width": 32})
    folder = tmp_path_factory.mktemp("deploy")
    example = torch.randn(2, 3, 32, 32)
    source = efficiency.export_onnx(model, example, folder / "network.onnx")
    file = efficiency.export_deployable(model, processor, source, folder / "all.onnx")
    return model, processor, file, folder


def photo(width, height, mode="RGB", seed=0):
    rng = np.random.default_rng(seed)
    small = Image.fromarray(rng.integers(0, 255, (7, 5, 3), dtype=np.uint8))
    return small.resize((width, height), Image.Resampling.BICUBIC).convert(mode)


@pytest.mark.parametrize(
    "size, mode", [((90, 61), "RGB"), ((20, 300), "RGB"), ((32, 32), "L"), ((64, 48), "CMYK")]
)
def test_it_answers_as_model_and_processor_do_for_any_picture(made, size, mode):
    model, processor, file, folder = made
    picture = photo(*size, mode)
    picture.save(folder / "photo.tif")
    answers = standalone.classify(str(file), str(folder / "photo.tif"))
    expected = models.top_classes(
        models.logits_of(model, processor, picture.convert("RGB"))[0], model
    )
    assert [name for name, _ in answers] == [name for name, _ in expected]
    for (_, mine), (_, theirs) in zip(answers, expected, strict=True):
        assert mine == pytest.approx(theirs, abs=0.01)


def test_a_fresh_process_without_torch_gives_the_same_answer(made):
    model, processor, file, folder = made
    photo(80, 60).save(folder / "photo.png")
    alone = efficiency.run_alone(file, folder / "photo.png")
    logits = models.logits_of(model, processor, data.load_image(folder / "photo.png"))[0]
    assert alone.answers[0].split(" ", 1)[1] == models.top_classes(logits, model)[0][0]
    assert len(alone.answers) == 5
    assert 0 < alone.seconds < deploy.TIMEOUT_SECONDS
    if sys.platform == "linux":
        assert 10 < alone.memory_mb < 400  # with torch it would be 700


def test_the_process_really_has_no_torch(made, tmp_path):
    script = tmp_path / "cheat.py"
    script.write_text("import torch")
    with pytest.raises(CourseError, match="cheat.py failed without torch: ModuleNotFoundError"):
        efficiency.run_alone(made[2], "photo.png", script)


def test_the_script_is_short_and_imports_three_packages():
    source = deploy.SCRIPT.read_text(encoding="utf-8")
    assert len(source.splitlines()) <= 25
    code = [line for line in source.splitlines() if line.strip()]
    assert len(code) <= 20
    imported = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            imported |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            imported.add(node.module)
    assert imported == {"sys", "numpy", "onnxruntime", "PIL"}


def test_a_missing_source_is_named(made):
    model, processor, _, folder = made
    with pytest.raises(CourseError, match="'gone.onnx'"):
        efficiency.export_deployable(model, processor, folder / "gone.onnx", folder / "x.onnx")


def test_an_unknown_way_to_resize_is_refused(made):
    model, _, _, folder = made
    odd = ViTImageProcessorFast(size={"height": 32, "width": 32}, resample=0)
    with pytest.raises(CourseError, match="method 0"):
        efficiency.export_deployable(model, odd, folder / "network.onnx", folder / "x.onnx")
    assert not list(folder.glob("*x.onnx"))
