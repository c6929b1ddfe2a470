"""The index behind HTTP: what is in it, one item, its picture, its page; adding, replacing and deleting, unless the server only reads."""

from __future__ import annotations

import io
from threading import BoundedSemaphore
from typing import TYPE_CHECKING, Any, cast

from fastapi import APIRouter, Request
from PIL import Image as PILImage
from PIL import ImageChops, ImageStat
from starlette.convertors import PathConvertor, register_url_convertor
from starlette.responses import JSONResponse, Response

from .. import images
from ..content import ContentError, Document, Place
from ..data.pdf import page as render
from ..data.rows import ReadOptions
from ..embedding.precision import cut
from ..search.fields import name_of
from ..search.store import Item, check_id
from ..search.thumbnails import thumbnail
from .errors import ApiError
from .requests import ItemAsked, ItemsAsked, read, schema
from .search_route import item_of, page_of, shown
from .service import Allowed, Service

if TYPE_CHECKING:
    from pathlib import Path

    from ..search.store import Store
    from .limits import Limits


class _Id(PathConvertor):
    """An id in an address, which may have slashes and line breaks in it; the framework's own kind ends at a line break."""

    regex = r"(?s:.*)"


register_url_convertor("id", _Id())
router = APIRouter(prefix="/v1/index")
_LOOK, _MOST_DIFFERENCE = 48, 8.0  # cells along a side, and the mean difference of 255 past which two pictures are not of one page
_DRAWING = BoundedSemaphore(2)  # small pictures made at a time, since each lies decoded whole
# An item's picture may come from anywhere; a browser takes it for a picture and nothing else, and shows it on pages of this server alone.
_PICTURE = {"X-Content-Type-Options": "nosniff", "Cross-Origin-Resource-Policy": "same-origin", "Cache-Control": "private, max-age=60"}


@router.get("")
async def index(service: Allowed) -> dict[str, Any]:
    """Say what the index holds."""

    def about(store: Store) -> dict[str, Any]:
        fields = [{"name": name, "type": kind} for name, kind in store.fields.items()]
        return {"count": store.count(), "dimension": store.dimension, "model": service.name, "fields": fields}

    found: dict[str, Any] = await service.receiver.in_time(service.indexed(about))
    return found


@router.post("/items", openapi_extra=schema(ItemsAsked))
async def add(request: Request, service: Allowed) -> Response:
    """Embed items and add them, each in place of one with its id; all of them or none."""
    _require_writable(service)

    async def work(body: bytearray) -> Response:
        service.index()
        asked, documents, small = await service.beside(lambda: _read(body, service))
        job = await service.embed(documents, service.ask(side="document"))
        width = service.index().dimension
        items = [
            Item(one.id, cut(vector[None], width, normal=True)[0], "\n".join(document.texts), picture, "added over HTTP", one.metadata)
            for one, vector, document, picture in zip(asked.items, job.vectors, documents, small, strict=True)
        ]

        def put(store: Store) -> tuple[int, int]:
            _require_room(store, items, service.limits.fields)
            return store.add(items)

        new, replaced = await service.indexed(put, change=True)
        return JSONResponse({"added": new, "replaced": replaced})

    return await service.receiver.answer(request, work)


@router.get("/items/{name:id}/thumbnail")
async def picture(name: str, request: Request, service: Allowed) -> Response:
    """Return the small picture of an item."""
    if not request.scope.get("raw_path", b"/thumbnail").endswith(b"/thumbnail"):
        return JSONResponse(await one(f"{name}/thumbnail", service))  # the slash was written as a part of the id
    item: Item = await service.receiver.in_time(service.indexed(lambda store: item_of(store, name)))
    if item.thumbnail is None:
        raise ApiError(404, f"the item {name[:200]!r} has no picture", code="no_picture")
    return Response(item.thumbnail, media_type="image/webp", headers=_PICTURE)


@router.get("/items/{name:id}/page")
async def page(name: str, request: Request, service: Allowed) -> Response:
    """Return the page of a PDF that an item is, at reading size, rendered from the file that was indexed."""
    if not request.scope.get("raw_path", b"/page").endswith(b"/page"):
        return JSONResponse(await one(f"{name}/page", service))  # the slash was written as a part of the id
    item: Item = await service.receiver.in_time(service.indexed(lambda store: item_of(store, name)))
    if page_of(item) is None:
        raise ApiError(404, f"the item {name[:200]!r} is no page of a PDF that 'twoway index' has read", code="no_page")
    drawn = await service.receiver.in_time(service.pages.do(_render, item, service.limits))
    return Response(drawn, media_type="image/jpeg", headers=_PICTURE)


