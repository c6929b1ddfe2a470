"""More pictures under terms that forbid shipping them here: fetched when asked for, written where the user says, never into `samples/`.

`share-alike` is OpenMoji (CC-BY-SA-4.0), a fourth hand's drawings of emoji that the world already knows: one more style that no stage sees.
`gpl` is the stamps of Tux Paint (GPL-2), pictures and photographs with captions.
"""

from __future__ import annotations

import io
import os
import shutil
from typing import TYPE_CHECKING, Any

from PIL import Image, ImageOps

from tools.packages import OTHER_TERMS, PERMISSIVE, fetch
from twoway.data.sources.pages import slug
from twoway.data.sources.samples import TABLES, load_world
from twoway.errors import UsageError, did_you_mean
from twoway.files import fresh_folder

from .assemble import draw
from .concepts import Concept, Drawing
from .emoji import characters_by_name
from .render import SIDE, encode, render
from .tables import SCHEMAS, write_table

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

JOINER, VARIATION = 0x200D, 0xFE0F


def build_with(terms: str, out: str | Path, *, cache: Path | None = None, workers: int | None = None) -> int:
    """Write a copy of the shipped samples with one more table, `pictures-TERMS.parquet`, into the new folder `out`; return its rows."""
    if terms not in OTHER_TERMS:
        raise UsageError(f"--with {terms} is not known{did_you_mean(terms, OTHER_TERMS)} (known: {', '.join(OTHER_TERMS)})")
    world = load_world()
    packages = OTHER_TERMS[terms]
    needed = [one for one in PERMISSIVE if one.name == "cldr-annotations-full"]
    folders = fetch([*packages, *needed], cache)
    rows = {"share-alike": _openmoji, "gpl": _stamps}[terms](folders, world.concepts, workers or os.cpu_count() or 1)
    with fresh_folder(out) as folder:
        for name in TABLES:
            shutil.copyfile(world.folder / f"{name}.parquet", folder / f"{name}.parquet")
        write_table(folder / f"pictures-{terms}.parquet", rows, SCHEMAS["pictures"])
        for package in packages:
            shutil.copyfile(folders[package.name] / package.licence_file, folder / f"LICENCE-{package.name}.txt")
    return len(rows)


def _openmoji(folders: Mapping[str, Path], concepts: Mapping[str, Mapping[str, Any]], workers: int) -> list[dict[str, Any]]:
    """Draw OpenMoji's picture of every emoji that is a concept."""
    characters = characters_by_name(folders["cldr-annotations-full"])
    found = []
    for key, row in sorted(concepts.items()):
        if row["kind"] != "emoji" or key not in characters:
            continue
        codes = [ord(letter) for letter in characters[key]]
        stems = ("-".join(f"{code:04X}" for code in codes), "-".join(f"{code:04X}" for code in codes if code != VARIATION))
        paths = [folders["openmoji"] / "color" / "svg" / f"{stem}.svg" for stem in stems]
        path = next((path for path in paths if path.is_file()), None)
        if path is not None:
            found.append(Concept(key, "emoji", {}, drawings=[Drawing("openmoji", "openmoji", path)]))
    return [
        {"id": f"{one.concept}/openmoji", "half": concepts[one.concept]["half"], **{k: v for k, v in one._asdict().items() if k != "look"}}
        for one in draw(found, workers)
    ]


def _stamps(folders: Mapping[str, Path], concepts: Mapping[str, Mapping[str, Any]], workers: int) -> list[dict[str, Any]]:
    """Read the stamps whose English caption names a concept."""
    rows: list[dict[str, Any]] = []
    for caption in sorted((folders["tuxpaint-stamps-default"] / "usr/share/tuxpaint/stamps").rglob("*.txt")):
        picture = next((path for path in (caption.with_suffix(".png"), caption.with_suffix(".svg")) if path.is_file()), None)
        words = caption.read_text(encoding="utf-8", errors="replace").splitlines()[:1]
        key = next((key for key in _keys(words) if key in concepts), None)
        if key is None or picture is None:
            continue
        number = sum(row["concept"] == key for row in rows) + 1
        image = encode(_square(picture) if picture.suffix == ".png" else render(Drawing("tuxpaint-stamps", "stamp", picture, crop=True)))
        rows.append(
            {
                "id": f"{key}/stamp-{number}",
                "concept": key,
                "source": "tuxpaint-stamps",
                "style": "stamp",
                "image": image,
                "half": concepts[key]["half"],
            }
        )
    return sorted(rows, key=lambda row: str(row["id"]))


def _keys(words: Sequence[str]) -> list[str]:
    """Return what a caption such as `A red kangaroo.` may be called as a concept: the whole, or its last word."""
    whole = slug(words[0]) if words else ""
    bare = next((whole.removeprefix(f"{article}-") for article in ("a", "an", "the", "some") if whole.startswith(f"{article}-")), whole)
    return [bare, bare.removesuffix("s"), bare.rpartition("-")[2]]


def _square(path: Path) -> Image.Image:
    """Fit a picture file into a transparent square."""
    with Image.open(io.BytesIO(path.read_bytes())) as opened:
        picture = ImageOps.contain(opened.convert("RGBA"), (SIDE, SIDE), Image.Resampling.LANCZOS)
    square = Image.new("RGBA", (SIDE, SIDE), (0, 0, 0, 0))
    square.paste(picture, ((SIDE - picture.width) // 2, (SIDE - picture.height) // 2))
    return square
