"""Snippets of the pages: where they are, and how each kind is run or, where it cannot be here, checked against the real program."""

from __future__ import annotations

import argparse
import importlib.util
import re
import shlex
from dataclasses import dataclass
from pathlib import Path

from twoway.cli import build_parser

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")), *sorted((ROOT / "examples").rglob("*.md"))]
BLOCK = re.compile(r"^ *```(\w+)? ?(\S*)\n(.*?)^ *```$", re.MULTILINE | re.DOTALL)
SHELL = ("sh", "bash", "shell", "console")
SETTING = re.compile(r"[A-Z_]+=")  # an environment variable before a command
PLACEHOLDER = re.compile(r"\b(MODEL|BASE|HOST|VECTORS|PAGES)\b")


@dataclass(frozen=True)
class Block:
    """A fenced block of a page."""

    page: str
    number: int
    kind: str
    file: str  # that it stands for, where it names one
    text: str


def load_example(name):
    """Return an example as a module: their folder is no package."""
    spec = importlib.util.spec_from_file_location(f"example_{name}", ROOT / "examples" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def name(page):
    return page.relative_to(ROOT).as_posix()


def blocks(page):
    found = BLOCK.findall(page.read_text(encoding="utf-8"))
    return [Block(name(page), number, *one) for number, one in enumerate(found)]


def commands(text):
    """Return the commands of a shell block as words: lines joined, prompts and comments taken off."""
    whole = text.replace("\\\n", " ")
    # A number sign begins a comment at the beginning of a word alone, which shlex does not know.
    lines = [re.sub(r"(^|\s)#.*$", "", line.strip().removeprefix("$ ")) for line in whole.splitlines()]
    split = [[word for number, word in enumerate(shlex.split(line)) if number or not SETTING.match(word)] for line in lines]
    return [(shlex.join(words), words) for words in split if words]


def parse(words):
    """Parse a command of the program with its own parser; an unknown verb or option, or a missing argument, is an error here."""
    try:
        return build_parser().parse_args(words)
    except SystemExit as end:
        raise AssertionError(f"twoway {shlex.join(words)}: the program does not take this") from end


def check(words):
    """Check a command that is not run: its program, its verb and options, the targets, extras and files that it names."""
    program, *rest = words
    if program == "make":
        targets = set(re.findall(r"^([a-z0-9-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
        assert set(rest) <= targets, f"make {rest}: no such target"
    elif program.endswith("twoway"):
        parsed = parse(rest)
        named = [word for word in rest if re.match(r"(recipes|studies|examples)/", word)]
        assert all((ROOT / word).exists() for word in named), f"{named}: no such file"
        return parsed
    elif program in ("curl", "mteb"):
        assert rest
    elif program == "torchrun":
        assert rest[rest.index("-m") + 1] == "twoway"
        parse(rest[rest.index("-m") + 2 :])
    elif program in ("pip", ".venv/bin/pip"):
        extras = re.findall(r"twoway\[([\w,]+)\]", " ".join(rest))
        offered = (ROOT / "pyproject.toml").read_text()
        assert all(f"\n{extra} = [" in offered for one in extras for extra in one.split(",")), f"{extras}: no such extra"
    elif Path(program).name.startswith("python"):
        python(rest)
    else:
        raise AssertionError(f"{program}: how to check this is not known; teach tests/snippets.py")
    return argparse.Namespace()


def python(words):
    """Check a call of Python: the file or the module of the repository is there."""
    if words[:1] == ["-m"]:
        module, *names = words[1:]
        if module == "twoway":
            parse(names)
            return
        home = ROOT / module.replace(".", "/")
        assert home.with_suffix(".py").exists() or (home / "__main__.py").exists() or module in ("pytest", "mkdocs"), f"no module {module}"
        if module == "benchmarks":
            assert all((home / f"bench_{one}.py").exists() for one in names), f"no benchmark among {names}"
    else:
        assert (ROOT / words[0]).exists(), f"no file {words[0]}"