@router.get("/items/{name:id}")
async def one(name: str, service: Allowed) -> dict[str, Any]:
    """Return one item."""
    return shown(await service.receiver.in_time(service.indexed(lambda store: item_of(store, name))))


@router.delete("/items/{name:id}")
async def delete(name: str, service: Allowed) -> dict[str, Any]:
    """Take one item out."""
    _require_writable(service)

    def out(store: Store) -> None:
        if not store.delete([name]):
            raise ApiError(404, f"there is no item {name[:200]!r}", code="no_such_item", param="id")

    await service.receiver.in_time(service.indexed(out, change=True))
    return {"deleted": name}


def _render(item: Item, limits: Limits) -> bytes:
    """Render the page that an item is, in the child process that renders PDFs; what is another page by now is refused."""
    path, number = cast("tuple[Path, int]", page_of(item))
    if not path.is_file():
        message = "its file is not where it was (a relative path counts from the folder that the server was started in)"
        raise ApiError(404, message, code="no_file")
    bounds = images.Limits(max_pixels=limits.page_pixels, max_page_seconds=limits.page_seconds, max_page_memory=limits.page_memory)
    found = render(path, number - 1, Place("the page"), ReadOptions(limits=bounds))
    if isinstance(found, ContentError):
        raise ApiError(409, f"the page cannot be shown: {found.reason}", code="bad_page")
    text, picture = "\n".join(found.texts), cast("PILImage.Image", found.images[0].source)
    same_text = text.startswith(item.text) and bool(item.text) == bool(text)  # an engine may keep the beginning of a long text
    if not same_text or found.meta["pages"] != item.metadata.get("pages", found.meta["pages"]) or _differs(picture, item.thumbnail):
        raise ApiError(409, "its file has changed since it was indexed; index it again", code="changed")
    written = io.BytesIO()
    picture.save(written, "JPEG", quality=90)
    return written.getvalue()


def _differs(picture: PILImage.Image, small: bytes | None) -> bool:
    """Say whether a rendered page shows something else than the small picture of it that is in the index."""
    if small is None:
        return False
    size = (_LOOK, _LOOK)
    with PILImage.open(io.BytesIO(small), formats=("WEBP",)) as kept:
        pair = [one.convert("L").resize(size, PILImage.Resampling.BOX) for one in (kept, picture)]
    return ImageStat.Stat(ImageChops.difference(*pair)).mean[0] > _MOST_DIFFERENCE


def _require_room(store: Store, items: list[Item], most: int) -> None:
    """Refuse items that would make more fields than an index of use has."""
    there = store.fields
    fresh = {name for one in items for name in map(name_of, one.metadata)} - set(there)
    if fresh and len(there) + len(fresh) > most:
        message = f"the index has {len(there):,} fields, and these items would add {len(fresh):,}; at most {most:,} are kept"
        raise ApiError(400, message, code="too_many", param="items")


def _require_writable(service: Service) -> None:
    service.index()
    if service.read_only:
        raise ApiError(403, "the index of this server is read-only", code="read_only")


def _read(body: bytearray, service: Service) -> tuple[ItemsAsked, list[Document], list[bytes | None]]:
    """Check a request, make its documents and their small pictures."""
    asked, contents = read(ItemsAsked, body), service.contents()
    if len(asked.items) > service.limits.added:
        raise ApiError(400, f"{len(asked.items)} items; at most {service.limits.added} are added at a time", code="too_many", param="items")
    documents = []
    for number, item in enumerate(asked.items):
        where = f"items[{number}]"
        check_id(item.id, where)
        if (item.parts is None) == (item.text is None and item.image is None):
            raise ApiError(400, f"{where} needs 'text', 'image' or both, or else 'parts'", code="invalid_value", param=where)
        documents.append(_document(item, contents, where))
    with _DRAWING:
        small = [thumbnail(document.images[0], place=document.place) if document.images else None for document in documents]
    return asked, documents, small


def _document(item: ItemAsked, contents: Any, where: str) -> Document:
    found: Document = (
        contents.simple(item.text, item.image, f"{where}.") if item.parts is None else contents.parts(item.parts, f"{where}.parts")
    )
    return found
