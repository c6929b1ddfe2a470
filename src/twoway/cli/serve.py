"""`twoway serve`: a model behind HTTP, with an index and a page where there is one."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

from .parser import add_opening, opening

if TYPE_CHECKING:
    import argparse

    from fastapi import FastAPI

    from twoway.server.schemas import ServerLimits
    from twoway.server.service import Access

SERVE_HELP = """Put a model behind HTTP: embeddings as the OpenAI client asks for them, search in an index, and a page to look at.

POST /v1/embeddings takes texts (OpenAI's) and pictures (messages with image_url parts, as vLLM takes them; data URLs alone: nothing is ever
fetched, and no path is read). With --db, /v1/search and the page at / search an index made by 'twoway index'. It answers on this machine
alone; for others, pass --host, set API keys, and put a proxy with TLS in front. /healthz, /readyz and /metrics are for those who run it."""
SERVE_EXAMPLE = """twoway serve my-model --db my-index
  twoway serve my-model --db my-index --host 0.0.0.0 --api-keys keys.txt --read-only"""


_CPU_BUDGET = 2048


def configure_serve(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("model", metavar="MODEL", help="a folder or a hub id")
    parser.add_argument("--db", metavar="PATH", help="index to search: a folder, a .db file, or milvus://host:port/collection")
    parser.add_argument("--host", default="127.0.0.1", help="address to answer at")
    parser.add_argument("--port", type=int, default=8000, help="port to answer at; 0 takes any that is free")
    parser.add_argument("--api-keys", metavar="FILE", help="keys that may ask, one a line (or TWOWAY_API_KEYS, with commas)")
    parser.add_argument(
        "--allow-host",
        metavar="NAME",
        action="append",
        default=[],
        help="answer to local names and to this one alone; may be repeated (default: local names without keys, else any)",
    )
    parser.add_argument("--name", help="what the model is called in answers (default: its folder's name)")
    parser.add_argument("--read-only", action="store_true", help="nobody adds to the index or deletes from it")
    add_opening(parser)
    parser.add_argument(
        "--budget", metavar="TOKENS", type=int, help="tokens of a batch, with padding (default: 2,048 on a CPU, else 8,192)"
    )
    parser.add_argument("--batch-size", metavar="N", type=_some, help="documents of a batch at most (default: 256)")
    parser.add_argument("--queue", metavar="N", type=_some, help="documents that may wait; past that, 429 (default: 4,096)")
    parser.add_argument("--timeout", metavar="SECONDS", type=_some, help="time a request may take (default: 60)")
    parser.add_argument("--max-body", metavar="MIB", type=_some, help="size of a request (default: 32)")
    parser.add_argument("--decode-pixels", metavar="N", type=_some, help="refuse pictures larger than this (default: 20 million)")
    parser.add_argument("--grace", metavar="SECONDS", type=_some, default=30, help="time that running requests get when it is told to stop")


def run_serve(args: argparse.Namespace) -> int:
    """Serve until told to stop."""
    try:
        from twoway.server.app import address, answer_requests, bind_socket, is_local
    except ImportError as error:
        from twoway.errors import UsageError, with_extra

        raise UsageError(f"serving needs more packages ({error.name}); {with_extra('serve')}") from error
    from twoway.server.service import LOCAL, Access, read_keys

    keys = read_keys(args.api_keys)
    with bind_socket(args.host, args.port) as taken:
        local = is_local(taken)
        if not local and not keys:
            _say("warning: without API keys, anybody who reaches this address may use the model and change the index; see --api-keys")
        hosts = (*LOCAL, *args.allow_host) if args.allow_host or (local and not keys) else ()
        app, about = _open(args, Access.of(keys, hosts))
        _say(f"{address(taken)}  {about}  (Ctrl-C ends it)")
        answer_requests(app, taken, grace=float(args.grace))
    service = app.state.service
    if service.store is not None and not service.busy:
        service.store.close()
    _say("stopped; some answers were cut off (--grace)" if service.cut_off else "stopped; every answer that was begun is given")
    if service.busy:
        # A thread cannot be ended, and Python waits for its end. What it may be writing is whole or absent, whatever ends it.
        sys.stdout.flush()
        os._exit(0)
    return 0


def _open(args: argparse.Namespace, access: Access) -> tuple[FastAPI, str]:
    """Open the model and the index; return the application and a line about it."""
    from dataclasses import replace

    from twoway.embedding import open_embedder
    from twoway.search.query import check_model, open_store
    from twoway.server.app import create_app, warm_up

    store = open_store(args.db) if args.db else None
    settings = {name: value for name, value in (("budget", args.budget), ("batch_size", args.batch_size)) if value is not None}
    engine = open_embedder(args.model, **opening(args), **settings)
    if args.budget is None and engine.sentence.device.type == "cpu":
        # Larger batches are no faster there (`python -m benchmarks serve`), and who waits for one waits longer.
        engine.settings = replace(engine.settings, budget=_CPU_BUDGET)
    if store is not None:
        check_model(store, engine)
    warm_up(engine)
    app = create_app(engine, store, _limits(args), access=access, name=args.name, read_only=args.read_only)
    return app, f"{app.state.service.name}, {engine.dimension} numbers a vector" + (
        f", {store.count():,} items in {args.db}" if store else ""
    )


def _limits(args: argparse.Namespace) -> ServerLimits:
    """Return the limits, with what was asked for."""
    from dataclasses import replace

    from twoway.server.schemas import ServerLimits

    limits = ServerLimits()
    asked = {"queue_items": args.queue, "seconds": args.timeout, "pixels": args.decode_pixels}
    asked["body_bytes"] = None if args.max_body is None else args.max_body << 20
    limits = replace(limits, **{name: value for name, value in asked.items() if value is not None})
    return replace(
        limits,
        request_pixels=max(limits.request_pixels, limits.pixels),
        bodies_bytes=max(limits.bodies_bytes, 2 * limits.body_bytes),
    )


def _some(text: str) -> int:
    """Read a number that is 1 or more."""
    import argparse

    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number of 1 or more")
    return int(text)


def _say(line: str) -> None:
    sys.stderr.write(f"twoway serve: {line}\n")
    sys.stderr.flush()
