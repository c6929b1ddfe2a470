"""Build the samples from the packages: every row of `samples/` comes from here, and two builds give the same bytes."""

from __future__ import annotations

import json
import os
import shutil
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from tools.packages import PERMISSIVE, fetch
from twoway.files import fresh_folder, sha256

from .assemble import draw, gloss, merge, rows, twins
from .clipart import read_clipart
from .emoji import read_emoji
from .flags import read_flags
from .pages import page_rows
from .tabler import read_tabler
from .tables import write_table
from .texts import text_rows
from .wordnet import WordNet

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

MANIFEST = "manifest.json"
TOOLS = ("pillow", "pyarrow", "resvg-py", "imagehash")


def build(out: str | Path, *, cache: Path | None = None, workers: int | None = None) -> dict[str, Any]:
    """Fetch the packages, write the tables, their licences and a manifest into the new folder `out`, and return the manifest."""
    packages = fetch(cache=cache)
    with fresh_folder(out) as folder:
        tables = make_tables(packages, workers=workers)
        for name, table in tables.items():
            write_table(folder / f"{name}.parquet", table)
        (folder / "licences").mkdir()
        for package in PERMISSIVE:
            shutil.copyfile(packages[package.name] / package.licence_file, folder / "licences" / f"{package.name.replace('/', '-')}.txt")
        manifest = {
            "tables": {name: {"rows": len(table), "sha256": sha256(folder / f"{name}.parquet")} for name, table in sorted(tables.items())},
            "packages": {one.name: {"version": one.version, "sha256": one.sha256, "licence": one.licence} for one in PERMISSIVE},
            "built_with": {tool: version(tool) for tool in TOOLS},
            "twins": twins(tables["pictures"]),
        }
        (folder / MANIFEST).write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")
    return manifest


def make_tables(packages: Mapping[str, Path], *, workers: int | None = None) -> dict[str, list[dict[str, Any]]]:
    """Return the rows of the four tables."""
    wordnet = WordNet(packages["wordnet-base"] / "usr/share/wordnet")
    emoji = read_emoji(packages["fluentui-emoji"], packages["cldr-annotations-full"])
    icons = read_tabler(packages["@tabler/icons"], wordnet, {concept.id for concept in emoji})
    flags = read_flags(packages["flag-icons"], packages["cldr-localenames-full"])
    clipart = read_clipart(packages["openclipart-svg"] / "usr/share/openclipart/svg", wordnet, [*emoji, *icons])
    concepts = merge([emoji, icons, flags, clipart])
    gloss(concepts.values(), wordnet)
    picture_rows, concept_rows = rows(concepts, draw(concepts.values(), workers or os.cpu_count() or 1))
    font = packages["dejavu-fonts-ttf"] / "ttf" / "DejaVuSansCondensed.ttf"
    return {
        "pictures": picture_rows,
        "concepts": concept_rows,
        "texts": text_rows(wordnet, concept_rows),
        "pages": page_rows(concept_rows, picture_rows, font),
    }
