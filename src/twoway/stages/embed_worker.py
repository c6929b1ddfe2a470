"""What one machine of a cluster does: it opens the model once, then reads and embeds shard after shard, and writes nothing.

A shard is answered as a whole, so one that is lost with its machine is asked for again, and a second answer to it would be the same.
What is wrong is answered too, as a line of text, because an exception that crosses machines arrives as a traceback.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np

from twoway.content import ContentError, Place
from twoway.embedding import open_embedder
from twoway.embedding.ahead import read_ahead
from twoway.embedding.prompts import prompt_of
from twoway.embedding.shards import Row
from twoway.errors import TwowayError, UsageError

from .embed_source import READ_AHEAD, row_of
from .embed_write import of_model

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from numpy.typing import NDArray

    from twoway.content import Document

    from .embed_places import Places


def describe(opening: Mapping[str, Any], prompts: Mapping[str, Any]) -> dict[str, Any]:
    """Open the model where it will run, and say what it is there: on another kind of device it may be of another precision."""
    try:
        engine = open_embedder(**opening)
        prompt = prompt_of(engine.sentence, **prompts)
    except TwowayError as error:
        return {"error": str(error), "usage": isinstance(error, UsageError)}
    return {**of_model(engine), "dimension": engine.dimension, "normal": engine.normal, "prompt": prompt or ""}


class ShardEmbedder:
    """Holds the model; called with one shard at a time, as Ray Data calls it."""

    def __init__(self, opening: Mapping[str, Any], prompts: Mapping[str, Any], places: Places, fingerprint: str, *, strict: bool) -> None:
        self.prompts, self.places, self.strict = prompts, places, strict
        self.error = ""
        try:
            self.engine = open_embedder(**opening)
            if self.engine.fingerprint != fingerprint:
                self.error = f"{opening['model']} is another model on one of the machines; give all of them the same files and devices"
        except TwowayError as error:
            self.error = str(error)

    def __call__(self, batch: dict[str, NDArray[Any]]) -> dict[str, list[Any]]:
        """Answer one shard."""
        number, places = int(batch["number"][0]), np.asarray(batch["places"][0]).reshape(-1, 3)
        answer: dict[str, Any] = {"number": number, "seen": len(places), "error": self.error, "rows": "[]", "bad": "[]", "vectors": b""}
        if not self.error:
            try:
                answer |= self._embed(number, places, int(batch["first"][0]))
            except TwowayError as error:
                answer["error"] = str(error)
        return {name: [value] for name, value in answer.items()}

    def _embed(self, shard: int, places: NDArray[np.int64], first: int) -> dict[str, Any]:
        """Read the rows of a shard and embed the good ones; a strict run ends at the first bad one."""
        numbers: list[int] = []
        rows: dict[int, Row] = {}
        bad: list[ContentError] = []

        def documents() -> Iterator[Document]:
            for number, found in enumerate(read_ahead(self.places.read(places), READ_AHEAD), first):
                if self.strict and bad:
                    return
                if isinstance(found, ContentError):
                    bad.append(found)
                    continue
                numbers.append(number)
                rows[number] = row_of(number, found)
                yield found

        def refuse(_: int, error: ContentError) -> None:
            bad.append(error)

        vectors = {numbers[index]: vector for index, vector in self.engine.embed(documents(), **self.prompts, refuse=refuse)}
        order = sorted(vectors)
        whole = np.stack([vectors[number] for number in order]).tobytes() if order else b""
        said = [(error.reason, *vars(error.place or Place("")).values()) for error in bad]
        return {"rows": json.dumps([[number, *rows[number]] for number in order]), "bad": json.dumps(said), "vectors": whole}


def read_answer(answer: Mapping[str, Any], width: int) -> tuple[list[int], list[Row], NDArray[np.float32] | None, list[ContentError]]:
    """Return an answer's row numbers, rows, vectors (none without a good row) and bad rows."""
    said = json.loads(answer["rows"])
    bad = [ContentError(reason, Place(file, row, unit) if file else None) for reason, file, row, unit in json.loads(answer["bad"])]
    vectors = np.frombuffer(answer["vectors"], np.float32).reshape(-1, width) if said else None
    return [one[0] for one in said], [Row(*one[1:]) for one in said], vectors, bad
