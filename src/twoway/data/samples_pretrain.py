"""The documents that the base and the pre-training read: every concept, training styles only."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any

from ..content import Document, Image, Text
from .captions import caption

if TYPE_CHECKING:
    from collections.abc import Iterator

    from .samples import World

# Of the documents with pictures, one in so many shows several; of the paragraphs, one in so many is read in a pass.
SEVERAL, PARAGRAPHS = 6, 4


def read(world: World, seed: int) -> Iterator[Document]:
    """Yield one pass in a random order: each picture with a caption, some with several pictures, the pages, a part of the paragraphs."""
    rng = random.Random(f"pretrain/{seed}")
    pictures = world.drawn()
    jobs: list[tuple[str, list[dict[str, Any]]]] = [("picture", [row]) for row in pictures]
    jobs += [("several", rng.sample(pictures, rng.randint(2, 4))) for _ in range(len(pictures) // SEVERAL)]
    jobs += [("page", [row]) for row in world.pages]
    jobs += [("text", [row]) for row in rng.sample(world.texts, len(world.texts) // PARAGRAPHS)]
    rng.shuffle(jobs)
    for kind, rows in jobs:
        meta = {"kind": kind, "ids": [row["id"] for row in rows]}
        if kind == "text":
            yield Document((Text(rows[0]["text"]),), meta=meta)
        elif kind == "page":
            yield Document((Image(rows[0]["image"]), Text(rows[0]["text"])), meta=meta)
        else:
            captions = [(Image(row["image"]), Text(caption(world.concepts[row["concept"]], rng))) for row in rows]
            yield Document(tuple(part for both in captions for part in both), meta=meta)
