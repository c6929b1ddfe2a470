"""What an index in Milvus remembers, one row of a collection of its own: the model, the fields, and which collection holds the items.

Milvus has no step over several requests, and nothing is renamed onto what is there. But writing one row is one request. So an index that is
built anew grows in a collection of another name, and takes the old one's place when that row names it: until then the old one answers.
"""

from __future__ import annotations

import logging
import secrets
import time
from contextlib import contextmanager
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, TypeVar

from ..errors import TwowayError
from .milvus_collection import drop, forget, keep, kept, make

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from .milvus_client import Place
    from .store import About

Answer = TypeVar("Answer")
_FRESH = 1.0  # seconds that what was read is believed while others may write
_NEXT, _LAST = "next", "last"  # the collections that are being built, and that were replaced and are to go
_log = logging.getLogger(__name__)


class Memory:
    """What an index remembers, as it is now: another process may change it, or build the index anew."""

    def __init__(self, client: Any, place: Place, said: dict[str, Any]) -> None:
        self._client, self._place = client, place
        self._said, self._read = said, time.monotonic()

    @classmethod
    def first(cls, client: Any, place: Place, about: About) -> Memory:
        """Begin an index where there is none; a failure leaves nothing."""
        said = _empty(about)
        _drop_spare(client, kept(client, place.collection))
        try:
            keep(client, place.collection, said)  # first, so that a collection of items is never without
            make(client, place.collection, about.dimension)
        except BaseException:
            with _undoing(place.collection):
                drop(client, place.collection)
                forget(client, place.collection)
            raise
        return cls(client, place, said)

    @property
    def items(self) -> str:
        """Name the collection that holds the items."""
        return items_of(self._place, self.now())

    def now(self, *, fresh: bool = False) -> Mapping[str, Any]:
        """Return it; vectors of another model are an error of who opened the index before they came."""
        if fresh or time.monotonic() - self._read > _FRESH:
            said = kept(self._client, self._place.collection)
            if said is None or said.get("about") != self._said["about"]:
                raise TwowayError(f"{self._place.location} was built anew, or taken away, after this program opened it; open it again")
            self._said, self._read = said, time.monotonic()
        return self._said

    def change(self, **facts: Any) -> None:
        """Write some of it."""
        said = {**self.now(fresh=True), **facts}
        keep(self._client, self._place.collection, said)
        self._said = said

    def ask(self, question: Callable[[str], Answer]) -> Answer:
        """Ask the collection of the items, once more where another program has put a new one in its place."""
        name = self.items
        try:
            return question(name)
        except Exception:
            self.now(fresh=True)
            if self.items == name:
                raise
            return question(self.items)

    def clear(self) -> None:
        """Take away what was replaced and is still there."""
        said = self.now(fresh=True)
        if said.get(_LAST):
            drop(self._client, said[_LAST])
            self.change(**{_LAST: ""})


class Beside(Memory):
    """That of an index that is being built beside the one there: known to this program alone until it is published."""

    @classmethod
    def begin(cls, client: Any, place: Place, about: About) -> Beside:
        """Make an empty collection beside; what an earlier run has left half-built goes."""
        there = kept(client, place.collection) or {}
        _drop_spare(client, there)
        name = f"{place.collection}_{secrets.token_hex(4)}"
        found = cls(client, place, {**_empty(about), "items": name})
        try:
            keep(client, place.collection, {**there, _NEXT: name, _LAST: ""})  # so that a run that is killed leaves nothing unknown
            make(client, name, about.dimension)
        except BaseException:
            found.discard()
            raise
        return found

    def now(self, *, fresh: bool = False) -> Mapping[str, Any]:
        """Return it."""
        return self._said

    def change(self, **facts: Any) -> None:
        """Note some of it."""
        self._said = {**self._said, **facts}

    def publish(self) -> Memory:
        """Put it in the place of what is there, in one step, and drop that."""
        there = kept(self._client, self._place.collection) or {}
        if there.get(_NEXT) != self._said["items"]:
            raise TwowayError(f"another program has begun to build {self._place.location} anew meanwhile; what was there is as it was")
        last = items_of(self._place, there)
        keep(self._client, self._place.collection, {**self._said, _LAST: last})
        after = Memory(self._client, self._place, {**self._said, _LAST: last})
        try:
            after.clear()
        except Exception as error:
            _log.warning("the collection %r, which was replaced, is still there (%s); --compact drops it", last, error)
        return after

    def discard(self) -> None:
        """Take it away."""
        name, client = self._said["items"], self._client
        with _undoing(name):
            drop(client, name)
            there = kept(client, self._place.collection) or {}
            if "about" not in there:
                forget(client, self._place.collection)
            elif there.get(_NEXT) == name:
                keep(client, self._place.collection, {**there, _NEXT: ""})


def items_of(place: Place, said: Mapping[str, Any] | None) -> str:
    """Name the collection of the items: the index's own name, until it is built anew."""
    return str((said or {}).get("items") or place.collection)


def stands(client: Any, place: Place) -> bool:
    """Say whether there is an index, or what else has its name."""
    return any(client.has_collection(name) for name in {place.collection, items_of(place, kept(client, place.collection))})


def known(client: Any, place: Place) -> dict[str, Any] | None:
    """Return what an index remembers, where there is one."""
    said = kept(client, place.collection)
    return said if said and "about" in said and client.has_collection(items_of(place, said)) else None


def _empty(about: About) -> dict[str, Any]:
    return {"about": asdict(about), "fields": {}, "arranged": {}}


def _drop_spare(client: Any, said: Mapping[str, Any] | None) -> None:
    for name in filter(None, ((said or {}).get(_NEXT), (said or {}).get(_LAST))):
        drop(client, name)


@contextmanager
def _undoing(name: str) -> Iterator[None]:
    """Take away what was begun as far as the server answers: why it was not ended is the error to tell of."""
    try:
        yield
    except Exception as error:
        _log.warning("what was begun of the collection %r could not be taken away (%s); building it again does", name, error)
