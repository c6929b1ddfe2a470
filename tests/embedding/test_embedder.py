"""The engine gives the vectors of `SentenceTransformer.encode`, whatever the kinds, sizes and order of documents."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image as PILImage

from tiny import FAMILIES
from twoway.content import Document, Image, Text
from twoway.embedding import open_embedder


def picture(number, width=40, height=52):
    return PILImage.fromarray(np.random.default_rng(number).integers(0, 255, (height, width, 3), dtype=np.uint8))


def content():
    """Return documents of every kind, and what sentence-transformers is given for each."""
    first, second = picture(1), picture(2, 60, 30)
    parts = [Text("w7 "), Image(first), Text(" w9 "), Image(second), Text(" w4")]
    message = [{"type": "text", "text": part.text} if isinstance(part, Text) else {"type": "image", "image": part.source} for part in parts]
    return [
        (Document((Text("w4 w5 w6"),)), "w4 w5 w6"),
        (Document((Text("a much longer text " * 4),)), "a much longer text " * 4),
        (Document((Image(first),)), first),
        (Document((Image(second), Text("w5 w6"))), {"image": second, "text": "w5 w6"}),
        (Document(tuple(parts)), [{"role": "user", "content": message}]),
        (Document((Text("w4 w5 w6"),)), "w4 w5 w6"),
    ]


@pytest.mark.parametrize("family", FAMILIES)
def test_the_vectors_are_those_of_encode(family, tiny_encoder):
    engine = open_embedder(tiny_encoder(family), device="cpu")
    documents, inputs = zip(*content(), strict=True)
    alone = np.concatenate([engine.sentence.encode([one], show_progress_bar=False) for one in inputs])
    assert np.abs(engine.array(documents) - alone).max() < 1e-5
