"""Outputs that are whole or absent: write beside, then rename; and hashes for provenance."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import shutil
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from .errors import TwowayError, UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

_PIECE = 1 << 16


@contextmanager
def fresh_folder(out: str | Path, *, overwrite: bool = False) -> Iterator[Path]:
    """Give a temporary folder beside `out` and rename it to `out` at the end; on any failure nothing is left.

    An existing `out` is refused unless `overwrite`, and then replaced only once the new one is whole.
    """
    out = Path(out)
    if out.exists() and not overwrite:
        raise UsageError(f"{out} exists already; choose another folder, or pass --overwrite to replace it")
    for parent in out.absolute().parents:
        if parent.exists():
            if not parent.is_dir():
                raise UsageError(f"{parent} is a file, so {out} cannot be made below it")
            break
    with write_errors(out):
        out.absolute().parent.mkdir(parents=True, exist_ok=True)
        beside = Path(tempfile.mkdtemp(prefix=f".{out.name}.", suffix=".tmp", dir=out.absolute().parent))
    try:
        with write_errors(out):
            yield beside
            _open_to_readers(beside)
            _swap_in(beside, out)
    finally:
        if beside.exists():
            shutil.rmtree(beside, ignore_errors=True)


def write_whole(path: str | Path, content: str | bytes) -> None:
    """Write one file so that it is there whole or not at all."""
    path = Path(path)
    with write_errors(path):
        handle, beside = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.absolute().parent)
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(content.encode() if isinstance(content, str) else content)
                file.flush()
                os.fsync(file.fileno())
            Path(beside).chmod(0o644)
            Path(beside).replace(path)
        finally:
            Path(beside).unlink(missing_ok=True)


def cache_home() -> Path:
    """Return where things are kept that can be made again: `$TWOWAY_CACHE`, or `twoway` in the user's cache folder."""
    chosen = os.environ.get("TWOWAY_CACHE")
    return Path(chosen) if chosen else Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "twoway"


@contextmanager
def turn(path: Path, wait: Callable[[], None] | None = None) -> Iterator[None]:
    """Hold a lock file, which one process has at a time; `wait` is called where another has it. The system lets go of it in any case."""
    with write_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = path.open("w")
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            if wait is not None:
                wait()
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def require_disk_space(out: str | Path, size: int) -> None:
    """Refuse to begin what the disk has no room for: not every program that writes notices the disk's end."""
    there = next(parent for parent in (Path(out).absolute(), *Path(out).absolute().parents) if parent.exists())
    free = shutil.disk_usage(there).free
    if free < size:
        said = f"{free >> 20:,} MiB are free, and {-(-size >> 20):,} MiB may be needed"
        raise TwowayError(f"no space left on the disk for {out}: {said}; free some space and try again")


def sha256(path: str | Path) -> str:
    """Return the SHA-256 of one file, in hex."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def contents(paths: Sequence[Path], most: int = 4 << 30) -> str:
    """Return a hash of what files hold, in their order and whatever they are called.

    Each is read whole up to its share of `most` bytes. Of one that is larger, pieces from all over it are read, and its size:
    a hash of all of a large data set would cost as much as reading it.
    """
    found, share = hashlib.sha256(), max(_PIECE, most // max(1, len(paths)))
    for path in paths:
        size = path.stat().st_size
        found.update(size.to_bytes(8, "little"))
        many = share // _PIECE if size > share else -(-size // _PIECE)
        step = (size - _PIECE) / max(1, many - 1) if size > share else _PIECE
        with path.open("rb") as file:
            for number in range(many):
                file.seek(int(number * step))
                found.update(file.read(_PIECE))
    return found.hexdigest()


@contextmanager
def disk_errors() -> Iterator[None]:
    """Turn what safetensors and tokenizers say of a full disk into what the system says, so that it is met like any full disk."""
    try:
        yield
    except OSError:
        raise
    except Exception as error:  # tokenizers raises nothing more special
        full = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
        if "No space left" in str(error) or any(f"os error {number})" in str(error) for number in full):
            raise OSError(errno.ENOSPC, "No space left on device") from error
        raise


def _open_to_readers(folder: Path) -> None:
    """Undo what temporary folders and safetensors do: files that their owner alone can read, and a server of another user could not."""
    folder.chmod(0o755)
    for path in folder.rglob("*"):
        if not path.is_symlink():
            path.chmod(0o755 if path.is_dir() else 0o644)


def _swap_in(beside: Path, out: Path) -> None:
    """Rename `beside` to `out`, keeping the old `out` until the new one stands."""
    if not out.exists():
        beside.rename(out)
        return
    old = Path(tempfile.mkdtemp(prefix=f".{out.name}.old.", suffix=".tmp", dir=out.absolute().parent)) / "old"
    out.rename(old)
    try:
        beside.rename(out)
    except BaseException:
        old.rename(out)
        raise
    finally:
        shutil.rmtree(old.parent, ignore_errors=True)


@contextmanager
def write_errors(out: Path) -> Iterator[None]:
    """Say in one line that a disk is full or read-only, or that a file stands where a folder should be."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise TwowayError(
                f"no space left on the disk while writing {out}; nothing half-written is kept; free some space and try again"
            ) from error
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise TwowayError(f"may not write {out}: {error.strerror}") from error
        if error.errno in (errno.ENOTDIR, errno.EEXIST):
            raise UsageError(f"{out} cannot be made: a file stands in its way; choose another place") from error
        raise
