"""Hits as a table in a terminal, with small pictures: true ones where it can show them, else in colours, each cell two pixels high."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, cast

from PIL import Image as PILImage
from rich.table import Table
from rich.text import Text

from ..content import ContentError, Image
from ..errors import UsageError, did_you_mean
from ..images import Limits, open_image
from .terminal_pictures import Drawn, way_of
from .thumbnails import SIDE

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import Console

    from .store import Hit, Item
    from .terminal_pictures import Way

COLUMNS, _ROWS = 20, 8
PICTURES = ("auto", "blocks", "kitty", "iterm", "never")
_SMALL = Limits(max_pixels=(4 * SIDE) ** 2, frames="first")
_LONGEST = 240
_SHOWN_AS = "\ufffd"  # of a sign that is none


def show(hits: Sequence[Hit], console: Console, *, pictures: str = "auto") -> None:
    """Print hits; `pictures` is what the terminal can do, or `blocks` (into a file, too), `kitty` or `iterm` (never), or `never`."""
    way = _way(console, pictures) if any(hit.item.thumbnail for hit in hits) else None
    table = Table(box=None, pad_edge=False, show_header=False, padding=(0, 2, 1 if way else 0, 0))
    table.add_column(justify="right", style="bold")
    table.add_column(justify="right")
    if way:
        table.add_column(width=COLUMNS)
    table.add_column(overflow="fold", ratio=1)
    for number, hit in enumerate(hits, 1):
        small = [picture(hit.item.thumbnail, way)] if way else []
        table.add_row(f"{number}", f"{hit.score:.3f}", *small, _words(hit.item))
    console.print(table if hits else "nothing found")


def _way(console: Console, pictures: str) -> Way | None:
    """Return how pictures are drawn, if they are."""
    if pictures not in PICTURES:
        raise UsageError(f"pictures are {', '.join(PICTURES)}, not {pictures!r}{did_you_mean(pictures, PICTURES)}")
    if pictures == "blocks":
        return "blocks"
    if pictures == "never" or not console.is_terminal:
        return None
    if pictures in ("kitty", "iterm"):
        return cast("Way", pictures)
    way = way_of(os.environ)
    return way if way != "blocks" or console.color_system in ("truecolor", "256") else None


def picture(thumbnail: bytes | None, way: Way = "blocks", *, columns: int = COLUMNS, rows: int = _ROWS) -> Text | Drawn:
    """Return a picture; what an index holds may be none, or larger than any of ours."""
    if thumbnail is None:
        return Text()
    try:
        small = open_image(Image(thumbnail), limits=_SMALL)
    except ContentError:
        return Text()
    return _blocks(small, columns, rows) if way == "blocks" else Drawn(small, way, columns=columns, rows=rows)


def _blocks(small: PILImage.Image, columns: int, rows: int) -> Text:
    """Return a picture as half blocks."""
    drawn = Text(no_wrap=True)
    scale = min(columns / small.width, 2 * rows / small.height)
    size = (max(1, round(small.width * scale)), 2 * max(1, round(small.height * scale / 2)))
    small = small.resize(size, PILImage.Resampling.BOX)
    pixels = small.load()
    for y in range(0, size[1], 2):
        for x in range(size[0]):
            above, below = ("#{:02x}{:02x}{:02x}".format(*pixels[x, y + down]) for down in (0, 1))  # type: ignore[index,misc]
            drawn.append("▀", style=f"{above} on {below}")
        drawn.append("\n")
    drawn.right_crop(1)
    return drawn


def _words(item: Item) -> Text:
    """Return what is said of an item: id and place, text, metadata."""
    said = Text(_plain(item.id), style="bold")
    if item.place and item.place != item.id:
        said.append(f"  {_plain(item.place)}", style="not bold dim")
    text = _plain(" ".join(item.text.split()))
    if text:
        said.append(f"\n{text[:_LONGEST]}{'…' if len(text) > _LONGEST else ''}", style="not bold")
    meta = ", ".join(_plain(f"{name}: {value}") for name, value in item.metadata.items() if name not in ("file", "row", "page"))
    if meta:
        said.append(f"\n{meta[:_LONGEST]}", style="not bold dim")
    return said


def _plain(text: str) -> str:
    """Return a text that a terminal shows and does not obey: what is in an index may hold sequences that clear it or type into it."""
    return "".join(sign if sign.isprintable() or sign == "\n" else _SHOWN_AS for sign in text)
