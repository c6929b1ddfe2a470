"""The shipped small world as documents and pairs: `samples:NAME` wherever a command takes data.

A view is a pure function of the tables and a seed. The base and the pre-training see all concepts (`pretrain`); contrastive training sees
half of them (`train`); the main score is on the other half (`test`), over all as candidates. One art style and one whole source are in no
training view (`test-style`, `test-source`).
"""

from __future__ import annotations

import json
import os
import random
import zlib
from dataclasses import dataclass, replace
from functools import cache, cached_property, lru_cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from twoway.content import Document, Image, Pair, Place, Text
from twoway.errors import TwowayError, UsageError, did_you_mean

from .clips import read_clip_pairs
from .pages import load_fonts, page_rows, without_marks
from .readers import Reader, RowT

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from twoway.content import Part

    from .readers import Position


# Pairs of the samples: what is asked and what answers it, in several tasks.
#
# Each task is one function: pictures and their names in several languages, definitions, questions about a picture,
# the same thing in another style, pages, and texts alone. Rows of one half never show or name a concept of the other.

LANGUAGES = ("en", "de", "fr", "es")
TEXT_TASKS = ("definition-term", "name-name")  # tasks without pictures
TUNED_TASKS = ("picture-name", "name-picture", "definition-picture", "question-name", "style", "changed", "label")
SCENE_NEGATIVES = 4
NEW_PAGES = 3_000
CALLED = {
    "en": "What is this called in English?", "de": "Wie heißt das auf Deutsch?", "fr": "Comment dit-on cela en français ?",
    "es": "¿Cómo se dice esto en español?",
}  # fmt: skip
STYLED = {
    "flat": "the same in flat colours", "high-contrast": "the same in black and white", "outline": "the same as a line drawing",
    "filled": "the same as a dark shape",
}  # fmt: skip


def read_pairs(world: World, half: str, seed: int) -> Iterator[Pair]:
    """Yield all pairs of one half, in a random order."""
    torn = world.torn()
    drawn = [row for row in world.drawn(half=half) if row["concept"] not in torn]
    found = [
        *name_pairs(world, drawn, seed),
        *_definitions(world, drawn, seed),
        *_questions(world, drawn, seed),
        *_flags(world, drawn, seed),
        *_styles(drawn, seed),
        *_page_pairs((row for row in world.pages if row["half"] == half), torn),
        *_text_pairs(world, half, seed),
        *_scene_pairs(world, half),
    ]
    return _in_random_order(found, half, seed)


def _in_random_order(found: list[Pair], half: str, seed: int) -> Iterator[Pair]:
    """Yield pairs of a half in the order of a seed."""
    random.Random(f"pairs/{half}/{seed}").shuffle(found)
    return iter(found)


def known_pairs(world: World, source: str, half: str) -> list[dict[str, Any]]:
    """Return the pictures of a held-out source whose concepts also stand in training styles."""
    trained = {row["concept"] for row in world.drawn()}
    return [row for row in world.drawn(source=source, half=half) if row["concept"] in trained]


def name_pairs(world: World, drawn: Iterable[Mapping[str, Any]], seed: int, languages: Sequence[str] = LANGUAGES) -> Iterator[Pair]:
    """Yield a picture and its name, both ways, in one language each: English in half of the rows."""
    torn = world.torn()
    for row in drawn:
        if row["concept"] in torn:
            continue
        rng = random.Random(f"names/{seed}/{row['id']}")
        concept = world.concepts[row["concept"]]
        picture = _document(row, Image(row["image"]))
        for task in ("picture-name", "name-picture"):
            language = _language(concept, rng, languages)
            word = _document(row, Text(concept["names"][language]), language=language)
            yield _pair(task, picture, word) if task == "picture-name" else _pair(task, word, picture)


