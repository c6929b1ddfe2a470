"""Small documents and the tensors' side of a tiny family, for tests about rows."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from PIL import Image as PILImage

from twoway.content import Document, Image, Text
from twoway.data.patches import PatchGeometry
from twoway.data.processing import Encoder

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

    from twoway.models.processor import ensure_template

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


def pdf(*pages, encrypted=False):
    """A PDF by hand: each page is (text, width, height) in points, or None for a page object that is missing."""
    kids = " ".join(f"{10 + 2 * number} 0 R" for number in range(len(pages)))
    objects = {1: "<</Type/Catalog/Pages 2 0 R>>", 2: f"<</Type/Pages/Kids[{kids}]/Count {len(pages)}>>"}
    objects[3] = "<</Type/Font/Subtype/Type1/BaseFont/Helvetica>>"
    for number, page in enumerate(pages):
        if page is None:
            continue
        text, width, height = page
        content = f"BT /F 12 Tf 10 {height / 2} Td ({text}) Tj ET" if text else ""
        box = f"/MediaBox[0 0 {width} {height}]"
        objects[10 + 2 * number] = f"<</Type/Page/Parent 2 0 R{box}/Resources<</Font<</F 3 0 R>>>>/Contents {11 + 2 * number} 0 R>>"
        objects[11 + 2 * number] = f"<</Length {len(content)}>>stream\n{content}\nendstream"
    lock = ""
    if encrypted:
        objects[4] = f"<</Filter/Standard/V 1/R 2/P -4/O<{'41' * 32}>/U<{'42' * 32}>>>"
        lock = f"/Encrypt 4 0 R/ID[<{'43' * 16}><{'43' * 16}>]"
    return pdf_of(objects, lock)


def pdf_of(objects, lock=""):
    """The file of these objects."""
    body, offsets = b"%PDF-1.4\n", {}
    for number, value in objects.items():
        offsets[number] = len(body)
        body += f"{number} 0 obj{value}endobj\n".encode("latin-1")
    start, size = len(body), max(objects) + 1
    body += f"xref\n0 {size}\n0000000000 65535 f \n".encode()
    for number in range(1, size):
        body += (f"{offsets[number]:010} 00000 n \n" if number in offsets else "0000000000 00000 f \n").encode()
    return body + f"trailer<</Root 1 0 R/Size {size}{lock}>>\nstartxref\n{start}\n%%EOF\n".encode()


def endless_pdf(levels, calls, *, itself=False):
    """A page whose form draws the next one several times, level by level, and the last one a square, or the first one again."""
    objects = {
        1: "<</Type/Catalog/Pages 2 0 R>>",
        2: "<</Type/Pages/Kids[3 0 R]/Count 1>>",
        3: "<</Type/Page/Parent 2 0 R/MediaBox[0 0 200 200]/Resources<</XObject<</F 10 0 R>>>>/Contents 4 0 R>>",
        4: "<</Length 5>>stream\n/F Do\nendstream",
    }
    for level in range(levels):
        last = level == levels - 1
        following = f"/Resources<</XObject<</F {10 if last else 11 + level} 0 R>>>>" if itself or not last else ""
        draw = "/F Do " * calls if following else "1 0 0 rg 0 0 190 190 re f"
        form = f"/Type/XObject/Subtype/Form/BBox[0 0 200 200]/Group<</S/Transparency>>{following}/Length {len(draw)}"
        objects[10 + level] = f"<<{form}>>stream\n{draw}\nendstream"
    return pdf_of(objects)
