"""A cache of vectors by content, on disk, for each model: over all tasks and runs nothing is embedded twice.

One SQLite file for each model, named by its fingerprint, holds vectors by a document's hash and the side it was embedded as. Vectors are
committed as they come, so a killed run resumes.
"""

from __future__ import annotations

import hashlib
import io
import sqlite3
import time
from contextlib import closing
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from twoway.content import ContentError
from twoway.embedding.shards import MultiVectors
from twoway.errors import TwowayError
from twoway.files import cache_home, disk_errors, write_whole
from twoway.progress import steps

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from twoway.content import Document

    from .tasks import Side

    Vectors = NDArray[np.float32]

_SECONDS = 5.0  # what a kill may cost, and the batch that the model is at
_WAITING = 1000  # vectors in memory before they are written
_AT_ONCE = 500  # SQLite takes so many values in one question


class Engine(Protocol):
    """What evaluation asks of a model."""

    @property
    def fingerprint(self) -> str:
        """Return a hash of all that decides the vectors."""
        ...

    @property
    def dimension(self) -> int:
        """Return the length of a vector."""
        ...

    def embed(
        self, documents: Iterable[Document], *, side: Side | None = None, refuse: Callable[[int, ContentError], None] | None = None
    ) -> Iterator[tuple[int, Any]]:
        """Yield (number of a document, its vector); an engine that has prompts takes `prompt`, too."""
        ...


def cache_folder() -> Path:
    """Return where vectors are kept."""
    return cache_home() / "vectors"


class VectorCache:
    """The vectors of one model."""

    def __init__(self, folder: Path, fingerprint: str, dimension: int, *, many: bool = False) -> None:
        self.path, self.dimension, self.many = folder / f"{fingerprint}.sqlite", dimension, many
        with disk_errors():
            folder.mkdir(parents=True, exist_ok=True)
        try:
            self._file = sqlite3.connect(self.path, timeout=60.0)
            self._file.execute("PRAGMA journal_mode=WAL")
            self._file.execute("CREATE TABLE IF NOT EXISTS vectors (key TEXT PRIMARY KEY, vector BLOB NOT NULL) WITHOUT ROWID")
            self._check()
        except sqlite3.DatabaseError as error:
            raise self._unreadable(error) from error

    def _check(self) -> None:
        """Refuse a file whose vectors are not of the model's length."""
        found = self._file.execute("SELECT LENGTH(vector) FROM vectors LIMIT 1").fetchone()
        if found is not None and not self._fits(found[0]):
            raise TwowayError(
                f"the cache {self.path} holds vectors of {found[0] // 4} numbers, and this model's have {self.dimension}; remove the file"
            )

    def _fits(self, size: int) -> bool:
        """Say whether so many bytes are a vector, or several where a document has many."""
        return size % (4 * self.dimension) == 0 < size if self.many else size == 4 * self.dimension

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def known(self, keys: Sequence[str]) -> set[str]:
        """Return which keys have a vector."""
        return {key for part in _parts(keys) for (key,) in self._ask("SELECT key FROM vectors WHERE key IN ({})", part)}

    def read(self, keys: Sequence[str]) -> Vectors:
        """Return the vectors of keys, in their order; of a key that is not there, not-a-number."""
        places = {key: place for place, key in enumerate(keys)}
        found = np.full((len(keys), self.dimension), np.nan, np.float32)
        for key, vector in self._stored(keys):
            found[places[key]] = vector
        return found

    def read_many(self, keys: Sequence[str]) -> MultiVectors:
        """Return the same where a document has many vectors."""
        found, none = dict(self._stored(keys)), np.full((1, self.dimension), np.nan, np.float32)
        return MultiVectors.of([found.get(key, none).reshape(-1, self.dimension) for key in keys], self.dimension)

    def _stored(self, keys: Sequence[str]) -> Iterator[tuple[str, Vectors]]:
        for part in _parts(keys):
            for key, vector in self._ask("SELECT key, vector FROM vectors WHERE key IN ({})", part):
                # The length is looked at: numpy spreads one number over a whole row.
                if not isinstance(vector, bytes) or not self._fits(len(vector)):
                    raise self._unreadable(f"the vector of {key} is damaged")
                yield key, np.frombuffer(vector, np.float32)

    def add(self, rows: Iterable[tuple[str, Vectors]]) -> None:
        """Keep vectors; they are on disk every few seconds and at the end."""
        saved = time.monotonic()
        waiting: list[tuple[str, bytes]] = []
        try:
            for key, vector in rows:
                waiting.append((key, np.asarray(vector, np.float32).tobytes()))
                if len(waiting) >= _WAITING or time.monotonic() - saved > _SECONDS:
                    self._write(waiting)
                    saved = time.monotonic()
        finally:
            self._write(waiting)

    def _write(self, waiting: list[tuple[str, bytes]]) -> None:
        """Write what waits in one go: while the model is at work the file is free for others."""
        rows, waiting[:] = list(waiting), []
        try:
            with self._file:
                self._file.executemany("INSERT OR REPLACE INTO vectors VALUES (?, ?)", rows)
        except sqlite3.DatabaseError as error:
            raise TwowayError(f"the cache {self.path} cannot be written ({error}); vectors kept so far stand") from error

    def _unreadable(self, why: object) -> TwowayError:
        return TwowayError(f"the cache {self.path} cannot be read ({why}); remove it, or name another with --cache-dir")

    def _ask(self, question: str, keys: Sequence[str]) -> list[Any]:
        try:
            return self._file.execute(question.format(", ".join("?" * len(keys))), keys).fetchall()
        except sqlite3.DatabaseError as error:
            raise self._unreadable(error) from error


