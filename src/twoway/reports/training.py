"""`report.html` of a training: whether losses fall, whether modalities help each other, and what the model restores."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field
from html import escape
from typing import TYPE_CHECKING, Any

import torch
from PIL import Image as PILImage

from twoway.data.masking import NO_TARGET
from twoway.data.patches import GRID, PIXELS
from twoway.data.rows import BAD_ROWS
from twoway.files import write_whole
from twoway.training.checkpointing import read_run
from twoway.training.probes import RIGHT, SHUFFLED, WORD_LOSSES, evaluating
from twoway.training.progress import read_lines, read_log

from .charts import gap_charts, held_charts, speed_charts, training_charts
from .page import folded, grid, img, page, section, table, tiles

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from torch import Tensor

    from twoway.data.masking import Corrupted
    from twoway.data.patches import PatchGeometry
    from twoway.training.probes import Predictions, ProbePair, Prober


# What every report has, whatever the stage: the entries it is made of, its head and its end.

REPORT = "report.html"
_BAD_SHOWN = 20


def write_page(out: Path, kind: str, total: int, log: Sequence[dict[str, Any]], body: list[str]) -> None:
    """Write the report of the run in `out` as far as its log has come."""
    done = log[-1]["step"] if log else 0
    under = f"step {done:,} of {total:,}, from {read_run(out).get('base', 'a base')}"
    write_whole(out / REPORT, page(f"{kind} · {out.resolve().name}", under, body))


def entries_of(out: Path, latest: dict[str, Any] | None = None) -> list[dict[str, Any]]:
    """Return the entries of a run's log by step, with one that is not in it yet."""
    entries: dict[int, dict[str, Any]] = {}
    for entry in [*read_log(out), *([latest] if latest else [])]:
        entries[entry["step"]] = entries.get(entry["step"], {}) | entry
    return [entries[step] for step in sorted(entries)]


def numbers(log: Sequence[dict[str, Any]], wanted: Sequence[tuple[str, str, str]]) -> list[tuple[str, str]]:
    """Return the latest of each wanted number (name, form, what it is), as it stands large at the top; what no entry has is left out."""
    found = []
    for name, form, about in wanted:
        value = next((entry[name] for entry in reversed(log) if name in entry), None)
        if value is not None:
            found.append((form.format(value).replace("-", "−"), about))
    return found


def end(out: Path, versions: dict[str, str], bad_rows: str) -> list[str]:
    """Return the last sections: bad rows, if there are any, and what the run was made with."""
    config = out / "config.yaml"
    run = {key: value for key, value in read_run(out).items() if key != "config"}
    lost = [[one] for one in run.get("lost", ())]
    return [
        section("Rows that are lost", "Sources of which this run cannot use over 1%.", table(("source and reason",), lost)) if lost else "",
        _bad(out / bad_rows),
        section(
            "Provenance",
            "What made this run, and what it can be made again with.",
            table(("what", "value"), list(versions.items())),
            folded("Settings", config.read_text(encoding="utf-8") if config.exists() else ""),
            folded("Run", json.dumps(run, indent=2, ensure_ascii=False)),
        ),
    ]


def _bad(path: Path) -> str:
    lines = read_lines(path)
    rows = [(line["file"], line["row"] if line["row"] is not None else "", line["reason"]) for line in lines[:_BAD_SHOWN]]
    many = f"{len(lines):,} rows could not be used and are left out; all are in {path.name}."
    return section("Bad rows", many, table(("file", "row or page", "why"), rows)) if lines else ""


# What the model restores, row by row: pictures beside what was masked and what it painted, and sentences with the
# words it says.

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


def collect(task: Any, pairs: Sequence[ProbePair], prober: Any, processor: Any, methods: Sequence[str] = ("predict",)) -> Examples:
    """Let the model restore a few rows; `prober` makes and asks them, and `methods` of the task are what it calls."""
    made = Examples()
    with evaluating(task, methods):
        for pair in pairs[:_ROWS]:
            if any(name in task.loss_weights for name in WORD_LOSSES) and (rows := prober.word_rows(pair)) is not None:
                made.sentences.append(_sentence(task, pair, rows, prober, processor))
            if "mae" in task.loss_weights and (rows := prober.patch_rows(pair)) is not None:
                found = _restored(task, pair, rows[RIGHT], prober, processor)
                made.restored.extend([found] if found is not None else [])
    return made


