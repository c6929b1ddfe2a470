"""The routes: embeddings, search, the index, why, health, and the page."""

from __future__ import annotations

import base64
import io
import os
import secrets
import stat
import time
from dataclasses import replace
from importlib.resources import files
from pathlib import Path
from threading import BoundedSemaphore
from typing import TYPE_CHECKING, Any, cast
from urllib.parse import quote
from weakref import WeakKeyDictionary

import numpy as np
import pydantic_core
from fastapi import APIRouter, Request
from PIL import Image as PILImage
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.convertors import PathConvertor, register_url_convertor
from starlette.responses import FileResponse, JSONResponse, Response

from twoway.content import KINDS, Audio, ContentError, Document, Image, Place, recording_at
from twoway.data.rows import ReadOptions
from twoway.data.sources.pdf import page as render
from twoway.embedding.explain import Explainer, WhyInTime, match_words
from twoway.embedding.shards import cut
from twoway.errors import UsageError, did_you_mean
from twoway.limits import Limits
from twoway.search.pictures import differs, thumbnail
from twoway.search.reading import ReadItem, explain_item, order_hits, pdf_page, read_item
from twoway.search.store import Item, check_id, field_name, search_near_item

from .schemas import (
    AddItemsRequest,
    ApiError,
    EmbeddingsRequest,
    NewItem,
    Question,
    RerankedContent,
    RerankRequest,
    SearchRequest,
    ServerLimits,
    body_schema,
    parse_body,
)
from .service import AuthorizedService, CurrentService, Service

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from numpy.typing import NDArray

    from twoway.embedding import Embedder
    from twoway.recordings import Recording
    from twoway.search.store import Hit, Store

    from .batching import EmbedJob
    from .schemas import DocumentBuilder


# `POST /v1/embeddings`, as the OpenAI client asks, with pictures as vLLM takes them; `POST /pooling`, vLLM's, which has
# room for many vectors; `GET /v1/models`.
#
# The vectors are those of `SentenceTransformer.encode`. `dimensions` keeps the first numbers of each, at length 1
# again (Matryoshka). A message of role `system` in front is a prompt, which is where sentence-transformers puts
# a prompt.

embeddings_router = APIRouter()
_BORN = int(time.time())


@embeddings_router.post("/v1/embeddings", openapi_extra=body_schema(EmbeddingsRequest))
async def embeddings(request: Request, service: AuthorizedService) -> Response:
    """Return a vector for each text, or one for the messages."""
    if service.engine.late_interaction:
        message = "this model gives a vector for each token (late interaction), and no single one; POST /pooling gives them"
        raise ApiError(400, message, code="many_vectors")
    return await service.reader.respond(request, lambda body: _embed(body, service, _write))


@embeddings_router.post("/pooling", openapi_extra=body_schema(EmbeddingsRequest))
async def pooling(request: Request, service: AuthorizedService) -> Response:
    """Return the vector of each text or of the messages, or its many, as the model makes them."""
    return await service.reader.respond(request, lambda body: _embed(body, service, _write_pooling))


async def _embed(body: bytearray, service: Service, write: Callable[[EmbeddingsRequest, EmbedJob, Service], bytes]) -> Response:
    """Embed what is asked, and write it."""
    asked, documents = await service.run_in_thread(lambda: _read_embeddings(body, service))
    ask = service.encode_options(side=asked.side, prompt=asked.prompt, prompt_name=asked.prompt_name)
    job = await service.embed(documents, ask, truncate=asked.truncate)
    return Response(await service.run_in_thread(lambda: write(asked, job, service)), media_type="application/json")


@embeddings_router.get("/v1/models")
async def models(service: AuthorizedService) -> dict[str, Any]:
    """Name the model."""
    return {"object": "list", "data": [_model(service)]}


@embeddings_router.get("/v1/models/{name:path}")
async def model(name: str, service: AuthorizedService) -> dict[str, Any]:
    """Describe the model, where it has that name."""
    service.require_model(name)
    return _model(service)


def _model(service: Service) -> dict[str, Any]:
    sizes = {"dimension": service.engine.dimension, "max_model_len": service.engine.lengths.longest}
    return {"id": service.name, "object": "model", "created": _BORN, "owned_by": "twoway", **sizes}


