"""The shipped small world as documents and pairs: `samples:NAME` wherever a command takes data.

A view is a pure function of the tables and a seed. The base and the pre-training see all concepts (`pretrain`); contrastive training sees
half of them (`train`); the main score is on the other half (`test`), over all as candidates. One art style and one whole source are in no
training view (`test-style`, `test-source`).
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..content import Document, Image, Place, Text
from ..errors import TwowayError, UsageError, did_you_mean
from . import samples_pairs, samples_pretrain

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

TABLES = ("pictures", "concepts", "texts", "pages")
HELD_STYLE = "modern"
HELD_SOURCE = "openclipart"


@dataclass(frozen=True)
class World:
    """The tables in memory: rows by table, concepts by id; `more` are pictures under other terms, where the folder has any.

    `twins` are pictures of the held-out style that look nearly like one of a training style (perceptual hash), so no test of style.
    """

    folder: Path
    pictures: tuple[dict[str, Any], ...]
    concepts: dict[str, dict[str, Any]]
    texts: tuple[dict[str, Any], ...]
    pages: tuple[dict[str, Any], ...]
    more: tuple[dict[str, Any], ...] = ()
    twins: frozenset[str] = frozenset()

    def drawn(self, *, style: str | None = None, source: str | None = None, half: str | None = None) -> list[dict[str, Any]]:
        """Return the pictures of one style or source (default: all training styles), of one half or both."""
        held = {HELD_STYLE} if style is None and source is None else set()
        return [
            row
            for row in self.pictures
            if (style is None or row["style"] == style)
            and (row["source"] == source if source else row["source"] != HELD_SOURCE)
            and row["style"] not in held
            and (half is None or row["half"] == half)
        ]

    def torn(self) -> set[str]:
        """Return concepts whose definition also belongs to a concept of the other half: synonyms under two names, asked by no view."""
        halves: dict[str, set[str]] = {}
        for row in self.concepts.values():
            if row["gloss"]:
                halves.setdefault(row["gloss"], set()).add(row["half"])
        return {key for key, row in self.concepts.items() if row["gloss"] and len(halves[row["gloss"]]) > 1}


@dataclass(frozen=True)
class View:
    """A named way to read the samples: what it holds, and a function of the tables and a seed; pairs or documents."""

    what: str
    read: Callable[[World, int], Iterator[Any]]
    pairs: bool


def samples_folder() -> Path:
    """Return the folder of the samples: $TWOWAY_SAMPLES, `samples` here, or the one of the checkout that this package runs from."""
    chosen = os.environ.get("TWOWAY_SAMPLES")
    places = [Path(chosen)] if chosen else [Path("samples"), Path(__file__).resolve().parents[3] / "samples"]
    for place in places:
        if (place / "concepts.parquet").is_file():
            return place
    where = f"$TWOWAY_SAMPLES is {chosen}, which has" if chosen else "neither ./samples nor the checkout has"
    raise TwowayError(f"no samples: {where} no concepts.parquet; set TWOWAY_SAMPLES to the folder of a checkout")


@cache
def load(folder: Path | None = None) -> World:
    """Read the tables of a folder (default: the shipped ones)."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    place = folder or samples_folder()
    tables: dict[str, list[dict[str, Any]]] = {}
    for path in [*(place / f"{name}.parquet" for name in TABLES), *sorted(place.glob("pictures-*.parquet"))]:
        try:
            tables[path.stem] = pq.read_table(path, partitioning=None).to_pylist()
        except (OSError, pa.ArrowException) as error:
            raise TwowayError(
                f"{path}: not a table of the samples ({str(error).splitlines()[0]}); restore it, or build it again"
            ) from error
    for row in tables["concepts"]:
        row.update({key: dict(row[key] or ()) for key in ("names", "keywords", "facts")})
    for row in tables["pages"]:
        row["queries"] = dict(row["queries"] or ())
    concepts = {row["concept"]: row for row in tables["concepts"]}
    more = tuple(row for name, rows in tables.items() if name.startswith("pictures-") for row in rows)
    manifest = place / "manifest.json"
    twins = json.loads(manifest.read_text(encoding="utf-8"))["twins"] if manifest.is_file() else ()
    return World(place, tuple(tables["pictures"]), concepts, tuple(tables["texts"]), tuple(tables["pages"]), more, frozenset(twins))


def view(name: str) -> View:
    """Return the view of a name, or say the nearest one."""
    if name not in VIEWS:
        raise UsageError(f"samples:{name} is no view of the samples{did_you_mean(name, VIEWS)} (known: {', '.join(VIEWS)})")
    return VIEWS[name]