def _parts(keys: Sequence[str]) -> Iterator[Sequence[str]]:
    return (keys[start : start + _AT_ONCE] for start in range(0, len(keys), _AT_ONCE))


class VectorSource:
    """Vectors of a model, from the cache where they are there."""

    def __init__(self, engine: Engine, folder: Path | None = None) -> None:
        self.engine, self.folder = engine, folder or cache_folder()
        self.fingerprint = fingerprint_in(self.folder, engine)
        self.embedded = 0  # documents that the model was asked for
        self.taken = 0  # documents that the cache had

    def __call__(
        self,
        documents: Sequence[Document],
        side: Side | None,
        title: str,
        bad: dict[int, ContentError],
        *,
        prompt: str | None = None,
    ) -> Any:
        """Return the vectors of documents as rows; a document that has none goes into `bad` by its number and its row is not-a-number.

        A `prompt` replaces the prompt of the side. Of a model of many vectors they are `MultiVectors`.
        """
        many = getattr(self.engine, "late_interaction", False)
        told = "" if prompt is None else f"{hashlib.sha256(prompt.encode()).hexdigest()[:16]}:"
        keys = [f"{side or ''}:{told}{document.fingerprint()}" for document in documents]
        with closing(VectorCache(self.folder, self.fingerprint, self.engine.dimension, many=many)) as store:
            known = store.known(list(dict.fromkeys(keys)))
            missing: Mapping[str, int] = {key: place for place, key in reversed(list(enumerate(keys))) if key not in known}
            self.taken += len(set(keys) & known)
            self.embedded += len(missing)
            how: dict[str, Any] = {"side": side} | ({} if prompt is None else {"prompt": prompt})
            store.add(self._embed(documents, sorted(missing.items(), key=lambda one: one[1]), how, title, bad))
            unique = list(dict.fromkeys(keys))
            rows: Any = store.read_many(unique) if many else store.read(unique)
        places = {key: place for place, key in enumerate(unique)}
        # Without doubles the rows are in order already, and a large matrix is not there twice.
        found = rows if len(unique) == len(keys) else rows[np.array([places[key] for key in keys])]
        for number, row in enumerate(found):
            if np.isnan(row.flat[0]) and number not in bad:
                bad[number] = ContentError("the same content could not be embedded elsewhere", documents[number].place)
        return found

    def _embed(
        self,
        documents: Sequence[Document],
        missing: Sequence[tuple[str, int]],
        how: Mapping[str, Any],
        title: str,
        bad: dict[int, ContentError],
    ) -> Iterator[tuple[str, NDArray[np.float32]]]:
        """Yield (key, vector) of what the cache lacks."""

        def refuse(number: int, error: ContentError) -> None:
            bad[missing[number][1]] = error

        asked = (documents[place] for _, place in missing)
        for number, vector in steps(self.engine.embed(asked, refuse=refuse, **how), title, total=len(missing)):
            if np.isfinite(vector).all():
                yield missing[number][0], vector
            else:
                refuse(number, ContentError("the model gives numbers that are not finite", documents[missing[number][1]].place))


# Whether a server is still the model whose vectors are in the cache is decided by its vectors, because it may change
# its model and keep the name.
#
# A model in memory has a fingerprint of its weights; a server has an address and a name. So a few fixed texts are
# embedded first, and their vectors are stored beside those that the server gave. Vectors of one model differ in their
# last bits (other batches, other machines); those of another model, or of a later step of the same training, differ
# more. In doubt it counts as another model, and its vectors are computed again.

SAME = 0.02  # how far vectors of length 1 may lie apart and be of one model: rounding to bfloat16 moves them by less


def fingerprint_in(folder: Path, engine: Any) -> str:
    """Return the name of a model in a cache: its fingerprint, and for a server that of the vectors that it is known by there."""
    probe = getattr(engine, "probe", None)
    if probe is None:
        return str(engine.fingerprint)
    for path in sorted(folder.glob(f"{engine.fingerprint}-*.npy")):
        if _near(probe, path):
            return path.stem
    name = f"{engine.fingerprint}-{hashlib.sha256(np.ascontiguousarray(probe).tobytes()).hexdigest()[:16]}"
    written = io.BytesIO()
    np.save(written, probe, allow_pickle=False)
    with disk_errors():
        folder.mkdir(parents=True, exist_ok=True)
    write_whole(folder / f"{name}.npy", written.getvalue())
    return name


def _near(probe: Vectors, path: Path) -> bool:
    """Return whether a server's vectors are still the same; a file that cannot be read matches none."""
    try:
        known = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return False
    return known.shape == probe.shape and bool(np.linalg.norm(known - probe, axis=1).max() <= SAME)
