"""Do not pay for frozen parts: compute their output once per picture, and train what comes after.

A frozen block gives the same output for the same picture in every epoch. Where pictures are not
augmented, that output is computed once (`remember`), and each epoch runs the `Tail` alone. With
all blocks frozen, what is left is a linear layer on one vector a picture.
"""

import atexit
import hashlib
import shutil
import tempfile
from pathlib import Path

import numpy as np
import torch
from torch import nn

from . import data, models, runtime, training
from .errors import CourseError

LARGE_BYTES = 2 * 2**30  # from here on the tokens lie in a file that is mapped into the memory


class Tail(nn.Module):
    """The part of a ViT after its frozen blocks. It shares its weights with the model.

    What it learns, the model has learnt. `training.fit` takes it in place of the model, with
    loaders of `remember`.

    Args:
        model: A `ViTForImageClassification` whose embeddings and first blocks are frozen.
    """

    def __init__(self, model: nn.Module):
        super().__init__()
        self.blocks = nn.ModuleList(models.blocks(model)[frozen_blocks(model) :])
        self.layernorm = model.base_model.layernorm
        self.classifier = models.head(model)
        self.config = model.config
        # Not a part of this module, or its weights would be listed twice.
        self.set_attn_implementation = model.set_attn_implementation

    @property
    def device(self) -> torch.device:
        """Where its weights are."""
        return self.classifier.weight.device

    def forward(self, pixel_values: torch.Tensor):
        """From the tokens of `remember` (B, tokens, width) to logits (B, classes).

        The argument has the name that every ViT gives its input, so that one loop trains both.
        """
        from transformers.modeling_outputs import ImageClassifierOutput

        tokens = pixel_values
        for block in self.blocks:
            tokens = _only_tokens(block(tokens))
        logits = self.classifier(self.layernorm(tokens)[:, 0])
        return ImageClassifierOutput(logits=logits)


class Remembered(torch.utils.data.Dataset):
    """Pictures as the tokens that come out of the frozen part of a model.

    Attributes:
        tokens: (N, tokens, width), float32, in memory or mapped from a file; one token a picture,
            [CLS], where all blocks are frozen, because nothing reads the others.
        labels: (N,).
        class_names: As of the pictures.

    Each item is `(tokens of one picture, label)`.
    """

    def __init__(self, tokens: np.ndarray, labels: torch.Tensor, class_names: list[str]):
        self.tokens = tokens
        self.labels = labels
        self.class_names = class_names

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index):
        return torch.from_numpy(np.array(self.tokens[index])), self.labels[index]


def frozen_blocks(model: nn.Module) -> int:
    """How many of the first blocks are frozen, together with the embeddings.

    Raises:
        CourseError: If an embedding can learn. A single weight in front that learns brings the
            whole backward pass back, so nothing in front could be computed once.
    """
    moving = [n for n, p in models.embeddings(model).named_parameters() if p.requires_grad]
    if moving:
        raise CourseError(
            f"The embeddings can learn ({moving[0]}), so nothing behind them stays the same: "
            "freeze them with models.freeze(model, first_blocks)."
        )
    learns = [any(p.requires_grad for p in block.parameters()) for block in models.blocks(model)]
    return learns.index(True) if True in learns else len(learns)