def pairs(name: str, *, seed: int = 0, folder: Path | None = None) -> Iterator[samples_pairs.Pair]:
    """Yield the pairs of a view."""
    chosen = view(name)
    if not chosen.pairs:
        known = ", ".join(key for key, one in VIEWS.items() if one.pairs)
        raise UsageError(f"samples:{name} holds documents, not pairs; views with pairs: {known}")
    return chosen.read(load(folder), seed)


def documents(name: str, *, seed: int = 0, folder: Path | None = None) -> Iterator[Document]:
    """Yield the documents of a view; of pairs the query, then what answers it, each with its role in `meta`."""
    chosen = view(name)
    return _flat(name, chosen.read(load(folder), seed))


def _flat(name: str, found: Iterator[Any]) -> Iterator[Document]:
    """Turn pairs into documents and give each document its place."""
    for number, one in enumerate(found, 1):
        place = Place(f"samples:{name}", number)
        if isinstance(one, samples_pairs.Pair):
            yield Document(one.query.parts, place, {**one.query.meta, "task": one.task, "role": "query"})
            yield Document(one.positive.parts, place, {**one.positive.meta, "task": one.task, "role": "positive"})
        else:
            yield Document(one.parts, place, one.meta)


def _more(world: World, seed: int) -> Iterator[samples_pairs.Pair]:
    """Yield pairs of the unseen half of pictures under other terms."""
    if not world.more:
        hint = "build them in a checkout with 'python -m tools.samples OUT --with share-alike' and set TWOWAY_SAMPLES=OUT"
        raise TwowayError(f"{world.folder} has no pictures under other terms; {hint}")
    return samples_pairs.names(world, [row for row in world.more if row["half"] == "unseen"], seed)


def _without(world: World, seed: int, tasks: tuple[str, ...]) -> Iterator[samples_pairs.Pair]:
    """Yield the pairs of the seen half that are of no such task."""
    return (pair for pair in samples_pairs.read(world, "seen", seed) if pair.task not in tasks)


def _texts(world: World, seed: int) -> Iterator[Document]:
    """Yield the text-only paragraphs."""
    return (Document((Text(row["text"]),), meta={"id": row["id"], "half": row["half"]}) for row in world.texts)


def _pictures(world: World, seed: int) -> Iterator[Document]:
    """Yield every picture alone, its name beside it."""
    for row in world.pictures:
        name = world.concepts[row["concept"]]["names"].get("en", row["concept"])
        meta = {"id": row["id"], "name": name, "style": row["style"], "source": row["source"], "half": row["half"]}
        yield Document((Image(row["image"]),), meta=meta)


def _pages(world: World, seed: int) -> Iterator[Document]:
    """Yield the pages, as pictures."""
    return (Document((Image(row["image"]),), meta={"id": row["id"], "half": row["half"]}) for row in world.pages)


VIEWS: dict[str, View] = {
    "pretrain": View(
        "all concepts in training styles: picture and caption, several pictures in a row, pages, paragraphs", samples_pretrain.read, False
    ),
    "train": View("pairs of the seen half, for contrastive training", lambda world, seed: samples_pairs.read(world, "seen", seed), True),
    "train-without-pages": View("the same without pages", lambda world, seed: _without(world, seed, ("page",)), True),
    "train-without-texts": View("the same without pairs of texts", lambda world, seed: _without(world, seed, samples_pairs.TEXTS), True),
    "test": View("pairs of the unseen half: the main score", lambda world, seed: samples_pairs.read(world, "unseen", seed), True),
    "test-style": View(
        "unseen half in the art style that no stage sees",
        lambda world, seed: samples_pairs.names(
            world, [row for row in world.drawn(style=HELD_STYLE, half="unseen") if row["id"] not in world.twins], seed
        ),
        True,
    ),
    "test-source": View(
        "unseen half in the source that no stage sees, of concepts that the base knows",
        lambda world, seed: samples_pairs.names(world, samples_pairs.known(world, HELD_SOURCE, "unseen"), seed),
        True,
    ),
    "test-more": View("unseen half of pictures under other terms, where they were built (--with)", _more, True),
    "texts": View("text-only paragraphs", _texts, False),
    "pages": View("pages as pictures", _pages, False),
    "pictures": View("every picture alone, of all styles and both halves, its name as metadata: something to search", _pictures, False),
}
