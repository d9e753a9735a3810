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
