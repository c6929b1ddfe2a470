"""What a request may say and hold, how its words and pictures become documents, and errors in OpenAI's shape."""

from __future__ import annotations

import base64
import binascii
import logging
import math
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar

from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, BeforeValidator, ConfigDict, Discriminator, Field, Tag, ValidationError
from pydantic_core import PydanticCustomError
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse

from twoway.content import ContentError, Document, Place
from twoway.errors import BusyError, SlowError, TwowayError, UsageError, did_you_mean
from twoway.limits import Limits

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from fastapi import FastAPI
    from starlette.requests import Request

_log = logging.getLogger(__name__)


# Errors in OpenAI's shape: `{"error": {"message", "type", "param", "code"}}`, whatever goes wrong and wherever.
#
# A refusal is an `ApiError`. What the parts below say of content or use is the asker's to mend (400); what they say
# of the index is ours (503). Anything else is a fault of this program: it is logged whole, and the answer tells
# nothing of the machine.

_LONGEST = 2000  # characters of a message; what was wrong may be repeated in it
_TYPES = {401: "authentication_error", 403: "permission_error", 404: "not_found_error", 429: "rate_limit_error"}


class ApiError(Exception):
    """A request is refused, with a status and words for the asker."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        code: str | None = None,
        param: str | None = None,
        wait: float | None = None,
        close: bool = False,
    ) -> None:
        super().__init__(message)
        self.status, self.message, self.code, self.param, self.wait, self.close = status, message, code, param, wait, close

    def response(self) -> JSONResponse:
        """Return the answer; after `wait` seconds it is worth trying again, and with `close` the connection ends."""
        kind = _TYPES.get(self.status, "server_error" if self.status >= 500 else "invalid_request_error")
        body = {"error": {"message": self.message[:_LONGEST], "type": kind, "param": self.param, "code": self.code}}
        headers = {} if self.wait is None else {"Retry-After": str(max(1, math.ceil(self.wait)))}
        if self.status == 401:
            headers["WWW-Authenticate"] = "Bearer"
        if self.close:
            headers["Connection"] = "close"
        return JSONResponse(body, self.status, headers)


def as_api_error(error: Exception) -> ApiError:
    """Return what the asker is told of any error."""
    if isinstance(error, ApiError):
        return error
    if isinstance(error, HTTPException):
        return ApiError(error.status_code, str(error.detail))
    if isinstance(error, RequestValidationError):
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        return ApiError(400, f"{where}: {first['msg']}", code="invalid_value", param=where)
    if isinstance(error, ContentError):
        return ApiError(400, str(error), code="invalid_content")
    if isinstance(error, BusyError):
        return ApiError(503, str(error), code="busy", wait=5)
    if isinstance(error, SlowError):
        return ApiError(504, str(error), code="timeout", wait=5)
    if isinstance(error, UsageError):
        return ApiError(400, str(error), code="invalid_value")
    if isinstance(error, TwowayError):
        _log.error("%s", error)
        return ApiError(503, str(error), code="unavailable", wait=5)
    _log.error("a request failed", exc_info=error)
    return ApiError(500, "the server met an error of its own; its log says which", code="internal_error")


def answer_errors(app: FastAPI) -> None:
    """Have an application answer every error in this shape."""

    async def answer(_: Request, error: Exception) -> Any:
        return as_api_error(error).response()

    for kind in (ApiError, HTTPException, RequestValidationError, TwowayError, Exception):
        app.add_exception_handler(kind, answer)


# What one request may ask for, and what all of them together may hold: past a limit a request is refused before work
# is done for it.


@dataclass(frozen=True)
class ServerLimits:
    """Bounds of one server."""

    body_bytes: int = 32 << 20  # of one request, counted while it is read
    bodies_bytes: int = 256 << 20  # of all requests that are being answered
    inputs: int = 2048  # texts of one request, as OpenAI allows
    parts: int = 32  # texts and pictures of one document
    characters: int = 1 << 20  # of one text
    request_characters: int = 4 << 20  # of all texts of one request
    prompt: int = 8192  # characters of a prompt, which stands before every text of a request
    pixels: int = 20_000_000  # of one picture, by its header
    request_pixels: int = 100_000_000  # of all pictures of one request
    batch_pixels: int = 40_000_000  # that are decoded at a time
    media_seconds: int = 10  # of a processor, to read a video or a sound
    media_memory: int = 3 << 30  # bytes, of the process that reads it
    sound_seconds: float = 300.0  # of a sound
    vectors: int = 1 << 16  # of one request, where each token has one
    found: int = 200  # hits of one search
    compared: int = 1000  # items whose many vectors are compared for one search, where it says how many
    words: int = 8192  # characters whose words a search looks for, each by itself
    added: int = 64  # items of one addition to the index
    fields: int = 500  # that additions may bring the index to; an engine keeps a column for each
    page_pixels: int = 2_100_000  # of a page of a PDF that is shown: A4 at 144 dots an inch
    page_seconds: int = 10  # of a processor, for one such page
    page_memory: int = 1 << 30  # bytes, of the process that renders it
    pages: int = 8  # that are rendered or wait for that, one after the other
    queue_items: int = 4096  # documents that wait for the model
    queue_tokens: int = 1 << 20  # their tokens, and those of one request
    seconds: float = 60.0  # that a request may take, its waiting included
    upload_seconds: float = 30.0  # that its body may take
    search_seconds: float = 20.0  # that the index may take for one question, asked for or not
    stuck_seconds: float = 10.0  # that all threads of a kind may be at one piece of work each before the server says that it is not ready

    def reading(self) -> Limits:
        """Return these for what is read of a part."""
        return Limits(
            max_pixels=self.pixels,
            max_page_seconds=self.page_seconds,
            max_page_memory=self.page_memory,
            max_media_seconds=self.media_seconds,
            max_media_memory=self.media_memory,
            max_sound_seconds=self.sound_seconds,
        )


# What a request may say. Every key is known, every type is checked; a mistake is answered with its place.
#
# The first mistake is enough. All of them together take a thousand times the memory of the body, so values are
# counted before anything is checked, and a list is left at the first that is wrong.

Model = TypeVar("Model", bound="RequestModel")
_VALUES = 1 << 16  # of one body
_STRING = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"?', re.DOTALL)  # one that has no end goes to the end, or each quote in it would be tried
_METADATA = 64  # of one item


class RequestModel(BaseModel):
    """A part of a request."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)


