"""The main job from end to end, in a few minutes on two cores: convert, prove, embed, retrieve.

Run it with `make demo`. Every step is a command of `twoway`, printed before it runs; what it makes lies in `demo/`.
"""

from __future__ import annotations

import io
import shlex
import shutil
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from PIL import Image
from sentence_transformers import SentenceTransformer
from transformers.utils import logging as transformers_logging

from twoway.cli import main as twoway
from twoway.data.samples import samples_folder

OUT = Path("demo")
CONCEPTS = 300
WORDS = ("rocket", "fox", "pizza", "cactus", "guitar")


def command(line: str, *, expect: int = 0) -> None:
    """Print a command, run it, and stop where it does not end as it should."""
    print(f"\n$ twoway {line}", flush=True)
    code = twoway(shlex.split(line))
    if code != expect:
        sys.exit(f"the command ended with {code}, not {expect}")


def pictures(folder: Path) -> tuple[list[str], list[Image.Image]]:
    """Return the English names and pictures of concepts that contrastive training is never shown, in one style."""
    concepts = {row["concept"]: dict(row["names"])["en"] for row in pq.read_table(folder / "concepts.parquet").to_pylist()}
    rows = pq.read_table(folder / "pictures.parquet").to_pylist()
    chosen = [row for row in rows if row["style"] == "flat" and row["half"] == "unseen"]
    known = {row["concept"] for row in chosen}
    chosen = [row for row in rows if row["style"] == "flat" and concepts[row["concept"]] in WORDS and row["concept"] not in known] + chosen
    chosen = chosen[:CONCEPTS]
    return [concepts[row["concept"]] for row in chosen], [on_white(row["image"]) for row in chosen]


def on_white(data: bytes) -> Image.Image:
    """Lay a picture with transparency on white."""
    picture = Image.open(io.BytesIO(data)).convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture).convert("RGB")


def retrieve(model: SentenceTransformer, names: list[str], shown: list[Image.Image]) -> tuple[float, float, np.ndarray]:
    """Return MRR and recall@10 of words -> pictures and pictures -> words together, and the scores."""
    words = model.encode(names, batch_size=64, show_progress_bar=False)
    seen = model.encode(shown, batch_size=64, show_progress_bar=False)
    scores = words @ seen.T
    right = np.diag(scores)
    # A tie counts against us: rank is one more than all others that score at least as high.
    ranks = np.concatenate([(scores >= right[:, None]).sum(1), (scores >= right[None, :]).sum(0)])
    return float((1 / ranks).mean()), float((ranks <= 10).mean()), scores


def main() -> None:
    """Run the whole demo."""
    started = time.perf_counter()
    transformers_logging.disable_progress_bar()
    base = samples_folder() / "base"
    shutil.rmtree(OUT, ignore_errors=True)
    command(f"info {base}")
    command(f"convert {base} {OUT / 'causal'} --attention causal --pooling last")
    command(f"convert {base} {OUT / 'two-way'}")
    command(f"check {OUT / 'two-way'} --backends sdpa eager")
    command(f"check {base} --expect two-way --backends sdpa", expect=1)
    print("\nThat is as it should be: the base itself is causal, and the check says so.")

    names, shown = pictures(samples_folder())
    print(
        f"\nPictures and their English names, {len(names)} of each, found among each other, both directions; no contrastive training yet:"
    )
    chance = sum(1 / rank for rank in range(1, len(names) + 1)) / len(names)
    print(f"  {'model':10s} {'MRR':>6s} {'R@10':>6s}\n  {'chance':10s} {100 * chance:6.1f} {1000 / len(names):6.1f}")
    scores = np.empty(0)
    for name in ("causal", "two-way"):
        mrr, recall, scores = retrieve(SentenceTransformer(str(OUT / name), device="cpu"), names, shown)
        print(f"  {name:10s} {100 * mrr:6.1f} {100 * recall:6.1f}")
    print("\nWhat the two-way model finds for a word, the best first:")
    for word in WORDS:
        if word in names:
            best = np.argsort(-scores[names.index(word)])[:5]
            print(f"  {word:8s} -> {', '.join(names[place] for place in best)}")
    print(f"\nDone in {time.perf_counter() - started:.0f} s; the models lie in {OUT}/.")


if __name__ == "__main__":
    main()
