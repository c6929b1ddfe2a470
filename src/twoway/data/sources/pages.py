"""Pages of a field guide, laid out here: a title, three to six pictures with their names in one language, and queries in other words.

A query asks for a page in words that do not stand on it: the names in another language, or keywords, so that finding the page is more than
reading the same string. All concepts of a page come from one half; every set of names is used once. The shipped pages are made by these
functions, and so are further ones for training.
"""

from __future__ import annotations

import io
import random
import re
import unicodedata
from typing import TYPE_CHECKING, Any, NamedTuple

from PIL import Image, ImageDraw, ImageFont

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from pathlib import Path

    Fonts = tuple[ImageFont.FreeTypeFont, ImageFont.FreeTypeFont]  # of titles, and of names

SIDE = 160
PICTURE = 44
TITLE_SIZE, NAME_SIZE = 12, 9
QUALITY = 60
FEWEST_WORDS = 2
INK = (20, 24, 32)
PAPERS = ((255, 255, 255), (252, 248, 238), (240, 246, 252), (242, 250, 240))
LANGUAGES = ("en", "de", "fr", "es")
STYLES = ("flat", "noto", "emojione", "high-contrast", "flag")
# What a page's title calls its things, by the group of the concepts.
TITLES: dict[str, dict[str, str]] = {
    "animal": {"en": "Animals", "de": "Tiere", "fr": "Animaux", "es": "Animales"},
    "food": {"en": "Food and drink", "de": "Essen und Trinken", "fr": "Manger et boire", "es": "Comida y bebida"},
    "plant": {"en": "Plants", "de": "Pflanzen", "fr": "Plantes", "es": "Plantas"},
    "artifact": {"en": "Things made", "de": "Gemachte Dinge", "fr": "Objets", "es": "Objetos"},
    "person": {"en": "People", "de": "Menschen", "fr": "Personnes", "es": "Personas"},
    "body": {"en": "The body", "de": "Der Körper", "fr": "Le corps", "es": "El cuerpo"},
    "country": {"en": "Flags", "de": "Flaggen", "fr": "Drapeaux", "es": "Banderas"},
    "other": {"en": "Odds and ends", "de": "Dies und das", "fr": "Un peu de tout", "es": "Un poco de todo"},
}


def load_fonts(file: Path | None = None) -> Fonts:
    """Return a font of a file in the two sizes of a page; without one that of Pillow, which has no letters with marks."""
    titles, names = (ImageFont.truetype(file, size) if file else ImageFont.load_default(size) for size in (TITLE_SIZE, NAME_SIZE))
    assert isinstance(titles, ImageFont.FreeTypeFont)
    assert isinstance(names, ImageFont.FreeTypeFont)
    return titles, names


class Entry(NamedTuple):
    """One concept that may stand on pages, with its pictures in training styles."""

    concept: str
    names: Mapping[str, str]
    keywords: Mapping[str, Sequence[str]]
    pictures: tuple[bytes, ...]


