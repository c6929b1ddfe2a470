"""Do pictures help words, and words pictures? Measured on held-out rows on the way: what MoCa's first stage claims (arXiv 2506.23115).

Masked words are restored with the right picture, with that of another row, and with none; masked patches with the right caption and that
of another row; and words beside a video with its frames backwards, too. Masks are the same in all cases and at every step, so differences
are of the same targets. Words are probed with whole pictures and patches with whole captions: what one modality gives the other is not
mixed with what masks take away.

Training notices nothing: no gradient, no random number and no mode is left changed. Every rank measures all rows: that needs no word
between ranks, and keeps the calls of sharded parts in step.
"""

from __future__ import annotations

import math
import re
import warnings
from collections import Counter, defaultdict
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch.distributed.fsdp import FSDPModule, register_fsdp_forward_method

from twoway.content import ContentError, Document, Part, Text, Video
from twoway.data.config import MaskingConfig
from twoway.data.masking import NO_TARGET, MaskedRow, mask_inputs
from twoway.images import DEFAULT

from .module import to_device

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from twoway.data.patches import PatchGeometry
    from twoway.data.processing import Example

WORD_LOSSES = ("mlm", "clm", "bridge")  # of masked words, of next ones, and of words behind a bridge
RIGHT, SHUFFLED, NONE, BACKWARDS = "right", "shuffled", "none", "backwards"
_AT_ONCE = 8
_EPOCH = -1  # masks of no epoch that is trained on


@dataclass(frozen=True)
class Predictions:
    """What a model says at the masked places of a batch, place by place, rows in order."""

    word_rows: torch.Tensor
    losses: torch.Tensor
    predicted: torch.Tensor
    targets: torch.Tensor  # what was right
    patch_rows: torch.Tensor
    patch_errors: torch.Tensor
    patches: torch.Tensor


class RowLosses(NamedTuple):
    """One entry for each row: the loss summed, the number of targets, and how many were right."""

    total: np.ndarray[Any, Any]
    targets: np.ndarray[Any, Any]
    hits: np.ndarray[Any, Any]

    @property
    def mean(self) -> float:
        """The mean over targets."""
        return float(self.total.sum() / self.targets.sum())


