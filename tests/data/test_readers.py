"""Every format is read alike for every purpose: what training reads, embedding, indexing and mining read too."""

from __future__ import annotations

import tarfile

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image as PILImage

from twoway.content import Document, Pair, Place
from twoway.data import dataset
from twoway.data.config import PairSource, SourceConfig
from twoway.data.dataset import READERS, open_reader, open_source, open_table, source_files
from twoway.data.mixture import open_mixture, open_pairs
from twoway.data.rows import ReadOptions
from twoway.data.sources.formats import ToDocument, ToEither, ToPair
from twoway.data.sources.readers import Reader
from twoway.embedding.ray import SourceRows
from twoway.embedding.writing import Sources
from twoway.errors import UsageError
from twoway.methods.bridge.config import BridgeSource
from twoway.methods.bridge.rows import open_bridge_mixture

TEMPLATE = "{photo:image} It is {caption}"


@pytest.fixture
def written(tmp_path, png, jsonl):
    """Write rows of columns in each format that has columns, and return the specs."""

    def write(*rows):
        pq.write_table(pa.Table.from_pylist(list(rows)), tmp_path / "rows.parquet")
        datasets.Dataset.from_list(list(rows)).save_to_disk(tmp_path / "saved")
        (tmp_path / "hub").mkdir()
        pq.write_table(pa.Table.from_pylist(list(rows)), tmp_path / "hub/train.parquet")
        pictures = {}
        for number, row in enumerate(rows):
            for key, value in row.items():
                if isinstance(value, bytes):
                    (tmp_path / f"{number}-{key}.png").write_bytes(value)
                    pictures[number, key] = f"{number}-{key}.png"
        lines = [{key: pictures.get((number, key), value) for key, value in row.items()} for number, row in enumerate(rows)]
        with tarfile.open(tmp_path / "rows.tar", "w") as file:
            for number, row in enumerate(rows):
                for key, value in row.items():
                    ending = "png" if isinstance(value, bytes) else "txt"
                    name = {"text.txt": "txt", "image.png": "png"}.get(f"{key}.{ending}", f"{key}.{ending}")
                    content = value if isinstance(value, bytes) else value.encode()
                    (tmp_path / "member").write_bytes(content)
                    file.add(tmp_path / "member", f"{number}.{name}")
        return {
            "jsonl": str(jsonl(*lines)),
            "parquet": str(tmp_path / "rows.parquet"),
            "disk": str(tmp_path / "saved"),
            "hub": f"hub:{tmp_path / 'hub'}",
            "tars": str(tmp_path / "rows.tar"),
        }

    return write


def shape(item):
    """What two items of one row have in common, wherever the row lies: texts, and the pixels of pictures."""
    return [[part.text if hasattr(part, "text") else part.read() for part in one.parts] for one in item.documents]


def embedded(spec, template=None):
    """Rows as `embed` and `index` go through them, in order and from their places on another machine."""
    sources = Sources([spec], root=None, dpi=72, row_template=template)
    found = [shape(one) for one in sources.rows(0)]
    assert [shape(one) for one in sources.rows(1)] == found[1:]
    if not spec.startswith("hub:"):
        places = SourceRows(sources)
        assert [shape(one) for at in places.shards(2) for one in places.read(at)] == found
        assert sources.count() == len(found)
    return found


def trained(mixture):
    return [shape(mixture.read(row)[1]) for row in range(len(mixture))]


def test_documents_are_the_same_for_every_verb(written, png, tmp_path):
    rows = [{"image": png(), "text": "a red thing"}, {"image": png("blue", (5, 4)), "text": "two"}]
    expected = [[[row["image"], row["text"]]] for row in rows]
    for kind, spec in written(*rows).items():
        assert embedded(spec) == expected, kind
        for opened in (
            open_mixture([SourceConfig(spec, cap=9)], folder=tmp_path),
            open_bridge_mixture([BridgeSource(spec, cap=9)], folder=tmp_path),
        ):
            assert trained(opened) == expected, kind


