"""The nano suites: MMEB's four kinds of tasks, pages and texts, over the shipped samples; they need no download and take minutes.

Queries are about the unseen half: the nano base has seen it, contrastive training on `samples:train` has not. All of it are candidates,
hundreds in most tasks, so that scores can differ. Pictures are bytes without a name, so no file name can leak the answer.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from twoway.content import Document, Image, Place, Text
from twoway.data.sources import clips, samples
from twoway.data.sources.samples import CALLED, LANGUAGES, STYLED, known_pairs
from twoway.errors import UsageError, did_you_mean
from twoway.images import open_image

from .config import NANO, NANO_VIDEO
from .tasks import Pool, RankingQuery, RankingTask, listed

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from twoway.content import Part


# What the nano suite asks: pairs of a query and its answer about the unseen half of the samples, one function a kind
# of question.

Row = dict[str, Any]
Pair = tuple[tuple["Part", ...], tuple["Part", ...]]

REGIONS = 200  # pages whose regions are asked for
TERMS = 1000  # definitions that are asked
SMALLEST = 6  # concepts that make a category


@dataclass(frozen=True)
class Held:
    """The unseen half: its concepts, one picture of each in a training style drawn by lot, and the tables."""

    world: samples.World
    concepts: dict[str, Row]
    plain: list[Row]

    @classmethod
    def read(cls) -> Held:
        """Read the samples. Concepts that share a definition with the seen half are left out, as in every view of pairs."""
        world = samples.load_world()
        torn = world.torn()
        concepts = {key: row for key, row in world.concepts.items() if row["half"] == "unseen" and key not in torn}
        drawn = world.one_each("unseen")
        return cls(world, concepts, [drawn[key] for key in concepts if key in drawn])

    def styled(self, style: str) -> list[Row]:
        """Return the pictures of one style; of the held-out style without those that look like a training one."""
        rows = self.world.drawn(style=style, half="unseen")
        return [row for row in rows if row["concept"] in self.concepts and row["id"] not in self.world.twins]

    def far(self) -> list[Row]:
        """Return the pictures of the source that no stage sees, of concepts that the base knows."""
        rows = [row for source in self.world.held_sources for row in known_pairs(self.world, source, "unseen")]
        return [row for row in rows if row["concept"] in self.concepts]

    def name(self, row: Mapping[str, Any], language: str = "en") -> str:
        """Return what a picture shows, in words."""
        return str(self.concepts[row["concept"]]["names"][language])


def image_of(row: Mapping[str, Any]) -> Image:
    """Return the picture of a row."""
    return Image(row["image"])


def categories(held: Held, rows: Sequence[Row]) -> list[Pair]:
    """Ask for the category of a picture."""
    sizes: dict[str, int] = {}
    for row in rows:
        if group := held.concepts[row["concept"]]["group"]:
            sizes[group] = sizes.get(group, 0) + 1
    groups = [(row, held.concepts[row["concept"]]["group"]) for row in rows]
    return [((image_of(row),), (Text(group),)) for row, group in groups if group and sizes[group] >= SMALLEST]


def country_facts(held: Held, fact: str, question: str) -> list[Pair]:
    """Ask a flag for a fact about its country."""
    rows = [(row, held.concepts[row["concept"]]["facts"].get(fact)) for row in held.plain]
    return [((image_of(row), Text(question)), (Text(str(answer)),)) for row, answer in rows if answer]


def called(held: Held) -> list[Pair]:
    """Ask what a picture is called, in a language named by the question; the names in the other languages are candidates too."""
    found: list[Pair] = []
    for row in held.plain:
        known_in = [language for language in LANGUAGES if language in held.concepts[row["concept"]]["names"]]
        language = random.Random(f"called/{row['concept']}").choice(known_in)
        found.append(((image_of(row), Text(CALLED[language])), (Text(held.name(row, language)),)))
    return found


def keywords(held: Held) -> list[Pair]:
    """Ask which words fit a picture: keywords that do not stand in its name."""
    found: list[Pair] = []
    for row in held.plain:
        name = held.name(row).casefold()
        words = [word for word in held.concepts[row["concept"]]["keywords"].get("en", ()) if word.casefold() not in name]
        if words:
            found.append(((image_of(row), Text("Which words fit?")), (Text(", ".join(words[:3])),)))
    return found


def names(held: Held, rows: Sequence[Row], *, languages: Sequence[str], back: bool) -> list[Pair]:
    """Find a picture's name, or with `back` the picture of a name."""
    found: list[Pair] = []
    for row in rows:
        can = [language for language in languages if language in held.concepts[row["concept"]]["names"]]
        if can:
            language = random.Random(f"names/{row['concept']}").choice(can)
            pair = (image_of(row),), (Text(held.name(row, language)),)
            found.append((pair[1], pair[0]) if back else pair)
    return found


