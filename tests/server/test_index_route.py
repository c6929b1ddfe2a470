"""Items go into the index over HTTP, are found by words, a picture or another item, and leave it again; on a real index."""

from __future__ import annotations

import base64
import io
import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import quote

import numpy as np
import pytest
from PIL import Image as PILImage

from clips import clip
from documents import endless_pdf, pdf
from full_disk import disk_full
from page_server import PAGE_TEXT, make_clips, make_pages
from twoway.search.query import create_store, open_store
from twoway.search.store import IndexInfo
from twoway.server import routes
from twoway.server.schemas import ServerLimits
from twoway.server.service import _unnamed

ITEMS = [
    {"id": "a/1", "text": "w1 w2 w3", "metadata": {"shelf": 7, "kind": "note"}},
    {"id": "a 2?#", "text": "a text that is longer than others", "metadata": {"shelf": 8, "kind": "note"}},
]


@pytest.fixture
def store(engine, tmp_path):
    return create_store(tmp_path / "index", IndexInfo("tiny", engine.fingerprint, engine.dimension))


@pytest.fixture
def client(serve, store, picture, data_url):
    client = serve(store)
    shown = {"id": "p/3", "image": data_url(picture(3, 400, 300)), "metadata": {"shelf": 9, "kind": "picture"}}
    said = client.post("/v1/index/items", json={"items": [*ITEMS, shown]})
    assert said.json() == {"added": 3, "replaced": 0}, said.text
    return client


def ids(client, **body):
    answer = client.post("/v1/search", json=body)
    assert answer.status_code == 200, answer.text
    assert answer.json()["took_ms"] >= 0
    return [hit["id"] for hit in answer.json()["hits"]]


def refused(answer):
    assert 400 <= answer.status_code < 500, answer.text
    return answer.status_code, answer.json()["error"]["message"]


