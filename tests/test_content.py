"""The content schema: order is kept, the key alone says what a part is, and every refusal names part and place."""

from __future__ import annotations

import pickle
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from PIL import Image as PILImage

from twoway.content import ContentError, Document, Image, Place, Text, to_messages

PLACE = Place("captions.jsonl", 17)


def refusal(parts, **more):
    with pytest.raises(ContentError) as caught:
        Document.from_parts(parts, place=PLACE, **more)
    assert caught.value.place == PLACE
    message = str(caught.value)
    assert message.startswith("captions.jsonl:17: ")
    assert "\n" not in message
    return message


def test_parts_keep_their_order():
    document = Document.from_parts([{"text": "a"}, {"image": "x.png"}, {"text": "b"}, {"image": b"raw"}])
    assert [type(part) for part in document.parts] == [Text, Image, Text, Image]
    assert document.texts == ("a", "b")
    assert [str(image) for image in document.images] == ["picture x.png", "the embedded picture"]


@pytest.mark.parametrize("text", ["cat.png", "/etc/passwd", "https://example.org/cat.png", "data:image/png;base64,AAAA", "../up.jpg"])
def test_a_text_that_looks_like_a_path_or_a_url_stays_text(text, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    PILImage.new("RGB", (2, 2)).save(tmp_path / "cat.png")
    document = Document.from_parts([{"text": text}])
    assert document.parts == (Text(text),)
    assert to_messages(document) == [{"role": "user", "content": [{"type": "text", "text": text}]}]


def test_a_null_column_counts_as_absent():
    assert Document.from_parts([{"text": "a", "image": None}]).parts == (Text("a"),)


@pytest.mark.parametrize(
    ("parts", "words"),
    [
        ([{"txt": "a"}], "part 1 has the unknown key 'txt'; did you mean text?"),
        ([{"text": "a"}, {"img": "a"}], "part 2 has the unknown key 'img'"),
        ([{"text": "a", "image": "b.png"}], "both text and image; make them two parts"),
        ([{"text": None, "image": None}], "neither text nor image"),
        ([{}], "neither text nor image"),
        ([{"text": 3}], "the text of part 1 is a number, not a string"),
        ([{"text": ["a"]}], "the text of part 1 is a list"),
        ([{"text": True}], "the text of part 1 is a boolean"),
        ([{"text": ""}], "the text of part 1 is empty"),
        ([{"text": " \n\t"}], "the text of part 1 is empty"),
        ([{"text": "a\ud800"}], "a lone surrogate at character 2"),
        ([{"image": 3}], "the image of part 1 is a number"),
        ([{"image": ""}], "not a usable path"),
        ([{"image": "a\0.png"}], "not a usable path"),
        ([{"image": b""}], "the image of part 1 is empty"),
        ([{"image": "https://example.org/cat.png"}], "nothing is downloaded"),
        ([{"image": "file:///etc/passwd"}], "nothing is downloaded"),
        ([{"image": "data:image/png;base64,AA"}], "nothing is downloaded"),
        (["a"], "part 1 is a string"),
        ([], "the document is empty"),
        ("text", "a document is a list of parts, not a string"),
        ({"text": "a"}, "a document is a list of parts, not an object"),
        (None, "not null"),
    ],
)
def test_a_wrong_document_is_refused_by_part_and_reason(parts, words):
    assert words in refusal(parts)


@pytest.mark.parametrize("path", ["../secret.png", "sub/../../secret.png", "/etc/passwd", "link.png", "out/secret.png"])
def test_a_path_that_leaves_the_data_folder_is_refused(path, tmp_path):
    root = tmp_path / "data"
    root.mkdir()
    (tmp_path / "secret.png").write_bytes(b"secret")
    (root / "link.png").symlink_to(tmp_path / "secret.png")
    (root / "out").symlink_to(tmp_path)
    document = Document.from_parts([{"image": path}], place=PLACE, root=root)
    with pytest.raises(ContentError, match=r"captions.jsonl:17: picture .* leaves the data folder"):
        document.images[0].read(document.place)
    with pytest.raises(ContentError, match="leaves the data folder"):
        document.fingerprint()


def test_a_path_inside_the_data_folder_is_read_however_it_is_written(tmp_path):
    (tmp_path / "sub").mkdir()
    (tmp_path / "a.png").write_bytes(b"bytes")
    (tmp_path / "link.png").symlink_to("a.png")
    for path in ("a.png", "sub/../a.png", "link.png", str(tmp_path / "a.png")):
        assert Document.from_parts([{"image": path}], root=tmp_path).images[0].read() == b"bytes"


def test_equal_parts_make_equal_documents_and_fingerprints_wherever_they_come_from(tmp_path):
    (tmp_path / "a.png").write_bytes(b"bytes")
    path = Document.from_parts([{"text": "a"}, {"image": "a.png"}], root=tmp_path, place=PLACE, meta={"id": 1})
    data = Document.from_parts([{"text": "a"}, {"image": b"bytes"}])
    assert path == Document.from_parts([{"text": "a"}, {"image": "a.png"}], root=tmp_path)
    assert path.fingerprint() == data.fingerprint()


def test_threads_hash_documents_side_by_side(tmp_path, monkeypatch):
    documents = []
    for number in range(2):
        (tmp_path / f"{number}.png").write_bytes(bytes([number]))
        documents.append(Document.from_parts([{"image": f"{number}.png"}], root=tmp_path))
    both, plain = threading.Barrier(2), Image.read
    monkeypatch.setattr(Image, "read", lambda *given: both.wait(timeout=20) * 0 or plain(*given))
    with ThreadPoolExecutor(2) as pool:
        found = list(pool.map(Document.fingerprint, documents))
    monkeypatch.undo()
    assert found == [Document(one.parts).fingerprint() for one in documents]
    assert found[0] != found[1]


def test_fingerprints_tell_apart_order_borders_kind_and_pixels():
    white, black = PILImage.new("RGB", (2, 3), "white"), PILImage.new("RGB", (2, 3))
    documents = [
        [{"text": "ab"}, {"text": "c"}],
        [{"text": "a"}, {"text": "bc"}],
        [{"text": "c"}, {"text": "ab"}],
        [{"text": "abc"}],
        [{"image": b"abc"}],
        [{"image": white}],
        [{"image": black}],
        [{"image": PILImage.new("RGB", (3, 2))}],
    ]
    assert len({Document.from_parts(parts).fingerprint() for parts in documents}) == len(documents)
    assert Document.from_parts([{"image": black.copy()}]).fingerprint() == Document.from_parts([{"image": black}]).fingerprint()


def test_places_read_as_an_editor_writes_them():
    assert str(Place("a.jsonl", 17)) == "a.jsonl:17"
    assert str(Place("a.pdf", 3, "page")) == "a.pdf page 3"
    assert str(Place("a.pdf")) == "a.pdf"


def test_documents_and_errors_survive_a_worker_process():
    document = Document.from_parts([{"text": "a"}, {"image": b"x"}], place=PLACE)
    assert pickle.loads(pickle.dumps(document)) == document
    error = pickle.loads(pickle.dumps(ContentError("broken", PLACE)))
    assert (str(error), error.place) == ("captions.jsonl:17: broken", PLACE)


def test_an_error_is_one_line_whatever_a_file_is_called(tmp_path):
    assert "picture a b.png does not exist" in str(unreadable_picture(tmp_path))


def unreadable_picture(root):
    with pytest.raises(ContentError) as caught:
        Document.from_parts([{"image": "a\nb.png"}], root=root).images[0].read(PLACE)
    return caught.value
