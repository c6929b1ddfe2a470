"""Ready mappings read small files with the columns of the data sets that they are named for."""

from __future__ import annotations

import io

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image as PILImage

from twoway.content import ContentError, Image, Text
from twoway.data.pair_formats import PAIR_FORMATS
from twoway.data.pair_mixture import PairSource, open_pairs
from twoway.data.policy import Policy

# The 20 training sets of MMEB: what stands on each side.
MMEB = {
    "ImageNet_1K": ("it", "t"), "N24News": ("it", "t"), "HatefulMemes": ("it", "t"), "VOC2007": ("it", "t"), "SUN397": ("it", "t"),
    "OK-VQA": ("it", "t"), "A-OKVQA": ("it", "t"), "DocVQA": ("it", "t"), "InfographicsVQA": ("it", "t"), "ChartQA": ("it", "t"),
    "Visual7W": ("it", "t"), "VisDial": ("t", "it"), "CIRR": ("it", "it"), "VisualNews_t2i": ("t", "it"), "VisualNews_i2t": ("it", "t"),
    "MSCOCO_t2i": ("t", "it"), "MSCOCO_i2t": ("it", "t"), "NIGHTS": ("it", "it"), "WebQA": ("t", "it"), "MSCOCO": ("it", "it"),
}  # fmt: skip


@pytest.fixture
def folder(tmp_path):
    """A folder with a few pictures."""
    for name in ("q", "p", "n", "m"):
        (tmp_path / "images").mkdir(exist_ok=True)
        PILImage.new("RGB", (4, 4), {"q": "red", "p": "blue", "n": "green", "m": "black"}[name]).save(tmp_path / "images" / f"{name}.png")
    return tmp_path


@pytest.fixture
def read(folder):
    """Write rows as a Parquet file, and read them as pairs with a mapping."""

    def make(template, *rows, features=None):
        path = folder / "rows.parquet"
        table = datasets.Dataset.from_list(list(rows), features=features) if features else None
        pq.write_table(pa.Table.from_pylist(list(rows)) if table is None else table.data.table, path)
        pairs = open_pairs([PairSource(str(path), template=template)], policy=Policy("fail"))
        return [pairs.read(number)[1] for number in range(len(pairs))]

    return make


def kinds(document):
    return "".join("i" if isinstance(part, Image) else "t" for part in document.parts)


@pytest.mark.parametrize("name", MMEB)
def test_mmeb_train(read, name):
    left, right = MMEB[name]
    row = {
        "qry": ("<|image_1|>\n" if left == "it" else "") + "Represent the given image or text.\n",
        "qry_image_path": "images/q.png" if left == "it" else "",
        "pos_text": ("<|image_1|>\n" if right == "it" else "") + "the answer\n",
        "pos_image_path": "images/p.png" if right == "it" else "",
    }
    (found,) = read("mmeb-train", row)
    assert (kinds(found.query), kinds(found.positive)) == (left, right)
    assert found.query.texts == ("Represent the given image or text.",)
    assert found.negatives == ()


def test_an_image_mark_alone_is_the_picture_and_a_mark_without_one_goes(read):
    row = {"qry": "<|image_1|>\nWhat?", "qry_image_path": "", "pos_text": "<|image_1|>", "pos_image_path": "images/p.png"}
    (found,) = read("mmeb-train", row)
    assert found.query.parts == (Text("What?"),)
    assert kinds(found.positive) == "i"


@pytest.mark.parametrize("as_text", [True, False])
def test_mme5_synthetic(read, as_text):
    """Lists stand in it as lists, or written out as text; empty places are no negatives."""
    texts, paths = ["<|image_1|>\nno", "wrong", ""], ["images/n.png", "", ""]
    row = {"qry": "Find it.", "qry_image_path": "", "pos_text": "<|image_1|> yes", "pos_image_path": "images/p.png"}
    row |= {"neg_text": repr(texts) if as_text else texts, "neg_image_path": repr(paths) if as_text else paths}
    (found,) = read("mme5", row)
    assert [kinds(one) for one in found.negatives] == ["it", "t"]
    assert found.negatives[1].texts == ("wrong",)


def test_mme5_with_one_negative_or_none(read):
    row = {"qry": "q", "qry_image_path": "", "pos_text": "p", "pos_image_path": ""}
    one, none = read("mme5", row | {"neg_text": "n", "neg_image_path": ""}, row | {"neg_text": "", "neg_image_path": ""})
    assert [one.texts for one in one.negatives] == [("n",)]
    assert none.negatives == ()


