"""True pictures in a terminal that can show them: by kitty's graphics protocol, or by iTerm2's inline images.

Which of them a terminal knows is told by its environment, since asking it would need its answer to be read. The cells of a picture are
blank at first, so that the screen has scrolled as far as it needs to; then the cursor goes up, the picture is drawn, and it comes back.

kitty: https://sw.kovidgoyal.net/kitty/graphics-protocol/; iTerm2: https://iterm2.com/documentation-images.html
"""

from __future__ import annotations

import base64
import io
import math
from typing import TYPE_CHECKING, Literal

from rich.segment import ControlType, Segment

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from PIL import Image as PILImage
    from rich.console import Console, ConsoleOptions

Way = Literal["blocks", "kitty", "iterm"]
_CHUNK = 4096  # characters of base64 in one of kitty's commands, at most
_PROGRAMS: Mapping[str, Way] = {"ghostty": "kitty", "iTerm.app": "iterm", "WezTerm": "iterm"}
_TERMS: Mapping[str, Way] = {"xterm-kitty": "kitty", "xterm-ghostty": "kitty"}
_INSIDE = ("TMUX", "STY")  # multiplexers draw the screen themselves, and know nothing of pictures


def way_of(environment: Mapping[str, str]) -> Way:
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


class Drawn:
    """A picture over a cell of a table; a cell is taken to be twice as high as it is wide."""

    def __init__(self, picture: PILImage.Image, way: Way, *, columns: int, rows: int) -> None:
        self._columns = columns
        scale = min(columns / picture.width, 2 * rows / picture.height)
        self._lines = max(1, min(rows, math.ceil(picture.height * scale / 2)))
        sink = io.BytesIO()
        picture.save(sink, "PNG")
        draw = kitty if way == "kitty" else iterm
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


def kitty(png: bytes, *, columns: int, rows: int, wide: bool) -> str:
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


def iterm(png: bytes, *, columns: int, rows: int, wide: bool) -> str:
    """Return the command that draws a picture at the cursor, in its own shape within these cells."""
    size = f"size={len(png)};width={columns if wide else 'auto'};height={'auto' if wide else rows}"
    return f"\x1b]1337;File=inline=1;{size};preserveAspectRatio=1:{base64.b64encode(png).decode()}\x07"
