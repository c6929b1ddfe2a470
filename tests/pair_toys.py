"""Pairs and short runs on them, in a module that other processes can import."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import numpy as np
import torch
from PIL import Image as PILImage

from twoway.methods.finetune.method import finetune

if TYPE_CHECKING:
    from pathlib import Path

WORDS = ("red", "blue", "green", "black", "white", "grey", "brown", "pink", "gold", "navy")
USUAL = {
    "max_steps": 6, "save_steps": 2, "eval_steps": 3, "seed": 1, "dtype": "float32", "learning_rate": 1e-3, "global_batch_size": 6,
    "dataloader_num_workers": 0,
    "budget": 600.0, "held_out": 2, "prompts": {"query": "Find it: ", "colour-document": "A colour: "}, "device": "cpu",
}  # fmt: skip


def pair_file(home: Path) -> Path:
    """Write pairs of three tasks: a picture and its name, text and picture for a picture, and texts alone with hard negatives."""
    draw, lines = np.random.default_rng(0), []
    for number in range(63):
        word = WORDS[number % 10]
        PILImage.fromarray(draw.integers(0, 255, (28, 28, 3), dtype=np.uint8)).save(home / f"{number}.png")
        picture = {"image": f"{number}.png"}
        if number % 3 == 0:
            lines.append({"query": picture, "positive": f"{word} {number}", "task": "colour"})
        elif number % 3 == 1:
            lines.append({"query": [{"text": f"the {word}"}, picture, {"text": "one"}], "positive": picture, "task": "same"})
        else:
            others = [f"no {other}" for other in range(number % 4)]
            lines.append({"query": f"say {number} " + "so " * number, "positive": f"{word} {number}", "negatives": others, "task": "words"})
    path = home / "rows.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def tune(base, out, rows, options):
    """Run `finetune` with a thread, as other processes do."""
    torch.set_num_threads(1)
    finetune(base, out, [str(rows)], **options)
