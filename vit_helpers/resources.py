"""Every outside thing that the course uses, by name: where it is on the Hub and its offline twin.

One table, one row a resource. A row names a repository of the Hugging Face Hub at a pinned
revision, and the folder or file of the offline kit that takes its place without a network.
"""

import os
import socket
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from . import offline_kit
from .errors import one_of

KIT = offline_kit.KIT

SOURCES = ("auto", "hub", "offline")
PROBE_SECONDS = 3.0


@dataclass(frozen=True)
class Resource:
    """One thing from outside.

    Attributes:
        name: The name used in the course.
        kind: `model`, `dataset` or `photo`.
        hub_id: Repository on the Hub, or the address of a file.
        revision: Commit of that repository, so that the course sees the same bytes tomorrow.
        twin: Path of the offline twin inside the kit.
        licence: Licence of the Hub's original.
        description: One line for a reader: what the Hub's original is.
        twin_description: The same for the offline twin.
    """

    name: str
    kind: str
    hub_id: str
    revision: str | None
    twin: str
    licence: str
    description: str
    twin_description: str

    def about(self, source: str) -> str:
        """The description of what a notebook with this source (`hub` or `offline`) uses."""
        return self.twin_description if source == "offline" else self.description

    @property
    def twin_path(self) -> Path:
        """Path of the offline twin, whole and unchanged: its checksums are compared first.

        Raises:
            CourseError: If a file of the twin is missing or damaged.
        """
        offline_kit.verify_twin(self.twin, KIT)
        return KIT / self.twin


RESOURCES = {
    row.name: row
    for row in (
        Resource(
            name="classifier",
            kind="model",
            hub_id="google/vit-base-patch16-224",
            revision="3f49326eb077187dfe1c2a2bb15fbd74e6ab91e3",
            twin="quarter",
            licence="Apache-2.0",
            description=(
                "ViT-B/16, trained on ImageNet-21k (14 million photographs, 21,843 classes), then "
                "fine-tuned on ImageNet-1k (1.3 million photographs, 1,000 classes)"
            ),
            twin_description=(
                "the kit's `quarter`, a ViT-B/16 at a quarter of the width, trained for this "
                "course: the ten classes of CIFAR-10 from photographs, all others from emoji "
                "drawings"
            ),
        ),
        Resource(
            name="cifar10",
            kind="dataset",
            hub_id="uoft-cs/cifar10",
            revision="0b2714987fa478483af9968de7c934580d0bb9a2",
            twin="cifar10",
            licence="unknown (Krizhevsky 2009)",
            description="60,000 photographs of 32x32 pixels in ten classes",
            twin_description=(
                "drawings of 32x32 pixels in the ten classes of CIFAR-10, the test set by other "
                "artists than the training set"
            ),
        ),
        Resource(
            name="flowers102",
            kind="dataset",
            hub_id="dpdl-benchmark/oxford_flowers102",
            revision="544b55c9af69a05742ead7571cd7ae23cfcd758b",
            twin="flowers102",
            licence="unknown (Nilsback and Zisserman 2008)",
            description="8,189 photographs of 102 kinds of flowers",
            twin_description=(
                "drawings of 102 kinds of plants, fruits and animals, the test set by other "
                "artists than the training set"
            ),
        ),
        Resource(
            name="photo",
            kind="photo",
            hub_id="http://images.cocodataset.org/val2017/000000039769.jpg",
            revision=None,
            twin="photos/cat.jpg",
            licence="CC BY 2.0 (COCO val2017)",
            description="the sample photograph: two cats on a sofa",
            twin_description="the sample photograph: a cat",
        ),
    )
}


def get(name: str) -> Resource:
    """Return one row of the table; raises `CourseError` for a name that is not there."""
    return RESOURCES[one_of("The resource", name, tuple(RESOURCES))]


def hub_answers(seconds: float = PROBE_SECONDS) -> bool:
    """Whether a TCP connection to the Hub opens within `seconds`.

    `HF_ENDPOINT` is respected, as in `huggingface_hub`.
    """
    url = urlsplit(os.environ.get("HF_ENDPOINT", "https://huggingface.co"))
    port = url.port or (443 if url.scheme == "https" else 80)
    try:
        with socket.create_connection((url.hostname, port), timeout=seconds):
            return True
    except OSError:
        return False


def is_cached(name: str) -> bool:
    """Whether the resource lies in the cache of the Hugging Face libraries on this machine."""
    row = get(name)
    if row.kind == "photo":
        return False
    from huggingface_hub.constants import HF_HUB_CACHE

    folder = f"{row.kind}s--" + row.hub_id.replace("/", "--")
    return (Path(HF_HUB_CACHE) / folder / "snapshots" / str(row.revision)).is_dir()


def choose_source(wanted: str, names: tuple[str, ...]) -> tuple[str, str]:
    """Decide where the resources of a notebook come from.

    Args:
        wanted: `hub` and `offline` insist. `auto` takes what is cached, else the Hub if it
            answers within three seconds, else the offline kit.
        names: The resources that the notebook needs.

    Returns:
        `(source, reason)` with source `hub` or `offline`, and a reason for the reader.
    """
    one_of("VIT_SOURCE", wanted, SOURCES)
    if wanted != "auto":
        return wanted, "as VIT_SOURCE says"
    if names and all(is_cached(n) for n in names if get(n).kind != "photo"):
        return "hub", "from the cache on this machine"
    if hub_answers():
        return "hub", "the Hub answers"
    return "offline", "the Hub did not answer"
