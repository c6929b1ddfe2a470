"""Augmentation of pictures: size, turn, shift, mirror, background, colours; a pure function of the pixels, the settings and one generator.

One function serves a whole batch of equal pictures (`augment`, for small bases that are trained from nothing) and one picture of a row
(`PictureTransform`, for `finetune`). The geometry and the jitter are those of torchvision's RandomAffine and ColorJitter; a part of the
pictures may lose their colours (grey, two tones, lines alone) or have them inverted, so that a model which has seen shapes without their
colours recognises them in a style that has none.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from PIL import Image as PILImage
from torch.nn import functional

from twoway.content import Document, Image

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Generator, Tensor

    from .config import AugmentConfig

LIGHTEST = 0.3  # a background is at most this much darker than white, in each colour
STEEP = 25.0
GREY_WEIGHTS = (0.299, 0.587, 0.114)


def augment(
    rgba: Tensor,
    size: tuple[int, int],
    generator: Generator,
    config: AugmentConfig,
    *,
    may_flip: Tensor | None = None,
    keep_colours: Tensor | None = None,
) -> Tensor:
    """Return (pictures, 3, height, width) in 0..1 from (pictures, height, width, 4) bytes.

    `may_flip` says of each picture whether it may be mirrored; where `keep_colours` is 1, its colours are only jittered.
    """
    count = len(rgba)

    def draw(low: float, high: float, *shape: int) -> Tensor:
        return low + (high - low) * torch.rand(count, *shape, generator=generator)

    pixels = rgba.permute(0, 3, 1, 2).float() / 255
    alpha = pixels[:, 3:]
    pixels = torch.cat([pixels[:, :3] * alpha, alpha], dim=1)
    turn = math.radians(config.rotate)
    scale, turned = 1 / draw(*config.scale), draw(-turn, turn)
    flips = draw(0, 1) < config.flip
    mirror = 1 - 2 * (flips if may_flip is None else flips & may_flip).float()
    shift = draw(-config.shift, config.shift, 2)
    wide = rgba.shape[1] / rgba.shape[2]  # places are shares of the sides, and a turn must not shear
    cos, sin = scale * torch.cos(turned), scale * torch.sin(turned)
    across = torch.stack([cos * mirror, -sin * wide, shift[:, 0]], -1)
    down = torch.stack([sin / wide * mirror, cos, shift[:, 1]], -1)
    grid = functional.affine_grid(torch.stack([across, down], 1), [count, 4, *size], align_corners=False)
    moved = functional.grid_sample(pixels, grid, align_corners=False)
    ground = 1 - draw(0, LIGHTEST, 3, 1, 1) * (draw(0, 1, 1, 1, 1) > 1 - config.background)
    seen = moved[:, :3] + ground * (1 - moved[:, 3:])
    return _recolour(seen, config, torch.zeros(count) if keep_colours is None else keep_colours, draw)


def _recolour(seen: Tensor, config: AugmentConfig, keep_colours: Tensor, draw: Callable[..., Tensor]) -> Tensor:
    """Jitter brightness, contrast and saturation; make some grey, two-toned, lines alone or inverted."""
    jitter, two_tone, lines = config.colour, config.two_tone, config.two_tone + config.lines
    grey = (seen * torch.tensor(GREY_WEIGHTS).view(1, 3, 1, 1)).sum(1, keepdim=True)
    kind = draw(0, 1, 1, 1, 1) + keep_colours.view(-1, 1, 1, 1)
    saturation = torch.where(kind < lines + config.grey, torch.zeros_like(kind), draw(1 - jitter, 1 + jitter, 1, 1, 1))
    seen = grey + (seen - grey) * saturation
    contrast = draw(1 - jitter, 1 + jitter, 1, 1, 1)
    # Line by line, so that the sum does not depend on the number of threads.
    middle = grey.mean(3, keepdim=True).mean(2, keepdim=True)
    seen = (seen - middle) * contrast + middle * draw(1 - jitter / 2, 1 + jitter / 2, 1, 1, 1)
    # two tones: a steep curve around the picture's own middle
    darkest = grey.amin((1, 2, 3), keepdim=True)
    seen = torch.where(kind < lines, _lines(grey, draw), seen)
    seen = torch.where(kind < two_tone, torch.sigmoid((grey - torch.lerp(darkest, middle, draw(0.3, 0.8, 1, 1, 1))) * STEEP), seen)
    inverted = draw(0, 1, 1, 1, 1) + keep_colours.view(-1, 1, 1, 1) < config.invert
    return torch.where(inverted, 1 - seen, seen).clamp(0, 1)


def _lines(grey: Tensor, draw: Callable[..., Tensor]) -> Tensor:
    """Draw dark lines of either width where the grey picture changes: the morphological gradient, made steep."""
    widths = [functional.max_pool2d(grey, size, 1, size // 2) + functional.max_pool2d(-grey, size, 1, size // 2) for size in (3, 5)]
    change = torch.where(draw(0, 1, 1, 1, 1) < 0.5, widths[0], widths[1])
    return torch.sigmoid((draw(0.12, 0.3, 1, 1, 1) - change) * STEEP)


def plain(rgba: Tensor, side: int) -> Tensor:
    """Return the pictures on white, resized, without any augmentation."""
    pixels = rgba.permute(0, 3, 1, 2).float() / 255
    seen = pixels[:, :3] * pixels[:, 3:] + 1 - pixels[:, 3:]
    if seen.shape[-1] != side:
        seen = functional.interpolate(seen, size=(side, side), mode="bilinear", antialias=True, align_corners=False)
    return seen


@dataclass(frozen=True)
class PictureTransform:
    """What is done to one picture when it is opened (`content.Image.transform`): the same for the same key, on any machine of a kind."""

    config: AugmentConfig
    key: str

    def __call__(self, picture: PILImage.Image) -> PILImage.Image:
        """Return an RGB picture of the same size."""
        generator = torch.Generator().manual_seed(int.from_bytes(hashlib.sha256(self.key.encode()).digest()[:7], "big"))
        rgba = torch.from_numpy(np.array(picture.convert("RGBA")))
        seen = augment(rgba[None], (picture.height, picture.width), generator, self.config)[0]
        return PILImage.fromarray((seen.permute(1, 2, 0) * 255).round().to(torch.uint8).numpy())


def augmented(document: Document, config: AugmentConfig, key: str) -> Document:
    """Return the document whose pictures will be augmented when they are opened, each in its own way; texts stay."""
    parts = [
        replace(part, transform=PictureTransform(config, f"{key} {number}")) if isinstance(part, Image) else part
        for number, part in enumerate(document.parts)
    ]
    return replace(document, parts=tuple(parts))