def _read_embeddings(body: bytearray, service: Service) -> tuple[EmbeddingsRequest, list[Document]]:
    """Check a request and make its documents."""
    asked, contents = parse_body(EmbeddingsRequest, body), service.document_builder()
    service.require_model(asked.model)
    if asked.dimensions is not None and asked.dimensions > service.engine.dimension:
        message = f"'dimensions' is {asked.dimensions}; this model's vectors have 1 to {service.engine.dimension} numbers"
        raise ApiError(400, message, code="invalid_value", param="dimensions")
    if (asked.input is None) == (asked.messages is None):
        raise ApiError(400, "give either 'input' or 'messages'", code="invalid_value", param="input")
    if asked.messages is not None:
        return asked, [_message(asked, contents)]
    texts = asked.texts()
    if len(texts) > service.limits.inputs:
        message = f"'input' has {len(texts):,} texts; at most {service.limits.inputs:,} are taken at a time"
        raise ApiError(400, message, code="too_many", param="input")
    return asked, [contents.text(text, f"input[{number}]" if len(texts) > 1 else "input") for number, text in enumerate(texts)]


def _message(asked: EmbeddingsRequest, contents: DocumentBuilder) -> Document:
    """Return the one message of a request; a prompt before it goes where instructions go."""
    messages = asked.messages or []
    if messages and messages[0].role == "system":
        said = messages[0].content
        if not isinstance(said, str):
            said = "".join(part.text for part in said if part.type == "text")
        if asked.prompt is not None:
            raise ApiError(400, "a system message and 'prompt' were both given; one of them decides", param="messages")
        asked.prompt = said
        messages = messages[1:]
    if len(messages) != 1 or messages[0].role != "user":
        raise ApiError(400, "'messages' holds one message of role user, and at most a system message before it", param="messages")
    return contents.parts(messages[0].content, "messages.content")


def _write(asked: EmbeddingsRequest, job: EmbedJob, service: Service) -> bytes:
    """Return the answer as JSON."""
    vectors = np.stack(job.vectors)
    if asked.dimensions is not None:
        vectors = cut(vectors, asked.dimensions, normal=service.engine.normal)
    data = [{"object": "embedding", "index": number, "embedding": form} for number, form in enumerate(_forms(asked, vectors))]
    return pydantic_core.to_json({"object": "list", "data": data, "model": asked.model or service.name, "usage": _usage(job)})


def _write_pooling(asked: EmbeddingsRequest, job: EmbedJob, service: Service) -> bytes:
    """Return vLLM's answer as JSON; many vectors in base64 stand row behind row."""
    if asked.dimensions is not None:
        raise ApiError(400, "'dimensions' is for /v1/embeddings; leave it out", code="invalid_value", param="dimensions")
    data = [{"object": "pooling", "index": number, "data": form} for number, form in enumerate(_forms(asked, job.vectors))]
    found = {"id": f"pool-{secrets.token_hex(8)}", "object": "list", "created": int(time.time()), "model": asked.model or service.name}
    return pydantic_core.to_json({**found, "data": data, "usage": _usage(job)})


def _forms(asked: EmbeddingsRequest, vectors: Iterable[NDArray[np.float32]]) -> list[Any]:
    if asked.encoding_format == "base64":
        return [base64.b64encode(vector.astype("<f4").tobytes()).decode() for vector in vectors]
    return [vector.tolist() for vector in vectors]


def _usage(job: EmbedJob) -> dict[str, int]:
    tokens = sum(job.tokens)
    return {"prompt_tokens": tokens, "total_tokens": tokens}


# `POST /v1/rerank`, as the clients of Cohere and Jina ask, and LangChain and vLLM with them: how well each document answers a query.

rerank_router = APIRouter()


