"""Any ViT of transformers: load, look inside, classify, save, load again, export."""

import json

import factories
import pytest
import torch
import transformers
from PIL import Image

from course import maps
from vit_helpers import attention, cli, images, models, training
from vit_helpers.errors import CourseError
from vit_helpers.widgets import explorer

NAMES = ["cat", "dog", "bird"]
HALVES = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3, "do_rescale": True, "do_normalize": True}
SQUARE = HALVES | {
    "image_processor_type": "ViTImageProcessor",
    "do_resize": True,
    "size": {"height": 64, "width": 64},
    "resample": 2,
}
CROP = HALVES | {
    "image_processor_type": "BitImageProcessor",
    "do_resize": True,
    "size": {"shortest_edge": 72},
    "do_center_crop": True,
    "crop_size": {"height": 56, "width": 56},
    "resample": 3,
}
GREY = SQUARE | {"image_mean": [0.5], "image_std": [0.5]}
BASE = {
    "hidden_size": 24,
    "num_hidden_layers": 3,
    "num_attention_heads": 3,
    "intermediate_size": 48,
    "image_size": 64,
    "patch_size": 16,
    "num_labels": 7,
    "initializer_range": 0.3,
}
DINO = BASE | {"image_size": 56, "patch_size": 14}
del DINO["intermediate_size"]
SWIN = {
    "image_size": 64,
    "patch_size": 4,
    "embed_dim": 12,
    "depths": [1, 1],
    "num_heads": [1, 2],
    "window_size": 4,
    "num_labels": 7,
    "initializer_range": 0.3,
}
TOWER = {key: BASE[key] for key in list(BASE)[:-2]}  # what looks at pictures, beside text
LARGE = SQUARE | {"size": {"height": 384, "width": 384}}

# name: (family, settings, processor)
FAMILIES = {
    "ViT": ("ViT", BASE, SQUARE),
    "ViT, 384 px": ("ViT", BASE | {"image_size": 384, "patch_size": 32}, LARGE),
    "ViT, patch 32": ("ViT", BASE | {"patch_size": 32}, SQUARE),
    "ViT, one channel": ("ViT", BASE | {"num_channels": 1}, GREY),
    "DeiT": ("DeiT", BASE, SQUARE),
    "DeiT, distilled": ("DeiT", BASE, SQUARE),
    "DINOv2": ("Dinov2", DINO, CROP),
    "DINOv2 with registers": ("Dinov2WithRegisters", DINO, CROP),
    "BEiT": ("Beit", BASE | {"use_relative_position_bias": True}, SQUARE),
    "MSN": ("ViTMSN", BASE, SQUARE),
    "Swin": ("Swin", SWIN, SQUARE),
    "SigLIP": ("Siglip", {"vision_config": TOWER, "num_labels": 7}, SQUARE),
    "CLIP": ("CLIP", {"vision_config": TOWER, "num_labels": 7}, SQUARE),
}


def build(folder, name):
    """A tiny random model with its processor, saved as the library does it."""
    family, settings, processor = FAMILIES[name]
    kind = f"{family}ForImageClassification" + "WithTeacher" * (name == "DeiT, distilled")
    torch.manual_seed(0)
    config = getattr(transformers, f"{family}Config")(**settings)
    getattr(transformers, kind)(config).save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(json.dumps(processor))
    return kind


@pytest.fixture(params=FAMILIES, ids=lambda name: name.replace(", ", "-").replace(" ", "-"))
def saved(request, rt, tmp_path):
    return request.param, build(tmp_path / "m", request.param), tmp_path / "m"


PICTURES = [Image.effect_noise(size, 90).convert(mode) for size, mode in (
    ((80, 50), "RGB"), ((30, 90), "L"), ((64, 64), "RGBA"))]  # fmt: skip


def test_what_is_saved_loads_as_what_it_was(saved, tmp_path):
    _, kind, folder = saved
    model, processor = factories.load(folder)
    assert type(model).__name__ == kind and not model.training
    before = models.logits_of(model, processor, PICTURES)
    assert before.shape == (3, 7) and before.std() > 1e-3
    again, same = factories.load(models.save(model, processor, tmp_path / "again"))
    assert type(again) is type(model)
    assert torch.equal(models.logits_of(again, same, PICTURES), before)
    one_by_one = torch.cat([models.logits_of(model, processor, p) for p in PICTURES])
    assert torch.allclose(one_by_one, before, atol=1e-4)


SPECIAL = {"DeiT": 2, "DeiT, distilled": 2, "DINOv2 with registers": 5, "SigLIP": 0}


