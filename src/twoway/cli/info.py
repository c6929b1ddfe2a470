"""`twoway info`: what a model is, in one look."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator

HELP = """Say what a model is: family, sizes by part, attention as measured, pooling, mask token, prompts, provenance.

For a transformers or sentence-transformers model, ours or not. Attention is measured under sdpa and without padding; 'twoway check' proves
it under every backend. By default for people; --json for programs.
"""
EXAMPLE = "twoway info samples/base"


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the verb's options."""
    parser.add_argument("model", metavar="MODEL", help="a folder or a hub id")
    parser.add_argument("--json", action="store_true", help="print everything as JSON, for a program")


def run(args: argparse.Namespace) -> int:
    """Describe the model."""
    from twoway.stages.info import info

    facts = info(args.model)
    if args.json:
        sys.stdout.write(json.dumps(facts, indent=2, ensure_ascii=False) + "\n")
    else:
        show(facts)
    return 0


def show(facts: dict[str, Any]) -> None:
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
