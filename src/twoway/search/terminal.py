"""Hits as a table in a terminal, with small pictures: true ones where it can show them, else in colours, each cell two pixels high."""

from __future__ import annotations

import base64
import io
import math
import os
from typing import TYPE_CHECKING, Literal, cast

from PIL import Image as PILImage
from rich.segment import ControlType, Segment
from rich.table import Table
from rich.text import Text

from twoway.content import ContentError, Image
from twoway.errors import UsageError, did_you_mean
from twoway.images import open_image
from twoway.limits import Limits

from .pictures import SIDE

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from rich.console import Console, ConsoleOptions

    from .store import Hit, Item

COLUMNS, _ROWS = 20, 8
PICTURES = ("auto", "blocks", "kitty", "iterm", "never")
_SMALL = Limits(max_pixels=(4 * SIDE) ** 2, frames="first")
_LONGEST = 240
_SHOWN_AS = "\ufffd"  # of a sign that is none


def print_hits(hits: Sequence[Hit], console: Console, *, pictures: str = "auto") -> None:
    """Print hits; `pictures` is what the terminal can do, or `blocks` (into a file, too), `kitty` or `iterm` (never), or `never`."""
    way = _choose_mode(console, pictures) if any(hit.item.thumbnail for hit in hits) else None
    table = Table(box=None, pad_edge=False, show_header=False, padding=(0, 2, 1 if way else 0, 0))
    table.add_column(justify="right", style="bold")
    table.add_column(justify="right")
    if way:
        table.add_column(width=COLUMNS)
    table.add_column(overflow="fold", ratio=1)
    for number, hit in enumerate(hits, 1):
        small = [thumbnail_cell(hit.item.thumbnail, way)] if way else []
        score = f"{hit.score:.3f}"
        if hit.place_before is not None:
            score = f"{'unread' if hit.relevance is None else f'{hit.relevance:.3f}'}\nwas {hit.place_before}. ({score})"
        if hit.place_before_maxsim is not None:
            score += f"\nby mean {hit.place_before_maxsim}."
        said = _words(hit.item)
        if hit.why is not None:
            said.append(f"\n{hit.why.describe()}", style="not bold")
        elif hit.why_not is not None:
            said.append(f"\nnot explained: {_plain(hit.why_not)}", style="not bold dim")
        table.add_row(f"{number}", score, *small, said)
    console.print(table if hits else "nothing found")
    if by_thumbnail := sum(hit.by_thumbnail for hit in hits):
        reason = "the files are not where they were indexed, or the reranker takes no such content"
        console.print(f"{by_thumbnail} of {len(hits)} were judged by their thumbnails: {reason}", style="dim")


def _choose_mode(console: Console, pictures: str) -> DrawMode | None:
    """Return how pictures are drawn, if they are."""
    if pictures not in PICTURES:
        raise UsageError(f"pictures are {', '.join(PICTURES)}, not {pictures!r}{did_you_mean(pictures, PICTURES)}")
    if pictures == "blocks":
        return "blocks"
    if pictures == "never" or not console.is_terminal:
        return None
    if pictures in ("kitty", "iterm"):
        return cast("DrawMode", pictures)
    way = detect_mode(os.environ)
    return way if way != "blocks" or console.color_system in ("truecolor", "256") else None


def thumbnail_cell(thumbnail: bytes | None, way: DrawMode = "blocks", *, columns: int = COLUMNS, rows: int = _ROWS) -> Text | TerminalImage:
    """Return a picture; what an index holds may be none, or larger than any of ours."""
    if thumbnail is None:
        return Text()
    try:
        small = open_image(Image(thumbnail), limits=_SMALL)
    except ContentError:
        return Text()
    return _blocks(small, columns, rows) if way == "blocks" else TerminalImage(small, way, columns=columns, rows=rows)


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


