"""`twoway mteb`: mteb's own command, on a folder."""

from __future__ import annotations

import argparse

from twoway.errors import UsageError

from .options import add_opening, opening

HELP = """Run mteb's own command on a model of yours.

What follows is given to mteb as it stands: `twoway mteb run -m out -t STS12` is `mteb run -m out -t STS12`, for any model that evaluate
takes. mteb's command alone opens only what is in its registry or on the hub (there a checkpoint of ours works as it is, pictures included);
of a folder it says "No model implementation is available". Options of ours stand before mteb's words. Tasks and their data are fetched by
mteb from the hub; `mock-run` needs none. For tables with chance and intervals there is twoway evaluate --suite mteb:NAME."""
EXAMPLE = """twoway mteb run -m out -t STS12 Vidore2ESGReportsHLRetrieval
  twoway mteb --cache vectors run -m out -b "ViDoRe(v2)" --output-folder results
  twoway mteb mock-run -m out
  twoway mteb run -m openai:http://localhost:8000/v1#name -t STS12"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    add_opening(parser)
    parser.add_argument("--cache", metavar="DIR", help="where vectors are kept (default: $TWOWAY_CACHE, else the user's cache folder)")
    parser.add_argument("words", nargs=argparse.REMAINDER, metavar="WORDS", help="mteb's own words, such as: run -m MODEL -t TASK")


def run(args: argparse.Namespace) -> int:
    """Register the model and let mteb run."""
    if not args.words:
        raise UsageError("say what mteb should do, such as: twoway mteb run -m out -t STS12")
    from twoway.stages.suites import require_mteb

    require_mteb()
    from twoway.evaluation.mteb_open import run_mteb

    run_mteb(args.words, cache=args.cache, **opening(args))
    return 0
