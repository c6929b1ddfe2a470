"""PDFs: a page is its picture and then its text; what cannot be opened is a bad row with file and page."""

from __future__ import annotations

import hashlib

import pytest

from documents import endless_pdf, pdf, pdf_of
from twoway.content import ContentError, Image, Text
from twoway.data.dataset import open_source, open_table
from twoway.data.rows import Policy, ReadOptions
from twoway.errors import UsageError
from twoway.limits import Limits


@pytest.fixture
def write(tmp_path):
    def make(name, data):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(data)
        return path

    return make


def test_a_page_is_its_picture_and_then_its_text(write):
    path = write("a.pdf", pdf(("Hello page one", 144, 72), ("", 144, 72)))
    first, second = open_source(path)
    assert [type(part) for part in first.parts] == [Image, Text]
    assert first.texts == ("Hello page one",)
    assert [type(part) for part in second.parts] == [Image]
    assert (str(first.place), str(second.place)) == (f"{path} page 1", f"{path} page 2")
    assert second.meta == {"page": 2, "pages": 2}
    picture = first.images[0].source
    assert (picture.mode, picture.size) == ("RGB", (288, 144))
    assert picture.convert("L").getextrema()[0] < 100, "the text is drawn"
    assert second.images[0].source.getextrema() == ((255, 255),) * 3


def test_the_resolution_is_an_option(write):
    path = write("a.pdf", pdf(("x", 144, 72)))
    (document,) = open_source(path, dpi=36)
    assert document.images[0].source.size == (72, 36)
    with pytest.raises(UsageError, match="dpi"):
        list(open_source(path, dpi=0))


@pytest.mark.parametrize("bound", [1000, 90_000])
def test_a_giant_page_is_rendered_within_the_bound(write, bound):
    path = write("a.pdf", pdf(("x", 14_400, 14_400), ("x", 14_400, 101)))
    for document in open_source(path, limits=Limits(max_pixels=bound)):
        width, height = document.images[0].source.size
        assert bound * 0.8 < width * height <= bound


def test_a_folder_is_read_in_order_and_bad_files_are_bad_rows(write, tmp_path):
    write("d/b.pdf", pdf(("two", 100, 100)))
    write("d/a.PDF", pdf(("one", 100, 100)))
    write("d/locked.pdf", pdf(("x", 100, 100), encrypted=True))
    write("d/junk.pdf", b"no pdf at all")
    write("d/empty.pdf", b"")
    write("d/none.pdf", pdf())
    write("d/notes.txt", b"left alone")
    source = open_source(tmp_path / "d", on_bad="skip", bad_rows=tmp_path / "bad-rows.jsonl")
    assert [document.texts for document in source] == [("one",), ("two",)]
    reasons = (tmp_path / "bad-rows.jsonl").read_text()
    assert source.report().bad == len(reasons.splitlines()) == 4
    for words in ("the PDF is encrypted", "the PDF is broken", "junk.pdf", "empty.pdf", "none.pdf"):
        assert words in reasons
    with pytest.raises(ContentError, match=r"empty\.pdf: the PDF is broken .*pass --on-bad skip"):
        list(open_source(tmp_path / "d"))


def test_a_broken_page_is_one_bad_row_with_its_number(write):
    path = write("a.pdf", pdf(("one", 100, 100), None, ("three", 100, 100)))
    source = open_source(path, on_bad="skip")
    assert [document.texts for document in source] == [("one",), ("three",)]
    with pytest.raises(ContentError, match=r"a\.pdf page 2: "):
        list(open_source(path))


def test_every_cut_of_a_pdf_gives_pages_or_bad_rows(write):
    data = pdf(("one", 100, 100), ("two", 100, 100))
    for length in range(0, len(data), 40):
        path = write("cut.pdf", data[:length])
        rows = [row if isinstance(row, ContentError) else row.place.unit for row in open_source(path, images="lazy").rows()]
        assert rows
        assert all(row == "page" or str(path) in str(row) for row in rows)


TIME, MEMORY = "the page takes more than 1 seconds of a processor, the bound", "the page is broken, or needs more than 2,048 MB of memory"