def definitions(held: Held) -> list[Pair]:
    """Find the picture of a definition."""
    rows = [(row, held.concepts[row["concept"]]["gloss"]) for row in held.plain]
    return [((Text(gloss),), (image_of(row),)) for row, gloss in rows if gloss]


def composed(held: Held) -> list[Pair]:
    """Find a picture's concept in another style. The shown picture itself is a candidate, so neither words nor looks are enough."""
    flat = {row["concept"]: row for row in held.styled("flat")}
    drawn = {row["concept"]: row for row in held.styled("high-contrast")}
    both = [key for key in flat if key in drawn]
    wishes = [(flat, drawn, "high-contrast"), (drawn, flat, "flat")]
    return [
        ((image_of(shown[key]), Text(STYLED[wish])), (image_of(wanted[key]),))
        for number, key in enumerate(both)
        for shown, wanted, wish in [wishes[number % 2]]
    ]


def regions(held: Held) -> list[Pair]:
    """Find the part of a page that shows what is named; candidates are the parts of all these pages."""
    pages = [row for row in held.world.pages if row["half"] == "unseen"][:REGIONS]
    found: list[Pair] = []
    for page in pages:
        whole = open_image(Image(page["image"]))
        for concept, box in zip(page["concepts"], page["boxes"], strict=True):
            names_ = held.world.concepts[concept]["names"]
            words = names_.get(page["language"], names_["en"])
            found.append(((Image(page["image"]), Text(words)), (Image(whole.crop(tuple(box))),)))
    return found


def pages(held: Held, *, same_language: bool) -> list[Pair]:
    """Find the page that a query asks for, in words that do not stand on it."""
    found: list[Pair] = []
    for page in held.world.pages:
        languages = [one for one in sorted(page["queries"]) if (one == page["language"]) == same_language]
        if page["half"] == "unseen" and languages:
            language = random.Random(f"pages/{page['id']}").choice(languages)
            found.append(((Text(page["queries"][language]),), (Image(page["image"]),)))
    return found


def scenes(held: Held, task: str) -> list[Pair]:
    """Ask about scenes: what stands beside what, the same but changed, whose is what."""
    return [
        (samples.side_of(held.world, row, row["query"]).parts, samples.side_of(held.world, row, answer).parts)
        for row in held.world.questions
        if (row["task"], row["half"]) == (task, "unseen")
        for answer in row["answers"]
    ]


def terms(held: Held) -> list[Pair]:
    """Find the noun of a definition."""
    rows = [row for row in held.world.texts if row["half"] == "unseen"]
    chosen = random.Random("terms").sample(rows, min(TERMS, len(rows)))
    return [((Text(row["gloss"]),), (Text(row["term"]),)) for row in chosen]


def translations(held: Held) -> list[Pair]:
    """Find a name in another language; names that are spelled alike are no question."""
    found: list[Pair] = []
    for key, row in held.concepts.items():
        name = row["names"]["en"]
        others = [one for one in LANGUAGES[1:] if row["names"].get(one, name).casefold() != name.casefold()]
        if others:
            found.append(((Text(name),), (Text(row["names"][random.Random(f"translations/{key}").choice(others)]),)))
    return found


@dataclass(frozen=True)
class NanoTask:
    """What one task of the suite asks; its group and mark stand in `config`."""

    pairs: Callable[[Held], list[Pair]]
    shown: bool = False  # whether the pictures of queries are candidates too


def _named(choose: Callable[[Held], Sequence[Row]], languages: Sequence[str], *, back: bool) -> Callable[[Held], list[Pair]]:
    return lambda held: names(held, choose(held), languages=languages, back=back)


def _new_style(held: Held) -> list[Row]:
    return [row for style in held.world.held_styles for row in held.styled(style)]


