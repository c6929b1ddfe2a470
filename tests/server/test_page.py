"""The page in a real Chromium: words, pictures and both, keys alone, narrow, dark; the index's text stays text, and nothing leaves home."""

from __future__ import annotations

import base64
import json
import re
import time
from contextlib import ExitStack
from importlib.resources import files
from urllib.parse import quote, urlsplit

import pytest
from playwright.sync_api import expect
from scripts.chromium import launched

from clips import clip
from page_server import COLOURS, HOSTILE, LONG_NAME, PAGE_TEXT, PICTURES, drawn, items, make_clips, make_pages, make_store, serving
from twoway.embedding import open_embedder
from twoway.embedding.reranker import open_reranker
from twoway.search.query import open_store
from twoway.server.app import create_app
from twoway.server.schemas import ServerLimits
from twoway.server.service import Access

pytestmark = pytest.mark.xdist_group("ranks")
KEY = "k" * 16
PATIENCE = 60_000  # milliseconds, for machines that are busy; nothing waits so long on one that is not
ACCEPTED = ["clipboard-read", "clipboard-write"]


@pytest.fixture(scope="module")
def sites(tiny_encoder, tiny_reranker, tiny_late, tmp_path_factory):
    """Return the addresses of servers of one model: a full index, an empty one, none, one behind a key; and of a model of many vectors."""
    engine = open_embedder(tiny_encoder("qwen2_vl"), device="cpu", workers=0)
    folder, content = tmp_path_factory.mktemp("db"), items(engine)
    full, empty = make_store(folder / "full", engine, content), make_store(folder / "empty", engine, [])
    late = open_embedder(tiny_late, device="cpu", workers=0, late_interaction=True)
    apps = {
        "full": create_app(engine, full),
        "empty": create_app(engine, empty),
        "none": create_app(engine),
        "small": create_app(engine, full, ServerLimits(body_bytes=10_000)),
        "marked": create_app(engine, full, name=HOSTILE),
        "reranked": create_app(engine, full, reranker=open_reranker(tiny_reranker, device="cpu")),
        "late": create_app(late, make_store(folder / "late", late, items(late)[:4])),
        "locked": create_app(engine, full, access=Access.of((KEY,))),
        "pages": create_app(engine, make_pages(folder, engine)[0]),
        "locked pages": create_app(engine, open_store(folder / "db"), access=Access.of((KEY,))),
        "clips": create_app(engine, make_clips(folder, engine)),
        "locked clips": create_app(engine, open_store(folder / "moments"), access=Access.of((KEY,))),
    }
    with ExitStack() as stack:
        yield {name: stack.enter_context(serving(app)) for name, app in apps.items()}


@pytest.fixture(scope="module")
def browser():
    expect.set_options(timeout=PATIENCE)
    with launched() as running:
        yield running


@pytest.fixture
def visit(browser, sites):
    """Open pages of the servers; whatever they did, no script failed and nothing was asked of another address."""
    faults, asked, contexts = [], [], []

    def visit(site="full", path="/", **options):
        context = browser.new_context(base_url=sites[site], **options)
        context.set_default_timeout(PATIENCE)
        contexts.append(context)
        page = context.new_page()
        page.on("pageerror", lambda error: faults.append(str(error)))
        page.on("console", lambda said: faults.append(said.text) if "Security Policy" in said.text else None)
        context.on("request", lambda request: asked.append(request.url))
        page.goto(path)
        return page

    yield visit
    for context in contexts:
        context.close()
    assert not faults
    homes = {urlsplit(address).netloc for address in sites.values()}
    assert {urlsplit(url).netloc for url in asked if not url.startswith(("data:", "blob:"))} <= homes


def cards(page):
    return page.locator("#results .card[data-id]")


def said(page):
    return page.get_by_role("status").first


def look_up(page, words="w4 w5"):
    """Search for words; return the answer to them, and not one that is still under way."""
    page.get_by_role("searchbox").fill(words)
    with page.expect_response(
        lambda one: one.url.endswith("/v1/search") and json.loads(one.request.post_data).get("text") == words
    ) as answer:
        page.get_by_role("button", name="Search", exact=True).click()
    expect(page.locator("#results")).not_to_have_attribute("aria-busy", "true")
    return answer.value


def hits(answer):
    return answer.json()["hits"]


def ids(page):
    return cards(page).evaluate_all("cards => cards.map((card) => card.dataset.id)")


def upload(name="a.png", number=5):
    return {"name": name, "mimeType": "image/png", "buffer": drawn(number)}