@rerank_router.post("/v1/rerank", openapi_extra=body_schema(RerankRequest))
@rerank_router.post("/v2/rerank", include_in_schema=False)
@rerank_router.post("/rerank", include_in_schema=False)
async def rerank_documents(request: Request, service: AuthorizedService) -> Response:
    """Return the documents that answer best, the best first."""

    async def work(body: bytearray) -> Response:
        service.require_reranker()
        asked, query, documents = await service.run_in_thread(lambda: _read_rerank(body, service))
        scores, tokens = await service.relevance(query, documents, prompt=asked.prompt)
        order = sorted(range(len(scores)), key=lambda number: (-(scores[number] or 0.0), number))[: asked.top_n]
        results: list[dict[str, Any]] = [{"index": number, "relevance_score": scores[number]} for number in order]
        for one in results if asked.return_documents else ():
            given = asked.documents[one["index"]]
            one["document"] = {"text": given} if isinstance(given, str) else given.model_dump(exclude_none=True)
        usage = {"prompt_tokens": tokens, "total_tokens": tokens}
        found = {
            "id": f"rerank-{secrets.token_hex(8)}",
            "object": "list",
            "model": service.reranker_name,
            "results": results,
            "usage": usage,
        }
        return JSONResponse(found)

    return await service.reader.respond(request, work)


def _read_rerank(body: bytearray, service: Service) -> tuple[RerankRequest, Document, list[Document]]:
    """Check a request and make its documents."""
    asked, contents = parse_body(RerankRequest, body), service.document_builder()
    if asked.model is not None and asked.model not in (service.reranker_name, service.require_reranker().name):
        near = did_you_mean(asked.model, [service.reranker_name])
        message = f"there is no reranker {asked.model[:200]!r} here{near} (there is: {service.reranker_name})"
        raise ApiError(404, message, code="model_not_found", param="model")
    if len(asked.documents) > service.limits.inputs:
        message = f"'documents' has {len(asked.documents):,} of them; at most {service.limits.inputs:,} are taken at a time"
        raise ApiError(400, message, code="too_many", param="documents")
    documents = [_reranked(one, contents, f"documents[{number}]") for number, one in enumerate(asked.documents)]
    return asked, _reranked(asked.query, contents, "query"), documents


def _reranked(given: str | RerankedContent, contents: DocumentBuilder, where: str) -> Document:
    if isinstance(given, str):
        return contents.text(given, where)
    if (given.content is None) == (given.text is None and given.image is None):
        raise ApiError(400, f"{where} needs 'text', 'image' or both, or else 'content'", code="invalid_value", param=where)
    if given.content is not None:
        return contents.parts(given.content, f"{where}.content")
    return contents.from_keys({"image": given.image, "text": given.text}, f"{where}.")


# `POST /v1/search`: the nearest items of the index to words, a picture, both, or another item.

search_router = APIRouter()


@search_router.post("/v1/search", openapi_extra=body_schema(SearchRequest))
async def search(request: Request, service: AuthorizedService) -> Response:
    """Return the nearest items, the nearest first."""

    async def work(body: bytearray) -> Response:
        start = time.perf_counter()
        service.require_index()
        asked, document = await service.run_in_thread(lambda: _read_search(body, service))
        vector = None if document is None else await service.query(document)
        found = await service.run_on_index(lambda store: _find(store, asked, vector))
        if asked.rerank_top is not None and document is not None:
            found = await _reranked_hits(service, document, found, asked.rerank_top)
        took = round((time.perf_counter() - start) * 1000, 1)
        return JSONResponse({"hits": [_hit_json(hit, service) for hit in found[: asked.top_k]], "took_ms": took})

    return await service.reader.respond(request, work)


def _hit_json(hit: Hit, service: Service) -> dict[str, Any]:
    return {**item_json(hit.item, service), "score": hit.score, **hit.steps()}


async def _reranked_hits(service: Service, query: Document, hits: list[Hit], top: int) -> list[Hit]:
    """Put the best hits into the reranker's order; what cannot be read stands behind them."""
    reranker = service.require_reranker()
    reranker.inputs.kind(query)  # what it takes no question of is the asker's to know, and no fault of the items

    def read() -> list[ReadItem | None]:
        return [read_item(reranker, query, hit.item) for hit in hits[:top]]

    found = await service.run_in_thread(read)
    there = [one.document for one in found if one is not None]
    scores = iter((await service.relevance(query, there, skip=True))[0] if there else [])
    return [*order_hits(hits[:top], found, [None if one is None else next(scores) for one in found]), *hits[top:]]


