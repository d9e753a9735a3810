"""Data sets: splits and classes by name, a part of a split, pictures as tensors, loaders."""

from ..errors import old_names
from ..images import to_tensor
from .check import check_folder
from .evaluation import evaluation_images
from .pictures import PictureSet, eval_transform, loader, train_transform
from .splits import (
    balanced_subset,
    class_names,
    image_column,
    labels_of,
    load_folder,
    random_indices,
    split_off,
)

__getattr__ = old_names(__name__)