def test_words_give_pictures_and_text_with_scores_pages_and_files(visit):
    page = visit()
    expect(said(page)).to_have_text("A look into the index")
    found = hits(look_up(page))
    assert ids(page) == [hit["id"] for hit in found]
    assert page.locator(".score").all_inner_texts() == [f"{hit['score']:.3f}" for hit in found]
    assert page.locator("#results .place").all_inner_texts() == [hit["place"].split("/")[-1] or hit["id"] for hit in found]
    expect(said(page)).to_have_text(re.compile(r"^20 results in \d+ ms, the best first\.$"))
    first = cards(page).locator("img").first
    expect(first).not_to_have_js_property("naturalWidth", 0)
    page.get_by_role("button", name="Show more").click()
    expect(cards(page)).to_have_count(PICTURES + 2)
    expect(page.get_by_role("button", name="Show more")).to_be_hidden()
    assert "q=w4+w5" in page.url
    page.go_back()
    expect(said(page)).to_have_text("A look into the index")
    expect(page.get_by_role("searchbox")).to_have_value("")


def test_the_page_offers_no_more_than_the_server_gives():
    said = re.search(r"const PAGE = (\d+);\nconst MOST = (\d+);", (files("twoway.server") / "page/app.js").read_text())
    page, most = map(int, said.groups())
    assert most == ServerLimits().found
    assert most % page == 0


def test_a_reranker_puts_the_first_into_its_order_and_the_order_before_is_shown(visit):
    page = visit("reranked")
    plain = [hit["id"] for hit in hits(look_up(visit()))]
    found = hits(look_up(page))
    assert ids(page) == [hit["id"] for hit in found] != plain
    assert [plain[hit["place_before"] - 1] for hit in found] == ids(page)
    assert page.locator(".was").all_inner_texts() == [f"was {hit['place_before']}" for hit in found]
    assert page.locator(".score").all_inner_texts() == [f"{hit['relevance']:.3f}" for hit in found]
    with page.expect_response("**/v1/search"):
        page.get_by_label("rerank the first 20").uncheck()
    expect(page.locator("#results")).not_to_have_attribute("aria-busy", "true")
    expect(page.locator(".was")).to_have_count(0)
    assert ids(page) == plain


def test_a_picture_that_is_picked_finds_itself_and_may_stand_beside_words(visit):
    page = visit()
    page.locator("#file").set_input_files(upload())
    expect(page.locator(".score").first).to_have_text("1.000")
    assert ids(page)[0] == "plan/5"
    expect(page.locator("#given")).to_contain_text("a.png")
    sent = json.loads(look_up(page, "w9").request.post_data)
    assert sent["text"] == "w9"
    assert base64.b64decode(sent["image"].partition(",")[2]) == drawn(5)
    with page.expect_response("**/v1/search"):
        page.get_by_role("button", name="Take out: a.png").click()
    expect(page.locator("#given")).to_be_hidden()
    expect(page.locator("#results")).not_to_have_attribute("aria-busy", "true")
    page.locator("#file").set_input_files({"name": "a.txt", "mimeType": "text/plain", "buffer": b"words"})
    expect(said(page)).to_have_text("a.txt is no picture or video, and this model takes no other files.")


def test_what_is_given_before_the_index_has_answered_is_kept(visit):
    page = visit()
    held = []
    page.route("**/v1/index", lambda route: held.append(route))
    page.reload()
    page.locator("#file").set_input_files(upload())
    expect(page.locator(".score").first).to_have_text("1.000")
    held.pop().continue_()
    expect(page.locator("#about")).to_contain_text("items")
    expect(page.locator("#given")).to_contain_text("a.png")
    assert ids(page)[0] == "plan/5"


def test_a_broken_picture_is_answered_in_the_servers_words(visit):
    page = visit()
    with page.expect_response("**/v1/search") as answer:
        page.locator("#file").set_input_files({"name": "a.png", "mimeType": "image/png", "buffer": b"no picture at all"})
        page.wait_for_selector("#trouble p")
    expect(page.get_by_role("alert")).to_contain_text(re.compile("picture is broken or in an unknown format"))
    assert answer.value.status in (200, 400)
    expect(cards(page)).to_have_count(0)


