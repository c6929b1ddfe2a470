"""Encoding with a converted model: two-way beside causal attention, and each kind of input, on the shipped base."""

from __future__ import annotations

import io
import tempfile
from functools import partial
from pathlib import Path

import pyarrow.parquet as pq
import torch
from PIL import Image
from sentence_transformers import SentenceTransformer

import twoway
from twoway.data.sources.samples import samples_folder

from .side_by_side import side_by_side, table

COUNT = 128


def main() -> None:
    """Encode the same pictures and words with both, in turns."""
    torch.set_num_threads(1)
    folder = samples_folder()
    rows = pq.read_table(folder / "pictures.parquet", columns=["image"]).slice(0, COUNT).to_pylist()
    pictures = [Image.open(io.BytesIO(row["image"])).convert("RGB") for row in rows]
    words = pq.read_table(folder / "texts.parquet", columns=["text"]).slice(0, COUNT)["text"].to_pylist()
    with tempfile.TemporaryDirectory() as scratch:
        models = {}
        for attention in ("causal", "two-way"):
            twoway.convert(folder / "base", Path(scratch) / attention, attention=attention, dtype="float32")
            models[attention] = SentenceTransformer(str(Path(scratch) / attention), device="cpu")
        for what, inputs in (("texts", words), ("pictures", pictures)):
            seconds = side_by_side({name: partial(model.encode, inputs, batch_size=32) for name, model in models.items()}, rounds=3)
            said = {name: f"{COUNT / value:.0f} a second" for name, value in seconds.items()}
            table(f"Encoding {COUNT} {what}, float32, one thread", seconds, work=said)