def item_json(item: Item, service: Service) -> dict[str, Any]:
    """Return what an asker sees of an item."""
    home = f"/v1/index/items/{quote(item.id, safe='')}"
    small = f"{home}/thumbnail" if item.thumbnail is not None else None
    page = f"{home}/page" if pdf_page(item) is not None else None
    said = {"id": item.id, "text": item.text, "place": item.place, "metadata": dict(item.metadata), "thumbnail": small, "page": page}
    if (played := recording_at(item.media)) is not None:
        said["media"] = {"kind": played.modality, "url": service.access.sign(f"{home}/media"), "start": played.start, "end": played.end}
    return said


def get_item(store: Store, name: str) -> Item:
    """Return one item of the index."""
    try:
        return store.get(name)
    except UsageError as error:
        raise ApiError(404, f"there is no item {name[:200]!r}", code="no_such_item", param="id") from error


def _read_search(body: bytearray, service: Service) -> tuple[SearchRequest, Document | None]:
    asked = parse_body(SearchRequest, body)
    if asked.top_k > service.limits.found:
        raise ApiError(400, f"'top_k' is {asked.top_k}; at most {service.limits.found} are given", code="invalid_value", param="top_k")
    content = asked.content()
    if asked.id is not None and content:
        message = f"'id' asks for more like that item; give it without {' and '.join(map(repr, content))}"
        raise ApiError(400, message, code="invalid_value", param="id")
    if asked.rerank_top is not None:
        service.require_reranker()
        if asked.rerank_top > service.limits.found:
            message = f"'rerank_top' is {asked.rerank_top}; at most {service.limits.found} are read again"
            raise ApiError(400, message, code="invalid_value", param="rerank_top")
        if not content:
            raise ApiError(400, "'rerank_top' needs a question: 'text', 'image' or both", code="invalid_value", param="rerank_top")
    if asked.maxsim_top is not None and asked.maxsim_top > service.limits.compared:
        message = f"'maxsim_top' is {asked.maxsim_top}; at most {service.limits.compared} are compared"
        raise ApiError(400, message, code="invalid_value", param="maxsim_top")
    if asked.maxsim_top is not None and asked.hybrid:
        raise ApiError(400, "'hybrid' compares all items; leave 'maxsim_top' out", code="invalid_value", param="maxsim_top")
    if asked.hybrid and asked.text is None:
        raise ApiError(400, "'hybrid' looks for the words of 'text', too; give some", code="invalid_value", param="hybrid")
    if asked.hybrid and len(asked.text or "") > service.limits.words:
        message = (
            f"'hybrid' looks for every word of 'text', which has {len(asked.text or ''):,} characters; {service.limits.words:,} are taken"
        )
        raise ApiError(400, message, code="too_long", param="text")
    return asked, service.document_builder().from_keys(content, "") if content else None


def _find(store: Store, asked: SearchRequest, vector: Any) -> list[Hit]:
    """Ask the index; an item is not among those like it."""
    if asked.id is None:
        wanted, words = max(asked.top_k, asked.rerank_top or 0), asked.text if asked.hybrid else None
        return store.search(vector, top_k=wanted, filter=asked.filter, words=words, maxsim_top=asked.maxsim_top)
    item = get_item(store, asked.id)
    return search_near_item(store, item, top_k=asked.top_k, filter=asked.filter, maxsim_top=asked.maxsim_top)


# The index behind HTTP: what is in it, one item, its picture, its page; adding, replacing and deleting, unless the
# server only reads.


class _Id(PathConvertor):
    """An id in an address, which may have slashes and line breaks in it; the framework's own kind ends at a line break."""

    regex = r"(?s:.*)"


register_url_convertor("id", _Id())
index_router = APIRouter(prefix="/v1/index")
_MOVED = "its file is not where it was (a relative path counts from the folder that the server was started in)"
_CHANGED = "its file has changed since it was indexed; index it again"
_PLAYABLE, _DAY = 4096, 86_400.0  # files that are remembered as looked at; the longest sound
_DRAWING = BoundedSemaphore(2)  # small pictures made at a time, since each lies decoded whole
# An item's picture may come from anywhere; a browser takes it for a picture and nothing else, and shows it on pages of this server alone.
_PICTURE = {"X-Content-Type-Options": "nosniff", "Cross-Origin-Resource-Policy": "same-origin", "Cache-Control": "private, max-age=60"}