def test_a_picture_is_pasted(visit):
    page = visit(permissions=ACCEPTED)
    page.evaluate(
        """(data) => navigator.clipboard.write([new ClipboardItem({
            "image/png": new Blob([Uint8Array.from(atob(data), (sign) => sign.charCodeAt(0))], { type: "image/png" }),
        })])""",
        base64.b64encode(drawn(7)).decode(),
    )
    page.get_by_role("searchbox").focus()
    page.keyboard.press("Control+V")
    expect(page.locator(".score").first).to_have_text("1.000")
    assert ids(page)[0] == "plan/7"


def test_a_picture_is_dropped_and_an_address_is_not_opened(visit):
    page = visit()
    carried = page.evaluate_handle(
        """(data) => {
            const carried = new DataTransfer();
            carried.items.add(new File([Uint8Array.from(atob(data), (sign) => sign.charCodeAt(0))], "dropped.png", { type: "image/png" }));
            return carried;
        }""",
        base64.b64encode(drawn(9)).decode(),
    )
    page.dispatch_event("main", "dragenter", {"dataTransfer": carried})
    expect(page.locator("#drop")).to_be_visible()
    page.dispatch_event("main", "drop", {"dataTransfer": carried})
    expect(page.locator("#drop")).to_be_hidden()
    expect(page.locator(".score").first).to_have_text("1.000")
    assert ids(page)[0] == "plan/9"
    address = page.evaluate_handle(
        "() => { const carried = new DataTransfer(); carried.setData('text/uri-list', 'https://example.org/a.png'); return carried; }"
    )
    page.dispatch_event("main", "drop", {"dataTransfer": address})
    expect(said(page)).to_contain_text("addresses are not opened")


def test_more_like_this_asks_with_the_item(visit):
    page = visit()
    look_up(page)
    name = ids(page)[1]
    with page.expect_response("**/v1/search") as answer:
        cards(page).nth(1).get_by_role("button", name=re.compile("^More like")).click()
    assert json.loads(answer.value.request.post_data)["id"] == name
    expect(page.locator("#given")).to_contain_text(f"like {name}")
    expect(page.locator(f'.card[data-id="{name}"]')).to_have_count(0)
    expect(page.get_by_role("searchbox")).to_have_value("")
    page.get_by_role("searchbox").fill("w")
    expect(page.locator("#given")).to_be_hidden()


def test_why_draws_what_pulls_over_the_picture(visit):
    page = visit()
    look_up(page)
    place = next(number for number, name in enumerate(ids(page)) if name.startswith("plan/"))
    with page.expect_response("**/v1/why") as answer:
        cards(page).nth(place).get_by_role("button", name=re.compile("^Why")).click()
    found = answer.value.json()
    canvas = page.locator("#detail canvas")
    expect(canvas).to_be_visible()
    apart = """() => {
        const [drawn, picture] = ["#detail canvas", "#detail img"].map((name) => document.querySelector(name).getBoundingClientRect());
        return Math.max(...["x", "y", "width", "height"].map((side) => Math.abs(drawn[side] - picture[side])));
    }"""
    until = time.monotonic() + 10
    while page.evaluate(apart) >= 1.5:  # the words beside it may still be on their way, and move both
        assert time.monotonic() < until
        page.wait_for_timeout(50)
    grid = found["grid"]
    opacity = canvas.evaluate(
        """(canvas, [rows, columns]) => {
            const middle = (place, count, length) => Math.floor(((place + 0.5) * length) / count);
            const at = (x, y) => canvas.getContext("2d").getImageData(x, y, 1, 1).data[3] / 255;
            return Array.from({ length: rows }, (_, row) => Array.from({ length: columns },
                (_, column) => at(middle(column, columns, canvas.width), middle(row, rows, canvas.height))));
        }""",
        [len(grid), len(grid[0])],
    )
    assert all(
        abs(is_ - 0.78 * shade) < 0.02 for row, shades in zip(opacity, grid, strict=True) for is_, shade in zip(row, shades, strict=True)
    )
    expect(canvas).to_have_attribute(
        "aria-label", re.compile(rf"{len(grid)} by {len(grid[0])} patches. The strongest is in row \d+, column \d+")
    )
    expect(page.locator("#why-said")).to_contain_text(f"This small picture alone scores {found['score']:.3f}")
    page.get_by_role("button", name="Why this matched").click()
    expect(canvas).to_have_count(0)


