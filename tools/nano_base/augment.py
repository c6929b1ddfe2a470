"""Augmentation of a whole batch at once, a pure function of the pixels and one generator.

Scale, turn, shift, mirroring where harmless, a light background, colour jitter; and, for some, grey, two tones, lines alone or inverted:
a base that has seen shapes without their colours recognises them in a style that has none.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch.nn import functional

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Generator, Tensor

SCALE = (0.9, 1.15)
TURN = 0.15
SHIFT = 0.08
JITTER = 0.25
TWO_TONE = 0.04
LINES = 0.04
GREY = 0.08
STEEP = 25.0
INVERTED = 0.03
WHITE = 0.5
LIGHTEST = 0.3
GREY_WEIGHTS = (0.299, 0.587, 0.114)


def augment(rgba: Tensor, side: int, flips: Tensor, hues: Tensor, generator: Generator) -> Tensor:
    """Return (pictures, 3, side, side) in 0..1 from (pictures, size, size, 4) bytes; `flips` may be mirrored, `hues` keep theirs."""
    count = len(rgba)

    def draw(low: float, high: float, *shape: int) -> Tensor:
        return low + (high - low) * torch.rand(count, *shape, generator=generator)

    pixels = rgba.permute(0, 3, 1, 2).float() / 255
    alpha = pixels[:, 3:]
    pixels = torch.cat([pixels[:, :3] * alpha, alpha], dim=1)
    scale, turn = 1 / draw(*SCALE), draw(-TURN, TURN)
    mirror = 1 - 2 * ((draw(0, 1) < 0.5) & flips).float()
    shift = draw(-SHIFT, SHIFT, 2)
    cos, sin = scale * torch.cos(turn), scale * torch.sin(turn)
    theta = torch.stack([torch.stack([cos * mirror, -sin, shift[:, 0]], -1), torch.stack([sin * mirror, cos, shift[:, 1]], -1)], 1)
    grid = functional.affine_grid(theta, [count, 4, side, side], align_corners=False)
    moved = functional.grid_sample(pixels, grid, align_corners=False)
    ground = 1 - draw(0, LIGHTEST, 3, 1, 1) * (draw(0, 1, 1, 1, 1) > WHITE)
    seen = moved[:, :3] + ground * (1 - moved[:, 3:])
    return _recolour(seen, hues, draw)


def _recolour(seen: Tensor, hues: Tensor, draw: Callable[..., Tensor]) -> Tensor:
    """Jitter brightness, contrast and saturation; make some grey, two-toned, lines alone or inverted."""
    grey = (seen * torch.tensor(GREY_WEIGHTS).view(1, 3, 1, 1)).sum(1, keepdim=True)
    kind = draw(0, 1, 1, 1, 1) + hues.view(-1, 1, 1, 1)
    saturation = torch.where(kind < TWO_TONE + LINES + GREY, torch.zeros_like(kind), draw(1 - JITTER, 1 + JITTER, 1, 1, 1))
    seen = grey + (seen - grey) * saturation
    contrast = draw(1 - JITTER, 1 + JITTER, 1, 1, 1)
    middle = grey.mean((1, 2, 3), keepdim=True)
    seen = (seen - middle) * contrast + middle * draw(1 - JITTER / 2, 1 + JITTER / 2, 1, 1, 1)
    # two tones: a steep curve around the picture's own middle
    darkest = grey.amin((1, 2, 3), keepdim=True)
    seen = torch.where(kind < TWO_TONE + LINES, _lines(grey, draw), seen)
    seen = torch.where(kind < TWO_TONE, torch.sigmoid((grey - torch.lerp(darkest, middle, draw(0.3, 0.8, 1, 1, 1))) * STEEP), seen)
    inverted = draw(0, 1, 1, 1, 1) + hues.view(-1, 1, 1, 1) < INVERTED
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