# a form in itself fills the memory, too: which bound it meets first depends on the processor
@pytest.mark.parametrize(("endless", "bounds"), [(endless_pdf(1, 10, itself=True), (TIME, MEMORY)), (endless_pdf(8, 10), (TIME,))])
def test_a_page_that_never_ends_is_a_bad_row_and_the_next_file_is_read(write, tmp_path, endless, bounds):
    assert len(endless) < 2500
    write("d/a.pdf", endless)
    write("d/b.pdf", endless_pdf(2, 2))
    limits = Limits(max_page_seconds=1)
    source = open_source(tmp_path / "d", on_bad="skip", bad_rows=tmp_path / "bad-rows.jsonl", limits=limits)
    (good,) = source
    assert good.place.file.endswith("b.pdf")
    assert good.images[0].source.getpixel((200, 200)) == (255, 0, 0)
    assert any(f"a.pdf page 1: {bound}" in str(source.report()) for bound in bounds)


def test_a_page_that_fills_the_memory_is_a_bad_row(write):
    path = write("a.pdf", endless_pdf(8, 10))
    with pytest.raises(ContentError, match=r"a.pdf page 1: the page (is broken, or )?needs more than 256 MB of memory"):
        list(open_source(path, limits=Limits(max_page_memory=256 << 20, max_page_seconds=60)))


def test_a_long_page_of_text_is_held_to_the_bound_of_texts(write):
    path = write("a.pdf", pdf(("Hello", 144, 72), ("Hello page", 144, 72)))
    limits = Limits(max_characters=5)
    words = "a.pdf page 2: the text of part . has 6 characters"
    with pytest.raises(ContentError, match=words):
        list(open_source(path, limits=limits))
    table = open_table(str(path), options=ReadOptions(limits=limits), policy=Policy("skip"))
    assert (len(table), len(table.bad)) == (1, 1)


def test_a_file_that_changes_is_opened_anew(write):
    path = write("a.pdf", pdf(("one", 100, 100)))
    assert next(iter(open_source(path))).texts == ("one",)
    write("a.pdf", pdf(("and two", 100, 100)))
    assert next(iter(open_source(path))).texts == ("and two",)


def test_a_path_is_one_of_the_folder_that_the_reader_is_in(write, tmp_path, monkeypatch):
    for name in ("one", "two"):
        write(f"{name}/a.pdf", pdf((name, 100, 100)))
        monkeypatch.chdir(tmp_path / name)
        assert next(iter(open_source("a.pdf"))).texts == (name,)


def rc4(key, data):
    """Return the data under RC4, which old PDFs are encrypted with."""
    state, j = list(range(256)), 0
    for i in range(256):
        j = (j + state[i] + key[i % len(key)]) % 256
        state[i], state[j] = state[j], state[i]
    i, j, out = 0, 0, bytearray()
    for byte in data:
        i = (i + 1) % 256
        j = (j + state[i]) % 256
        state[i], state[j] = state[j], state[i]
        out.append(byte ^ state[(state[i] + state[j]) % 256])
    return bytes(out)


@pytest.mark.parametrize("password", [b"", b"secret"])
def test_a_pdf_that_anyone_may_open_is_read_although_it_is_encrypted(write, password):
    """By the standard's algorithms 2 and 4, with 40 bits: `password` is the one that opens it."""
    padding = bytes.fromhex("28BF4E5E4E758A4164004E56FFFA01082E2E00B6D0683E802F0CA9FE6453697A")
    owner, name, rights = b"O" * 32, b"C" * 16, -4
    padded = (password + padding)[:32]
    key = hashlib.md5(padded + owner + rights.to_bytes(4, "little", signed=True) + name).digest()[:5]
    content = rc4(hashlib.md5(key + (4).to_bytes(3, "little") + bytes(2)).digest()[:10], b"BT /F 12 Tf 10 50 Td (Hello) Tj ET")
    objects = {
        1: "<</Type/Catalog/Pages 2 0 R>>",
        2: "<</Type/Pages/Kids[3 0 R]/Count 1>>",
        3: "<</Type/Page/Parent 2 0 R/MediaBox[0 0 100 100]/Resources<</Font<</F 5 0 R>>>>/Contents 4 0 R>>",
        4: f"<</Length {len(content)}>>stream\n{content.decode('latin-1')}\nendstream",
        5: "<</Type/Font/Subtype/Type1/BaseFont/Helvetica>>",
        6: f"<</Filter/Standard/V 1/R 2/P {rights}/O<{owner.hex()}>/U<{rc4(key, padding).hex()}>>>",
    }
    path = write("a.pdf", pdf_of(objects, f"/Encrypt 6 0 R/ID[<{name.hex()}><{name.hex()}>]"))
    if password:
        with pytest.raises(ContentError, match=r"a\.pdf: the PDF is encrypted; save it without a password"):
            list(open_source(path))
    else:
        assert [document.texts for document in open_source(path)] == [("Hello",)]
