"""Pictures that a model sees twice: cut into tiles, and once more as a whole.

A patch masked in a tile and visible in the overview would be masked from nobody. So each token gets a *cell* of its picture's overview:
its own, or for a token of a tile the one that holds its middle; cells are masked with all their tokens. Where the grid of tiles divides
evenly (all families but LLaVA-OneVision) a cell's tokens show just that cell, and what shows elsewhere is the resampling at its rim.

How the tiles lie is not in a processor's output, and what decides it differs between processors. So a ramp of colours of the picture's
size goes through the same processor: its tiles, laid together and made small, look like its overview in one way only. That costs a second
run for each new size of a tiled picture, and, unlike a look at the picture itself, leaves masks independent of what is under them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image as PILImage
from torch.nn import functional
from transformers.image_processing_utils import select_best_resolution

from ..content import ContentError

if TYPE_CHECKING:
    from torch import Tensor

    from .spans import Ints

# A mosaic that is no picture of the overview is about twice its variance away from it, one that is far below half.
_ALIKE = 0.5
_REMEMBERED = 100_000


@dataclass(frozen=True)
class Grid:
    """How a picture's tiles lie: which is the overview, and the rows and columns of the others."""

    overview: int
    rows: int
    columns: int


class Grids:
    """The grids of one processor's pictures by their size."""

    def __init__(self, processor: Any, side: int) -> None:
        """Remember what is needed to look one up."""
        self.processor, self.side = processor, side
        self._known: dict[tuple[int, int], Grid | None] = {}

    def __call__(self, size: tuple[int, int]) -> Grid | None:
        """Return the grid of a picture of this width and height; `None` where it has no overview."""
        if size not in self._known:
            if len(self._known) > _REMEMBERED:
                self._known.clear()
            pixels = look(self.processor, ramp(*size))["pixel_values"]
            self._known[size] = find_grid(pixels.reshape(-1, *pixels.shape[-3:]), self.side)
        return self._known[size]


def look(processor: Any, picture: PILImage.Image) -> Any:
    """Run the processor over one picture."""
    return processor(text=[str(processor.image_token)], images=[[picture]], images_kwargs={"return_tensors": "pt"})


def ramp(width: int, height: int) -> PILImage.Image:
    """Make a picture whose every place has a colour of its own."""
    pixels = np.zeros((height, width, 3), np.uint8)
    pixels[..., 0] = np.linspace(0, 255, width)[None, :]
    pixels[..., 1] = np.linspace(0, 255, height)[:, None]
    return PILImage.fromarray(pixels)


def tile_cells(count: int, side: int, grid: Grid | None) -> Ints:
    """Return the cell of each token of one picture's `count` tiles, `side` tokens along each."""
    square = np.arange(side * side)
    if grid is None:
        return np.arange(count * side * side)
    lines = overview_cells(side, grid.rows * side, grid.columns * side).reshape(grid.rows, side, grid.columns, side)
    fine = lines.transpose(0, 2, 1, 3).reshape(grid.rows * grid.columns, side * side)
    return np.insert(fine, grid.overview, square, axis=0).reshape(-1)


def overview_cells(side: int, rows: int, columns: int) -> Ints:
    """Return for a grid of tokens which of the overview's `side` x `side` cells holds the middle of each."""
    down = ((2 * np.arange(rows) + 1) * side) // (2 * rows)
    across = ((2 * np.arange(columns) + 1) * side) // (2 * columns)
    return down[:, None] * side + across[None, :]


def line_places(size: tuple[int, int], pinpoints: tuple[tuple[int, int], ...], tile: int, side: int, count: int) -> tuple[Ints, Ints]:
    """Return unit and cell of each token of a picture that is packed in lines: an overview, then the unpadded tiles line by line.

    Each line ends with a token that stands for no pixels (unit -1). In a row of several pictures there is the overview alone.
    """
    square = np.arange(side * side)
    if count == side * side + 1:
        return np.append(square, -1), np.append(square, -1)
    height, width = select_best_resolution(size, [list(one) for one in pinpoints])
    columns = width // tile
    map_height, map_width = height // tile * side, columns * side
    # As the model does: the side that was padded is cut to the picture's own shape.
    if size[1] / size[0] > map_width / map_height:
        top, left = (map_height - int(round(size[0] * (map_width / size[1]), 7))) // 2, 0
    else:
        top, left = 0, (map_width - int(round(size[1] * (map_height / size[0]), 7))) // 2
    y, x = np.arange(top, map_height - top), np.arange(left, map_width - left)
    if count != side * side + len(y) * (len(x) + 1):
        raise ContentError(
            f"a picture of {size[0]} x {size[1]} pixels has more tiles than the model takes and its features are resampled, so no token "
            "is tied to its pixels; use smaller pictures, or pre-train on words alone (mae_weight=0)"
        )
    tiles = 1 + (y // side)[:, None] * columns + (x // side)[None, :]
    units = tiles * side * side + (y % side)[:, None] * side + (x % side)[None, :]
    cells = overview_cells(side, len(y), len(x))
    ends = ((0, 0), (0, 1))
    lines = [np.pad(part, ends, constant_values=-1).reshape(-1) for part in (units, cells)]
    return np.append(square, lines[0]), np.append(square, lines[1])


def find_grid(tiles: Tensor, side: int) -> Grid | None:
    """Find which tile is the overview (the first or the last) and how the others lie; `None` where none is the others made small."""
    if len(tiles) == 1:
        return None
    small = functional.adaptive_avg_pool2d(tiles.float(), 4 * side)
    count, channels, edge, _ = small.shape
    best: tuple[float, int, int, int] | None = None
    for overview in (count - 1, 0):
        whole = small[overview]
        others = torch.cat([small[:overview], small[overview + 1 :]])
        for rows in range(1, count):
            if (count - 1) % rows:
                continue
            columns = (count - 1) // rows
            mosaic = (
                others.reshape(rows, columns, channels, edge, edge).permute(2, 0, 3, 1, 4).reshape(channels, rows * edge, columns * edge)
            )
            off = float((functional.adaptive_avg_pool2d(mosaic, edge) - whole).square().mean())
            if off <= _ALIKE * float(whole.var()) + 1e-6 and (best is None or off < best[0]):
                best = (off, overview, rows, columns)
    return None if best is None else Grid(*best[1:])
