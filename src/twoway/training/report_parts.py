"""What every report has, whatever the stage: the entries it is made of, its head and its end."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from twoway.files import write_whole

from .checkpoint import read_run
from .progress import read_lines, read_log
from .report_page import folded, page, section, table

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

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
