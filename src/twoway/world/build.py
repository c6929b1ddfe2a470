"""Build the samples from the packages: every row of `samples/` comes from here."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from .assemble import draw, gloss, merge, rows
from .clipart import read_clipart
from .emoji import read_emoji
from .flags import read_flags
from .tabler import read_tabler
from .tables import write_table
from .wordnet import WordNet

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path


def build_world(packages: Mapping[str, Path], out: Path, *, workers: int | None = None) -> None:
    """Write `pictures.parquet` and `concepts.parquet` into the folder `out`."""
    wordnet = WordNet(packages["wordnet-base"] / "usr/share/wordnet")
    emoji = read_emoji(packages["fluentui-emoji"], packages["cldr-annotations-full"])
    icons = read_tabler(packages["@tabler/icons"], wordnet, {concept.id for concept in emoji})
    flags = read_flags(packages["flag-icons"], packages["cldr-localenames-full"])
    clipart = read_clipart(packages["openclipart-svg"] / "usr/share/openclipart/svg", wordnet, [*emoji, *icons])
    concepts = merge([emoji, icons, flags, clipart])
    gloss(concepts.values(), wordnet)
    pictures = draw(concepts.values(), workers or os.cpu_count() or 1)
    picture_rows, concept_rows = rows(concepts, pictures)
    write_table(out / "pictures.parquet", picture_rows)
    write_table(out / "concepts.parquet", concept_rows)
