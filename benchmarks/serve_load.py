"""Load for `twoway serve`: many clients at a time, requests of every size, and bad ones among them that have to be refused."""

from __future__ import annotations

import asyncio
import base64
import json
import random
import statistics
import struct
import time
import zlib
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import httpx

from .embed_mix import mix

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from twoway.content import Document

LISTED = 0.15  # share of requests that are a list of texts
LEAVES = "leaves early"


@dataclass(frozen=True)
class Asked:
    """One request: its kind, its body, how many documents it holds, and what it may be answered."""

    kind: str
    body: bytes
    documents: int = 1
    statuses: tuple[int, ...] = (200,)


@dataclass
class Heard:
    """What came back."""

    seconds: list[float] = field(default_factory=list)  # of good requests
    statuses: Counter[tuple[str, int]] = field(default_factory=Counter)
    unexpected: list[str] = field(default_factory=list)
    documents: int = 0
    wall: float = 0.0

    def quantile(self, share: float) -> float:
        """Return the time within which this share of the good requests was answered."""
        return statistics.quantiles(self.seconds, n=100, method="inclusive")[round(share * 100) - 1]


def good(folder: Path, count: int, seed: int = 0) -> list[Asked]:
    """Return requests over the shipped samples: short and long texts, small and large pictures, both together, and lists of texts."""
    draw = random.Random(seed)
    asked = []
    texts: list[str] = []
    for kind, document, _ in mix(folder, count, seed):
        if kind == "short text" and draw.random() < LISTED * 2:
            texts.append(document.texts[0])
            if len(texts) < draw.randint(2, 16):
                continue
            asked.append(Asked("list of texts", _json({"input": texts}), len(texts)))
            texts = []
        else:
            asked.append(Asked(kind, _body(document)))
    return asked


def bad(seed: int = 0) -> Iterator[Asked]:
    """Yield bad requests without end."""
    draw = random.Random(seed)
    jpeg = base64.b64encode(b"\xff\xd8\xff\xe0" + draw.randbytes(200)).decode()
    kinds = [
        Asked("no JSON", b'{"input": "w', statuses=(400,)),
        Asked("unknown key", _json({"inputs": "w"}), statuses=(400,)),
        Asked("token ids", _json({"input": [[1, 2, 3]]}), statuses=(400,)),
        Asked("broken picture", _picture(f"data:image/jpeg;base64,{jpeg}"), statuses=(400,)),
        Asked("bomb", _picture(f"data:image/png;base64,{base64.b64encode(_bomb()).decode()}"), statuses=(400,)),
        Asked("address", _picture("http://127.0.0.1:9/cat.png"), statuses=(400,)),
        Asked("another model", _json({"model": "gpt", "input": "w"}), statuses=(404,)),
        Asked("too long", _json({"input": "word " * 20_000}), statuses=(400,)),
        Asked("too large", b" " * (33 << 20), statuses=(413,)),
        Asked(LEAVES, _json({"input": ["some words to think about " * 20] * 8}), statuses=()),
    ]
    while True:
        yield draw.choices(kinds, [1 if one.kind == "too large" else 10 for one in kinds])[0]


def mixed(good_ones: list[Asked], share: float, seed: int = 0) -> Iterator[Asked]:
    """Yield requests without end, a share of them bad."""
    draw, wrong = random.Random(seed), bad(seed)
    while True:
        yield next(wrong) if draw.random() < share else draw.choice(good_ones)


async def drive(url: str, asked: Iterator[Asked], *, clients: int, seconds: float | None = None) -> Heard:
    """Send requests, each client one after another, until there are no more or the time is over."""
    heard = Heard()
    start = time.perf_counter()
    limits = httpx.Limits(max_connections=clients, max_keepalive_connections=clients)
    async with httpx.AsyncClient(base_url=url, limits=limits, timeout=120) as client:

        async def one_client() -> None:
            for one in asked:
                if seconds is not None and time.perf_counter() - start > seconds:
                    return
                await _send(client, one, heard)

        await asyncio.gather(*[one_client() for _ in range(clients)])
    heard.wall = time.perf_counter() - start
    return heard


async def _send(client: httpx.AsyncClient, one: Asked, heard: Heard) -> None:
    headers = {"content-type": "application/json"}
    begun = time.perf_counter()
    try:
        answer = await client.post("/v1/embeddings", content=one.body, headers=headers, timeout=0.02 if one.kind == LEAVES else 120)
    except httpx.TimeoutException:
        heard.statuses[one.kind, 0] += 1
        if one.kind != LEAVES:
            heard.unexpected.append(f"{one.kind}: no answer in 120 seconds")
        return
    except httpx.TransportError as error:
        # A server that refuses a body by its size may close the connection before all of it is sent.
        heard.statuses[one.kind, 0] += 1
        if 413 not in one.statuses:
            heard.unexpected.append(f"{one.kind}: {error!r}")
        return
    heard.statuses[one.kind, answer.status_code] += 1
    if one.statuses and answer.status_code not in one.statuses:
        heard.unexpected.append(f"{one.kind}: {answer.status_code} {answer.text[:200]}")
    if answer.status_code == 200 and one.kind != LEAVES:
        heard.seconds.append(time.perf_counter() - begun)
        heard.documents += one.documents


def _body(document: Document) -> bytes:
    """Return a document as a request."""
    if not document.images:
        return _json({"input": document.texts[0], "truncate": True})
    parts = [part.as_request(document.place) for part in document.parts]
    return _json({"messages": [{"role": "user", "content": parts}], "truncate": True})


def _picture(url: str) -> bytes:
    return _json({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": url}}]}]})


def _json(value: Any) -> bytes:
    return json.dumps(value).encode()


def _bomb() -> bytes:
    """Return a PNG of a few bytes that would unfold into ten gigabytes."""

    def chunk(name: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    head = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(bytes(9))) + chunk(b"IEND", b"")
