"""Ready mappings read small files with the columns of the data sets that they are named for."""

from __future__ import annotations

import io

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image as PILImage

from twoway.content import ContentError, Image, Text, Video
from twoway.data.config import PairSource
from twoway.data.mixture import open_pairs
from twoway.data.rows import Policy
from twoway.data.sources.formats import PAIR_FORMATS

# The 20 training sets of MMEB: a query and an answer as they stand in each. "Q" and "P" are the pictures at the paths.
IMAGE = "<|image_1|>\nRepresent the given image\n"
MMEB = {
    "ImageNet_1K": ("<|image_1|>\nRepresent the given image for classification\n", "rain barrel"),
    "N24News": ("<|image_1|>\nRepresent the given news image with the following caption for domain classification: A game.\n", "Sports"),
    "HatefulMemes": (
        "<|image_1|>\nRepresent the given image for binary classification to determine whether it constitutes hateful speech or not\n",
        "No",
    ),
    "VOC2007": ("<|image_1|>\nIdentify the object shown in the image\n", "car"),
    "SUN397": ("<|image_1|>\nIdentify the scene shown in the image\n", "firing range"),
    "OK-VQA": ("<|image_1|>\nRepresent the given image with the following question: What sport is it?\n", "race"),
    "A-OKVQA": ("<|image_1|>\nRepresent the given image with the following question: What is in the back?\n", "cab"),
    "DocVQA": ("<|image_1|>\nRepresent the given image with the following question: What is the date?\n", "1/8/93"),
    "InfographicsVQA": ("<|image_1|>\nRepresent the given image with the following question: Which platform?\n", "Twitter"),
    "ChartQA": ("<|image_1|>\nRepresent the given image with the following question: How many bars?\n", "3"),
    "Visual7W": ("<|image_1|>\nRepresent the given image with the following question: Where was it taken?\n", "At the zoo."),
    "VisDial": ("Represent the given dialogue about an image, which is used for image retrieval: Q:is it sunny?\nA:no\n", IMAGE),
    "CIRR": ("<|image_1|>\nGiven an image, find a similar everyday image with the described changes: has two dogs\n", IMAGE),
    "VisualNews_t2i": ("Retrieve an image of this news caption. A man speaks.\n", IMAGE),
    "VisualNews_i2t": ("<|image_1|>\nFind a caption for the news in the given photo.\n", "A man speaks."),
    "MSCOCO_t2i": ("Find me an everyday image that matches the given caption: A man with a red helmet.\n", IMAGE),
    "MSCOCO_i2t": ("<|image_1|>\nFind an image caption describing the given everyday image.\n", "A man with a red helmet."),
    "NIGHTS": ("<|image_1|>\nFind a day-to-day image that looks similar to the provided image.\n", IMAGE),
    "WebQA": (
        "Find a Wikipedia image that answers this question: Which tower is taller?\n",
        "<|image_1|>\nRepresent the given Wikipedia image with related text information: The tower at night.\n",
    ),
    "MSCOCO": (
        '<|image_1|>\nSelect the portion of the image that isolates the object of the label "car"\n',
        "<|image_1|>\nRepresent the given cropped image of the object\n",
    ),
}
MARK = "<|image_1|>"


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

    def make(template, *rows, features=None, seed=0):
        path = folder / "rows.parquet"
        table = datasets.Dataset.from_list(list(rows), features=features) if features else None
        pq.write_table(pa.Table.from_pylist(list(rows)) if table is None else table.data.table, path)
        pairs = open_pairs([PairSource(str(path), row_template=template)], policy=Policy("fail"), seed=seed)
        return [pairs.read(number)[1] for number in range(len(pairs))]

    return make


def kinds(document):
    return "".join("i" if isinstance(part, Image) else "t" for part in document.parts)


def shape(document):
    return [part.text if isinstance(part, Text) else part.source.stem for part in document.parts]


