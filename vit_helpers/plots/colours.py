"""Colours that survive the common kinds of colour blindness."""

import numpy as np
from matplotlib import colormaps

# Okabe and Ito's palette, for categories.
BLUE, ORANGE, GREEN, PINK = "#0072B2", "#E69F00", "#009E73", "#CC79A7"
SKY, RED, YELLOW, BLACK = "#56B4E9", "#D55E00", "#F0E442", "#000000"
PALETTE = (BLUE, ORANGE, GREEN, PINK, SKY, RED, YELLOW, BLACK)
OPACITY = 0.6  # of an attention map over its picture in the explorer


def colour_table(name: str) -> np.ndarray:
    """A colour map of matplotlib as 256 colours: shape (256, 3), uint8."""
    return colormaps[name](np.arange(256), bytes=True)[:, :3].copy()