def _definitions(world: World, drawn: Iterable[Mapping[str, Any]], seed: int) -> Iterator[Pair]:
    """Yield a picture and the dictionary's definition of what it shows."""
    for row in drawn:
        gloss = world.concepts[row["concept"]]["gloss"]
        if gloss:
            picture, words = _document(row, Image(row["image"])), _document(row, Text(gloss))
            forth = random.Random(f"definitions/{seed}/{row['id']}").random() < 0.5
            yield _pair("picture-definition", picture, words) if forth else _pair("definition-picture", words, picture)


def _questions(world: World, drawn: Iterable[Mapping[str, Any]], seed: int) -> Iterator[Pair]:
    """Yield a picture with the question what it is called in a language."""
    for row in drawn:
        concept = world.concepts[row["concept"]]
        language = random.Random(f"questions/{seed}/{row['id']}").choice([one for one in LANGUAGES if one in concept["names"]])
        query = _document(row, Image(row["image"]), Text(CALLED[language]), language=language)
        yield _pair("question-name", query, _document(row, Text(concept["names"][language]), language=language))


def _flags(world: World, drawn: Iterable[Mapping[str, Any]], seed: int) -> Iterator[Pair]:
    """Yield a flag with a question about its country; the answer names the country where the fact alone would fit many."""
    for row in drawn:
        concept = world.concepts[row["concept"]]
        name, facts = concept["names"]["en"], concept["facts"]
        if facts.get("capital"):
            query = _document(row, Image(row["image"]), Text("What is the capital of this country?"))
            yield _pair("flag-capital", query, _document(row, Text(facts["capital"])))
        if facts.get("continent"):
            query = _document(row, Image(row["image"]), Text("On which continent is this country?"))
            yield _pair("flag-continent", query, _document(row, Text(f"{name} is in {facts['continent']}")))


def _styles(drawn: Iterable[Mapping[str, Any]], seed: int) -> Iterator[Pair]:
    """Yield a picture with the wish for another style, and the same concept in that style."""
    by_concept: dict[str, list[Mapping[str, Any]]] = {}
    for row in drawn:
        by_concept.setdefault(row["concept"], []).append(row)
    for rows in by_concept.values():
        for row in rows:
            others = [other for other in rows if other["style"] != row["style"]]
            if others:
                wished = random.Random(f"styles/{seed}/{row['id']}").choice(others)
                wish = STYLED.get(wished["style"], f"the same in the style {wished['style'].replace('-', ' ')}")
                query = _document(row, Image(row["image"]), Text(wish))
                yield _pair("style", query, _document(wished, Image(wished["image"])))


def _page_pairs(rows: Iterable[Mapping[str, Any]], torn: set[str]) -> Iterator[Pair]:
    """Yield a page, asked for in words that do not stand on it."""
    for row in rows:
        if not torn & set(row["concepts"]):
            for language, query in sorted(row["queries"].items()):
                meta = {"id": row["id"], "half": row["half"]}
                asked = Document((Text(query),), meta={**meta, "language": language})
                yield _pair("page", asked, Document((Image(row["image"]),), meta=meta))


def _scene_pairs(world: World, half: str) -> Iterator[Pair]:
    """Yield questions about scenes, and their answers; the other answers of a group are hard negatives, those most alike first."""
    groups: dict[str, dict[tuple[Any, ...], dict[str, Any]]] = {}
    for row in world.questions:
        groups.setdefault(f"{row['task']} {row['group']}", {}).update({tuple(answer.values()): answer for answer in row["answers"]})
    for row in world.questions:
        if row["half"] != half:
            continue
        right = {tuple(answer.values()) for answer in row["answers"]}
        first = row["answers"][0]
        others = [answer for key, answer in groups[f"{row['task']} {row['group']}"].items() if key not in right]
        others.sort(key=lambda answer: (first["text"] != answer["text"]) + (first["picture"] != answer["picture"]))
        query, *answers = (side_of(world, row, one) for one in (row["query"], *row["answers"], *others[:SCENE_NEGATIVES]))
        count = len(row["answers"])
        yield Pair(query, tuple(answers[:count]), tuple(answers[count:]), task=row["task"])


