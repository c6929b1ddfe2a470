"""Which pixels one image token covers, for every family, from the model's config and what its processor gives.

There are two layouts. Where `pixel_values` has a row for each patch (`image_grid_thw` says how they lie), a token stands for as many
consecutive rows as the tower merges. Where it has tiles (…, channels, height, width), a token stands for a block of a tile, and the
tokens of a tile are a square, row by row; pixel shuffle and pooling make blocks larger than the tower's patches, and nothing else differs.

A geometry numbers the units of a row's pixels, one unit a token and its values patch by patch, reads and writes them. `places` says for
each image token which unit it stands for (-1: none, such as the token that ends a line of tiles) and which cell of its picture it shows:
tokens that show the same part of a picture, in the tiles and in the overview, have one cell and are masked together, or each would
give the other away.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from ..content import ContentError
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
    token_keys: tuple[str, ...]  # what the processor gives for each token
    width: int = 0  # values of one token
    patches: int = 1  # of one token
    channels: int = 0
    patch: int = 0
    frames: int = 1  # of one patch; a still image is repeated
    side: int = 0  # tokens along a tile's side; 0 where pixels come as rows of patches
    pinpoints: tuple[tuple[int, int], ...] = ()
    trouble: str = ""  # why a token cannot be tied to its pixels; words can be masked all the same

    @classmethod
    def of(cls, config: Any, processor: Any) -> PatchGeometry:
        """Read a model's config, and look at what its processor makes of a picture."""
        token = getattr(config, "image_token_id", None)
        token = getattr(config, "image_token_index", None) if token is None else token
        if token is None or getattr(config, "vision_config", None) is None:
            raise TwowayError(f"a {config.model_type} model has no image token or no vision tower in its config")
        out = look(processor, ramp(64, 64))
        ids = np.asarray(out["input_ids"][0])
        names = (name for name, value in out.items() if name not in ("attention_mask", "labels"))
        keys = tuple(name for name in names if np.shape(out[name]) == (1, len(ids)))
        pixels = out.get(PIXELS)
        if not isinstance(pixels, torch.Tensor) or (GRID not in out and pixels.dim() < 4):
            return cls(int(token), keys, trouble=f"{type(processor).__name__} gives pixels in a layout that is not known")
        if GRID in out:
            return cls._of_rows(config.vision_config, int(token), keys, pixels.shape[1])
        pinpoints = tuple((int(one[0]), int(one[1])) for one in getattr(config, "image_grid_pinpoints", None) or ())
        return cls._of_tiles(config.vision_config, int(token), keys, tuple(pixels.shape), int((ids == token).sum()), pinpoints)

    @classmethod
    def _of_rows(cls, vision: Any, token: int, keys: tuple[str, ...], values: int) -> PatchGeometry:
        patch, frames, merged = int(vision.patch_size), int(vision.temporal_patch_size), int(vision.spatial_merge_size) ** 2
        return cls(token, keys, values * merged, merged, values // (frames * patch**2), patch, frames)

    @classmethod
    def _of_tiles(
        cls, vision: Any, token: int, keys: tuple[str, ...], shape: tuple[int, ...], count: int, pinpoints: tuple[tuple[int, int], ...]
    ) -> PatchGeometry:
        channels, height, width = shape[-3:]
        tiles = int(np.prod(shape[:-3]))
        patch = int(np.max(vision.patch_size))
        side = height // patch if pinpoints else math.isqrt(count // tiles)
        if not side or height != width or height % side or (not pinpoints and side * side * tiles != count):
            return cls(token, keys, trouble=f"{count} image tokens for {tiles} tiles of {height} x {width} pixels are no square grid")
        block = height // side
        patch = patch if block % patch == 0 else block
        return cls(token, keys, channels * block**2, (block // patch) ** 2, channels, patch, 1, side, pinpoints)

    @property
    def values(self) -> int:
        """Return how many values one token covers; an error where tokens cannot be tied to pixels."""
        if self.trouble:
            raise TwowayError(f"{self.trouble}, so no token is tied to its pixels; pre-train this model on words alone (mae_weight=0)")
        return self.width

    @property
    def tiled(self) -> bool:
        """Say whether a picture may be cut into tiles that a grid describes."""
        return bool(self.side) and not self.pinpoints

    def places(self, inputs: Mapping[str, Tensor], pictures: Tensor, grids: Sequence[Grid | None] = ()) -> Places:
        """Return where the image tokens of one row belong; `pictures` has each token's picture, `grids` how each picture's tiles lie."""
        numbers, units, cells, used = pictures.numpy(), [], [], 0
        values, pixels = self.values, inputs[PIXELS]
        square, tile = self.side**2, pixels.shape[-1]
        for number in np.unique(numbers):
            count = int((numbers == number).sum())
            if self.pinpoints:
                size = tuple(inputs[SIZES][number].tolist())
                unit, cell = line_places(size, self.pinpoints, tile, self.side, count)
                unit = np.where(unit < 0, -1, unit + number * pixels.shape[1] * square)
            else:
                unit = np.arange(used, used + count)
                cell = tile_cells(count // square, self.side, grids[number] if grids else None) if self.side else np.arange(count)
                used += count
            units.append(unit)
            cells.append(cell)
        if not self.pinpoints and used * values != pixels.numel():
            raise ContentError(f"{used} image tokens do not cover the pixels {tuple(pixels.shape)} of the row")
        return Places(np.concatenate(units), np.concatenate(cells))

    def take(self, inputs: Mapping[str, Tensor], units: Ints) -> Tensor:
        """Return the values (tokens, values) of these units, patch by patch."""
        return self._view(inputs[PIXELS])[self._index(units)].reshape(len(units), self.values)

    def put(self, inputs: Mapping[str, Tensor], units: Ints, values: Tensor) -> dict[str, Tensor]:
        """Return the inputs with other values in these units; all frames of a still picture are overwritten."""
        pixels = inputs[PIXELS].clone(memory_format=torch.contiguous_format)
        view = self._view(pixels)
        index = self._index(units)
        view[index] = values.to(pixels.dtype).reshape(view[index].shape)
        return {**inputs, PIXELS: pixels}

    def units(self, inputs: Mapping[str, Tensor]) -> int:
        """Return how many units a row has, those of tiles that only fill up included."""
        return inputs[PIXELS].numel() // self.values

    def _view(self, pixels: Tensor) -> Tensor:
        """Return the pixels as rows of patches (units, values), or as tiles (tile, line, column, then patch by patch), without a copy."""
        if not self.side:
            return pixels.view(-1, self.values)
        many = math.isqrt(self.patches)
        shape = (-1, self.channels, self.side, many, self.patch, self.side, many, self.patch)
        return pixels.contiguous().view(shape).permute(0, 2, 5, 3, 6, 1, 4, 7)

    def _index(self, units: Ints) -> tuple[Tensor, ...]:
        shape = (1 + int(units.max(initial=0)) // self.side**2, self.side, self.side) if self.side else (1 + int(units.max(initial=0)),)
        return tuple(map(torch.from_numpy, np.unravel_index(units, shape)))
