"""What the fine-tuning benchmark trains on: rows of texts, pictures and both, of realistic lengths, in files that both sides read."""

from __future__ import annotations

import io
import json
import random
from typing import TYPE_CHECKING, Any

import pyarrow.parquet as pq
from PIL import Image

from twoway.data.sources.samples import samples_folder

if TYPE_CHECKING:
    from pathlib import Path

QUERY, PASSAGE, SPREAD, LONGEST = 8, 28, 0.7, 150  # words: the median of short and long texts, their spread, and the most
SIDES = (64, 80, 96, 128, 160)  # pixels


class Rows:
    """Rows drawn with a seed from the words and pictures of the samples; each text and each picture is in them once."""

    def __init__(self, home: Path) -> None:
        self.home, self.draw = home, random.Random(0)
        words = pq.read_table(samples_folder() / "texts.parquet", columns=["text"])["text"].to_pylist()
        self.words = " ".join(words).split()
        self.pictures = pq.read_table(samples_folder() / "pictures.parquet", columns=["image"])["image"].to_pylist()
        self.drawn = 0
        (home / "pictures").mkdir()

    def write(self, count: int) -> Path:
        """Write rows of three kinds by turns, each with a query, a positive and a hard negative, and return the file."""
        kinds = (self._texts, self._named, self._asked)
        path = self.home / "rows.jsonl"
        with path.open("w", encoding="utf-8") as file:
            for number in range(count):
                query, *documents = kinds[number % len(kinds)]()
                file.write(json.dumps({"query": query, "positive": documents[0], "negative": documents[1]}) + "\n")
        return path

    def _texts(self) -> list[Any]:
        """Return a question and two passages."""
        return [self._text(QUERY), self._text(PASSAGE), self._text(PASSAGE)]

    def _named(self) -> list[Any]:
        """Return a caption and two pictures."""
        return [self._text(QUERY), self._picture(), self._picture()]

    def _asked(self) -> list[Any]:
        """Return a picture with a question, its answer, and a picture with words that is none."""
        return [self._picture() | self._text(QUERY), self._text(PASSAGE), self._picture() | self._text(QUERY)]

    def _text(self, median: int) -> dict[str, str]:
        length = max(1, min(LONGEST, round(median * self.draw.lognormvariate(0, SPREAD))))
        start = self.draw.randrange(len(self.words) - length)
        return {"text": " ".join(self.words[start : start + length])}

    def _picture(self) -> dict[str, str]:
        self.drawn += 1
        picture = Image.open(io.BytesIO(self.pictures[self.drawn % len(self.pictures)])).convert("RGB")
        name = f"pictures/{self.drawn}.png"
        picture.resize((self.draw.choice(SIDES), self.draw.choice(SIDES))).save(self.home / name)
        return {"image": name}
