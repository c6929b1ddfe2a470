"""What stages that restore rows look at beside training: the held-out rows, measured on the way, and the report."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from twoway.content import ContentError
from twoway.reports.training import Examples, read_entries, restore_examples, write_run_report
from twoway.training.probes import BACKWARDS, SHUFFLED, ProbePair, Prober, measure_modalities, pair_pictured_rows
from twoway.training.trainer import Callback, Trainer

from .step import NOTHING_MASKED

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from twoway.content import Document
    from twoway.methods.model import PreparedModel

    from .config import PretrainConfig
    from .data import RowData
    from .step import Reconstruction


def readable_rows(data: RowData, as_trained: Callable[[Any], Document] = lambda document: document) -> list[tuple[str, Document]]:
    """Return the held-out rows, as a stage looks at them, each encoded once; the policy decides about bad ones, as in training."""
    rows = []
    for row in data.held:
        try:
            identity, document = data.mixture.read(int(row))
            found = as_trained(document)
            found.fingerprint()  # opens every file, those behind a row's cut too
            data.encode(identity, found)  # a file may be read whose picture does not decode
        except ContentError as error:
            data.loader.policy.refuse(error)
            continue
        rows.append((identity, found))
    return rows


class HeldOutCallback(Callback):
    """Measures held-out rows, and keeps `report.html` up to date; a stage says what is measured and what the report shows."""

    data: RowData

    def measure(self, trainer: Trainer) -> dict[str, Any]:
        """Return what the held-out rows say at this moment."""
        raise NotImplementedError

    def report(self, trainer: Trainer, latest: dict[str, Any] | None) -> None:
        """Write the report; all ranks call it, because parts of the model may lie on each."""
        raise NotImplementedError

    def on_evaluate(self, trainer: Trainer) -> dict[str, Any]:
        """Measure, and write the report as far as the run has come."""
        found = self.measure(trainer)
        if found and trainer.step < trainer.total_steps:
            self.report(trainer, {"step": trainer.step, **found})
        return found

    def on_train_end(self, trainer: Trainer) -> None:
        """Write the report of the whole run."""
        self.report(trainer, None)

    def as_trained(self, document: Document) -> Document:
        """Return a row as the stage looks at it."""
        return document

    def held_rows(self) -> list[tuple[str, Document]]:
        """Return the held-out rows that can be read, all their files opened once."""
        return readable_rows(self.data, self.as_trained)

    def sources(self) -> list[tuple[str, float, int, int]]:
        """Return each source's name and weight, and its rows, all and held out."""
        mixture, held = self.data.mixture, self.data.held
        counts = np.bincount(mixture.source_of(held), minlength=len(mixture.sources)) if len(held) else [0] * len(mixture.sources)
        rows = zip(mixture.sources, mixture.tables, counts, strict=True)
        return [(source.label, source.weight, len(table), int(count)) for source, table, count in rows]


# What `pretrain` looks at beside training: the probes on held-out rows, and the report.


class PretrainCallback(HeldOutCallback):
    """Measures whether words and pictures help each other, and keeps `report.html` up to date."""

    def __init__(self, prepared: PreparedModel[Reconstruction], data: RowData, config: PretrainConfig, out: Path) -> None:
        self.prepared, self.data, self.config, self.out = prepared, data, config, out
        self.pairs: list[ProbePair] = []

    def on_train_begin(self, trainer: Trainer) -> None:
        """Read the held-out rows and pair them up."""
        self.pairs = pair_pictured_rows(self.held_rows())
        # A share of 0 or 1 says what is trained; what is measured needs something masked and something left.
        shares = {name: share if 0 < share < 1 else default for name, share, default in self._shares()}
        if self.config.objective == "causal":
            shares = {"words": NOTHING_MASKED.words, "keep": NOTHING_MASKED.keep}
        self.prober = Prober(
            self.data.encode,
            self.data.collate,
            self.prepared.geometry,
            self.prepared.token.id,
            seed=self.config.seed,
            device=str(trainer.ranks.device),
            autocast=trainer.config.dtype == "bfloat16",
            **shares,
        )

    def measure(self, trainer: Trainer) -> dict[str, Any]:
        """Measure what pictures and captions give each other."""
        return measure_modalities(trainer.module, self.pairs, self.prober)

    def report(self, trainer: Trainer, latest: dict[str, Any] | None) -> None:
        """Restore some rows on all ranks; the first writes."""
        examples = restore_examples(trainer.module, self.pairs, self.prober, self.prepared.processor)
        if trainer.ranks.is_main_process:
            write_report(self.out, trainer.total_steps, self.sources(), examples, latest)

    def _shares(self) -> tuple[tuple[str, float, float], ...]:
        return ("words", self.config.mask.words, 0.4), ("patches", self.config.mask.patches, 0.5)


# The report: whether losses fall, and whether the modalities help each other.

_HELP = {
    "words": (SHUFFLED, "a word costs {} nats less with its own picture than with another row's", "pictures"),
    "patches": (SHUFFLED, "a masked patch's squared error is {} lower with its own caption than with another row's", "captions"),
    "frames": (BACKWARDS, "a word beside a video costs {} nats less than with the same frames backwards", "frames in order"),
}


def write_report(
    out: Path,
    total: int,
    sources: Sequence[tuple[str, float, int, int]] = (),
    examples: Examples = Examples(),  # noqa: B008
    latest: dict[str, Any] | None = None,
) -> None:
    """Write the report of the run in `out`; `latest` is an entry that is not in its log yet."""
    log = read_entries(out, latest)
    causal = any("clm" in entry for entry in log)
    values = {"verdict": describe_gaps(log), "causal": causal, "sources": sources, "examples": examples}
    write_run_report(out, "methods/pretrain/report.html", "Pre-training", total, log, **values)


def describe_gaps(log: Sequence[dict[str, Any]]) -> str:
    """Say what the last evaluation shows, in words; a gap within two standard errors of zero counts as none."""
    last = next((entry for entry in reversed(log) if "words_rows" in entry or "patches_rows" in entry), None)
    if last is None:
        return "No held-out row with a picture and a text was there to measure it on."
    sentences = []
    for kind, (wrong, sentence, helper) in _HELP.items():
        gap, error = last.get(f"{kind}_gap_{wrong}"), last.get(f"{kind}_gap_{wrong}_error")
        if gap is None:
            continue
        off = "" if error is None else f" (± {_significant(error, 2)})"
        if error is not None and abs(gap) <= 2 * error:
            sentences.append(f"No help of {helper} is seen yet: the gap is {_significant(gap)}{off}, which zero explains as well.")
        elif gap > 0:
            text = sentence.format(f"{_significant(gap)}{off}")
            sentences.append(text[0].upper() + text[1:] + ".")
        else:
            sentences.append(f"The right {helper} do harm: the gap is {_significant(gap)}{off}.")
    rows = max(last.get("words_rows", 0), last.get("patches_rows", 0))
    sentences.append(f"Measured on {rows:,.0f} held-out rows at step {last['step']:,}; bands are one standard error.")
    return " ".join(sentences)


def _significant(value: float, many: int = 3) -> str:
    """Write a number with so many digits that say something, and no exponent."""
    return f"{value:.{max(0, many - 1 - math.floor(math.log10(abs(value))))}f}" if value else "0"
