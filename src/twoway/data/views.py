"""Pictures that a model sees twice: cut into tiles, and once more as a whole.

A patch masked in a tile and visible in the overview would be masked from nobody. So each token gets a *cell* of its picture's overview:
its own, or for a token of a tile the one that holds its middle; cells are masked with all their tokens. Where the grid of tiles divides
evenly (all families but LLaVA-OneVision) a cell's tokens show just that cell, and what shows elsewhere is the resampling at its rim.

How the tiles lie is not in a processor's output, but in the pixels it is: the grid, laid together and made small, looks like the overview.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch.nn import functional
from transformers.image_processing_utils import select_best_resolution

from ..errors import TwowayError

if TYPE_CHECKING:
    from torch import Tensor

    from .spans import Ints

# A mosaic that is no picture of the overview is about twice its variance away from it, one that is far below half.
_ALIKE = 0.5


def tile_cells(tiles: Tensor, side: int) -> Ints:
    """Return the cell of each token of one picture's tiles (tiles, channels, height, width), `side` tokens along each."""
    count = len(tiles)
    square = np.arange(side * side)
    found = _grid(tiles, side) if count > 1 else None
    if found is None:
        return np.arange(count * side * side)
    overview, rows, columns = found
    lines = overview_cells(side, rows * side, columns * side).reshape(rows, side, columns, side)
    fine = lines.transpose(0, 2, 1, 3).reshape(rows * columns, side * side)
    return np.insert(fine, overview, square, axis=0).reshape(-1)


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
        raise TwowayError(
            f"a picture of {size[0]} x {size[1]} pixels has more tiles than the model takes and its features are resampled, so no token "
            "is tied to its pixels; bound the pictures with --max-pixels, or pre-train with patches: 0"
        )
    tiles = 1 + (y // side)[:, None] * columns + (x // side)[None, :]
    units = tiles * side * side + (y % side)[:, None] * side + (x % side)[None, :]
    cells = overview_cells(side, len(y), len(x))
    ends = ((0, 0), (0, 1))
    lines = [np.pad(part, ends, constant_values=-1).reshape(-1) for part in (units, cells)]
    return np.append(square, lines[0]), np.append(square, lines[1])


def _grid(tiles: Tensor, side: int) -> tuple[int, int, int] | None:
    """Find which tile is the overview (the first or the last) and how many rows and columns the others make; `None`: no overview."""
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
    return None if best is None else best[1:]