def _sentence(task: Any, pair: ProbePair, rows: dict[str, Corrupted], prober: Prober, processor: Any) -> Sentence:
    shown, words = {}, {}
    for name in (RIGHT, SHUFFLED):
        seen = [] if prober.geometry.trouble else pictures(prober.geometry, rows[name].inputs, processor.image_processor)
        if seen:
            shown[name] = seen[0]
        words[name] = _words(rows[name], prober.predict(task, [rows[name]]), processor.tokenizer)
    return Sentence(pair.identity, shown, words)


def _words(row: Corrupted, answers: Predictions, tokenizer: Any) -> list[Word]:
    """Write the text around the masked words, and the words; special tokens are left out."""
    ids, labels = row.inputs["input_ids"].tolist(), row.labels.tolist()
    places = [place for place, label in enumerate(labels) if label != NO_TARGET]
    # With `shift` a first token has no answer; such rows have that label taken away before.
    said = dict(zip(places, answers.predicted.tolist(), strict=True))
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


def _restored(task: Any, pair: ProbePair, row: Corrupted, prober: Prober, processor: Any) -> Restored | None:
    answers = prober.predict(task, [row])
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
    return Restored(pair.identity, caption, seen["original"][0], seen["masked"][0], seen["restored"][0], float(answers.patch_errors.mean()))


# `report.html`: what a run shows, in one file that opens anywhere: whether losses fall, and whether the modalities
# help each other.
#
# It is written anew at each evaluation and at the end, from the log and from what the model restores at that moment.

_CAPTION = 160
_SAID = {
    "words": ("a word costs {} nats less with its own picture than with another row's", "pictures"),
    "patches": ("a masked patch's squared error is {} lower with its own caption than with another row's", "captions"),
}

_NUMBERS = (  # name in the log, form, what it is
    ("mlm", "{:.3f}", "nats a masked word, in training"),
    ("clm", "{:.3f}", "nats a word, in training"),
    (f"words_{RIGHT}_accuracy", "{:.1%}", "of held-out words said right"),
    (f"words_gap_{SHUFFLED}", "{:+.3f}", "nats saved by the right picture over a wrong one"),
    ("mae", "{:.3f}", "squared error of a masked patch, in training"),
    (f"patches_gap_{SHUFFLED}", "{:+.4f}", "squared error saved by the right caption over a wrong one"),
    ("rows_per_second", "{:,.1f}", "rows a second, latest"),
)


@dataclass(frozen=True)
class Shown:
    """What a report shows beside the log: rows of data by source, and what the model restored."""

    total: int
    sources: Sequence[tuple[str, float, int, int]] = ()  # name, weight, rows, rows held out
    examples: Examples = field(default_factory=Examples)
    versions: dict[str, str] = field(default_factory=dict)
    bad_rows: str = BAD_ROWS


def write_report(out: Path, shown: Shown, latest: dict[str, Any] | None = None) -> None:
    """Write the report of the run in `out`; `latest` is an entry that is not in its log yet."""
    log = entries_of(out, latest)
    write_page(out, "Pre-training", shown.total, log, _body(out, log, shown))


def _body(out: Path, log: list[dict[str, Any]], shown: Shown) -> list[str]:
    words, causal = [case_rows(one) for one in shown.examples.sentences], any("clm" in entry for entry in log)
    return [
        tiles(numbers(log, _NUMBERS)),
        section("Do the modalities help each other?", verdict(log), grid(gap_charts(log))),
        section(
            "Held-out losses",
            "The same targets at each evaluation, in rows that no step trains on. "
            + ("" if causal else "Words are probed under whole pictures, patches beside whole captions."),
            grid(held_charts(log)),
        ),
        section("Training", "The loss of each logged step; the strong line is a running mean.", grid(training_charts(log))),
        section(
            "Restored pictures",
            "Each picture as it is, as the model sees it with noise in place of patches, and with the model's own patches in their place.",
            '<div class="pictures">' + "".join(_picture_card(one) for one in shown.examples.restored) + "</div>"
            if shown.examples.restored
            else "",
        ),
        section(
            "Words said" if causal else "Restored words",
            ("Each word as the model says it from what stands before it" if causal else "Masked words as the model says them")
            + ": green is right; red is wrong, with the right word above it.",
            '<div class="grid">' + "".join(words) + "</div>" if words else "",
        ),
        section("Speed", "Over the steps since the entry before.", grid(speed_charts(log))),
        section("Data", "Rows by source, and how many of them are held out.", data_rows(shown)),
        *end(out, shown.versions, shown.bad_rows),
    ]