@index_router.get("")
async def index_state(service: AuthorizedService) -> dict[str, Any]:
    """Say what the index holds."""

    def about(store: Store) -> dict[str, Any]:
        fields = [{"name": name, "type": kind} for name, kind in store.fields.items()]
        takes = sorted(set(KINDS) & service.engine.inputs.single)
        again = {} if service.reranker is None else {"reranker": service.reranker_name}
        bounds = {"limits": {name: getattr(service.limits, name) for name in ("body_bytes", "sound_seconds")}} if "audio" in takes else {}
        said = {"count": store.count(), "dimension": store.dimension, "model": service.name, "fields": fields}
        return {**said, "takes": takes, **bounds, **again}

    found: dict[str, Any] = await service.reader.with_timeout(service.run_on_index(about))
    return found


@index_router.post("/items", openapi_extra=body_schema(AddItemsRequest))
async def add(request: Request, service: AuthorizedService) -> Response:
    """Embed items and add them, each in place of one with its id; all of them or none."""
    _require_writable(service)

    async def work(body: bytearray) -> Response:
        service.require_index()
        asked, documents, small = await service.run_in_thread(lambda: _read_items(body, service))
        job = await service.embed(documents, service.encode_options(side="document"))
        items = [
            Item(one.id, service.stored(vector), "\n".join(document.texts), picture, "added over HTTP", one.metadata)
            for one, vector, document, picture in zip(asked.items, job.vectors, documents, small, strict=True)
        ]

        def put(store: Store) -> tuple[int, int]:
            _require_room(store, items, service.limits.fields)
            return store.add(items)

        new, replaced = await service.run_on_index(put, change=True)
        return JSONResponse({"added": new, "replaced": replaced})

    return await service.reader.respond(request, work)


@index_router.get("/items/{name:id}/thumbnail")
async def item_thumbnail(name: str, request: Request, service: AuthorizedService) -> Response:
    """Return the small picture of an item."""
    if not request.scope.get("raw_path", b"/thumbnail").endswith(b"/thumbnail"):
        return await one(f"{name}/thumbnail", service)  # the slash was written as a part of the id
    item: Item = await service.reader.with_timeout(service.run_on_index(lambda store: get_item(store, name)))
    if item.thumbnail is None:
        raise ApiError(404, f"the item {name[:200]!r} has no picture", code="no_picture")
    return Response(item.thumbnail, media_type="image/webp", headers=_PICTURE)


@index_router.get("/items/{name:id}/page")
async def page_index(name: str, request: Request, service: AuthorizedService) -> Response:
    """Return the page of a PDF that an item is, at reading size, rendered from the file that was indexed."""
    if not request.scope.get("raw_path", b"/page").endswith(b"/page"):
        return await one(f"{name}/page", service)  # the slash was written as a part of the id
    item: Item = await service.reader.with_timeout(service.run_on_index(lambda store: get_item(store, name)))
    if pdf_page(item) is None:
        raise ApiError(404, f"the item {name[:200]!r} is not a page of a PDF that 'twoway index' has read", code="no_page")
    drawn = await service.reader.with_timeout(service.pages.run(_render, item, service.limits))
    return Response(drawn, media_type="image/jpeg", headers=_PICTURE)


@index_router.get("/items/{name:id}/media")
async def item_media(name: str, request: Request, service: AuthorizedService) -> Response:
    """Return the file of the video or sound that an item is, or what a `Range` asks of it."""
    if not request.scope.get("raw_path", b"/media").endswith(b"/media"):
        return await one(f"{name}/media", service)  # the slash was written as a part of the id
    item: Item = await service.reader.with_timeout(service.run_on_index(lambda store: get_item(store, name)))
    file, said = await service.reader.with_timeout(_same_file(item, service))
    return FileResponse(file, media_type=_recording(item).media_type, headers=_PICTURE, stat_result=said)


