"""The program `twoway`: the verbs of the table, each run by a module whose heavy imports wait until it runs."""

from __future__ import annotations

import argparse
import os
import sys
from importlib import import_module
from typing import TYPE_CHECKING, Any

from twoway.errors import TwowayError, UsageError, is_panic

from .parser import Parser, add_verb
from .verbs import VERBS as VERBS
from .verbs import Verb

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

INTERRUPTED = 130  # as a shell says it

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
    for name, verb in VERBS.items():
        inner = _add(verbs, name, verb)
        if only in (None, name):
            if verb.actions:
                actions = inner.add_subparsers(dest="action", metavar="|".join(verb.actions), required=True, parser_class=Parser)
                for action, one in verb.actions.items():
                    add_verb(_add(actions, action, one), one, *_homes(one))
            else:
                add_verb(inner, verb, *_homes(verb))
    return parser


def _add(parsers: Any, name: str, verb: Verb) -> Parser:
    added: Parser = parsers.add_parser(name, help=verb.help.splitlines()[0], description=verb.help, epilog=f"example:\n  {verb.example}")
    added.set_defaults(_parser=added)
    return added


def _homes(verb: Verb) -> tuple[Any, Any]:
    """Import what runs a verb and the class of its settings; neither waits for a heavy library."""
    module, _, run = verb.run.rpartition(".")
    home, _, config = verb.config.rpartition(".")
    return getattr(import_module(f".{module}", __name__), run), getattr(import_module(home), config) if config else None


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
            import logging

            logging.getLogger(__name__).exception("failed")
        sys.stderr.write(f"{called}: {said}\n")
        return code


def _ended(error: BaseException) -> tuple[int | None, str]:
    """Return the exit code of an error that is one line, and that line; no code for one that is a fault of ours."""
    if isinstance(error, TwowayError):
        return (2 if isinstance(error, UsageError) else 1), _shown(str(error))
    if isinstance(error, UnicodeEncodeError):
        what = f"{error.object[error.start : error.end]!r} is not text in {error.encoding}"
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
    import logging

    if not sys.stderr.isatty():
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")  # of transformers too, which reads it
    logging.basicConfig(level=logging.INFO if verbose else logging.WARNING, format="%(name)s: %(message)s")
    if not verbose:
        for name in ("transformers", "sentence_transformers", "datasets", "huggingface_hub", "peft", "httpx"):
            logging.getLogger(name).setLevel(logging.ERROR)
