"""What a model finds among the samples' pictures, in figures; with --write, also the shipped model of `make demo` and its card.

`python -m scripts.search MODEL` prints the mean reciprocal rank of pictures asked for by their names, among as many pictures as are asked
for: one a concept, drawn by lot. `--write samples/search` writes MODEL there in bfloat16, measured as it is written.
"""

from __future__ import annotations

import argparse
import random
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

import twoway
from twoway.cli import main as run
from twoway.content import Document, Image, Text
from twoway.data.sources.samples import LANGUAGES, World, load_world
from twoway.evaluation.metrics import chance, outcome, values
from twoway.files import write_whole
from twoway.search.store import normalized

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

ASKED = 1000
CARD = """# search: a small model that finds the samples' pictures

The nano base of the samples ([samples/base](../base/README.md)), made two-way and fine-tuned on pairs of the seen half of the samples. It
is what `make demo` searches with: a training of minutes shows how everything works, and finds less. A plain sentence-transformers model
of 8 million parameters; not a model of the open world.

## What it finds
Pictures asked for by name, mean reciprocal rank (MRR) and share found first, among as many pictures as are asked for: one of each concept,
drawn by lot. Contrastive training has seen the seen half; the base has seen both halves, but not the held-out style. Contrastive
training asks in {trained}; the base has met the names in the other languages in its first stage alone.

{table}

## Made by
    make search

It runs `twoway run recipes/nano-search.yaml build/nano/search`, then
`python -m scripts.search build/nano/search/2-finetune --write samples/search`.
Licence: Apache-2.0; the licences of the samples are in their ATTRIBUTION.
"""


def asked(world: World, half: str, style: str | None) -> dict[str, dict[str, Any]]:
    """Return a picture of each of 1,000 concepts, or of as many as there are."""
    if style is None:
        drawn = world.one_each(half)
    else:
        drawn = {row["concept"]: row for row in world.drawn(style=style, half=half) if row["id"] not in world.twins}
    keys = sorted(drawn)
    return {key: drawn[key] for key in random.Random("search").sample(keys, min(ASKED, len(keys)))}


def figures(model: str | Path) -> Iterator[dict[str, Any]]:
    """Yield, for each half, style and language, how well names find their pictures."""
    world, embedder = load_world(), twoway.open_embedder(model)
    others = {language for row in world.concepts.values() for language in row["names"]} - set(LANGUAGES)
    languages = (*LANGUAGES, *sorted(others))
    for half in ("seen", "unseen"):
        for style in (None, *world.held_styles):
            rows = asked(world, half, style)
            pictures = normalized(embedder.array([Document((Image(row["image"]),)) for row in rows.values()], side="document"))
            for language in languages if style is None else languages[:1]:
                named = [(place, name) for place, key in enumerate(rows) if (name := world.concepts[key]["names"].get(language))]
                queries = normalized(embedder.array([Document((Text(name),)) for _, name in named], side="query"))
                outcomes = [outcome(scores, [place]) for scores, (place, _) in zip(queries @ pictures.T, named, strict=True)]
                yield {
                    "half": half,
                    "style": style or "training",
                    "language": language,
                    "asked": len(named),
                    "pictures": len(rows),
                    "mrr": values("mrr", outcomes).mean(),
                    "first": values("precision@1", outcomes).mean(),
                    "chance": chance("mrr", [len(rows)], [1]).mean,
                }


def table(found: Sequence[dict[str, Any]]) -> str:
    """Return the figures as a table."""
    lines = ["| half | style | asked in | names | pictures | MRR | first | chance MRR |", "|---|---|---|---|---|---|---|---|"]
    for one in found:
        scores = f"{one['mrr']:.3f} | {one['first']:.3f} | {one['chance']:.3f}"
        lines.append(f"| {one['half']} | {one['style']} | {one['language']} | {one['asked']:,} | {one['pictures']:,} | {scores} |")
    return "\n".join(lines)


def main(argv: list[str] | None = None) -> None:
    """Measure, and write where that is asked for."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("--write", type=Path, metavar="OUT", help="write the model there in bfloat16, with a card")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    args = parser.parse_args(argv)
    torch.set_num_threads(args.threads)
    model: Path = args.model
    if args.write:
        if code := run(["convert", str(model), str(args.write), "--dtype", "bfloat16", "--overwrite"]):
            sys.exit(code)
        model = args.write
    text = table(list(figures(model)))
    print(text)
    if args.write:
        write_whole(args.write / "README.md", CARD.format(table=text, trained=", ".join(LANGUAGES)))


if __name__ == "__main__":
    main()