@index_router.get("/items/{name:id}")
async def one(name: str, service: AuthorizedService) -> Response:
    """Return one item."""
    item: Item = await service.reader.with_timeout(service.run_on_index(lambda store: get_item(store, name)))
    return JSONResponse(item_json(item, service))


@index_router.delete("/items/{name:id}")
async def delete(name: str, service: AuthorizedService) -> dict[str, Any]:
    """Take one item out."""
    _require_writable(service)

    def out(store: Store) -> None:
        if not store.delete([name]):
            raise ApiError(404, f"there is no item {name[:200]!r}", code="no_such_item", param="id")

    await service.reader.with_timeout(service.run_on_index(out, change=True))
    return {"deleted": name}


def _recording(item: Item) -> Recording:
    """Return the video or sound that an item is."""
    if (found := recording_at(item.media)) is None:
        raise ApiError(404, f"the item {item.id[:200]!r} is no video or sound in a file that 'twoway index' has read", code="no_media")
    return found


async def _same_file(item: Item, service: Service) -> tuple[Path, os.stat_result]:
    """Return the file that an item is, as it was indexed, and what the system says of it; it is looked at once, until it changes."""
    file, said = await service.run_in_thread(lambda: _recorded_file(item))
    this = (item.id, item.media, hash(item.thumbnail), said.st_size, said.st_mtime_ns)
    if this not in service.playable:
        await service.pages.run(_check_recording, item, service.limits)
        if len(service.playable) >= _PLAYABLE:
            service.playable.clear()
        service.playable.add(this)
    return file, said


def _recorded_file(item: Item) -> tuple[Path, os.stat_result]:
    """Return the file that an item is, and what the system says of it."""
    file = cast("Path", _recording(item).file)
    try:
        said = file.stat()
    except (OSError, ValueError) as error:
        raise ApiError(404, _MOVED, code="no_file") from error
    if not stat.S_ISREG(said.st_mode):
        raise ApiError(404, _MOVED, code="no_file")
    return file, said


def _check_recording(item: Item, limits: ServerLimits) -> None:
    """Decode what the small picture shows, in the child process that reads videos and sounds; what is another file by now is refused."""
    recording = _recording(item)
    try:
        picture = recording.preview(None, replace(limits.reading(), max_sound_seconds=_DAY))
    except ContentError as error:
        reason = error.reason.removeprefix(str(recording)).strip()
        raise ApiError(409, f"the {recording.what} cannot be played: it {reason}", code="bad_media") from error
    if differs(picture, item.thumbnail):
        raise ApiError(409, _CHANGED, code="changed")


def _render(item: Item, limits: ServerLimits) -> bytes:
    """Render the page that an item is, in the child process that renders PDFs; what is another page by now is refused."""
    path, number = cast("tuple[Path, int]", pdf_page(item))
    if not path.is_file():
        raise ApiError(404, _MOVED, code="no_file")
    bounds = Limits(max_pixels=limits.page_pixels, max_page_seconds=limits.page_seconds, max_page_memory=limits.page_memory)
    try:
        found = render(path, number - 1, Place("the page"), ReadOptions(limits=bounds))
    except ContentError as error:
        raise ApiError(409, f"the page cannot be shown: {error.reason}", code="bad_page") from error
    text, picture = "\n".join(found.texts), cast("PILImage.Image", found.images[0].source)
    same_text = text.startswith(item.text) and bool(item.text) == bool(text)  # an engine may keep the beginning of a long text
    if not same_text or found.meta["pages"] != item.metadata.get("pages", found.meta["pages"]) or differs(picture, item.thumbnail):
        raise ApiError(409, _CHANGED, code="changed")
    written = io.BytesIO()
    picture.save(written, "JPEG", quality=90)
    return written.getvalue()


def _require_room(store: Store, items: list[Item], most: int) -> None:
    """Refuse items that would make more fields than an index of use has."""
    there = store.fields
    fresh = {name for one in items for name in map(field_name, one.metadata)} - set(there)
    if fresh and len(there) + len(fresh) > most:
        message = f"the index has {len(there):,} fields, and these items would add {len(fresh):,}; at most {most:,} are kept"
        raise ApiError(400, message, code="too_many", param="items")


