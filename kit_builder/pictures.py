"""Training pictures, drawn afresh for every batch.

A batch is made from two banks of small uint8 pictures: real photographs (CIFAR-10, 32 pixels) and
drawings (144 pixels with transparency). One affine ``grid_sample`` per batch does crop, zoom,
turn, mirror and enlargement at once, so that a training picture costs well below a millisecond.
"""

from __future__ import annotations

import io
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Generator, Tensor

from . import artwork
from .classes import CIFAR10_CLASSES, DRAWN_CLASSES

DRAWING_SIDE = 144
# From red, green, blue to brightness and two colour axes (YIQ, as in the NTSC standard) and back.
_TO_YIQ = torch.tensor([[0.299, 0.587, 0.114], [0.596, -0.274, -0.322], [0.211, -0.523, 0.312]])
_FROM_YIQ = torch.linalg.inv(_TO_YIQ)


@dataclass(frozen=True)
class Bank:
    """Pictures of one kind with their labels."""

    pixels: Tensor  # uint8 (n, 3 or 4, side, side)
    labels: Tensor  # int64 (n,)

    def __len__(self) -> int:
        return len(self.labels)


def photo_bank(parquet: Path) -> Bank:
    """Real CIFAR-10 photographs from a parquet file with columns ``img`` and ``label``."""
    import pyarrow.parquet as pq

    table = pq.read_table(parquet)
    image_column = "img" if "img" in table.column_names else "image"
    files = table[image_column].to_pylist()
    arrays = [np.asarray(Image.open(io.BytesIO(f["bytes"])).convert("RGB")) for f in files]
    pixels = torch.from_numpy(np.stack(arrays)).permute(0, 3, 1, 2).contiguous()
    return Bank(pixels, torch.tensor(table["label"].to_pylist()))


