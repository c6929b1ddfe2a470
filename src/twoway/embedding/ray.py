"""Bulk embedding on many machines with Ray Data: actors hold the model, and the process that was started writes.

Ray starts as many actors as there is work and room for (its own autoscaling), gives each a shard and one in advance, applies backpressure
when results pile up, and gives a shard that was lost with its machine to another one. Results come in order, so they are written as the
plain engine writes them, complete and each once: after any kill nothing is lost or duplicated, and either engine resumes the folder. Only
row positions are sent out and vectors sent back; pages are read where they are embedded.
"""

from __future__ import annotations

import itertools
import json
import logging
import os
import signal
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

from twoway.content import ContentError, Place
from twoway.data.dataset import GlobReader
from twoway.embedding import open_embedder
from twoway.errors import TwowayError, UsageError, with_extra
from twoway.progress import steps

from .inputs import prompt_of
from .nearest import Sample
from .prefetch import read_ahead
from .shards import StoredRow, require_precision
from .writing import READ_AHEAD, EmbedResult, Writer, fill_folder, of_model, row_of, width_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from numpy.typing import NDArray

    from twoway.content import Document
    from twoway.data.sources.readers import Reader

    from .config import Cluster
    from .writing import Sources


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
    places = SourceRows(sources)
    with ray_cluster(cluster) as ray:
        taken = {"num_cpus": cluster.cpus, "num_gpus": _gpus(cluster, ray)}
        facts = ray.get(ray.remote(**taken)(describe_model).remote(dict(opening), dict(prompts)))
        if "error" in facts:
            raise (UsageError if facts["usage"] else TwowayError)(facts["error"])
        width, normal, prompt = facts.pop("dimension"), facts.pop("normal"), facts.pop("prompt")
        how = {**how, "dim": width_of(how["dim"], width)}
        require_precision(how["precision"], how["dim"])
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
                raise TwowayError(f"Ray ended after {writer.due} of {due} shards; the same command resumes")

        return fill_folder(out, conditions, produce, normal=normal, sample=sample, **filling)


def _take(writer: Writer, answer: Mapping[str, Any], width: int) -> None:
    """Write one answer, which has to be the one that is due."""
    if answer["error"]:
        raise TwowayError(answer["error"])
    if answer["number"] != writer.due:
        raise TwowayError(f"Ray gave shard {answer['number']} where {writer.due} was due; the same command resumes")
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
        raise TwowayError(f"Ray gave up: {str(error).strip().splitlines()[-1]} (the same command resumes)") from error


def _gpus(cluster: Cluster, ray: Any) -> float:
    """Return the accelerators of an actor."""
    if cluster.gpus is not None:
        return cluster.gpus
    return 1 if ray.cluster_resources().get("GPU", 0) >= 1 else 0


@contextmanager
def ray_cluster(cluster: Cluster) -> Iterator[Any]:
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


# The position of each row of a run, so that any machine can read any shard by itself: rows are found once, in order,
# and read by position.
#
# A position is three integers: the source, and the two by which its reader knows the row. Files are named by path, so
# every machine that reads must see them under the same path.


class SourceRows:
    """The rows of several sources, one behind the other, by their places; it is sent to other machines without what is open in it."""

    def __init__(self, sources: Sources) -> None:
        self.readers = [found for spec, reader in sources.readers() for found in _with_positions(spec, reader)]

    def shards(self, rows: int) -> Iterator[NDArray[np.int64]]:
        """Go through all rows, so many at a time."""
        found = ((number, *at) for number, (_, reader) in enumerate(self.readers) for at in reader.positions())
        while shard := list(itertools.islice(found, rows)):
            yield np.array(shard, np.int64)

    def read(self, places: NDArray[np.int64]) -> Iterator[Document | ContentError]:
        """Read rows; a bad row is its error."""
        for number, *at in places.tolist():
            spec, reader = self.readers[number]
            try:
                yield reader.read((at[0], at[1]))
            except ContentError as error:
                yield error if error.place is not None else ContentError(error.reason, Place(spec))


