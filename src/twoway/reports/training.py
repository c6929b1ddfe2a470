"""`report.html` of a training: what every stage shows of its log, and rows as the model restores them.

It is written anew at each evaluation and at the end, from the log and from what the model restores at that moment.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from PIL import Image as PILImage

from twoway.data.masking import NO_TARGET
from twoway.data.patches import GRID, PIXELS, VIDEO_GRID, VIDEO_PIXELS
from twoway.data.rows import BAD_ROWS
from twoway.models.loading import versions
from twoway.training.checkpointing import read_run
from twoway.training.probes import RIGHT, SHUFFLED, WORD_LOSSES, evaluating
from twoway.training.progress import read_lines, read_log

from .charts import Curve, line_chart
from .page import REPORT, write_page

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from torch import Tensor

    from twoway.data.masking import MaskedRow
    from twoway.data.patches import PatchGeometry
    from twoway.training.probes import Predictions, ProbePair, Prober

    Log = Sequence[Mapping[str, Any]]


def write_run_report(out: Path, template: str, kind: str, total: int, log: Log, **values: object) -> None:
    """Write the report of the run in `out` as far as its log has come; the template extends `reports/templates/run.html`.

    In the template, `curve` and `curves` are those of a number in the log, `chart` draws them, and `latest` gives the last values.
    """
    run = {key: value for key, value in read_run(out).items() if key != "config"}
    config = out / "config.yaml"
    write_page(
        out / REPORT,
        template,
        f"{kind} · {out.resolve().name}",
        f"step {log[-1]['step'] if log else 0:,} of {total:,}, from {run.get('base', 'a base')}",
        chart=line_chart,
        curve=partial(log_curve, log),
        latest=partial(latest_numbers, log),
        lost=[[source] for source in run.get("lost", ())],
        bad_rows=[(line["file"], "" if line["row"] is None else line["row"], line["reason"]) for line in read_lines(out / BAD_ROWS)],
        bad_rows_file=BAD_ROWS,
        versions=versions(),
        settings=config.read_text(encoding="utf-8") if config.exists() else "",
        run=json.dumps(run, indent=2, ensure_ascii=False),
        **values,
    )


def read_entries(out: Path, latest: dict[str, Any] | None = None) -> list[dict[str, Any]]:
    """Return the entries of a run's log by step, with one that is not in it yet."""
    entries: dict[int, dict[str, Any]] = {}
    for entry in [*read_log(out), *([latest] if latest else [])]:
        entries[entry["step"]] = entries.get(entry["step"], {}) | entry
    return [entries[step] for step in sorted(entries)]


def log_curve(log: Log, key: str, name: str, *, smooth: bool = False, dashed: bool = False) -> Curve:
    """Return the curve of a number over the steps that have it, with its errors where all of them have one."""
    entries = [entry for entry in log if key in entry]
    errors = [entry[f"{key}_error"] for entry in entries if f"{key}_error" in entry]
    points = [(entry["step"], float(entry[key])) for entry in entries]
    return Curve(name, points, errors if len(errors) == len(points) else (), smooth, dashed)


def latest_numbers(log: Log, wanted: Sequence[tuple[str, str, str]]) -> list[tuple[str, str]]:
    """Return the latest of each wanted number (key, format, description) as text with its description, as far as entries have it."""
    found = []
    for key, form, description in wanted:
        value = next((entry[key] for entry in reversed(log) if key in entry), None)
        if value is not None:
            found.append((form.format(value).replace("-", "−"), description))
    return found


# What the model restores, row by row: pictures beside what was masked and what it painted, and sentences with the words it predicts.

_TOKENS = 60  # of a sentence
_ROWS = 12


@dataclass(frozen=True)
class Word:
    """A piece of a sentence; `predicted` is what the model puts in its place where it was masked."""

    text: str
    predicted: str | None = None
    right: bool = False


@dataclass(frozen=True)
class Sentence:
    """One masked sentence as the model fills it in, beside its own picture and beside another."""

    pictures: dict[str, PILImage.Image]
    words: dict[str, list[Word]]


@dataclass(frozen=True)
class RestoredPicture:
    """One picture: as it is, as the model sees it, and with what the model puts in."""

    caption: str
    original: PILImage.Image
    masked: PILImage.Image
    restored: PILImage.Image
    error: float


@dataclass(frozen=True)
class Examples:
    """Rows as the model restores them."""

    sentences: list[Sentence] = field(default_factory=list)
    pictures: list[RestoredPicture] = field(default_factory=list)


def restore_examples(task: Any, pairs: Sequence[ProbePair], prober: Any, processor: Any, methods: Sequence[str] = ("predict",)) -> Examples:
    """Let the model restore a few rows; `prober` makes and asks them, and `methods` of the task are what it calls."""
    examples = Examples()
    with evaluating(task, methods):
        for pair in pairs[:_ROWS]:
            if any(name in task.loss_weights for name in WORD_LOSSES) and (rows := prober.word_rows(pair)) is not None:
                examples.sentences.append(_sentence(task, rows, prober, processor))
            if "mae" in task.loss_weights and (rows := prober.patch_rows(pair)) is not None:
                picture = _restored_picture(task, pair, rows[RIGHT], prober, processor)
                examples.pictures.extend([picture] if picture is not None else [])
    return examples


