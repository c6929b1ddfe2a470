"""Bulk embedding on many machines, by Ray Data: actors hold the model, the one process that was started writes.

Ray starts as many actors as there is work and room for (its own autoscaling), gives each a shard and one more to come, holds work back
where answers pile up, and gives a shard that was lost with its machine to another. Answers come in order, so they are written as the plain
engine writes them, whole and each once: whoever is killed, nothing is lost, nothing is there twice, and either engine goes on with the
folder. Only places of rows go out and vectors come back; pages are read where they are embedded.
"""

from __future__ import annotations

import itertools
import logging
import os
import signal
import threading
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from twoway.data.progress import steps
from twoway.embedding.precision import require
from twoway.errors import TwowayError, UsageError, with_extra

from .embed_places import Places
from .embed_recall import Sample
from .embed_worker import ShardEmbedder, describe, read_answer
from .embed_write import EmbedResult, Writer, fill, width_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from .embed_source import Sources


@dataclass(frozen=True)
class Cluster:
    """Which machines work, and what each actor takes of them."""

    address: str | None = None  # of a cluster that runs; without one Ray is started on this machine alone
    actors: int | None = None  # at most so many; without a number as many as there is room for
    cpus: float = 1
    gpus: float | None = None  # without a number 1 where the cluster has any, else 0


def embed_on(
    cluster: Cluster,
    opening: Mapping[str, Any],
    sources: Sources,
    out: Path,
    prompts: Mapping[str, Any],
    how: Mapping[str, Any],
    *,
    recall: bool = False,
    **filling: Any,
) -> EmbedResult:
    """Embed what `sources` gives with a model that each actor opens by itself; see `embed`."""
    if cluster.actors is not None and cluster.actors < 1:
        raise UsageError(f"--actors is 1 or more, not {cluster.actors}")
    places = Places(sources)
    with connected(cluster) as ray:
        taken = {"num_cpus": cluster.cpus, "num_gpus": _gpus(cluster, ray)}
        facts = ray.get(ray.remote(**taken)(describe).remote(dict(opening), dict(prompts)))
        if "error" in facts:
            raise (UsageError if facts["usage"] else TwowayError)(facts["error"])
        width, normal, prompt = facts.pop("dimension"), facts.pop("normal"), facts.pop("prompt")
        how = {**how, "dim": width_of(how["dim"], width)}
        require(how["precision"], how["dim"])
        sample = Sample(how["dim"], how["precision"], normal=normal) if recall else None
        conditions = {**facts, **how, "prompt": [prompt, prompts.get("side")], "data": sources.identity()}
        strict = filling.get("on_bad", "fail") == "fail"
        actor = (dict(opening), dict(prompts), places, facts["fingerprint"])

        def produce(writer: Writer) -> None:
            shards = list(itertools.islice(places.shards(writer.size), writer.due, None))
            if not shards:
                return
            firsts = range(writer.due * writer.size, (writer.due + len(shards)) * writer.size, writer.size)
            tables = [
                {"number": first // writer.size, "first": first, "places": one.ravel()} for first, one in zip(firsts, shards, strict=True)
            ]
            due = writer.due + len(shards)
            answers = _answers(ray, tables, actor, cluster.actors, taken, strict=strict)
            for answer in steps(answers, f"embedding (shards of {writer.size:,} rows)", total=len(shards)):
                _take(writer, answer, width)
            if writer.due != due:
                raise TwowayError(f"Ray ended after {writer.due} of {due} shards; the same command goes on")

        return fill(out, conditions, produce, normal=normal, sample=sample, **filling)


def _take(writer: Writer, answer: Mapping[str, Any], width: int) -> None:
    """Write one answer, which has to be the one that is due."""
    if answer["error"]:
        raise TwowayError(answer["error"])
    if answer["number"] != writer.due:
        raise TwowayError(f"Ray gave shard {answer['number']} where {writer.due} was due; the same command goes on")
    numbers, rows, vectors, bad = read_answer(answer, width)
    for error in bad:
        writer.refuse(error)
    for number, vector in zip(numbers, () if vectors is None else vectors, strict=True):
        writer.note(number, vector)
    writer.write(rows, vectors, seen=answer["seen"])


def _answers(
    ray: Any, tables: list[dict[str, Any]], actor: tuple[Any, ...], most: int | None, taken: Mapping[str, Any], *, strict: bool
) -> Iterator[dict[str, Any]]:
    """Let the actors answer all shards, in order."""
    context = ray.data.DataContext.get_current()
    context.execution_options.preserve_order = True
    context.enable_progress_bars = False
    logging.getLogger("ray.data").setLevel(logging.WARNING)
    shards = ray.data.from_items(tables, override_num_blocks=len(tables))  # a block is what is lost and done again
    pool = ray.data.ActorPoolStrategy(min_size=1, max_size=most, max_tasks_in_flight_per_actor=2)
    answers = shards.map_batches(
        ShardEmbedder,
        batch_size=1,
        compute=pool,
        fn_constructor_args=actor,
        fn_constructor_kwargs={"strict": strict},
        **taken,
    )
    try:
        yield from answers.iter_rows()
    except ray.exceptions.RayError as error:
        raise TwowayError(f"Ray gave up: {str(error).strip().splitlines()[-1]} (the same command goes on)") from error


def _gpus(cluster: Cluster, ray: Any) -> float:
    """Return the accelerators of an actor."""
    if cluster.gpus is not None:
        return cluster.gpus
    return 1 if ray.cluster_resources().get("GPU", 0) >= 1 else 0


@contextmanager
def connected(cluster: Cluster) -> Iterator[Any]:
    """Connect to a cluster, or start Ray on this machine; what was started or connected before is used and left as it is."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import ray
        import ray.data
    except ImportError as error:
        raise UsageError(f"this engine needs Ray; {with_extra('ray')}") from error
    if ray.is_initialized():
        yield ray
        return
    here = {"address": "local", "include_dashboard": False} if cluster.address is None else {"address": cluster.address}
    with _sigterm_given_back():
        try:
            ray.init(**here, log_to_driver=False, logging_level=logging.WARNING)
        except (ConnectionError, ValueError, RuntimeError, OSError) as error:
            raise TwowayError(f"no Ray cluster answers at {cluster.address or 'this machine'} ({str(error).splitlines()[0]})") from error
        try:
            yield ray
        finally:
            ray.shutdown()


@contextmanager
def _sigterm_given_back() -> Iterator[None]:
    """Put back what SIGTERM did before: Ray takes the signal for itself, and keeps it after its end."""
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        if before is not None and threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, before)
