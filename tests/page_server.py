"""A small index of pictures and words, one hostile item among them, and a server of it in a thread: what the page is tested against."""

from __future__ import annotations

import io
import socket
import threading
import time
from contextlib import contextmanager

import uvicorn
from PIL import Image as PILImage
from PIL import ImageDraw

from clips import clip, tone
from documents import noise, pdf
from twoway.content import Audio, Document, Image, Text
from twoway.search.pictures import thumbnail
from twoway.search.query import create_store
from twoway.search.store import IndexInfo, Item

HOSTILE = '<img src=x onerror="owned=1"><script>owned=1</script>\'"><svg onload=owned=1>'
COLOURS = ("red", "green", "blue", "orange", "purple", "teal")
PICTURES = 24
LONG_NAME = "a_field_of_a_name_that_is_long_" * 3


def drawn(number: int) -> bytes:
    """Draw a picture that differs from the others, wider than high, as a PNG."""
    picture = noise(112, 84, seed=number)
    ImageDraw.Draw(picture).rectangle((10 + 2 * number, 10, 60 + 2 * number, 60), fill=COLOURS[number % len(COLOURS)])
    written = io.BytesIO()
    picture.save(written, "PNG")
    return written.getvalue()


def items(engine):
    """Return pictures from a file with pages, a text, and a hostile item."""
    pictures = [Document((Image(drawn(number)),)) for number in range(PICTURES)]
    texts = ["A quiet harbour in the evening.\nBoats come home.", HOSTILE]
    documents = [*pictures, *(Document((Text(text),)) for text in texts)]
    vectors = [vector for _, vector in engine.embed(documents, side="document", ordered=True)]
    found = []
    for number, (document, vector) in enumerate(zip(pictures, vectors, strict=False)):
        facts = {"colour": COLOURS[number % len(COLOURS)], "year": 2000 + number, "page": number + 1, "draft": number % 2 == 0}
        small, place = thumbnail(document.images[0]), f"reports/plans.pdf page {number + 1}"
        found.append(Item(f"plan/{number}", vector, f"plan number {number}", small, place, facts))
    found.append(Item("text", vectors[-2], texts[0], None, "notes.jsonl:1", {"colour": "none", LONG_NAME: "x" * 300, "constructor": "me"}))
    found.append(Item(HOSTILE, vectors[-1], HOSTILE, found[0].thumbnail, HOSTILE, {"colour": HOSTILE}))
    return found


def make_store(folder, engine, content):
    store = create_store(folder, IndexInfo("tiny", engine.fingerprint, engine.dimension, engine.late_interaction))
    store.add(content)
    return store


PAGE_TEXT = "The sampling bias of a report, measured. " + "w4 w5 " * 20


def make_pages(folder, engine):
    """Embed and index two pages of a PDF as the commands do; return the open index and the file."""
    from twoway.embedding.bulk import embed
    from twoway.search.index import index
    from twoway.search.query import open_store

    file = folder / "papers" / "report.pdf"
    file.parent.mkdir()
    file.write_bytes(pdf((PAGE_TEXT.strip(), 595, 842), ("", 595, 842)))
    embed(engine, file.parent, folder / "vectors", side="document")
    index(folder / "vectors", folder / "db")
    return open_store(folder / "db"), file


def make_clips(folder, engine):
    """Embed and index a video in segments of two seconds as the commands do, with a sound beside; return the open index."""
    from twoway.embedding.bulk import embed
    from twoway.search.index import index
    from twoway.search.query import open_store

    (folder / "clips").mkdir()
    clip(folder / "clips" / "a.mp4", frames=48, rate=12)
    embed(engine, folder / "clips", folder / "segments", side="document", segment=2)
    index(folder / "segments", folder / "moments")
    store = open_store(folder / "moments")
    sound = Audio(tone(folder / "tone.wav", seconds=2), start=1, end=2)
    vector = engine.array([Document((Text("a tone"),))], side="document")[0]
    store.add([Item("tone", vector, "", thumbnail(sound), "tone.wav", {}, str(sound.address))])
    return store


@contextmanager
def serving(app):
    """Serve an application from a thread; yield its address."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        server = uvicorn.Server(uvicorn.Config(app, log_level="error", timeout_graceful_shutdown=1))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
        thread.start()
        while not server.started:
            assert thread.is_alive()
            time.sleep(0.01)
        try:
            yield f"http://127.0.0.1:{listening.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join(10)


def opened(data: bytes) -> PILImage.Image:
    return PILImage.open(io.BytesIO(data))
