"""Paired differences as a picture: an SVG file, or a page with one for each comparison."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from twoway.errors import UsageError
from twoway.evaluation.compare import MEAN
from twoway.files import write_whole
from twoway.training.report_intervals import Row, intervals, intervals_file
from twoway.training.report_page import page

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from twoway.evaluation.compare import Difference

KINDS = (".svg", ".html")
_SAID = "Later minus first on the items that both have, with 95% intervals by a paired bootstrap; where zero is left out, it is coloured."


def check_picture(path: str | Path) -> None:
    """Refuse a kind of file that is not drawn, before any work."""
    if Path(path).suffix not in KINDS:
        raise UsageError(f"{path}: a picture is a file that ends in {' or '.join(KINDS)}")


def write_picture(path: str | Path, first: str, found: Mapping[str, Sequence[Difference]]) -> None:
    """Draw what `compare` found of each other results file against the first."""
    path = Path(path)
    check_picture(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == KINDS[0]:
        # One file is one drawing: rows say which file they are of.
        rows = [row for other, lines in found.items() for row in _rows(lines, f" ({other})" if len(found) > 1 else "")]
        write_whole(path, intervals_file(f"{', '.join(found)} against {first}", rows))
        return
    body = [intervals(f"{other} against {first}", "difference", _rows(lines)) for other, lines in found.items()]
    write_whole(path, page(f"Against {first}", _SAID, body))


def _rows(lines: Sequence[Difference], behind: str = "") -> list[Row]:
    """Return the mean first, then tasks."""
    ordered = sorted(lines, key=lambda line: line.what != MEAN)
    return [
        Row(
            f"{line.what}{behind}",
            line.second - line.first,
            line.low,
            line.high,
            ("good" if line.second > line.first else "bad") if line.sure else "c0",
            strong=line.what == MEAN,
        )
        for line in ordered
    ]
