"""A terminal that shows pictures gets the bytes that its protocol wants, over blank cells and for itself alone; any other gets none."""

from __future__ import annotations

import base64
import io
import re

import pytest
from PIL import Image as PILImage
from rich.console import Console

from twoway.errors import UsageError
from twoway.search.store import Hit, Item
from twoway.search.terminal import COLUMNS, detect_mode, print_hits


def webp(width, height, noise=False):
    picture = PILImage.effect_noise((width, height), 90).convert("RGB") if noise else PILImage.new("RGB", (width, height), (200, 0, 0))
    file = io.BytesIO()
    picture.save(file, "WEBP", lossless=True)
    return file.getvalue()


def printed(thumbnail, way, *, terminal=True):
    out = io.StringIO()
    console = Console(file=out, force_terminal=terminal, color_system="truecolor" if terminal else None, width=100)
    print_hits([Hit(Item("n1", text="a fox", thumbnail=thumbnail), 0.5), Hit(Item("n2"), 0.4)], console, pictures=way)
    return out.getvalue()


@pytest.mark.parametrize(
    ("environment", "way"),
    [
        ({"TERM": "xterm-kitty"}, "kitty"),
        ({"TERM": "xterm-256color", "KITTY_WINDOW_ID": "1"}, "kitty"),
        ({"TERM": "xterm-256color", "TERM_PROGRAM": "ghostty"}, "kitty"),
        ({"TERM": "xterm-256color", "TERM_PROGRAM": "iTerm.app"}, "iterm"),
        ({"TERM": "xterm-256color", "LC_TERMINAL": "iTerm2"}, "iterm"),
        ({"TERM": "xterm-256color", "TERM_PROGRAM": "WezTerm"}, "iterm"),
        ({"TERM": "xterm-256color", "TERM_PROGRAM": "vscode", "KITTY_WINDOW_ID": "1"}, "blocks"),  # started from within kitty
        ({"TERM": "xterm-kitty", "TMUX": "/tmp/tmux-0/default,1,0"}, "blocks"),
        ({"TERM": "screen-256color", "KITTY_WINDOW_ID": "1"}, "blocks"),
        ({"TERM": "xterm-256color"}, "blocks"),
        ({}, "blocks"),
    ],
)
def test_the_environment_tells_what_a_terminal_can_show(environment, way):
    assert detect_mode(environment) == way


@pytest.mark.parametrize(
    ("size", "said", "lines"), [((320, 200), f"c={COLUMNS}", 7), ((100, 200), "r=8", 8), ((320, 10), f"c={COLUMNS}", 1)]
)
def test_kitty_gets_a_png_in_chunks_of_4096(size, said, lines):
    out = printed(webp(*size, noise=True), "kitty")
    commands = re.findall(r"\x1b_G([^;]*);([^\x1b]*)\x1b\\", out)
    assert commands[0][0] == f"a=T,f=100,t=d,q=2,C=1,{said},m={int(len(commands) > 1)}"
    assert [control for control, _ in commands[1:]] == ["m=1"] * (len(commands) - 2) + ["m=0"] * (len(commands) > 1)
    assert all(len(part) == 4096 for _, part in commands[:-1])
    assert 0 < len(commands[-1][1]) <= 4096
    with PILImage.open(io.BytesIO(base64.b64decode("".join(part for _, part in commands), validate=True))) as sent:
        assert (sent.format, sent.size) == ("PNG", size)
    up = f"\x1b[{lines - 1}A" if lines > 1 else ""
    assert f"\x1b7\x1b[{COLUMNS}D{up}\x1b_G" in out
    assert out.count("\x1b\\\x1b8") == 1


def test_iterm_gets_one_command_with_the_size_and_the_cells():
    out = printed(webp(320, 200), "iterm")
    size, text = re.search(
        r"\x1b\]1337;File=inline=1;size=(\d+);width=20;height=auto;preserveAspectRatio=1:([^\x07]*)\x07\x1b8", out
    ).groups()
    png = base64.b64decode(text, validate=True)
    assert (len(png), png[:8]) == (int(size), b"\x89PNG\r\n\x1a\n")
    assert ";width=auto;height=8;" in printed(webp(100, 200), "iterm")


@pytest.mark.parametrize("way", ["kitty", "iterm"])
def test_the_words_stand_where_they_would_without_the_picture(way):
    out = printed(webp(320, 200), way)
    plain = re.sub(r"\x1b7.*?\x1b8|\x1b\[[\d;]*m", "", out, flags=re.DOTALL)
    assert "\x1b" not in plain
    lines = [line.rstrip() for line in plain.splitlines()]
    assert lines[0].index("n1") == lines[1].index("a fox") == 1 + 2 + 5 + 2 + COLUMNS + 2
    assert lines[2:8] == [""] * 6  # seven lines of the picture, and one between
    assert "n2" in lines[8]
    assert plain.count("\n") == len(lines)


@pytest.mark.parametrize("way", ["auto", "kitty", "iterm"])
def test_a_pipe_gets_words_alone(way, monkeypatch):
    monkeypatch.setenv("TERM", "xterm-kitty")
    assert re.sub(r"\s+", " ", printed(webp(32, 20), way, terminal=False)).strip() == "1 0.500 n1 a fox 2 0.400 n2"


@pytest.mark.parametrize("bad", [b"no picture", webp(5000, 5000)])
def test_what_an_index_has_for_a_picture_may_be_none(bad):
    for way in ("kitty", "iterm", "blocks"):
        out = printed(bad, way)
        assert "n1" in out
        assert not {"\x1b_G", "\x1b]1337", "▀"} & {sign for sign in ("\x1b_G", "\x1b]1337", "▀") if sign in out}


def test_a_way_that_there_is_not_is_said():
    with pytest.raises(UsageError, match="pictures are auto, blocks, kitty, iterm, never, not 'kity'; did you mean kitty"):
        printed(webp(3, 2), "kity")
