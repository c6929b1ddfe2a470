"""What `bridge` looks at beside training: what EOS carries in held-out rows, and the report."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from twoway.methods.pretrain.callbacks import HeldOutCallback
from twoway.reports.training import Examples, read_entries, restore_examples, write_run_report
from twoway.training.probes import NONE, RIGHT, SHUFFLED, ProbePair, pair_rows

from .data import COUNTED, CountingLoader
from .probes import METHODS, REGIONS, BridgeProber, eos_attention, measure_bridge
from .rows import cut_in_two

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from twoway.content import Document
    from twoway.methods.model import PreparedModel
    from twoway.methods.pretrain.data import RowData
    from twoway.training.trainer import Trainer

    from .config import BridgeConfig
    from .step import Bridge


class BridgeCallback(HeldOutCallback):
    """Measures what went through EOS, and keeps `report.html` up to date."""

    def __init__(self, prepared: PreparedModel[Bridge], data: RowData, config: BridgeConfig, out: Path) -> None:
        self.prepared, self.data, self.config, self.out = prepared, data, config, out
        self.pairs: list[ProbePair] = []

    def on_train_begin(self, trainer: Trainer) -> None:
        """Read the held-out rows and pair them up."""
        self.pairs = pair_rows(self.held_rows())
        self.prober = BridgeProber(
            self.data.encode,
            self.data.mask,
            self.data.collate,
            self.prepared.geometry,
            self.prepared.token.id,
            device=str(trainer.ranks.device),
            autocast=trainer.config.dtype == "bfloat16",
        )

    def as_trained(self, document: Document) -> Document:
        """Return A and B behind each other, as the bridge reads them."""
        return cut_in_two(document, self.config.text_cut).joined

    def measure(self, trainer: Trainer) -> dict[str, Any]:
        """Measure what EOS carries, and count what was cut."""
        return measure_bridge(trainer.module, self.pairs, self.prober) | self._counted(trainer)

    def _counted(self, trainer: Trainer) -> dict[str, float]:
        """Return how many rows were read and cut since this process began, over all ranks."""
        counts = self.data.loader.counts if isinstance(self.data.loader, CountingLoader) else {}
        return dict(zip(COUNTED.values(), trainer.ranks.all_reduce_numbers([float(counts.get(name, 0)) for name in COUNTED]), strict=True))

    def report(self, trainer: Trainer, latest: dict[str, Any] | None) -> None:
        """Restore some rows and look at attention on all ranks; the first writes."""
        task: Any = trainer.module
        pictured = sorted(self.pairs, key=lambda pair: not pair.document.media)  # there is more to look at
        examples = restore_examples(task, pictured, self.prober, self.prepared.processor, methods=METHODS)
        layers = eos_attention(task, self.pairs, self.prober)
        if trainer.ranks.is_main_process:
            write_report(self.out, trainer.total_steps, self.sources(), examples, layers, latest)


# The report: what EOS carries.

_KINDS = ("image", "text", "both")
_MEASURES = (
    ("rank", "effective rank of A's vectors: directions in use"),
    ("uniformity", "uniformity of A's vectors: lower is more even"),
    ("alignment", "squared distance of A and its B: lower is nearer"),
    ("recall", "share of rows whose nearest text is their own"),
    ("reciprocal", "mean of one over the place of the own text"),
)


def write_report(
    out: Path,
    total: int,
    sources: Sequence[tuple[str, float, int, int]],
    examples: Examples,
    attention: Sequence[Sequence[float]],
    latest: dict[str, Any] | None,
) -> None:
    """Write the report of the run in `out`; `attention` is by layer, then by region, `latest` an entry that is not in its log yet."""
    log = read_entries(out, latest)
    measured = [entry for entry in log if "words_rows" in entry or "rank_eos" in entry]
    write_run_report(
        out,
        "methods/bridge/report.html",
        "EOS bridge",
        total,
        log,
        verdict=describe_bridge_gaps(log),
        kinds=_KINDS,
        by_kind=_by_kind(measured),
        before_after=_before_after(measured),
        regions=REGIONS,
        attention=attention,
        examples=examples,
        sources=sources,
        cut=_cut(log),
    )


def describe_bridge_gaps(log: Sequence[dict[str, Any]]) -> str:
    """Say what the last evaluation shows, in words; a gap within two standard errors of zero counts as none."""
    last = next((entry for entry in reversed(log) if f"words_gap_{NONE}" in entry), None)
    if last is None:
        return "No held-out rows were there to measure it on."
    sentences = []
    for name, against in ((NONE, "with EOS cut off from A"), (SHUFFLED, "with another row's A")):
        gap, error = last[f"words_gap_{name}"], last.get(f"words_gap_{name}_error")
        off = "" if error is None else f" (± {error:.2g})"
        if error is not None and abs(gap) <= 2 * error:
            sentences.append(f"Nothing is seen to come through yet beside B {against}: {gap:.3g} nats a word{off}, which may be zero.")
        else:
            sentences.append(f"A masked word of B costs {abs(gap):.3g} nats{off} {'less' if gap > 0 else 'more'} than {against}.")
    sentences.append(f"Measured on {last['words_rows']:,.0f} held-out rows at step {last['step']:,}; bands are one standard error.")
    return " ".join(sentences)


def _by_kind(measured: Sequence[dict[str, Any]]) -> list[list[object]]:
    """Return the last losses by what A is made of."""
    last: dict[str, Any] = measured[-1] if measured else {}
    rows: list[list[object]] = []
    for kind in _KINDS:
        if f"words_rows/{kind}" in last:
            losses = [float(last[f"words_{case}/{kind}"]) for case in (RIGHT, SHUFFLED, NONE)]
            rows.append([kind, int(last[f"words_rows/{kind}"]), *losses, float(last[f"words_gap_{NONE}/{kind}"])])
    return rows


def _before_after(measured: Sequence[dict[str, Any]]) -> list[list[object]]:
    """Return what is measured of vectors, at EOS and of the mean, at the first evaluation and at the last."""
    entries = [entry for entry in measured if "rank_eos" in entry]
    if not entries:
        return []
    columns = [(entries[at], name) for name in ("eos", "mean") for at in (0, -1)]
    return [[description, *(float(entry[f"{key}_{name}"]) for entry, name in columns)] for key, description in _MEASURES]


def _cut(log: Sequence[dict[str, Any]]) -> str:
    last = next((entry for entry in reversed(log) if "targets_cut" in entry), None)
    if last is None:
        return ""
    return f" Of {last['seen']:,.0f} rows read since the run was last taken up, {last['targets_cut']:,.0f} had a B cut at max_target."
