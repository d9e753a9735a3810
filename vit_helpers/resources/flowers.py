"""Flowers-102 from its authors' own files, in the form that the Hub's copy has."""

import tarfile
from pathlib import Path

from .files import written_whole

# Names of the splits on the Hub and in the authors' file. There are 1,020 + 1,020 + 6,149.
SPLITS = {"train": "trnid", "validation": "valid", "test": "tstid"}


def flowers_to_parquet(original: Path, to: Path) -> None:
    """Write one Parquet file a split into `to`, with the columns `image` and `label`.

    `original` has `102flowers.tgz`, `imagelabels.mat` and `setid.mat`, read as torchvision's
    `Flowers102` does. The labels of the file count from 1, those of the data set from 0.
    """
    import datasets
    from scipy.io import loadmat
    from torchvision.datasets import Flowers102

    features = datasets.Features(
        {"image": datasets.Image(), "label": datasets.ClassLabel(names=Flowers102.classes)}
    )
    labels = loadmat(original / "imagelabels.mat", squeeze_me=True)["labels"] - 1
    members = loadmat(original / "setid.mat", squeeze_me=True)
    with tarfile.open(original / "102flowers.tgz") as archive:
        # One pass: in a compressed archive every step back starts at the beginning.
        pictures = {
            Path(entry.name).name: content.read()
            for entry in archive
            if (content := archive.extractfile(entry))  # a folder has none
        }
    to.mkdir(parents=True, exist_ok=True)
    for split, key in SPLITS.items():
        numbers = members[key].tolist()
        names = [f"image_{number:05d}.jpg" for number in numbers]
        rows = {
            "image": [{"bytes": pictures[name], "path": name} for name in names],
            "label": [int(labels[number - 1]) for number in numbers],
        }
        with written_whole(to / f"{split}-00000-of-00001.parquet") as part:
            datasets.Dataset.from_dict(rows, features=features).to_parquet(part)