def test_each_word_shows_where_it_looks(visit):
    page = visit("late")
    look_up(page, "navy thing")
    with page.expect_response("**/v1/why") as answer:
        cards(page).first.get_by_role("button", name=re.compile("^Why")).click()
    navy, thing = answer.value.json()["words"]
    words, canvas = page.locator("#why-said .words button"), page.locator("#detail canvas")
    expect(words).to_have_text([f"{one['word']} {one['score']:.3f}" for one in (navy, thing)])
    for place, one in enumerate((navy, thing)):
        words.nth(place).click()
        expect(words.nth(place)).to_have_attribute("aria-pressed", "true")
        expect(words.nth(1 - place)).to_have_attribute("aria-pressed", "false")
        row = next(number for number, row in enumerate(one["grid"], 1) if 1 in row)
        expect(canvas).to_have_attribute("aria-label", re.compile(f"in row {row}, column {one['grid'][row - 1].index(1) + 1}"))


@pytest.mark.parametrize("site", ["pages", "locked pages"])
def test_a_page_of_a_pdf_can_be_read(visit, site):
    page = visit(site)
    if site.startswith("locked"):
        page.get_by_label("API key").fill(KEY)
        page.get_by_role("button", name="Use this key").click()
    look_up(page, "w4 w5")
    card = page.locator("#results .card[data-id$='page 1']")
    expect(card.locator(".title")).to_have_text("report.pdf, page 1")
    expect(card.locator(".snippet")).to_contain_text(PAGE_TEXT[:40])
    with page.expect_response("**/page"):
        card.locator(".mat").click()
    image = page.locator("#detail img")
    # the small picture stands there until the page comes
    expect(image).to_have_js_property("naturalWidth", 1190)
    expect(image).to_have_js_property("naturalHeight", 1684)
    link = page.get_by_role("link", name="Open the page")
    expect(link).to_have_attribute("href", re.compile("/page$" if site == "pages" else "^blob:"))
    expect(page.locator("#detail h2")).to_have_text("report.pdf, page 1")
    with page.expect_response("**/v1/why") as answer:
        page.get_by_role("button", name="Why this matched").click()
    share = answer.value.json()["share"]
    lead = page.locator("#why-said .lead")
    expect(lead).to_contain_text("Its text and its picture match" if share is None else f"{round(100 * share)}% of the match")
    faded = float(page.locator("#detail canvas").evaluate("canvas => canvas.style.opacity"))
    assert faded == pytest.approx(max(0.15, 1 if share is None else share), abs=0.01)


def test_a_page_whose_file_moved_leaves_its_small_picture_and_says_so(visit):
    page = visit("pages")
    page.route("**/page", lambda route: route.fulfill(status=404, json={"error": {"message": "its file is not where it was"}}))
    page.locator("#results .card[data-id$='page 1'] .mat").click()
    expect(page.locator("#detail .lost")).to_contain_text("its file has moved or changed")
    expect(page.locator("#detail img")).to_have_js_property("naturalHeight", 320)


@pytest.mark.parametrize("site", ["clips", "locked clips"])
def test_a_hit_plays_at_its_second(visit, site):
    page = visit(site, "/?filter=start%20%3D%202")
    if site.startswith("locked"):
        page.get_by_label("API key").fill(KEY)
        page.get_by_role("button", name="Use this key").click()
    expect(page.locator(".card .time")).to_have_text("▶ 0:02")
    with page.expect_response(lambda answer: "/media" in answer.url) as answer:
        cards(page).first.locator(".mat").click()
    assert answer.value.status == 206
    player = page.locator("#detail video")
    page.wait_for_function("() => document.querySelector('#detail video').readyState > 1")
    assert player.evaluate("player => [player.currentTime, player.duration]") == pytest.approx([2, 4], abs=0.05)
    player.evaluate("player => player.play()")
    page.wait_for_function("() => document.querySelector('#detail video').currentTime > 2.2")
    page.keyboard.press("Escape")
    page.wait_for_function(
        "() => document.querySelector('#detail video').paused", timeout=1000
    )  # browsers say a little later that it is closed
    assert not player.evaluate("player => player.ended")


