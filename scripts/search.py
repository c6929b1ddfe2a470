"""What a model finds among the samples' pictures, in figures; with --write, also the shipped model of `make demo` and its card.

`python -m scripts.search MODEL` prints the mean reciprocal rank of pictures asked for by their names, among as many pictures as are asked
for: one a concept, drawn by lot; and of pages. `--write samples/search` writes MODEL there in bfloat16, measured as it is written.
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
from twoway.data.sources.samples import HELD_LANGUAGES, LANGUAGES, World, load_world
from twoway.evaluation.metrics import chance, outcome, values
from twoway.files import write_whole
from twoway.search.store import normalized

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    import numpy as np

    from twoway.content import Part

ASKED = 1000
CARD = """# search: a small model that finds the samples' pictures

The nano base of the samples ([samples/base](../base/README.md)), made two-way and fine-tuned on pairs of the seen half of the samples. It
is what `make demo` searches with: a training of minutes shows how everything works, and finds less. A plain sentence-transformers model
of 8 million parameters; not a model of the open world.

## What it finds
Mean reciprocal rank (MRR) and share found first: pictures asked for by name, one of each concept drawn by lot, and pages asked for in words
that do not stand on them. The base has seen both halves, but not the held-out style; contrastive training has seen the seen half, and asks
in {trained}. The base has met names in {first} in its first stage alone; nothing has met those in {held}.

{table}

## Made by
    make search

It runs `twoway run recipes/nano-search.yaml build/nano/search`, then
`python -m scripts.search build/nano/search/3-pages --write samples/search`.
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
    """Yield, for each half, what is searched and each language, how well words find their pictures or pages."""
    world, embedder = load_world(), twoway.open_embedder(model)
    others = {language for row in world.concepts.values() for language in row["names"]} - set(LANGUAGES)
    languages = (*LANGUAGES, *sorted(others))

    def scored(half: str, style: str, rows: list[dict[str, Any]], words: Mapping[str, list[str | None]]) -> Iterator[dict[str, Any]]:
        answers = _vectors(embedder, [Image(row["image"]) for row in rows], "document")
        for language, called in words.items():
            known = [(place, Text(text)) for place, text in enumerate(called) if text]
            queries = _vectors(embedder, [text for _, text in known], "query")
            outcomes = [outcome(scores, [place]) for scores, (place, _) in zip(queries @ answers.T, known, strict=True)]
            yield {
                "half": half,
                "style": style,
                "language": language,
                "asked": len(known),
                "answers": len(rows),
                "mrr": values("mrr", outcomes).mean(),
                "first": values("precision@1", outcomes).mean(),
                "chance": chance("mrr", [len(rows)], [1]).mean,
            }

    for half in ("seen", "unseen"):
        for style in (None, *world.held_styles):
            pictures = asked(world, half, style)
            names = [world.concepts[key]["names"] for key in pictures]
            words = {language: [name.get(language) for name in names] for language in (languages if style is None else languages[:1])}
            yield from scored(half, style or "training", list(pictures.values()), words)
        pages = [row for row in world.pages if row["half"] == half and not world.torn() & set(row["concepts"])]
        yield from scored(half, "pages", pages, {language: [row["queries"].get(language) for row in pages] for language in LANGUAGES})


def _vectors(embedder: Any, parts: list[Part], side: str) -> np.ndarray[Any, Any]:
    """Return the unit vectors of texts or images."""
    return normalized(embedder.array([Document((part,)) for part in parts], side=side))


def table(found: Sequence[dict[str, Any]]) -> str:
    """Return the figures as a table."""
    lines = ["| half | style | asked in | queries | among | MRR | first | chance MRR |", "|---|---|---|---|---|---|---|---|"]
    for one in found:
        scores = f"{one['mrr']:.3f} | {one['first']:.3f} | {one['chance']:.3f}"
        lines.append(f"| {one['half']} | {one['style']} | {one['language']} | {one['asked']:,} | {one['answers']:,} | {scores} |")
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
    found = list(figures(model))
    text = table(found)
    print(text)
    if args.write:
        first = dict.fromkeys(one["language"] for one in found if one["language"] not in (*LANGUAGES, *HELD_LANGUAGES))
        write_whole(
            args.write / "README.md",
            CARD.format(table=text, trained=", ".join(LANGUAGES), first=", ".join(first), held=", ".join(HELD_LANGUAGES)),
        )


if __name__ == "__main__":
    main()
