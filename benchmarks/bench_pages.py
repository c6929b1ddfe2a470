"""What a page of a PDF costs this machine before any model sees it, and what is kept beside its vector; `docs/billion.md` uses the figures.

The pages are A4 with 450 words of the samples' texts, five pictures on every third page; rendered at 144 dots an inch, and cut into
patches as Qwen2.5-VL does, at most 1,000 image tokens.
"""

from __future__ import annotations

import io
import random
import tempfile
import time
from functools import cache
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from PIL import Image, ImageDraw
from transformers import Qwen2VLImageProcessor

from twoway.data.dataset import open_source
from twoway.data.sources.samples import documents
from twoway.embedding.shards import Shards
from twoway.embedding.writing import row_of

PAGES, WORDS, PIXELS = 24, 450, 1000 * 28 * 28
A4 = (1190, 1684)  # at 144 dots an inch


def main() -> None:
    """Make the pages, and time each step on one core."""
    with tempfile.TemporaryDirectory() as folder:
        words = " ".join(" ".join(one.texts) for one in islice(documents("texts"), 3000)).split()
        pdf = Path(folder) / "pages.pdf"
        pdf.write_bytes(_pdf([words[WORDS * n : WORDS * (n + 1)] for n in range(PAGES)]))
        spent, rows = _timed(lambda: list(open_source(pdf, dpi=144, images="lazy").rows()))
        print(f"\nA page of a PDF, A4, {WORDS} words, {pdf.stat().st_size / PAGES / 1e3:,.1f} kB; CPU seconds of one core, mean of {PAGES}")
        print(f"  render at 144 dpi, read its text      {spent / PAGES:8.4f}")
        pictures = [row.images[0].source for row in rows]
        assert [len(row.texts[0].split()) for row in rows] == [WORDS] * PAGES
        files = [_jpeg(one) for one in pictures]
        spent, _ = _timed(lambda: [Image.open(io.BytesIO(one)).convert("RGB") for one in files])
        print(f"  instead: decode a JPEG of {sum(map(len, files)) / PAGES / 1e3:,.0f} kB      {spent / PAGES:8.4f}")
        spent, _ = _timed(lambda: [_processor()(images=one, return_tensors="pt") for one in pictures])
        print(f"  resize, cut into patches              {spent / PAGES:8.4f}")
        kept = Shards.begin(Path(folder) / "out", {"precision": "float32", "fingerprint": "", "shard_rows": PAGES})
        vectors = np.random.default_rng(0).standard_normal((PAGES, 1024)).astype(np.float32)
        kept.write(0, [row_of(number, row) for number, row in enumerate(rows)], vectors, seen=PAGES)
        table = pq.ParquetFile(kept.path(0)).metadata.row_group(0)
        sizes = {table.column(n).path_in_schema.split(".")[0]: table.column(n).total_compressed_size for n in range(table.num_columns)}
        print(
            f"  kept beside a vector: {sum(size for name, size in sizes.items() if name != 'vector') / PAGES:,.0f} bytes, its text included"
        )


def _timed(work: Any) -> tuple[float, Any]:
    """Return the CPU seconds of a second run, and what it gave."""
    work()
    start = time.process_time()
    found = work()
    return time.process_time() - start, found


def _pdf(pages: list[list[str]]) -> bytes:
    """Write a PDF of plain text with some pictures, without a library for it: a catalog, a font, and three objects a page."""
    draw = random.Random(0)
    count = len(pages)
    objects = [b"<< /Type /Catalog /Pages 2 0 R >>", b"", b"<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>"]
    kids = []
    for number, words in enumerate(pages):
        lines = [" ".join(words[start : start + 12]).encode("ascii", "replace") for start in range(0, len(words), 12)]
        safe = [line.translate(None, b"()\\") for line in lines]
        body = b"BT /F1 10 Tf 50 800 Td 14 TL " + b" ".join(b"(" + line + b") Tj T*" for line in safe) + b" ET"
        if number % 3 == 0:
            boxes = (b"%d %d 60 60 re f" % (draw.randrange(50, 480), draw.randrange(40, 200)) for _ in range(5))
            body += b" 0.2 0.4 0.8 rg " + b" ".join(boxes)
        objects.append(b"<< /Length %d >>\nstream\n%s\nendstream" % (len(body), body))
        resources = b"<< /Font << /F1 3 0 R >> >>"
        kids.append(len(objects) + 1)
        objects.append(
            b"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 595 842] /Contents %d 0 R /Resources %s >>" % (len(objects), resources)
        )
    objects[1] = b"<< /Type /Pages /Count %d /Kids [%s] >>" % (count, b" ".join(b"%d 0 R" % kid for kid in kids))
    out, places = bytearray(b"%PDF-1.4\n"), []
    for number, one in enumerate(objects, 1):
        places.append(len(out))
        out += b"%d 0 obj\n%s\nendobj\n" % (number, one)
    start = len(out)
    out += b"xref\n0 %d\n0000000000 65535 f \n" % (len(objects) + 1) + b"".join(b"%010d 00000 n \n" % place for place in places)
    out += b"trailer << /Size %d /Root 1 0 R >>\nstartxref\n%d\n%%%%EOF\n" % (len(objects) + 1, start)
    return bytes(out)


def _jpeg(picture: Any) -> bytes:
    """Return a page as a scanner writes it."""
    file = io.BytesIO()
    noisy = picture.copy()
    ImageDraw.Draw(noisy).rectangle((0, 0, A4[0] // 3, 40), fill="grey")
    noisy.save(file, "JPEG", quality=85)
    return file.getvalue()


@cache
def _processor() -> Any:
    """Return an image processor of the Qwen family, bounded to what 1,000 image tokens of patches of 14 hold."""
    return Qwen2VLImageProcessor(size={"shortest_edge": 56 * 56, "longest_edge": PIXELS})