# True pictures in a terminal that can show them: by kitty's graphics protocol, or by iTerm2's inline images.
#
# Which of them a terminal knows is told by its environment, since asking it would need its answer to be read. The
# cells of a picture are blank at first, so that the screen has scrolled as far as it needs to; then the cursor goes
# up, the picture is drawn, and it comes back.
#
# kitty: https://sw.kovidgoyal.net/kitty/graphics-protocol/; iTerm2: https://iterm2.com/documentation-images.html

DrawMode = Literal["blocks", "kitty", "iterm"]
_CHUNK = 4096  # characters of base64 in one of kitty's commands, at most
_PROGRAMS: Mapping[str, DrawMode] = {"ghostty": "kitty", "iTerm.app": "iterm", "WezTerm": "iterm"}
_TERMS: Mapping[str, DrawMode] = {"xterm-kitty": "kitty", "xterm-ghostty": "kitty"}
_INSIDE = ("TMUX", "STY")  # multiplexers draw the screen themselves, and know nothing of pictures


def detect_mode(environment: Mapping[str, str]) -> DrawMode:
    """Return how the terminal of this environment draws pictures best; what started it may have left names of its own behind."""
    term = environment.get("TERM", "")
    if any(environment.get(name) for name in _INSIDE) or term.startswith(("screen", "tmux")):
        return "blocks"
    if term in _TERMS:
        return _TERMS[term]
    if program := environment.get("TERM_PROGRAM"):
        return _PROGRAMS.get(program, "blocks")
    if environment.get("LC_TERMINAL") == "iTerm2":  # which ssh takes along
        return "iterm"
    return "kitty" if environment.get("KITTY_WINDOW_ID") else "blocks"


class TerminalImage:
    """A picture over a cell of a table; a cell is taken to be twice as high as it is wide."""

    def __init__(self, picture: PILImage.Image, way: DrawMode, *, columns: int, rows: int) -> None:
        self._columns = columns
        scale = min(columns / picture.width, 2 * rows / picture.height)
        self._lines = max(1, min(rows, math.ceil(picture.height * scale / 2)))
        sink = io.BytesIO()
        picture.save(sink, "PNG")
        draw = kitty_sequence if way == "kitty" else iterm_sequence
        wide = columns / picture.width <= 2 * rows / picture.height
        self._drawn = draw(sink.getvalue(), columns=columns, rows=self._lines, wide=wide)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[Segment]:
        """Give blank lines, and behind the last of them what draws over them all; in a file that is no terminal it is left out."""
        blank = Segment(" " * self._columns)
        for _ in range(self._lines - 1):
            yield blank
            yield Segment.line()
        yield blank
        up = f"\x1b[{self._lines - 1}A" if self._lines > 1 else ""
        said = f"\x1b7\x1b[{self._columns}D{up}{self._drawn}\x1b8"
        yield Segment(said, None, [(ControlType.CURSOR_UP, self._lines - 1)])  # of no width, and for terminals alone


def kitty_sequence(png: bytes, *, columns: int, rows: int, wide: bool) -> str:
    """Return the commands that draw a picture at the cursor, which stays; no answer is asked for (q=2), or it would stand in the shell.

    One of columns and rows is said, and the terminal finds the other by the true shape of its cells.
    """
    text = base64.b64encode(png).decode()
    parts = [text[start : start + _CHUNK] for start in range(0, len(text), _CHUNK)]
    first = f"a=T,f=100,t=d,q=2,C=1,{f'c={columns}' if wide else f'r={rows}'},"
    more = [f"m={int(number < len(parts) - 1)}" for number in range(len(parts))]
    return "".join(
        f"\x1b_G{'' if number else first}{last};{part}\x1b\\" for number, (last, part) in enumerate(zip(more, parts, strict=True))
    )


def iterm_sequence(png: bytes, *, columns: int, rows: int, wide: bool) -> str:
    """Return the command that draws a picture at the cursor, in its own shape within these cells."""
    size = f"size={len(png)};width={columns if wide else 'auto'};height={'auto' if wide else rows}"
    return f"\x1b]1337;File=inline=1;{size};preserveAspectRatio=1:{base64.b64encode(png).decode()}\x07"
