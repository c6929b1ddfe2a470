"""What `bridge` looks at beside training: what EOS carries in held-out rows, and the report."""

from __future__ import annotations

from dataclasses import dataclass, field
from html import escape
from typing import TYPE_CHECKING, Any

from twoway.methods.pretrain.callbacks import HeldOutCallback
from twoway.models import loading
from twoway.reports.charts import chart, line, speed_charts
from twoway.reports.page import grid, section, table, tiles
from twoway.reports.training import Shown, case_rows, collect, data_rows, end, entries_of, numbers, write_page
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
        pictured = sorted(self.pairs, key=lambda pair: not pair.document.images)  # there is more to look at
        examples = collect(task, pictured, self.prober, self.prepared.processor, methods=METHODS)
        looks = eos_attention(task, self.pairs, self.prober)
        if trainer.ranks.is_main_process:
            shown = BridgeShown(trainer.total_steps, self.sources(), examples, loading.versions(), attention=looks)
            write_bridge_report(self.out, shown, latest)


# `report.html` of the bridge: what EOS carries, in the same one file as that of pre-training.

_KINDS = ("image", "text", "both")
_MEASURES = (
    ("rank", "effective rank of A's vectors: directions in use"),
    ("uniformity", "uniformity of A's vectors: lower is more even"),
    ("alignment", "squared distance of A and its B: lower is nearer"),
    ("recall", "share of rows whose nearest text is their own"),
    ("reciprocal", "mean of one over the place of the own text"),
)

_NUMBERS = (  # name in the log, form, what it is
    ("bridge", "{:.3f}", "nats a masked word of B, in training"),
    (f"words_gap_{NONE}", "{:+.3f}", "nats a word through EOS, on held-out rows"),
    (f"words_gap_{SHUFFLED}", "{:+.3f}", "nats saved by the right A over a wrong one"),
    (f"first_{RIGHT}_accuracy", "{:.1%}", "of B's first words said right by EOS"),
    ("recall_eos", "{:.1%}", "of rows find their own text from EOS"),
    ("recall_mean", "{:.1%}", "of rows find their own text from the mean"),
    ("rank_eos", "{:.1f}", "effective rank of the vectors at EOS"),
)


@dataclass(frozen=True)
class BridgeShown(Shown):
    """What the report shows beside the log; `attention` is by layer, then by region."""

    attention: Sequence[Sequence[float]] = field(default_factory=tuple)


def write_bridge_report(out: Path, shown: BridgeShown, latest: dict[str, Any] | None = None) -> None:
    """Write the report of the run in `out`; `latest` is an entry that is not in its log yet."""
    log = entries_of(out, latest)
    write_page(out, "EOS bridge", shown.total, log, _body(out, log, shown))


def _body(out: Path, log: list[dict[str, Any]], shown: BridgeShown) -> list[str]:
    measured = [entry for entry in log if "words_rows" in entry or "rank_eos" in entry]
    sentences = [case_rows(one, "its own A", "another row's A") for one in shown.examples.sentences]
    return [
        tiles(numbers(log, _NUMBERS)),
        section("What goes through EOS?", describe_last(log), grid(_gaps(log)), table(*_by_kind(measured))),
        section(
            "The words of B",
            "Masked words of B in rows that no step trains on, restored behind the right A, another row's, and an EOS that sees no A.",
            grid(_held(log)),
        ),
        section("Training", "The loss of each logged step; the strong line is a running mean.", grid(_training(log))),
        section(
            "The vector at EOS",
            "Of held-out rows as they are embedded, before the first step and at the last evaluation, with nothing trained to retrieve; "
            "beside it the mean of all states of the same model.",
            table(*_before_after(measured)),
            grid(_found(log)),
        ),
        section(
            "Where EOS looks",
            "Shares of the attention of EOS, mean of heads and held-out rows, layer by layer.",
            _bars(shown.attention),
        ),
        section(
            "Restored words",
            "Masked words of B as the model says them: green is right; red is wrong, with the right word beside it.",
            '<div class="grid">' + "".join(sentences) + "</div>" if sentences else "",
        ),
        section("Speed", "Over the steps since the entry before.", grid(speed_charts(log))),
        section("Data", "Rows by source, and how many of them are held out." + _cut(log), data_rows(shown)),
        *end(out, shown.versions, shown.bad_rows),
    ]


def describe_last(log: Sequence[dict[str, Any]]) -> str:
    """Say what the last evaluation shows, in words; a gap within two standard errors of zero is said to be none."""
    last = next((entry for entry in reversed(log) if f"words_gap_{NONE}" in entry), None)
    if last is None:
        return "No held-out rows were there to measure it on."
    found = []
    for name, against in ((NONE, "with EOS cut off from A"), (SHUFFLED, "with another row's A")):
        gap, error = last[f"words_gap_{name}"], last.get(f"words_gap_{name}_error")
        off = "" if error is None else f" (± {error:.2g})"
        if error is not None and abs(gap) <= 2 * error:
            found.append(f"Nothing is seen to come through yet beside B {against}: {gap:.3g} nats a word{off}, which may be zero.")
        else:
            found.append(f"A masked word of B costs {abs(gap):.3g} nats{off} {'less' if gap > 0 else 'more'} than {against}.")
    return " ".join(found) + f" Measured on {last['words_rows']:,.0f} held-out rows at step {last['step']:,}; bands are one standard error."


