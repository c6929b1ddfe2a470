"""Reaching Milvus: what a location names, and one connection to it; a Milvus Lite file is open to one process at a time."""

from __future__ import annotations

import fcntl
import logging
import os
import re
import shutil
from collections import Counter
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import TwowayError, UsageError, with_extra
from ..files import write_errors

if TYPE_CHECKING:
    from collections.abc import Iterator

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
class Place:
    """Where a collection is."""

    location: str
    uri: str
    collection: str
    file: Path | None

    @classmethod
    def of(cls, location: str) -> Place:
        """Read a location."""
        if not location.startswith("milvus"):
            return cls(location, location, _DEFAULT, Path(location))
        found = _SERVER.fullmatch(location)
        if found is None:
            raise UsageError(f"{location} is no address of a collection; write milvus://host:port/collection, of letters, digits and _")
        scheme = "https" if found["safe"] else "http"
        port = found["port"] or ("443" if found["safe"] else "19530")
        return cls(location, f"{scheme}://{found['host']}:{port}", found["collection"] or _DEFAULT, None)


def connect(place: Place, *, make: bool) -> Any:
    """Return a client; a file that is not there is made only with `make`."""
    try:
        from pymilvus import MilvusClient
    except ImportError as error:
        raise UsageError(f"an index in Milvus needs its client; {with_extra('milvus')}") from error
    if place.file is not None:
        if not place.file.exists() and not make:
            raise UsageError(f"{place.location} does not exist; make an index with 'twoway index DIR --db {place.location}'")
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
def connected(place: Place, *, make: bool) -> Iterator[Any]:
    """Give a client that is kept, but for a failure: then it is let go of, and a file that was only begun goes, too."""
    fresh = place.file is not None and not place.file.exists()
    client = connect(place, make=make)
    try:
        yield client
    except BaseException:
        release(place, client)
        if fresh and place.file is not None:
            shutil.rmtree(place.file, ignore_errors=True)
        raise


def release(place: Place, client: Any) -> None:
    """Close a client, and with the last one of this process the file."""
    client.close()
    if place.file is not None:
        _open[str(place.file.resolve())] -= 1
        _let_go(place)


def clear_damaged(place: Place) -> None:
    """Take away a file that is to be replaced and cannot be opened; one that another program has open is not touched."""
    if place.file is None or not place.file.is_dir() or _locked(place.file / "LOCK"):
        return
    try:
        client = connect(place, make=False)
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


def _let_go(place: Place) -> None:
    """Let other processes have a file that no store of this one has open."""
    if place.file is not None and _open[str(place.file.resolve())] <= 0:
        from milvus_lite.server_manager import server_manager_instance

        server_manager_instance.release_server(str(place.file))


def _trouble(place: Place, error: Exception) -> str:
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
