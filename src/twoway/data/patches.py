"""Which pixels one image token covers, for every family, from the model's config and what its processor gives.

There are two layouts. Where `pixel_values` has a row for each patch (`image_grid_thw` says how they lie), a token stands for as many
consecutive rows as the tower merges. Where it has tiles (…, channels, height, width), a token stands for a block of a tile, and the
tokens of a tile are a square, row by row; pixel shuffle and pooling make blocks larger than the tower's patches, and nothing else differs.

A geometry turns the pixels of a row into a table of units, one unit a token and its values patch by patch, and back. `places` says for
each image token which unit it stands for (-1: none, such as the token that ends a line of tiles) and which cell of its picture it shows:
tokens that show the same part of a picture, in the tiles and in the overview, have one cell and are masked together, or each would
give the other away.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from ..errors import TwowayError
from .views import Grid, line_places, look, ramp, tile_cells

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import Tensor

    from .spans import Ints

PIXELS, GRID, SIZES = "pixel_values", "image_grid_thw", "image_sizes"


@dataclass(frozen=True)
class Places:
    """For each image token: its unit in the table, or -1, and its cell; equal cells of one picture are masked together."""

    units: Ints
    cells: Ints


@dataclass(frozen=True)
class PatchGeometry:
    """How one model's image tokens and pixels belong together."""

    image_token: int
    values: int  # of one token
    patches: int  # of one token
    token_keys: tuple[str, ...]  # what the processor gives for each token
    channels: int
    patch: int
    frames: int  # of one patch; a still image is repeated
    side: int  # tokens along a tile's side; 0 where pixels come as rows of patches
    pinpoints: tuple[tuple[int, int], ...] = ()

    @classmethod
    def of(cls, config: Any, processor: Any) -> PatchGeometry:
        """Read a model's config, and look at what its processor makes of a small picture."""
        vision = config.vision_config
        token = getattr(config, "image_token_id", None)
        if token is None:
            token = config.image_token_index
        out = look(processor, ramp(32, 32))
        length = len(out["input_ids"][0])
        keys = tuple(name for name, value in out.items() if name not in ("attention_mask", "labels") and np.shape(value) == (1, length))
        pixels = torch.as_tensor(out[PIXELS])
        count = int((np.asarray(out["input_ids"][0]) == token).sum())
        patch = int(np.max(vision.patch_size))
        if GRID in out:
            merge = int(vision.spatial_merge_size)
            frames, channels = int(vision.temporal_patch_size), int(pixels.shape[1]) // (int(vision.temporal_patch_size) * patch**2)
            return cls(int(token), pixels.shape[1] * merge**2, merge**2, keys, channels, patch, frames, 0)
        channels, height, width = pixels.shape[-3:]
        pinpoints = tuple((int(one[0]), int(one[1])) for one in getattr(config, "image_grid_pinpoints", None) or ())
        tiles = pixels.numel() // (channels * height * width)
        side = height // patch if pinpoints else round((count / tiles) ** 0.5)
        if not side or height != width or height % side or (not pinpoints and side * side * tiles != count):
            raise TwowayError(
                f"{count} image tokens for {tiles} tiles of {height} x {width} pixels are no square grid, so a token cannot be tied to "
                "its pixels; pre-train this model with patches: 0"
            )
        block = height // side
        patch = patch if block % patch == 0 else block
        return cls(int(token), channels * block**2, (block // patch) ** 2, keys, channels, patch, 1, side, pinpoints)

    @property
    def tiled(self) -> bool:
        """Say whether a picture may be cut into tiles that a grid describes."""
        return bool(self.side) and not self.pinpoints

    def table(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """Return the pixels as units (units, values)."""
        pixels = inputs[PIXELS]
        if not self.side:
            return pixels.reshape(-1, self.values)
        many = round(self.patches**0.5)
        blocks = pixels.reshape(-1, self.channels, self.side, many, self.patch, self.side, many, self.patch)
        return blocks.permute(0, 2, 5, 3, 6, 1, 4, 7).reshape(-1, self.values)

    def restore(self, inputs: Mapping[str, Tensor], table: Tensor) -> dict[str, Tensor]:
        """Return the inputs with the pixels of this table."""
        shape = inputs[PIXELS].shape
        if self.side:
            many = round(self.patches**0.5)
            blocks = table.reshape(-1, self.side, self.side, many, many, self.channels, self.patch, self.patch)
            table = blocks.permute(0, 5, 1, 3, 6, 2, 4, 7)
        return {**inputs, PIXELS: table.reshape(shape)}

    def places(self, inputs: Mapping[str, Tensor], pictures: Tensor, grids: Sequence[Grid | None] = ()) -> Places:
        """Return where the image tokens of one row belong; `pictures` has each token's picture, `grids` how each picture's tiles lie."""
        numbers, units, cells, used = pictures.numpy(), [], [], 0
        pixels = inputs[PIXELS]
        tiles = pixels.reshape(-1, *pixels.shape[-3:]) if self.side else pixels
        square = self.side**2
        for number in np.unique(numbers):
            count = int((numbers == number).sum())
            if self.pinpoints:
                size = tuple(inputs[SIZES][number].tolist())
                unit, cell = line_places(size, self.pinpoints, tiles.shape[-1], self.side, count)
                unit = np.where(unit < 0, -1, unit + number * pixels.shape[1] * square)
            else:
                unit = np.arange(used, used + count)
                cell = tile_cells(count // square, self.side, grids[number] if grids else None) if self.side else np.arange(count)
                used += count
            units.append(unit)
            cells.append(cell)
        if not self.pinpoints and used * self.values != pixels.numel():
            raise TwowayError(f"{used} image tokens do not cover the pixels {tuple(pixels.shape)}; pre-train with patches: 0")
        return Places(np.concatenate(units), np.concatenate(cells))

    def take(self, inputs: Mapping[str, Tensor], units: Ints) -> Tensor:
        """Return the values (tokens, values) of these units."""
        return self.table(inputs)[torch.from_numpy(units)]

    def put(self, inputs: Mapping[str, Tensor], units: Ints, noise: Tensor) -> dict[str, Tensor]:
        """Return the inputs with other values in these units; all frames of a still picture are overwritten."""
        table = self.table(inputs).clone()
        table[torch.from_numpy(units)] = noise.to(table.dtype)
        return self.restore(inputs, table)
