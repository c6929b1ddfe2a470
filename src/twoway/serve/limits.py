"""What one request may ask for, and what all of them together may hold: past a limit a request is refused before work is done for it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Limits:
    """Bounds of one server."""

    body_bytes: int = 32 << 20  # of one request, counted while it is read
    bodies_bytes: int = 256 << 20  # of all requests that are being answered
    inputs: int = 2048  # texts of one request, as OpenAI allows
    parts: int = 32  # texts and pictures of one document
    characters: int = 1 << 20  # of one text
    request_characters: int = 4 << 20  # of all texts of one request
    instruction: int = 8192  # characters of an instruction, which stands before every text of a request
    pixels: int = 20_000_000  # of one picture, by its header
    request_pixels: int = 100_000_000  # of all pictures of one request
    batch_pixels: int = 40_000_000  # that are decoded at a time
    found: int = 200  # hits of one search
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
