"""Training pictures of four kinds, drawn afresh for every batch.

One ``grid_sample`` a batch does crop, zoom, mirror and enlargement at once, so a training picture
costs below a millisecond. What was learnt the hard way: photographs of 32 or 64 pixels have no
fine detail, so a network that has seen only them takes whatever is sharp for something else.
Unsharp masks, texture and several ways to enlarge make sharpness tell nothing.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Generator, Tensor

from .classes import CIFAR10_CLASSES
from .photographs import Bank, Photographs
from .pictures import (
    affine,
    blur,
    jitter_colours,
    natural_details,
    sample,
    sometimes,
    uniform,
)


@dataclass(frozen=True)
class Part:
    """The pictures of one kind in a batch: floats around 0..1, and what is to be learnt."""

    pixels: Tensor
    labels: Tensor
    teacher: Tensor | None = None
    shares: Tensor | None = None


class Painter:
    """Makes batches from banks of photographs and from drawings with transparency."""

    def __init__(self, photographs: Photographs, drawings: Bank, seed: int = 0) -> None:
        self.photographs, self.drawings = photographs, drawings
        rng = torch.Generator().manual_seed(seed)
        self.grain = torch.randn(16, 3, 256, 256, generator=rng)
        self.details = natural_details(48, rng)

    @classmethod
    def load(cls, photographs: Photographs, cache: Path) -> Painter:
        """With the drawings of the training artists, rendered once."""
        path = cache / "drawings.pt"
        if not path.exists():
            from . import artwork
            from .pictures import drawing_bank

            artwork.fetch()
            partial = path.with_suffix(".partial")
            drawn = drawing_bank(artwork.TRAIN_SETS)
            torch.save([drawn.pixels, drawn.labels - len(CIFAR10_CLASSES)], partial)
            os.replace(partial, path)
        pixels, labels = torch.load(path, weights_only=True)[:2]
        return cls(photographs, Bank(pixels, labels))

    def batch(self, counts: list[int], side: int, rng: Generator) -> list[Part]:
        """Tiny-ImageNet, sharp photographs, CIFAR-10 and drawings, so many of each."""
        tiny, sharp, cifar, drawn = counts
        p = self.photographs
        return [
            self.photos(p.tiny, tiny, side, rng, least=0.6, detail=0.5),
            self.photos(p.sharp, sharp, side, rng, least=0.6, detail=0.15),
            self.photos(p.cifar, cifar, side, rng, least=0.7, detail=0.7),
            self.drawn(drawn, side, rng),
        ]

    def photos(
        self, bank: Bank, n: int, side: int, rng: Generator, *, least: float, detail: float
    ) -> Part:
        """n augmented photographs (n, 3, side, side).

        Args:
            bank: where they come from.
            n: how many.
            side: of the output, in pixels.
            rng: source of chance.
            least: smallest part of a picture's side that is shown.
            detail: how often fine detail is added that a small photograph cannot have.
        """
        index = torch.randint(len(bank), (n,), generator=rng)
        kind = torch.rand(1, generator=rng).item()
        mode = "bilinear" if kind < 0.5 else "bicubic" if kind < 0.9 else "nearest"
        theta = affine(n, (least, 1.1), 1.0, 3.0, rng)
        x = sample(bank.pixels[index], theta, side, mode, "reflection")
        x = jitter_colours(x, 0.12, rng)
        if torch.rand(1, generator=rng).item() < detail:
            x = self.sharpen(x, bank.pixels.shape[-1], rng)
        teacher = None if bank.teacher is None else bank.teacher[index]
        shares = None if bank.shares is None else bank.shares[index]
        return Part(self.add_grain(x, rng), bank.labels[index], teacher, shares)

    def sharpen(self, x: Tensor, native: int, rng: Generator) -> Tensor:
        """Crisp edges (an unsharp mask as wide as one native pixel) and texture."""
        n, _, side, _ = x.shape
        if side > native and torch.rand(1, generator=rng).item() < 0.6:
            amount = uniform(n, 0.0, 2.0, rng)[:, None, None, None]
            x = x + amount * (x - blur(x, side // native // 2 * 2 + 3))
        amount = 0.25 * torch.rand(n, generator=rng) * sometimes(n, 0.6, rng)
        which = torch.randint(len(self.details), (n,), generator=rng)
        row, column = torch.randint(256 - side + 1, (2,), generator=rng).tolist()
        cut = self.details[which, :, row : row + side, column : column + side]
        return x + amount[:, None, None, None] * cut * x.clamp(0.1, 0.6)

    def add_grain(self, x: Tensor, rng: Generator) -> Tensor:
        """A third of the pictures get the noise of a sensor."""
        n, _, side, _ = x.shape
        amount = 0.06 * torch.rand(n, generator=rng) * sometimes(n, 0.33, rng)
        which = torch.randint(len(self.grain), (n,), generator=rng)
        row, column = torch.randint(256 - side + 1, (2,), generator=rng).tolist()
        cut = self.grain[which, :, row : row + side, column : column + side]
        return x + amount[:, None, None, None] * cut

    def drawn(self, n: int, side: int, rng: Generator) -> Part:
        """n drawings on plain or photographic backgrounds."""
        index = torch.randint(len(self.drawings), (n,), generator=rng)
        theta = affine(n, (0.9, 2.0), 0.9, 14.0, rng)
        rgba = sample(self.drawings.pixels[index], theta, side, "bilinear", "zeros")
        colour, alpha = rgba[:, :3], rgba[:, 3:]
        colour = jitter_colours(colour, 0.3, rng, alpha)
        plain = torch.rand(n, 3, 1, 1, generator=rng)
        bank = self.photographs.cifar
        behind = torch.randint(len(bank), (n,), generator=rng)
        photo = sample(
            bank.pixels[behind],
            affine(n, (0.3, 1.0), 1.0, 20.0, rng),
            side,
            "bilinear",
            "reflection",
        )
        amount = uniform(n, 0.3, 1.0, rng) * sometimes(n, 0.5, rng)
        back = plain + amount[:, None, None, None] * (photo - plain)
        return Part(colour + (1 - alpha) * back, self.drawings.labels[index])
