"""One pass over documents: look, prepare, embed, each a few results ahead of the next, in memory that does not grow with the input.

What was seen is known by its hash: a document that comes again while the first is on its way joins it, and one that comes later is answered
from a bounded number of vectors that are remembered.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

from ..content import ContentError, Document
from .ahead import ahead
from .batches import Item, batches, size_in_memory, windows
from .steps import finite, forward, look

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    import numpy as np
    from numpy.typing import NDArray

    from .embedder import Embedder
    from .prepare import Prepared

    Vector = NDArray[np.float32]
    Refuse = Callable[[int, ContentError], None]

_LOOK, _LOOK_BYTES = 32, 16 << 20  # what a worker looks at in one go


class Pass:
    """Goes over documents once, for one model and prompt."""

    def __init__(self, engine: Embedder, prompt: str | None, kwargs: dict[str, Any], dim: int | None, refuse: Refuse | None) -> None:
        self.engine, self.prompt, self.kwargs, self.dim, self.refuse = engine, prompt, kwargs, dim, refuse
        self.coming: dict[str, Item] = {}
        self.known: OrderedDict[str, Vector] = OrderedDict()
        self.ready: deque[tuple[int, Any]] = deque()

    def results(self, documents: Iterable[Document]) -> Iterator[tuple[int, Any]]:
        """Yield the vectors, and `None` for a refused document."""
        settings, front = self.engine.settings, self.engine.front
        threads = settings.threads()
        pool = ThreadPoolExecutor(threads, thread_name_prefix="embed") if threads else None
        try:
            looked = ahead(_chunks(documents), self._look, pool=pool, waiting=2 * threads)

            def prepare(batch: list[Item]) -> Prepared:
                return front.prepare(batch, self.prompt, self.kwargs)

            for prepared in ahead(self._batches(looked), prepare, pool=pool, waiting=threads + 1):
                for item, error in prepared.failed:
                    self._fail(item, error)
                self._embed(prepared)
                while self.ready:
                    yield self.ready.popleft()
        finally:
            if pool is not None:
                pool.shutdown(wait=True, cancel_futures=True)

    def _look(self, chunk: list[tuple[int, Document]]) -> list[tuple[int, Item | ContentError]]:
        """Hash, find the kind and count the tokens; runs in a worker."""
        return list(zip([index for index, _ in chunk], look(self.engine, [document for _, document in chunk]), strict=True))

    def _batches(self, looked: Iterator[list[tuple[int, Item | ContentError]]]) -> Iterator[list[Item]]:
        """Keep what is new, and put it into batches; an empty batch lets what is known already pass."""
        settings = self.engine.settings
        for window in windows(looked, self._fresh, rows=settings.window, bytes_=settings.window_bytes):
            yield from batches(window, budget=settings.budget, most=settings.most)
            yield []

    def _fresh(self, index: int, item: Item | ContentError) -> bool:
        """Say whether an item has to be embedded; what has not is answered here."""
        if isinstance(item, ContentError):
            self._refuse(index, item)
        elif item.key in self.known:
            self.known.move_to_end(item.key)
            self.ready.append((index, self.known[item.key]))
        elif item.key in self.coming:
            self.coming[item.key].wanted.append((index, item.document.place))
        else:
            item.wanted.append((index, item.document.place))
            self.coming[item.key] = item
            return True
        return False

    def _embed(self, prepared: Prepared) -> None:
        """Run the model on a batch."""
        if prepared.items:
            for items, vectors in forward(
                self.engine, prepared.items, prepared.features, prompt=self.prompt, kwargs=self.kwargs, dim=self.dim
            ):
                self._finish(items, vectors)

    def _finish(self, items: list[Item], vectors: Vector) -> None:
        """Hand out the vectors of a batch."""
        for item, vector, good in zip(items, vectors, finite(vectors), strict=True):
            if not good:
                self._fail(item, ContentError("the model gives numbers that are not finite; try another dtype", item.document.place))
                continue
            del self.coming[item.key]
            self.ready.extend((index, vector) for index, _ in item.wanted)
            self.known[item.key] = vector
        while self.known and len(self.known) * vectors.shape[1] * 4 > self.engine.settings.remember:
            self.known.popitem(last=False)

    def _fail(self, item: Item, error: ContentError) -> None:
        del self.coming[item.key]
        for index, place in item.wanted:
            self._refuse(index, ContentError(error.reason, place))

    def _refuse(self, index: int, error: ContentError) -> None:
        """Say that a document has no vector."""
        if self.refuse is None:
            raise error
        self.refuse(index, error)
        self.ready.append((index, None))


def _chunks(documents: Iterable[Document]) -> Iterator[list[tuple[int, Document]]]:
    """Cut the input into what a worker looks at in one go: some rows, fewer where they are heavy, since several chunks wait at a time."""
    chunk: list[tuple[int, Document]] = []
    held = 0
    for index, document in enumerate(documents):
        chunk.append((index, document))
        held += size_in_memory(document)
        if len(chunk) >= _LOOK or held >= _LOOK_BYTES:
            yield chunk
            chunk, held = [], 0
    if chunk:
        yield chunk
