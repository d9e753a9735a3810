from pathlib import Path

import factories
import pytest
import torch

from vit_helpers import models, resources
from vit_helpers.errors import CourseError


@pytest.fixture(scope="module")
def classifier():
    from vit_helpers import runtime

    runtime.start("classifier")
    return factories.classifier()


def test_the_kit_has_the_shape_that_the_lessons_speak_of(classifier):
    model, processor = classifier
    assert type(model).__name__ == "ViTForImageClassification"
    assert type(processor).__name__.startswith("ViTImageProcessor")
    assert len(models.blocks(model)) == model.config.num_attention_heads == 12
    assert processor(torch.zeros(3, 50, 70, dtype=torch.uint8), return_tensors="pt")[
        "pixel_values"
    ].shape == (1, 3, 224, 224)
    assert not model.training


def test_label_maps_are_whole_numbers(classifier):
    model, _ = classifier
    assert all(isinstance(i, int) for i in model.config.id2label)
    assert all(isinstance(i, int) for i in model.config.label2id.values())


def test_new_head_keeps_the_body_and_changes_the_head(rt, classifier):
    model, _ = classifier
    changed = models.load_with_new_head(["a", "b", "c"])
    assert models.head(changed).out_features == 3
    assert changed.config.id2label == {0: "a", 1: "b", 2: "c"}
    for old, new in zip(
        models.blocks(model).parameters(), models.blocks(changed).parameters(), strict=True
    ):
        assert torch.equal(old, new)


@pytest.mark.parametrize("count", [0, 8, 12])
def test_freeze_stops_exactly_the_first_blocks(rt, count):
    model = models.load_with_new_head(["a", "b"])
    models.freeze(model, count)
    frozen = [not any(p.requires_grad for p in b.parameters()) for b in models.blocks(model)]
    assert frozen == [i < count for i in range(12)]
    assert all(p.requires_grad for p in models.head(model).parameters())
    assert any(p.requires_grad for p in models.embeddings(model).parameters()) == (count == 0)
    table = models.parameter_table(model)
    assert table.loc["total"].sum() == sum(p.numel() for p in model.parameters())
    assert (table.drop("total").sum() == table.loc["total"]).all()


def test_freeze_more_blocks_than_there_are_is_refused(rt):
    with pytest.raises(CourseError, match="to freeze is 13, .* from 0 to 12"):
        models.freeze(models.load_with_new_head(["a", "b"]), 13)


def test_saved_and_loaded_model_gives_the_same_logits(rt, tmp_path):
    model = models.load_with_new_head(["a", "b"]).eval()
    models.save(model, factories.processor(), tmp_path)
    again, _ = factories.load(tmp_path)
    x = torch.rand(2, 3, 224, 224)
    with torch.inference_mode():
        assert torch.equal(model(x).logits, again(x).logits)
    assert again.config.id2label == {0: "a", 1: "b"}
    assert not list(tmp_path.glob("*.bin"))


def test_loading_what_was_not_saved_is_one_sentence(rt, tmp_path):
    with pytest.raises(CourseError, match="cannot be loaded as an image classifier"):
        models.load_with_new_head(["a", "b"], path=tmp_path)


def test_weights_in_a_pickle_file_are_not_even_opened(rt, tmp_path):
    model, processor = factories.classifier()
    folder = models.save(model, processor, tmp_path)
    (folder / "model.safetensors").unlink()

    class Trap:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "sprung",))

    torch.save({"w": Trap()}, folder / "pytorch_model.bin")
    with pytest.raises(CourseError, match="no file named model.safetensors"):
        models.load_with_new_head(["a", "b"], path=folder)
    assert not (tmp_path / "sprung").exists()


def test_unknown_resource_and_missing_kit_file_are_named(monkeypatch, tmp_path, rt):
    with pytest.raises(CourseError, match="'imagenet'.*'classifier'"):
        resources.get("imagenet")
    monkeypatch.setattr(resources.table, "KIT", tmp_path)
    with pytest.raises(CourseError, match="lacks 'SHA256SUMS': reinstall"):
        factories.classifier()


def test_a_damaged_or_missing_file_of_the_kit_is_named(rt, monkeypatch, tmp_path):
    import shutil

    monkeypatch.setattr(resources.table, "KIT", tmp_path)
    for name in ("SHA256SUMS", "cifar10"):
        source = resources.KIT / name
        (shutil.copytree if source.is_dir() else shutil.copy)(source, tmp_path / name)
    assert len(factories.load_dataset("cifar10")["test"]) == 1000
    path = tmp_path / "cifar10" / "test.parquet"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(CourseError, match="'cifar10/test.parquet' of the offline kit is damaged"):
        factories.load_dataset("cifar10")
    path.unlink()
    with pytest.raises(CourseError, match="lacks 'cifar10/test.parquet'"):
        factories.load_dataset("cifar10")


class TestPatchDropout:
    def shapes(self, model, pixels):
        seen = []
        handle = models.blocks(model)[0].register_forward_pre_hook(
            lambda module, inputs: seen.append(inputs[0])
        )
        with torch.no_grad():
            model(pixel_values=pixels)
        handle.remove()
        return seen[0]

    def test_training_sees_cls_and_a_random_part_evaluation_sees_all(self, rt):
        model, _ = factories.classifier()
        pixels = torch.randn(2, 3, 224, 224)
        whole = self.shapes(model, pixels)
        with models.patch_dropout(model.train(), 0.25):
            part, other = self.shapes(model, pixels), self.shapes(model, pixels)
            model.eval()
            assert torch.equal(self.shapes(model, pixels), whole)
        assert part.shape == (2, 1 + 49, whole.shape[2])
        assert torch.equal(part[:, 0], whole[:, 0])
        assert not torch.equal(part, other)
        for picture, tokens in zip(whole, part, strict=True):  # every token is one of the picture's
            assert (tokens[:, None] == picture).all(-1).any(1).all()
        assert torch.equal(self.shapes(model.train(), pixels), whole)  # gone after the block

    @pytest.mark.parametrize("keep", [0, -0.5, 1.5, float("nan")])
    def test_refuses_what_is_no_share(self, rt, keep):
        model, _ = factories.classifier()
        with pytest.raises(CourseError, match=f"keep is {keep}"):
            with models.patch_dropout(model, keep):
                pass