def verdict(log: Sequence[dict[str, Any]]) -> str:
    """Say what the last evaluation shows, in words; a gap within two standard errors of zero is said to be none."""
    last = next((entry for entry in reversed(log) if "words_rows" in entry or "patches_rows" in entry), None)
    if last is None:
        return "No held-out row with a picture and a text was there to measure it on."
    said = []
    for kind, (sentence, helper) in _SAID.items():
        gap, error = last.get(f"{kind}_gap_{SHUFFLED}"), last.get(f"{kind}_gap_{SHUFFLED}_error")
        if gap is None:
            continue
        off = "" if error is None else f" (± {_digits(error, 2)})"
        if error is not None and abs(gap) <= 2 * error:
            said.append(f"No help of {helper} is seen yet: the gap is {_digits(gap)}{off}, which zero explains as well.")
        elif gap > 0:
            text = sentence.format(f"{_digits(gap)}{off}")
            said.append(text[0].upper() + text[1:] + ".")
        else:
            said.append(f"The right {helper} do harm: the gap is {_digits(gap)}{off}.")
    rows = max(last.get("words_rows", 0), last.get("patches_rows", 0))
    return " ".join(said) + f" Measured on {rows:,.0f} held-out rows at step {last['step']:,}; bands are one standard error."


def _digits(value: float, many: int = 3) -> str:
    """Write a number with so many digits that say something, and no exponent."""
    return f"{value:.{max(0, many - 1 - math.floor(math.log10(abs(value))))}f}" if value else "0"


def _picture_card(one: Any) -> str:
    three = ((one.original, "original"), (one.masked, "masked"), (one.restored, "restored"))
    shown = "".join(f"<div>{img(picture, name)}{name}</div>" for picture, name in three)
    caption = one.caption if len(one.caption) <= _CAPTION else one.caption[:_CAPTION].rstrip() + "…"
    return f'<div class="card"><div class="three">{shown}</div><p>{escape(caption)} <small>error {one.error:.3f}</small></p></div>'


def case_rows(sentence: Sentence, own: str = "its own picture", other: str = "another picture") -> str:
    """Return a sentence as the model restores it beside its own company and beside another's."""
    made = []
    for name, about in ((RIGHT, own), (SHUFFLED, other)):
        seen = img(sentence.shown[name], about) if name in sentence.shown else "<div></div>"
        made.append(f'<div class="case">{seen}<p><small class="soft">{about}</small>{"".join(map(_word, sentence.words[name]))}</p></div>')
    return f'<div class="card">{"".join(made)}</div>'


def _word(word: Word) -> str:
    if word.said is None:
        return escape(word.text)
    if word.right:
        return f'<span class="w yes">{escape(word.text)}</span>'
    space = " " if word.text[:1].isspace() else ""
    return f'{space}<ruby class="w no">{escape(word.said.strip() or "␣")}<rt>{escape(word.text.strip() or "␣")}</rt></ruby>'


def data_rows(shown: Shown) -> str:
    """Return the table of sources."""
    return table(("source", "weight", "rows", "held out"), [list(one) for one in shown.sources])


# The pixels of a row as pictures to look at: what the processor cut up and normalised, put together and brought back
# to 0..255.


def pictures(geometry: PatchGeometry, inputs: Mapping[str, Tensor], image_processor: Any) -> list[PILImage.Image]:
    """Return the pictures of one row as the model sees them: whole, or for tiled layouts each tile; padding tiles are left out."""
    if PIXELS not in inputs:
        return []
    pixels = inputs[PIXELS].detach().float().cpu()
    if geometry.side:
        tiles = pixels.reshape(-1, *pixels.shape[-3:])
        return [_picture(tile, image_processor) for tile in tiles if tile.any()]
    shown, at = [], 0
    for frames, height, width in inputs[GRID].tolist():
        count = frames * height * width
        shown.append(_picture(_join(pixels[at : at + count], geometry, frames, height, width), image_processor))
        at += count
    return shown


def _join(rows: Tensor, geometry: PatchGeometry, frames: int, height: int, width: int) -> Tensor:
    """Lay the patches of one picture together: rows go by merged block, then by patch inside it. A still picture's first frame is taken."""
    merge, patch = round(geometry.patches**0.5), geometry.patch
    shape = (frames, height // merge, width // merge, merge, merge, geometry.channels, geometry.frames, patch, patch)
    whole = rows.reshape(shape).permute(0, 6, 5, 1, 3, 7, 2, 4, 8)
    return whole.reshape(-1, geometry.channels, height * patch, width * patch)[0]


def _picture(values: Tensor, image_processor: Any) -> PILImage.Image:
    mean, std = (torch.tensor(getattr(image_processor, name))[:, None, None] for name in ("image_mean", "image_std"))
    pixels = ((values * std + mean) * 255).round().clamp(0, 255).to(torch.uint8)
    return PILImage.fromarray(pixels.permute(1, 2, 0).numpy())
