"""A checkpoint used with sentence-transformers alone: texts, pictures, both, and several parts in order. Nothing of twoway is imported."""

from __future__ import annotations

import sys

from PIL import Image, ImageDraw
from sentence_transformers import SentenceTransformer


def drawn(shape: str, colour: str) -> Image.Image:
    """Draw a picture, so that the example needs no files."""
    picture = Image.new("RGB", (72, 72), "white")
    getattr(ImageDraw.Draw(picture), shape)((12, 12, 60, 60), fill=colour)
    return picture


def main(folder: str) -> None:
    """Embed documents of each kind, and show which is nearest to a question."""
    model = SentenceTransformer(folder)
    red, blue = drawn("ellipse", "red"), drawn("rectangle", "blue")
    documents = {
        "a text": "a red ball",
        "a picture": red,
        "a picture and a text": {"image": blue, "text": "a box, seen from above"},
    }
    vectors = [model.encode(document) for document in documents.values()]
    # Parts in any order go in as a chat message, which names the kind of each; messages go in a call of their own.
    parts = [
        {"type": "text", "text": "first"},
        {"type": "image", "image": red},
        {"type": "text", "text": "then"},
        {"type": "image", "image": blue},
    ]
    vectors.append(model.encode([[{"role": "user", "content": parts}]])[0])
    names = [*documents, "four parts in order"]
    question = model.encode("something round and red", prompt_name="query" if "query" in model.prompts else None)
    scores = [float(model.similarity(question, vector)) for vector in vectors]
    for score, name in sorted(zip(scores, names, strict=True), reverse=True):
        print(f"{score:6.3f}  {name}")


if __name__ == "__main__":
    main(sys.argv[1])
