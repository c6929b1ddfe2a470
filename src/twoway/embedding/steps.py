"""The first and the last step of embedding: looking at documents before any pixel is decoded, and the model's pass over one batch."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from sentence_transformers.util import batch_to_device

from ..content import ContentError
from ..errors import TwowayError, is_panic
from .batches import Item
from .precision import cut

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from numpy.typing import NDArray

    from ..content import Document
    from .embedder import Embedder

    Vectors = NDArray[np.float32]


def look(engine: Embedder, documents: Sequence[Document]) -> list[Item | ContentError]:
    """Hash each document, find its kind and count its tokens."""
    found: list[Item | ContentError] = []
    for document in documents:
        try:
            kind = engine.inputs.kind(document)
            pictures = engine.lengths.images(document, engine.settings.limits)
            found.append(Item(document, document.fingerprint(), kind, pictures))
        except ContentError as error:
            found.append(error)
    items = [item for item in found if isinstance(item, Item)]
    try:
        words = engine.lengths.words(["".join(item.document.texts) for item in items])
    except BaseException as error:
        if not is_panic(error):
            raise
        if len(documents) > 1:  # one of them is to blame, and the others are not
            return [item for document in documents for item in look(engine, [document])]
        return [ContentError(f"the model's tokenizer fails on it ({str(error)[:200]})", documents[0].place)]
    for item, (count, most) in zip(items, words, strict=True):
        item.length += count + 1
        item.document = item.document.cut(most)
    return found


def forward(
    engine: Embedder, items: list[Item], features: dict[str, Any], *, prompt: str | None, kwargs: Mapping[str, Any], dim: int | None
) -> Iterator[tuple[list[Item], Vectors]]:
    """Run the model on a batch, or on its halves where the device's memory does not hold it or the processor does not make it."""
    vectors = None
    if features or len(items) == 1:
        try:
            vectors = _run(engine, features, kwargs, dim)
        except torch.OutOfMemoryError as error:
            if len(items) == 1:
                trouble = "the device's memory does not hold this document alone; make it shorter (max_length) or its pictures smaller"
                raise TwowayError(f"{items[0].document.place}: {trouble}") from error
            features.clear()
    if vectors is not None:
        yield items, vectors
        return
    middle = max(1, len(items) // 2)
    for half in (items[:middle], items[middle:]):
        if not half:
            continue
        again = engine.front.prepare(half, prompt, dict(kwargs))
        for _, refused in again.failed:
            raise refused  # it was made once before, so this is nothing that a row could be left out for
        yield from forward(engine, again.items, again.features, prompt=prompt, kwargs=kwargs, dim=dim)


def finite(vectors: Vectors) -> NDArray[np.bool_]:
    """Say which vectors are made of numbers alone."""
    return np.asarray(np.isfinite(vectors).all(axis=1))


@contextmanager
def evaluating(sentence: Any) -> Iterator[None]:
    """Put a model into evaluation, and each of its parts back into what it was in."""
    training = [module for module in sentence.modules() if module.training]
    for module in training:
        module.training = False
    try:
        yield
    finally:
        for module in training:
            module.training = True


def _run(engine: Embedder, features: dict[str, Any], kwargs: Mapping[str, Any], dim: int | None) -> Vectors:
    """Run the model on one batch."""
    sentence = engine.sentence
    with evaluating(sentence), torch.inference_mode():
        out = sentence(batch_to_device(features, sentence.device), **kwargs)["sentence_embedding"]
        found = np.asarray(out[:, : sentence.truncate_dim or out.shape[1]].float().cpu().numpy(), np.float32)
    return cut(found, dim, normal=engine.normal)
