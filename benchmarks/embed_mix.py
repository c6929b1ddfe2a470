"""A realistic mix to embed, from the shipped samples: short and long texts, small and large pictures, and both together."""

from __future__ import annotations

import io
import random
from typing import TYPE_CHECKING, Any

import pyarrow.parquet as pq
from PIL import Image as PILImage

from twoway.content import Document, Image, Text
from twoway.data.sources.samples import samples_folder

if TYPE_CHECKING:
    from pathlib import Path

# Shares of the mix.
KINDS = {"short text": 8, "long text": 2, "small picture": 5, "large picture": 2, "picture and text": 3}
LARGE = (1280, 960)


def mix(folder: Path, count: int, seed: int = 0) -> list[tuple[str, Document, Any]]:
    """Return (kind, document, what sentence-transformers is given), all different, in a random order; pictures lie below `folder` as files.

    Both read and decode the same files; sentence-transformers opens a path by itself.
    """
    draw = random.Random(seed)
    samples = samples_folder()
    pictures = pq.read_table(samples / "pictures.parquet", columns=["image"])["image"].to_pylist()
    texts = pq.read_table(samples / "texts.parquet", columns=["text"])["text"].to_pylist()
    draw.shuffle(pictures)
    draw.shuffle(texts)
    shown, said = iter(pictures), iter(texts)
    total = sum(KINDS.values())
    rows: list[tuple[str, Document, Any]] = []
    for number in range(count):
        kind = next(kind for kind, end in _ends(KINDS) if number % total < end)
        if kind == "short text":
            text = " ".join(next(said).split()[: draw.randint(2, 12)]) + f" {number}"
            rows.append((kind, Document((Text(text),)), text))
        elif kind == "long text":
            text = " ".join(next(said) for _ in range(draw.randint(4, 20)))
            rows.append((kind, Document((Text(text),)), text))
        else:
            path = _save(folder / f"{number}.jpg", [next(shown) for _ in range(1 if kind != "large picture" else 12)])
            if kind == "picture and text":
                text = next(said)
                rows.append((kind, Document((Image(path), Text(text))), {"image": str(path), "text": text}))
            else:
                rows.append((kind, Document((Image(path),)), str(path)))
    draw.shuffle(rows)
    return rows


def _ends(shares: dict[str, int]) -> list[tuple[str, int]]:
    ends, end = [], 0
    for kind, share in shares.items():
        end += share
        ends.append((kind, end))
    return ends


def _save(path: Path, images: list[bytes]) -> Path:
    """Write a picture: one on white as it is, or several on a large sheet."""
    opened = [PILImage.open(io.BytesIO(data)).convert("RGBA") for data in images]
    sheet = PILImage.new("RGB", opened[0].size if len(opened) == 1 else LARGE, "white")
    for number, one in enumerate(opened):
        large = one if len(opened) == 1 else one.resize((300, 300))
        sheet.paste(large, (number % 4 * 320, number // 4 * 320) if len(opened) > 1 else (0, 0), large)
    sheet.save(path, quality=92)
    return path