class ImageUrl(RequestModel):
    """A picture as a data URL; `detail` has no effect here."""

    url: str
    detail: Literal["auto", "low", "high"] | None = None


class TextPart(RequestModel):
    """A text inside a message."""

    type: Literal["text"]
    text: str


class ImagePart(RequestModel):
    """A picture inside a message."""

    type: Literal["image_url"]
    image_url: ImageUrl


class VideoUrl(RequestModel):
    """A video as a data URL."""

    url: str


class VideoPart(RequestModel):
    """A video inside a message, and how much of it is shown."""

    type: Literal["video_url"]
    video_url: VideoUrl
    num_frames: int | None = None
    fps: float | None = None
    start: float | None = None
    end: float | None = None


class InputAudio(RequestModel):
    """A sound in base64, or as a data URL; what it is its own first bytes say."""

    data: str
    format: str | None = None


class SoundPart(RequestModel):
    """A sound inside a message."""

    type: Literal["input_audio"]
    input_audio: InputAudio


Part = Annotated[TextPart | ImagePart | VideoPart | SoundPart, Field(discriminator="type")]
Content = Annotated[
    Annotated[str, Tag("text")] | Annotated[list[Part], Field(fail_fast=True), Tag("parts")],
    Discriminator(lambda value: "text" if isinstance(value, str) else "parts"),
]


class Message(RequestModel):
    """A chat message; one of role `system` in front is a prompt."""

    role: Literal["system", "user"]
    content: Content