def test_who_asks_does_not_wait_for_those_who_change(client, store, monkeypatch):
    begun, go = threading.Event(), threading.Event()
    add = type(store).add

    def slow(self, items, **options):
        begun.set()
        assert go.wait(60)
        return add(self, items, **options)

    monkeypatch.setattr(type(store), "add", slow)
    with ThreadPoolExecutor(6) as pool:
        asked = [pool.submit(client.post, "/v1/index/items", json={"items": [{"id": f"n{number}", "text": "w9"}]}) for number in range(6)]
        try:
            assert begun.wait(60)
            assert len(ids(client, text="w1", top_k=5)) == 3
        finally:
            go.set()
        assert [one.result().json() for one in asked] == [{"added": 1, "replaced": 0}] * 6
    assert client.get("/v1/index").json()["count"] == 9


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ("db fails while reading it (lancedb: db/items.lance)", "the index fails while reading it (lancedb: the index/items.lance)"),
        ("open {here}/db/items.lance, not my-db", "open the index/items.lance, not my-db"),
    ],
)
def test_what_an_engine_says_names_no_folder_and_stays_readable(said, told, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert _unnamed(said.format(here=tmp_path), "db") == told


def test_the_index_says_what_it_holds(client):
    said = client.get("/v1/index").json()
    assert (said["count"], said["dimension"]) == (3, 32)
    assert {"name": "shelf", "type": "integer"} in said["fields"]


def test_what_is_found_is_what_was_put_in_by_cosine(client, store, engine, picture, data_url):
    hits = client.post("/v1/search", json={"text": "w1 w2 w3", "top_k": 2}).json()["hits"]
    query = engine.sentence.encode_query([[{"role": "user", "content": "w1 w2 w3"}]])[0]
    item = engine.sentence.encode_document([[{"role": "user", "content": "w1 w2 w3"}]])[0]
    found = next(hit for hit in hits if hit["id"] == "a/1")
    assert found["score"] == pytest.approx(float(query @ item), abs=1e-5)
    assert found["metadata"] == {"shelf": 7, "kind": "note"}
    assert len(hits) == 2
    asked = {"text": "w1", "image": data_url(picture(3, 400, 300))}
    content = [{"type": "image", "image": picture(3, 400, 300)}, {"type": "text", "text": "w1"}]
    query = engine.sentence.encode_query([[{"role": "user", "content": content}]])[0]
    scores = {hit["id"]: hit["score"] for hit in client.post("/v1/search", json=asked).json()["hits"]}
    assert scores == pytest.approx({name: float(query @ store.get(name).vector) for name in ("a/1", "a 2?#", "p/3")}, abs=1e-5)


def test_filters_words_and_more_like_this(client):
    assert ids(client, text="w1", filter="shelf > 8") == ["p/3"]
    assert set(ids(client, id="a/1")) == {"a 2?#", "p/3"}
    assert len(ids(client)) == 3
    assert refused(client.post("/v1/search", json={"text": "w", "filter": "shelff > 8"}))[0] == 400
    assert "did you mean shelf" in refused(client.post("/v1/search", json={"text": "w", "filter": "shelff > 8"}))[1]


def test_an_item_and_its_picture_have_addresses(client):
    hits = {hit["id"]: hit for hit in client.post("/v1/search", json={}).json()["hits"]}
    assert hits["a/1"]["thumbnail"] is None
    small = client.get(hits["p/3"]["thumbnail"])
    assert small.headers["content-type"] == "image/webp"
    assert max(PILImage.open(io.BytesIO(small.content)).size) <= 320
    assert client.get("/v1/index/items/a%202%3F%23").json()["text"] == ITEMS[1]["text"]
    assert refused(client.get("/v1/index/items/a%2F1/thumbnail"))[0] == 404
    assert refused(client.get("/v1/index/items/other"))[0] == 404


@pytest.mark.parametrize("place", ["index", "index.db"])
def test_what_is_added_is_found_at_once_by_words_by_vector_and_by_both(serve, engine, tmp_path, picture, data_url, place):
    store = create_store(tmp_path / place, IndexInfo("tiny", engine.fingerprint, engine.dimension))
    client = serve(store)
    try:
        assert client.post("/v1/index/items", json={"items": [{"id": "p", "image": data_url(picture(3))}]}).status_code == 200
        assert ids(client, text="w5", hybrid=True) == ["p"]
        assert client.post("/v1/index/items", json={"items": [{"id": "t", "text": "w5 zebra"}]}).json() == {"added": 1, "replaced": 0}
        assert [hit.item.id for hit in store.search(None, words="zebra")] == ["t"]
        assert ids(client, image=data_url(picture(3)), top_k=1) == ["p"]
        assert ids(client, text="zebra", hybrid=True)[0] == "t"
        assert client.post("/v1/index/items", json={"items": [{"id": "t", "text": "w5 horse"}]}).json() == {"added": 0, "replaced": 1}
        assert store.search(None, words="zebra") == []
        assert client.delete("/v1/index/items/t").status_code == 200
        assert ids(client, text="horse", hybrid=True) == ["p"]
    finally:
        store.close()


def test_an_id_that_looks_like_an_address_of_a_picture_is_an_id(client):
    assert client.post("/v1/index/items", json={"items": [{"id": "p/3/thumbnail", "text": "w1"}]}).status_code == 200
    assert client.get("/v1/index/items/p%2F3%2Fthumbnail").json()["text"] == "w1"
    assert client.get("/v1/index/items/p%2F3/thumbnail").headers["content-type"] == "image/webp"
    assert refused(client.get("/v1/index/items/p%2F3%2Fthumbnail/thumbnail"))[0] == 404
    assert client.delete("/v1/index/items/p%2F3%2Fthumbnail").status_code == 200


def test_while_another_run_writes_an_addition_is_to_be_tried_again(client, store):
    other = open_store(store.location)
    with other.writing():
        answer = client.post("/v1/index/items", json={"items": [{"id": "new", "text": "w1"}]})
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "5")
        assert "another run is writing to the index" in answer.json()["error"]["message"]
        assert client.delete("/v1/index/items/a%2F1").status_code == 503
        assert len(ids(client)) == 3
    assert client.post("/v1/index/items", json={"items": [{"id": "new", "text": "w1"}]}).status_code == 200


def test_a_full_disk_is_said_and_nothing_is_lost(client, store):
    before = sorted(ids(client))
    with disk_full():
        answer = client.post("/v1/index/items", json={"items": [{"id": "new", "text": "w1", "metadata": {"note": "x" * 9000}}]})
        assert answer.status_code == 503
        assert "no space left on the disk while writing the index; what it held before is whole" in answer.json()["error"]["message"]
        assert sorted(ids(client)) == before
    assert client.post("/v1/index/items", json={"items": [{"id": "new", "text": "w1", "metadata": {"note": "x" * 9000}}]}).json() == {
        "added": 1,
        "replaced": 0,
    }
    assert sorted(ids(client)) == sorted([*before, "new"])