def as_read(text, picture):
    """Return what a text of MMEB is read as: verbatim, the picture in the place of its mark."""
    return [picture, text.removeprefix(MARK)] if text.startswith(MARK) else [text]


@pytest.mark.parametrize("template", ["mmeb-train", "mme5", "moca-pairs"])
@pytest.mark.parametrize("name", MMEB)
def test_a_row_of_each_set_of_mmeb_train(read, template, name):
    """Texts are read verbatim. The negatives are those of mined rows: other answers, or no text where the target is a picture."""
    query, answer = MMEB[name]
    picture = answer.startswith(MARK)
    row = {
        "qry": query,
        "qry_image_path": "images/q.png" if query.startswith(MARK) else "",
        "pos_text": answer,
        "pos_image_path": "images/p.png" if picture else "",
        "neg_text": repr(["", ""] if picture else ["first\n", "second"]),
        "neg_image_path": repr(["images/n.png", "images/m.png"] if picture else ["", ""]),
    }
    (found,) = read(template, row)
    assert shape(found.query) == as_read(query, "q")
    assert shape(found.positive) == as_read(answer, "p")
    wrong = [as_read(answer, "n"), as_read(answer, "m")] if picture else [["first\n"], ["second"]]
    assert [shape(one) for one in found.negatives] == wrong


def test_an_image_mark_alone_is_the_picture_and_a_mark_without_one_goes(read):
    row = {"qry": "<|image_1|>\nWhat?", "qry_image_path": "", "pos_text": "<|image_1|>", "pos_image_path": "images/p.png"}
    (found,) = read("mmeb-train", row)
    assert found.query.parts == (Text("\nWhat?"),)
    assert kinds(found.positive) == "i"


@pytest.mark.parametrize(
    ("template", "query", "positive"),
    [
        ("llava-hound-caption", ["video", "\nDescribe it."], ["A fox runs."]),
        ("llava-hound-qa", ["Answer a question based on the content of a video. ", "video", "\nDescribe it."], ["A fox runs."]),
        (
            "llava-hound-video",
            ["Find a video that contains the following visual content: A fox runs."],
            ["Understand the content of the provided video: ", "video"],
        ),
    ],
)
def test_llava_hound_in_the_forms_that_vlm2vec_v2_trains_on(read, folder, template, query, positive):
    turns = [{"from": "human", "value": "<video>\nDescribe it."}, {"from": "gpt", "value": "A fox runs."}]
    (found,) = read(template, {"id": "v_1-0", "video": "images", "conversations": turns})
    shown = [["video" if isinstance(part, Video) else part.text for part in one.parts] for one in (found.query, found.positive)]
    assert shown == [query, positive]
    (video,) = [part for one in found.documents for part in one.media]
    assert len(list(video.path(found.place).iterdir())) == 4  # the folder of frames, below `root`
    with pytest.raises(ContentError, match="no question with an answer"):
        read(template, {"id": "v_1-0", "video": "images", "conversations": turns[:1]})


@pytest.mark.parametrize("as_text", [True, False])
def test_mme5_synthetic(read, as_text):
    """Lists stand in it as lists, or written out as text; a place where both are empty is no negative."""
    texts, paths = ["<|image_1|>\nno", "wrong", ""], ["images/n.png", "", ""]
    row = {"qry": "Find it.", "qry_image_path": "", "pos_text": "<|image_1|> yes", "pos_image_path": "images/p.png"}
    row |= {"neg_text": repr(texts) if as_text else texts, "neg_image_path": repr(paths) if as_text else paths}
    (found,) = read("mme5", row)
    assert [shape(one) for one in found.negatives] == [["n", "\nno"], ["wrong"]]


T2I = {"qry": "Find it.\n", "qry_image_path": "", "pos_text": IMAGE, "pos_image_path": "images/p.png"}