def test_columns_of_other_names_are_read_by_a_template_for_every_verb(written, png, tmp_path):
    rows = [{"photo": png(), "caption": "red"}, {"photo": png("blue"), "caption": "blue"}]
    expected = [[[row["photo"], f" It is {row['caption']}"]] for row in rows]
    specs = written(*rows)
    # A file of a tar is a picture by its ending, and its column is called so.
    for kind, spec in specs.items():
        template = TEMPLATE.replace("photo", "photo_image") if kind == "tars" else TEMPLATE
        assert embedded(spec, template) == expected, kind
        assert [shape(one) for one in open_source(spec, row_template=template, images="lazy")] == expected, kind
        source = {"spec": spec, "cap": 9, "row_template": template}
        for opened in (
            open_mixture([SourceConfig(**source)], folder=tmp_path),
            open_bridge_mixture([BridgeSource(**source)], folder=tmp_path),
        ):
            assert trained(opened) == expected, kind
    with pytest.raises(UsageError, match="there is no format 'pixelprse'; did you mean pixelprose"):
        Sources([specs["jsonl"]], root=None, dpi=72, row_template="pixelprse")


def test_pairs_are_the_same_for_every_verb(written, tmp_path):
    rows = [{"query": f"q{number}", "positive": f"p{number}", "negative": "n"} for number in range(3)]
    for kind, spec in written(*rows).items():
        pairs = open_pairs([PairSource(spec, cap=9, task="t")], folder=tmp_path)
        found = [pairs.read(row)[1] for row in range(len(pairs))]
        assert [shape(one) for one in found] == [[[row["query"]], [row["positive"]], ["n"]] for row in rows], kind
        assert {one.task for one in found} == {"t"}
        either = open_bridge_mixture([BridgeSource(spec, cap=9)], folder=tmp_path)
        assert [either.read(row)[1] for row in range(3)] == [Pair(one.query, one.positives, one.negatives) for one in found], kind


def test_pictures_pages_and_samples_are_the_same_for_every_verb(tmp_path, png):
    (tmp_path / "pictures").mkdir()
    for number in range(3):
        (tmp_path / "pictures" / f"{number}.png").write_bytes(png(size=(5 + number, 4)))
    PILImage.new("RGB", (60, 40), "white").save(tmp_path / "pages.pdf", save_all=True, append_images=[PILImage.new("RGB", (40, 60))])
    for spec in (str(tmp_path / "pictures"), str(tmp_path / "pages.pdf"), "samples:pages"):
        streamed = list(Sources([spec], root=None, dpi=144).rows(0))
        for opened in (open_mixture([spec]), open_bridge_mixture([BridgeSource(spec)])):
            assert [opened.read(row)[1] for row in range(len(opened))] == streamed
        assert len(SourceRows(Sources([spec], root=None, dpi=144)).readers) == 1
    with pytest.raises(UsageError, match="has documents, not pairs"):
        open_pairs([str(tmp_path / "pictures")])
    pairs, either = open_pairs(["samples:test-source"]), open_bridge_mixture([BridgeSource("samples:test-source")])
    assert [pairs.read(row)[1] for row in range(9)] == [either.read(row)[1] for row in range(9)]
    assert len(open_mixture(["samples:test-source"])) == 2 * len(pairs)


def test_a_new_format_is_one_class_and_one_line(tmp_path, monkeypatch):
    class CsvReader(Reader):
        suffixes = (".csv",)

        def positions(self):
            yield from ((0, row) for row in range(1, len(self.path.read_text().splitlines())))

        def read(self, at):
            names, *lines = (line.split(",") for line in self.path.read_text().splitlines())
            return self.convert_row(dict(zip(names, lines[at[1] - 1], strict=True)), Place(str(self.path), at[1]), self.path.parent)

    monkeypatch.setitem(READERS, "csv", CsvReader)
    (tmp_path / "rows.csv").write_text("query,positive\nq,p\nr,s\n")
    spec = f"csv:{tmp_path / 'rows.csv'}"
    assert [one.texts for one in open_source(spec, row_template="{query} {positive}")] == [("q p",), ("r s",)]
    assert [open_pairs([spec]).read(row)[1].texts for row in range(2)] == [("q", "p"), ("r", "s")]
    assert open_table(spec, convert=ToDocument(lambda row: [{"text": row["query"]}])).characters.tolist() == [1, 1]
    assert source_files(spec) == [tmp_path / "rows.csv"]
    assert dataset.source_kind(spec)[0] == "csv"


def test_a_reader_gives_documents_pairs_or_either_as_it_is_told(jsonl):
    spec = str(jsonl({"query": "q", "positive": "p"}, {"text": "t"}))
    kinds = {convert.makes: [type(one) for one in open_reader(spec, ReadOptions(), convert).rows()] for convert in (ToEither(), ToPair())}
    assert kinds["either"] == [Pair, Document]
    assert kinds["pairs"][0] is Pair
    assert "no query" in str(list(open_reader(spec, ReadOptions(), ToPair()).rows())[1])