def test_a_video_is_dropped_and_asked_why_and_a_sound_is_heard(visit, tmp_path):
    page = visit("clips")
    expect(cards(page)).to_have_count(3)
    dropped = {"name": "half.mp4", "mimeType": "video/mp4", "buffer": clip(tmp_path / "a.mp4", frames=9).read_bytes()}
    with page.expect_response("**/v1/search") as answer:
        page.locator("#file").set_input_files(dropped)
    assert json.loads(answer.value.request.post_data)["video"].startswith("data:video/mp4;base64,")
    assert hits(answer.value)[0]["media"]["kind"] == "video"
    with page.expect_response("**/v1/why") as answer:
        cards(page).first.get_by_role("button", name=re.compile("^Why")).click()
    moments = answer.value.json()["moments"]
    steps = page.locator("#why-said .moments li")
    expect(steps).to_have_count(len(moments))
    expect(steps.first.locator("canvas")).to_be_visible()
    player = page.locator("#detail video")
    expect(player).to_be_visible()
    page.wait_for_function("() => document.querySelector('#detail video').readyState > 1")
    steps.last.get_by_role("button").click()
    page.wait_for_function("start => document.querySelector('#detail video').currentTime >= start", arg=moments[-1]["start"])
    page.get_by_role("button", name="Why this matched").click()
    expect(steps).to_have_count(0)
    page.keyboard.press("Escape")
    sound = page.locator("#results .card[data-id='tone']")
    expect(sound.get_by_role("button", name=re.compile("^Why"))).to_have_count(0)
    sound.locator(".mat").click()
    page.wait_for_function("() => document.querySelector('#detail audio').readyState > 1")
    assert page.locator("#detail audio").evaluate("player => [player.currentTime, player.duration]") == pytest.approx([1, 2], abs=0.05)
    expect(page.locator(".options .hint")).to_have_text("Drop or paste a picture or video anywhere.")
    page.locator("#file").set_input_files({"name": "a.wav", "mimeType": "audio/wav", "buffer": b"RIFF"})
    expect(said(page)).to_contain_text("a.wav is no picture or video")


LISTENS = """() => {
    navigator.mediaDevices.getUserMedia = async () => ({ getTracks: () => [{ stop: () => (window.stopped = true) }] });
    window.MediaRecorder = class extends EventTarget {
        mimeType = "audio/webm;codecs=opus";
        state = "inactive";
        start() { this.state = "recording"; this.say(new Blob(["so"])); }
        stop() { this.state = "inactive"; this.say(new Blob(["und"])); this.dispatchEvent(new Event("stop")); }
        say(data) { this.dispatchEvent(Object.assign(new Event("dataavailable"), { data })); }
    };
}"""

ASKS_FIRST = """() => {
    window.asked = 0;
    window.listen = navigator.mediaDevices.getUserMedia;
    navigator.mediaDevices.getUserMedia = async () => {
        window.asked++;
        await new Promise((resolve) => (window.grant = resolve));
        return window.listen();
    };
}"""


def test_a_sound_is_recorded_where_the_model_hears(visit):
    page = visit("clips")
    record = page.get_by_role("button", name="Record a sound")
    expect(record).to_be_hidden()
    known = page.request.get("/v1/index").json()
    bounds = {"sound_seconds": 300, "body_bytes": 1000}
    page.route("**/v1/index", lambda route: route.fulfill(json={**known, "takes": ["audio", "text"], "limits": bounds}))
    page.add_init_script(f"({LISTENS})()")
    page.reload()
    expect(said(page)).to_have_text("A look into the index")  # else it may come after what recording says
    record.click()
    expect(record).to_have_attribute("aria-pressed", "true")
    expect(said(page)).to_contain_text("Recording")
    page.route("**/v1/search", lambda route: route.fulfill(json={"hits": [], "took_ms": 1}))
    with page.expect_request("**/v1/search") as asked:
        record.click()
    sound = base64.b64encode(b"sound").decode()
    assert json.loads(asked.value.post_data)["audio"] == f"data:audio/webm;codecs=opus;base64,{sound}"
    assert page.evaluate("window.stopped"), "the microphone is let go"
    expect(page.locator("#given")).to_contain_text("recorded 0:0")
    page.evaluate(ASKS_FIRST)
    record.click()
    record.click()
    page.evaluate("window.grant()")
    expect(record).to_have_attribute("aria-pressed", "true")
    assert page.evaluate("window.asked") == 1, "pressed while the browser asks, it begins no second recording"
    with page.expect_request("**/v1/search"):
        record.click()
    expect(record).to_have_attribute("aria-pressed", "false")
    page.evaluate("navigator.mediaDevices.getUserMedia = window.listen")
    page.evaluate(
        "() => { MediaRecorder.prototype.start = function () { this.state = 'recording'; this.say(new Blob(['x'.repeat(800)])); } }"
    )
    with page.expect_request("**/v1/search") as asked:
        record.click()
    assert len(json.loads(asked.value.post_data)["audio"]) < 1200, "a recording ends before it is larger than the server takes"


