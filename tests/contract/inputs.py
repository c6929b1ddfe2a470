"""What the contract is run on: a tiny model of random weights, documents, pairs and a folder in MMEB's layout, all from fixed seeds."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image
from tests.tiny import build

if TYPE_CHECKING:
    from pathlib import Path

WORDS = ("red", "blue", "green", "black", "white", "grey", "brown", "pink", "gold", "navy")
SHELVES = ("A", "B")


def make(folder: Path) -> None:
    """Write all of it below `folder`."""
    build("qwen2_vl", folder)
    for place in ("pictures", "mmeb/pictures"):
        (folder / place).mkdir(parents=True)
    draw = np.random.default_rng(0)
    for number in range(24):
        # Blocks of colour and a little noise, so that pictures are far from one another.
        blocks = draw.integers(0, 256, (2, 2, 3)).repeat(20, axis=0).repeat(20, axis=1)
        pixels = (blocks + draw.integers(-20, 20, blocks.shape)).clip(0, 255).astype(np.uint8)
        for place in ("pictures", "mmeb/pictures"):
            Image.fromarray(pixels).save(folder / f"{place}/{number}.png")
    _write(folder / "documents.jsonl", [_document(number) for number in range(24)])
    _write(folder / "pretraining.jsonl", [_document(number) for number in range(64)])
    _write(folder / "pairs.jsonl", [_pair(number) for number in range(48)])
    _write(folder / "bridged.jsonl", [row for row in map(_pair, range(96)) if row["task"] != "same"] + [_pair(1)])  # the last is bad
    _mmeb(folder / "mmeb", draw)


def _document(number: int) -> dict[str, object]:
    image, text = (
        {"image": f"pictures/{number % 24}.png"},
        {"text": f"number {number} is {WORDS[number % 10]} " + "and so on " * (number % 4)},
    )
    both = [text, image, {"text": "and one more"}, {"image": f"pictures/{(number + 1) % 24}.png"}]
    parts = [[image, text], [text], [image], both][number % 4]
    return {"id": f"d{number}", "parts": parts, "number": number, "shelf": SHELVES[number % 2]}


def _pair(number: int) -> dict[str, object]:
    word, picture = WORDS[number % 10], {"image": f"pictures/{number % 24}.png"}
    if number % 3 == 0:
        return {"query": picture, "positive": f"{word} {number}", "task": "names"}
    if number % 3 == 1:
        return {"query": [{"text": f"the {word}"}, picture, {"text": "one"}], "positive": picture, "task": "same"}
    others = [f"no {WORDS[(number + other) % 10]} {other}" for other in range(1, 1 + number % 4)]
    return {"query": f"say {number} " + "so " * (number % 5), "positive": f"{word} {number}", "negatives": others, "task": "words"}


def _mmeb(folder: Path, draw: np.random.Generator) -> None:
    rows: dict[str, list[dict[str, object]]] = {"MSCOCO_i2t": [], "MSCOCO_t2i": []}
    for number in range(6):
        others = [int(other) for other in draw.permutation(24)[:4]]
        paths = [f"pictures/{other}.png" for other in others]
        texts = [f"{WORDS[other % 10]} and {other}" for other in others]
        asked = f"pictures/{number}.png"
        rows["MSCOCO_i2t"].append(
            {"qry_text": "<|image_1|>\nFind its caption\n", "qry_img_path": asked, "tgt_text": texts, "tgt_img_path": [""] * 4}
        )
        rows["MSCOCO_t2i"].append(
            {"qry_text": f"Find {texts[0]}", "qry_img_path": "", "tgt_text": ["<|image_1|>\nRepresent it\n"] * 4, "tgt_img_path": paths}
        )
    for name, written in rows.items():
        (folder / name).mkdir(parents=True)
        pq.write_table(pa.Table.from_pylist(written), folder / name / "test-00000-of-00001.parquet")


def _write(path: Path, rows: list[dict[str, object]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
