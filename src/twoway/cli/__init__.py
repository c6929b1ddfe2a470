"""The program `twoway`: a table of verbs, each in a module whose heavy imports wait until it runs."""

from __future__ import annotations

import argparse
import logging
import os
import sys
from importlib import import_module
from typing import TYPE_CHECKING, Any

from twoway.errors import TwowayError, UsageError, is_panic

from .parser import Parser

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

INTERRUPTED = 130  # as a shell says it

# Verbs in the order a newcomer needs them, each with its module, which has VERB_HELP, VERB_EXAMPLE, configure_VERB(parser) and
# run_VERB(args) -> exit code.
VERBS: dict[str, str] = {
    "convert": "models",
    "check": "models",
    "info": "models",
    "data": "data",
    "pretrain": "training",
    "bridge": "training",
    "finetune": "training",
    "run": "recipes",
    "plan": "recipes",
    "evaluate": "evaluate",
    "compare": "evaluate",
    "mteb": "evaluate",
    "study": "study",
    "embed": "search",
    "index": "search",
    "search": "search",
    "serve": "serve",
    "mine": "data",
    "samples": "data",
}

DESCRIPTION = "Turn a one-way (causal) vision-language model into a two-way multimodal embedding model, and prove it."


class _Version(argparse.Action):
    """Look the version up only when it is asked for: reading a package's metadata costs more than the rest of the start."""

    def __init__(self, option_strings: Sequence[str], dest: str, **kwargs: Any) -> None:
        super().__init__(option_strings, argparse.SUPPRESS, nargs=0, **kwargs)

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        from twoway import __version__

        parser.exit(message=f"twoway {__version__}\n")


def build_parser(only: str | None = None) -> Parser:
    """Build the whole grammar, or that of one verb, without the options of the others; importing no verb's heavy parts."""
    parser = Parser(prog="twoway", description=DESCRIPTION, epilog="'twoway VERB --help' explains a verb and shows an example.")
    parser.add_argument("--version", action=_Version, help="show the version and exit")
    parser.add_argument("-v", "--verbose", action="store_true", help="show log lines and, on failure, the whole traceback")
    verbs = parser.add_subparsers(dest="verb", metavar="VERB", parser_class=Parser)
    for name, home in VERBS.items():
        module = import_module(f".{home}", __name__)
        about, example = (getattr(module, f"{name.upper()}_{part}").strip() for part in ("HELP", "EXAMPLE"))
        verb = verbs.add_parser(name, help=about.splitlines()[0], description=about, epilog=f"example:\n  {example}")
        verb.set_defaults(_run=getattr(module, f"run_{name}"), _parser=verb)
        if only in (None, name):
            getattr(module, f"configure_{name}")(verb)
    return parser


def main(argv: Sequence[str] | None = None, begin: Callable[[], object] | None = None) -> int:
    """Run one command: 0 done, 1 the thing failed, 2 used wrongly, 130 interrupted. `begin` is called before the verb begins to work."""
    called, verbose = "twoway", False
    try:
        for stream in (sys.stdout, sys.stderr):
            if hasattr(stream, "reconfigure") and (stream.encoding or "").lower().replace("-", "") != "utf8":
                stream.reconfigure(errors="backslashreplace")  # a letter that a terminal does not have is no reason to fail
        words = sys.argv[1:] if argv is None else argv
        parser = build_parser(next((word for word in words if not word.startswith("-")), "none"))
        args = parser.parse_args(argv)
        if args.verb is None:
            parser.print_help()
            return 2
        called, verbose = f"twoway {args.verb}", args.verbose
        _quiet_libraries(verbose=verbose)
        if begin is not None:
            begin()
        return int(args._run(args))
    except BrokenPipeError:
        # The reader of our output went away, as `| head` does; that is no failure of ours.
        sys.stderr.close()
        return 0
    except BaseException as error:
        code, said = _ended(error)
        if code is None:
            raise
        if verbose and code != INTERRUPTED:
            logging.getLogger(__name__).exception("failed")
        sys.stderr.write(f"{called}: {said}\n")
        return code


def _ended(error: BaseException) -> tuple[int | None, str]:
    """Return the exit code of an error that is one line, and that line; no code for one that is a fault of ours."""
    if isinstance(error, TwowayError):
        return (2 if isinstance(error, UsageError) else 1), _shown(str(error))
    if isinstance(error, UnicodeEncodeError):
        what = f"{error.object[error.start : error.end]!r} is no text in {error.encoding}"
        return 1, f"{what}; write UTF-8, and set PYTHONUTF8=1 where the system's language is C"
    if _of_an_interrupt(error):
        return INTERRUPTED, "interrupted; nothing half-written is left"
    if is_panic(error):
        return 1, f"a library fails ({_shown(' '.join(str(error).split())[:300])}); -v shows where"
    return None, ""


def _of_an_interrupt(error: BaseException | None) -> bool:
    """Say whether Ctrl-C is behind an error: in the middle of an import, a library written in C says that it cannot begin."""
    while error is not None and not isinstance(error, KeyboardInterrupt):
        error = error.__cause__ or error.__context__
    return error is not None


def _shown(said: str) -> str:
    """Return words that a terminal shows and does not obey: names out of data may hold sequences that clear it or type into it."""
    return "".join(sign if sign.isprintable() or sign == "\n" else repr(sign)[1:-1] for sign in said)


def _quiet_libraries(*, verbose: bool) -> None:
    """Show our own log lines, and of the libraries only what a user must know; no bar of theirs in a file or a pipe."""
    if not sys.stderr.isatty():
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")  # of transformers too, which reads it
    logging.basicConfig(level=logging.INFO if verbose else logging.WARNING, format="%(name)s: %(message)s")
    if not verbose:
        for name in ("transformers", "sentence_transformers", "datasets", "huggingface_hub", "peft", "httpx"):
            logging.getLogger(name).setLevel(logging.ERROR)
