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