def drawing_bank(sets: tuple[str, ...], side: int = DRAWING_SIDE) -> Bank:
    """Every drawn class in every one of these sets that has it, as premultiplied RGBA."""
    pixels, labels = [], []
    for label, name in enumerate(DRAWN_CLASSES, start=len(CIFAR10_CLASSES)):
        for set_name in sets:
            if artwork.has(set_name, name):
                rgba = artwork.render(set_name, name, side).astype(np.uint16)
                rgba = np.concatenate([rgba[..., :3] * rgba[..., 3:] // 255, rgba[..., 3:]], axis=2)
                pixels.append(torch.from_numpy(rgba.astype(np.uint8)).permute(2, 0, 1))
                labels.append(label)
    return Bank(torch.stack(pixels), torch.tensor(labels))


def uniform(n: int, low: float, high: float, rng: Generator) -> Tensor:
    """n numbers between low and high."""
    return torch.rand(n, generator=rng) * (high - low) + low


def sometimes(n: int, probability: float, rng: Generator) -> Tensor:
    """n zeros and ones, as floats."""
    return (torch.rand(n, generator=rng) < probability).float()


def affine(n: int, zoom: tuple[float, float], shift: float, turn: float, rng: Generator) -> Tensor:
    """Random maps from output to source coordinates, (n, 2, 3), for ``F.affine_grid``.

    Args:
        n: how many.
        zoom: smallest and largest part of the source that fills the output; above 1 the source
            becomes smaller than the output.
        shift: largest displacement, as a part of the room that the zoom leaves.
        turn: standard deviation of the rotation in degrees.
        rng: source of chance.
    """
    low, high = zoom
    scale = torch.exp(uniform(n, math.log(low), math.log(high), rng))
    stretch = torch.exp(0.12 * torch.randn(n, generator=rng))
    angle = torch.deg2rad(turn * torch.randn(n, generator=rng))
    mirror = 1 - 2 * sometimes(n, 0.5, rng)
    theta = torch.zeros(n, 2, 3)
    theta[:, 0, 0] = scale * stretch * angle.cos() * mirror
    theta[:, 0, 1] = -scale * stretch * angle.sin()
    theta[:, 1, 0] = scale / stretch * angle.sin() * mirror
    theta[:, 1, 1] = scale / stretch * angle.cos()
    room = (1 - scale).abs()[:, None] * shift
    theta[:, :, 2] = room * (2 * torch.rand(n, 2, generator=rng) - 1)
    return theta


def sample(
    pixels: Tensor, theta: Tensor, side: int, mode: str, padding: str, warp: Tensor | None = None
) -> Tensor:
    """Look up uint8 pictures (n, c, s, s) through affine maps: floats 0..1, (n, c, side, side).

    ``warp`` (n, 2, side, side), in the same units as the maps, bends the pictures a little.
    """
    grid = F.affine_grid(theta, [len(theta), 1, side, side], align_corners=False)
    if warp is not None:
        grid = grid + warp.permute(0, 2, 3, 1)
    source = pixels.float().div_(255)
    return F.grid_sample(source, grid, mode=mode, padding_mode=padding, align_corners=False)


def jitter_colours(
    x: Tensor, strength: float, rng: Generator, alpha: Tensor | None = None
) -> Tensor:
    """Change hue, saturation, contrast and brightness of each picture (n, 3, h, w) in one product.

    ``alpha`` (n, 1, h, w) scales the added brightness of premultiplied drawings.
    """
    n = len(x)
    # Most hues move a little; some turn to any other, as things are often painted anew.
    hue = strength * 0.5 * torch.randn(n, generator=rng)
    hue = hue + sometimes(n, 0.4 * strength, rng) * uniform(n, -math.pi, math.pi, rng)
    saturation = torch.exp(strength * torch.randn(n, generator=rng))
    saturation = saturation * (1 - sometimes(n, 0.08, rng))  # some are black and white
    contrast = torch.exp(0.6 * strength * torch.randn(n, generator=rng))
    turn = torch.zeros(n, 3, 3)
    turn[:, 0, 0] = 1
    turn[:, 1, 1] = turn[:, 2, 2] = saturation * hue.cos()
    turn[:, 1, 2] = -saturation * hue.sin()
    turn[:, 2, 1] = saturation * hue.sin()
    matrix = contrast[:, None, None] * (_FROM_YIQ @ turn @ _TO_YIQ)
    offset = 0.3 * strength * torch.randn(n, generator=rng) + 0.5 * (1 - contrast)
    offset = offset[:, None, None, None]
    out = torch.bmm(matrix, x.flatten(2)).view_as(x)
    return out + (offset if alpha is None else offset * alpha)


def natural_details(count: int, rng: Generator, side: int = 256) -> Tensor:
    """Textures like fur, grass or stone, (count, 1, 256, 256), of standard deviation 1.

    Their strength falls with frequency as in photographs (1 / f, Field 1987), some have a
    direction, and the coarse half of the frequencies is missing: photographs have that already.
    """
    fy = torch.fft.fftfreq(side)[:, None]
    fx = torch.fft.fftfreq(side)[None]
    angle = uniform(count, 0, math.pi, rng)[:, None, None]
    stretch = torch.exp(uniform(count, 0, 1.5, rng))[:, None, None]
    along = (fx * angle.cos() + fy * angle.sin()) * stretch
    across = -fx * angle.sin() + fy * angle.cos()
    frequency = (along**2 + across**2).sqrt().clamp_min(1 / side)
    strength = (fx**2 + fy**2).sqrt().gt(0.03) / frequency
    noise = torch.fft.fft2(torch.randn(count, side, side, generator=rng))
    detail = torch.fft.ifft2(noise * strength).real[:, None]
    return detail / detail.std(dim=(1, 2, 3), keepdim=True)


def blur(x: Tensor, width: int) -> Tensor:
    """Mean over a square of odd width, twice: close to a Gaussian."""
    for _ in range(2):
        x = F.avg_pool2d(x, width, stride=1, padding=width // 2, count_include_pad=False)
    return x


class Painter:
    """Makes batches of training pictures from the banks.

    Args:
        photos: real photographs.
        drawings: drawings with transparency.
        seed: of the noise textures, which are made once.
    """

    def __init__(self, photos: Bank, drawings: Bank, seed: int = 0) -> None:
        self.photos, self.drawings = photos, drawings
        rng = torch.Generator().manual_seed(seed)
        fine = torch.randn(8, 3, 256, 256, generator=rng)
        coarse = F.interpolate(torch.randn(8, 3, 86, 86, generator=rng), size=256, mode="bilinear")
        grey = torch.randn(8, 1, 256, 256, generator=rng).expand(-1, 3, -1, -1)
        self.textures = torch.cat([fine, coarse, grey])
        self.details = natural_details(48, rng)

    def add_noise(self, x: Tensor, rng: Generator) -> Tensor:
        """Half of the pictures get grain: a photograph of 32 pixels has no fine detail."""
        n, _, side, _ = x.shape
        amount = 0.07 * torch.rand(n, generator=rng) * sometimes(n, 0.5, rng)
        which = torch.randint(len(self.textures), (n,), generator=rng)
        row, column = torch.randint(256 - side + 1, (2,), generator=rng).tolist()
        cut = self.textures[which, :, row : row + side, column : column + side]
        return x + amount[:, None, None, None] * cut

    def sharpen(self, x: Tensor, rng: Generator) -> Tensor:
        """Give photographs of 32 pixels crisp edges and the fine detail that they cannot have.

        Otherwise the network learns that whatever is sharp must be a drawing, and a real
        photograph at full size is not recognised as one.
        """
        n, _, side, _ = x.shape
        if torch.rand(1, generator=rng).item() < 0.5:  # unsharp mask about as wide as one pixel
            amount = uniform(n, 0.0, 2.5, rng)[:, None, None, None]
            x = x + amount * (x - blur(x, side // 32 // 2 * 2 + 3))
        amount = 0.3 * torch.rand(n, generator=rng) * sometimes(n, 0.75, rng)
        which = torch.randint(len(self.details), (n,), generator=rng)
        row, column = torch.randint(256 - side + 1, (2,), generator=rng).tolist()
        cut = self.details[which, :, row : row + side, column : column + side]
        return x + amount[:, None, None, None] * cut * x.clamp(0.1, 0.6)

    def photographs(self, n: int, side: int, rng: Generator) -> tuple[Tensor, Tensor]:
        """n augmented photographs, floats around 0..1, (n, 3, side, side), and their labels."""
        index = torch.randint(len(self.photos), (n,), generator=rng)
        # Enlarged with smooth, crisp or blocky edges, so that sharpness tells nothing.
        kind = torch.rand(1, generator=rng).item()
        mode = "bilinear" if kind < 0.45 else "bicubic" if kind < 0.8 else "nearest"
        # Where there is room, also smaller and so sharper, among their own mirror images.
        theta = affine(n, (0.6, 1.25 if side < 160 else 2.2), 1.0, 7.0, rng)
        x = sample(self.photos.pixels[index], theta, side, mode, "reflection")
        x = self.sharpen(jitter_colours(x, 0.25, rng), rng)
        return self.add_noise(x, rng), self.photos.labels[index]

    def backgrounds(self, n: int, side: int, rng: Generator) -> Tensor:
        """Plain, shaded and photographic backgrounds, (n, 3, side, side)."""
        corner = torch.rand(n, 3, 1, 1, generator=rng)
        other = (corner + 0.4 * torch.randn(n, 3, 1, 1, generator=rng)).clamp(0, 1)
        other = torch.where(sometimes(n, 0.5, rng)[:, None, None, None] > 0, other, corner)
        ramp = torch.linspace(0, 1, side)
        share = uniform(n, -1, 1, rng)[:, None, None]
        ramp = (share * ramp[:, None] + (1 - share.abs()) * ramp[None, :]).abs()[:, None]
        plain = corner + (other - corner) * ramp
        index = torch.randint(len(self.photos), (n,), generator=rng)
        theta = affine(n, (0.2, 1.0), 1.0, 20.0, rng)
        photo = sample(self.photos.pixels[index], theta, side, "bilinear", "reflection")
        amount = uniform(n, 0.3, 1.0, rng) * sometimes(n, 0.5, rng)
        return plain + amount[:, None, None, None] * (photo - plain)

    def drawn(
        self, n: int, side: int, rng: Generator, index: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """n drawings on backgrounds (n, 3, side, side), labels, outlines (n, 1, side, side)."""
        if index is None:
            index = torch.randint(len(self.drawings), (n,), generator=rng)
        theta = affine(n, (0.9, 2.0), 0.9, 14.0, rng)
        # Bent like rubber, because another artist gives the same thing other proportions.
        bend = 0.07 * torch.randn(n, 2, 5, 5, generator=rng)
        bend = F.interpolate(bend, size=side, mode="bicubic", align_corners=True)
        rgba = sample(self.drawings.pixels[index], theta, side, "bilinear", "zeros", bend)
        colour, alpha = rgba[:, :3], rgba[:, 3:]
        colour = jitter_colours(colour, 0.3, rng, alpha)
        x = colour + (1 - alpha) * self.backgrounds(n, side, rng)
        if torch.rand(1, generator=rng).item() < 0.25:  # some drawings are blurred
            x = blur(x, 3)
        # No grain here: texture everywhere is what tells a photograph from a drawing.
        return x, self.drawings.labels[index], alpha

    def batch(self, n: int, side: int, photo_share: float, rng: Generator) -> tuple[Tensor, Tensor]:
        """A mixed batch scaled to -1..1, (n, 3, side, side), and its labels (n,)."""
        photos = round(n * photo_share)
        x, y = self.photographs(photos, side, rng)
        drawn, labels, _ = self.drawn(n - photos, side, rng)
        return torch.cat([x, drawn]).clamp_(0, 1).mul_(2).sub_(1), torch.cat([y, labels])
