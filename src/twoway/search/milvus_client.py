"""Reaching Milvus: a connection, the collections behind an index, and what the index remembers."""

from __future__ import annotations

import fcntl
import logging
import os
import re
import secrets
import shutil
import time
from collections import Counter
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from twoway.errors import TwowayError, UsageError, did_you_mean, with_extra
from twoway.files import write_errors

from .store import on_server

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from .store import IndexInfo

_log = logging.getLogger(__name__)


# Reaching Milvus: what a location names, and one connection to it; a Milvus Lite file is open to one process at a
# time.

_SERVER = re.compile(r"milvus(?P<safe>\+https)?://(?P<host>[^/:@]+|\[[^\]]+\])(?::(?P<port>\d+))?(?:/(?P<collection>\w+))?/?")
_DEFAULT = "items"
# The server of a file is in this process: a busy machine makes it slow to answer, and no ping says more than that.
_SECONDS, _SECONDS_OF_FILE = 10, 120
_NO_PINGS = {"grpc.keepalive_time_ms": 3_600_000, "grpc.keepalive_timeout_ms": 3_600_000}
_SLOW = re.compile(r"deadline|time[d ]*out", re.IGNORECASE)
_ITEMS = "collections"  # what every folder of Milvus Lite has in it
_TOKEN = "MILVUS_TOKEN"  # noqa: S105 -- the name of a variable
_open: Counter[str] = Counter()  # stores of this process by Milvus Lite file


@dataclass(frozen=True)
class MilvusAddress:
    """Where a collection is."""

    location: str
    uri: str
    collection: str
    file: Path | None

    @classmethod
    def of(cls, location: str) -> MilvusAddress:
        """Read a location."""
        if not on_server(location):
            return cls(location, location, _DEFAULT, Path(location))
        found = _SERVER.fullmatch(location)
        if found is None:
            raise UsageError(f"{location} is not an address of a collection; write milvus://host:port/collection, of letters, digits and _")
        scheme = "https" if found["safe"] else "http"
        port = found["port"] or ("443" if found["safe"] else "19530")
        return cls(location, f"{scheme}://{found['host']}:{port}", found["collection"] or _DEFAULT, None)


def open_client(place: MilvusAddress, *, make: bool) -> Any:
    """Return a client; a file that is not there is made only with `make`."""
    try:
        from pymilvus import MilvusClient
    except ImportError as error:
        raise UsageError(f"an index in Milvus needs its client; {with_extra('milvus')}") from error
    if place.file is not None:
        if not place.file.exists() and not make:
            raise UsageError(f"{place.location} does not exist; make an index with 'twoway index DIR --index {place.location}'")
        if place.file.is_file():
            raise UsageError(f"{place.location} is a file of another kind; Milvus Lite keeps a folder under this name")
        if place.file.is_dir() and any(place.file.iterdir()) and not (place.file / _ITEMS).is_dir():
            raise UsageError(f"{place.location} holds other files; choose a new name for the index")
        place.file.absolute().parent.mkdir(parents=True, exist_ok=True)
    for name in ("pymilvus", "milvus_lite", "grpc._server"):  # the last is that of a file, which is asked more than it knows
        logging.getLogger(name).setLevel(logging.CRITICAL)  # what fails is raised, and said once
    try:
        how = {"timeout": _SECONDS} if place.file is None else {"timeout": _SECONDS_OF_FILE, "grpc_options": _NO_PINGS}
        client = MilvusClient(uri=place.uri, token=os.environ.get(_TOKEN, ""), **how)
    except Exception as error:
        _let_go(place)
        raise TwowayError(_trouble(place, error)) from error
    if place.file is not None:
        _open[str(place.file.resolve())] += 1
    return client


@contextmanager
def client_session(place: MilvusAddress, *, make: bool) -> Iterator[Any]:
    """Give a client that is kept, but for a failure: then it is let go of, and a file that was only begun goes, too."""
    fresh = place.file is not None and not place.file.exists()
    client = open_client(place, make=make)
    try:
        yield client
    except BaseException:
        release(place, client)
        if fresh and place.file is not None:
            shutil.rmtree(place.file, ignore_errors=True)
        raise