def remember(
    model: nn.Module,
    pictures: data.PictureSet,
    batch_size: int = 32,
    folder: str | Path | None = None,
) -> Remembered:
    """Compute once what the frozen part of a model says about every picture.

    Args:
        model: A `ViTForImageClassification` whose embeddings and first blocks are frozen.
        pictures: Pictures under a transform that draws nothing at random.
        batch_size: Pictures at a time.
        folder: Where to keep the tokens for the next time, or `None`. The file is named after
            the frozen weights, the transform and the pictures, so an old one is never taken for
            a new one.

    Returns:
        A data set for `data.loader`, in the order of the pictures. More than 2 GiB of tokens are
        mapped from a file rather than held in memory.

    Raises:
        CourseError: If the embeddings can learn, the transform draws at random, there are no
            pictures, or the disk has too little space.
    """
    if len(pictures) == 0:
        raise CourseError("There are no pictures to compute anything of: the set is empty.")
    check_repeats(pictures)
    first = frozen_blocks(model)
    model.eval()
    one = _frozen_part(model, pictures[0][0][None], first)  # how many tokens there are
    shape = (len(pictures), 1 if first == len(models.blocks(model)) else one.shape[1], one.shape[2])
    size = 4 * int(np.prod(shape))
    path = None
    if folder is not None:
        path = Path(folder) / f"tokens-{fingerprint(model, pictures, first)}.npy"
        if path.is_file():
            return Remembered(_open(path, size), pictures.labels, pictures.class_names)
    elif size > LARGE_BYTES:
        path = Path(tempfile.mkdtemp(prefix="vit-tokens-")) / "tokens.npy"
        atexit.register(shutil.rmtree, path.parent, ignore_errors=True)

    whole, temporary = _place(path, shape, size)
    done = 0
    for pixels, _ in runtime.bar(data.loader(pictures, batch_size), "frozen part, once"):
        tokens = _frozen_part(model, pixels, first)
        whole[done : done + len(tokens)] = tokens[:, : shape[1]].float().cpu().numpy()
        done += len(tokens)
    if path is not None:
        whole.flush()
        del whole
        temporary.replace(path)  # a broken-off computation leaves no file of that name
        whole = _open(path, size)
    return Remembered(whole, pictures.labels, pictures.class_names)


def fingerprint(model: nn.Module, pictures: data.PictureSet, first: int) -> str:
    """A name for the tokens: it changes with the frozen weights, the transform or the pictures."""
    digest = hashlib.blake2b(digest_size=16)
    rt = runtime.current()
    digest.update(f"{first} {pictures.transform!r} {rt.device.type} {rt.precision}".encode())
    for part in (models.embeddings(model), *models.blocks(model)[:first]):
        for name, value in part.state_dict().items():
            digest.update(name.encode())
            digest.update(value.detach().cpu().contiguous().view(torch.uint8).numpy())
    digest.update(pictures[0][0].contiguous().numpy())  # what the transform does, not its name
    for picture in pictures.pictures:
        digest.update(str(tuple(picture.shape)).encode())
        digest.update(picture.contiguous().numpy())
    return digest.hexdigest()


def check_repeats(pictures: data.PictureSet) -> None:
    """Raise `CourseError` if the transform gives other numbers each time."""
    first = pictures[0][0]
    if not all(torch.equal(first, pictures[0][0]) for _ in range(8)):
        raise CourseError(
            "This transform draws at random, so its output cannot be computed once: use "
            "data.eval_transform(processor) for these pictures."
        )


def _frozen_part(model: nn.Module, pixels: torch.Tensor, first: int) -> torch.Tensor:
    """Tokens (B, tokens, width) after the first blocks, in the number format of a training."""
    with (
        torch.inference_mode(),
        training.autocast(learning=True),
        models.attention(model, training.fastest_attention(model)),
    ):
        tokens = models.embeddings(model)(pixels.to(model.device))
        for block in models.blocks(model)[:first]:
            tokens = _only_tokens(block(tokens))
        return tokens


def _only_tokens(output) -> torch.Tensor:
    return output[0] if isinstance(output, tuple) else output  # transformers 4.57: a tuple


def _place(path: Path | None, shape: tuple[int, ...], size: int):
    """An array to write the tokens into, and the file that it is mapped from, if any."""
    if path is None:
        return np.empty(shape, np.float32), None
    path.parent.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(path.parent).free
    if free < size:
        raise CourseError(
            f"The tokens take {size / 1e9:.1f} GB, but {str(path.parent)!r} has {free / 1e9:.1f} "
            "GB free: free some space, or freeze all blocks (then one vector a picture is kept)."
        )
    temporary = path.with_suffix(".part")
    return np.lib.format.open_memmap(temporary, "w+", np.float32, shape), temporary


def _open(path: Path, size: int) -> np.ndarray:
    return np.load(path, mmap_mode="r" if size > LARGE_BYTES else None)
