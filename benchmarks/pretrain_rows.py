"""What the pre-training benchmark trains: a base of 15.4 million parameters, rows of one length, and rows of mixed lengths."""

from __future__ import annotations

import json
import random
from typing import TYPE_CHECKING, Any

import pyarrow.parquet as pq
import torch
import transformers
from PIL import Image

from twoway.content import Document
from twoway.data.patches import PatchGeometry
from twoway.data.processing import Encoder
from twoway.data.sources.samples import samples_folder
from twoway.errors import TwowayError
from twoway.models import processor as processors

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

PICTURE = 128  # pixels along a side: 64 image tokens
PAGE = 288  # 324 image tokens
SIZES = (64, 80, 96, 128)


def base(folder: Path) -> Path:
    """Save a random Qwen2-VL of 15.4 million parameters, with the processor of the shipped base."""
    shipped = samples_folder() / "base"
    config = transformers.AutoConfig.from_pretrained(shipped)
    text = {"hidden_size": 384, "intermediate_size": 992, "num_attention_heads": 6, "num_key_value_heads": 2}
    config.text_config.update(text)
    config.vision_config.update({"embed_dim": 256, "hidden_size": text["hidden_size"]})
    torch.manual_seed(0)
    model = transformers.AutoModelForImageTextToText.from_config(config, dtype=torch.float32)
    model.save_pretrained(folder)
    parts = processors.load_processor(shipped)
    processors.set_pixels(config, parts, min_pixels=None, max_pixels=PAGE**2)  # the shipped base's own bound is 160 x 160
    parts.save_pretrained(folder)
    return folder


class Rows:
    """Rows of any length, made of the words and pictures of the samples."""

    def __init__(self, folder: Path, home: Path) -> None:
        """Take the processor of the base in `folder`; pictures and rows are written to `home`."""
        parts = processors.load_processor(folder)
        processors.ensure_template(parts)
        config = transformers.AutoConfig.from_pretrained(folder)
        self.encode = Encoder(parts, PatchGeometry.of(config, parts), max_length=2048)
        self.tokenizer, self.home = parts.tokenizer, home
        words = pq.read_table(samples_folder() / "texts.parquet", columns=["text"])["text"].to_pylist()
        self.draw = random.Random(0)
        self.draw.shuffle(words)
        self.words = iter(words)
        self.pictures = self._pictures()

    def fixed(self, count: int, length: int) -> Path:
        """Write rows of one picture and as many words as make `length` tokens."""
        return self._write("fixed", [self._row([PICTURE], length) for _ in range(count)])

    def pages(self, count: int) -> Path:
        """Write rows of one large picture, whose tokens are four fifths of the row, as in the paper's mix."""
        return self._write("pages", [self._row([PAGE], (PAGE // 16) ** 2 * 5 // 4) for _ in range(count)])

    def mixed(self, count: int, shortest: int = 20, longest: int = 400) -> Path:
        """Write rows of 0 to 4 pictures and of `shortest` to `longest` tokens in all."""
        made = []
        for _ in range(count):
            sizes = [self.draw.choice(SIZES) for _ in range(self.draw.randint(0, 4))]
            least = sum((side // 16) ** 2 + 2 for side in sizes) + shortest
            made.append(self._row(sizes, self.draw.randint(min(least, longest - 1), longest)))
        return self._write("mixed", made)

    def _write(self, name: str, rows: list[list[dict[str, Any]]]) -> Path:
        path = self.home / f"{name}.jsonl"
        path.write_text("".join(json.dumps({"parts": parts}) + "\n" for parts in rows))
        return path

    def _row(self, sizes: list[int], length: int) -> list[dict[str, Any]]:
        """Return the parts of one row, its last text cut so that the row has `length` tokens."""
        shown = [{"image": next(self.pictures).format(side)} for side in sizes]
        for part in shown:
            self._draw_picture(part["image"])
        text = ""
        while len(self.tokenizer(text)["input_ids"]) < length:
            text += (" " if text else "") + next(self.words)
        bounds = [end for _, end in self.tokenizer(text, return_offsets_mapping=True)["offset_mapping"]]
        count = length
        while True:
            parts = [*shown, {"text": text[: bounds[count - 1]].strip()}]
            opened = [{"image": Image.open(self.home / one["image"])} if "image" in one else one for one in parts]
            made = self.encode("row", Document.from_parts(opened))
            shown_tokens, wanted = int(made.image_tokens.sum()), sum((side // 16) ** 2 for side in sizes)
            if shown_tokens != wanted:
                raise TwowayError(f"pictures of {sizes} pixels are to be {wanted} tokens, and are {shown_tokens}")
            over = len(made.words) - length
            if over <= 0 or count == 1:
                return parts
            count = max(1, count - over)

    def _draw_picture(self, name: str) -> None:
        number, side = (int(part) for part in name.removesuffix(".png").split("-"))
        if not (self.home / name).exists():
            picture = Image.open(self.sources[number]).convert("RGB")
            picture.resize((side, side), Image.Resampling.BICUBIC).save(self.home / name)

    def _pictures(self) -> Iterator[str]:
        import io

        table = pq.read_table(samples_folder() / "pictures.parquet", columns=["image"]).slice(0, 400)
        self.sources = [io.BytesIO(one) for one in table["image"].to_pylist()]
        while True:
            for number in range(len(self.sources)):
                yield f"{number}-{{}}.png"