def _sentence(task: Any, rows: dict[str, MaskedRow], prober: Prober, processor: Any) -> Sentence:
    pictures, words = {}, {}
    for name in (RIGHT, SHUFFLED):
        seen = [] if prober.geometry.trouble else to_pictures(prober.geometry, rows[name].inputs, processor.image_processor)
        if seen:
            pictures[name] = seen[0]
        words[name] = _words(rows[name], prober.predict(task, [rows[name]]), processor.tokenizer)
    return Sentence(pictures, words)


def _words(row: MaskedRow, answers: Predictions, tokenizer: Any) -> list[Word]:
    """Write the text around the masked words, and the words; special tokens are left out."""
    ids, labels = row.inputs["input_ids"].tolist(), row.labels.tolist()
    places = [place for place, label in enumerate(labels) if label != NO_TARGET]
    # With `shift` a first token has no answer; such rows have that label taken away before.
    predicted = dict(zip(places, answers.predicted.tolist(), strict=True))
    true = [token if label == NO_TARGET else label for token, label in zip(ids, labels, strict=True)]
    words: list[Word] = []
    first = max(0, places[0] - _TOKENS // 4)
    for place in range(first, min(len(true), first + _TOKENS)):
        piece = _piece(tokenizer, true, place, true[place])
        if place in predicted:
            words.append(Word(piece, _piece(tokenizer, true, place, predicted[place]), predicted[place] == true[place]))
        elif piece:
            words.append(Word(piece))
    return words


def _piece(tokenizer: Any, ids: list[int], place: int, token: int) -> str:
    """Return what a token adds to the text before it; alone, some tokenizers would lose its space."""
    before = ids[max(0, place - 4) : place]
    text: str = tokenizer.decode(before, skip_special_tokens=True)
    longer: str = tokenizer.decode([*before, token], skip_special_tokens=True)
    return longer[len(text) :] if longer.startswith(text) else tokenizer.decode([token], skip_special_tokens=True)


def _restored_picture(task: Any, pair: ProbePair, row: MaskedRow, prober: Prober, processor: Any) -> RestoredPicture | None:
    answers = prober.predict(task, [row])
    geometry = prober.geometry
    rows = {
        "original": geometry.put(row.inputs, row.patch_units, row.patch_targets),
        "masked": row.inputs,
        "restored": geometry.put(row.inputs, row.patch_units, answers.patches.float().cpu()),
    }
    pictures = {name: to_pictures(geometry, inputs, processor.image_processor) for name, inputs in rows.items()}
    if not all(pictures.values()):
        return None
    first = {name: shown[0] for name, shown in pictures.items()}
    return RestoredPicture(" ".join(pair.document.texts), **first, error=float(answers.patch_errors.mean()))


def to_pictures(geometry: PatchGeometry, inputs: Mapping[str, Tensor], image_processor: Any) -> list[PILImage.Image]:
    """Return the pictures of one row, and first frames of its videos, as the model sees them: whole, or each tile but those that only pad.

    What the processor cut up and normalised is put together, and brought back to 0..255.
    """
    pictures = []
    for name, grid in ((PIXELS, GRID), (VIDEO_PIXELS, VIDEO_GRID)):
        if name not in inputs:
            continue
        pixels, at = inputs[name].detach().float().cpu(), 0
        if geometry.side:
            tiles = pixels.reshape(-1, *pixels.shape[-3:])
            return [_picture(tile, image_processor) for tile in tiles if tile.any()]
        for frames, height, width in inputs[grid].tolist():
            count = frames * height * width
            pictures.append(_picture(_join(pixels[at : at + count], geometry, frames, height, width), image_processor))
            at += count
    return pictures


def _join(rows: Tensor, geometry: PatchGeometry, frames: int, height: int, width: int) -> Tensor:
    """Lay the patches of one picture together: rows go by merged block, then by patch inside it. The first frame is taken."""
    merge, patch = round(geometry.patches**0.5), geometry.patch
    shape = (frames, height // merge, width // merge, merge, merge, geometry.channels, geometry.frames, patch, patch)
    whole = rows.reshape(shape).permute(0, 6, 5, 1, 3, 7, 2, 4, 8)
    return whole.reshape(-1, geometry.channels, height * patch, width * patch)[0]


def _picture(values: Tensor, image_processor: Any) -> PILImage.Image:
    mean, std = (torch.tensor(getattr(image_processor, name))[:, None, None] for name in ("image_mean", "image_std"))
    pixels = ((values * std + mean) * 255).round().clamp(0, 255).to(torch.uint8)
    return PILImage.fromarray(pixels.permute(1, 2, 0).numpy())