def test_an_empty_text_among_others_is_one_of_them_by_seed_and_row(read):
    """As the authors fill it, but the draw is a function of seed and row, and not of what was read before."""
    said = [f"{MARK}\n{name}\n" for name in "abcdefgh"]
    rows = [
        T2I | {"qry": f"{number}\n", "neg_text": repr(["", *said]), "neg_image_path": repr(["images/n.png"] * 9)} for number in range(12)
    ]
    first = [shape(found.negatives[0])[1] for found in read("mme5", *rows)]
    assert {f"{MARK}{text}" for text in first} <= set(said)
    assert len(set(first)) > 2
    assert [shape(found.negatives[0])[1] for found in read("mme5", *reversed(rows))] == first[::-1]
    assert [shape(found.negatives[0])[1] for found in read("mme5", *rows, seed=1)] != first


def test_the_shorter_list_goes_on_with_its_last_entry(read):
    row = T2I | {"neg_text": "['']", "neg_image_path": "['images/n.png', 'images/m.png']"}
    (found,) = read("moca-pairs", row)
    assert [shape(one) for one in found.negatives] == [["n", IMAGE.removeprefix(MARK)], ["m", IMAGE.removeprefix(MARK)]]
    (found,) = read("moca-pairs", T2I | {"neg_text": "", "neg_image_path": "['images/n.png']"})
    assert [shape(one) for one in found.negatives] == [["n", IMAGE.removeprefix(MARK)]]


def test_mme5_with_one_negative_or_none(read):
    row = {"qry": "q", "qry_image_path": "", "pos_text": "p", "pos_image_path": ""}
    one, none = read("mme5", row | {"neg_text": "n", "neg_image_path": ""}, row | {"neg_text": "", "neg_image_path": ""})
    assert [one.texts for one in one.negatives] == [("n",)]
    assert none.negatives == ()


@pytest.mark.parametrize("trap", ["[__import__('pathlib').Path('ran').touch()]", "['a', 'b", "[" * 100_000])
def test_lists_written_as_text_are_read_and_never_run(read, folder, monkeypatch, trap):
    """What cannot be read as a list is a bad row, and no text that stands for one."""
    monkeypatch.chdir(folder)
    row = {"qry": "q", "qry_image_path": "", "pos_text": "p", "pos_image_path": "", "neg_text": trap, "neg_image_path": ""}
    with pytest.raises(ContentError, match=r"rows\.parquet:1: neg_text begins like a list and cannot be read as one"):
        read("mme5", row)
    assert not (folder / "ran").exists()


@pytest.mark.parametrize("odd", ["[['a']]", "[1]", "[('a', 'b')]"])
def test_lists_of_other_things_than_texts_are_bad_rows(read, odd):
    row = {"qry": "q", "qry_image_path": "", "pos_text": "p", "pos_image_path": "", "neg_text": odd, "neg_image_path": ""}
    with pytest.raises(ContentError, match="neg_text is not a list of texts"):
        read("mme5", row)


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
    frames = {"paths": [f"images/{number}.png" for number in range(3)], "bytes": [None] * 3, "resolutions": [[4, 4]] * 3}
    sides = PAIR_FORMATS["vlm2vec-v2"]({"query_text": "<|video_pad|>\nWhat is it?", "query_image": frames, "pos_text": "a square"})
    assert sides.query == [{"video": frames["paths"]}, {"text": "\nWhat is it?"}]


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
    (found,) = read("dpr", {"question": "q\n", "positive_ctxs": [{"title": "Rome", "text": " is old\n"}]})
    assert (found.query.texts, found.positive.texts) == (("q\n",), ("Rome\n is old\n",))


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
    assert set(PAIR_FORMATS) >= {
        "columns",
        "mmeb-train",
        "mme5",
        "moca-pairs",
        "vlm2vec-v2",
        "visrag",
        "colpali",
        "e5",
        "passages",
        "dpr",
        "trl",
    }
    for name, form in PAIR_FORMATS.items():
        if name in ("mmeb-train", "mme5", "moca-pairs", "vlm2vec-v2"):
            assert form({}).positives == []
        else:
            with pytest.raises(ContentError, match="the row has no"):
                form({})
