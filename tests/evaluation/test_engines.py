"""A model behind `twoway serve` is the model: a real server at a real address gives the vectors of the folder opened directly."""

from __future__ import annotations

import io
import threading
import time
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import uvicorn
from PIL import Image as PILImage

from twoway.content import Document, Image, Text
from twoway.embedding import open_embedder
from twoway.embedding.opening import open_engine
from twoway.server.app import Server, address, bind_socket, create_app

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.xdist_group("ranks")


def picture(number: int, kind: str = "PNG", mode: str = "RGB", **saved: Any) -> Image:
    written = io.BytesIO()
    pixels = np.random.default_rng(number).integers(0, 255, (40, 84, len(mode)), dtype=np.uint8)
    PILImage.fromarray(pixels, mode).save(written, kind, **saved)
    return Image(written.getvalue())


def documents() -> list[Document]:
    """Return what a suite asks for: words, also too many of them, pictures as files have them, and both, in several orders."""
    turned = PILImage.Exif()
    turned[0x0112] = 6
    shown = [picture(0), picture(1, "JPEG", exif=turned), picture(2, mode="RGBA"), picture(3, "BMP")]
    found = [Document((Text(f"text number {number}"),)) for number in range(3)]
    found += [Document((Text("http://localhost/none.png"),)), Document((Text("many words " * 400),)), Document((Text("one "), Text("two")))]
    for one in shown:
        found += [Document((one,)), Document((Text("before"), one, Text("after")))]
    return [*found, Document((shown[0], Text("and"), shown[2]))]


@pytest.fixture(scope="module")
def served(tiny_encoder: Any) -> Iterator[tuple[Any, str]]:
    """Yield a model, and the address of a server that has it."""
    folder = tiny_encoder("qwen2_vl", prompts={"query": "Find: ", "document": "A page: "})
    app, taken = create_app(open_embedder(folder, device="cpu"), name="tiny"), bind_socket("127.0.0.1", 0)
    server = Server(uvicorn.Config(app, log_config=None, timeout_graceful_shutdown=5, ws="none"), app.state.service, 90.0)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [taken]})
    thread.start()
    end = time.monotonic() + 90
    while not server.started:
        assert time.monotonic() < end
        time.sleep(0.02)
    yield open_embedder(folder, device="cpu"), f"{address(taken)}v1"
    server.should_exit = True
    thread.join(90)


@pytest.mark.parametrize("prefix", ["openai", "openai-chat"])
def test_a_server_of_ours_gives_the_vectors_of_the_model(prefix: str, served: tuple[Any, str]) -> None:
    model, url = served
    engine, asked = open_engine(f"{prefix}:{url}"), documents()
    assert engine.dimension == model.dimension
    for how in ({}, {"side": "query"}, {"side": "document"}, {"prompt": "Say it: "}):
        found = dict(engine.embed(asked, **how))
        assert np.abs(np.stack([found[number] for number in range(len(asked))]) - model.array(asked, **how)).max() < 1e-4
