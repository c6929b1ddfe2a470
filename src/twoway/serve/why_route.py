"""`POST /v1/why`: which parts of an item's small picture pull it towards words, a picture, both, or another item (`like`).

It is asked of the picture that the page shows, alone: an item of several parts has a vector of all of them, and the score said here is that
of the small picture. `share` says how much of the match is its, and not its text's. Grey cells tried one by one are many passes of the
model, so few of these questions may wait at a time.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from fastapi import APIRouter, Request
from starlette.responses import JSONResponse, Response

from ..content import Document, Image, Place
from ..embedding.why import Explainer
from .errors import ApiError
from .requests import Asked, read, schema
from .search_route import item_of, shown
from .service import Allowed, Service

if TYPE_CHECKING:
    from ..embedding import Embedder

router = APIRouter()
_WAITING = 4
_turns: WeakKeyDictionary[Service, Turns] = WeakKeyDictionary()


class WhyAsked(Asked):
    """The item whose picture is looked at, and what it was found by: words, a picture, both, or the item it is like."""

    id: str
    text: str | None = None
    image: str | None = None
    like: str | None = None


class Turns:
    """Explains for one service, a few questions waiting at a time; what is known of the model is made when it is first needed."""

    def __init__(self, engine: Embedder) -> None:
        self.engine = engine
        self.waiting = 0
        self._explain: Explainer | None = None

    def __call__(self, picture: bytes, text: str, name: str, query: Any) -> dict[str, Any]:
        """Explain one picture, and its share beside its item's text, where it has one; called in the model's thread."""
        self._explain = self._explain or Explainer(self.engine)
        document = Document((Image(picture),), Place(f"the picture of {name[:200]!r}"))
        why = self._explain(document, query)
        share = self._explain.share(document, text, query) if text.strip() else 1.0
        return {"share": share, "method": why.method, "score": why.score, "rest": why.rest, "grid": why.shades, "pulls": why.pulls}

    def __enter__(self) -> None:
        if self.waiting >= _WAITING:
            raise ApiError(429, "as many of these questions wait as may; try again later", code="queue_full", wait=5)
        self.waiting += 1

    def __exit__(self, *_: object) -> None:
        self.waiting -= 1


@router.post("/v1/why", openapi_extra=schema(WhyAsked))
async def why(request: Request, service: Allowed) -> Response:
    """Say how strongly each cell of a picture pulls."""
    turns = _turns.setdefault(service, Turns(service.engine))

    async def work(body: bytearray) -> Response:
        start = time.perf_counter()
        service.index()
        asked, document = await service.beside(lambda: _read(body, service))
        item = await service.indexed(lambda store: item_of(store, asked.id))
        if item.thumbnail is None:
            raise ApiError(400, f"the item {asked.id[:200]!r} has no picture to look at", code="no_picture", param="id")
        picture = item.thumbnail
        with turns:
            if document is None:
                query = (await service.indexed(lambda store: item_of(store, str(asked.like)))).vector
            else:
                query = await service.query(document)
            found = await service.on_model(lambda: turns(picture, item.text, item.id, query))
        took = round((time.perf_counter() - start) * 1000, 1)
        return JSONResponse({**found, "thumbnail": shown(item)["thumbnail"], "took_ms": took})

    return await service.receiver.answer(request, work)


def _read(body: bytearray, service: Service) -> tuple[WhyAsked, Document | None]:
    asked = read(WhyAsked, body)
    if (asked.like is None) == (asked.text is None and asked.image is None):
        raise ApiError(400, "give what the item was found by: 'text', 'image' or both, or else 'like'", code="invalid_value")
    return asked, None if asked.like is not None else service.contents().simple(asked.text, asked.image, "")
