"""Batches of one shape, a pure function of (seed, step): nothing but the step has to be remembered to go on.

Concepts come in permutations, so that all are met equally often. Most batches are single pictures with text-only rows beside them; some are
pairs of pictures, canvases composed of four, larger pictures or pages, with fewer rows so that every batch costs about the same.
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from twoway.data.augment import augment, plain
from twoway.data.config import AugmentConfig

from . import rows

if TYPE_CHECKING:
    from .config import NanoConfig
    from .rows import Part
    from .table import World

AUGMENT = AugmentConfig(
    scale=(0.9, 1.15),
    rotate=math.degrees(0.15),
    shift=0.08,
    flip=0.5,
    background=0.5,
    colour=0.25,
    grey=0.08,
    lines=0.04,
    two_tone=0.04,
    invert=0.03,
)


@dataclass(frozen=True)
class Batch:
    """Token ids, where pictures begin, the pictures in order, and the places that predict a target."""

    ids: Tensor  # (rows, length)
    starts: Tensor  # (rows, pictures a row); the length where a row has none
    pixels: Tensor  # (pictures, 3, side, side) in 0..1
    places: Tensor  # flat places whose hidden state predicts
    targets: Tensor
    weights: Tensor
    runs: tuple[tuple[slice, int], ...]  # rows of about equal length, and that length: the language model reads run by run


Line = tuple[list[int], list[int], list[int]]  # ids, where pictures begin, which places are learned
RUNS = 4
ROUND = 4


def _runs(lengths: list[int], longest: int) -> tuple[tuple[slice, int], ...]:
    """Cut rows sorted by length into a few runs, each with its own longest, rounded up so that few shapes occur."""
    size = -(-len(lengths) // RUNS)
    cuts = range(0, len(lengths), size)
    ends = (lengths[min(cut + size, len(lengths)) - 1] for cut in cuts)
    return tuple((slice(cut, cut + size), min(longest, -(-end // ROUND) * ROUND)) for cut, end in zip(cuts, ends, strict=True))


class Rows:
    """The deterministic stream of a run's batches."""

    def __init__(self, world: World, tokenizer: Any, picture: Any, config: NanoConfig) -> None:
        """`picture(side)` gives the token ids of a picture of `side` pixels and how many come before its first image token."""
        self.world, self.config, self.picture = world, config, picture
        self.end, self.pad = tokenizer.eos_token_id, tokenizer.pad_token_id
        self.encode = lru_cache(maxsize=200_000)(lambda text: tuple(tokenizer.encode(text, add_special_tokens=False)))
        self.pixels = torch.from_numpy(world.pixels)
        self._permutation = lru_cache(maxsize=4)(self._shuffled)

    def batch(self, step: int) -> Batch:
        """Return the batch of one step."""
        rng = random.Random(f"{self.config.seed}/{step}")
        generator = torch.Generator().manual_seed(rng.getrandbits(62))
        concepts = [self._concept(step * self.config.batch + place) for place in range(self.config.batch)]
        made: Batch = getattr(self, f"_{self._kind(rng)}")(step, concepts, rng, generator)
        return made

    def pictures(self, step: int, count: int, rng: random.Random, generator: torch.Generator) -> tuple[list[int], Tensor]:
        """Return the concepts whose turn it is in a step of `count` pictures, and one augmented picture of each."""
        concepts = [self._concept(step * count + place) for place in range(count)]
        pictures = [rng.choice(self.world.trained[place]) for place in concepts]
        return concepts, self._augmented(concepts, pictures, self.config.picture, generator)

    def captions(self, concepts: list[int], pictures: list[int], label: str, *, bare: float = 0.0, short: bool = False) -> Batch:
        """Return picture and caption rows for measuring: the same for the same label, drawn apart from those of training.

        `short` captions are names, templates and keywords, without definitions and facts.
        """
        rng = random.Random(f"{self.config.seed}/measure/{label}")
        generator = torch.Generator().manual_seed(rng.getrandbits(62))
        known = [self.world.concepts[place] | ({"gloss": "", "facts": {}} if short else {}) for place in concepts]
        parts = [rows.caption_row(concept, rng, bare) for concept in known]
        return self._collate(parts, self._augmented(concepts, pictures, self.config.picture, generator))

    def _kind(self, rng: random.Random) -> str:
        """Draw what a batch is made of."""
        config, drawn = self.config, rng.random()
        shares = {
            "pairs": config.pairs,
            "canvases": config.canvases,
            "scenes": config.scenes,
            "large": config.large,
            "pages": config.pages if self.world.pages else 0.0,
        }
        for kind, share in shares.items():
            if drawn < share:
                return kind
            drawn -= share
        return "singles"

    def _shuffled(self, epoch: int) -> np.ndarray:
        return np.random.default_rng([self.config.seed, epoch]).permutation(len(self.world.concepts))

    def _concept(self, row: int) -> int:
        """Return the concept of a running row number."""
        epoch, place = divmod(row, len(self.world.concepts))
        return int(self._permutation(epoch)[place])

    def _augmented(self, concepts: list[int], pictures: list[int], side: int, generator: torch.Generator) -> Tensor:
        flips = torch.from_numpy(self.world.flips[concepts])
        hues = torch.from_numpy(self.world.hues[concepts])
        return augment(self.pixels[pictures], (side, side), generator, AUGMENT, may_flip=flips, keep_colours=hues)

    def _singles(self, step: int, concepts: list[int], rng: random.Random, generator: torch.Generator) -> Batch:
        config, world = self.config, self.world
        bare = config.bare_share if step * config.batch < config.bare_rows else 0.0
        pictures = [rng.choice(world.trained[place]) for place in concepts]
        parts = []
        for place, picture in zip(concepts, pictures, strict=True):
            concept = world.concepts[place]
            asks = rng.random() < config.questions
            parts.append(rows.question_row(concept, world.styles[picture], rng) if asks else rows.caption_row(concept, rng, bare))
        texts = [rows.text_row(rng.choice(world.concepts), world.texts, rng, bare) for _ in range(config.text_rows)]
        return self._collate(parts + texts, self._augmented(concepts, pictures, config.picture, generator))

    def _large(self, step: int, concepts: list[int], rng: random.Random, generator: torch.Generator) -> Batch:
        side = self.config.picture * 3 // 2
        concepts = concepts[: max(1, self.config.batch * 4 // 9)]
        pictures = [rng.choice(self.world.trained[place]) for place in concepts]
        parts = [rows.caption_row(self.world.concepts[place], rng, 0.0) for place in concepts]
        return self._collate(parts, self._augmented(concepts, pictures, side, generator))

    def _pairs(self, step: int, concepts: list[int], rng: random.Random, generator: torch.Generator) -> Batch:
        concepts = concepts[: len(concepts) // 2 * 2]
        pictures = [rng.choice(self.world.trained[place]) for place in concepts]
        known = [self.world.concepts[place] for place in concepts]
        parts = [rows.pair_row(first, second, rng) for first, second in zip(known[::2], known[1::2], strict=True)]
        return self._collate(parts, self._augmented(concepts, pictures, self.config.picture, generator))

    def _canvases(self, step: int, concepts: list[int], rng: random.Random, generator: torch.Generator) -> Batch:
        shown, pixels = self._in_fours(concepts, rng, generator)
        return self._collate([rows.canvas_row(four) for four in shown], pixels)

    def _scenes(self, step: int, concepts: list[int], rng: random.Random, generator: torch.Generator) -> Batch:
        shown, pixels = self._in_fours(concepts, rng, generator)
        return self._collate([rows.scene_row(four, rng) for four in shown], pixels)

    def _in_fours(self, concepts: list[int], rng: random.Random, generator: torch.Generator) -> tuple[list[list[dict[str, Any]]], Tensor]:
        """Return concepts by fours, and the picture of each four: two rows of two."""
        concepts = concepts[: len(concepts) // 4 * 4]
        pictures = [rng.choice(self.world.trained[place]) for place in concepts]
        tiles = self._augmented(concepts, pictures, self.config.picture, generator)
        two_by_two = tiles.view(-1, 2, 2, *tiles.shape[1:]).permute(0, 3, 1, 4, 2, 5).flatten(4).flatten(2, 3)
        shown = [[self.world.concepts[place] for place in concepts[first : first + 4]] for first in range(0, len(concepts), 4)]
        return shown, two_by_two

    def _pages(self, step: int, concepts: list[int], rng: random.Random, generator: torch.Generator) -> Batch:
        pages = self.world.pages
        assert pages is not None
        share = (self.config.picture / self.config.largest) ** 2
        chosen = [rng.randrange(len(pages.texts)) for _ in range(max(1, int(self.config.batch * share)))]
        parts: list[list[Part]] = [[rows.PICTURE, rows.BREAK, (pages.texts[place], True)] for place in chosen]
        return self._collate(parts, plain(torch.from_numpy(pages.pixels[chosen]), self.config.largest))

    def _collate(self, parts: list[list[Part]], pixels: Tensor) -> Batch:
        """Put rows of parts into one batch, padded to its longest row."""
        prefix, before = self.picture(pixels.shape[-1])
        lines = [self._line(row, prefix, before) for row in parts]
        with_picture = [len(ids) for ids, starts, _ in lines if starts]
        length = max(with_picture or [len(ids) for ids, _, _ in lines])
        length = -(-length // ROUND) * ROUND
        order = sorted(range(len(lines)), key=lambda number: len(lines[number][0]))
        pixels = self._follow(pixels, order, lines)
        lines = [lines[number] for number in order]
        ids = torch.full((len(lines), length), self.pad)
        most = max(len(starts) for _, starts, _ in lines)
        begins = torch.full((len(lines), most), length)
        places, targets, weights = [], [], []
        for number, (line, starts, learned) in enumerate(lines):
            ids[number, : len(line)] = torch.tensor(line[:length])
            begins[number, : len(starts)] = torch.tensor(starts, dtype=torch.long)
            weight = 1.0 if starts else self.config.text_weight
            for place in learned:
                if place < length:
                    places.append(number * length + place - 1)
                    targets.append(line[place])
                    weights.append(weight)
        return Batch(
            ids,
            begins,
            pixels,
            torch.tensor(places),
            torch.tensor(targets),
            torch.tensor(weights),
            _runs([len(line) for line, _, _ in lines], length),
        )

    @staticmethod
    def _follow(pixels: Tensor, order: list[int], lines: list[Line]) -> Tensor:
        """Bring the pictures into the order of their rows."""
        counts = [len(starts) for _, starts, _ in lines]
        first = np.cumsum([0, *counts])
        return pixels[[place for number in order for place in range(first[number], first[number] + counts[number])]]

    def _line(self, row: list[Part], prefix: list[int], before: int) -> Line:
        """Return one row's ids, the places where its pictures begin and the places to be learned."""
        ids: list[int] = []
        starts: list[int] = []
        learned: list[int] = []
        room = self.config.longest * (2 if row.count(rows.PICTURE) > 1 else 1)
        for part in row:
            if part is None:
                starts.append(len(ids) + before)
                ids.extend(prefix)
                continue
            text, learn = part
            pieces = [*self.encode(text), *([self.end] if part is row[-1] else [])]
            if learn:
                pieces = pieces[:room]
                # the first token of a text without a picture has nothing to be predicted from
                learned.extend(range(max(1, len(ids)), len(ids) + len(pieces)))
            ids.extend(pieces)
        return ids, starts, learned
