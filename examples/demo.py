"""The main job from end to end, in minutes on two cores: prove, pre-train, fine-tune, measure, embed, index, search.

Run it with `make demo`. Every step is a command of `twoway`, printed before it runs; results are in `demo/`. A training this short
shows how everything works, and cannot rank methods. What is searched with is the shipped model of an hour's training, `samples/search`; it
stands beside the short one in the scores.
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
import sys
import time
from pathlib import Path
from typing import Any

from transformers.utils import logging as transformers_logging

from twoway.cli import main as run
from twoway.data.sources.samples import HELD_STYLES, documents, load_world, samples_folder

OUT = Path("demo")
TASKS = "name-picture called"
# some of what the shipped model finds; how often it does is in its card
WORDS, THING = ("flag of France", "giraffe", "penguin", "Spritze", "soleil"), "guitar"
PAGES, ON_A_PAGE = 300, "tulipe, jeune pousse, ail"  # asked of so many pages; the one that shows these things names them in English
PRETRAIN = "max_steps=32 eval_steps=16 save_steps=16 logging_steps=8 budget=2048"
FINETUNE = (
    "max_steps=60 global_batch_size=64 budget=2048 learning_rate=3e-4 max_length=512 hard_negatives=0 small_tasks=keep "
    "loss.temperature=0.05 dataloader_num_workers=1 save_steps=30 logging_steps=10"
)


def command(line: str, *, expect: int = 0) -> None:
    """Print a command, run it, and stop where it does not end as it should."""
    started, before = time.perf_counter(), cpu()
    print(f"\n$ twoway {line}", flush=True)
    code = run(shlex.split(line))
    if code != expect:
        sys.exit(f"the command ended with {code}, not {expect}")
    print(f"  ({time.perf_counter() - started:.0f} s, {cpu() - before:.0f} s of one core)", flush=True)


def cpu() -> float:
    """Return the CPU seconds of this process and of those that it has ended."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


def evaluate(model: Path) -> dict[str, Any]:
    """Score a model on a part of the nano suite."""
    results = OUT / f"{model.name}.json"
    command(f"evaluate {model} --suite nano --tasks {TASKS} --cache-dir {OUT} --out {results}")
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


def search(model: Path) -> None:
    """Ask for pictures of things by words in three languages and by a picture in a style that no stage has seen; then for pages."""
    print(f"\nThe searches below are of {model}, the shipped model of an hour's training (make search), and not of the short one.")
    command(f"embed {model} --data samples:gallery --out {OUT / 'gallery'} --side document")
    command(f"index {OUT / 'gallery'} --index {OUT / 'index'}")
    for words in WORDS:
        command(f"search {OUT / 'index'} '{words}' --top-k 5")
    held = (one for one in documents("pictures") if one.meta["style"] in HELD_STYLES and one.meta["name"] == THING)
    picture = next(held).images[0].source
    assert isinstance(picture, bytes)
    (OUT / "query.webp").write_bytes(picture)
    command(f"search {OUT / 'index'} --image {OUT / 'query.webp'} --top-k 5")
    (OUT / "pages").mkdir()
    for row in load_world().pages[:PAGES]:
        name = "-".join([Path(row["id"]).name, *row["concepts"]])
        (OUT / "pages" / f"{name}.webp").write_bytes(row["image"])
    print("\nPages are asked for in words that do not stand on them:")
    command(f"index {OUT / 'pages'} --model {model} --index {OUT / 'page-index'}")
    command(f"search {OUT / 'page-index'} '{ON_A_PAGE}' --top-k 5")


def main() -> None:
    """Run the whole demo."""
    started = time.perf_counter()
    transformers_logging.disable_progress_bar()
    base, shipped = samples_folder() / "base", samples_folder() / "search"
    shutil.rmtree(OUT, ignore_errors=True)
    command(f"check {base} --expect two-way --backends sdpa", expect=1)
    print("\nThat is as it should be: the base is causal, and the check says so.")
    command(f"convert {base} {OUT / 'causal'} --attention causal --pooling last")
    command(f"pretrain {base} {OUT / 'pretrained'} --recipe recipes/nano-pretrain.yaml {PRETRAIN}")
    gaps(OUT / "pretrained")
    command(f"check {OUT / 'pretrained'} --expect two-way --backends sdpa eager")
    command(f"finetune {OUT / 'pretrained'} {OUT / 'finetuned'} --data samples:train-names {FINETUNE}")
    scores = {model.name: evaluate(model) for model in (OUT / "causal", OUT / "pretrained", OUT / "finetuned", shipped)}
    print("\nMRR x 100 on things that fine-tuning has not seen (search: the shipped model of an hour's training):")
    print(f"  {'task':24s}{'chance':>8s}" + "".join(f"{name:>12s}" for name in scores))
    for task, one in scores["finetuned"]["tasks"].items():
        row = "".join(f"{100 * found['tasks'][task]['score']:12.1f}" for found in scores.values())
        print(f"  {task:24s}{100 * one['chance']:8.1f}{row}")
    search(shipped)
    print(f"\nDone in {time.perf_counter() - started:.0f} s. To look at: {OUT}/pretrained/report.html and {OUT}/finetuned/report.html.")
    print(f"To search on a page of your own: twoway serve {shipped} --index {OUT / 'index'}")


if __name__ == "__main__":
    main()