def side_of(world: World, row: Mapping[str, Any], side: Mapping[str, Any]) -> Document:
    """Return one side of a question: a text, a picture, or both in their order."""
    parts: list[Part] = []
    if side["picture"] is not None:
        parts.append(Image(world.images[side["picture"]]))
    if side["text"] is not None:
        parts.insert(0 if side["text_first"] else 1, Text(side["text"]))
    return Document(tuple(parts), meta={"id": row["id"], "group": row["group"], "half": row["half"]})


def _text_pairs(world: World, half: str, seed: int) -> Iterator[Pair]:
    """Yield words alone: a definition and its noun, a name and the same name in another language."""
    torn = world.torn()
    for row in world.texts:
        if row["half"] == half:
            yield _pair("definition-term", _document(row, Text(row["gloss"])), _document(row, Text(row["term"])))
    for key, concept in world.concepts.items():
        others = [
            language for language in LANGUAGES[1:] if concept["names"].get(language, concept["names"]["en"]) != concept["names"]["en"]
        ]
        if concept["half"] == half and key not in torn and others:
            language = random.Random(f"texts/{seed}/{key}").choice(others)
            query, positive = (
                Document((Text(concept["names"][one]),), meta={"concept": key, "half": half, "language": one}) for one in ("en", language)
            )
            yield _pair("name-name", query, positive)


def _pair(task: str, query: Document, positive: Document) -> Pair:
    """Make a pair of one answer."""
    return Pair(query, (positive,), task=task)


def _document(row: Mapping[str, Any], *parts: Part, **meta: Any) -> Document:
    """Make a document that remembers which row it is of."""
    return Document(parts, meta={"id": row["id"], "concept": row.get("concept"), "half": row["half"], **meta})


def _language(concept: Mapping[str, Any], rng: random.Random, languages: Sequence[str]) -> str:
    """Choose a language that the concept has a name in: English half of the time."""
    others = [language for language in languages if language != "en" and language in concept["names"]]
    return rng.choice(others) if others and rng.random() < 0.5 else "en"


# The documents that the base and the pre-training read: every concept, training styles only.

# Of the documents with pictures, one in so many shows several; of the paragraphs, one in so many is read in a pass.
SEVERAL, PARAGRAPHS = 6, 4