def test_metadata_do_not_grow_the_index_beyond_use(serve, store):
    client = serve(store, limits=ServerLimits(fields=5))

    def put(**metadata):
        return client.post("/v1/index/items", json={"items": [{"id": "a", "text": "w1", "metadata": metadata}]})

    assert put(one=1, two=2).status_code == 200
    assert put(one=1, two=3).status_code == 200
    assert "at most 5 are kept" in refused(put(three=1))[1]
    for wrong in (dict.fromkeys(map(str, range(65)), 1), {"n" * 121: 1}, {"": 1}, {"one": "x" * (1 << 17)}):
        assert "metadata" in refused(put(**wrong))[1]
    assert set(store.fields) == {"id", "text", "place", "one", "two"}


def test_an_item_with_the_same_id_is_replaced_and_one_that_is_deleted_is_gone(client, store):
    before = store.get("a/1").vector
    said = client.post("/v1/index/items", json={"items": [{**ITEMS[0], "text": "other words"}, {"id": "new", "text": "w9"}]})
    assert said.json() == {"added": 1, "replaced": 1}
    assert np.abs(store.get("a/1").vector - before).max() > 1e-3
    assert client.delete("/v1/index/items/a%2F1").json() == {"deleted": "a/1"}
    assert refused(client.delete("/v1/index/items/a%2F1"))[0] == 404
    assert client.get("/v1/index").json()["count"] == 3


def test_a_bad_item_adds_none(client):
    good = {"id": "good", "text": "w1"}
    bad = [
        {"id": "b"},
        {"text": "w"},
        {"id": "", "text": "w"},
        {"id": "b", "text": " "},
        {"id": "b", "text": "w", "parts": []},
        {"id": "b", "image": "cat.png"},
        {"id": "b", "text": "w", "metadata": {"shelf": [1]}},
        {"id": "good", "text": "twice"},
    ]
    for one in bad:
        assert refused(client.post("/v1/index/items", json={"items": [good, one]}))[0] == 400
    assert client.get("/v1/index").json()["count"] == 3
    assert refused(client.post("/v1/index/items", json={"items": []}))[0] == 400


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({"text": "w", "top_k": 0}, "top_k"),
        ({"text": "w", "top_k": 10**6}, "at most"),
        ({"id": "a/1", "text": "w"}, "without 'text'"),
        ({"id": "other"}, "no item 'other'"),
        ({"image": "/etc/passwd"}, "nothing is fetched"),
        ({"hybrid": True}, "give some"),
        ({"hybrid": True, "text": "w1 " * 3000}, "which has 9,000 characters; 8,192 are taken"),
        ({"words": "w"}, "unknown key 'words'"),
    ],
)
def test_a_wrong_question_is_told_what_is_wrong(client, body, said):
    assert said in refused(client.post("/v1/search", json=body))[1]


def test_a_server_that_only_reads_changes_nothing(serve, store):
    client = serve(store, read_only=True)
    assert refused(client.post("/v1/index/items", json={"items": ITEMS}))[0] == 403
    assert refused(client.delete("/v1/index/items/a%2F1"))[0] == 403
    assert client.get("/v1/index").json()["count"] == 0


def test_without_an_index_it_says_how_to_have_one(serve):
    client = serve()
    for answer in (
        client.get("/v1/index"),
        client.post("/v1/search", json={"text": "w"}),
        client.post("/v1/index/items", json={"items": ITEMS}),
    ):
        assert refused(answer)[0] == 404
        assert "--index PATH" in refused(answer)[1]


def test_an_index_that_fails_is_the_servers_trouble_and_no_folder_is_named(serve, store, monkeypatch, tmp_path):
    from twoway.errors import TwowayError

    monkeypatch.setattr(type(store), "search", lambda self, *_, **__: (_ for _ in ()).throw(TwowayError(f"{self.location} is locked")))
    answer = serve(store).post("/v1/search", json={"text": "w"})
    assert answer.status_code == 503
    assert answer.json()["error"]["message"] == "the index is locked"


def test_items_at_a_time_are_bounded(serve, store):
    assert "at most 1" in refused(serve(store, limits=ServerLimits(added=1)).post("/v1/index/items", json={"items": ITEMS}))[1]


@pytest.fixture
def pages(engine, serve, tmp_path):
    """Return a client of an index of a PDF's two pages, the file, and the ids of its pages."""
    store, file = make_pages(tmp_path, engine)
    return serve(store, ServerLimits(pages=2)), file, [f"{file} page {number}" for number in (1, 2)]


@pytest.fixture
def clips(engine, serve, tmp_path):
    """Return a server's client for an index of a video in two segments and a sound, the video, and the index."""
    store = make_clips(tmp_path, engine)
    return serve(store, ServerLimits(pages=2)), tmp_path / "clips" / "a.mp4", store


