"""Masked batches of every kind, as training makes them."""

from __future__ import annotations

from functools import partial

from PIL import Image as PILImage

from twoway.content import Document
from twoway.data.collators import collate
from twoway.data.config import MaskingConfig
from twoway.data.masking import mask_inputs
from twoway.data.processing import Encoder

ROWS = {
    "text": [[{"text": "some words about nothing"}], [{"text": "more"}]],
    "image": [[{"image": "red"}]],
    "both": [[{"image": "red"}, {"text": "a red thing and a blue one"}, {"image": "blue"}], [{"text": "words alone"}]],
}


def batch_of(prepared, kind, *, seed=0, **mask):
    """Encode, mask and put together rows of one kind."""
    shown = {name: PILImage.new("RGB", (56, 56), name) for name in ("red", "blue")}
    rows = [
        [{key: shown.get(value, value) if key == "image" else value for key, value in part.items()} for part in row] for row in ROWS[kind]
    ]
    encode = Encoder(prepared.processor, prepared.geometry, max_length=prepared.max_length)
    mask = partial(mask_inputs, config=MaskingConfig(**mask), seed=seed, epoch=0, mask_token=prepared.token.id, geometry=prepared.geometry)
    examples = [encode(f"{kind}#{number}", Document.from_parts(row)) for number, row in enumerate(rows)]
    side = prepared.processor.tokenizer.padding_side
    return collate([mask(example) for example in examples], pad_token=prepared.module.pad_token, padding_side=side)