@dataclass(frozen=True)
class Prober:
    """Everything that turns a row into masked input, and how the model is run. Masks are `words` and `patches`, shares of a row."""

    encode: Callable[[str, Document], Example]
    collate: Callable[[Sequence[MaskedRow]], dict[str, Any]]
    geometry: PatchGeometry
    mask_token: int
    words: float = 0.4
    patches: float = 0.5
    keep: float = 0.0  # share of the words asked for that are seen all the same; all of them where each is said from those before it
    seed: int = 0
    device: str = "cpu"
    autocast: bool = False

    def word_rows(self, pair: ProbePair) -> dict[str, MaskedRow] | None:
        """Return a row with the same words masked under each picture; None where nothing can be compared."""
        alone = Document(tuple(part for part in pair.document.parts if isinstance(part, Text)), pair.document.place)
        return self._same_words(pair.identity, {RIGHT: pair.document, SHUFFLED: pair.swapped(texts=False), NONE: alone})

    def frame_rows(self, pair: ProbePair) -> dict[str, MaskedRow] | None:
        """Return a row with a video, and the same with its frames backwards, with the same words masked."""
        place, parts = pair.document.place, pair.document.parts
        try:
            turned = Document(tuple(part.backwards(place, DEFAULT) if isinstance(part, Video) else part for part in parts), place)
        except ContentError:
            return None
        return self._same_words(pair.identity, {RIGHT: pair.document, BACKWARDS: turned})

    def _same_words(self, identity: str, documents: Mapping[str, Document]) -> dict[str, MaskedRow] | None:
        """Return documents of the same texts with the same words masked; None where nothing can be compared."""
        try:
            examples = {name: self.encode(identity, document) for name, document in documents.items()}
        except ContentError:
            return None
        # Long rows are cut, and later without a picture: words that not all have are not probed.
        shared = min(int(example.words.sum()) for example in examples.values())
        kept = {name: replace(example, words=_first(example.words, shared)) for name, example in examples.items()}
        texts = [example.inputs["input_ids"][example.words] for example in kept.values()]
        if not shared or any(not torch.equal(text, texts[0]) for text in texts):
            return None
        masked = {name: self.mask(example, words=self.words) for name, example in kept.items()}
        if any(int(row.labels[0]) != NO_TARGET for row in masked.values()):
            # The very first token may have no position to be predicted from; then it counts nowhere.
            for row in masked.values():
                row.labels[(row.labels != NO_TARGET).nonzero()[0]] = NO_TARGET
        return masked if bool((masked[RIGHT].labels != NO_TARGET).any()) else None

    def patch_rows(self, pair: ProbePair) -> dict[str, MaskedRow] | None:
        """Return a row with the same patches masked under each caption; None where a long caption leaves other patches."""
        documents = {RIGHT: pair.document, SHUFFLED: pair.swapped(texts=True)}
        try:
            masked = {name: self.mask(self.encode(pair.identity, one), patches=self.patches) for name, one in documents.items()}
        except ContentError:
            return None
        same = torch.equal(masked[RIGHT].patch_targets, masked[SHUFFLED].patch_targets)
        return masked if same and len(masked[RIGHT].patch_targets) else None

    def mask(self, example: Example, *, words: float = 0.0, patches: float = 0.0) -> MaskedRow:
        """Mask an encoded row, the same way every time."""
        config = MaskingConfig(words=words, patches=patches, keep=self.keep)
        return mask_inputs(example, config, seed=self.seed, epoch=_EPOCH, mask_token=self.mask_token, geometry=self.geometry)

    def predict(self, module: Any, rows: Sequence[MaskedRow]) -> Predictions:
        """Ask the model about rows; within `undisturbed`."""
        batch = {key: value for key, value in self.collate(rows).items() if key != "identities"}
        with torch.autocast(torch.device(self.device).type, torch.bfloat16, enabled=self.autocast):
            answers: Predictions = module.predict(to_device(batch, torch.device(self.device)))
        return answers


def measure_modalities(module: Any, pairs: Sequence[ProbePair], prober: Prober) -> dict[str, float]:
    """Return losses, accuracies and gaps by name; nothing where there is nothing to measure. `module.predict` answers for a batch."""
    found: dict[str, float] = {}
    with evaluating(module):
        if any(name in module.loss_weights for name in WORD_LOSSES):
            sums = _sums(module, prober, pairs, prober.word_rows, words=True)
            for name, one in sums.items():
                found |= {f"words_{name}": one.mean, f"words_{name}_accuracy": float(one.hits.sum() / one.targets.sum())}
            found |= gaps("words", sums)
            moving = [pair for pair in pairs if any(isinstance(part, Video) for part in pair.document.parts)]
            found |= gaps("frames", _sums(module, prober, moving, prober.frame_rows, words=True))
        if "mae" in module.loss_weights:
            sums = _sums(module, prober, pairs, prober.patch_rows, words=False)
            found |= {f"patches_{name}": one.mean for name, one in sums.items()} | gaps("patches", sums)
    return {name: round(value, 6) for name, value in found.items()}


@contextmanager
def evaluating(module: Any, methods: Sequence[str] = ("predict",)) -> Iterator[None]:
    """Run `methods` of a module without gradients in evaluation mode, and leave it and the random numbers as they were."""
    modes = [(part, part.training) for part in module.modules()]
    if isinstance(module, FSDPModule):
        sharded: Any = module
        for method in methods:
            register_fsdp_forward_method(sharded, method)
    try:
        # What is looked at now and then is not worth compiling for.
        with torch.compiler.set_stance("force_eager"), warnings.catch_warnings(), torch.random.fork_rng(), torch.no_grad():
            warnings.simplefilter("ignore")  # of many accelerators, all are kept
            module.eval()
            yield
    finally:
        for part, training in modes:
            part.training = training


