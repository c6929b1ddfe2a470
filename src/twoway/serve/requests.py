"""What a request may say. Every key is known, every type is checked; a mistake is answered with its place.

The first mistake is enough. All of them together take a thousand times the memory of the body, so values are counted before anything is
checked, and a list is left at the first that is wrong.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Discriminator, Field, Tag, ValidationError
from pydantic_core import PydanticCustomError

from ..errors import did_you_mean
from .errors import ApiError

Model = TypeVar("Model", bound="Asked")
_VALUES = 1 << 16  # of one body
_STRING = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"?', re.DOTALL)  # one that has no end goes to the end, or each quote in it would be tried
_METADATA = 64  # of one item


class Asked(BaseModel):
    """A part of a request."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)


class ImageUrl(Asked):
    """A picture as a data URL; `detail` has no effect here."""

    url: str
    detail: Literal["auto", "low", "high"] | None = None


class TextPart(Asked):
    """A text inside a message."""

    type: Literal["text"]
    text: str


class ImagePart(Asked):
    """A picture inside a message."""

    type: Literal["image_url"]
    image_url: ImageUrl


Part = Annotated[TextPart | ImagePart, Field(discriminator="type")]
Content = Annotated[
    Annotated[str, Tag("text")] | Annotated[list[Part], Field(fail_fast=True), Tag("parts")],
    Discriminator(lambda value: "text" if isinstance(value, str) else "parts"),
]


class Message(Asked):
    """A chat message; one of role `system` in front is an instruction."""

    role: Literal["system", "user"]
    content: Content


class EmbeddingsAsked(Asked):
    """`POST /v1/embeddings`: OpenAI's, vLLM's `messages`, and ours (`side`, `instruction`, `prompt_name`, `truncate`)."""

    model: str | None = None
    input: Any = Field(None, json_schema_extra={"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}]})
    messages: Annotated[list[Message], Field(fail_fast=True)] | None = None
    encoding_format: Literal["float", "base64"] = "float"
    dimensions: Annotated[int, Field(ge=1)] | None = None
    user: str | None = None
    side: Literal["query", "document"] | None = None
    instruction: str | None = None
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
                raise ApiError(400, f"input[{number}] is no text", code="invalid_type", param=f"input[{number}]")
        return given


class SearchAsked(Asked):
    """`POST /v1/search`: words, a picture, both, or `id` for more like that item; none of them for any items."""

    text: str | None = None
    image: str | None = None
    id: str | None = None
    k: Annotated[int, Field(ge=1)] = 20
    filter: str | None = None
    hybrid: bool = False


Key = Annotated[str, Field(min_length=1, max_length=120)]
Value = Annotated[str, Field(max_length=1 << 16)] | Annotated[int, Field(ge=-(2**63), lt=2**63)] | float | bool | None


def _few(given: Any) -> Any:
    """Refuse many metadata before each of them is looked at."""
    if isinstance(given, dict) and len(given) > _METADATA:
        raise PydanticCustomError("too_long", "{count} of them; an item has at most {most}", {"count": len(given), "most": _METADATA})
    return given


class ItemAsked(Asked):
    """One item for the index: words, a picture, or parts in order."""

    id: Annotated[str, Field(min_length=1, max_length=1024)]
    text: str | None = None
    image: str | None = None
    parts: Annotated[list[Part], Field(fail_fast=True)] | None = None
    metadata: Annotated[dict[Key, Value], BeforeValidator(_few), Field(max_length=_METADATA)] = {}


class ItemsAsked(Asked):
    """`POST /v1/index/items`."""

    items: Annotated[list[ItemAsked], Field(min_length=1, fail_fast=True)]


def read(kind: type[Model], body: bytes | bytearray) -> Model:
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
            raise ApiError(400, f"the body is no JSON: {first['msg'].removeprefix('Invalid JSON: ')}", code="invalid_json") from error
        if first["type"] == "extra_forbidden":
            key = str(first["loc"][-1])
            more = did_you_mean(key, kind.model_fields) if len(first["loc"]) == 1 else f" in {place[:200]}"
            raise ApiError(400, f"unknown key {key[:80]!r}{more}", code="unknown_key", param=place[:200]) from error
        raise ApiError(400, f"{place or 'the body'}: {first['msg']}"[:500], code="invalid_value", param=place[:200] or None) from error


def schema(kind: type[Asked]) -> dict[str, Any]:
    """Return how a body is described in `/openapi.json`; FastAPI cannot know, since it does not read the body."""
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": kind.model_json_schema()}}}}
