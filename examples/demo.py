"""The main job from end to end, in minutes on two cores: prove, pre-train, fine-tune, measure, find.

Run it with `make demo`. Every step is a command of `twoway`, printed before it runs; what it makes lies in `demo/`. So short a training
shows that all works and what it does, and promises no ranking of methods.
"""

from __future__ import annotations

import json
import shlex
import shutil
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from transformers.utils import logging as transformers_logging

from twoway.cli import main as twoway
from twoway.content import Document, Image, Text
from twoway.data.samples import samples_folder
from twoway.embedding import open_embedder
from twoway.evaluation.nano_pairs import Held

OUT = Path("demo")
TASKS = "name-picture,called,page"
WORDS = ("rocket", "fox", "pizza", "cactus", "guitar")
PRETRAIN = "max_steps=60 eval_steps=30 save_steps=30 log_steps=10 budget=2048"
FINETUNE = (
    "max_steps=60 batch=64 budget=2048 lr=3e-4 dtype=bfloat16 max_length=512 hard_negatives=0 small_tasks=keep "
    "loss.temperature=0.05 workers=1 save_steps=30 log_steps=10"
)


def command(line: str, *, expect: int = 0) -> None:
    """Print a command, run it, and stop where it does not end as it should."""
    started = time.perf_counter()
    print(f"\n$ twoway {line}", flush=True)
    code = twoway(shlex.split(line))
    if code != expect:
        sys.exit(f"the command ended with {code}, not {expect}")
    print(f"  ({time.perf_counter() - started:.0f} s)", flush=True)


def evaluate(model: Path) -> dict[str, Any]:
    """Score a model on a part of the nano suite."""
    results = OUT / f"{model.name}.json"
    command(f"evaluate {model} --suite nano --tasks {TASKS} --cache {OUT / 'vectors'} --output {results}")
    found: dict[str, Any] = json.loads(results.read_text())
    return found


def gaps(folder: Path) -> None:
    """Print what the probes on held-out rows say of the help that pictures are to words, and words to pictures."""
    entries = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    print("\nOn held-out rows: nats a masked word, error a masked patch, and what the right other half saves against a shuffled one:")
    print(f"  {'step':>6s}{'words':>8s}{'saved by the picture':>22s}{'patches':>9s}{'saved by the caption':>22s}")
    for entry in entries:
        if "words_right" in entry:
            words, patches = (
                f"{entry[f'{kind}_gap_shuffled']:.4f} +- {entry[f'{kind}_gap_shuffled_error']:.4f}" for kind in ("words", "patches")
            )
            print(f"  {entry['step']:6d}{entry['words_right']:8.3f}{words:>22s}{entry['patches_right']:9.4f}{patches:>22s}")


def find(model: Path) -> None:
    """Show what the model finds for a few words among the pictures of things that fine-tuning has not seen."""
    held = Held.read()
    engine = open_embedder(model, device="cpu")
    rows = held.plain
    pictures = engine.array([Document((Image(row["image"]),)) for row in rows], side="document")
    names = [held.name(row) for row in rows]
    words = [word for word in WORDS if word in names] or names[:5]
    queries = engine.array([Document((Text(word),)) for word in words], side="query")
    print(f"\nThe first five of {len(rows)} pictures for a word:")
    for word, scores in zip(words, queries @ pictures.T, strict=True):
        print(f"  {word:8s} -> {', '.join(names[place] for place in np.argsort(-scores)[:5])}")


def main() -> None:
    """Run the whole demo."""
    started = time.perf_counter()
    transformers_logging.disable_progress_bar()
    base = samples_folder() / "base"
    shutil.rmtree(OUT, ignore_errors=True)
    command(f"check {base} --expect two-way --backends sdpa", expect=1)
    print("\nThat is as it should be: the base is causal, and the check says so.")
    command(f"convert {base} {OUT / 'causal'} --attention causal --pooling last")
    command(f"pretrain {base} {OUT / 'pretrained'} --recipe recipes/nano-pretrain.yaml {PRETRAIN}")
    gaps(OUT / "pretrained")
    command(f"check {OUT / 'pretrained'} --expect two-way --backends sdpa eager")
    command(f"finetune {OUT / 'pretrained'} {OUT / 'finetuned'} --data samples:train {FINETUNE}")
    scores = {name: evaluate(OUT / name) for name in ("causal", "pretrained", "finetuned")}
    print(
        f"\nMRR x 100 on things that fine-tuning has not seen:\n  {'task':24s}{'chance':>8s}" + "".join(f"{name:>12s}" for name in scores)
    )
    for task, one in scores["finetuned"]["tasks"].items():
        row = "".join(f"{100 * found['tasks'][task]['score']:12.1f}" for found in scores.values())
        print(f"  {task:24s}{100 * one['chance']:8.1f}{row}")
    find(OUT / "finetuned")
    print(f"\nDone in {time.perf_counter() - started:.0f} s. To look at: {OUT}/pretrained/report.html and {OUT}/finetuned/report.html.")


if __name__ == "__main__":
    main()
