"""Reference pages that are made from the code each time the site is built, so that they cannot go stale.

Commands come from the parser that the program itself uses, the Python page from the public names, the map from the modules' docstrings.
"""

from __future__ import annotations

import argparse
import ast
import html
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

import twoway
from twoway.cli import build_parser
from twoway.cli.verbs import VERBS

SOURCE = Path(twoway.__file__).parent


def on_files(files: Files, config: Any) -> Files:
    """Add the pages."""
    for name, text in (("commands", commands()), ("python", python()), ("map", code_map())):
        files.append(File.generated(config, f"reference/{name}.md", content=text))
    return files


def commands() -> str:
    """Write a section for each verb: what it does, its options, an example."""
    (verbs,) = (action for action in build_parser()._actions if isinstance(action, argparse._SubParsersAction))
    lead = "# Commands\n\nMade from the program's own parser; `twoway VERB --help` prints the same.\n"
    return "\n".join([lead, *(_verb(name, verbs.choices[name]) for name in VERBS)])


def _verb(name: str, parser: argparse.ArgumentParser) -> str:
    """Write one verb, and below it the verbs it has of its own."""
    example = (parser.epilog or "").removeprefix("example:\n")
    lines = "\n".join(line.strip() for line in example.splitlines())
    about = html.escape(parser.description or "", quote=False)
    parts = [f"## twoway {name}", about, _options(parser), f"```sh\n{lines}\n```" if lines else ""]
    below = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
    parts += [_verb(f"{name} {word}", inner) for action in below for word, inner in action.choices.items()]
    return "\n\n".join(part for part in parts if part) + "\n"


def _options(parser: argparse.ArgumentParser) -> str:
    """Write a table of a verb's arguments."""
    formatter: Any = parser._get_formatter()
    rows = []
    for action in parser._actions:
        if isinstance(action, argparse._HelpAction | argparse._SubParsersAction) or action.help == argparse.SUPPRESS:
            continue
        metavar = formatter._metavar_formatter(action, action.dest)(1)[0]
        value = "" if action.nargs == 0 else f" {formatter._format_args(action, action.dest.upper()) if action.option_strings else ''}"
        names = ", ".join(f"`{option}{value.rstrip()}`" for option in action.option_strings) or f"`{metavar}`"
        said = formatter._expand_help(action) if action.help else ""
        rows.append(f"| {names.replace('|', '&#124;')} | {html.escape(said, quote=False).replace('|', '&#124;')} |")
    return "\n".join(["| argument | |", "|---|---|", *rows]) if rows else ""


def python() -> str:
    """Write a section for each public name."""
    lead = "# Python\n\nMade from the code. What `import twoway` has:\n"
    return "\n".join([lead, *(f"::: {home}.{name}\n" for name, home in twoway._HOME.items())])


def code_map() -> str:
    """List every module with the idea that its docstring names first."""
    lines = [
        "# Map of the code",
        "",
        "Each line is the first sentence of a module's docstring. [Architecture](../architecture.md) shows how they fit together.",
        "",
    ]
    folder = None
    for path in sorted(SOURCE.rglob("*.py"), key=lambda one: (one.parent != SOURCE, one)):
        if path.parent != folder:
            folder = path.parent
            lines += ["", f"## {'.'.join(folder.relative_to(SOURCE.parent).parts)}", ""]
        said = (ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or "").split("\n\n")[0].splitlines()
        name = "" if path.stem == "__init__" else f"`{path.name}` "
        lines.append(f"- {name}{html.escape(said[0] if said else '', quote=False)}")
    return "\n".join(lines) + "\n"
