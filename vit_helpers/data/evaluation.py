"""Pictures of things that the classifier has a class for, to compare faster models on."""

from pathlib import Path

import torch
from PIL import Image, ImageOps

from .. import images, runtime
from ..errors import whole_number
from .splits import class_names, image_column, random_indices


def evaluation_images(model, n: int | None = None, seed: int = 0):
    """Pictures that the classifier knows a class for, to compare a faster model on.

    A picture of anything else lies between classes, where a tiny change turns the answer. Offline
    they are the kit's photographs and its held-out pictures; from the Hub, CIFAR-10's test
    photographs without the deer, which is in none of ImageNet's 1,000 classes.

    Args:
        model: The classifier; it knows the names of its classes.
        n: How many; 200 by default. If that is more than there are, mirrored and cropped views
            are added.
        seed: Of the choice and of the views.

    Returns:
        `(pictures, labels)`: PIL pictures, and their labels as the classifier numbers them (N,),
        or `None` where its classes have other names.
    """
    n = whole_number("n", 200 if n is None else n, least=1)
    if runtime.current().source == "hub":
        import datasets

        test = datasets.load_dataset(runtime.current().locate("cifar10"))["test"]
        deer = class_names(test).index("deer")
        known = [row for row, label in enumerate(test["label"]) if label != deer]
        chosen = random_indices(len(known), min(n, len(known)), seed)
        column = image_column(test)
        return _views([images.to_rgb(test[known[i]][column]) for i in chosen], n, seed), None
    pictures, said = _kit_pictures()
    numbers = {name: number for number, name in model.config.id2label.items()}
    labels = None
    if set(said) <= set(numbers):
        labels = torch.tensor([numbers[name] for name in said]).repeat(-(-n // len(said)))[:n]
    return _views(pictures, n, seed), labels


def _kit_pictures() -> tuple[list[Image.Image], list[str]]:
    """The kit's held-out pictures and photographs, with the names of what they show."""
    import datasets

    rt = runtime.current()
    heldout = datasets.load_dataset(rt.locate("heldout"))["test"]
    pictures = [images.to_rgb(picture) for picture in heldout["image"]]
    said = [class_names(heldout)[label] for label in heldout["label"]]
    for path in sorted(Path(rt.locate("photos")).glob("*.jpg")):
        if "_and_" not in path.stem:  # two things have no one label
            pictures.append(images.load_image(path))
            said.append(path.stem)
    return pictures, said


def _views(pictures: list, n: int, seed: int) -> list:
    """The pictures, then mirrored and slightly cropped views of them, `n` in all."""
    draw = torch.Generator().manual_seed(seed)
    views = pictures[:n]
    while len(views) < n:
        picture = ImageOps.mirror(pictures[len(views) % len(pictures)])
        left, top, right, bottom = (0.1 * torch.rand(4, generator=draw)).tolist()
        width, height = picture.size
        box = (left * width, top * height, (1 - right) * width, (1 - bottom) * height)
        views.append(picture.crop(tuple(round(edge) for edge in box)))
    return views