def page_rows(
    concept_rows: Iterable[Mapping[str, Any]],
    picture_rows: Iterable[Mapping[str, Any]],
    fonts: Fonts,
    count: int,
    *,
    name: str = "page",
    write: Callable[[str], str] = str,
    used: Iterable[tuple[str, ...]] = (),
) -> list[dict[str, Any]]:
    """Return rows of pages, of each half, language and group in turn; the sets of concepts in `used`, each sorted, stand on none.

    `write` turns words into what the fonts have letters for.
    """
    shelves = _shelves(concept_rows, picture_rows)
    halves = sorted({half for half, _ in shelves})
    keys = {half: [key for key in sorted(shelves) if key[0] == half for _ in range(1 + len(shelves[key]) // 24)] for half in halves}
    taken = set(used)
    rows: list[dict[str, Any]] = []
    while len(rows) < count:
        number = len(rows)
        rng = random.Random(f"{name} {number} {len(taken)}")
        half = halves[number % len(halves)]
        _, group = key = rng.choice(keys[half])
        entries = rng.sample(shelves[key], min(len(shelves[key]), rng.randint(3, 6)))
        shown = tuple(sorted(entry.concept for entry in entries))
        if shown in taken:
            taken.add((*shown, str(number)))
            continue
        taken.add(shown)
        language = LANGUAGES[number // len(halves) % len(LANGUAGES)]
        title = TITLES[group][language]
        image, boxes = _layout(write(title), [(write(entry.names[language]), rng.choice(entry.pictures)) for entry in entries], fonts, rng)
        rows.append(
            {
                "id": f"{name}/{number:04d}",
                "image": image,
                "language": language,
                "concepts": [entry.concept for entry in entries],
                "text": "\n".join([title, *(entry.names[language] for entry in entries)]),
                "boxes": boxes,
                "half": half,
                "queries": _queries(entries, language, title, rng),
            }
        )
    return rows


def _shelves(concept_rows: Iterable[Mapping[str, Any]], picture_rows: Iterable[Mapping[str, Any]]) -> dict[tuple[str, str], list[Entry]]:
    """Return half and group -> the concepts that have names in all page languages and a picture in a training style."""
    pictures: dict[str, list[bytes]] = {}
    for row in picture_rows:
        if row["style"] in STYLES:
            pictures.setdefault(row["concept"], []).append(row["image"])
    shelves: dict[tuple[str, str], list[Entry]] = {}
    for row in concept_rows:
        names = {language: row["names"].get(language, "") for language in LANGUAGES}
        if row["concept"] in pictures and all(0 < len(name) <= 24 for name in names.values()):
            group = "country" if row["kind"] == "country" else row["group"] if row["group"] in TITLES else "other"
            entry = Entry(row["concept"], names, row["keywords"], tuple(pictures[row["concept"]]))
            shelves.setdefault((row["half"], group), []).append(entry)
    return {key: entries for key, entries in shelves.items() if len(entries) >= 8}


def _queries(entries: Sequence[Entry], language: str, title: str, rng: random.Random) -> dict[str, str]:
    """Return language -> query: up to three names in the other languages, keywords in the page's own; none stands on the page."""
    on_page = {slug(title)} | {slug(entry.names[language]) for entry in entries}
    order = rng.sample(entries, len(entries))
    queries = {}
    for other in (other for other in LANGUAGES if other != language):
        names = [entry.names[other] for entry in order if slug(entry.names[other]) not in on_page][:3]
        if len(names) >= FEWEST_WORDS:
            queries[other] = ", ".join(names)
    words: dict[str, None] = {}
    for entry in entries:
        left = [word for word in entry.keywords.get(language, ()) if not any(slug(word) in name or name in slug(word) for name in on_page)]
        words.update(dict.fromkeys(rng.sample(left, min(2, len(left)))))
    if len(words) > FEWEST_WORDS:
        queries[language] = ", ".join(words)
    return queries


def _layout(title: str, shown: Sequence[tuple[str, bytes]], fonts: Fonts, rng: random.Random) -> tuple[bytes, list[list[int]]]:
    """Draw one page; return its WebP bytes and the box of each picture."""
    paper = rng.choice(PAPERS)
    page = Image.new("RGB", (SIDE, SIDE), paper)
    pen = ImageDraw.Draw(page)
    pen.text((SIDE / 2, 4), title, font=fonts[0], fill=INK, anchor="ma")
    pen.line((8, 21, SIDE - 8, 21), fill=INK)
    columns = 2 if len(shown) <= 4 else 3
    wide, high = SIDE // columns, (SIDE - 24) // 2
    boxes = []
    for place, (name, image) in enumerate(shown):
        column, row = place % columns, place // columns
        left, top = column * wide + (wide - PICTURE) // 2, 24 + row * high
        page.paste(decode(image, paper).resize((PICTURE, PICTURE), Image.Resampling.LANCZOS), (left, top))
        pen.multiline_text(
            (column * wide + wide / 2, top + PICTURE + 1), _wrap(name, fonts[1], wide - 2), font=fonts[1], fill=INK, anchor="ma",
            align="center", spacing=0,
        )  # fmt: skip
        boxes.append([left, top, left + PICTURE, top + PICTURE])
    data = io.BytesIO()
    page.save(data, "WEBP", quality=QUALITY, method=4)
    return data.getvalue(), boxes


def _wrap(name: str, font: ImageFont.FreeTypeFont, width: int) -> str:
    """Break a name into lines that fit; one long word stays as it is."""
    lines = [""]
    for word in name.split(" "):
        longer = f"{lines[-1]} {word}".strip()
        if lines[-1] and font.getlength(longer) > width:
            lines.append(word)
        else:
            lines[-1] = longer
    return "\n".join(lines)


def slug(text: str) -> str:
    """Write a name in lower-case ASCII words joined by hyphens, so that names of several sources can be compared."""
    return re.sub(r"[^a-z0-9]+", "-", re.sub(r"[’'“”!]", "", without_marks(text).lower())).strip("-")


def without_marks(text: str) -> str:
    """Return letters without accents and the like."""
    return "".join(letter for letter in unicodedata.normalize("NFKD", text) if not unicodedata.combining(letter))


def decode(image: bytes, background: tuple[int, int, int] = (255, 255, 255)) -> Image.Image:
    """Read a shipped picture and put it on a background."""
    picture = Image.open(io.BytesIO(image)).convert("RGBA")
    flat = Image.new("RGBA", picture.size, (*background, 255))
    flat.alpha_composite(picture)
    return flat.convert("RGB")