def _require_writable(service: Service) -> None:
    service.require_index()
    if service.read_only:
        raise ApiError(403, "the index of this server is read-only", code="read_only")


def _read_items(body: bytearray, service: Service) -> tuple[AddItemsRequest, list[Document], list[bytes | None]]:
    """Check a request, make its documents and their small pictures."""
    asked, contents = parse_body(AddItemsRequest, body), service.document_builder()
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
        small = [thumbnail(document.media[0], place=document.place) if document.media else None for document in documents]
    return asked, documents, small


def _document(item: NewItem, builder: DocumentBuilder, where: str) -> Document:
    if item.parts is not None:
        return builder.parts(item.parts, f"{where}.parts")
    return builder.from_keys({"image": item.image, "text": item.text}, f"{where}.")


# `POST /v1/why`: which frames of a video, which seconds of a sound, which parts of any other item's small picture pull it
# towards words, a picture, both, or another item
# (`like`).
#
# It is asked of the picture that the page shows, alone: an item of several parts has a vector of all of them, and the
# score said here is that of the small picture. `share` says how much of the match is its, and not its text's. Grey
# cells tried one by one are many passes of the model, so few of these questions may wait at a time. Of a model with many
# vectors (late interaction) each word shows which patches it matches, which is the score itself.

why_router = APIRouter()
_WAITING = 4
_FRAME_SIDE = 200  # pixels of a frame that is shown, at most
_why_queues: WeakKeyDictionary[Service, WhyQueue] = WeakKeyDictionary()


class WhyRequest(Question):
    """The item whose picture is looked at, and what it was found by: a question, or the item it is like."""

    id: str
    like: str | None = None


class WhyQueue:
    """Explains for one service, a few questions waiting at a time; what is known of the model is made when it is first needed."""

    def __init__(self, engine: Embedder) -> None:
        self.engine = engine
        self.waiting = 0
        self._explain: Explainer | None = None

    def __call__(self, item: Item, query: Any, recording: Recording | None) -> dict[str, Any]:
        """Explain what an item is, or its small picture, with its share beside the item's text; called in the model's thread.

        A query of a model with many vectors is the words themselves, each of which has its own.
        """
        if self.engine.late_interaction:
            document = Document((Image(item.thumbnail or b""),), Place(f"the picture of {item.id[:200]!r}"))
            words = match_words(self.engine, document, query)
            return {
                "method": "words",
                "words": [{"word": one.word, "score": one.score, "grid": one.shades, "pulls": one.cells} for one in words],
            }
        self._explain = self._explain or Explainer(self.engine)
        why, share = explain_item(self._explain, item, query, recording)
        found = {"share": share, **why.as_json()}
        if isinstance(why, WhyInTime):
            for moment, one in zip(found["moments"], why.moments, strict=True):
                if one.frame is not None:
                    small = thumbnail(Image(one.frame), side=_FRAME_SIDE)
                    moment["frame"] = f"data:image/webp;base64,{base64.b64encode(small).decode()}"
        return found

    def __enter__(self) -> None:
        if self.waiting >= _WAITING:
            raise ApiError(429, "as many of these questions wait as may; try again later", code="queue_full", wait=5)
        self.waiting += 1

    def __exit__(self, *_: object) -> None:
        self.waiting -= 1


@why_router.post("/v1/why", openapi_extra=body_schema(WhyRequest))
async def why(request: Request, service: AuthorizedService) -> Response:
    """Say how strongly each frame of a video, second of a sound or cell of a picture pulls."""
    turns = _why_queues.setdefault(service, WhyQueue(service.engine))

    async def work(body: bytearray) -> Response:
        start = time.perf_counter()
        service.require_index()
        asked, document = await service.run_in_thread(lambda: _read_why(body, service))
        item = await service.run_on_index(lambda store: get_item(store, asked.id))
        with turns:
            recording, changed = await _explained_recording(item, service)
            if service.engine.late_interaction:
                query: Any = asked.text
            elif document is None:
                query = (await service.run_on_index(lambda store: get_item(store, str(asked.like)))).vector
            else:
                query = await service.query(document)
            found = await service.run_in_model_thread(lambda: turns(item, query, recording))
        took = round((time.perf_counter() - start) * 1000, 1)
        note = {} if changed is None else {"note": f"{changed}; this is of its small picture alone"}
        return JSONResponse({**found, **note, "thumbnail": item_json(item, service)["thumbnail"], "took_ms": took})

    return await service.reader.respond(request, work)


