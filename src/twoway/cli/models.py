"""`twoway convert`, `check` and `info`: make a two-way model, prove it, look at it."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Any

from .parser import add_settings, print_table, setting_words

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator

    from twoway.proof.bridge import BridgeReport
    from twoway.proof.check import Report

CONVERT_HELP = """Turn a vision-language model into a two-way embedding model that sentence-transformers loads.

SRC is a hub id or a folder: a causal vision-language model, a sentence-transformers model, a PEFT adapter (merged into its base),
or a checkpoint as MoCa's or CoCoA's trainer saves it, whose pooling and way of writing inputs are kept. OUT is a plain
sentence-transformers checkpoint with a model card; its attention is measured, not assumed, and the model is refused where it is not
what was asked for."""
CONVERT_EXAMPLE = """twoway convert Qwen/Qwen2-VL-2B-Instruct my-model --prompts "query=Find a picture of " --max-length 2048
  twoway convert moca-checkpoint my-model --processor Qwen/Qwen2.5-VL-3B-Instruct"""


def configure_convert(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    from twoway.methods.config import ConvertConfig

    parser.add_argument("src", metavar="SRC", help="hub id or folder")
    parser.add_argument("out", metavar="OUT", help="folder to write; it must not exist")
    parser.add_argument("--config", metavar="FILE", help="YAML file with these options (max_length: 2048); options given here win")
    parser.add_argument("--prompts", metavar="NAME=TEXT", action="append", default=[], help="a prompt to save; may be repeated")
    parser.add_argument("--overwrite", action="store_true", help="replace OUT once the new one is whole")
    parser.add_argument("--json", action="store_true", help="answer in JSON")
    add_settings(parser, ConvertConfig, without=("prompts",), title="settings (also in the YAML file)")


def run_convert(args: argparse.Namespace) -> int:
    """Convert, and say what came out."""
    import dataclasses

    from twoway.config import load
    from twoway.methods.config import ConvertConfig
    from twoway.methods.convert import run as convert
    from twoway.models.checkpoint import parse_prompts

    config = load(ConvertConfig, args.config, setting_words(args))
    config = dataclasses.replace(config, prompts=config.prompts | parse_prompts(args.prompts))
    result = convert(args.src, args.out, config, overwrite=args.overwrite)
    if args.json:
        sys.stdout.write(json.dumps(result.as_json(), ensure_ascii=False, indent=2) + "\n")
        return 0
    card = result.card
    sys.stdout.write(
        f"{result.out}: {card.family}, {card.attention['measured']} as measured, pooling {card.pooling}, {card.dim or card.width} numbers, "
        f"mask token {card.mask_token['token']} ({card.mask_token['how']})\n"
    )
    return 0


# `twoway check`: the proof, as a table and an exit code.

CHECK_HELP = """Prove what a model's attention does: change later tokens, later images and the padding, and see which earlier states move.

For a transformers or sentence-transformers model, ours or not, text or vision-language. Every attention backend of this machine is tried,
unpadded and padded on either side. Exits with 1 where the model is not what it declares (in twoway.json, else in its config, else causal).

With --bridge the mask of the bridge stage is proved instead, on rows A [EOS] B: whatever changes in A, B moves only through EOS.
"""
CHECK_EXAMPLE = """twoway check samples/base
  twoway check my-model --expect two-way --backends sdpa eager
  twoway check my-model --bridge"""


def configure_check(parser: argparse.ArgumentParser) -> None:
    """Add the verb's options."""
    parser.add_argument("model", metavar="MODEL", help="a folder or a hub id")
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--expect", choices=("two-way", "causal"), help="what the model must be (default: what it declares)")
    what.add_argument("--bridge", action="store_true", help="prove the bridge mask on a two-way model, with each of its options")
    parser.add_argument(
        "--backends",
        nargs="+",
        metavar="NAME",
        choices=("sdpa", "eager", "flex_attention", "flash_attention_2"),
        help="attention backends to try (default: all; on a CPU flex_attention runs unfused)",
    )
    parser.add_argument("--processor", metavar="DIR", help="where the processor is (default: with the model)")
    parser.add_argument("--dtype", choices=("auto", "float32", "bfloat16", "float16"), default="float32", help="precision to run in")
    parser.add_argument("--device", default="cpu", help="device to run on")
    parser.add_argument("--json", action="store_true", help="print the whole report, with every number, for a program")


def run_check(args: argparse.Namespace) -> int:
    """Check, print, and say with the exit code whether the model is what it declares."""
    settings = {"backends": args.backends, "processor": args.processor, "dtype": args.dtype, "device": args.device}
    report: Report | BridgeReport
    if args.bridge:
        from twoway.proof.bridge import check_bridge

        report = check_bridge(args.model, **settings)
    else:
        from twoway.proof.check import check

        report = check(args.model, expect=args.expect, **settings)
    if args.json:
        sys.stdout.write(json.dumps(report.as_json(), indent=2, ensure_ascii=False) + "\n")
    else:
        show_check(report)
    return 0 if report.ok else 1


def show_check(report: Report | BridgeReport) -> None:
    """Print the table, what decides the verdict, and the verdict."""
    from rich.console import Console
    from rich.table import Table

    from twoway.proof.bridge import BridgeReport

    console = Console(highlight=False, soft_wrap=not sys.stdout.isatty())
    columns = list(dict.fromkeys((cell.kind, cell.padding) for cell in report.cells))
    table = Table(title=f"{report.model} ({report.family}, {report.dtype} on {report.device})", title_justify="left")
    table.add_column("attention")
    for kind, padding in columns:
        table.add_column(f"{kind}\n{'unpadded' if padding == 'none' else 'padded ' + padding}")
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

INFO_HELP = """Say what a model is: family, sizes by part, attention as measured, pooling, mask token, prompts, provenance.

For a transformers or sentence-transformers model, ours or not. Attention is measured under sdpa and without padding; 'twoway check' proves
it under every backend. By default for people; --json for programs.
"""
INFO_EXAMPLE = "twoway info samples/base"


def configure_info(parser: argparse.ArgumentParser) -> None:
    """Add the verb's options."""
    parser.add_argument("model", metavar="MODEL", help="a folder or a hub id")
    parser.add_argument("--json", action="store_true", help="print everything as JSON, for a program")


def run_info(args: argparse.Namespace) -> int:
    """Describe the model."""
    from twoway.methods.info import info

    facts = info(args.model)
    if args.json:
        sys.stdout.write(json.dumps(facts, indent=2, ensure_ascii=False) + "\n")
    else:
        show_info(facts)
    return 0


def show_info(facts: dict[str, Any]) -> None:
    """Print a table of two columns."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(show_header=False, box=None, pad_edge=False)
    for name, value in _rows(facts):
        table.add_row(name, Text(value))
    Console(highlight=False, soft_wrap=not sys.stdout.isatty()).print(table)


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
