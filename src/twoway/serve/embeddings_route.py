"""`POST /v1/embeddings`, as the OpenAI client asks, with pictures as vLLM takes them; `GET /v1/models`.

The vectors are those of `SentenceTransformer.encode`. `dimensions` keeps the first numbers of each, at length 1 again (Matryoshka). A
message of role `system` in front is an instruction, which is where sentence-transformers puts a prompt.
"""

from __future__ import annotations

import base64
import time
from typing import TYPE_CHECKING, Any

import numpy as np
import pydantic_core
from fastapi import APIRouter, Request
from starlette.responses import Response

from ..embedding.precision import cut
from .errors import ApiError
from .requests import EmbeddingsAsked, read, schema
from .service import Allowed, Service

if TYPE_CHECKING:
    from ..content import Document
    from .contents import Contents
    from .waiting import Job

router = APIRouter()
_BORN = int(time.time())


@router.post("/v1/embeddings", openapi_extra=schema(EmbeddingsAsked))
async def embeddings(request: Request, service: Allowed) -> Response:
    """Return a vector for each text, or one for the messages."""

    async def work(body: bytearray) -> Response:
        asked, documents = await service.beside(lambda: _read(body, service))
        ask = service.ask(side=asked.side, instruction=asked.instruction, prompt_name=asked.prompt_name)
        job = await service.embed(documents, ask, truncate=asked.truncate)
        written = await service.beside(lambda: _write(asked, job, service))
        return Response(written, media_type="application/json")

    return await service.receiver.answer(request, work)


@router.get("/v1/models")
async def models(service: Allowed) -> dict[str, Any]:
    """Name the model."""
    return {"object": "list", "data": [_model(service)]}


@router.get("/v1/models/{name:path}")
async def model(name: str, service: Allowed) -> dict[str, Any]:
    """Describe the model, where it has that name."""
    service.require_model(name)
    return _model(service)


def _model(service: Service) -> dict[str, Any]:
    sizes = {"dimension": service.engine.dimension, "max_model_len": service.engine.lengths.longest}
    return {"id": service.name, "object": "model", "created": _BORN, "owned_by": "twoway", **sizes}


def _read(body: bytearray, service: Service) -> tuple[EmbeddingsAsked, list[Document]]:
    """Check a request and make its documents."""
    asked, contents = read(EmbeddingsAsked, body), service.contents()
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


def _message(asked: EmbeddingsAsked, contents: Contents) -> Document:
    """Return the one message of a request; an instruction before it goes where instructions go."""
    messages = asked.messages or []
    if messages and messages[0].role == "system":
        said = messages[0].content
        if not isinstance(said, str):
            said = "".join(part.text for part in said if part.type == "text")
        if asked.instruction is not None:
            raise ApiError(400, "a system message and 'instruction' were both given; one of them decides", param="messages")
        asked.instruction = said
        messages = messages[1:]
    if len(messages) != 1 or messages[0].role != "user":
        raise ApiError(400, "'messages' holds one message of role user, and at most a system message before it", param="messages")
    return contents.parts(messages[0].content, "messages.content")


def _write(asked: EmbeddingsAsked, job: Job, service: Service) -> bytes:
    """Return the answer as JSON."""
    vectors = np.stack(job.vectors)
    if asked.dimensions is not None:
        vectors = cut(vectors, asked.dimensions, normal=service.engine.normal)
    forms: Any = vectors.tolist()
    if asked.encoding_format == "base64":
        forms = [base64.b64encode(vector.astype("<f4").tobytes()).decode() for vector in vectors]
    data = [{"object": "embedding", "index": number, "embedding": form} for number, form in enumerate(forms)]
    tokens = sum(job.tokens)
    usage = {"prompt_tokens": tokens, "total_tokens": tokens}
    return pydantic_core.to_json({"object": "list", "data": data, "model": asked.model or service.name, "usage": usage})
