"""Pictures of things that the classifier has a class for, to compare faster models on."""

from pathlib import Path

import torch

from .. import images, runtime
from ..errors import whole_number
from .splits import class_names, image_column, random_indices


def evaluation_images(model, n: int = 200, seed: int = 0):
    """At most `n` pictures that the classifier knows a class for, to compare a faster model on.

    Offline they are the kit's held-out pictures and its photographs, 200 in all; from the Hub,
    CIFAR-10's test photographs (`seed` chooses) without the deer, which ImageNet does not have.

    Returns:
        `(pictures, labels)`: PIL pictures, and their labels as the classifier numbers them (N,),
        or `None` where its classes have other names.
    """
    from datasets import load_dataset  # it reads the environment that `runtime.start` sets

    rt, n = runtime.current(), whole_number("n", n, least=1)
    if rt.source == "hub":
        test = load_dataset(rt.locate("cifar10"))["test"]
        deer = class_names(test).index("deer")
        known = [row for row, label in enumerate(test["label"]) if label != deer]
        chosen = [known[i] for i in random_indices(len(known), min(n, len(known)), seed)]
        return [images.to_rgb(test[row][image_column(test)]) for row in chosen], None
    heldout = load_dataset(rt.locate("heldout"))["test"]
    pictures = [images.to_rgb(picture) for picture in heldout["image"]]
    said = [class_names(heldout)[label] for label in heldout["label"]]
    for path in sorted(Path(rt.locate("photos")).glob("*.jpg")):
        if "_and_" not in path.stem:  # two things have no one label
            pictures.append(images.load_image(path))
            said.append(path.stem)
    numbers = {name: number for number, name in model.config.id2label.items()}
    known_all = set(said) <= set(numbers)
    labels = torch.tensor([numbers[name] for name in said[:n]]) if known_all else None
    return pictures[:n], labels
