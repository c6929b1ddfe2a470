"""Pictures of real sizes and words of real lengths, of which the rehearsal's rows are made.

What a page shows does not matter here; its size, its file format and the number of its words do. Pages are a scanner's and a PDF's
usual sizes, photographs those of public data sets and of a telephone.
"""

from __future__ import annotations

import io
import random
from functools import cache
from typing import TYPE_CHECKING

import pyarrow.parquet
from PIL import Image, ImageDraw, ImageFont

if TYPE_CHECKING:
    from pathlib import Path

PAGES = ((1700, 2200), (1240, 1754), (1654, 2339), (2480, 3508), (960, 540), (800, 1131))
PHOTOS = ((640, 480), (500, 375), (333, 500), (1024, 768), (256, 256), (512, 640), (4032, 3024), (1600, 400), (64, 48))


class Contents:
    """Draws pictures and texts, the same for the same seed."""

    def __init__(self, samples: Path, seed: int = 0) -> None:
        """Take the folder of the samples, whose English the texts are made of."""
        self.random = random.Random(seed)
        table = pyarrow.parquet.read_table(samples / "texts.parquet", columns=["term", "gloss"])
        self.terms: list[str] = table["term"].to_pylist()
        self.glosses: list[str] = [gloss for gloss in table["gloss"].to_pylist() if gloss]

    def words(self, count: int) -> str:
        """Return a text of about this many words."""
        sentences: list[str] = []
        while sum(map(len, (sentence.split() for sentence in sentences))) < count:
            gloss = self.random.choice(self.glosses)
            sentences.append(gloss[:1].upper() + gloss[1:] + ".")
        return " ".join(" ".join(sentences).split()[: max(1, count)])

    def term(self) -> str:
        """Return a name."""
        return self.random.choice(self.terms)

    def question(self) -> str:
        """Return what somebody might ask."""
        return f"What is the {self.term()} of {self.term()}?"

    def page(self, size: tuple[int, int] | None = None) -> bytes:
        """Return a page as PNG or JPEG bytes."""
        width, height = size or self.random.choice(PAGES)
        sheet = Image.new("RGB", (width, height), "white")
        draw = ImageDraw.Draw(sheet)
        letters, margin = max(12, height // 80), width // 12
        font = _font(letters)
        per_line = int((width - 2 * margin) / (letters * 0.5))
        for top in range(margin, height - margin, int(letters * 1.5)):
            if not margin * 3 < top < margin * 4:  # room for a figure
                draw.text((margin, top), self.words(per_line // 5)[:per_line], fill="black", font=font)
        draw.rectangle((margin, margin * 3, width - margin, margin * 4), outline="navy", width=3)
        return _encoded(sheet, "PNG" if self.random.random() < 0.5 else "JPEG")

    def photo(self, size: tuple[int, int] | None = None) -> bytes:
        """Return a photograph, that is soft colours under noise, as JPEG bytes."""
        size = size or self.random.choice(PHOTOS)
        small = Image.frombytes("RGB", (8, 8), self.random.randbytes(192))
        return _encoded(small.resize(size, Image.Resampling.BICUBIC), "JPEG")


@cache
def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)


def _encoded(picture: Image.Image, kind: str) -> bytes:
    out = io.BytesIO()
    picture.save(out, kind)
    return out.getvalue()