def test_filters_are_put_together_from_the_fields_of_the_index(visit):
    page = visit()
    look_up(page)
    page.get_by_role("button", name="Filter", exact=True).click()
    page.get_by_label("Field").select_option("colour")
    page.get_by_label("Value").fill(COLOURS[1])
    page.keyboard.press("Enter")
    expect(cards(page)).to_have_count(PICTURES // len(COLOURS))
    page.get_by_label("Field").select_option("year")
    page.get_by_label("Condition").select_option(">=")
    page.get_by_label("Value").fill("2013")
    page.get_by_role("button", name="Add", exact=True).click()
    expect(cards(page)).to_have_count(2)
    assert sorted(ids(page)) == ["plan/13", "plan/19"]
    page.reload()
    expect(cards(page)).to_have_count(2)
    page.get_by_role("button", name=re.compile("^Remove the filter")).click()
    expect(cards(page)).to_have_count(20)
    page.get_by_role("button", name="Filter", exact=True).click()
    page.get_by_label("Field").select_option("id")
    page.get_by_label("Condition").select_option("has")
    page.get_by_label("Value").fill("plan_1")  # as it stands: no sign of it means another
    page.keyboard.press("Enter")
    expect(said(page)).to_have_text("Nothing in the index passes these filters.")
    page.get_by_role("button", name="Remove the filter id has 'plan_1'").click()
    page.get_by_label("Value").fill("plan/13")
    page.keyboard.press("Enter")
    expect(cards(page)).to_have_count(1)


def test_a_filter_with_a_typing_error_gets_the_servers_words_and_no_button_that_would_not_help(visit):
    page = visit(path="/?filter=colr%20%3D%20%27red%27&q=w")
    expect(page.get_by_role("alert")).to_contain_text("the index has no field 'colr'; did you mean colour?")
    expect(page.get_by_role("button", name="Try again")).to_have_count(0)
    expect(cards(page)).to_have_count(0)


def test_nothing_found_is_said(visit):
    page = visit(path="/?filter=year%20%3C%201900&q=w")
    expect(said(page)).to_have_text("Nothing in the index passes these filters.")


def test_text_of_the_index_is_never_markup(visit):
    page = visit(path="/?filter=place%20like%20%27%3C%25%27&q=w")
    expect(cards(page)).to_have_count(1)
    card = cards(page).first
    expect(card).to_have_attribute("data-id", HOSTILE)
    expect(card.locator(".title")).to_have_text(HOSTILE)
    card.locator(".mat").click()
    expect(page.locator("#detail h2")).to_have_text(HOSTILE)
    page.locator("#detail").get_by_role("button", name="More like this").click()
    expect(page.locator("#given")).to_contain_text(HOSTILE)
    assert page.evaluate("typeof owned") == "undefined"
    assert page.locator("#results script, #results svg, #detail script, #detail svg, img[src='x'], .chip img").count() == 0


def test_names_and_addresses_with_markup_are_text_too(visit):
    """The name of the model, words and filters of an address, and what an error repeats of them."""
    marked = quote(HOSTILE, safe="")
    page = visit("marked", path=f"/?q={marked}")
    expect(cards(page).first).to_be_visible()
    assert "<svg onload=owned=1>" in page.locator("#about span").get_attribute("title")
    has = "text has '" + HOSTILE.replace("'", "''") + "'"
    page = visit("marked", path=f"/?q=w&filter={quote(has, safe='')}")
    expect(cards(page)).to_have_count(1)
    wrong = visit("marked", path=f"/?q=w&filter={marked}")
    expect(wrong.locator("#trouble")).to_contain_text("<img src=x onerror")
    field = visit("marked", path=f"/?q=w&filter=%60{marked}%60%3D1")
    expect(field.locator("#trouble")).to_contain_text("the index has no field")
    for one in (page, wrong, field):
        assert one.evaluate("typeof owned") == "undefined"
        assert one.locator("main script, main svg[onload], header script, img[src='x'], .chip img").count() == 0


def test_keys_alone_are_enough(visit):
    page = visit()
    expect(page.get_by_role("searchbox")).to_be_focused()
    page.keyboard.type("w4 w5")
    page.keyboard.press("Enter")
    expect(said(page)).to_contain_text("20 results")
    for _ in range(20):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.classList.contains('mat')"):
            break

    def focused():
        return page.evaluate("[...document.querySelectorAll('.card')].indexOf(document.activeElement.closest('.card'))")

    def press(*keys):
        for key in keys:
            page.keyboard.press(key)
        return focused()

    assert focused() == 0
    columns = cards(page).evaluate_all("cards => cards.filter((card) => card.offsetTop === cards[0].offsetTop).length")
    assert columns > 1
    assert [press("ArrowRight"), press("ArrowDown"), press("ArrowLeft"), press("ArrowUp")] == [1, 1 + columns, columns, 0]
    assert [press("ArrowUp"), press("End"), press("Home")] == [0, 19, 0]
    assert [press("Tab"), press("Shift+Tab")] == [0, 0]
    press("Enter")
    expect(page.get_by_role("dialog")).to_be_visible()
    expect(page.locator("#detail dd").first).to_have_text(page.locator(".score").first.inner_text())
    press("ArrowRight", "ArrowRight", "ArrowLeft")
    expect(page.locator("#detail dd").first).to_have_text(page.locator(".score").nth(1).inner_text())
    page.keyboard.press("Escape")
    expect(page.get_by_role("dialog")).to_be_hidden()
    expect(cards(page).nth(1).locator(".mat")).to_be_focused()


def test_the_focus_goes_to_what_took_the_place_of_what_had_it(visit):
    page = visit()
    look_up(page)
    page.get_by_role("button", name="Show more").focus()
    page.keyboard.press("Enter")
    expect(cards(page)).to_have_count(PICTURES + 2)
    expect(cards(page).nth(20).locator(".mat")).to_be_focused()
    cards(page).nth(20).get_by_role("button", name=re.compile("^More like")).focus()
    page.keyboard.press("Enter")
    expect(page.locator("#given")).to_contain_text("like ")
    expect(cards(page).first.locator(".mat")).to_be_focused()
    assert page.title().startswith("like ")
    page.keyboard.press("Enter")
    page.get_by_role("dialog").get_by_role("button", name="More like this").press("Enter")
    expect(page.get_by_role("dialog")).to_be_hidden()
    expect(page.locator("#results")).not_to_have_attribute("aria-busy", "true")
    expect(cards(page).first.locator(".mat")).to_be_focused()
    page.route("**/v1/search", lambda route: route.abort())
    cards(page).first.get_by_role("button", name=re.compile("^More like")).press("Enter")
    expect(page.get_by_role("button", name="Try again")).to_be_focused()
    page.unroute("**/v1/search")
    page.keyboard.press("Enter")
    expect(cards(page).first.locator(".mat")).to_be_focused()


def test_the_browsers_own_keys_stay_the_browsers(visit):
    page = visit()
    look_up(page)
    taken = page.evaluate(
        """() => {
            const presses = [];
            const press = (where, key) => {
                const event = new KeyboardEvent("keydown", { key, altKey: true, bubbles: true, cancelable: true });
                presses.push(!where.dispatchEvent(event));
            };
            const mats = document.querySelectorAll(".card .mat");
            mats[1].focus();
            press(mats[1], "ArrowLeft");
            mats[1].click();
            const before = document.getElementById("detail-title").textContent;
            press(document.getElementById("detail-title"), "ArrowRight");
            presses.push(document.getElementById("detail-title").textContent !== before);
            return presses;
        }"""
    )
    assert taken == [False, False, False]


def test_a_long_name_of_a_field_fits_and_an_odd_one_is_a_field(visit):
    page = visit(path="/?filter=id%20%3D%20%27text%27", viewport={"width": 320, "height": 640})
    expect(cards(page)).to_have_count(1)
    page.get_by_role("button", name="Filter", exact=True).click()
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    page.get_by_label("Field").select_option("constructor")
    assert page.locator("#filter-values option").evaluate_all("all => all.map((one) => one.value)") == ["me"]
    cards(page).first.locator(".mat").click()
    expect(page.locator("#detail dt").filter(has_text=LONG_NAME)).to_be_visible()
    assert page.evaluate("document.getElementById('detail').scrollWidth <= document.getElementById('detail').clientWidth")
    page = visit()
    look_up(page)
    page.get_by_role("button", name="Filter", exact=True).click()
    page.get_by_label("Field").select_option("constructor")
    options = page.locator("#filter-values option").evaluate_all("all => all.map((one) => one.value)")
    assert set(options) <= {"me"}


def test_a_picture_that_is_too_large_is_answered_in_the_servers_words(visit):
    page = visit("small")
    expect(cards(page)).to_have_count(20)
    page.locator("#file").set_input_files({"name": "a.png", "mimeType": "image/png", "buffer": b"x" * (6 << 20)})
    expect(page.get_by_role("alert")).to_contain_text("the body has more than")


def test_everything_that_can_be_used_has_a_name(visit):
    page = visit()
    look_up(page)
    page.get_by_role("button", name="Filter", exact=True).click()
    cards(page).first.locator(".mat").click()
    nameless = page.evaluate(
        """() => [...document.querySelectorAll("button, input, select, a, dialog, img")].filter((one) => {
            const named = one.getAttribute("aria-label") || one.labels?.length || one.textContent.trim();
            const titled = document.getElementById(one.getAttribute("aria-labelledby"));
            return !(named || titled || (one.tagName === "IMG" && one.hasAttribute("alt")));
        }).map((one) => one.outerHTML)"""
    )
    assert nameless == []
    expect(said(page)).to_have_attribute("aria-live", "polite")


def test_waiting_shows_and_a_server_that_is_gone_is_said(visit):
    page = visit()
    expect(said(page)).to_have_text("A look into the index")
    held = []
    page.route("**/v1/search", lambda route: held.append(route))
    page.get_by_role("searchbox").fill("w")
    page.keyboard.press("Enter")
    expect(page.locator("#results")).to_have_attribute("aria-busy", "true")
    expect(page.locator(".ghost").first).to_be_visible()
    expect(said(page)).to_have_text("Searching…")
    held[0].abort()
    expect(page.get_by_role("alert")).to_contain_text("The server cannot be reached.")
    page.unroute("**/v1/search")
    page.get_by_role("button", name="Try again").click()
    expect(cards(page)).to_have_count(20)
    expect(page.get_by_role("alert")).to_be_empty()


def test_an_empty_index_and_none_say_what_to_do(visit):
    expect(visit("empty").get_by_role("alert")).to_contain_text("The index is empty.")
    page = visit("none")
    expect(page.get_by_role("alert")).to_contain_text("twoway serve MODEL --index PATH")
    expect(page.get_by_role("button", name="Search", exact=True)).to_be_disabled()


def test_a_key_is_asked_for_where_the_server_wants_one(visit):
    page = visit("locked")
    lock = page.get_by_role("dialog")
    expect(lock).to_contain_text("a valid API key is needed")
    lock.get_by_label("API key").fill("wrong")
    page.keyboard.press("Enter")
    expect(lock.get_by_label("API key")).to_have_value("")
    lock.get_by_label("API key").fill(KEY)
    page.keyboard.press("Enter")
    expect(cards(page)).to_have_count(20)
    picture = cards(page).locator("img").first
    expect(picture).to_have_attribute("src", re.compile("^blob:"))
    expect(picture).not_to_have_js_property("naturalWidth", 0)


@pytest.mark.parametrize("width", [320, 1280])
def test_no_width_is_too_narrow(visit, width):
    page = visit(viewport={"width": width, "height": 640})
    look_up(page)
    page.get_by_role("button", name="Filter", exact=True).click()
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    cards(page).first.locator(".mat").click()
    box = page.get_by_role("dialog").bounding_box()
    assert box["x"] >= 0
    assert box["x"] + box["width"] <= width
    assert page.evaluate("document.getElementById('detail').scrollWidth <= document.getElementById('detail').clientWidth")


def test_light_and_dark_follow_the_reader_and_text_stands_out_in_both(visit):
    grounds = []
    for scheme in ("light", "dark"):
        page = visit(color_scheme=scheme)
        look_up(page)
        edge, ground, *inks = page.evaluate(
            """() => {
                const pen = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
                const light = (colour) => {
                    pen.fillStyle = colour;
                    pen.fillRect(0, 0, 1, 1);
                    const [red, green, blue] = [...pen.getImageData(0, 0, 1, 1).data].map((one) => one / 255)
                        .map((one) => (one <= 0.04045 ? one / 12.92 : ((one + 0.055) / 1.055) ** 2.4));
                    return 0.2126 * red + 0.7152 * green + 0.0722 * blue;
                };
                const edge = light(getComputedStyle(document.querySelector(".field")).borderTopColor);
                const inks = [".title", ".place", ".score", "#said", ".card .quiet", "#about"];
                return [edge, light(getComputedStyle(document.documentElement).backgroundColor),
                    ...inks.map((one) => light(getComputedStyle(document.querySelector(one)).color))];
            }"""
        )
        grounds.append(ground)
        contrasts = [(max(ink, ground) + 0.05) / (min(ink, ground) + 0.05) for ink in inks]
        assert min(contrasts) >= 4.5
        assert (max(edge, ground) + 0.05) / (min(edge, ground) + 0.05) >= 3  # where the field is, is seen too
    assert grounds[0] > 0.8 > 0.05 > grounds[1]
