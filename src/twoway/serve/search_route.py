"""`POST /v1/search`: the nearest items of the index to words, a picture, both, or another item."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from fastapi import APIRouter, Request
from starlette.responses import JSONResponse, Response

from ..content import Place
from ..errors import UsageError
from ..search.store import near
from .errors import ApiError
from .requests import SearchAsked, read, schema
from .service import Allowed, Service

if TYPE_CHECKING:
    from ..content import Document
    from ..search.store import Hit, Item, Store

router = APIRouter()


@router.post("/v1/search", openapi_extra=schema(SearchAsked))
async def search(request: Request, service: Allowed) -> Response:
    """Return the nearest items, the nearest first."""

    async def work(body: bytearray) -> Response:
        start = time.perf_counter()
        service.index()
        asked, document = await service.beside(lambda: _read(body, service))
        vector = None if document is None else await service.query(document)
        found = await service.indexed(lambda store: _find(store, asked, vector))
        took = round((time.perf_counter() - start) * 1000, 1)
        return JSONResponse({"hits": [{**shown(hit.item), "score": hit.score} for hit in found], "took_ms": took})

    return await service.receiver.answer(request, work)


def shown(item: Item) -> dict[str, Any]:
    """Return what an asker sees of an item."""
    home = f"/v1/index/items/{quote(item.id, safe='')}"
    small = f"{home}/thumbnail" if item.thumbnail is not None else None
    page = f"{home}/page" if page_of(item) is not None else None
    return {"id": item.id, "text": item.text, "place": item.place, "metadata": dict(item.metadata), "thumbnail": small, "page": page}


def page_of(item: Item) -> tuple[Path, int] | None:
    """Return file and number of the PDF page that an item is; nothing for any other.

    The place is what `twoway index` writes and no request can: metadata alone, which one can, names no file.
    """
    file, number = item.metadata.get("file"), item.metadata.get("page")
    if not isinstance(file, str) or not isinstance(number, int) or number < 1 or item.place != str(Place(file, number, "page")):
        return None
    return (Path(file), number) if file.lower().endswith(".pdf") else None


def item_of(store: Store, name: str) -> Item:
    """Return one item of the index."""
    try:
        return store.get(name)
    except UsageError as error:
        raise ApiError(404, f"there is no item {name[:200]!r}", code="no_such_item", param="id") from error


def _read(body: bytearray, service: Service) -> tuple[SearchAsked, Document | None]:
    asked = read(SearchAsked, body)
    if asked.k > service.limits.found:
        raise ApiError(400, f"'k' is {asked.k}; at most {service.limits.found} are given", code="invalid_value", param="k")
    if asked.id is not None and (asked.text is not None or asked.image is not None):
        raise ApiError(400, "'id' asks for more like that item; give it without 'text' and 'image'", code="invalid_value", param="id")
    if asked.hybrid and asked.text is None:
        raise ApiError(400, "'hybrid' looks for the words of 'text', too; give some", code="invalid_value", param="hybrid")
    if asked.hybrid and len(asked.text or "") > service.limits.words:
        message = (
            f"'hybrid' looks for every word of 'text', which has {len(asked.text or ''):,} characters; {service.limits.words:,} are taken"
        )
        raise ApiError(400, message, code="too_long", param="text")
    if asked.text is None and asked.image is None:
        return asked, None
    return asked, service.contents().simple(asked.text, asked.image, "")


def _find(store: Store, asked: SearchAsked, vector: Any) -> list[Hit]:
    """Ask the index; an item is not among those like it."""
    if asked.id is None:
        return store.search(vector, k=asked.k, where=asked.filter, words=asked.text if asked.hybrid else None)
    return near(store, item_of(store, asked.id), k=asked.k, where=asked.filter)
