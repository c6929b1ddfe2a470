"""`report.html`: what a run shows, in one file that opens anywhere: whether losses fall, and whether the modalities help each other.

It is written anew at each evaluation and at the end, from the log and from what the model restores at that moment.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from html import escape
from typing import TYPE_CHECKING, Any

from twoway.data.policy import BAD_ROWS

from .probes import RIGHT, SHUFFLED
from .report_curves import gap_charts, held_charts, speed_charts, training_charts
from .report_examples import Examples, Sentence, Word
from .report_page import grid, img, section, table, tiles
from .report_parts import end, entries_of, numbers, write_page

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

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
