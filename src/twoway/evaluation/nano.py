"""The nano suite: MMEB's four kinds of tasks, pages and texts, over the shipped samples; it needs no download and takes minutes.

Only things of the unseen half are asked: the nano base knows them, contrastive training on `samples:train` never saw them. All of them are
candidates, hundreds in most tasks, so that scores have room. Pictures are bytes without a name, so no file name can tell.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from ..content import Document, Image, Place
from ..data import samples
from ..data.samples_pairs import LANGUAGES
from ..errors import UsageError, did_you_mean
from . import nano_pairs as ask
from .nano_pairs import Held
from .ranking import Item, Pool, RankingTask

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from .nano_pairs import Pair, Row

IN_STYLE, NEW_STYLE, NEW_SOURCE = "known style", "unseen style", "unseen source"


@dataclass(frozen=True)
class Kind:
    """One task of the suite."""

    group: str
    pairs: Callable[[Held], list[Pair]]
    mark: str = IN_STYLE
    shown: bool = False  # whether the pictures of queries are candidates too


def _named(choose: Callable[[Held], Sequence[Row]], languages: Sequence[str], *, back: bool) -> Callable[[Held], list[Pair]]:
    return lambda held: ask.names(held, choose(held), languages=languages, back=back)


def _modern(held: Held) -> list[Row]:
    return held.styled(samples.HELD_STYLE)


EN, OTHER = LANGUAGES[:1], LANGUAGES[1:]
TASKS: dict[str, Kind] = {
    "category": Kind("classification", lambda held: ask.categories(held, held.plain)),
    "category-new-style": Kind("classification", lambda held: ask.categories(held, _modern(held)), NEW_STYLE),
    "capital": Kind("vqa", partial(ask.facts, fact="capital", question="What is the capital of this country?")),
    "continent": Kind("vqa", partial(ask.facts, fact="continent", question="On which continent is this country?")),
    "called": Kind("vqa", ask.called),
    "keywords": Kind("vqa", ask.keywords),
    "picture-name": Kind("retrieval", _named(lambda held: held.plain, EN, back=False)),
    "name-picture": Kind("retrieval", _named(lambda held: held.plain, EN, back=True)),
    "name-picture-languages": Kind("retrieval", _named(lambda held: held.plain, OTHER, back=True)),
    "picture-name-new-style": Kind("retrieval", _named(_modern, EN, back=False), NEW_STYLE),
    "name-picture-new-style": Kind("retrieval", _named(_modern, EN, back=True), NEW_STYLE),
    "name-picture-new-source": Kind("retrieval", _named(Held.far, EN, back=True), NEW_SOURCE),
    "definition-picture": Kind("retrieval", ask.definitions),
    "composed": Kind("retrieval", ask.composed, shown=True),
    "region": Kind("grounding", ask.regions),
    "page": Kind("documents", partial(ask.pages, same_language=True)),
    "page-languages": Kind("documents", partial(ask.pages, same_language=False)),
    "definition-term": Kind("texts", ask.terms),
    "translation": Kind("texts", ask.translations),
}


def open_tasks(chosen: Iterable[str] = ()) -> list[RankingTask]:
    """Return the tasks of the suite, or those asked for."""
    wanted = list(chosen)
    for name in wanted:
        if name not in TASKS:
            raise UsageError(f"the suite nano has no task {name!r}{did_you_mean(name, TASKS)} (it has {', '.join(TASKS)})")
    held = Held.read()
    return [_task(name, kind, kind.pairs(held)) for name, kind in TASKS.items() if not wanted or name in wanted]


def _task(name: str, kind: Kind, pairs: Sequence[Pair]) -> RankingTask:
    """Put pairs into a task. Queries of one content have all their answers right: two concepts may share a name."""
    place = f"samples:nano/{name}"
    pool = Pool()
    queries: dict[str, Document] = {}
    right: dict[str, list[int]] = {}
    for number, (query, positive) in enumerate(pairs, 1):
        document = Document(query, Place(place, number))
        key = document.fingerprint()
        queries.setdefault(key, document)
        right.setdefault(key, []).append(pool.add(Document(positive, Place(place, number))))
    if kind.shown:
        for query, _ in pairs:
            pool.add(Document(tuple(part for part in query if isinstance(part, Image)), Place(place)))
    items = tuple(Item(queries[key], np.unique(right[key])) for key in queries)
    return RankingTask(name, kind.group, tuple(pool.documents), items, "mrr", ("query", "document"), (kind.mark,))
