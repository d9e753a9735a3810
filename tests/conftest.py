import os

# Before anything of the package is imported: tests see the offline kit and no bars.
os.environ["VIT_SOURCE"] = "offline"
os.environ["VIT_PROFILE"] = "quick"
os.environ["VIT_SEED"] = "0"
os.environ["VIT_BARS"] = "off"

import pytest


@pytest.fixture
def rt():
    """A runtime on the offline kit, freshly seeded."""
    from vit_helpers import runtime

    return runtime.setup("classifier", "cifar10", "flowers102", "photo")


def pytest_collection_modifyitems(items):
    """Tests marked `network` ask the real Hub: only where somebody says so."""
    if os.environ.get("VIT_NETWORK") == "1":
        return
    for item in items:
        if "network" in item.keywords:
            item.add_marker(pytest.mark.skip(reason="asks the real Hub: set VIT_NETWORK=1"))