def test_a_video_and_a_sound_are_played_from_their_second_by_ranges(clips, tmp_path):
    client, file, store = clips
    data = file.read_bytes()
    items = {name: client.get(f"/v1/index/items/{quote(name, safe='')}").json()["media"] for name in (f"{file}@0", f"{file}@2", "tone")}
    assert [(one["kind"], one["start"], one["end"]) for one in items.values()] == [("video", 0, 2), ("video", 2, 4), ("audio", 1, 2)]
    whole = client.get(items[f"{file}@2"]["url"])
    assert (whole.status_code, whole.content, whole.headers["accept-ranges"]) == (200, data, "bytes")
    assert (whole.headers["content-type"], whole.headers["X-Content-Type-Options"]) == ("video/mp4", "nosniff")
    part = client.get(items[f"{file}@2"]["url"], headers={"Range": "bytes=10-19"})
    assert (part.status_code, part.content, part.headers["content-range"]) == (206, data[10:20], f"bytes 10-19/{len(data)}")
    past = client.get(items[f"{file}@2"]["url"], headers={"Range": f"bytes={len(data)}-"})
    assert (past.status_code, past.headers["content-range"]) == (416, f"bytes */{len(data)}")
    heard = client.get(items["tone"]["url"])
    assert (heard.content, heard.headers["content-type"].partition("/")[0]) == ((tmp_path / "tone.wav").read_bytes(), "audio")
    assert code(client.post("/v1/why", json={"id": "tone", "text": "w"})) == (400, "no_picture")
    why = client.post("/v1/why", json={"id": f"{file}@2", "text": "w"}).json()
    assert [one["start"] for one in why["moments"]] == pytest.approx([2, 2.5, 3.1, 3.7], abs=0.1)
    assert sum(one["pull"] for one in why["moments"]) + why["rest"] == pytest.approx(why["score"], abs=1e-5)
    assert all(one["frame"].startswith("data:image/webp;base64,") and one["grid"] for one in why["moments"])
    assert store.get("tone").media.endswith("tone.wav#t=1.000,2.000")
    query = {"video": f"data:video/mp4;base64,{base64.b64encode(data).decode()}", "top_k": 1}
    assert [hit["media"]["kind"] for hit in client.post("/v1/search", json=query).json()["hits"]] == ["video"]
    assert "audio" not in client.get("/v1/index").json()["takes"]
    assert (
        "takes no audios"
        in refused(client.post("/v1/search", json={"audio": f"data:;base64,{base64.b64encode(heard.content).decode()}"}))[1]
    )


def test_no_file_is_played_but_those_that_the_index_has_read_as_they_were(clips, tmp_path):
    client, file, _ = clips
    name = quote(f"{file}@2", safe="")
    added = {"id": "mine", "text": "w1", "metadata": {"media": str(file), "file": str(file), "image": str(file)}}
    assert client.post("/v1/index/items", json={"items": [added]}).status_code == 200
    assert "media" not in client.get("/v1/index/items/mine").json()
    assert code(client.get("/v1/index/items/mine/media")) == (404, "no_media")
    before = file.read_bytes()
    other = clip(tmp_path / "other.mp4", frames=200, rate=50).read_bytes()
    for data, wanted in ((b"root:x:0:0:root:/root:/bin/sh", "bad_media"), (other, "changed")):
        file.write_bytes(data)
        answer = client.get(f"/v1/index/items/{name}/media")
        assert code(answer) == (409, wanted)
        assert str(file.parent) not in answer.text
        why = client.post("/v1/why", json={"id": f"{file}@2", "text": "w"}).json()
        assert why["grid"]
        assert why["note"].endswith("this is of its small picture alone")
    file.write_bytes(before)
    assert client.get(f"/v1/index/items/{name}/media").status_code == 200
    file.write_bytes(b"another file, after it was played")
    assert code(client.get(f"/v1/index/items/{name}/media")) == (409, "bad_media")
    file.unlink()
    assert code(client.get(f"/v1/index/items/{name}/media")) == (404, "no_file")
    os.mkfifo(file)
    assert code(client.get(f"/v1/index/items/{name}/media")) == (404, "no_file")


def page_of(client, name):
    return client.get(f"/v1/index/items/{quote(name, safe='')}/page")


def code(answer):
    return answer.status_code, answer.json()["error"]["code"]


