"""Every outside thing that the course uses, one row each: where it is on the Hub, and its twin."""

from dataclasses import dataclass
from pathlib import Path

from .. import offline_kit
from ..errors import one_of

KIT = offline_kit.KIT

KIT_FOLDERS = ("photos", "heldout", "my_folder")  # that both sources use
SOURCES = ("auto", "hub", "offline")


@dataclass(frozen=True)
class File:
    """One file to be downloaded."""

    path: str  # where it goes, inside the folder of its resource
    url: str | None = None  # where it comes from; `None`: the Hub
    size: int | None = None  # in bytes; `None` where only the server knows
    # `sha256:`, `md5:` or `git:` (Git's SHA-1 of a file) with hexadecimal digits; `None` where
    # only the server knows. A revision of the Hub fixes it all the same.
    digest: str | None = None


@dataclass(frozen=True)
class Resource:
    """One thing from outside."""

    name: str
    kind: str  # `model`, `dataset` or `photo`
    hub_id: str  # a repository of the Hub, or the address of a file
    revision: str | None  # a commit of it, so that the course sees the same bytes tomorrow
    files: tuple[File, ...]  # those of the repository that are needed
    size: int  # about how many bytes that is
    twin: str  # path inside the offline kit of what takes its place without a network
    description: str  # of the Hub's original, one line for a reader
    twin_description: str
    mirror: tuple[File, ...] = ()  # elsewhere, with the same content
    mirror_first: bool = False  # whether that is asked before the Hub

    def about(self, source: str) -> str:
        """The description of what a notebook with this source (`hub` or `offline`) uses."""
        return self.twin_description if source == "offline" else self.description

    @property
    def ways(self) -> list[tuple[File, ...]]:
        """Where it can come from, in order: the files on the Hub, and those of the mirror."""
        ways = [way for way in (self.files, self.mirror) if way]
        return ways[::-1] if self.mirror_first else ways

    def address(self, file: File, endpoint: str) -> str:
        """Where a file of this row comes from."""
        prefix = "" if self.kind == "model" else f"{self.kind}s/"
        on_hub = f"{endpoint}/{prefix}{self.hub_id}/resolve/{self.revision}/{file.path}"
        return file.url or on_hub

    @property
    def twin_path(self) -> Path:
        """Path of the offline twin; raises `CourseError` if a file is missing or damaged."""
        return offline_kit.verify(self.twin, KIT)


def _flowers(name: str, size: int, md5: str) -> File:
    url = f"https://www.robots.ox.ac.uk/~vgg/data/flowers/102/{name}"
    return File(f"original/{name}", url, size, f"md5:{md5}")


RESOURCES = {
    row.name: row
    for row in (
        Resource(
            name="classifier",
            kind="model",
            hub_id="google/vit-base-patch16-224",
            revision="3f49326eb077187dfe1c2a2bb15fbd74e6ab91e3",
            files=tuple(
                map(File, ("config.json", "preprocessor_config.json", "model.safetensors"))
            ),
            size=346_400_000,
            twin="quarter",
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
            files=(
                File("README.md"),
                File("plain_text/test-00000-of-00001.parquet"),
                File("plain_text/train-00000-of-00001.parquet"),
            ),
            size=143_700_000,
            twin="cifar10",
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
            files=(
                File("README.md"),
                *(File(f"data/test-0000{i}-of-00006.parquet") for i in range(6)),
                File("data/train-00000-of-00001.parquet"),
                File("data/validation-00000-of-00001.parquet"),
            ),
            size=345_000_000,
            twin="flowers102",
            description="8,189 photographs of 102 kinds of flowers",
            twin_description=(
                "drawings of 102 kinds of plants, fruits and animals, the test set by other "
                "artists than the training set"
            ),
            # The authors' own files, with the MD5 sums that torchvision.datasets.Flowers102 has.
            # The Hub's copy holds the same pictures in ten times as many bytes.
            mirror=(
                _flowers("102flowers.tgz", 344_862_509, "52808999861908f626f3c1f4e79d11fa"),
                _flowers("imagelabels.mat", 502, "e0620be6f572b9609742df49c70aed4d"),
                _flowers("setid.mat", 14_989, "a5357ecc9cb78c4bef273ce3793fc85c"),
            ),
            mirror_first=True,
        ),
        Resource(
            name="photo",
            kind="photo",
            hub_id="http://images.cocodataset.org/val2017/000000039769.jpg",
            revision=None,
            files=(File("photo", "http://images.cocodataset.org/val2017/000000039769.jpg"),),
            size=173_131,
            twin="photos/cat.jpg",
            description="the sample photograph: two cats on a sofa",
            twin_description="the sample photograph: a cat",
            # The same pixels as a PNG file: transformers tests its ViT with it.
            mirror=(
                File(
                    "photo",
                    "https://raw.githubusercontent.com/huggingface/transformers/"
                    "d05a9215b4f311963e465b99753ac711fb828893/"
                    "tests/fixtures/tests_samples/COCO/000000039769.png",
                ),
            ),
        ),
    )
}
DATASETS = tuple(name for name, row in RESOURCES.items() if row.kind == "dataset")


def get(name: str) -> Resource:
    """Return one row of the table; raises `CourseError` for a name that is not there."""
    return RESOURCES[one_of("The resource", name, tuple(RESOURCES))]
