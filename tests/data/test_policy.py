"""The failure policy: fail at the first bad row by default; skip counts and lists every bad row once; nothing stands in."""

from __future__ import annotations

import json
import logging

import pytest

from twoway.content import ContentError, Place
from twoway.data.dataset import open_source
from twoway.data.rows import Policy
from twoway.errors import TwowayError, UsageError


@pytest.fixture
def mixed(jsonl, png, tmp_path):
    """Five rows, of which the second and the fourth are bad."""
    (tmp_path / "good.png").write_bytes(png())
    (tmp_path / "broken.png").write_bytes(png()[:40])
    return jsonl({"image": "good.png"}, {"image": "broken.png"}, {"text": "a"}, b"{", {"text": "b"})


def listed(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_the_default_stops_at_the_first_bad_row_and_writes_nothing(mixed, tmp_path):
    passed = []
    with pytest.raises(ContentError, match=r"rows.jsonl:2: picture broken.png is broken .*pass --on-bad skip"):
        passed.extend(iter(open_source(mixed, bad_rows=tmp_path / "bad-rows.jsonl")))
    assert not (tmp_path / "bad-rows.jsonl").exists()


def test_skip_leaves_out_counts_lists_and_says_so(mixed, tmp_path, caplog):
    source = open_source(mixed, on_bad="skip", bad_rows=tmp_path / "bad-rows.jsonl")
    with caplog.at_level(logging.WARNING):
        documents = list(source)
    assert [document.place.row for document in documents] == [1, 3, 5]
    report = source.report()
    assert (report.rows, report.kept, report.bad) == (5, 3, 2)
    rows = listed(tmp_path / "bad-rows.jsonl")
    assert [(row["file"], row["row"]) for row in rows] == [(str(mixed), 2), (str(mixed), 4)]
    assert rows[0]["reason"].startswith("picture broken.png is broken")
    assert rows[1]["reason"].startswith("invalid JSON")
    assert "5 rows read, 2 bad and left out, all in" in caplog.text
    assert f"{mixed}:2: picture broken.png" in caplog.text


def test_the_list_stands_line_by_line_while_the_run_goes_on(mixed, tmp_path):
    documents = iter(open_source(mixed, on_bad="skip", bad_rows=tmp_path / "bad-rows.jsonl"))
    next(documents)
    next(documents)
    assert [row["row"] for row in listed(tmp_path / "bad-rows.jsonl")] == [2]


def test_a_row_is_listed_once_however_often_it_is_read(mixed, tmp_path):
    source = open_source(mixed, on_bad="skip", bad_rows=tmp_path / "bad-rows.jsonl")
    assert list(source) == list(source)
    assert len(listed(tmp_path / "bad-rows.jsonl")) == source.report().bad == 2


def test_an_old_list_does_not_outlive_a_clean_run(jsonl, tmp_path):
    (tmp_path / "bad-rows.jsonl").write_text("old\n")
    list(open_source(jsonl({"text": "a"}), on_bad="skip", bad_rows=tmp_path / "bad-rows.jsonl"))
    assert not (tmp_path / "bad-rows.jsonl").exists()


def test_two_sources_may_share_one_list(mixed, jsonl, tmp_path):
    other = jsonl(b"{", {"text": "a"}, name="other.jsonl")
    policy = Policy("skip", tmp_path / "bad-rows.jsonl")
    assert len([*open_source(mixed, policy=policy), *open_source(other, policy=policy)]) == 4
    assert [row["file"] for row in listed(tmp_path / "bad-rows.jsonl")] == [str(mixed), str(mixed), str(other)]


def test_pictures_left_closed_are_judged_by_the_same_policy_later(mixed, tmp_path):
    source = open_source(mixed, on_bad="skip", bad_rows=tmp_path / "bad-rows.jsonl", images="lazy")
    assert [document.place.row for document in source] == [1, 2, 3, 5]
    source.policy.refuse(ContentError("broken", Place(str(mixed), 2)))
    assert [row["row"] for row in listed(tmp_path / "bad-rows.jsonl")] == [4, 2]


def test_data_of_bad_rows_alone_is_an_error_even_when_skipping(jsonl, tmp_path):
    source = open_source(jsonl(b"{", b"["), on_bad="skip", bad_rows=tmp_path / "bad-rows.jsonl")
    with pytest.raises(TwowayError, match=r"every row of .*rows.jsonl is bad \(2\), the first: .*rows.jsonl:1: invalid JSON"):
        list(source)
    assert len(listed(tmp_path / "bad-rows.jsonl")) == 2


@pytest.mark.parametrize("on_bad", ["fail", "skip"])
def test_data_without_rows_is_an_error(jsonl, on_bad):
    with pytest.raises(TwowayError, match="holds no rows"):
        list(open_source(jsonl(b"", b"  "), on_bad=on_bad))


def test_a_list_that_cannot_be_written_is_said_in_one_line(mixed, tmp_path):
    with pytest.raises(TwowayError, match="the list of bad rows cannot be written"):
        list(open_source(mixed, on_bad="skip", bad_rows=tmp_path / "nowhere" / "bad-rows.jsonl"))


def test_an_unknown_policy_is_named_with_the_nearest():
    with pytest.raises(UsageError, match="did you mean skip"):
        Policy("skipp")


def test_a_list_that_is_kept_grows_and_names_each_row_once(tmp_path):
    path = tmp_path / "bad-rows.jsonl"
    other = Policy("skip", path, keep=True)
    Policy("skip", path).refuse(ContentError("a", Place("rows", 1)))
    for policy in (other, Policy("skip", path, keep=True), other):
        policy.start()
        for row in (1, 2):
            policy.refuse(ContentError("b", Place("rows", row)))
    assert [json.loads(line)["row"] for line in path.read_text().splitlines()] == [1, 2]
    Policy("skip", path).start()
    assert not path.exists()