class EmbeddingsRequest(RequestModel):
    """`POST /v1/embeddings`: OpenAI's, vLLM's `messages`, and ours (`side`, `prompt`, `prompt_name`, `truncate`)."""

    model: str | None = None
    input: Any = Field(None, json_schema_extra={"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}]})
    messages: Annotated[list[Message], Field(fail_fast=True)] | None = None
    encoding_format: Literal["float", "base64"] = "float"
    dimensions: Annotated[int, Field(ge=1)] | None = None
    user: str | None = None
    side: Literal["query", "document"] | None = None
    prompt: str | None = None
    prompt_name: str | None = None
    truncate: bool = False

    def texts(self) -> list[str]:
        """Return the texts of `input`."""
        given = [self.input] if isinstance(self.input, str) else self.input
        if not isinstance(given, list):
            raise ApiError(400, "'input' must be a text or a list of texts", code="invalid_type", param="input")
        if not given:
            raise ApiError(400, "'input' is an empty list", code="invalid_value", param="input")
        if all(isinstance(one, int | list) for one in given):
            hint = "send texts (LangChain's OpenAIEmbeddings does with check_embedding_ctx_length=False)"
            raise ApiError(
                400, f"'input' holds token ids, which mean nothing without their tokenizer; {hint}", code="tokens", param="input"
            )
        for number, one in enumerate(given):
            if not isinstance(one, str):
                raise ApiError(400, f"input[{number}] is not a text", code="invalid_type", param=f"input[{number}]")
        return given


class RerankedContent(RequestModel):
    """What is asked, or may answer: words, a picture (a data URL), both, or `content` as a message has it, as vLLM takes it."""

    text: str | None = None
    image: str | None = None
    content: Annotated[list[Part], Field(fail_fast=True)] | None = None


class RerankRequest(RequestModel):
    """`POST /v1/rerank`: Cohere's, Jina's and vLLM's; `prompt` (ours) is the instruction that candidates are judged by.

    A pair that is longer than the model reads is cut, so bounds of a document's tokens or chunks have no effect here.
    """

    model: str | None = None
    query: str | RerankedContent
    documents: Annotated[list[str | RerankedContent], Field(min_length=1, fail_fast=True)]
    top_n: Annotated[int, Field(ge=1)] | None = None
    return_documents: bool = False
    prompt: str | None = None
    max_chunks_per_doc: int | None = None
    max_tokens_per_doc: int | None = None
    user: str | None = None


class Question(RequestModel):
    """Words, a picture, a video or a sound (data URLs), or several of them, which are one question."""

    text: str | None = None
    image: str | None = None
    video: str | None = None
    audio: str | None = None

    def content(self) -> dict[str, str]:
        """Return what is asked, what is no text first; nothing where nothing is."""
        return {name: value for name in ("image", "video", "audio", "text") if (value := getattr(self, name)) is not None}


class SearchRequest(Question):
    """`POST /v1/search`: a question, or `id` for more like that item; neither for any items.

    Of many vectors an item, the `maxsim_top` nearest by their mean are compared. With a reranker, the `rerank_top` best items are put into
    its order.
    """

    id: str | None = None
    top_k: Annotated[int, Field(ge=1)] = 20
    filter: str | None = None
    hybrid: bool = False
    maxsim_top: Annotated[int, Field(ge=1)] | None = None
    rerank_top: Annotated[int, Field(ge=1)] | None = None


Key = Annotated[str, Field(min_length=1, max_length=120)]
Value = Annotated[str, Field(max_length=1 << 16)] | Annotated[int, Field(ge=-(2**63), lt=2**63)] | float | bool | None


def _few(given: Any) -> Any:
    """Refuse many metadata before each of them is looked at."""
    if isinstance(given, dict) and len(given) > _METADATA:
        raise PydanticCustomError("too_long", "{count} of them; an item has at most {most}", {"count": len(given), "most": _METADATA})
    return given


class NewItem(RequestModel):
    """One item for the index: words, a picture, or parts in order."""

    id: Annotated[str, Field(min_length=1, max_length=1024)]
    text: str | None = None
    image: str | None = None
    parts: Annotated[list[Part], Field(fail_fast=True)] | None = None
    metadata: Annotated[dict[Key, Value], BeforeValidator(_few), Field(max_length=_METADATA)] = {}


class AddItemsRequest(RequestModel):
    """`POST /v1/index/items`."""

    items: Annotated[list[NewItem], Field(min_length=1, fail_fast=True)]


def parse_body(kind: type[Model], body: bytes | bytearray) -> Model:
    """Read a request's body, or say where it is wrong."""
    if body.count(b",") > _VALUES and _STRING.sub(b"", body).count(b",") > _VALUES:
        raise ApiError(400, f"the body holds more than {_VALUES:,} values", code="too_many")
    try:
        return kind.model_validate_json(body)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        # Names of union members stand in the place, too; they say nothing to an asker.
        place = ".".join(str(step) for step in first["loc"] if step not in ("parts", "text", "image_url") or first["type"] == "missing")
        if first["type"] == "json_invalid":
            raise ApiError(400, f"the body is not JSON: {first['msg'].removeprefix('Invalid JSON: ')}", code="invalid_json") from error
        if first["type"] == "extra_forbidden":
            key = str(first["loc"][-1])
            more = did_you_mean(key, kind.model_fields) if len(first["loc"]) == 1 else f" in {place[:200]}"
            raise ApiError(400, f"unknown key {key[:80]!r}{more}", code="unknown_key", param=place[:200]) from error
        raise ApiError(400, f"{place or 'the body'}: {first['msg']}"[:500], code="invalid_value", param=place[:200] or None) from error


def body_schema(kind: type[RequestModel]) -> dict[str, Any]:
    """Return how a body is described in `/openapi.json`; FastAPI cannot know, since it does not read the body."""
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": kind.model_json_schema()}}}}


# A request's words and pictures as documents. Pictures come as data URLs and nothing else: no address is fetched and
# no path is read.
#
# A text is a text whatever it looks like. Sizes are held to the limits by the pictures' headers, before any pixel is
# decoded.

_SHOWN = 40  # characters of a wrong address that an error repeats


class DocumentBuilder:
    """Makes the documents of one request, and adds up their pixels."""

    def __init__(self, limits: ServerLimits) -> None:
        self.limits = limits
        self._pixels = self._characters = 0

    def text(self, text: str, where: str) -> Document:
        """Return a text as a document."""
        return self._document([{"text": text}], where)

    def from_keys(self, given: Mapping[str, str | None], where: str) -> Document:
        """Return what stands under the keys of a request, such as `image` and `text`, in their order."""
        there = {key: value for key, value in given.items() if value is not None}
        parts = [{key: value if key == "text" else _data(value, f"{where}{key}")} for key, value in there.items()]
        return self._document(parts, where.rstrip("."))

    def parts(self, parts: str | Sequence[Part], where: str) -> Document:
        """Return what a message says, in its order."""
        if isinstance(parts, str):
            return self.text(parts, where)
        if len(parts) > self.limits.parts:
            raise ApiError(400, f"{where} has {len(parts):,} parts; at most {self.limits.parts:,} are taken", code="too_many", param=where)
        return self._document([_part(part, f"{where}[{number}]") for number, part in enumerate(parts)], where)

    def _document(self, parts: Iterable[dict[str, Any]], where: str) -> Document:
        document = Document.from_parts(list(parts), place=Place(where or "the request"))
        for text in document.texts:
            if len(text) > self.limits.characters:
                bound = f"at most {self.limits.characters:,} are taken"
                raise ApiError(400, f"{where}: a text of {len(text):,} characters; {bound}", code="too_long", param=where)
            self._characters += len(text)
            if self._characters > self.limits.request_characters:
                bound = f"{self.limits.request_characters:,} characters"
                raise ApiError(400, f"{where}: the texts of the request have more than {bound} together", code="too_long", param=where)
        self._pixels += decoded_pixels(document, self.limits)
        if self._pixels > self.limits.request_pixels:
            bound = f"{self.limits.request_pixels:,} pixels"
            raise ApiError(400, f"{where}: the pictures of the request have more than {bound} together", code="too_large", param=where)
        return document


def decoded_pixels(document: Document, limits: ServerLimits) -> int:
    """Return the pixels that lie in memory once a document is decoded."""
    bounds = limits.reading()
    return sum(math.prod(part.size(document.place, bounds)) for part in document.media)


def _part(part: Part, where: str) -> dict[str, Any]:
    if isinstance(part, TextPart):
        return {"text": part.text}
    if isinstance(part, ImagePart):
        return {"image": _data(part.image_url.url, f"{where}.image_url.url")}
    if isinstance(part, VideoPart):
        asked = {name: getattr(part, name) for name in ("num_frames", "fps", "start", "end")}
        return {"video": _data(part.video_url.url, f"{where}.video_url.url"), **asked}
    data = part.input_audio.data
    return {"audio": _data(data if data[:5].lower() == "data:" else f"data:;base64,{data}", f"{where}.input_audio.data")}


def _data(url: str, where: str) -> bytes:
    """Return what a data URL holds."""
    head, comma, payload = url.partition(",")
    if not comma or head[:5].lower() != "data:" or not head.lower().endswith(";base64") or len(head) > 200:
        shown = ascii(url[:_SHOWN])
        raise ApiError(
            400,
            f"{where} is {shown}; it is sent as 'data:…;base64,…', and nothing is fetched",
            code="no_data_url",
            param=where,
        )
    try:
        return base64.b64decode(payload, validate=True)
    except (binascii.Error, ValueError) as error:
        raise ApiError(400, f"{where} is not base64 ({error})", code="invalid_base64", param=where) from error
