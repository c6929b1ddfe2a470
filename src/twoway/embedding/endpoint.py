"""An embedding server as an engine: OpenAI's API, and for pictures the chat messages of vLLM and `twoway serve`.

`openai:URL#MODEL` sends many texts in a request, as any such server accepts. `openai-chat:URL#MODEL` sends each text as a message too, so
that vLLM applies the model's chat template as it does for pictures. `twoway serve` is sent the side, so that the model's own prompts are
used for queries and documents. Vectors are normalized to length 1.

The API key is read from `OPENAI_API_KEY`. The client retries, with growing pauses, when the server is busy or unreachable.
"""

from __future__ import annotations

import hashlib
import json
import os
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from twoway.content import ContentError, Document, Text
from twoway.errors import TwowayError, UsageError, did_you_mean, with_extra

from .prefetch import ahead

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from numpy.typing import NDArray

    from .config import Side

    Vector = NDArray[np.float32]
    Answer = Vector | ContentError

PLAIN, CHAT = "openai:", "openai-chat:"
KEY = "OPENAI_API_KEY"
TEXTS, LETTERS = 64, 100_000  # of one request
AT_ONCE = 8  # requests on their way
RETRIES = 6
SECONDS = 300.0
_PROBES = tuple(Document((Text(text),)) for text in ("How long is a vector?", "A red fox in the snow", "1 + 1 = 2"))


def is_endpoint(model: object) -> bool:
    """Say whether a model is named as a server."""
    return isinstance(model, str) and model.startswith((PLAIN, CHAT))


class Endpoint:
    """A model behind an OpenAI-compatible server."""

    def __init__(self, spec: str, *, retries: int = RETRIES, at_once: int = AT_ONCE) -> None:
        self.name, self.chat, self.at_once, self.retries = spec, spec.startswith(CHAT), at_once, retries
        self.url, _, model = spec.removeprefix(CHAT).removeprefix(PLAIN).partition("#")
        if not self.url.startswith(("http://", "https://")):
            raise UsageError(f"{spec} names no server; write {PLAIN}http://HOST:PORT/v1#MODEL")
        try:
            import openai
        except ModuleNotFoundError as error:
            raise TwowayError(f"this needs the openai client ({error}); {with_extra('eval')}") from error
        self._openai = openai
        self._client = openai.OpenAI(base_url=self.url, api_key=os.environ.get(KEY) or "none", max_retries=retries, timeout=SECONDS)
        self.model, self._ours = self._find(model)

    def _find(self, wanted: str) -> tuple[str, bool]:
        """Return the model's name at the server, and whether the server is `twoway serve`."""
        try:
            there = {one.id: getattr(one, "owned_by", None) for one in self._ask(self._client.models.list).data}
        except _MissingError:
            there = {}  # some servers answer nothing but embeddings
        if not wanted and len(there) == 1:
            return next((name, owner == "twoway") for name, owner in there.items())
        known = f"it has: {', '.join(there)}" if there else "it does not say which it has"
        if not wanted:
            raise UsageError(f"{self.url}: which model? Write {self.name}#MODEL ({known})")
        if there and wanted not in there:
            raise UsageError(f"{self.url} has no model {wanted!r}{did_you_mean(wanted, there)} ({known})")
        return wanted, there.get(wanted) == "twoway"

    @cached_property
    def probe(self) -> Vector:
        """Return vectors of a few texts that are always the same, as rows: by them a model, and the prompts of ours, are known again."""
        found = [answer for job in self._jobs(_PROBES) for answer in self._embed([one for _, one in job], None, None)]
        sides: tuple[Side, ...] = ("query", "document") if self._ours else ()
        found += [answer for side in sides for answer in self._embed([_PROBES[0]], side, None)]
        for answer in found:
            if isinstance(answer, ContentError):
                raise TwowayError(f"{self.url} does not embed a plain text: {answer.reason}")
        return np.stack([answer for answer in found if not isinstance(answer, ContentError)])

    def close(self) -> None:
        """Nothing is held that would have to be let go."""

    @property
    def dimension(self) -> int:
        """Return the length of a vector."""
        return int(self.probe.shape[1])

    @property
    def fingerprint(self) -> str:
        """Return a name for the cache: the server, the model, how it is asked, how long its vectors are. `probe` says the rest."""
        return endpoint_fingerprint(self.url, self.model, "chat" if self.chat else "plain", self.dimension)

    def embed(
        self,
        documents: Iterable[Document],
        *,
        side: Side | None = None,
        prompt: str | None = None,
        refuse: Callable[[int, ContentError], None] | None = None,
    ) -> Iterator[tuple[int, Vector]]:
        """Yield (number of a document, its vector), several requests ahead."""
        with ThreadPoolExecutor(self.at_once, thread_name_prefix="endpoint") as pool:

            def work(job: list[tuple[int, Document]]) -> list[tuple[int, Answer]]:
                return list(zip([number for number, _ in job], self._embed([one for _, one in job], side, prompt), strict=True))

            for answers in ahead(self._jobs(documents), work, pool=pool, waiting=2 * self.at_once):
                for number, found in answers:
                    if not isinstance(found, ContentError):
                        yield number, found
                    elif refuse is None:
                        raise found
                    else:
                        refuse(number, found)

    def _jobs(self, documents: Iterable[Document]) -> Iterator[list[tuple[int, Document]]]:
        """Group texts into requests; a message is a request of its own."""
        texts: list[tuple[int, Document]] = []
        letters = 0
        for number, document in enumerate(documents):
            if self.chat or document.media:
                yield [(number, document)]
                continue
            letters += sum(map(len, document.texts))
            if texts and (len(texts) == TEXTS or letters > LETTERS):
                yield texts
                texts, letters = [], sum(map(len, document.texts))
            texts.append((number, document))
        if texts:
            yield texts

    def _embed(self, documents: list[Document], side: Side | None, prompt: str | None) -> list[Answer]:
        """Return a vector for each document of one request, or why it has none; a refused request is tried document by document."""
        try:
            return list(self._vectors(self._body(documents, side, prompt), len(documents)))
        except ContentError as error:
            if len(documents) > 1:
                return [answer for document in documents for answer in self._embed([document], side, prompt)]
            return [ContentError(error.reason, documents[0].place)]

    def _body(self, documents: list[Document], side: Side | None, prompt: str | None) -> dict[str, Any]:
        """Return a request. `twoway serve` gets the side, and truncates rows that are too long, as the model in memory does."""
        told: dict[str, Any] = {"truncate": True, "side": side, "prompt": prompt} if self._ours else {}
        told = {name: value for name, value in told.items() if value is not None}
        before = None if self._ours else prompt
        if not self.chat and not documents[0].media:
            return told | {"input": [(before or "") + "".join(document.texts) for document in documents]}
        messages = [{"role": "system", "content": [{"type": "text", "text": before}]}] if before else []
        return told | {"messages": [*messages, {"role": "user", "content": content(documents[0])}]}

    def _vectors(self, body: dict[str, Any], count: int) -> list[Vector]:
        asked = {"model": self.model, "encoding_format": "float"} | body
        # `embeddings.create` knows no messages; the same address takes them.
        answer = self._ask(lambda: self._client.post("/embeddings", body=asked, cast_to=self._openai.types.CreateEmbeddingResponse))
        try:
            return vectors_of(answer, count)
        except (AttributeError, TypeError, ValueError) as error:
            raise TwowayError(f"{self.url} does not answer as OpenAI's embeddings do ({error})") from error

    def _ask(self, call: Callable[[], Any]) -> Any:
        """Send a request; an error of this one request is a `ContentError`, an error of the server ends the run."""
        api = self._openai
        try:
            return call()
        except (api.BadRequestError, api.UnprocessableEntityError) as error:
            raise ContentError(f"the server refuses it: {_said(error)}") from error
        except (api.AuthenticationError, api.PermissionDeniedError) as error:
            raise TwowayError(f"{self.url} refuses the API key ({_said(error)}); set {KEY} in the environment") from error
        except api.NotFoundError as error:
            raise _MissingError(f"{self.url} does not have what was asked for ({_said(error)}); the address ends in /v1 mostly") from error
        except api.APIStatusError as error:
            if error.status_code == 413:  # too large; the client has no class for it
                raise ContentError(f"the server refuses it: {_said(error)}") from error
            raise TwowayError(f"{self.url} failed {self.retries + 1} times ({_said(error)}); what it gave is kept, so run again") from error
        except api.APIConnectionError as error:
            why = error.__cause__ or error
            raise TwowayError(f"{self.url} cannot be reached ({_said(why)}); what it gave is kept, so run again") from error
        except (api.OpenAIError, ValueError) as error:
            raise TwowayError(f"{self.url} does not answer as OpenAI's API does ({_said(error)})") from error


