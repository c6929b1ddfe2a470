"""A small stand-in for the hub: each data set that a full-size recipe names, in its exact columns, with pictures of real sizes.

`hub:OWNER/NAME` is opened from a folder of that name where one lies in the working folder, so the recipes run unchanged inside the folder
that is made here. Which kinds of content stand on each side of a set is a fact of that set; what they say is not.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import datasets

from .contents import PAGES, PHOTOS
from .models import IMAGE

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from twoway.data.config import SourceConfig

    from .contents import Contents

ROWS, PAIRS = 6, 3  # of each set of documents, and of pairs
MARK = "<|image_1|>\n"
# The sets of MMEB-train and beside it: what the query holds besides text, what the answer is, and what the instruction asks.
_SIDES = {
    "ImageNet_1K": ("photo", "text"), "N24News": ("photo", "text"), "HatefulMemes": ("photo", "text"), "VOC2007": ("photo", "text"),
    "SUN397": ("photo", "text"), "OK-VQA": ("photo", "text"), "A-OKVQA": ("photo", "text"), "DocVQA": ("page", "text"),
    "InfographicsVQA": ("page", "text"), "ChartQA": ("photo", "text"), "Visual7W": ("photo", "text"), "VisDial": ("", "photo"),
    "CIRR": ("photo", "photo"), "VisualNews_t2i": ("", "photo"), "VisualNews_i2t": ("photo", "text"), "MSCOCO_t2i": ("", "photo"),
    "MSCOCO_i2t": ("photo", "text"), "NIGHTS": ("photo", "photo"), "WebQA": ("", "photo"), "MSCOCO": ("photo", "photo"),
    "TAT-DQA": ("page", "text"), "ArxivQA": ("page", "text"), "InfoSeek_it2t": ("photo", "text"), "InfoSeek_it2it": ("photo", "photo"),
    "visrag_ind": ("", "page"), "visrag_syn": ("", "page"), "tevatron_colpali": ("", "page"),
    "Classification": ("photo", "text"), "Retrieval": ("", "photo"), "VQA": ("photo", "text"),
}  # fmt: skip
_DOCUMENTS = {
    "dclm_20b": "", "pixelprose_commonpool": "photo", "pixelprose_cc12m_sub_005": "photo", "pixelprose_redcaps_sub_010": "photo",
    "MAmmoTH-VL-Instruct-12M": "photo", "MMEB-train": "photo", "docmatix": "page", "visrag_ind": "page", "visrag_syn": "page",
    "tevatron_colpali": "page",
}  # fmt: skip
_PAIR_COLUMNS = {name: datasets.Value("string") for name in ("qry", "qry_image_path", "pos_text", "pos_image_path")}
_NEGATIVES = {"neg_text": datasets.Value("string"), "neg_image_path": datasets.Value("string")}


@dataclass(frozen=True)
class World:
    """Where the stand-in lies, and what it is made of."""

    folder: Path
    contents: Contents

    def make(self, sources: Iterable[SourceConfig]) -> None:
        """Write every data set that these sources name; what is there already stays."""
        for source in sources:
            kind, _, argument = source.spec.rpartition(":") if source.spec.endswith(".jsonl") else source.spec.partition(":")
            name, _, split = argument.partition(":")
            place = self.folder / name
            if place.exists():
                if source.root is not None and place.name in _SIDES:
                    self._pairs(place.name, self.folder / source.root, negatives=False)  # its pictures, where this recipe looks for them
                continue
            if kind == "hub":
                self._hub(place, source, split or "train")
            elif name.endswith(".jsonl"):
                self._text_pairs(place)
            else:
                self._collected(place, source)

    def _hub(self, place: Path, source: SourceConfig, split: str) -> None:
        name = place.name
        if source.row_template == "moca":
            columns = {"text": datasets.Value("string"), "images": datasets.List(datasets.Value("binary"))}
            _write(place / "data", split, [self._document(_DOCUMENTS[name], number) for number in range(ROWS)], columns)
        else:
            negatives = source.row_template != "mmeb-train"
            rows = self._pairs(name, self.folder / (source.root or Path()), negatives=negatives)
            _write(place / "data", split, rows, _PAIR_COLUMNS | (_NEGATIVES if negatives else {}))

    def _document(self, kind: str, number: int) -> dict[str, Any]:
        """Return a row of MoCa's prepared sets: text with marks, files as bytes; documents of several pages among the pages."""
        if not kind:
            return {"text": self.contents.words(400 * (number + 1)), "images": []}
        pictures = [self._picture(kind, number + extra) for extra in range(1 + (kind == "page" and number % 3 == 2))]
        words = self.contents.words(100) if kind == "photo" else f"{self.contents.question()} {self.contents.words(20)}"
        return {"text": IMAGE * len(pictures) + words, "images": pictures}

    def _picture(self, kind: str, number: int) -> bytes:
        """Return a picture; the first pages are the sizes that the bounds are for."""
        sizes = PAGES if kind == "page" else PHOTOS
        size = sizes[number % len(sizes)]
        return self.contents.page(size) if kind == "page" else self.contents.photo(size)

    def _pairs(self, name: str, root: Path, *, negatives: bool) -> list[dict[str, Any]]:
        """Return rows of a set of MMEB-train's kind; their pictures lie below `root`, where their paths say."""
        query, answer = _SIDES[name]
        rows = []
        for number in range(PAIRS):
            # Sets begin at different ones, so that each side of a row has every size in some set.
            first = 4 * number + sum(map(ord, name))
            shown = [self._file(root, name, kind, first + at) for at, kind in enumerate((query, answer, answer, answer))]
            words = self.contents.question()
            said = "Represent the given image\n" if answer != "text" else self.contents.term()
            row = {
                "qry": f"{MARK if query else ''}Represent the given {'image with the' if query else ''} question: {words}\n",
                "qry_image_path": shown[0],
                "pos_text": f"{MARK}{said}" if answer != "text" else said,
                "pos_image_path": shown[1],
            }
            if negatives:
                others = ["", ""] if answer != "text" else [self.contents.term(), self.contents.term()]
                row |= {"neg_text": repr(others), "neg_image_path": repr(shown[2:] if answer != "text" else ["", ""])}
            rows.append(row)
        return rows

    def _file(self, root: Path, name: str, kind: str, number: int) -> str:
        """Write a picture and return its path below the root; nothing for a text."""
        if kind not in ("photo", "page"):
            return ""
        sizes = PAGES if kind == "page" else PHOTOS
        path = Path("images") / name / f"{number % len(sizes)}.jpg"  # a set's rows share a file of each size
        if not (root / path).exists():
            (root / path).parent.mkdir(parents=True, exist_ok=True)
            (root / path).write_bytes(self._picture(kind, number))
        return path.as_posix()

    def _text_pairs(self, place: Path) -> None:
        """Write rows of E5's sets, as JSON lines."""
        place.parent.mkdir(parents=True, exist_ok=True)
        rows = [
            {"query": self.contents.question(), "pos": [self.contents.words(120)], "neg": [self.contents.words(120) for _ in range(2)]}
            for _ in range(PAIRS)
        ]
        place.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")

    def _collected(self, place: Path, source: SourceConfig) -> None:
        """Write what a user collects by hand: PixelProse with its pictures fetched, the Parquet files of MMEB-train."""
        if source.row_template == "pixelprose":
            rows = [
                {
                    "vlm_caption": f"This image displays: {self.contents.words(100)}",
                    "image": {"bytes": self._picture("photo", number), "path": None},
                }
                for number in range(ROWS)
            ]
            _write(place, "train", rows, {"vlm_caption": datasets.Value("string"), "image": datasets.Image()})
        elif source.row_template == "mmeb-train":
            for name in ("ImageNet_1K", "DocVQA", "MSCOCO_t2i", "CIRR"):
                _write(place / name, "original", self._pairs(name, self.folder / (source.root or place), negatives=False), _PAIR_COLUMNS)
        else:
            raise ValueError(f"{source.spec}: the rehearsal does not know the columns of {source.row_template}")


def _write(folder: Path, split: str, rows: Sequence[dict[str, Any]], columns: dict[str, Any]) -> None:
    """Write rows under their columns' true types."""
    folder.mkdir(parents=True, exist_ok=True)
    table = datasets.Dataset.from_list(list(rows), features=datasets.Features(columns))
    table.to_parquet(folder / f"{split}-00000-of-00001.parquet", batch_size=2)
