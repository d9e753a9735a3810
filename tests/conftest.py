import os

# Before anything of the package is imported: tests see the offline kit and no bars.
os.environ["VIT_SOURCE"] = "offline"
os.environ["VIT_PROFILE"] = "quick"
os.environ["VIT_SEED"] = "0"
os.environ["VIT_BARS"] = "off"

import pytest
from hypothesis import settings

pytest.register_assert_rewrite("browsing", "hub_stand_in")

# No test measures its own time by the way: on a busy machine any example may take seconds.
settings.register_profile("course", deadline=None)
settings.load_profile("course")


@pytest.fixture
def rt():
    """A runtime on the offline kit, freshly seeded."""
    from vit_helpers import runtime

    return runtime.start("classifier", "cifar10", "flowers102", "photo")


@pytest.fixture
def small(monkeypatch):
    """A network of a moment in place of the course's, for pictures of the same size."""
    from transformers import ViTConfig, ViTForImageClassification

    from vit_helpers import models

    def load(class_names, *arguments, **more):
        config = ViTConfig(
            hidden_size=24,
            num_hidden_layers=3,
            num_attention_heads=2,
            intermediate_size=32,
            num_labels=len(class_names),
            id2label=dict(enumerate(class_names)),
        )
        return ViTForImageClassification(config)

    monkeypatch.setattr(models, "load_with_new_head", load)


@pytest.fixture(scope="session")
def small_config():
    """Makes the configuration of a small ViT: 32 pixels, two blocks; more settings by name."""
    from transformers import ViTConfig

    def make(**more):
        return ViTConfig(
            hidden_size=24,
            num_hidden_layers=2,
            num_attention_heads=2,
            intermediate_size=48,
            image_size=32,
            patch_size=8,
            **more,
        )

    return make


@pytest.fixture(scope="session")
def vit_folder(small_config, tmp_path_factory):
    """A small ViT on disk, of classes that the course does not know."""
    import torch
    from transformers import ViTForImageClassification, ViTImageProcessorFast

    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("vit")
    ViTForImageClassification(small_config()).save_pretrained(path)
    ViTImageProcessorFast(size={"height": 32, "width": 32}).save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def chromium():
    """A headless browser for a whole file of tests."""
    from playwright.sync_api import sync_playwright

    from course import runner

    with sync_playwright() as playwright:
        # Without the limit a frame is painted as soon as it is ready, so what is measured is the
        # page, and not the wait for the screen's clock.
        options = ["--no-sandbox", "--disable-frame-rate-limit", "--disable-gpu-vsync"]
        browser = playwright.chromium.launch(executable_path=runner.find_browser(), args=options)
        yield browser
        browser.close()


# Tests that run only where a variable says so: marker, variable, reason.
ONLY_WHERE = (
    ("network", "VIT_NETWORK", "asks the real Hub"),
    ("slow", "VIT_SLOW", "takes minutes and installs packages"),
    ("site", "VIT_SITE", "builds the site, which needs requirements-site.txt and Chromium"),
)


def pytest_collection_modifyitems(items):
    """Skip what is marked in `ONLY_WHERE`, unless its variable is set to 1."""
    for marker, variable, reason in ONLY_WHERE:
        if os.environ.get(variable) == "1":
            continue
        for item in items:
            if marker in item.keywords:
                item.add_marker(pytest.mark.skip(reason=f"{reason}: set {variable}=1"))
    if on_gpu := [item for item in items if "gpu" in item.keywords]:
        import torch

        if not torch.cuda.is_available():
            for item in on_gpu:
                item.add_marker(pytest.mark.skip(reason="there is no GPU"))