def _with_positions(spec: str, reader: Reader[Document]) -> Iterator[tuple[str, Reader[Document]]]:
    """Give readers that have random access: of a pattern, those of its files."""
    if isinstance(reader, GlobReader):
        for path, one in zip(reader.files(), reader.readers(), strict=True):
            yield from _with_positions(str(path), one)
    elif reader.random_access:
        yield spec, reader
    else:
        raise UsageError(
            f"{spec} is a stream, and Ray's machines read rows by their place; save it with datasets.save_to_disk and name the folder"
        )


# What one machine of a cluster does: it opens the model once, then reads and embeds shard after shard, and writes
# nothing.
#
# A shard is answered as a whole, so one that is lost with its machine is asked for again, and a second answer to it
# would be the same. What is wrong is answered too, as a line of text, because an exception that crosses machines
# arrives as a traceback.


def describe_model(opening: Mapping[str, Any], prompts: Mapping[str, Any]) -> dict[str, Any]:
    """Open the model where it will run, and say what it is there: on another kind of device it may be of another precision."""
    try:
        engine = open_embedder(**opening, late_interaction=True)
        if engine.late_interaction:
            raise UsageError(
                f"{engine.name} gives a vector for each token (late interaction), which engine ray does not send; leave it out"
            )
        prompt = prompt_of(engine.sentence, **prompts)
    except TwowayError as error:
        return {"error": str(error), "usage": isinstance(error, UsageError)}
    return {**of_model(engine), "dimension": engine.dimension, "normal": engine.normal, "prompt": prompt or ""}


class ShardEmbedder:
    """Holds the model; called with one shard at a time, as Ray Data calls it."""

    def __init__(
        self, opening: Mapping[str, Any], prompts: Mapping[str, Any], places: SourceRows, fingerprint: str, *, strict: bool
    ) -> None:
        self.prompts, self.places, self.strict = prompts, places, strict
        self.error = ""
        try:
            self.engine = open_embedder(**opening)
            if self.engine.fingerprint != fingerprint:
                self.error = f"{opening['model']} is another model on one of the machines; give all of them the same files and devices"
        except TwowayError as error:
            self.error = str(error)

    def __call__(self, batch: dict[str, NDArray[Any]]) -> dict[str, list[Any]]:
        """Answer one shard."""
        number, places = int(batch["number"][0]), np.asarray(batch["places"][0]).reshape(-1, 3)
        answer: dict[str, Any] = {"number": number, "seen": len(places), "error": self.error, "rows": "[]", "bad": "[]", "vectors": b""}
        if not self.error:
            try:
                answer |= self._embed(number, places, int(batch["first"][0]))
            except TwowayError as error:
                answer["error"] = str(error)
        return {name: [value] for name, value in answer.items()}

    def _embed(self, shard: int, places: NDArray[np.int64], first: int) -> dict[str, Any]:
        """Read the rows of a shard and embed the good ones; a strict run ends at the first bad one."""
        numbers: list[int] = []
        rows: dict[int, StoredRow] = {}
        bad: list[ContentError] = []

        def documents() -> Iterator[Document]:
            for number, found in enumerate(read_ahead(self.places.read(places), READ_AHEAD), first):
                if self.strict and bad:
                    return
                if isinstance(found, ContentError):
                    bad.append(found)
                    continue
                numbers.append(number)
                rows[number] = row_of(number, found)
                yield found

        def refuse(_: int, error: ContentError) -> None:
            bad.append(error)

        vectors = {numbers[index]: vector for index, vector in self.engine.embed(documents(), **self.prompts, refuse=refuse)}
        order = sorted(vectors)
        whole = np.stack([vectors[number] for number in order]).tobytes() if order else b""
        said = [(error.reason, *vars(error.place or Place("")).values()) for error in bad]
        return {"rows": json.dumps([[number, *rows[number]] for number in order]), "bad": json.dumps(said), "vectors": whole}


def read_answer(answer: Mapping[str, Any], width: int) -> tuple[list[int], list[StoredRow], NDArray[np.float32] | None, list[ContentError]]:
    """Return an answer's row numbers, rows, vectors (none without a good row) and bad rows."""
    said = json.loads(answer["rows"])
    bad = [ContentError(reason, Place(file, row, unit) if file else None) for reason, file, row, unit in json.loads(answer["bad"])]
    vectors = np.frombuffer(answer["vectors"], np.float32).reshape(-1, width) if said else None
    return [one[0] for one in said], [StoredRow(*one[1:]) for one in said], vectors, bad