def test_lists_written_as_text_are_read_and_never_run(read, folder):
    trap = "[__import__('pathlib').Path('ran').touch()]"
    row = {"qry": "q", "qry_image_path": "", "pos_text": "p", "pos_image_path": "", "neg_text": trap, "neg_image_path": ""}
    (found,) = read("mme5", row)
    assert found.negatives[0].texts == (trap,)


def _bytes(colour):
    file = io.BytesIO()
    PILImage.new("RGB", (4, 4), colour).save(file, "PNG")
    return file.getvalue()


@pytest.mark.parametrize("template", ["visrag", "colpali"])
def test_page_sets(read, template):
    page = {"bytes": _bytes("blue"), "path": "p.png"}
    row = {"query": "What was sold?", "image": page, "source": "ArxivQA", "answer": "x", "options": ["a"], "image_filename": "p"}
    (found,) = read(template, row)
    assert found.query.parts == (Text("What was sold?"),)
    assert found.positive.parts == (Image(page["bytes"]),)


def test_vlm2vec_v2(read):
    none = {"paths": [None], "bytes": [None], "resolutions": [None]}
    row = {
        "query_text": "<|image_pad|>\nWhat is it?", "query_image": {"paths": ["images/q.png"], "bytes": [None], "resolutions": [[4, 4]]},
        "pos_text": "a square", "pos_image": none, "neg_text": ["a circle", ""],
        "neg_image": [none, {"paths": [""], "bytes": [b""], "resolutions": [None]}], "global_dataset_name": "MMEB/OK-VQA",
    }  # fmt: skip
    (found,) = read("vlm2vec-v2", row)
    assert (kinds(found.query), kinds(found.positive), found.task) == ("it", "t", "MMEB/OK-VQA")
    assert [one.texts for one in found.negatives] == [("a circle",)]


@pytest.mark.parametrize(
    ("template", "row"),
    [
        ("e5", {"query": "q", "pos": ["p", "r"], "neg": ["n"], "task": "msmarco"}),
        (
            "passages",
            {
                "query_id": "1", "query": "q",
                "positive_passages": [{"docid": "2", "title": "", "text": "p"}, {"docid": "3", "title": "", "text": "r"}],
                "negative_passages": [{"docid": "4", "title": "", "text": "n"}],
            },
        ),
        (
            "dpr",
            {
                "question": "q", "answers": ["x"], "positive_ctxs": [{"title": "", "text": "p"}, {"title": "", "text": "r"}],
                "hard_negative_ctxs": [{"title": "", "text": "n"}],
            },
        ),
    ],
)  # fmt: skip
def test_text_pairs(read, template, row):
    """MS MARCO, NQ, HotpotQA and the like, as they are shared."""
    (found,) = read(template, row)
    assert [one.texts for one in found.documents] == [("q",), ("p",), ("r",), ("n",)]
    assert len(found.negatives) == 1


def test_a_passage_is_its_title_and_its_text(read):
    (found,) = read("dpr", {"question": "q", "positive_ctxs": [{"title": "Rome", "text": "is old"}]})
    assert found.positive.texts == ("Rome\nis old",)


def test_sentence_transformers_columns(read):
    """Without a mapping: anchor, positive, negative."""
    (found,) = read(None, {"anchor": "q", "positive": "p", "negative": "n"})
    assert [one.texts for one in found.documents] == [("q",), ("p",), ("n",)]


def test_trl_preference_rows(read):
    plain, chat = (
        {"prompt": "q", "chosen": "p", "rejected": "n"},
        {
            "prompt": [{"role": "user", "content": [{"type": "image", "text": None}, {"type": "text", "text": "q"}]}],
            "chosen": [{"role": "assistant", "content": [{"type": "text", "text": "p"}]}],
            "rejected": [{"role": "assistant", "content": [{"type": "text", "text": "n"}]}],
            "images": [{"bytes": _bytes("red"), "path": None}],
        },
    )
    for row, shape in ((plain, "t"), (chat, "it")):
        (found,) = read("trl", row)
        assert kinds(found.query) == shape
        assert (found.query.texts, found.positive.texts, found.negatives[0].texts) == (("q",), ("p",), ("n",))


def test_every_mapping_says_what_it_misses():
    assert set(PAIR_FORMATS) >= {"columns", "mmeb-train", "mme5", "vlm2vec-v2", "visrag", "colpali", "e5", "passages", "dpr", "trl"}
    for name, form in PAIR_FORMATS.items():
        if name in ("mmeb-train", "mme5", "vlm2vec-v2"):
            assert form({}).positives == []
        else:
            with pytest.raises(ContentError, match="the row has no"):
                form({})
