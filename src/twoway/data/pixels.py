"""The pixels of a row as pictures to look at: what the processor cut up and normalised, put together and brought back to 0..255."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from PIL import Image as PILImage

from .patches import GRID, PIXELS

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from .patches import PatchGeometry


def pictures(geometry: PatchGeometry, inputs: Mapping[str, Tensor], image_processor: Any) -> list[PILImage.Image]:
    """Return the pictures of one row as the model sees them: whole, or for tiled layouts each tile; padding tiles are left out."""
    if PIXELS not in inputs:
        return []
    pixels = inputs[PIXELS].detach().float().cpu()
    if geometry.side:
        tiles = pixels.reshape(-1, *pixels.shape[-3:])
        return [_picture(tile, image_processor) for tile in tiles if tile.any()]
    shown, at = [], 0
    for frames, height, width in inputs[GRID].tolist():
        count = frames * height * width
        shown.append(_picture(_join(pixels[at : at + count], geometry, frames, height, width), image_processor))
        at += count
    return shown


def _join(rows: Tensor, geometry: PatchGeometry, frames: int, height: int, width: int) -> Tensor:
    """Lay the patches of one picture together: rows go by merged block, then by patch inside it. A still picture's first frame is taken."""
    merge, patch = round(geometry.patches**0.5), geometry.patch
    shape = (frames, height // merge, width // merge, merge, merge, geometry.channels, geometry.frames, patch, patch)
    whole = rows.reshape(shape).permute(0, 6, 5, 1, 3, 7, 2, 4, 8)
    return whole.reshape(-1, geometry.channels, height * patch, width * patch)[0]


def _picture(values: Tensor, image_processor: Any) -> PILImage.Image:
    mean, std = (torch.tensor(getattr(image_processor, name))[:, None, None] for name in ("image_mean", "image_std"))
    pixels = ((values * std + mean) * 255).round().clamp(0, 255).to(torch.uint8)
    return PILImage.fromarray(pixels.permute(1, 2, 0).numpy())