def test_the_attention_of_every_family_can_be_seen_or_a_sentence_says_why_not(saved):
    name, _, folder = saved
    model, processor = factories.load(folder, "eager")
    pixels = images.to_pixels(PICTURES, processor)
    # transformers 4 keeps no attention of these two towers.
    if name == "Swin" or (name in ("CLIP", "SigLIP") and transformers.__version__ < "5"):
        with pytest.raises(CourseError, match="a model of windows, such as Swin, has none"):
            maps.maps(model, pixels)
        return
    attn, (rows, columns) = maps.maps(model, pixels), attention.grid_size(model)
    tokens = SPECIAL.get(name, 1) + rows * columns
    assert attn.shape == (3, 3, 3, tokens, tokens)
    assert torch.allclose(attn.sum(-1), torch.ones(3, 3, 3, tokens), atol=1e-4)
    relevant = maps.relevance(model, pixels, torch.tensor([0, 1, 2]))
    assert relevant.shape == (3, tokens, tokens) and torch.isfinite(relevant).all()
    if name == "SigLIP":
        with pytest.raises(CourseError, match=r"too few for \[CLS\]"):
            explorer.explore(PICTURES[0], attn[0], (rows, columns))
    else:
        explorer.explore(PICTURES[0], attn[0], (rows, columns))


@pytest.mark.parametrize(
    "name",
    ["ViT", "DeiT, distilled", "DINOv2 with registers", "BEiT", "MSN", "Swin", "SigLIP", "CLIP"],
)
def test_torch_exports_every_family(rt, tmp_path, name):
    build(tmp_path / "m", name)
    model, processor = factories.load(tmp_path / "m", "eager")
    pixels = images.to_pixels(PICTURES, processor)
    network = torch.export.export(model, (), {"pixel_values": pixels}, strict=False).module()
    with torch.no_grad():
        assert torch.allclose(
            network(pixel_values=pixels).logits, models.logits(model, pixels), atol=1e-4
        )


def test_patches_are_left_out_or_a_sentence_says_why_not(saved):
    name, _, folder = saved
    model, processor = factories.load(folder)
    pixels = images.to_pixels(PICTURES, processor)
    try:
        with torch.no_grad(), models.patch_dropout(model.train(), 0.5):
            assert torch.isfinite(model(pixel_values=pixels).logits).all()
    except CourseError as error:
        assert name in ("Swin", "BEiT") and "wants every patch" in str(error)


