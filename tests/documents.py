"""Small documents and the tensors' side of a tiny family, for tests about rows."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from PIL import Image as PILImage

from twoway.content import Document, Image, Text
from twoway.data.encode import Encoder
from twoway.data.patches import PatchGeometry

if TYPE_CHECKING:
    from pathlib import Path


class Family(NamedTuple):
    config: Any
    processor: Any
    geometry: PatchGeometry

    def encoder(self, **options: Any) -> Encoder:
        return Encoder(self.processor, self.geometry, **{"max_length": 400, **options})


@cache
def family(folder: Path) -> Family:
    """Load config and processor; a family without a chat template gets the plain one, as `convert` does."""
    import transformers

    from twoway.model.processor import ensure_template

    transformers.logging.set_verbosity_error()
    config, processor = transformers.AutoConfig.from_pretrained(folder), transformers.AutoProcessor.from_pretrained(folder)
    ensure_template(processor)
    return Family(config, processor, PatchGeometry.of(config, processor))


def noise(width: int = 40, height: int = 52, seed: int = 0) -> PILImage.Image:
    """Make a picture of noise; the default is not square and larger than a tile."""
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return PILImage.fromarray(pixels)


def document(*parts: str | PILImage.Image) -> Document:
    return Document(tuple(Text(part) if isinstance(part, str) else Image(part) for part in parts))
