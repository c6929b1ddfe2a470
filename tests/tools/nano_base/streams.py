"""Streams of rows for tests: fresh ones, and batches of one kind."""

from __future__ import annotations

import dataclasses

from tools.nano_base.base import picture_tokens
from tools.nano_base.batches import Batch, Rows

KINDS = ("singles", "pairs", "canvases", "scenes", "large")


def fresh(tiny, **changes) -> Rows:
    return Rows(
        tiny.world,
        tiny.processor.tokenizer,
        picture_tokens(tiny.processor, tiny.forward.image_token),
        dataclasses.replace(tiny.config, **changes),
    )


def of_kind(rows: Rows, kind: str, step: int = 0) -> Batch:
    rows._kind = lambda rng: kind
    return rows.batch(step)
