"""Sources of rows `A [EOS] B`: pairs and documents in one mixture, each row read as what it is.

A row with the columns of a pair (`pair_rows.columns`) is one, any other is a document. A `template` that maps to pairs makes pairs, one
that maps to documents makes documents; a public data set that has both is read as pairs. Views of the samples and PDFs are what they are.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..content import ContentError
from ..errors import UsageError, did_you_mean
from ..images import DEFAULT, Limits
from .find_parquet import ParquetFinder
from .finders import DiskFinder, JsonlFinder
from .formats import FORMATS, form_of
from .mixture import Mixture, SourceConfig, require_names
from .pair_finders import pair_finders
from .pair_formats import PAIR_FORMATS, pair_form_of
from .pair_rows import BESIDE, POSITIVES, QUERIES, columns, read_pair
from .policy import Policy
from .rows import ReadOptions, document
from .samples import view
from .sources import kind_of
from .table import FINDERS, RowTable, open_table
from .tars import TarFinder

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from ..content import Document, Place
    from .pair_rows import Sides


@dataclass(frozen=True)
class BridgeSource(SourceConfig):
    """One source; its template makes documents or pairs."""

    def check_template(self) -> None:
        """Refuse a template that there is not."""
        name = self.template
        if name is None or name in PAIR_FORMATS or name in FORMATS:
            return
        if "{" not in name:
            known = sorted({*FORMATS, *PAIR_FORMATS})
            raise UsageError(f"there is no format {name!r}{did_you_mean(name, known)} (there are: {', '.join(known)})")
        form_of(name)


def either(row: Mapping[str, Any]) -> Sides:
    """Stand in `ReadOptions` for "pairs, or documents": a mapping, so that no reader asks a table for a document's columns."""
    return columns(row)


class _Either:
    """A finder whose rows are pairs or documents."""

    options: ReadOptions

    def _document(self, row: object, place: Place, root: Path | None) -> Document:
        if isinstance(row, Mapping) and is_pair(row):
            return read_pair(row, place, self.options.root or root, columns, unread=self.options.unread, limits=self.options.limits)
        found = document(row, place, self.options.root or root, unread=self.options.unread, limits=self.options.limits)
        if isinstance(found, ContentError):
            raise found
        return found


class JsonlEither(_Either, JsonlFinder):
    """Rows of JSON lines."""


class ParquetEither(_Either, ParquetFinder):
    """Rows of Parquet files."""


class TarEither(_Either, TarFinder):
    """Rows of tars of WebDataset."""


class DiskEither(_Either, DiskFinder):
    """Rows of a folder of `datasets.save_to_disk`."""


def is_pair(row: Mapping[str, Any]) -> bool:
    """Tell whether a row has the columns of a pair: a question and an answer."""

    def some(names: Sequence[str]) -> bool:
        return any(row.get(f"{name}{kind}") is not None for name in names for kind in BESIDE)

    return some(QUERIES) and some(POSITIVES)


def open_bridge_mixture(
    sources: Sequence[SourceConfig], *, folder: Path | None = None, policy: Policy | None = None, limits: Limits = DEFAULT
) -> Mixture:
    """Open every source; a `folder` keeps the tables, and one policy serves all sources."""
    require_names(sources)
    policy = policy or Policy()
    return Mixture(tuple(sources), tuple(_open(source, folder, policy, limits) for source in sources))


def _open(source: SourceConfig, folder: Path | None, policy: Policy, limits: Limits) -> RowTable:
    kind, argument = kind_of(source.spec)
    name = source.template
    form: Any = None
    finders: Mapping[str, Any] = FINDERS
    if name is not None and name in PAIR_FORMATS:
        form, finders = pair_form_of(name), pair_finders(source.label)
    elif name is not None:
        form = form_of(name)
    elif kind == "samples" and view(argument).pairs:
        finders = pair_finders(source.label)
    elif kind not in ("samples", "pdf"):
        form, finders = either, {**FINDERS, **_EITHER}
    options: dict[str, Any] = {"root": source.picture_root(), "form": form, "limits": limits}
    return open_table(source.spec, options=ReadOptions(**options), cap=source.cap, folder=folder, policy=policy, finders=finders)


def _of_copy(copy: ParquetFinder, options: ReadOptions) -> ParquetEither:
    return ParquetEither(str(copy.paths[0].parent), options, copy.label, copy.root)


_EITHER: dict[str, Any] = {"jsonl": JsonlEither, "parquet": ParquetEither, "disk": DiskEither, "tars": TarEither, "hub copy": _of_copy}
