"""A tiny model behind HTTP, in memory, and requests to it."""

from __future__ import annotations

import base64
import io

import numpy as np
import pytest
from fastapi.testclient import TestClient
from PIL import Image as PILImage

from twoway.embedding import open_embedder
from twoway.server.app import create_app


@pytest.fixture(scope="session")
def engine(tiny_encoder):
    return open_embedder(tiny_encoder("qwen2_vl", prompts={"query": "ask ", "document": "tell "}), device="cpu")


@pytest.fixture(scope="session")
def picture():
    """Return `picture(number) -> PIL image`."""

    def make(number=1, width=40, height=52):
        return PILImage.fromarray(np.random.default_rng(number).integers(0, 255, (height, width, 3), dtype=np.uint8))

    return make


@pytest.fixture(scope="session")
def data_url():
    """Return `data_url(picture) -> str`."""

    def make(image, kind="PNG"):
        written = io.BytesIO()
        image.save(written, kind)
        return f"data:image/{kind.lower()};base64,{base64.b64encode(written.getvalue()).decode()}"

    return make


@pytest.fixture
def serve(engine):
    """Return `serve(store, limits, **options) -> client` of a running application."""
    running = []

    def start(store=None, limits=None, engine=engine, **options):
        client = TestClient(create_app(engine, store, limits, **options), raise_server_exceptions=False, base_url="http://localhost")
        running.append(client.__enter__())
        return client

    yield start
    for client in running:
        client.__exit__(None, None, None)


@pytest.fixture(scope="module")
def client(engine):
    with TestClient(create_app(engine), raise_server_exceptions=False, base_url="http://localhost") as client:
        yield client