def release(place: MilvusAddress, client: Any) -> None:
    """Close a client, and with the last one of this process the file."""
    client.close()
    if place.file is not None:
        _open[str(place.file.resolve())] -= 1
        _let_go(place)


def clear_damaged(place: MilvusAddress) -> None:
    """Take away a file that is to be replaced and cannot be opened; one that another program has open is not touched."""
    if place.file is None or not place.file.is_dir() or _locked(place.file / "LOCK"):
        return
    try:
        client = open_client(place, make=False)
        try:
            client.has_collection(place.collection)
        finally:
            release(place, client)
    except UsageError:
        raise
    except Exception as error:
        cause = error.__cause__ or error
        if _SLOW.search(str(cause)):  # a machine that is too busy to answer says nothing of what is on its disk
            raise TwowayError(_trouble(place, cause if isinstance(cause, Exception) else error)) from error
        with write_errors(place.file):
            shutil.rmtree(place.file)


def _let_go(place: MilvusAddress) -> None:
    """Let other processes have a file that no store of this one has open."""
    if place.file is not None and _open[str(place.file.resolve())] <= 0:
        from milvus_lite.server_manager import server_manager_instance

        server_manager_instance.release_server(str(place.file))


def _trouble(place: MilvusAddress, error: Exception) -> str:
    """Say why it cannot be opened."""
    first = " ".join(str(error).split())[:200]
    if place.file is None:
        return f"{place.location} does not answer; is the server there, and {_TOKEN} set if it wants one? ({first})"
    if _locked(place.file / "LOCK"):
        return f"{place.location} is open in another program; Milvus Lite takes one at a time, so close that, or run a Milvus server"
    if _SLOW.search(str(error)):
        return f"{place.location} did not open in {_SECONDS_OF_FILE} seconds; try again when the machine is less busy"
    return f"{place.location} cannot be opened, so it may be damaged; restore it, or build it anew in another place ({first})"


def _locked(path: Path) -> bool:
    try:
        with path.open("r") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except OSError:
        return True
    return False


# The collections behind an index in Milvus: one of items, and beside it one of a single row, which is what the index
# remembers.

LONGEST_ID, _LONGEST = 2048, 65_535
_VERSION, _OLDEST = re.compile(r"v?(\d+)\.(\d+)"), (2, 5)  # of a server: the first with full text
_INDEXES: Mapping[str, dict[str, Any]] = {
    "": {"index_type": "FLAT"},  # every vector is compared
    "hnsw": {"index_type": "HNSW", "params": {"M": 16, "efConstruction": 200}},
    "ivf": {"index_type": "IVF_FLAT", "params": {"nlist": 1024}},
    "ivf-pq": {"index_type": "IVF_PQ", "params": {"nlist": 1024, "nbits": 8}},
}


def make_collection(client: Any, name: str, dimension: int) -> None:
    """Make the collection of items."""
    from pymilvus import DataType, Function, FunctionType, MilvusClient

    version = client.get_server_version()
    if (found := _VERSION.match(version)) and (int(found[1]), int(found[2])) < _OLDEST:
        raise UsageError(f"this server runs Milvus {version}; an index needs 2.5 or later, the first with full text")
    schema = MilvusClient.create_schema(auto_id=False, enable_dynamic_field=True)
    schema.add_field("id", DataType.VARCHAR, is_primary=True, max_length=LONGEST_ID)
    schema.add_field("text", DataType.VARCHAR, max_length=_LONGEST, enable_analyzer=True)
    for other in ("place", "thumbnail", "media", "origin"):
        schema.add_field(other, DataType.VARCHAR, max_length=_LONGEST)
    schema.add_field("vector", DataType.FLOAT_VECTOR, dim=dimension)
    schema.add_field("sparse", DataType.SPARSE_FLOAT_VECTOR)
    words = {"input_field_names": ["text"], "output_field_names": ["sparse"]}
    schema.add_function(Function(name="words", function_type=FunctionType.BM25, **words))
    indexes = client.prepare_index_params()
    indexes.add_index(field_name="vector", index_name="vector", metric_type="COSINE", **_INDEXES[""])
    indexes.add_index(field_name="sparse", index_name="sparse", index_type="SPARSE_INVERTED_INDEX", metric_type="BM25")
    client.create_collection(name, schema=schema, index_params=indexes, consistency_level="Strong")


