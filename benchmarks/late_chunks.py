"""Late chunking where it should show most: a chunk that is only found through the chunk beside it, causal and two-way.

    python -m benchmarks.late_chunks OUT                  all seeds, one after the other
    python -m benchmarks.late_chunks OUT --seeds 1        one of them (several commands may share an OUT, each with its own seeds)
    python -m benchmarks.late_chunks OUT --show           the tables of what is there

A document has two chunks about one thing of the samples. One names it, the other says where *it* is kept; a query asks with both ("the
teapot is kept in the cellar"), and the right chunk is the one that says the place. There are so few places that many documents share one:
alone, their chunks are the same words. The name stands in the chunk before, or in the one behind, which no causal model has read.

Each seed fine-tunes the base twice, causal and two-way, with the mean as pooling, on whole documents about the seen half of the concepts,
of either order. What is scored is the mean of one over the place of the right chunk, over all chunks of documents about the unseen
half; equal scores share their places. `search` is `samples/search` as it is shipped, and `untrained` the base before fine-tuning.

Intervals are 95% (Student's t over seeds). A run that is done is not done again.
"""

from __future__ import annotations

import json
import random
import time
from typing import TYPE_CHECKING, Any

import numpy as np

from twoway.content import Document, Text
from twoway.embedding.chunks import Chunk, LateEmbedder

from .over_seeds import COMMON, options, print_tables

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from twoway.embedding import Embedder

PLACES = ("attic", "barn", "basement", "bathroom", "bedroom", "cabin", "cellar", "garage", "garden", "hall", "kitchen", "library")
NAMED, KEPT, ASKED = "This is about the {name}.", "It is kept in the {place}.", "the {name} is kept in the {place}"
ORDERS = ("before", "behind")  # where the name stands
ATTENTIONS = ("causal", "two-way")
COLUMNS = {f"name {order}, {how}": f"{order}_{how}" for order in ORDERS for how in ("alone", "late")}
SAID = ("steps", "batch", "documents")


def main() -> None:
    """Do what is left to do and print the tables."""
    parser = options("late_chunks", __doc__)
    parser.add_argument("--search", default="samples/search", help="a model that is scored as it is (default: samples/search)")
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--batch", type=int, default=32, help="rows of a step of fine-tuning (default: 32)")
    parser.add_argument("--documents", type=int, default=240, help="documents of each order that are searched (default: 240)")
    args = parser.parse_args()
    if not args.show:
        as_shipped(args)
        for seed in args.seeds:
            for attention in ATTENTIONS:
                one(args, attention, args.out / f"tuned-{attention}-{seed}.json", seed)
    show(args.out)


def as_shipped(args: argparse.Namespace) -> None:
    """Score models that are not trained here."""
    from twoway.methods.convert import convert

    args.out.mkdir(parents=True, exist_ok=True)
    for attention in ATTENTIONS:
        result = args.out / f"untrained-{attention}-0.json"
        if not result.exists():
            convert(args.base, args.out / f"untrained-{attention}", attention=attention, pooling="mean", overwrite=True)
            write(args, result, attention, 0, args.out / f"untrained-{attention}")
    if not (args.out / "search-two-way-0.json").exists():
        write(args, args.out / "search-two-way-0.json", "two-way", 0, args.search)


def one(args: argparse.Namespace, attention: str, result: Path, seed: int) -> None:
    """Train with one attention and one seed, and measure."""
    from twoway.methods.finetune.config import ContrastiveConfig
    from twoway.methods.finetune.method import finetune

    if result.exists():
        return
    home, began = result.with_suffix(""), time.process_time()
    home.mkdir(parents=True, exist_ok=True)
    rows = home.with_name(f"rows-{seed}.jsonl")
    asked = made(names("seen"), args.steps * args.batch, seed)
    rows.write_text("".join(json.dumps({"query": query, "positive": " ".join(chunks)}) + "\n" for query, chunks, _ in asked))
    steps = {"max_steps": args.steps, "global_batch_size": args.batch, "hard_negatives": 0, "learning_rate": 3e-4, "logging_steps": 10}
    kind = {"attention": attention, "pooling": "mean", "loss": ContrastiveConfig(temperature=0.05)}
    finetune(args.base, home / "tuned", [str(rows)], seed=seed, **COMMON | steps | kind)
    write(args, result, attention, seed, home / "tuned", cpu_seconds=round(time.process_time() - began, 1))