class _MissingError(TwowayError):
    """The server does not know an address or a model."""


def _said(error: BaseException) -> str:
    """Return the first line of a server's error message; OpenAI's errors have it in a field."""
    body = getattr(error, "body", None)
    message = body.get("message") if isinstance(body, dict) else None
    lines = str(message or error).strip().splitlines()
    return lines[0].strip() if lines else type(error).__name__


# What goes to a server of vectors and what comes back: messages with pictures, vectors of length 1, and a name for
# the cache.


def content(document: Document) -> list[dict[str, Any]]:
    """Return the parts of a document in order, as a chat message has them."""
    return [part.as_request(document.place) for part in document.parts]


def vectors_of(answer: Any, count: int) -> list[Vector]:
    """Return the vectors of an answer in the order of the inputs, normalized to length 1."""
    rows = sorted(answer.data, key=lambda one: one.index)
    if [one.index for one in rows] != list(range(count)):
        raise ValueError(f"{count} vectors were asked for and {len(rows)} came")
    found = np.array([one.embedding for one in rows], dtype=np.float32)
    if found.ndim != 2 or not found.shape[1]:
        raise ValueError("its vectors are not rows of numbers")
    if not np.isfinite(found).all():
        raise ValueError("its vectors hold numbers that are not finite")
    lengths = np.linalg.norm(found, axis=1, keepdims=True)
    return list(found / np.where(lengths > 0, lengths, 1.0))


def endpoint_fingerprint(url: str, model: str, how: str, dimension: int) -> str:
    """Name a model behind a server; a changed model with the same name is detected by its vectors only."""
    return "endpoint-" + hashlib.sha256(json.dumps([url, model, how, dimension]).encode()).hexdigest()
