"""`twoway convert`, `merge`, `check` and `info`: make a two-way model, merge several, prove one, look at it."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

from twoway.errors import UsageError

from .answers import answer, new_console, new_table, print_table, say
from .parser import read_settings

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator

    from twoway.proof.bridge import BridgeReport
    from twoway.proof.check import Report


def run_convert(args: argparse.Namespace) -> int:
    """Convert, and say what came out."""
    from twoway.methods.convert import convert

    result = convert(args.src, args.out, config=read_settings(args), overwrite=args.overwrite)
    card = result.card
    said = (
        f"{result.out}: {card.family}, {card.attention['measured']} as measured, pooling {card.pooling}, {card.dim or card.width} numbers"
    )
    token = f"{card.dim or card.width} numbers, mask token {card.mask_token['token']} ({card.mask_token['how']})"
    return answer(args, result.as_json(), lambda: say(f"{said}, {token}"))


def run_merge(args: argparse.Namespace) -> int:
    """Merge, and say what came out of what."""
    from twoway.methods.merge import merge

    result = merge(args.models, args.out, config=read_settings(args), overwrite=args.overwrite)

    def show() -> None:
        for weights, score in result.tried:
            say(f"weights {', '.join(f'{one:g}' for one in weights)}: {score:.4f}")
        of = ", ".join(f"{weight:.3g} of {model}" for weight, model in zip(result.weights, args.models, strict=True))
        say(f"{result.out}: {of}; {result.card.family}, {result.card.attention['measured']} as measured")

    return answer(args, result.as_json(), show)


# `twoway check`: the proof, as a table and an exit code.


def run_check(args: argparse.Namespace) -> int:
    """Check, print, and say with the exit code whether the model is what it declares."""
    config = read_settings(args)
    report: Report | BridgeReport
    if args.bridge:
        from twoway.proof.bridge import check_bridge

        given = dataclasses.asdict(config)
        if given.pop("expect") is not None:
            raise UsageError("--bridge proves the mask of the bridge, and --expect is about the model; leave one of them out")
        report = check_bridge(args.model, **given)
    else:
        from twoway.proof.check import check

        report = check(args.model, config=config)
    return answer(args, report.as_json(), lambda: show_check(report), 0 if report.ok else 1)


def show_check(report: Report | BridgeReport) -> None:
    """Print the table, what decides the verdict, and the verdict."""
    from twoway.proof.bridge import BridgeReport

    console = new_console()
    columns = list(dict.fromkeys((cell.kind, cell.padding) for cell in report.cells))
    titles = [f"{kind}\n{'unpadded' if padding == 'none' else 'padded ' + padding}" for kind, padding in columns]
    table = new_table(f"{report.model} ({report.family}, {report.dtype} on {report.device})", ("attention", *titles))
    cells = {(cell.group, cell.kind, cell.padding): cell for cell in report.cells}
    for group in dict.fromkeys(cell.group for cell in report.cells):
        found = [cells.get((group, *column)) for column in columns]
        table.add_row(group, *(f"{cell.verdict}\n{cell.largest:.1e}" if cell else "" for cell in found))
    print_table(console, table)
    for line in _bridge_lines(report) if isinstance(report, BridgeReport) else _lines(report):
        console.print(line, markup=False)


def _lines(report: Report) -> list[str]:
    lines = ["numbers: the furthest an earlier state moves, in lengths of a state (where it leaks: the furthest this row moves)"]
    lines += [f"{one.what}: {one.reason}" for one in report.skipped]
    lines += [f"embedding beside {name}: moves by {moved:.1e}" for name, moved in report.embedding.items()]
    lines += [f"note: {note}" for note in report.notes]
    lines += [f"why: {report.reason}"] if report.reason else []
    said = f"declared {report.declared.attention} ({report.declared.by or 'nothing says otherwise'})"
    return [*lines, f"{'yes' if report.ok else 'NO'}: {report.model}: {said}, measured {report.verdict}"]


def _bridge_lines(report: BridgeReport) -> list[str]:
    lines = ["numbers: the furthest a state moves that must stay, in lengths of a state"]
    lines += [f"{one.what}: {one.reason}" for one in report.skipped]
    lines += [f"why: {report.reason}"] if report.reason else []
    said = "B learns of A through EOS alone" if report.ok else "the bridge does not hold"
    return [*lines, f"{'yes' if report.ok else 'NO'}: {report.model}: {said}, measured {report.verdict}"]


# `twoway info`: what a model is, in one look.


def run_info(args: argparse.Namespace) -> int:
    """Describe the model."""
    from twoway.methods.info import info

    facts = info(args.model)
    return answer(args, facts, lambda: show_info(facts))


def show_info(facts: dict[str, Any]) -> None:
    """Print a table of two columns."""
    from rich.table import Table
    from rich.text import Text

    table = Table(show_header=False, box=None, pad_edge=False)
    for name, value in _rows(facts):
        table.add_row(name, Text(value))
    new_console().print(table)


def _rows(facts: dict[str, Any]) -> Iterator[tuple[str, str]]:
    attention, token = facts["attention"], facts["mask_token"]
    yield "model", f"{facts['model']} ({facts['kind']})"
    yield "family", facts["family"]
    for name, size in facts["sizes"].items():
        yield f"  {name}", f"{size:,} parameters"
    yield "stored as", facts["dtype"]
    yield "attention, declared", f"{attention['declared']} ({attention['by']})"
    yield "attention, measured", f"{attention['measured']} ({attention['how']})" + (f"; {attention['why']}" if attention["why"] else "")
    yield "pooling", facts["pooling"] or "none"
    yield "numbers a vector", str(facts["width"])
    yield "longest row", f"{facts['max_length']} tokens" if facts["max_length"] else "no limit is named"
    yield "mask token", f"{token['token']}, id {token['id']} ({token['how']})" if isinstance(token, dict) else token or "none"
    yield "prompts", "; ".join(f"{name}: {text!r}" for name, text in facts["prompts"].items()) or "none"
    yield "licence", facts["licence"] or "not stated"
    for name, head in facts["heads"].items():
        yield "kept beside", f"{name} ({head['file']})" if isinstance(head, dict) and "file" in head else name
    yield "base", facts["base"] or "not stated"
    for number, step in enumerate(facts["chain"], 1):
        versions = ", ".join(f"{name} {version}" for name, version in step.get("versions", {}).items())
        yield f"step {number}", f"{step.get('step')} from {step.get('source')}" + (f" by {versions}" if versions else "")