def test_a_new_head_learns_after_the_model_was_looked_at(saved, tmp_path):
    _, _, folder = saved
    model, processor = models.load_with_new_head(NAMES, path=folder), models.load_processor(folder)
    pixels, labels = images.to_pixels(PICTURES, processor), torch.tensor([0, 1, 2])
    models.logits(model.eval(), pixels)
    models.logits_of(model, processor, PICTURES)
    models.freeze(model.train(), 1)
    frozen = {n: p.clone() for n, p in model.named_parameters() if not p.requires_grad}
    assert frozen and all(p.requires_grad for p in models.head(model).parameters())
    optimizer = torch.optim.AdamW(models.trainable(model), lr=1e-2)
    losses = []
    for _ in range(8):
        loss = torch.nn.functional.cross_entropy(model(pixel_values=pixels).logits, labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    assert all(torch.equal(p, frozen[n]) for n, p in model.named_parameters() if n in frozen)
    table = models.parameter_table(model)
    assert table.drop("total").sum().sum() == table.loc["total"].sum() and (table >= 0).all().all()
    assert table.loc["total"].sum() == sum(p.numel() for p in model.parameters())
    again, _ = factories.load(models.save(model.eval(), processor, tmp_path / "tuned"))
    assert [again.config.id2label[i] for i in range(3)] == NAMES
    assert torch.equal(
        models.logits_of(again, processor, PICTURES), models.logits_of(model, processor, PICTURES)
    )


def test_the_loop_of_the_course_trains_every_family(saved, tmp_path):
    _, _, folder = saved
    model, processor = models.load_with_new_head(NAMES, path=folder), models.load_processor(folder)
    rows = list(zip(images.to_pixels(PICTURES, processor), (0, 1, 2), strict=True))
    loader = torch.utils.data.DataLoader(rows, batch_size=2)
    training.evaluate(model, loader)  # a table that BEiT keeps from it serves training too
    optimizer = torch.optim.AdamW(training.parameter_groups(model, 1e-3, 1e-2))
    history = training.fit(
        model, loader, loader, optimizer=optimizer, epochs=1, checkpoint_dir=tmp_path / "c"
    )
    assert len(history.rows) == 1
    features, labels = training.cache_features(model, loader)
    assert len(features) == 3 and list(labels) == [0, 1, 2]


def test_names_of_timm_are_given_to_a_vit_alone(saved):
    name, kind, folder = saved
    model, _ = factories.load(folder)
    if kind not in ("ViTForImageClassification", "ViTMSNForImageClassification"):  # built alike
        with pytest.raises(CourseError, match="this needs a ViTForImageClassification"):
            models.timm_state_dict(model)
        return
    weights = models.timm_state_dict(model)
    assert sum(w.numel() for w in weights.values()) == sum(p.numel() for p in model.parameters())
    assert weights["blocks.2.attn.qkv.weight"].shape == (72, 24)


def test_export_to_onnx_answers_alike(rt, tmp_path):
    import numpy as np
    import onnxruntime

    build(tmp_path / "m", "DINOv2")
    model, processor = factories.load(tmp_path / "m", "eager")
    pixels = images.to_pixels(PICTURES, processor)
    file = tmp_path / "model.onnx"
    torch.onnx.export(model, (pixels,), file, input_names=["pixel_values"], verbose=False)
    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    answer = session.run(None, {"pixel_values": pixels.numpy()})[0]
    assert np.allclose(answer, models.logits_of(model, processor, PICTURES).numpy(), atol=1e-3)


# --- what is not whole ---------------------------------------------------------------------------


def test_weights_that_are_missing_are_never_random(rt, tmp_path):
    from safetensors.torch import load_file, save_file

    build(tmp_path / "m", "ViT")
    file = tmp_path / "m" / "model.safetensors"
    weights = load_file(file)
    del weights[next(k for k in weights if "position" in k)]
    save_file(weights, file, metadata={"format": "pt"})
    with pytest.raises(CourseError, match="has no weights for 1 parts .*position_embeddings"):
        models.load_with_new_head(NAMES, path=tmp_path / "m")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_model_that_is_not_finite_is_not_saved(rt, tmp_path, value):
    build(tmp_path / "m", "ViT")
    model, processor = factories.load(tmp_path / "m")
    with torch.no_grad():
        next(models.head(model).parameters())[0, 0] = value
    with pytest.raises(CourseError, match="classifier.weight .*not finite"):
        models.save(model, processor, tmp_path / "again")
    assert not (tmp_path / "again").exists()


def test_pictures_that_a_model_cannot_take_are_one_sentence(rt, tmp_path):
    build(tmp_path / "m", "ViT, one channel")
    model, _ = factories.load(tmp_path / "m")
    with pytest.raises(CourseError, match="cannot take pictures of 3 channels and 64 x 64"):
        models.logits(model, torch.zeros(1, 3, 64, 64))
    with pytest.raises(CourseError, match="cannot take pictures of 1 channels and 40 x 30 pixels"):
        models.logits(model, torch.zeros(1, 1, 30, 40))


def test_pictures_that_do_not_fit_are_one_sentence_before_anything_is_computed(rt, tmp_path):
    build(tmp_path / "m", "ViT, one channel")
    model = models.load_with_new_head(NAMES, path=tmp_path / "m")
    rows = [(torch.zeros(3, 64, 64), 0), (torch.zeros(3, 64, 64), 1), (torch.zeros(3, 64, 64), 2)]
    loader = torch.utils.data.DataLoader(rows, batch_size=3)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    for use in (
        lambda: training.evaluate(model, loader),
        lambda: training.cache_features(model, loader),
        lambda: training.fit(model, loader, loader, optimizer=optimizer, epochs=1),
    ):
        with pytest.raises(CourseError, match="cannot take pictures of 3 channels and 64 x 64"):
            use()


def test_the_sign_for_the_home_folder_is_understood(rt, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    build(tmp_path / "m", "ViT")
    model, processor = models.load_with_new_head(NAMES, path="~/m"), models.load_processor("~/m")
    models.save(model, processor, "~/again")
    assert (tmp_path / "again" / "config.json").is_file() and not (tmp_path / "~").exists()
    options = cli.parser().parse_args(["train", "--folder=~/pictures", "--to=~/results"])
    assert (options.folder, options.to) == (tmp_path / "pictures", tmp_path / "results")


def test_a_processor_that_divides_by_zero_is_one_sentence(rt, tmp_path):
    build(tmp_path / "m", "ViT")
    changed = SQUARE | {"image_std": [0.5, 0.0, 0.5]}
    (tmp_path / "m" / "preprocessor_config.json").write_text(json.dumps(changed))
    with pytest.raises(CourseError, match="image_std of 0"):
        models.load_processor(tmp_path / "m")


def test_no_vit_is_one_sentence(rt, tmp_path):
    config = transformers.ResNetConfig(embedding_size=8, hidden_sizes=[8], depths=[1], num_labels=3)
    model = transformers.ResNetForImageClassification(config)
    for part in (models.blocks, models.embeddings, models.timm_state_dict):
        with pytest.raises(CourseError):
            part(model)
    with pytest.raises(CourseError, match="has no head"):
        models.head(transformers.ViTModel(transformers.ViTConfig(**BASE)))
    with pytest.raises(CourseError, match="cannot be loaded as an image classifier"):
        models.load_with_new_head(NAMES, path="someone/nothing-here")
