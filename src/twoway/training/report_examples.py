"""What the model restores, row by row: pictures beside what was masked and what it painted, and sentences with the words it says."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from twoway.data.corrupt import NO_TARGET
from twoway.data.pixels import pictures

from .probes import RIGHT, SHUFFLED, WORD_LOSSES, undisturbed

if TYPE_CHECKING:
    from collections.abc import Sequence

    from PIL import Image as PILImage

    from twoway.data.corrupt import Corrupted

    from .pairs import Pair
    from .probes import Answers, Prober

_TOKENS = 60  # of a sentence
_ROWS = 12


@dataclass(frozen=True)
class Word:
    """A piece of a sentence; `said` is what stands in its place where it was masked."""

    text: str
    said: str | None = None
    right: bool = False


@dataclass(frozen=True)
class Sentence:
    """One masked sentence as the model fills it in, once under its own picture and once under another."""

    identity: str
    shown: dict[str, PILImage.Image]
    words: dict[str, list[Word]]


@dataclass(frozen=True)
class Restored:
    """One picture: as it is, as the model sees it, and with what the model puts in."""

    identity: str
    caption: str
    original: PILImage.Image
    masked: PILImage.Image
    restored: PILImage.Image
    error: float


@dataclass(frozen=True)
class Examples:
    """What there is to look at."""

    sentences: list[Sentence] = field(default_factory=list)
    restored: list[Restored] = field(default_factory=list)


def collect(task: Any, pairs: Sequence[Pair], prober: Any, processor: Any, methods: Sequence[str] = ("look",)) -> Examples:
    """Let the model restore a few rows; `prober` makes and asks them, and `methods` of the task are what it calls."""
    made = Examples()
    with undisturbed(task, methods):
        for pair in pairs[:_ROWS]:
            if any(name in task.weights for name in WORD_LOSSES) and (rows := prober.word_rows(pair)) is not None:
                made.sentences.append(_sentence(task, pair, rows, prober, processor))
            if "mae" in task.weights and (rows := prober.patch_rows(pair)) is not None:
                found = _restored(task, pair, rows[RIGHT], prober, processor)
                made.restored.extend([found] if found is not None else [])
    return made


def _sentence(task: Any, pair: Pair, rows: dict[str, Corrupted], prober: Prober, processor: Any) -> Sentence:
    shown, words = {}, {}
    for name in (RIGHT, SHUFFLED):
        seen = [] if prober.geometry.trouble else pictures(prober.geometry, rows[name].inputs, processor.image_processor)
        if seen:
            shown[name] = seen[0]
        words[name] = _words(rows[name], prober.ask(task, [rows[name]]), processor.tokenizer)
    return Sentence(pair.identity, shown, words)


def _words(row: Corrupted, answers: Answers, tokenizer: Any) -> list[Word]:
    """Write the text around the masked words, and the words; special tokens are left out."""
    ids, labels = row.inputs["input_ids"].tolist(), row.labels.tolist()
    places = [place for place, label in enumerate(labels) if label != NO_TARGET]
    # With `shift` a first token has no answer; such rows have that label taken away before.
    said = dict(zip(places, answers.said.tolist(), strict=True))
    true = [label if label != NO_TARGET else one for one, label in zip(ids, labels, strict=True)]
    words: list[Word] = []
    first = max(0, places[0] - _TOKENS // 4)
    for place in range(first, min(len(true), first + _TOKENS)):
        piece = _piece(tokenizer, true, place, true[place])
        if place in said:
            words.append(Word(piece, _piece(tokenizer, true, place, said[place]), said[place] == true[place]))
        elif piece:
            words.append(Word(piece))
    return words


def _piece(tokenizer: Any, ids: list[int], place: int, token: int) -> str:
    """Return what a token adds to the text before it; alone, some tokenizers would lose its space."""
    before = ids[max(0, place - 4) : place]
    text: str = tokenizer.decode(before, skip_special_tokens=True)
    longer: str = tokenizer.decode([*before, token], skip_special_tokens=True)
    return longer[len(text) :] if longer.startswith(text) else tokenizer.decode([token], skip_special_tokens=True)


def _restored(task: Any, pair: Pair, row: Corrupted, prober: Prober, processor: Any) -> Restored | None:
    answers = prober.ask(task, [row])
    geometry = prober.geometry
    inputs = {
        "original": geometry.put(row.inputs, row.patch_units, row.patch_targets),
        "masked": row.inputs,
        "restored": geometry.put(row.inputs, row.patch_units, answers.patches.float().cpu()),
    }
    seen = {name: pictures(geometry, one, processor.image_processor) for name, one in inputs.items()}
    if not all(seen.values()):
        return None
    caption = " ".join(pair.document.texts)
    return Restored(pair.identity, caption, seen["original"][0], seen["masked"][0], seen["restored"][0], float(answers.errors.mean()))
