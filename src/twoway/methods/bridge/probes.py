"""What EOS carries, measured on held-out rows on the way (CoCoA, arXiv 2603.01471, asks for one token that holds everything).

- B's masked words are restored with the right A, with another row's A, and with EOS cut off from A. What the right A saves over the last is
  the information that went through EOS, in nats a word. B's first word is always among the masked ones: EOS alone says it.
- The vectors of A and of B at EOS, as at inference, with nothing behind it, beside the mean of all states of the same model: what they are
  like, and how often A's nearest B is its own.

Masks are the same in all cases and at every step. Rows are measured as `probes` measures them, and training notices nothing.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch

from twoway.content import ContentError, Document, Text
from twoway.data.masking import NO_TARGET
from twoway.training.module import to_device
from twoway.training.probes import NONE, RIGHT, SHUFFLED, Predictions, RowLosses, evaluating, gaps

from .rows import BridgeExample, cut_in_two

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from twoway.data.patches import PatchGeometry
    from twoway.training.probes import ProbePair

    from .rows import BridgeEncoder, BridgeRow

    Vectors = np.ndarray[Any, Any]

AttentionMass = torch.Tensor  # (layers, 4): to pictures, to A's text, to EOS itself, to B
REGIONS = ("pictures", "text of A", "EOS itself", "B")
METHODS = ("predict", "embed", "attend")
_AT_ONCE = 8
_EPOCH = -1  # masks of no epoch that is trained on
_KIND = "words"


class Embedded(NamedTuple):
    """The vectors of a batch of rows."""

    last: torch.Tensor
    mean: torch.Tensor


@dataclass(frozen=True)
class BridgeProber:
    """Everything that turns a pair of rows into input, and how the model is run."""

    encode: BridgeEncoder
    mask: Callable[..., BridgeRow]
    collate: Callable[[Sequence[BridgeRow]], dict[str, Any]]
    geometry: PatchGeometry
    mask_token: int
    device: str = "cpu"
    autocast: bool = False

    def word_rows(self, pair: ProbePair) -> dict[str, BridgeRow] | None:
        """Return a row with the same words of B masked behind each A; None where nothing can be compared."""
        found = cut_in_two(pair.document)
        other = Document((*cut_in_two(pair.other).a.parts, Text(found.b)), pair.document.place)
        try:
            rows = {name: self._masked(pair.identity, one) for name, one in ((RIGHT, pair.document), (SHUFFLED, other))}
        except ContentError:
            return None
        targets = [row.labels[row.labels != NO_TARGET] for row in rows.values()]
        return rows | {NONE: rows[RIGHT]} if torch.equal(*targets) else None

    def _masked(self, identity: str, document: Document) -> BridgeRow:
        """Mask a row of B, its first word always."""
        row = self.mask(self.encode(identity, document), epoch=_EPOCH)
        first = row.eos + 1
        if row.labels[first] == NO_TARGET:
            row.labels[first] = row.inputs["input_ids"][first]
            row.inputs["input_ids"] = row.inputs["input_ids"].index_fill(0, torch.tensor([first]), self.mask_token)
        return row

    def alone(self, identity: str, document: Document, *, eos: bool) -> BridgeRow:
        """Return a row as it is embedded, with its EOS or without one."""
        if eos:
            return self.mask(self.encode.alone(identity, document), epoch=_EPOCH)
        plain = self.encode.source(identity, document)
        return self.mask(BridgeExample(**vars(plain) | {"words": torch.zeros_like(plain.words)}), epoch=_EPOCH)

    def batch(self, rows: Sequence[BridgeRow]) -> dict[str, Any]:
        """Put rows together, where the model is."""
        made: dict[str, Any] = to_device(
            {key: value for key, value in self.collate(rows).items() if key != "identities"}, torch.device(self.device)
        )
        return made

    def predict(self, module: Any, rows: Sequence[BridgeRow], *, cut_off: bool = False) -> Predictions:
        """Ask the model about rows; within `undisturbed`."""
        with self.precision():
            answers: Predictions = module.predict(self.batch(rows) | {"cut_off": cut_off})
        return answers

    def precision(self) -> torch.autocast:
        """Return the arithmetic that training has."""
        return torch.autocast(torch.device(self.device).type, torch.bfloat16, enabled=self.autocast)


def measure_bridge(module: Any, pairs: Sequence[ProbePair], prober: BridgeProber, *, vectors: bool = True) -> dict[str, float]:
    """Return what was found, by name; nothing where there is nothing to measure."""
    found: dict[str, float] = {}
    with evaluating(module, METHODS):
        cases, modality = _losses(module, pairs, prober)
        if cases:
            found |= _said(cases, modality)
        if vectors and len(pairs) > 1:
            found |= _vectors(module, pairs, prober)
    return {name: round(float(value), 6) for name, value in found.items()}


def eos_attention(module: Any, pairs: Sequence[ProbePair], prober: BridgeProber) -> list[list[float]]:
    """Return the share of its attention that EOS gives to each of `REGIONS`, layer by layer; empty where it cannot be seen."""
    shares: list[torch.Tensor] = []
    with evaluating(module, METHODS), prober.precision():
        for start in range(0, len(pairs), _AT_ONCE):
            rows = [made[RIGHT] for pair in pairs[start : start + _AT_ONCE] if (made := prober.word_rows(pair)) is not None]
            if rows:
                batch = prober.batch(rows)
                mass = module.attend(batch, batch["inputs"]["input_ids"] == prober.geometry.image_token)
                shares.append(mass.cpu() * len(rows))
    found = torch.stack(shares).sum(0) if shares else torch.zeros(0)
    return [[round(float(one), 6) for one in layer / layer.sum()] for layer in found]


def _losses(module: Any, pairs: Sequence[ProbePair], prober: BridgeProber) -> tuple[dict[str, tuple[RowLosses, RowLosses]], list[str]]:
    """Add up, for each row and case, the loss of all masked words and of the first one alone."""
    cases: dict[str, list[tuple[RowLosses, RowLosses]]] = defaultdict(list)
    modality: list[str] = []
    for start in range(0, len(pairs), _AT_ONCE):
        made = [(pair, rows) for pair in pairs[start : start + _AT_ONCE] if (rows := prober.word_rows(pair)) is not None]
        modality += [cut_in_two(pair.document).modality for pair, _ in made]
        for name in (RIGHT, SHUFFLED, NONE) if made else ():
            answers = prober.predict(module, [rows[name] for _, rows in made], cut_off=name == NONE)
            index, hits = answers.word_rows.cpu(), (answers.predicted == answers.targets).double()
            first = torch.cat([torch.ones(1, dtype=torch.bool), index[1:] != index[:-1]]).double()
            each = [one.double().cpu() for one in (answers.losses, torch.ones_like(answers.losses), hits)]
            sums = [
                RowLosses(*(np.bincount(index.numpy(), (one * kept).numpy(), len(made)) for one in each))
                for kept in (torch.ones(len(first)), first)
            ]
            cases[name].append((sums[0], sums[1]))
    return {name: (_together(many, 0), _together(many, 1)) for name, many in cases.items()}, modality


def _together(many: Sequence[tuple[RowLosses, RowLosses]], which: int) -> RowLosses:
    return RowLosses(*(np.concatenate(part) for part in zip(*(one[which] for one in many), strict=True)))


def _said(cases: dict[str, tuple[RowLosses, RowLosses]], modality: Sequence[str]) -> dict[str, float]:
    """Return losses, accuracies and gaps, over all rows and by what A is made of."""
    found: dict[str, float] = {}
    for name, (words, first) in cases.items():
        found |= {f"{_KIND}_{name}": words.mean, f"{_KIND}_{name}_accuracy": words.hits.sum() / words.targets.sum()}
        found |= {f"first_{name}_accuracy": first.hits.sum() / first.targets.sum(), f"first_{name}": first.mean}
    found |= gaps(_KIND, {name: words for name, (words, _) in cases.items()})
    kinds = np.array(modality)
    for kind in sorted(set(modality)):
        here = {name: RowLosses(*(one[kinds == kind] for one in words)) for name, (words, _) in cases.items()}
        found |= {f"{_KIND}_{name}/{kind}": one.mean for name, one in here.items()}
        found |= {f"{name}/{kind}": value for name, value in gaps(_KIND, here).items() if not name.endswith("_probed")}
    return found


def _vectors(module: Any, pairs: Sequence[ProbePair], prober: BridgeProber) -> dict[str, float]:
    """Embed A and B of every row, at EOS and as the mean of states, and say what their vectors are like."""
    made: dict[tuple[str, bool], list[np.ndarray[Any, Any]]] = defaultdict(list)
    texts: list[str] = []
    for start in range(0, len(pairs), _AT_ONCE):
        rows: dict[tuple[str, bool], list[BridgeRow]] = defaultdict(list)
        for pair in pairs[start : start + _AT_ONCE]:
            found = cut_in_two(pair.document)
            documents = {"a": found.a, "b": Document((Text(found.b),), found.a.place)}
            cases = [(side, eos) for side in documents for eos in (True, False)]
            try:
                row = {(side, eos): prober.alone(pair.identity, documents[side], eos=eos) for side, eos in cases}
            except ContentError:
                continue
            texts.append(found.b)
            for case, one in row.items():
                rows[case].append(one)
        for case, some in rows.items():
            with prober.precision():
                vectors = module.embed(prober.batch(some)["inputs"])
            made[case].append((vectors.last if case[1] else vectors.mean).float().cpu().numpy())
    said: dict[str, float] = {}
    for name, eos in (("eos", True), ("mean", False)) if len(texts) > 1 else ():
        a, b = (np.concatenate(made[side, eos]) for side in "ab")
        said |= {f"{key}_{name}": value for key, value in (geometry(a, b) | retrieval(a, b, texts)).items()}
    return said


# What a set of vectors is like: how many dimensions it uses, how evenly it lies, and whether each row finds its own
# answer.
#
# Effective rank is the exponential of the entropy of the shares of singular values (RankMe, arXiv 2210.02885), here
# of centred unit vectors, so that a direction that all share counts for none. Uniformity and alignment are those of
# arXiv 2005.10242 (t = 2, squared distance).


def unit(vectors: Vectors) -> Vectors:
    """Return the vectors at length one."""
    lengths: Vectors = np.linalg.norm(vectors, axis=1, keepdims=True)
    made: Vectors = vectors / np.maximum(lengths, np.finfo(np.float32).tiny)
    return made


def geometry(a: Vectors, b: Vectors) -> dict[str, float]:
    """Return effective rank and uniformity of `a`, and its alignment with `b`, row by row."""
    a, b = unit(a.astype(np.float64)), unit(b.astype(np.float64))
    spread = np.linalg.svd(a - a.mean(0), compute_uv=False)
    shares = spread[spread > 0] / spread.sum() if spread.sum() else np.ones(1)
    apart = np.square(a[:, None] - a[None]).sum(-1)[np.triu_indices(len(a), 1)]
    return {
        "rank": float(np.exp(-(shares * np.log(shares)).sum())),
        "uniformity": float(np.log(np.exp(-2 * apart).mean())) if len(apart) else 0.0,
        "alignment": float(np.square(a - b).sum(1).mean()),
    }


def retrieval(a: Vectors, b: Vectors, texts: Sequence[str]) -> dict[str, float]:
    """Return how often the nearest of all different texts is a row's own, and the mean of one over its place; ties count against."""
    keys = [text.strip().casefold() for text in texts]
    first = {key: number for number, key in reversed(list(enumerate(keys)))}
    offered = sorted(first.values())
    own = np.searchsorted(offered, [first[key] for key in keys])
    scores = unit(a.astype(np.float64)) @ unit(b.astype(np.float64))[offered].T
    places = (scores >= scores[np.arange(len(own)), own][:, None]).sum(1)
    return {"recall": float((places == 1).mean()), "reciprocal": float((1 / places).mean()), "candidates": float(len(offered))}