def _sums(
    module: Any, prober: Prober, pairs: Sequence[ProbePair], make: Callable[[ProbePair], dict[str, MaskedRow] | None], *, words: bool
) -> dict[str, RowLosses]:
    """Add the losses of each row up, in each of its cases."""
    cases: dict[str, list[RowLosses]] = defaultdict(list)
    for start in range(0, len(pairs), _AT_ONCE):
        made = [row for pair in pairs[start : start + _AT_ONCE] if (row := make(pair)) is not None]
        for name in made[0] if made else ():
            answers = prober.predict(module, [row[name] for row in made])
            rows, loss = (answers.word_rows, answers.losses) if words else (answers.patch_rows, answers.patch_errors)
            hits = (answers.predicted == answers.targets).double() if words else torch.zeros_like(loss)
            index, each = rows.cpu().numpy(), (loss, torch.ones_like(loss), hits)
            cases[name].append(RowLosses(*(np.bincount(index, one.double().cpu().numpy(), len(made)) for one in each)))
    return {name: RowLosses(*(np.concatenate(part) for part in zip(*many, strict=True))) for name, many in cases.items()}


def gaps(kind: str, sums: dict[str, RowLosses]) -> dict[str, float]:
    """Return what the right one saves against each other, with its standard error over rows, and the number of rows and targets."""
    found: dict[str, float] = {}
    if not sums:
        return found
    right = sums[RIGHT]
    many, targets = len(right.targets), float(right.targets.sum())
    for name, other in sums.items():
        if name != RIGHT:
            gap = float((other.total - right.total).sum() / targets)
            found[f"{kind}_gap_{name}"] = gap
            if many > 1:
                spread = (other.total - right.total) - gap * right.targets
                found[f"{kind}_gap_{name}_error"] = math.sqrt(float((spread**2).sum()) * many / (many - 1)) / targets
    return found | {f"{kind}_rows": many, f"{kind}_probed": targets}


def _first(words: torch.Tensor, count: int) -> torch.Tensor:
    return words & (words.cumsum(0) <= count)


# Each held-out row with another one, whose picture or caption stands in for its own when it is asked whether they
# help.
#
# The other row has parts of the same kinds in the same order, none of the same pictures or texts, and, where there is
# such a row, no word in common either but those that many rows have: a drawing of a cat is no wrong picture for
# another drawing of a cat.

_MANY = 8  # a word that more than one row in so many has says little about one of them


@dataclass(frozen=True)
class ProbePair:
    """A row and another one of its form."""

    identity: str
    document: Document
    other: Document

    def swapped(self, *, texts: bool) -> Document:
        """Return the row with the other one's texts, or with what else the other one has."""
        both = zip(self.document.parts, self.other.parts, strict=True)
        return Document(tuple(theirs if isinstance(theirs, Text) == texts else ours for ours, theirs in both), self.document.place)


def pair_pictured_rows(rows: Sequence[tuple[str, Document]]) -> list[ProbePair]:
    """Pair rows that have a picture and a text; a row that no other fits is left out."""
    return pair_rows([(identity, document) for identity, document in rows if document.media and document.texts])


def pair_rows(rows: Sequence[tuple[str, Document]]) -> list[ProbePair]:
    """Pair rows of any kind; a row that no other fits is left out."""
    groups: dict[tuple[type[Part], ...], list[tuple[str, Document]]] = defaultdict(list)
    for identity, document in rows:
        groups[tuple(type(part) for part in document.parts)].append((identity, document))
    return [made for group in groups.values() for made in _within(group)]


def _within(group: list[tuple[str, Document]]) -> list[ProbePair]:
    contents = [{Document((part,), document.place).fingerprint() for part in document.parts} for _, document in group]
    words = [{word for text in document.texts for word in re.findall(r"\w+", text.casefold())} for _, document in group]
    counts = Counter(word for one in words for word in one)
    common = {word for word, count in counts.items() if count > max(2, len(group) // _MANY)}
    pairs = []
    for number, (identity, document) in enumerate(group):
        turn = [(number + step) % len(group) for step in range(1, len(group))]
        different = [other for other in turn if not contents[number] & contents[other]]
        apart = [other for other in different if not (words[number] & words[other]) - common]
        if different:
            pairs.append(ProbePair(identity, document, group[(apart or different)[0]][1]))
    return pairs
