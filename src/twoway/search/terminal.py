"""Hits as a table in a terminal, with small pictures where it shows colours: each cell is two pixels, one above the other."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

from PIL import Image as PILImage
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import Console

    from .store import Hit, Item

COLUMNS, _ROWS = 20, 8
_LONGEST = 240
_SHOWN_AS = "\ufffd"  # of a sign that is none


def show(hits: Sequence[Hit], console: Console, *, pictures: bool | None = None) -> None:
    """Print hits; `pictures` is by default what the terminal can do."""
    can = console.is_terminal and console.color_system in ("truecolor", "256")
    drawn = (can if pictures is None else pictures) and any(hit.item.thumbnail for hit in hits)
    table = Table(box=None, pad_edge=False, show_header=False, padding=(0, 2, 1 if drawn else 0, 0))
    table.add_column(justify="right", style="bold")
    table.add_column(justify="right")
    if drawn:
        table.add_column(width=COLUMNS)
    table.add_column(overflow="fold", ratio=1)
    for number, hit in enumerate(hits, 1):
        small = [picture(hit.item.thumbnail)] if drawn else []
        table.add_row(f"{number}", f"{hit.score:.3f}", *small, _words(hit.item))
    console.print(table if hits else "nothing found")


def picture(thumbnail: bytes | None, *, columns: int = COLUMNS, rows: int = _ROWS) -> Text:
    """Return a picture as half blocks."""
    drawn = Text(no_wrap=True)
    if thumbnail is None:
        return drawn
    small = PILImage.open(io.BytesIO(thumbnail)).convert("RGB")
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
    meta = ", ".join(f"{name}: {_plain(str(value))}" for name, value in item.metadata.items() if name not in ("file", "row", "page"))
    if meta:
        said.append(f"\n{meta[:_LONGEST]}", style="not bold dim")
    return said


def _plain(text: str) -> str:
    """Return a text that a terminal shows and does not obey: what is in an index may hold sequences that clear it or type into it."""
    return "".join(sign if sign.isprintable() or sign == "\n" else _SHOWN_AS for sign in text)
