"""A folder of vectors as `twoway embed` writes it, without a model."""

from __future__ import annotations

import json

import numpy as np
from PIL import Image

from twoway.embedding.shards import Shards
from twoway.embedding.writing import Sources, row_of

DIM = 16


def pictures(folder, count=6):
    """Write a data file whose rows have a text, a picture, or both, and metadata; return its path."""
    folder.mkdir(exist_ok=True)
    rows = []
    for number in range(count):
        row = {"id": f"n{number}", "year": 1990 + number, "price": 1 if number < 3 else 1.5}
        if number % 3 != 1:
            Image.new("RGB", (40 * (number + 1), 30), (40 * number, 0, 99)).save(folder / f"{number}.png")
            row["image"] = f"{number}.png"
        if number % 3 != 0:
            row["text"] = f"number {number}, a fox"
        rows.append(row)
    path = folder / "data.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def vectors_of(data, out, *, shard_rows=4, precision="float32", fingerprint="f" * 64, seed=0, dim=DIM, bad=()):
    """Write the folder; `bad` are numbers of rows that were left out."""
    sources = Sources([data], root=None, dpi=144)
    manifest = {
        "model": "my-model",
        "fingerprint": fingerprint,
        "dim": dim,
        "precision": precision,
        "shard_rows": shard_rows,
        "prompt": ["", "document"],
        "data": sources.identity(),
        "scale": 1.0,
    }
    shards = Shards.begin(out, manifest)
    rows = [row_of(number, row) for number, row in enumerate(sources.rows(0))]
    found = np.random.default_rng(seed).normal(size=(len(rows), dim)).astype(np.float32)
    found /= np.linalg.norm(found, axis=1, keepdims=True)
    for number, start in enumerate(range(0, len(rows), shard_rows)):
        part = range(start, min(start + shard_rows, len(rows)))
        kept = [place for place in part if place not in bad]
        shards.write(number, [rows[place] for place in kept], found[kept], seen=len(part))
    shards.note(finished=True)
    return found