def _gaps(log: Sequence[dict[str, Any]]) -> list[str]:
    against = ((NONE, "over EOS cut off"), (SHUFFLED, "over another A"))
    whole = chart("What the right A saves", "nats a word", [line(log, f"words_gap_{key}", name) for key, name in against], zero=True)
    kinds = [line(log, f"words_gap_{NONE}/{kind}", f"A is {kind}") for kind in _KINDS]
    return [whole, chart("Through EOS, by what A is", "nats a word", kinds, zero=True)]


def _held(log: Sequence[dict[str, Any]]) -> list[str]:
    cases = ((RIGHT, "right A"), (SHUFFLED, "another A"), (NONE, "EOS cut off"))
    return [
        chart("Words of B", "nats", [line(log, f"words_{key}", name) for key, name in cases]),
        chart("Words said right", "share", [line(log, f"words_{key}_accuracy", name) for key, name in cases], zero=True),
        chart("First word said right by EOS", "share", [line(log, f"first_{key}_accuracy", name) for key, name in cases], zero=True),
    ]


def _training(log: Sequence[dict[str, Any]]) -> list[str]:
    return [
        chart("Masked words of B", "nats", [line(log, "bridge", "words", smooth=True)]),
        chart("Gradient", "norm, before it is clipped", [line(log, "grad_norm", "gradient", smooth=True)], zero=True, first=2),
    ]


def _found(log: Sequence[dict[str, Any]]) -> list[str]:
    both = (("eos", "at EOS"), ("mean", "mean of states"))
    return [
        chart("Rows that find their own text", "share", [line(log, f"recall_{key}", name) for key, name in both], zero=True),
        chart("Effective rank", "directions in use", [line(log, f"rank_{key}", name) for key, name in both], zero=True),
    ]


def _by_kind(measured: Sequence[dict[str, Any]]) -> tuple[tuple[str, ...], list[list[object]]]:
    """Return the last losses by what A is made of."""
    head = ("A is", "rows", "right A", "another A", "EOS cut off", "nats a word through EOS")
    last: dict[str, Any] = measured[-1] if measured else {}
    rows: list[list[object]] = []
    for kind in _KINDS:
        if f"words_rows/{kind}" in last:
            losses = [float(last[f"words_{case}/{kind}"]) for case in (RIGHT, SHUFFLED, NONE)]
            rows.append([kind, int(last[f"words_rows/{kind}"]), *losses, float(last[f"words_gap_{NONE}/{kind}"])])
    return head, rows


def _before_after(measured: Sequence[dict[str, Any]]) -> tuple[tuple[str, ...], list[list[object]]]:
    head = ("", "EOS before", "EOS now", "mean before", "mean now")
    found = [entry for entry in measured if "rank_eos" in entry]
    if not found:
        return head, []
    pairs = [(found[at], name) for name in ("eos", "mean") for at in (0, -1)]
    return head, [[about, *(float(entry[f"{key}_{name}"]) for entry, name in pairs)] for key, about in _MEASURES]


def _bars(layers: Sequence[Sequence[float]]) -> str:
    """Draw a bar for each layer, cut by region."""
    if not layers:
        return ""
    keys = "".join(f'<span><i class="c{number}"></i>{escape(name)}</span>' for number, name in enumerate(REGIONS))
    lines = []
    for number, shares in enumerate(layers, 1):
        cells = "".join(
            f'<div style="width:{100 * share:.2f}%;background:var(--c{at})" title="{escape(REGIONS[at])} {share:.1%}"></div>'
            for at, share in enumerate(shares)
        )
        bar = f'<div style="display:flex;flex:1;height:16px;border-radius:4px;overflow:hidden">{cells}</div>'
        lines.append(f'<div style="display:flex;gap:10px;align-items:center;margin:3px 0"><small>{number:>2}</small>{bar}</div>')
    caption = "<figcaption>Attention of EOS <small>layer by layer</small></figcaption>"
    return f'<figure>{caption}<div class="key">{keys}</div>{"".join(lines)}</figure>'


def _cut(log: Sequence[dict[str, Any]]) -> str:
    last = next((entry for entry in reversed(log) if "targets_cut" in entry), None)
    if last is None:
        return ""
    return f" Of {last['seen']:,.0f} rows read since the run was last taken up, {last['targets_cut']:,.0f} had a B cut at max_target."
