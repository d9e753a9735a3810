"""Attention maps as pixels, without matplotlib: for widgets that redraw while a slider moves.

A figure is built from hundreds of objects, and building it takes a tenth of a second and more.
Here a map is a look-up in a table of 256 colours, enlarged and blended by PIL.
"""

import io

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from . import plots
from .errors import in_range

WIDTH = 480  # of a single map, in pixels
CELL_WIDTH = 60  # of a map in the table of all layers and heads
MARGIN = 26  # for the numbers of layers and heads


class Painter:
    """Draws the attention maps of one picture.

    Args:
        picture: The PIL picture.
        attn: Array (L, H, T, T), float32. The special tokens come first.
        grid: `(rows, columns)` of patches.
    """

    def __init__(self, picture, attn: np.ndarray, grid: tuple[int, int]):
        self.attn, self.grid = attn, grid
        self.layers, self.heads, self.tokens, _ = attn.shape
        self.special = self.tokens - grid[0] * grid[1]
        self.table = plots.colour_table("viridis")
        grey = picture.convert("L").convert("RGB")
        tall = picture.height / picture.width
        self.large = grey.resize((WIDTH, max(1, round(WIDTH * tall))))
        self.cell = (CELL_WIDTH, max(1, round(CELL_WIDTH * tall)))
        self.sheet = self._empty_sheet(grey.resize(self.cell))

    def weights(self, layer: int, head: int | None, query: int = 0) -> np.ndarray:
        """The weights of the patches, (rows, columns), in one head or, if `None`, their mean."""
        layer = in_range("layer", layer, self.layers)
        query = in_range("token", query, self.tokens)
        if head is None:
            row = self.attn[layer, :, query].mean(axis=0)
        else:
            row = self.attn[layer, in_range("head", head, self.heads), query]
        return row[self.special :].reshape(self.grid)

    def one(self, layer: int, head: int | None, query: int = 0) -> Image.Image:
        """One map over the picture, scaled to its own largest weight."""
        weights = self._colours(self.weights(layer, head, query))
        colours = Image.fromarray(weights).resize(self.large.size, Image.Resampling.BILINEAR)
        return Image.blend(self.large, colours, plots.OPACITY)

    def all(self, query: int = 0) -> Image.Image:
        """The maps of all layers (rows) and heads (columns), each scaled to its own largest."""
        query = in_range("token", query, self.tokens)
        maps = self.attn[:, :, query, self.special :]
        maps = maps / np.maximum(maps.max(axis=-1, keepdims=True), 1e-12)
        maps = maps.reshape(self.layers, self.heads, *self.grid).swapaxes(1, 2)
        patches = self._colours(maps.reshape(self.layers * self.grid[0], -1))
        width, height = self.cell
        size = (self.heads * width, self.layers * height)
        colours = Image.fromarray(patches).resize(size, Image.Resampling.NEAREST)
        maps = np.array(Image.blend(self._tiles, colours, plots.OPACITY))
        maps[::height] = maps[:, ::width] = 255  # white lines between the maps
        sheet = self.sheet.copy()
        sheet.paste(Image.fromarray(maps), (MARGIN, MARGIN))
        return sheet

    def _colours(self, weights: np.ndarray) -> np.ndarray:
        """Weights as colours: shape (..., 3), uint8; the largest gets the last colour."""
        largest = max(float(weights.max()), 1e-12)
        return self.table[np.rint(weights * (255 / largest)).astype(np.uint8)]

    def _empty_sheet(self, thumbnail: Image.Image) -> Image.Image:
        """White paper with the numbers of heads above and of layers on the left."""
        width, height = self.cell
        tiles = np.tile(np.asarray(thumbnail), (self.layers, self.heads, 1))
        self._tiles = Image.fromarray(tiles)
        sheet = Image.new("RGB", (MARGIN + tiles.shape[1], MARGIN + tiles.shape[0]), "white")
        pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(13)
        for head in range(self.heads):
            place = (MARGIN + (head + 0.5) * width, MARGIN / 2)
            pen.text(place, str(head), "black", font, anchor="mm")
        for layer in range(self.layers):
            place = (MARGIN / 2, MARGIN + (layer + 0.5) * height)
            pen.text(place, str(layer), "black", font, anchor="mm")
        return sheet


def as_jpeg(image: Image.Image) -> bytes:
    """An image as a JPEG file without blurred colours: quick to make, small to send."""
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=88, subsampling=0)
    return buffer.getvalue()


def as_png(image: Image.Image) -> bytes:
    """An image as a PNG file of at most 256 colours: small enough to keep in a notebook."""
    buffer = io.BytesIO()
    palette = image.quantize(256)  # only with a palette at hand Pillow dithers
    image.quantize(256, palette=palette).save(buffer, "PNG", optimize=True)
    return buffer.getvalue()
