"""Names of the first edition that a notebook still uses; each goes with its last use."""

from .. import images, runtime
from .evaluation import evaluation_images
from .splits import balanced_subset

load_image, to_rgb = images.load_image, images.to_rgb
patches, unnormalise, model_size = images.patches, images.unnormalise, images.model_size
take, own_pictures = balanced_subset, evaluation_images


def load_dataset(name: str):
    """`datasets.load_dataset` of a data set of the course."""
    import datasets

    return datasets.load_dataset(runtime.current().locate(name))


def resize(processor):
    """The processor's first step, as a transform of uint8 tensors."""
    return lambda picture: images.resized(picture, processor)