def read_pretrain(world: World, seed: int) -> Iterator[Document]:
    """Yield one pass in a random order: each picture with a caption, some with several pictures, the pages, a part of the paragraphs."""
    rng = random.Random(f"pretrain/{seed}")
    pictures = world.drawn()
    jobs: list[tuple[str, list[dict[str, Any]]]] = [("picture", [row]) for row in pictures]
    jobs += [("several", rng.sample(pictures, rng.randint(2, 4))) for _ in range(len(pictures) // SEVERAL)]
    jobs += [("page", [row]) for row in world.pages]
    jobs += [("text", [row]) for row in rng.sample(world.texts, len(world.texts) // PARAGRAPHS)]
    jobs += [("scene", [row]) for row in world.scenes if row["kind"] in PLACED]
    rng.shuffle(jobs)
    for kind, rows in jobs:
        meta = {"kind": kind, "ids": [row["id"] for row in rows]}
        if kind == "text":
            yield Document((Text(rows[0]["text"]),), meta=meta)
        elif kind == "scene":
            yield Document((Image(rows[0]["image"]), Text(places(world, rows[0]))), meta=meta)
        elif kind == "page":
            yield Document((Image(rows[0]["image"]), Text(rows[0]["text"])), meta=meta)
        else:
            captions = [(Image(row["image"]), Text(caption(world.concepts[row["concept"]], rng))) for row in rows]
            yield Document(tuple(part for both in captions for part in both), meta=meta)


PLACED = ("two", "four")  # kinds of scenes whose things stand in rows of two


def places(world: World, scene: Mapping[str, Any]) -> str:
    """Say what stands where in a scene."""
    names = [world.concepts[concept]["names"]["en"] for concept in scene["concepts"]]
    rows = zip(names[::2], names[1::2], strict=True)
    return ". ".join(f"the {left} is left of the {right}" for left, right in rows)


# Captions of one picture: a pure function of its concept and a random state.
#
# The idea is from a trial of small grounded models: captions that begin with the name, mostly English, with a few
# keywords, ground a small model within about a hundred exposures a concept. The shares: name alone 25%, a template
# 20%, name with one to three keywords 40%, keywords alone in a shuffled order 15%; 15% of all in another language; of
# the English ones that have a dictionary gloss, 20% say it after the name. Flags also say the capital and the
# continent, so that the base has a chance to know what the questions ask.

OTHER_LANGUAGE = 0.15
GLOSS = 0.20
TEMPLATES: dict[str, tuple[str, ...]] = {
    "en": ("a picture of {}", "an image of {}", "this is {}", "{}, a drawing", "here we see {}"),
    "de": ("ein Bild: {}", "hier sieht man: {}", "{}, eine Zeichnung"),
    "fr": ("une image : {}", "on voit ici : {}", "{}, un dessin"),
    "es": ("una imagen: {}", "aquí se ve: {}", "{}, un dibujo"),
}
FLAG_TEMPLATES: dict[str, tuple[str, ...]] = {
    "en": ("the flag of {}", "flag: {}", "this is the flag of {}"),
    "de": ("Flagge: {}", "die Flagge von {}"),
    "fr": ("drapeau : {}", "le drapeau : {}"),
    "es": ("bandera: {}", "la bandera de {}"),
}


def caption(row: Mapping[str, Any], rng: random.Random, *, bare: float = 0.0) -> str:
    """Return one caption of a concept row (`names`, `keywords`, `gloss`, `facts`, `kind`); `bare` is the share of bare names."""
    names: Mapping[str, str] = row["names"]
    if rng.random() < bare:
        return names["en"]
    others = sorted(language for language in names if language != "en" and language in TEMPLATES)
    language = rng.choice(others) if others and rng.random() < OTHER_LANGUAGE else "en"
    name = names[language]
    if language == "en" and row.get("gloss") and rng.random() < GLOSS:
        return f"{name}: {row['gloss']}"
    if language == "en" and row.get("facts") and rng.random() < GLOSS:
        return flag_sentence(name, row["facts"])
    keywords = [word for word in (row.get("keywords") or {}).get(language) or () if word.casefold() != name.casefold()]
    kind = rng.random()
    if kind < 0.25 or (kind >= 0.45 and not keywords):
        return name
    if kind < 0.45:
        templates = FLAG_TEMPLATES if row.get("kind") == "country" else TEMPLATES
        return rng.choice(templates[language]).format(name)
    chosen = rng.sample(keywords, min(len(keywords), rng.randint(1, 3)))
    if kind < 0.85:
        return ", ".join([name, *chosen])
    return _shuffled([name, *chosen], rng)


def flag_sentence(name: str, facts: Mapping[str, str]) -> str:
    """Say what is known of a country, beginning with its name."""
    parts = [f"the flag of {name}"]
    if facts.get("capital"):
        parts.append(f"capital {facts['capital']}")
    if facts.get("continent"):
        parts.append(f"in {facts['continent']}")
    return ", ".join(parts)


def _shuffled(words: Sequence[str], rng: random.Random) -> str:
    """Join words in a random order."""
    return ", ".join(rng.sample(list(words), len(words)))


TABLES = ("pictures", "concepts", "texts", "pages", "scenes", "questions")
HELD_STYLES = ("twemoji",)
HELD_SOURCES = ("openclipart",)
HELD_LANGUAGES = ("pl",)  # no training sees the names in these


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
    scenes: tuple[dict[str, Any], ...]
    questions: tuple[dict[str, Any], ...]
    more: tuple[dict[str, Any], ...] = ()
    twins: frozenset[str] = frozenset()
    held_styles: tuple[str, ...] = HELD_STYLES
    held_sources: tuple[str, ...] = HELD_SOURCES

    @cached_property
    def images(self) -> dict[str, bytes]:
        """The bytes of each picture and scene, by id."""
        return {row["id"]: row["image"] for row in (*self.pictures, *self.scenes)}

    def drawn(self, *, style: str | None = None, source: str | None = None, half: str | None = None) -> list[dict[str, Any]]:
        """Return the pictures of one style or source (default: all training styles), of one half or both."""
        held = self.held_styles if style is None and source is None else ()
        return [
            row
            for row in self.pictures
            if (style is None or row["style"] == style)
            and (row["source"] == source if source else row["source"] not in self.held_sources)
            and row["style"] not in held
            and (half is None or row["half"] == half)
        ]

    def one_each(self, half: str | None = None) -> dict[str, dict[str, Any]]:
        """Return for each concept one of its pictures in training styles, drawn by lot."""
        drawn: dict[str, list[dict[str, Any]]] = {}
        for row in self.drawn(half=half):
            drawn.setdefault(row["concept"], []).append(row)
        return {key: random.Random(f"one of {key}").choice(rows) for key, rows in drawn.items()}

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
    places = [Path(chosen)] if chosen else [Path("samples"), Path(__file__).resolve().parents[4] / "samples"]
    for place in places:
        if (place / "concepts.parquet").is_file():
            return place
    where = f"$TWOWAY_SAMPLES is {chosen}, which has" if chosen else "neither ./samples nor the checkout has"
    raise TwowayError(f"no samples: {where} no concepts.parquet; set TWOWAY_SAMPLES to the folder of a checkout")


@cache
def load_world(folder: Path | None = None) -> World:
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
    facts = read_manifest(place)
    return World(
        place,
        tuple(tables["pictures"]),
        concepts,
        tuple(tables["texts"]),
        tuple(tables["pages"]),
        tuple(tables["scenes"]),
        tuple(tables["questions"]),
        more,
        frozenset(facts["twins"]),
        tuple(facts["held_styles"]),
        tuple(facts["held_sources"]),
    )


def read_manifest(folder: Path) -> dict[str, Any]:
    """Return what the manifest of a folder says of its tables; without any, what is held out as the builder does."""
    path = folder / "manifest.json"
    facts = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    return {"held_styles": HELD_STYLES, "held_sources": HELD_SOURCES, "twins": (), **facts}


def view(name: str) -> View:
    """Return the view of a name, or say the nearest one."""
    if name not in VIEWS:
        raise UsageError(f"samples:{name} is not a view of the samples{did_you_mean(name, VIEWS)} (known: {', '.join(VIEWS)})")
    return VIEWS[name]


def pairs(name: str, *, seed: int = 0, folder: Path | None = None) -> Iterator[Pair]:
    """Yield the pairs of a view."""
    chosen = view(name)
    if not chosen.pairs:
        known = ", ".join(key for key, one in VIEWS.items() if one.pairs)
        raise UsageError(f"samples:{name} holds documents, not pairs; views with pairs: {known}")
    numbered = enumerate(chosen.read(load_world(folder), seed), 1)
    return (replace(pair, place=Place(f"samples:{name}", number)) for number, pair in numbered)


def documents(name: str, *, seed: int = 0, folder: Path | None = None) -> Iterator[Document]:
    """Yield the documents of a view; of pairs the query, then what answers it, each with its role in `meta`."""
    chosen = view(name)
    return _flat(name, chosen.read(load_world(folder), seed))


def _flat(name: str, found: Iterator[Any]) -> Iterator[Document]:
    """Turn pairs into documents and give each document its place."""
    for number, one in enumerate(found, 1):
        place = Place(f"samples:{name}", number)
        if isinstance(one, Pair):
            yield Document(one.query.parts, place, {**one.query.meta, "task": one.task, "role": "query"})
            yield Document(one.positive.parts, place, {**one.positive.meta, "task": one.task, "role": "positive"})
        else:
            yield Document(one.parts, place, one.meta)


class SamplesReader(Reader[RowT]):
    """Rows of a view, which are few and held in memory; a view of pairs is also read as its documents."""

    _transient = ("_items",)
    _items: list[Document] | list[Pair] | None = None

    def files(self) -> list[Path]:
        """Return nothing: views are chosen by name."""
        return []

    def positions(self) -> Iterator[Position]:
        """See `Reader`."""
        yield from ((0, row) for row in range(len(self._all())))

    def read(self, at: Position) -> RowT:
        """See `Reader`."""
        row = self._all()[at[1]]
        return self.convert_row(row, row.place or Place(f"samples:{self.source}", at[1] + 1), None)

    def _all(self) -> list[Document] | list[Pair]:
        """Make the view."""
        if self._items is None:
            as_pairs = self.convert.makes == "pairs" or (self.convert.makes == "either" and view(self.source).pairs)
            self._items = _view(self.source, as_pairs=as_pairs)
        return self._items


@lru_cache(maxsize=4)
def _view(name: str, *, as_pairs: bool) -> list[Document] | list[Pair]:
    """Make a view once for all who read it: stages of one recipe do in turn."""
    return list(pairs(name)) if as_pairs else list(documents(name))


def _more(world: World, seed: int) -> Iterator[Pair]:
    """Yield pairs of the unseen half of pictures under other terms."""
    if not world.more:
        hint = "build them in a checkout with 'python -m tools.samples OUT --with share-alike' and set TWOWAY_SAMPLES=OUT"
        raise TwowayError(f"{world.folder} has no pictures under other terms; {hint}")
    return name_pairs(world, [row for row in world.more if row["half"] == "unseen"], seed)


def _train(
    *, only: tuple[str, ...] | None = None, without: tuple[str, ...] = (), of: Callable[[World], World] | None = None
) -> Callable[[World, int], Iterator[Pair]]:
    """Return what reads the pairs of the seen half: of these tasks only, or without some, of a part of the world."""

    def read(world: World, seed: int) -> Iterator[Pair]:
        world = world if of is None else of(world)
        return (pair for pair in read_pairs(world, "seen", seed) if (only is None or pair.task in only) and pair.task not in without)

    return read


def _tuned(world: World, *, rest: bool) -> World:
    """Return the seen half without the concepts that settings are chosen on, a third by a hash of their cluster; or these alone."""
    seen = {key for key, row in world.concepts.items() if row["half"] == "seen"}
    kept = {key for key in seen if (zlib.crc32(world.concepts[key]["cluster"].encode()) % 3 == 0) == rest}
    pictures = tuple(row for row in world.pictures if row["concept"] in kept)
    scenes = tuple(row for row in world.scenes if kept.issuperset(row["concepts"]))
    shown = {None, *(row["id"] for row in (*pictures, *scenes))}
    return replace(
        world,
        concepts={key: row for key, row in world.concepts.items() if key in kept or key not in seen},
        pictures=pictures,
        pages=tuple(row for row in world.pages if kept.issuperset(row["concepts"])),
        scenes=scenes,
        questions=tuple(row for row in world.questions if shown.issuperset(side["picture"] for side in (row["query"], *row["answers"]))),
    )


def _new_pages(world: World, seed: int) -> Iterator[Pair]:
    """Yield pages that are drawn here from pictures of the seen half; none shows what a page of the samples shows."""
    rows = page_rows(
        world.concepts.values(),
        world.drawn(half="seen"),
        load_fonts(),
        NEW_PAGES,
        name=f"new page {seed}",
        write=without_marks,
        used=(tuple(sorted(row["concepts"])) for row in world.pages),
    )
    return _in_random_order(list(_page_pairs(rows, world.torn())), "seen", seed)


def _english_names(world: World, seed: int) -> Iterator[Pair]:
    """Yield the pairs of names and pictures of the seen half with English names alone."""
    found = [pair for pair in name_pairs(world, world.drawn(half="seen"), seed, ("en",)) if pair.task == "name-picture"]
    return _in_random_order(found, "seen", seed)


def _texts(world: World, seed: int) -> Iterator[Document]:
    """Yield the text-only paragraphs."""
    return (Document((Text(row["text"]),), meta={"id": row["id"], "half": row["half"]}) for row in world.texts)


def _pictures(world: World, rows: Iterable[Mapping[str, Any]]) -> Iterator[Document]:
    """Yield pictures alone, their names beside them."""
    for row in rows:
        name = world.concepts[row["concept"]]["names"].get("en", row["concept"])
        meta = {"id": row["id"], "name": name, "style": row["style"], "source": row["source"], "half": row["half"]}
        yield Document((Image(row["image"]),), meta=meta)


def _pages(world: World, seed: int) -> Iterator[Document]:
    """Yield the pages, as pictures."""
    return (Document((Image(row["image"]),), meta={"id": row["id"], "half": row["half"]}) for row in world.pages)


VIEWS: dict[str, View] = {
    "pretrain": View(
        "all concepts in training styles: picture and caption, several pictures in a row, pages, paragraphs", read_pretrain, False
    ),
    "train": View("pairs of the seen half, for contrastive training", _train(), True),
    "train-names": View("of them, names and the pictures that they name: what a search asks for", _train(only=("name-picture",)), True),
    "train-names-english": View("the same, all of them in English", _english_names, True),
    "train-translations": View("names and the same name in another language", _train(only=("name-name",)), True),
    "train-pages": View("pages, asked for in words that do not stand on them", _train(only=("page",)), True),
    "train-new-pages": View("further pages, drawn anew from pictures of the seen half", _new_pages, True),
    "train-without-pages": View("all of these pairs without pages", _train(without=("page",)), True),
    "train-without-texts": View("all of these pairs without pairs of texts", _train(without=TEXT_TASKS), True),
    "tune-train": View("the seen half without a third of its concepts: to try settings on", _train(of=partial(_tuned, rest=False)), True),
    "tune-test": View(
        "that third, in the tasks of the suite nano, without scenes of four: to choose settings by",
        _train(only=TUNED_TASKS, of=partial(_tuned, rest=True)),
        True,
    ),
    "tune-train-names": View("of tune-train, names and pictures", _train(only=("name-picture",), of=partial(_tuned, rest=False)), True),
    "tune-test-names": View("of tune-test, names and pictures", _train(only=("name-picture",), of=partial(_tuned, rest=True)), True),
    "train-clips": View(
        "short clips of the seen half and words, of which the order of frames decides, and the opposite as hard negative",
        lambda world, seed: read_clip_pairs(world, "seen", seed),
        True,
    ),
    "test": View("pairs of the unseen half: the main score", lambda world, seed: read_pairs(world, "unseen", seed), True),
    "test-style": View(
        "unseen half in the art style that no stage sees",
        lambda world, seed: name_pairs(
            world,
            [row for style in world.held_styles for row in world.drawn(style=style, half="unseen") if row["id"] not in world.twins],
            seed,
        ),
        True,
    ),
    "test-source": View(
        "unseen half in the source that no stage sees, of concepts that the base knows",
        lambda world, seed: name_pairs(world, [row for source in world.held_sources for row in known_pairs(world, source, "unseen")], seed),
        True,
    ),
    "test-more": View("unseen half of pictures under other terms, where they were built (--with)", _more, True),
    "texts": View("text-only paragraphs", _texts, False),
    "pages": View("pages as pictures", _pages, False),
    "pictures": View(
        "every picture alone, of all styles and both halves, its name as metadata: something to search",
        lambda world, seed: _pictures(world, world.pictures),
        False,
    ),
    "gallery": View(
        "one picture of each concept, in a style drawn by lot: something to search that is quickly embedded",
        lambda world, seed: _pictures(world, world.one_each().values()),
        False,
    ),
}
