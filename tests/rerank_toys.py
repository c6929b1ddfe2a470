"""Rerankers of tiny models, and rows of candidates, in a module that other processes can import."""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING

import numpy as np
import torch
from PIL import Image as PILImage
from transformers import AutoModelForImageTextToText, AutoProcessor

from twoway.methods.rerank.method import rerank

if TYPE_CHECKING:
    from pathlib import Path

WORDS = ("red", "blue", "green", "black", "white")
USUAL = {
    "max_steps": 4, "save_steps": 2, "seed": 1, "dtype": "float32", "learning_rate": 1e-3, "global_batch_size": 4, "hard_negatives": 2,
    "dataloader_num_workers": 0, "budget": 900.0, "held_out": 0, "prompts": {"query": "Find it."}, "device": "cpu",
    "attention": "causal", "calibrate": "none",
}  # fmt: skip

# As vLLM's page of the model has it, and the script beside the weights.
PUBLISHED = (
    "<|im_start|>system\nJudge whether the Document meets the requirements based on the Query and the Instruct provided. Note that the "
    'answer can only be "yes" or "no".<|im_end|>\n<|im_start|>user\n<Instruct>: {instruction}<Query>:{query}\n<Document>:{document}'
    "<|im_end|>\n<|im_start|>assistant\n"
)


def speaking(model: Path, out: Path) -> Path:
    """Copy a tiny model and give its tokenizer the tokens yes and no, in rows that its vocabulary leaves free."""
    shutil.copytree(model, out)
    processor = AutoProcessor.from_pretrained(out)
    processor.tokenizer.add_tokens(["yes", "no"])
    processor.save_pretrained(out)
    loaded = AutoModelForImageTextToText.from_pretrained(out)
    assert len(processor.tokenizer) <= loaded.get_input_embeddings().weight.shape[0]
    return out


def candidate_file(home: Path) -> Path:
    """Write rows of two tasks with negatives: texts alone, and pictures on either side."""
    draw, lines = np.random.default_rng(0), []
    for number in range(24):
        word = WORDS[number % 5]
        PILImage.fromarray(draw.integers(0, 255, (28, 28, 3), dtype=np.uint8)).save(home / f"{number}.png")
        picture = {"image": f"{number}.png"}
        if number % 2:
            wrong = [f"no {other}, " + "so " * count for count, other in enumerate(WORDS[: 1 + number % 4]) if other != word] or ["none"]
            lines.append({"query": f"say {number}", "positive": f"{word} {number}", "negatives": wrong, "task": "words"})
        else:
            wrong = [[{"text": "not"}, {"image": f"{(number + 2) % 24}.png"}], "nothing at all"]
            lines.append(
                {"query": [{"text": f"the {word}"}, picture], "positive": [picture, {"text": word}], "negatives": wrong, "task": "same"}
            )
    path = home / "rows.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def train(base, out, rows, options):
    """Run `rerank` with a thread, as other processes do."""
    torch.set_num_threads(1)
    rerank(base, out, [str(rows)], **options)
