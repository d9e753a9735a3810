"""Data sets: splits and classes by name, a part of a split, pictures as tensors, loaders."""

from .check import FolderCheck, check_folder
from .evaluation import evaluation_images
from .pictures import (
    EvalTransform,
    PictureSet,
    TrainTransform,
    eval_transform,
    loader,
    to_tensor,
    train_transform,
)
from .splits import (
    balanced_subset,
    class_names,
    image_column,
    labels_of,
    load_folder,
    random_indices,
    split_named,
    split_off,
    with_classes,
)

__all__ = [
    "EvalTransform",
    "FolderCheck",
    "PictureSet",
    "TrainTransform",
    "balanced_subset",
    "check_folder",
    "class_names",
    "eval_transform",
    "evaluation_images",
    "image_column",
    "labels_of",
    "load_folder",
    "loader",
    "random_indices",
    "split_named",
    "split_off",
    "to_tensor",
    "train_transform",
    "with_classes",
]

from .old import (  # noqa: F401
    load_dataset,
    load_image,
    model_size,
    own_pictures,
    patches,
    resize,
    take,
    to_rgb,
    unnormalise,
)
