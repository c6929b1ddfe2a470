"""Who may ask. With keys, whoever brings one; without, whoever reaches the address, which is this machine's own unless told otherwise.

A page of another site that its name's owner has pointed at this machine could pass for a page of ours (DNS rebinding); so a server without
keys at a local address answers to local names alone.
"""

from __future__ import annotations

import hashlib
import hmac
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import UsageError
from .errors import ApiError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from starlette.requests import Request

VARIABLE = "TWOWAY_API_KEYS"
LOCAL = ("localhost", "127.0.0.1", "::1")
_SHORTEST = 16


@dataclass(frozen=True)
class Access:
    """The keys that open, by their hashes, and the names this server answers to; none of either: all."""

    keys: tuple[bytes, ...] = ()
    hosts: tuple[str, ...] = ()

    @classmethod
    def of(cls, keys: tuple[str, ...] = (), hosts: tuple[str, ...] = ()) -> Access:
        """Take keys as they are written."""
        return cls(tuple(_hash(key) for key in keys), hosts)

    def check(self, request: Request) -> None:
        """Refuse a request that may not ask."""
        if self.hosts and _host(request) not in self.hosts:
            raise ApiError(403, "this server answers to local names alone; see --allow-host", code="wrong_host")
        if not self.keys:
            return
        scheme, _, key = request.headers.get("authorization", "").partition(" ")
        given = _hash(key.strip())
        # Every key is compared, each in constant time, so that the time says nothing of how near a guess is.
        found = [hmac.compare_digest(given, known) for known in self.keys]
        if scheme.lower() != "bearer" or not any(found):
            raise ApiError(401, "a valid API key is needed, as 'Authorization: Bearer KEY'", code="invalid_api_key")


def read_keys(path: str | Path | None, environment: Mapping[str, str] = os.environ) -> tuple[str, ...]:
    """Return the keys of a file, one a line, and those of the environment."""
    try:
        lines = [] if path is None else Path(path).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"the keys in {path} cannot be read ({getattr(error, 'strerror', None) or error})") from error
    given = [line.strip() for line in [*lines, *environment.get(VARIABLE, "").replace(",", "\n").splitlines()]]
    keys = tuple(key for key in given if key and not key.startswith("#"))
    if path is not None and not any(line.strip() and not line.strip().startswith("#") for line in lines):
        raise UsageError(f"{path} holds no keys; write one a line")
    for key in keys:
        if len(key) < _SHORTEST or not key.isascii() or " " in key:
            raise UsageError(f"an API key has at least {_SHORTEST} characters, ASCII and no spaces; one of those given has not")
    return keys


def _hash(key: str) -> bytes:
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest()


def _host(request: Request) -> str | None:
    """Return the name that was asked, without its port."""
    said = request.headers.get("host", "").lower()
    if said.startswith("["):
        name, bracket, _ = said[1:].partition("]")
        return name if bracket else None
    return said.partition(":")[0]
