"""One model in several processes, each on a device of its own: all GPUs of a machine, or a few shares of its processors.

What comes out is what one process gives, in order, with the same refusals: rows are embedded in blocks, and only the last bits of a vector
depend on what shares its batch. Blocks are small at first, so that a small task is shared too, and grow, so that rows of one length meet.
"""

from __future__ import annotations

import os
from collections import deque
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from sentence_transformers import SentenceTransformer

from ..content import ContentError, Document
from ..data.pair_rows import documents_of
from ..errors import UsageError
from ..processes import CONTEXT, Team
from .batches import size_in_memory
from .embedder import Embedder
from .opening import open_embedder

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from pathlib import Path

    from ..data.pair_rows import Content
    from .one_pass import Refuse, Vector
    from .prompts import Side

_FIRST, _ROWS, _BYTES = 32, 512, 64 << 20


def open_embedders(model: str | Path | Embedder | SentenceTransformer, *, processes: int | None = None, **opening: Any) -> Embedder:
    """Open a model as `open_embedder` does, in as many processes as are asked for; by default one for each GPU of the machine."""
    if isinstance(model, Embedder | SentenceTransformer):
        if processes is not None and processes > 1:
            raise UsageError("a model in memory cannot be sent to other processes; name its folder or hub id")
        return open_embedder(model, **opening)
    devices = _devices(opening.get("device") or "auto", processes)
    if len(devices) == 1:
        return open_embedder(model, **opening)
    # The copy here says what the model is, and embeds nothing: it takes no room on a device.
    dtype = opening.get("dtype") or ("float32" if devices[0] == "cpu" else "auto")
    settings = {**opening, "dtype": dtype}
    return Embedders(open_embedder(model, **{**settings, "device": "cpu"}), {"model": str(model), **settings}, devices)


def _devices(device: str, processes: int | None) -> list[str]:
    """Return the device of each process."""
    if processes is not None and processes < 1:
        raise UsageError(f"--processes is at least 1, not {processes}")
    there = torch.cuda.device_count() if device in ("auto", "cuda") and torch.cuda.is_available() else 0
    if there:
        if processes is not None and processes > there:
            raise UsageError(f"--processes {processes}: this machine shows {there} GPUs, and each process needs one")
        return [f"cuda:{number}" for number in range(processes or there)]
    if device not in ("auto", "cpu") and (processes or 1) > 1:
        raise UsageError(f"--processes {processes} cannot share the device {device}; leave --device out, and each has a GPU of its own")
    return ["cpu" if device == "auto" else device] * (processes or 1)


class Embedders(Embedder):
    """An embedder whose documents other processes embed; `engine` says what the model is."""

    def __init__(self, engine: Embedder, opening: dict[str, Any], devices: Sequence[str]) -> None:
        vars(self).update(vars(engine))
        self.devices = devices
        turn = CONTEXT.Value("i", 0)
        self.team = Team(len(devices), _begin, opening, devices, turn, title="embedding")

    @property
    def device(self) -> torch.device:
        """Return a device that this process may compute on beside."""
        return torch.device(self.devices[0])

    def close(self) -> None:
        """End the processes."""
        self.team.close()

    def embed(
        self,
        documents: Iterable[Content],
        *,
        side: Side | None = None,
        instruction: str | None = None,
        prompt_name: str | None = None,
        dim: int | None = None,
        ordered: bool = False,
        refuse: Refuse | None = None,
    ) -> Iterator[tuple[int, Vector]]:
        """See `Embedder.embed`; vectors always come in order."""
        how: dict[str, Any] = {"side": side, "instruction": instruction, "prompt_name": prompt_name, "dim": dim}
        self.check(**how)
        return self._results(documents_of(documents), how, refuse)

    def _results(self, documents: Iterable[Document], how: dict[str, Any], refuse: Refuse | None) -> Iterator[tuple[int, Vector]]:
        begun: deque[tuple[int, Any]] = deque()

        def finish() -> Iterator[tuple[int, Vector]]:
            first, wait = begun.popleft()
            numbers, vectors, bad = wait()
            for number, error in bad:
                if refuse is None:
                    raise error
                refuse(first + number, error)
            yield from ((first + number, vector) for number, vector in zip(numbers, vectors, strict=True))

        for first, block in _blocks(documents, len(self.devices)):
            begun.append((first, self.team.submit(_embed_here, block, how)))
            if len(begun) > 2 * len(self.devices):
                yield from finish()
        while begun:
            yield from finish()


def _blocks(documents: Iterable[Document], shares: int) -> Iterator[tuple[int, list[Document]]]:
    """Cut the documents into blocks, with the number of the first of each."""
    block: list[Document] = []
    first = held = made = 0
    for number, document in enumerate(documents):
        block.append(Document(document.parts, document.place))
        held += size_in_memory(document)
        if len(block) >= min(_ROWS, _FIRST << (made // shares)) or held >= _BYTES:
            yield first, block
            block, first, held, made = [], number + 1, 0, made + 1
    if block:
        yield first, block


_OWN: dict[str, Embedder] = {}  # of a process that embeds


def _begin(opening: dict[str, Any], devices: Sequence[str], turn: Any) -> None:
    """Open the model on the next device that is free."""
    with turn.get_lock():
        number, turn.value = turn.value, turn.value + 1
    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(max(1, (os.cpu_count() or 1) // len(devices)))
    _OWN["engine"] = open_embedder(**{**opening, "device": devices[number]})


def _embed_here(documents: list[Document], how: dict[str, Any]) -> tuple[list[int], Vector, list[tuple[int, ContentError]]]:
    """Embed a block; return the numbers of the documents that have vectors, the vectors, and what was refused."""
    engine = _OWN["engine"]
    bad: list[tuple[int, ContentError]] = []
    found = sorted(engine.embed(documents, refuse=lambda number, error: bad.append((number, error)), **how), key=lambda one: one[0])
    rows = np.stack([vector for _, vector in found]) if found else np.zeros((0, how["dim"] or engine.dimension), np.float32)
    return [number for number, _ in found], rows, sorted(bad, key=lambda one: one[0])
