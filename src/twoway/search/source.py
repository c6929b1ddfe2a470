"""A folder of vectors as items, looked through before anything is written."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..content import Place
from ..embedding.shards import Shards
from ..errors import UsageError
from .fields import kinds_of
from .store import About, Item, check_id, unit

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import pyarrow as pa

_NAMES, _METAS = ["id", "file", "row", "unit"], ["file", "row", "unit", "meta"]


class Source:
    """A folder of vectors, looked through before anything is written."""

    def __init__(self, folder: Path, ids: str) -> None:
        self.shards = Shards.open(folder)
        self.place = ids == "place"
        model, manifest = Path(str(self.shards.manifest["model"])), self.shards.manifest
        self.about = About(str(model.resolve()) if model.is_dir() else manifest["model"], manifest["fingerprint"], manifest["dim"])
        self.many = self.shards.done()
        self._check()
        self.fields = kinds_of(meta for table in self.shards.tables(_METAS) for meta in self.metas(table))

    def steps(self) -> Iterator[tuple[int, Path]]:
        """Yield the number and the file of every shard."""
        yield from ((number, self.shards.path(number)) for number in range(self.many))

    def names(self, table: pa.Table) -> list[str]:
        """Return the ids of a shard."""
        if not self.place:
            return [str(name) for name in table["id"].to_pylist()]
        rows = zip(*(table[column].to_pylist() for column in ("id", "file", "row", "unit")), strict=True)
        return [name if file is None else str(Place(file, row, kind)) for name, file, row, kind in rows]

    def metas(self, table: pa.Table) -> list[dict[str, Any]]:
        """Return what filters may ask of the rows of a shard: where they come from, and what they had beside their content."""
        found = []
        for file, row, kind, said in zip(*(table[column].to_pylist() for column in _METAS), strict=True):
            known: dict[str, Any] = {} if file is None else {"file": file} | ({} if row is None else {kind: row})
            meta = json.loads(said)
            meta.pop("id", None)
            found.append(known | meta)
        return found

    def items(self, table: pa.Table, small: Sequence[bytes | None]) -> list[Item]:
        """Return the rows of a shard as items."""
        places = [
            "" if file is None else str(Place(file, row, kind))
            for file, row, kind in zip(*(table[column].to_pylist() for column in _METAS[:3]), strict=True)
        ]
        vectors, texts = unit(self.shards.vectors(table)), (text or "" for text in table["text"].to_pylist())
        columns = zip(self.names(table), vectors, texts, small, places, self.metas(table), strict=True)
        return [Item(*one) for one in columns]

    def _check(self) -> None:
        """Refuse a folder without vectors, and ids that stand twice."""
        for table in self.shards.tables(_NAMES):
            if not {".", ".."}.isdisjoint(self.names(table)):
                for name, file, row, kind in zip(self.names(table), *(table[column].to_pylist() for column in _NAMES[1:]), strict=True):
                    check_id(name, str(Place(file or "?", row, kind)))
        hashes = [np.fromiter(map(hash, self.names(table)), np.int64, len(table)) for table in self.shards.tables(_NAMES)]
        together = np.sort(np.concatenate(hashes)) if hashes else np.zeros(0, np.int64)
        if not len(together):
            raise UsageError(f"{self.shards.folder} holds no vectors yet; let 'twoway embed' end")
        twice = set(together[1:][together[1:] == together[:-1]].tolist())
        seen: dict[str, str] = {}
        for table in self.shards.tables(_NAMES) if twice else ():
            for name, file, row, kind in zip(self.names(table), *(table[column].to_pylist() for column in _NAMES[1:]), strict=True):
                place = str(Place(file or "?", row, kind))
                if name in seen:
                    other = "" if place == seen[name] else ", or pass --ids place"
                    where = f"({seen[name]} and {place}), and one would take the other's place"
                    raise UsageError(f"two rows have the id {name!r} {where}; give each its own{other}")
                if hash(name) in twice:
                    seen[name] = place