def write(args: argparse.Namespace, result: Path, attention: str, seed: int, model: str | Path, **more: Any) -> None:
    """Score a model and write down what is found."""
    about = {"way": result.stem.rpartition("-")[0], "attention": attention, "seed": seed} | {key: vars(args)[key] for key in SAID}
    result.write_text(json.dumps(about | scores(model, args.documents) | more, indent=2) + "\n")


def names(half: str) -> list[str]:
    """Return the English names of a half's concepts, each once."""
    from twoway.data.sources.samples import load_world

    world = load_world()
    torn = world.torn()
    return sorted(
        {row["names"]["en"] for key, row in world.concepts.items() if row["half"] == half and key not in torn and "en" in row["names"]}
    )


def made(things: Sequence[str], count: int, seed: int, order: str | None = None) -> list[tuple[str, tuple[str, str], int]]:
    """Return so many documents: a query, the two chunks, and which of them is right. Without an order, each has one drawn by lot."""
    draw, found = random.Random(f"late/{seed}"), []
    pool: list[str] = []
    for _ in range(count):
        pool = pool or draw.sample(list(things), len(things))
        name, place = pool.pop(), draw.choice(PLACES)
        named, kept = NAMED.format(name=name), KEPT.format(place=place)
        before = (order or draw.choice(ORDERS)) == "before"
        found.append((ASKED.format(name=name, place=place), (named, kept) if before else (kept, named), int(before)))
    return found


def scores(model: str | Path, count: int) -> dict[str, float]:
    """Return the mean reciprocal rank of the right chunks, by order, alone and late."""
    from twoway.embedding import open_embedder

    engine, found = open_embedder(model, device="cpu", dtype="float32"), {}
    for order in ORDERS:
        asked = made(names("unseen"), count, 0, order)
        right = [2 * number + which for number, (_, _, which) in enumerate(asked)]
        queries = engine.array([Document((Text(query),)) for query, _, _ in asked], side="query")
        pieces = [chunk for _, chunks, _ in asked for chunk in chunked(chunks)]
        found[f"{order}_alone"] = reciprocal(queries @ vectors(engine, [Document(one.parts) for one in pieces]).T, right)
        found[f"{order}_late"] = reciprocal(queries @ vectors(LateEmbedder(engine), pieces).T, right)
    return found


def vectors(engine: Embedder, documents: Sequence[Document]) -> NDArray[np.float32]:
    """Embed documents, or chunks, as answers."""
    return engine.array(documents, side="document")


def chunked(texts: Sequence[str]) -> list[Chunk]:
    """Return the texts as chunks of one document."""
    whole = tuple(Document((Text(f"{text} "),)) for text in texts)
    return [Chunk(one.parts, whole=whole, number=number) for number, one in enumerate(whole)]


def reciprocal(nearness: NDArray[np.float32], right: Sequence[int]) -> float:
    """Return the mean of one over the place of the right candidate; where several are equally near, each has the middle place."""
    own = nearness[np.arange(len(right)), right][:, None]
    equal = np.isclose(nearness, own, rtol=0.0, atol=1e-5)
    return float(np.mean(1 / (((nearness > own) & ~equal).sum(axis=1) + (equal.sum(axis=1) + 1) / 2)))


def show(out: Path) -> None:
    """Print means with 95% intervals over seeds, and what reading both ways adds, seed by seed."""
    runs = [json.loads(path.read_text()) for path in sorted(out.glob("*-*-*.json"))]
    if not runs:
        print("nothing is measured yet")
        return
    print("{steps} steps of {batch} whole documents; {documents} documents of two chunks are searched".format(**runs[0]))
    ways = [f"{kind}-{attention}" for kind in ("tuned", "untrained", "search") for attention in ATTENTIONS]
    table = {way: {run["seed"]: run for run in runs if run["way"] == way} for way in ways}
    table = {way: found for way, found in table.items() if found}
    print_tables(table, COLUMNS, f"`{next(iter(table))}`")


if __name__ == "__main__":
    main()