async def _explained_recording(item: Item, service: Service) -> tuple[Recording | None, str | None]:
    """Return the video or sound to explain; of a video whose file cannot be read nothing, and why: its small picture is a frame of it."""
    recording = recording_at(item.media)
    missing = ApiError(400, f"the item {item.id[:200]!r} has no picture to look at", code="no_picture", param="id")
    many = service.engine.late_interaction  # which compares words with the patches of a picture
    if (recording is None or many) and (item.thumbnail is None or isinstance(recording, Audio)):
        raise missing
    if recording is None or many:
        return None, None
    if recording.modality not in service.engine.inputs.single:
        raise missing
    try:
        await _same_file(item, service)
    except ApiError as error:
        if isinstance(recording, Audio) or item.thumbnail is None or error.status not in (404, 409):
            raise
        return None, error.message
    return recording, None


def _read_why(body: bytearray, service: Service) -> tuple[WhyRequest, Document | None]:
    asked = parse_body(WhyRequest, body)
    content = asked.content()
    if (asked.like is None) != bool(content):
        raise ApiError(400, "give what the item was found by: 'text', 'image' or both, or else 'like'", code="invalid_value")
    if service.engine.late_interaction and list(content) != ["text"]:
        message = "this model matches words with patches (late interaction); ask by 'text' alone"
        raise ApiError(400, message, code="no_words", param="text")
    return asked, service.document_builder().from_keys(content, "") if content else None


# Whether the process lives (`/healthz`), whether it takes work (`/readyz`, 503 while it stops), and what it counts
# (`/metrics`).
#
# `/openapi.json` describes the API. Who has no key is told whether it lives and takes work, and nothing else.

health_router = APIRouter()


@health_router.get("/healthz")
async def healthz() -> dict[str, str]:
    """Say that the process answers."""
    return {"status": "ok"}


@health_router.get("/readyz")
async def readyz(service: CurrentService) -> dict[str, str]:
    """Say whether new work is taken."""
    if service.stopping:
        raise ApiError(503, "the server is stopping", code="stopping", wait=5)
    if trouble := service.failure():
        raise ApiError(503, trouble, code="broken", wait=5)
    return {"status": "ready"}


@health_router.get("/openapi.json", include_in_schema=False)
async def openapi(request: Request, _: AuthorizedService) -> dict[str, Any]:
    """Describe the API, to whom it answers."""
    found: dict[str, Any] = request.app.openapi()
    return found


@health_router.get("/metrics")
async def metrics(service: AuthorizedService) -> Response:
    """Return the counters for Prometheus."""
    return Response(service.metrics.text(), media_type=CONTENT_TYPE_LATEST)


# The page at `/` and its files, from the package; nothing else is ever read for them.

page_router = APIRouter(include_in_schema=False)
_KINDS = {
    ".svg": "image/svg+xml",
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
}
_FILES = {file.name: file for file in files(__package__).joinpath("page").iterdir() if file.name.endswith(tuple(_KINDS))}
# The page loads nothing from elsewhere, and this holds the browser to it.
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; media-src 'self' data:; connect-src 'self'; "
    "base-uri 'none'"
)


@page_router.get("/")
async def page_route() -> Response:
    """Return the page."""
    return await page_file("index.html")


@page_router.get("/page/{name}")
async def page_file(name: str) -> Response:
    """Return one of its files."""
    if name not in _FILES:
        raise ApiError(404, f"the page has no file {name!r}")
    kind = _KINDS[name[name.rindex(".") :]]
    headers = {"Content-Security-Policy": f"{_POLICY}; frame-ancestors 'none'; form-action 'none'", "X-Content-Type-Options": "nosniff"}
    return Response(_FILES[name].read_bytes(), media_type=kind, headers=headers)