def vector_index(client: Any, name: str, kind: str) -> None:
    """Put another index of the vectors in place of the one there."""
    if kind not in _INDEXES:
        known = [one for one in _INDEXES if one]
        raise UsageError(f"unknown kind of index {kind!r}{did_you_mean(kind, known)} (there are: {', '.join(known)})")
    client.release_collection(name)
    client.drop_index(name, "vector")
    indexes = client.prepare_index_params()
    indexes.add_index(field_name="vector", index_name="vector", metric_type="COSINE", **_INDEXES[kind])
    client.create_index(name, indexes)
    client.load_collection(name)


def drop_collection(client: Any, name: str) -> None:
    """Take a collection away, where it is there."""
    if client.has_collection(name):
        client.drop_collection(name)


def write_record(client: Any, name: str, said: dict[str, Any]) -> None:
    """Write what an index remembers, in one request; the collection for it is made with the first."""
    if not client.has_collection(_about(name)):
        _make_about(client, name)
    client.upsert(_about(name), [{"id": "about", "said": said, "vector": [0.0, 1.0]}])


def read_collection(client: Any, name: str) -> dict[str, Any] | None:
    """Read it."""
    if not client.has_collection(_about(name)):
        return None
    client.load_collection(_about(name))
    found = client.get(_about(name), ids=["about"], output_fields=["said"])
    return dict(found[0]["said"]) if found else None


def delete_record(client: Any, name: str) -> None:
    """Take it away."""
    drop_collection(client, _about(name))


def _make_about(client: Any, name: str) -> None:
    from pymilvus import DataType, MilvusClient

    schema = MilvusClient.create_schema(auto_id=False, enable_dynamic_field=False)
    schema.add_field("id", DataType.VARCHAR, is_primary=True, max_length=64)
    schema.add_field("said", DataType.JSON)
    schema.add_field("vector", DataType.FLOAT_VECTOR, dim=2)  # Milvus has no collection without one
    indexes = client.prepare_index_params()
    indexes.add_index(field_name="vector", index_type="FLAT", metric_type="L2")
    client.create_collection(_about(name), schema=schema, index_params=indexes, consistency_level="Strong")


def _about(name: str) -> str:
    return f"{name}_about"


# What an index in Milvus remembers, one row of a collection of its own: the model, the fields, and which collection
# holds the items.
#
# Milvus has no step over several requests, and nothing is renamed onto what is there. But writing one row is one
# request. So an index that is built anew grows in a collection of another name, and takes the old one's place when
# that row names it: until then the old one answers.

Answer = TypeVar("Answer")
_FRESH = 1.0  # seconds that what was read is believed while others may write
_NEXT, _LAST = "next", "last"  # the collections that are being built, and that were replaced and are to go


class IndexRecord:
    """What an index remembers, as it is now: another process may change it, or build the index anew."""

    def __init__(self, client: Any, place: MilvusAddress, said: dict[str, Any]) -> None:
        self._client, self._place = client, place
        self._said, self._read = said, time.monotonic()

    @classmethod
    def create(cls, client: Any, place: MilvusAddress, info: IndexInfo) -> IndexRecord:
        """Begin an index where there is none; a failure leaves nothing."""
        said = _empty(info)
        _drop_spare(client, read_collection(client, place.collection))
        try:
            write_record(client, place.collection, said)  # first, so that a collection of items is never without
            make_collection(client, place.collection, info.dimension)
        except BaseException:
            with _undoing(place.collection):
                drop_collection(client, place.collection)
                delete_record(client, place.collection)
            raise
        return cls(client, place, said)

    @property
    def items(self) -> str:
        """Name the collection that holds the items."""
        return items_collection(self._place, self.read())

    def read(self, *, fresh: bool = False) -> Mapping[str, Any]:
        """Return it; vectors of another model are an error of who opened the index before they came."""
        if fresh or time.monotonic() - self._read > _FRESH:
            said = read_collection(self._client, self._place.collection)
            if said is None or said.get("about") != self._said["about"]:
                raise TwowayError(f"{self._place.location} was built anew, or taken away, after this program opened it; open it again")
            self._said, self._read = said, time.monotonic()
        return self._said

    def update(self, **facts: Any) -> None:
        """Write some of it."""
        said = {**self.read(fresh=True), **facts}
        write_record(self._client, self._place.collection, said)
        self._said = said

    def query(self, question: Callable[[str], Answer]) -> Answer:
        """Ask the collection of the items, once more where another program has put a new one in its place."""
        name = self.items
        try:
            return question(name)
        except Exception:
            self.read(fresh=True)
            if self.items == name:
                raise
            return question(self.items)

    def drop_replaced(self) -> None:
        """Take away what was replaced and is still there."""
        said = self.read(fresh=True)
        if said.get(_LAST):
            drop_collection(self._client, said[_LAST])
            self.update(**{_LAST: ""})


