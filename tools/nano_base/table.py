"""The world as the base sees it: concepts, and all their pictures decoded once into memory."""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from twoway.data.sources.samples import TEMPLATES
from twoway.errors import TwowayError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from pathlib import Path

    from .config import NanoConfig

Concept = dict[str, Any]
ENGLISH_WEIGHT = 6
MIRRORS = ("left", "right", "arrow", "clock", "letter", "button", "keycap", "sign", "symbol", "input", "points", "medal", "flag")


@dataclass(frozen=True)
class Pages:
    """Pictures of documents, all of one size, and what stands on them."""

    pixels: np.ndarray  # (pages, height, width, 4) uint8
    texts: list[str]


@dataclass(frozen=True)
class World:
    """Concepts and pictures; `trained` and `unseen` hold, for every concept, the places of the pictures a run may and may not see."""

    concepts: list[Concept]
    pixels: np.ndarray  # (pictures, size, size, 4) uint8, colour not premultiplied
    styles: list[str]
    trained: list[list[int]]
    unseen: list[list[int]]
    flips: np.ndarray  # (concepts,) may be mirrored without becoming something else
    hues: np.ndarray  # (concepts,) 1 where the colours are the meaning, as on a flag
    texts: list[str]
    pages: Pages | None

    def corpus(self) -> Iterator[str]:
        """Yield the text that the tokenizer learns from: what is written about the concepts, then the texts."""
        for concept in self.concepts:
            for language in TEMPLATES:
                # English as often as captions are: it shall be written in few tokens
                words = [concept["names"].get(language, ""), ", ".join(concept["keywords"].get(language, ()))]
                yield from words * (ENGLISH_WEIGHT if language == "en" else 1)
            if concept["gloss"]:
                yield concept["gloss"]
            yield from (str(value) for value in concept["facts"].values())
        yield from self.texts
        if self.pages:
            yield from self.pages.texts


def load_world(folder: Path, config: NanoConfig) -> World:
    """Read the tables of `folder`; held-out sources are left out altogether, unseen styles are kept apart for the gate."""
    concepts = {row["concept"]: _concept(row, config.held_languages) for row in _rows(folder / "concepts.parquet")}
    order = {name: place for place, name in enumerate(concepts)}
    images: np.ndarray | None = None  # all pictures of a world have one size
    styles: list[str] = []
    trained: list[list[int]] = [[] for _ in concepts]
    unseen: list[list[int]] = [[] for _ in concepts]
    for row in _rows(folder / "pictures.parquet"):
        if row["source"] in config.held_sources or row["concept"] not in order:
            continue
        picture = _decode(row["image"], None)
        if images is None:
            images = np.empty((_count(folder / "pictures.parquet"), *picture.shape), np.uint8)
        images[len(styles)] = picture
        (unseen if row["style"] in config.unseen_styles else trained)[order[row["concept"]]].append(len(styles))
        styles.append(row["style"])
    keep = [place for place, pictures in enumerate(trained) if pictures]
    if images is None or not keep:
        raise TwowayError(f"{folder}: no picture of a training style; build the samples first (make samples)")
    rows = list(concepts.values())
    chosen = [rows[place] for place in keep]
    return World(
        concepts=chosen,
        pixels=images[: len(styles)],
        styles=styles,
        trained=[trained[place] for place in keep],
        unseen=[unseen[place] for place in keep],
        flips=np.array([_may_flip(row) for row in chosen]),
        hues=np.array([float(row.get("kind") == "country") for row in chosen], dtype=np.float32),
        texts=[row["text"] for row in _rows(folder / "texts.parquet")] if "texts" in config.tables else [],
        pages=_pages(folder / "pages.parquet", config.largest) if "pages" in config.tables else None,
    )


def _rows(path: Path) -> Iterable[dict[str, Any]]:
    """Yield the rows of one Parquet file."""
    import pyarrow.parquet as pq

    if not path.is_file():
        raise TwowayError(f"{path} is not there; build the samples first (make samples)")
    for batch in pq.ParquetFile(path).iter_batches(batch_size=256):
        yield from batch.to_pylist()


def _count(path: Path) -> int:
    """Return the number of rows of one Parquet file."""
    import pyarrow.parquet as pq

    return int(pq.ParquetFile(path).metadata.num_rows)


def _concept(row: dict[str, Any], without: Sequence[str]) -> Concept:
    """Return a concept with plain dictionaries, empty values and the names in some languages dropped."""
    plain = dict(row)
    for key in ("names", "keywords", "facts"):
        plain[key] = {name: value for name, value in dict(row.get(key) or {}).items() if value}
    for language in without:
        plain["names"].pop(language, None)
    plain["gloss"] = row.get("gloss") or ""
    return plain


def _decode(data: bytes, side: int | None) -> np.ndarray:
    """Return RGBA pixels; with `side`, fitted into a white square of that size."""
    from PIL import Image

    with Image.open(io.BytesIO(data)) as opened:
        picture = opened.convert("RGBA")
    if side is not None:
        picture.thumbnail((side, side))
        square = Image.new("RGBA", (side, side), "white")
        square.paste(picture, ((side - picture.width) // 2, (side - picture.height) // 2))
        picture = square
    return np.asarray(picture)


def _may_flip(concept: Concept) -> bool:
    """Say whether a mirrored picture still shows the concept: emoji that are no signs, letters or directions."""
    name = concept["names"].get("en", "").casefold()
    harmless = concept.get("kind") == "emoji" and "symbol" not in str(concept.get("group")).casefold()
    return harmless and not any(word in name for word in MIRRORS)


def _pages(path: Path, side: int) -> Pages | None:
    """Return the pages of the seen half, or none where there are none: those of the other stay new to every model."""
    rows = [row for row in _rows(path) if row["half"] == "seen"]
    if not rows:
        return None
    return Pages(np.stack([_decode(row["image"], side) for row in rows]), [row["text"] for row in rows])
