"""`twoway serve`: a model behind HTTP, with an index and a page where there is one."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

from .parser import read_settings

if TYPE_CHECKING:
    import argparse
    import socket

    from fastapi import FastAPI

    from twoway.server.config import ServeConfig
    from twoway.server.service import Access


def run_serve(args: argparse.Namespace) -> int:
    """Serve until told to stop."""
    try:
        from twoway.server.app import address, answer_requests, bind_socket, is_local
    except ImportError as error:
        from twoway.errors import UsageError, with_extra

        raise UsageError(f"serving needs more packages ({error.name}); {with_extra('serve')}") from error
    from twoway.server.service import Access, read_keys

    config = read_settings(args)
    keys = read_keys(config.api_keys)
    with bind_socket(config.host, config.port) as taken:
        if not is_local(taken) and not keys:
            _say("warning: without API keys, anybody who reaches this address may use the model and change the index; see --api-keys")
        app, about = _open(args.model, config, Access.of(keys, host_names(config, taken, keyed=bool(keys))))
        _say(f"{address(taken)}  {about}  (Ctrl-C ends it)")
        answer_requests(app, taken, grace=float(config.grace))
    service = app.state.service
    if service.store is not None and not service.busy:
        service.store.close()
    _say("stopped; some answers were cut off (--grace)" if service.cut_off else "stopped; every answer that was begun is given")
    if service.busy:
        # A thread cannot be ended, and Python waits for its end. What it may be writing is whole or absent, whatever ends it.
        sys.stdout.flush()
        os._exit(0)
    return 0


def host_names(config: ServeConfig, taken: socket.socket, *, keyed: bool) -> tuple[str, ...]:
    """Return the names that a server answers to: local ones, those that it was told, and its own where it is local; none: all."""
    from twoway.server.app import is_local
    from twoway.server.service import LOCAL

    local = is_local(taken)
    if not config.allow_host and (keyed or not local):
        return ()
    return (*LOCAL, *((config.host, str(taken.getsockname()[0])) if local else ()), *config.allow_host)


def _open(model: str, config: ServeConfig, access: Access) -> tuple[FastAPI, str]:
    """Open the model and the index; return the application and a line about it."""
    from dataclasses import replace

    from twoway.embedding import open_embedder
    from twoway.embedding.reranker import open_reranker
    from twoway.search.query import check_model, open_store
    from twoway.server.app import create_app, warm_up
    from twoway.server.schemas import ServerLimits

    store = open_store(config.index) if config.index else None
    engine = open_embedder(model, batch_size=config.batch_size, **config.opening(), late_interaction=True)
    if store is not None:
        check_model(store, engine)
    reranker = None if config.rerank is None else open_reranker(config.rerank, device=config.device)
    warm_up(engine, reranker)
    usual, body = ServerLimits(), config.max_body << 20
    limits = replace(
        usual,
        queue_items=config.queue,
        seconds=config.timeout,
        pixels=config.decode_pixels,
        request_pixels=max(usual.request_pixels, config.decode_pixels),
        body_bytes=body,
        bodies_bytes=max(usual.bodies_bytes, 2 * body),
    )
    app = create_app(engine, store, limits, access=access, name=config.name, read_only=config.read_only, reranker=reranker)
    items = f", {store.count():,} items in {config.index}" if store else ""
    second = f", reranker {app.state.service.reranker_name}" if reranker is not None else ""
    each = f"a vector of {engine.dimension} numbers for each token" if engine.late_interaction else f"{engine.dimension} numbers a vector"
    return app, f"{app.state.service.name}, {each}{items}{second}"


def _say(line: str) -> None:
    sys.stderr.write(f"twoway serve: {line}\n")
    sys.stderr.flush()
