"""`python -m tools.rehearsal`: every full-size recipe does a step of each stage on a model of real geometry; a table says what was read.

    python -m tools.rehearsal                  all recipes (make rehearsal)
    python -m tools.rehearsal moca-3b          one of them
    python -m tools.rehearsal --whole          convert, check and embed with one whole random 3.75 B model (make rehearsal-3b)

Rows, bounds, lengths and templates are the recipes'; the base is swapped, and batches are small. A row that is dropped ends the rehearsal.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from twoway.errors import TwowayError

from . import steps, whole

OUT = Path("build/rehearsal")


def main() -> int:
    """Rehearse."""
    parser = argparse.ArgumentParser(
        prog="python -m tools.rehearsal", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("recipes", nargs="*", help=f"which of: {', '.join(steps.RECIPES)} (default: all)")
    parser.add_argument("--whole", action="store_true", help="one whole random model of 3.75 billion parameters instead")
    parser.add_argument("--out", type=Path, default=OUT, help="where models, rows and runs lie (default: %(default)s)")
    args = parser.parse_args()
    unknown = [name for name in args.recipes if name not in steps.RECIPES]
    if unknown:
        parser.error(f"there is no full-size recipe {unknown[0]} (there are: {', '.join(steps.RECIPES)})")
    try:
        return whole.rehearse(args.out) if args.whole else steps.rehearse(args.out, args.recipes or list(steps.RECIPES))
    except TwowayError as error:
        sys.stderr.write(f"rehearsal: {error}\n")
        return 1


if __name__ == "__main__":
    sys.exit(main())
