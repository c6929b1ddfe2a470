"""The world of the samples: the same emoji by five designers, flags, and objects by many hands; pages, texts and scenes made of them.

One designer (`HELD_STYLES`: all of its sets) and one source (`HELD_SOURCES`) are in no stage.
"""

from __future__ import annotations

import os
from collections import Counter, defaultdict
from typing import TYPE_CHECKING, Any

from twoway.data.sources.pages import load_fonts, page_rows
from twoway.data.sources.samples import HELD_SOURCES, HELD_STYLES

from .assemble import draw, gloss, merge, rows, twins
from .clipart import read_clipart
from .emoji import characters_by_name, read_emoji
from .flags import read_flags
from .iconify import EMOJI_SETS, ICON_SETS, Dropped, Icons, add_emoji, code_of, read_icons
from .scenes import leaks, scene_rows
from .tabler import read_tabler
from .texts import text_rows
from .wordnet import WordNet
from .words import SYMBOLS_KEPT

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

    from .concepts import Concept

PAGES = 1_400
REGIONAL_A = 0x1F1E6
DESIGNERS = {
    "flat": "Microsoft", "modern": "Microsoft", "high-contrast": "Microsoft", "outline": "tabler", "filled": "tabler", "flag": "flag-icons",
    "clipart": "many artists", **{style: one.designer for one in (*EMOJI_SETS, *ICON_SETS) for style in one.variants.values()},
}  # fmt: skip


def make_tables(packages: Mapping[str, Path], *, workers: int | None = None) -> tuple[dict[str, list[dict[str, Any]]], dict[str, Any]]:
    """Return the rows of the tables, and what the manifest says of them."""
    dropped = Dropped()
    concepts = _concepts(packages, dropped)
    pictures = draw(concepts.values(), workers or os.cpu_count() or 1)
    drawn = Counter(picture.concept for picture in pictures)
    picture_rows, concept_rows = rows(concepts, pictures)
    kept = Counter(row["concept"] for row in picture_rows)
    for key in drawn:
        for _ in range(drawn[key] - kept[key]):
            dropped.add("pictures equal to another one", key)
    lettering = load_fonts(packages["dejavu-fonts-ttf"] / "ttf" / "DejaVuSansCondensed.ttf")
    tables = {
        "pictures": picture_rows,
        "concepts": concept_rows,
        "texts": text_rows(WordNet(packages["wordnet-base"] / "usr/share/wordnet"), concept_rows),
        "pages": page_rows(concept_rows, picture_rows, lettering, PAGES),
    }
    tables["scenes"], tables["questions"] = scene_rows(concept_rows, picture_rows)
    images = {row["id"]: row["image"] for row in (*picture_rows, *tables["scenes"])}
    facts = {
        "held_styles": HELD_STYLES,
        "held_sources": HELD_SOURCES,
        "twins": twins(picture_rows),
        "counts": count(picture_rows),
        "leaks": {
            task: {name: None if share is None else round(share, 4) for name, share in found.items()}
            for task, found in leaks(tables["questions"], images).items()
        },
        "dropped": dropped.rows(),
    }
    return tables, facts


def _concepts(packages: Mapping[str, Path], dropped: Dropped) -> dict[str, Concept]:
    """Return the concepts of all sources, with their drawings and definitions."""
    wordnet = WordNet(packages["wordnet-base"] / "usr/share/wordnet")
    sets = {one.name: Icons(packages[one.package]) for one in (*EMOJI_SETS, *ICON_SETS)}
    characters = characters_by_name(packages["cldr-annotations-full"])
    emoji = _things(read_emoji(packages["fluentui-emoji"], packages["cldr-annotations-full"]), sets["noto"], characters, dropped)
    flags = read_flags(packages["flag-icons"], packages["cldr-localenames-full"])
    for flag in flags:
        characters[flag.id] = "".join(chr(REGIONAL_A + ord(letter) - ord("a")) for letter in flag.drawings[0].path.stem)
    add_emoji({one.name: sets[one.name] for one in EMOJI_SETS}, [*emoji, *flags], characters, dropped)
    tabler = read_tabler(packages["@tabler/icons"], wordnet, {concept.id for concept in emoji})
    icons = read_icons(sets, tabler, [*emoji, *flags], wordnet, dropped)
    clipart = read_clipart(packages["openclipart-svg"] / "usr/share/openclipart/svg", wordnet, [*emoji, *icons])
    known = {concept.id for concept in (*emoji, *flags, *icons)}
    for concept in clipart:
        if concept.id not in known:
            dropped.add("clip art of what no training style draws", concept.id)
    merged = merge([emoji, icons, flags, [concept for concept in clipart if concept.id in known]])
    gloss(merged.values(), wordnet)
    return merged


def _things(emoji: Sequence[Concept], noto: Icons, characters: Mapping[str, str], dropped: Dropped) -> list[Concept]:
    """Leave out emoji that are marks, and give the others the group that their category says."""
    found = []
    for concept in emoji:
        name = noto.codes.get(code_of(characters[concept.id]), "")
        category = noto.categories.get(name, "Symbols")
        if category == "Symbols" and concept.id not in SYMBOLS_KEPT:
            dropped.add("emoji that are marks, letters, arrows, shapes", concept.id)
            continue
        found.append(concept)
    return found


def count(picture_rows: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """Count concepts by the number of their designers and of their styles, and pictures by style."""
    designers: dict[str, set[str]] = defaultdict(set)
    styles: Counter[str] = Counter()
    of_style: Counter[str] = Counter()
    sources = {}
    for row in picture_rows:
        of_style[row["style"]] += 1
        sources[row["style"]] = row["source"]
        if row["style"] not in HELD_STYLES and row["source"] not in HELD_SOURCES:
            designers[row["concept"]].add(DESIGNERS[row["style"]])
            styles[row["concept"]] += 1
    return {
        "trained concepts": len(designers),
        "concepts by designers": dict(sorted(Counter(len(one) for one in designers.values()).items())),
        "concepts by pictures": dict(sorted(Counter(styles.values()).items())),
        "pictures": {
            style: {"source": sources[style], "designer": DESIGNERS[style], "pictures": number}
            for style, number in sorted(of_style.items(), key=lambda one: (-one[1], one[0]))
        },
    }