EN, OTHER = LANGUAGES[:1], LANGUAGES[1:]
TASKS: dict[str, NanoTask] = {
    "category": NanoTask(lambda held: categories(held, held.plain)),
    "category-new-style": NanoTask(lambda held: categories(held, _new_style(held))),
    "capital": NanoTask(partial(country_facts, fact="capital", question="What is the capital of this country?")),
    "continent": NanoTask(partial(country_facts, fact="continent", question="On which continent is this country?")),
    "called": NanoTask(called),
    "keywords": NanoTask(keywords),
    "picture-name": NanoTask(_named(lambda held: held.plain, EN, back=False)),
    "name-picture": NanoTask(_named(lambda held: held.plain, EN, back=True)),
    "name-picture-languages": NanoTask(_named(lambda held: held.plain, OTHER, back=True)),
    "picture-name-new-style": NanoTask(_named(_new_style, EN, back=False)),
    "name-picture-new-style": NanoTask(_named(_new_style, EN, back=True)),
    "name-picture-new-source": NanoTask(_named(Held.far, EN, back=True)),
    "definition-picture": NanoTask(definitions),
    "composed": NanoTask(composed, shown=True),
    "region": NanoTask(regions),
    "page": NanoTask(partial(pages, same_language=True)),
    "page-languages": NanoTask(partial(pages, same_language=False)),
    "definition-term": NanoTask(terms),
    "translation": NanoTask(translations),
    **{task: NanoTask(partial(scenes, task=task)) for task in ("beside", "changed", "owner", "label", "scene-names")},
}


def open_nano_tasks(chosen: Iterable[str] = ()) -> list[RankingTask]:
    """Return the tasks of the suite, or those asked for."""
    wanted = _named_tasks("nano", TASKS, chosen)
    held = Held.read()
    return [_task(name, NANO[name], TASKS[name].pairs(held), shown=TASKS[name].shown) for name in wanted]


# The video suite: clips of the unseen half, of which the order of frames decides what is told. Each is asked beside its opposite, which
# has the same pictures, so of two answers one is a guess for who looks at single frames.

THINGS = 100  # that are shown, each in all motions; as many clips of things that follow each other


def open_video_tasks(chosen: Iterable[str] = ()) -> list[RankingTask]:
    """Return the tasks of the video suite, or those asked for."""
    wanted = _named_tasks("nano-video", NANO_VIDEO, chosen)
    things = clips.named_things(samples.load_world(), "unseen", THINGS)
    moving = [clip for both in clips.motion_clips(things) for clip in both]
    pairs: dict[str, list[Pair]] = {
        "clip-words": [((clip.video,), (Text(clip.words),)) for clip in moving],
        "words-clip": [((Text(clip.words),), (clip.video,)) for clip in moving],
        "motion": [((clip.video, Text(clips.HOW)), (Text(clip.motion),)) for clip in moving],
    }
    made = {name: _task(name, NANO_VIDEO[name], found, suite="nano-video") for name, found in pairs.items()}
    made["motion"] = replace(made["motion"], metric="precision@1")
    made["order"] = _order(list(clips.order_clips(things)))
    return [made[name] for name in wanted]


def _order(found: Sequence[clips.Opposites]) -> RankingTask:
    """Ask which of two things comes right after the other: two answers for each clip."""
    place, pool = Place("samples:nano-video/order"), Pool()
    items: list[RankingQuery] = []
    for both in found:
        for clip, other in (both, both[::-1]):
            answers = [pool.add(Document((Text(one.words),), place)) for one in (clip, other)]
            items.append(listed(Document((clip.video,), replace(place, row=len(items) + 1)), answers))
    group, mark = NANO_VIDEO["order"]
    return RankingTask("order", group, tuple(pool.documents), tuple(items), "precision@1", ("query", "document"), (mark,))


def _named_tasks(suite: str, tasks: Iterable[str], chosen: Iterable[str]) -> list[str]:
    """Return the tasks that are asked for in the order of the suite; all where none is."""
    known, wanted = list(tasks), list(chosen)
    for name in wanted:
        if name not in known:
            raise UsageError(f"the suite {suite} has no task {name!r}{did_you_mean(name, known)} (it has {', '.join(known)})")
    return [name for name in known if not wanted or name in wanted]


def _task(name: str, marks: tuple[str, str], pairs: Sequence[Pair], *, shown: bool = False, suite: str = "nano") -> RankingTask:
    """Put pairs into a task. Queries of one content have all their answers right: two concepts may share a name."""
    place = f"samples:{suite}/{name}"
    pool = Pool()
    queries: dict[str, Document] = {}
    right: dict[str, list[int]] = {}
    for number, (query, positive) in enumerate(pairs, 1):
        document = Document(query, Place(place, number))
        key = document.fingerprint()
        queries.setdefault(key, document)
        right.setdefault(key, []).append(pool.add(Document(positive, Place(place, number))))
    if shown:
        for query, _ in pairs:
            pool.add(Document(tuple(part for part in query if not isinstance(part, Text)), Place(place)))
    items = tuple(RankingQuery(queries[key], np.unique(right[key])) for key in queries)
    group, mark = marks
    return RankingTask(name, group, tuple(pool.documents), items, "mrr", ("query", "document"), (mark,))