class NewIndexRecord(IndexRecord):
    """That of an index that is being built beside the one there: known to this program alone until it is published."""

    @classmethod
    def begin(cls, client: Any, place: MilvusAddress, info: IndexInfo) -> NewIndexRecord:
        """Make an empty collection beside; what an earlier run has left half-built goes."""
        there = read_collection(client, place.collection) or {}
        _drop_spare(client, there)
        name = f"{place.collection}_{secrets.token_hex(4)}"
        found = cls(client, place, {**_empty(info), "items": name})
        try:
            write_record(client, place.collection, {**there, _NEXT: name, _LAST: ""})  # so that a run that is killed leaves nothing unknown
            make_collection(client, name, info.dimension)
        except BaseException:
            found.discard()
            raise
        return found

    def read(self, *, fresh: bool = False) -> Mapping[str, Any]:
        """Return it."""
        return self._said

    def update(self, **facts: Any) -> None:
        """Note some of it."""
        self._said = {**self._said, **facts}

    def publish(self) -> IndexRecord:
        """Put it in the place of what is there, in one step, and drop that."""
        there = read_collection(self._client, self._place.collection) or {}
        if there.get(_NEXT) != self._said["items"]:
            raise TwowayError(f"another program has begun to build {self._place.location} anew meanwhile; what was there is as it was")
        last = items_collection(self._place, there)
        write_record(self._client, self._place.collection, {**self._said, _LAST: last})
        after = IndexRecord(self._client, self._place, {**self._said, _LAST: last})
        try:
            after.drop_replaced()
        except Exception as error:
            _log.warning("the collection %r, which was replaced, is still there (%s); --compact drops it", last, error)
        return after

    def discard(self) -> None:
        """Take it away."""
        name, client = self._said["items"], self._client
        with _undoing(name):
            drop_collection(client, name)
            there = read_collection(client, self._place.collection) or {}
            if "about" not in there:
                delete_record(client, self._place.collection)
            elif there.get(_NEXT) == name:
                write_record(client, self._place.collection, {**there, _NEXT: ""})


def items_collection(place: MilvusAddress, said: Mapping[str, Any] | None) -> str:
    """Name the collection of the items: the index's own name, until it is built anew."""
    return str((said or {}).get("items") or place.collection)


def collection_exists(client: Any, place: MilvusAddress) -> bool:
    """Say whether there is an index, or what else has its name."""
    return any(
        client.has_collection(name) for name in {place.collection, items_collection(place, read_collection(client, place.collection))}
    )


def read_index_record(client: Any, place: MilvusAddress) -> dict[str, Any] | None:
    """Return what an index remembers, where there is one."""
    said = read_collection(client, place.collection)
    return said if said and "about" in said and client.has_collection(items_collection(place, said)) else None


def _empty(info: IndexInfo) -> dict[str, Any]:
    return {"about": asdict(info), "fields": {}, "arranged": {}}


def _drop_spare(client: Any, said: Mapping[str, Any] | None) -> None:
    for name in filter(None, ((said or {}).get(_NEXT), (said or {}).get(_LAST))):
        drop_collection(client, name)


@contextmanager
def _undoing(name: str) -> Iterator[None]:
    """Take away what was begun as far as the server answers: why it was not ended is the error to tell of."""
    try:
        yield
    except Exception as error:
        _log.warning("what was begun of the collection %r could not be taken away (%s); building it again does", name, error)