def test_a_page_of_a_pdf_is_rendered_at_reading_size_for_its_item_alone(pages):
    client, file, names = pages
    found = client.get(f"/v1/index/items/{quote(names[0], safe='')}").json()
    answer = client.get(found["page"])
    assert (answer.status_code, answer.headers["content-type"]) == (200, "image/jpeg")
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    with PILImage.open(io.BytesIO(answer.content)) as shown:
        assert shown.size == (1190, 1684)
        assert shown.convert("L").getextrema()[0] < 100, "the text is drawn"
    assert page_of(client, names[1]).status_code == 200
    assert code(page_of(client, f"{file} page 3")) == (404, "no_such_item")
    assert code(page_of(client, "/etc/passwd")) == (404, "no_such_item")


def test_a_file_that_moved_or_changed_is_not_shown(pages):
    client, file, names = pages
    before = file.read_bytes()
    for data, refused in (
        (pdf(("Another text", 595, 842), ("", 595, 842)), [(409, "changed"), 200]),
        (pdf((PAGE_TEXT.strip(), 595, 842), ("", 595, 842), ("", 595, 842)), [(409, "changed")] * 2),  # a page more
        (b"%PDF-1.4 torn", [(409, "bad_page")] * 2),
    ):
        file.write_bytes(data)
        answers = [page_of(client, name) for name in names]
        assert [200 if answer.status_code == 200 else code(answer) for answer in answers] == refused
        assert str(file.parent) not in "".join(answer.text for answer in answers if answer.status_code != 200)
    black = io.BytesIO()
    PILImage.new("RGB", (595, 842), "grey").save(black, "PDF", save_all=True, append_images=[PILImage.new("RGB", (595, 842), "grey")])
    file.write_bytes(black.getvalue())
    assert code(page_of(client, names[1])) == (409, "changed"), "no text either way, and another picture"
    file.unlink()
    assert code(page_of(client, names[0])) == (404, "no_file")
    os.mkfifo(file)
    assert code(page_of(client, names[0])) == (404, "no_file")
    file.unlink()
    file.write_bytes(before)
    assert page_of(client, names[0]).status_code == 200


def test_an_item_that_was_added_over_http_opens_no_file_whatever_it_says(pages, tmp_path):
    client, file, _ = pages
    secret = tmp_path / "secret.pdf"
    secret.write_bytes(pdf(("secret", 595, 842)))
    for number, (name, metadata) in enumerate(
        [
            (f"{secret} page 1", {"file": str(secret), "page": 1, "pages": 1}),
            ("place", {"file": str(secret), "page": 1, "place": f"{secret} page 1"}),
            ("known", {"file": str(file), "page": 1, "pages": 2}),
            ("zero", {"file": str(secret), "page": 0}),
        ]
    ):
        said = client.post("/v1/index/items", json={"items": [{"id": name, "text": "secret", "metadata": metadata}]})
        assert said.status_code == 200, (number, said.text)
        assert client.get(f"/v1/index/items/{quote(name, safe='')}").json()["page"] is None
        assert code(page_of(client, name)) == (404, "no_page")
    assert client.post("/v1/index/items", json={"items": [{"id": "x", "text": "y", "place": f"{secret} page 1"}]}).status_code == 400
    # One that takes an indexed page's place is no page any more.
    name = f"{file} page 1"
    item = {"id": name, "text": "y", "metadata": {"file": str(secret), "page": 1}}
    assert client.post("/v1/index/items", json={"items": [item]}).json() == {"added": 0, "replaced": 1}
    assert code(page_of(client, name)) == (404, "no_page")


def test_rendering_is_bounded_in_pixels_in_time_and_in_how_many_wait(pages, serve, monkeypatch):
    client, file, names = pages
    client = serve(client.app.state.service.store, ServerLimits(pages=2, page_pixels=50_000, page_seconds=1))
    with PILImage.open(io.BytesIO(page_of(client, names[0]).content)) as shown:
        assert shown.width * shown.height <= 50_000
    file.write_bytes(endless_pdf(8, 10))  # a few lines that ask for a billion strokes
    answer = page_of(client, names[0])
    assert code(answer) == (409, "bad_page")
    begun, go = threading.Event(), threading.Event()

    def slow(*_):
        begun.set()
        assert go.wait(60)
        return b""

    monkeypatch.setattr(routes, "_render", slow)
    with ThreadPoolExecutor(3) as pool:
        two = [pool.submit(page_of, client, names[0]) for _ in range(2)]
        try:
            assert begun.wait(60)
            while client.app.state.service.pages._asked < 2:
                time.sleep(0.01)
            refused = page_of(client, names[1])
            assert code(refused) == (429, "queue_full")
            assert int(refused.headers["Retry-After"]) > 0
            assert client.get("/readyz").status_code == 200
            assert client.get("/v1/index").status_code == 200
        finally:
            go.set()
        assert [one.result().status_code for one in two] == [200, 200]
