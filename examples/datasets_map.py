"""A column of vectors beside the rows of a data set, by `datasets.map`, and the rows nearest to a question."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import numpy as np
from datasets import Dataset, Features, Image, Value
from PIL import Image as PILImage

from twoway.content import Document
from twoway.embedding.opening import open_embedder

if TYPE_CHECKING:
    from twoway.embedding.embedder import Embedder

COLOURS = ("red", "green", "blue", "white", "black", "orange")


def data() -> Dataset:
    """Make a data set of pictures and captions; yours comes from `load_dataset`."""
    rows = {"image": [PILImage.new("RGB", (48, 48), colour) for colour in COLOURS], "caption": [f"all {colour}" for colour in COLOURS]}
    return Dataset.from_dict(rows, features=Features({"image": Image(), "caption": Value("string")}))


def embedded(batch: dict[str, list[Any]], model: Embedder) -> dict[str, Any]:
    """Embed the rows of a batch: picture first, then caption."""
    rows = zip(batch["image"], batch["caption"], strict=True)
    documents = [Document.from_parts([{"image": image}, {"text": caption}]) for image, caption in rows]
    return {"vector": model.array(documents, side="document")}


def main(folder: str) -> None:
    """Add the column, and look for something."""
    model = open_embedder(folder)
    # The fingerprint names the work in the cache of `datasets`, which cannot hash a model.
    rows = data().map(
        embedded, batched=True, batch_size=64, fn_kwargs={"model": model}, new_fingerprint=model.fingerprint[:32], desc="embedding"
    )
    question = model.array([Document.from_parts([{"text": "the colour of a lemon leaf"}])], side="query")[0]
    scores = np.array(rows["vector"]) @ question
    for number in np.argsort(-scores)[:3].tolist():
        print(f"{scores[number]:6.3f}  {rows[number]['caption']}")


if __name__ == "__main__":
    main(sys.argv[1])
