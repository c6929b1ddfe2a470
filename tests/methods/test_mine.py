"""Mining never yields what is right, keeps to what was asked, says where each negative comes from, and goes on after a kill."""

from __future__ import annotations

import json
import os
import shutil
import signal
from pathlib import Path

import datasets
import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from full_disk import disk_full
from twoway.cli import main
from twoway.data.config import PairSource, SourceConfig
from twoway.data.mixture import open_pairs
from twoway.embedding import open_embedder
from twoway.errors import TwowayError, UsageError
from twoway.methods import mine as stage
from twoway.methods.config import MineConfig, NegativeChoice
from twoway.methods.mine import mine
from twoway.methods.negatives import key_of

ROWS = 40


@pytest.fixture(scope="module")
def engine(tiny_encoder):
    return open_embedder(tiny_encoder("qwen2_vl"), device="cpu")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Write pairs of two tasks: pictures with words, words with words, with copies of right answers under other names."""
    rows, tmp_path = [], tmp_path_factory.mktemp("pairs")
    for number in range(ROWS):
        name = f"{number}.png"
        Image.new("RGB", (30, 30), (number * 6, 255 - number * 6, number)).save(tmp_path / name)
        rows.append({"query": f"colour {number}", "positive": {"image": name}, "task": "pictures"})
        rows.append({"query": {"image": name}, "positive": f"this is colour {number}", "task": "words"})
    (tmp_path / "copy.png").write_bytes((tmp_path / "3.png").read_bytes())
    rows.append({"query": "another for three", "positive": {"image": "copy.png"}, "task": "pictures"})  # the picture of row 3
    rows.append({"query": "colour 5", "positive": {"image": "6.png"}, "task": "pictures"})  # a second answer to a query
    rows.append({"query": {"image": "7.png"}, "positive": "This is  COLOUR 7", "task": "words"})  # a near copy of an answer
    rows.append({"query": "given", "positive": {"image": "1.png"}, "negatives": [{"image": "2.png"}], "task": "pictures"})
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return tmp_path / "pairs.jsonl"


@pytest.fixture(scope="module")
def vectors(data):
    """Where the vectors of all of them are, once one test has made them."""
    return data.parent / "vectors"


def read(out):
    return [row for path in sorted(out.glob("part-*.parquet")) for row in pq.read_table(path).to_pylist()]


def reread(result):
    """Read what was mined as a stage does."""
    pairs = open_pairs([PairSource(result.out, root=None if result.root is None else Path(result.root))])
    return [pairs.read(row)[1] for row in range(len(pairs))]


def test_a_right_answer_is_never_a_negative(engine, data, vectors, tmp_path):
    result = mine(engine, data, tmp_path / "out", num_negatives=200, range_max=300, random_share=0.5, vectors=vectors)
    right: dict[bytes, set[bytes]] = {}
    found = reread(result)
    for pair in found:
        right.setdefault(key_of(pair.query), {key_of(pair.query)}).add(key_of(pair.positive))
    for pair in found:
        keys = [key_of(one) for one in pair.negatives]
        assert len(set(keys)) == len(keys)
        assert not right[key_of(pair.query)] & set(keys)
    by_query = {pair.query.texts[0]: pair for pair in found if pair.task == "pictures"}
    assert len(by_query["colour 3"].negatives) == ROWS - 1  # neither its own picture nor the copy
    assert len(by_query["colour 5"].negatives) == ROWS - 2
    assert result.short == result.rows == 2 * ROWS + 4


def test_an_answer_saved_in_another_form_is_never_a_negative(engine, tmp_path):
    """The same pictures as PNG and, larger, as JPEG, each the answer to a query of its own."""
    draw, rows = np.random.default_rng(0), []
    for number in range(8):
        picture = Image.fromarray(draw.integers(0, 255, (4, 4, 3), dtype=np.uint8)).resize((56, 56))
        picture.save(tmp_path / f"{number}.png")
        picture.resize((84, 84)).save(tmp_path / f"{number}.jpg", quality=70)
        rows += [{"query": f"{kind} {number}", "positive": {"image": f"{number}.{kind}"}} for kind in ("png", "jpg")]
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    result = mine(engine, tmp_path / "pairs.jsonl", tmp_path / "out", num_negatives=15, range_max=50)
    assert result.left_out["copy of an answer"] == 16
    for pair in reread(result):
        own = pair.positive.images[0].source.stem
        assert sorted(one.images[0].source.stem for one in pair.negatives) == sorted(
            [str(number) for number in range(8) if str(number) != own] * 2
        )


def test_negatives_are_of_the_same_task_or_of_the_corpus_and_nearest_first(engine, data, tmp_path):
    (tmp_path / "corpus.jsonl").write_text("".join(json.dumps({"text": f"elsewhere {n}"}) + "\n" for n in range(5)))
    result = mine(engine, data, tmp_path / "out", corpus=[tmp_path / "corpus.jsonl"], num_negatives=60)
    queries, documents, expected = [], [], []
    for pair, row in zip(reread(result), read(tmp_path / "out"), strict=True):
        mined = pair.negatives[row["mined_from"].count("given") :]
        theirs = [one for one in mined if not any("elsewhere" in text for text in one.texts)]
        assert len(mined) - len(theirs) == 5
        assert all(bool(one.images) == (pair.task == "pictures") for one in theirs)
        ranks = [rank for rank in row["mined_rank"] if rank is not None]
        scores = [score for score in row["mined_score"] if score is not None]
        assert ranks == list(range(1, len(ranks) + 1))
        assert scores == sorted(scores, reverse=True)
        if "COLOUR" in "".join(pair.positive.texts):
            continue  # near copies are one candidate, with the vector of the first
        queries.append(pair.query)
        documents += [pair.positive, *mined[:2]]
        expected.append([row["positive_score"], *scores[:2]])
    asked = engine.array(queries, side="query")
    answers = engine.array(documents, side="document").reshape(len(asked), 3, -1)
    assert np.abs(np.einsum("qd,qad->qa", asked, answers) - expected).max() < 1e-5


def test_ranks_margins_and_scores_are_kept_to(engine, data, vectors, tmp_path):
    choices = {
        "ranks": {"num_negatives": 4, "range_min": 4, "range_max": 12},
        "drawn ranks": {"num_negatives": 4, "range_min": 4, "range_max": 12, "sampling_strategy": "random"},
        "margin": {"num_negatives": 5, "absolute_margin": 0.001},
        "share": {"num_negatives": 5, "relative_margin": 0.01},
        "scores": {"num_negatives": 5, "max_score": 0.97, "min_score": 0.9},
    }
    all_rows = {}
    for name, choice in choices.items():
        mine(engine, data, tmp_path / name, **choice, vectors=vectors)
        all_rows[name] = read(tmp_path / name)
    for row in all_rows["ranks"]:
        assert [rank for rank in row["mined_rank"] if rank] == [5, 6, 7, 8]
    drawn = [[rank for rank in row["mined_rank"] if rank] for row in all_rows["drawn ranks"]]
    assert all(len(set(ranks)) == 4 and ranks == sorted(ranks) and ranks[0] >= 5 and ranks[-1] <= 12 for ranks in drawn)
    assert len({tuple(ranks) for ranks in drawn}) > 5

    def pairs(name):
        return [(row["positive_score"], score) for row in all_rows[name] for score in row["mined_score"] if score is not None]

    assert all(score <= positive - 0.001 + 1e-6 for positive, score in pairs("margin"))
    assert all(score <= positive * 0.99 + 1e-6 for positive, score in pairs("share") if positive > 0)
    assert all(0.9 - 1e-6 <= score <= 0.97 + 1e-6 for _, score in pairs("scores"))
    assert any(score > positive - 0.001 for positive, score in pairs("ranks"))  # so the margin has something to do


def test_a_share_is_drawn_at_random_and_the_same_each_time(engine, data, vectors, tmp_path):
    choice = {"num_negatives": 8, "random_share": 0.5, "range_max": 20}
    for name in ("one", "two"):
        mine(engine, data, tmp_path / name, **choice, vectors=vectors)
    one, two = read(tmp_path / "one"), read(tmp_path / "two")
    assert one == two
    for row in one:
        assert row["mined_from"].count("random") == 4
        assert [rank is None for rank in row["mined_rank"]] == [origin != "rank" for origin in row["mined_from"]]


def test_given_negatives_stay_and_are_not_mined_again(engine, data, vectors, tmp_path):
    mine(engine, data, tmp_path / "out", num_negatives=200, range_max=300, vectors=vectors)
    (row,) = [row for row in read(tmp_path / "out") if row["query"][0]["text"] == "given"]
    assert row["mined_from"][0] == "given"
    paths = [side[0]["image"]["path"] for side in row["negatives"]]
    assert paths[0] == "2.png"
    assert paths.count("2.png") == 1


def test_a_killed_run_goes_on_and_gives_the_same(engine, data, tmp_path):
    mine(engine, data, tmp_path / "whole", num_negatives=3, part_rows=9)
    for writes in (1, 4, 7, 3):  # each on what the one before left; there are twenty in all
        child = os.fork()
        if not child:
            rename, left = os.replace, iter(range(writes, -1, -1))

            def dying(*args, rename=rename, left=left, **kwargs):
                if next(left) == 0:
                    os.kill(os.getpid(), signal.SIGKILL)
                return rename(*args, **kwargs)

            os.replace = dying
            try:
                mine(engine, data, tmp_path / "killed", num_negatives=3, part_rows=9)
            finally:
                os._exit(0)
        assert os.WIFSIGNALED(os.waitpid(child, 0)[1])
    mine(engine, data, tmp_path / "killed", num_negatives=3, part_rows=9)
    assert read(tmp_path / "killed") == read(tmp_path / "whole")


def test_a_full_disk_is_said_wherever_it_comes_and_the_same_command_goes_on(engine, data, tmp_path):
    mine(engine, data, tmp_path / "whole", num_negatives=3, part_rows=9)
    largest = max(path.stat().st_size for path in tmp_path.rglob("whole*/**/*") if path.is_file())
    ends = 0
    for room in (64, 1024, 4096, 8192, 16384, 32768):
        if room < largest:
            with disk_full(room), pytest.raises(TwowayError, match=r"no space left on the disk while writing"):
                mine(engine, data, tmp_path / "full", num_negatives=3, part_rows=9)
            ends += 1
    assert ends >= 3
    mine(engine, data, tmp_path / "full", num_negatives=3, part_rows=9)
    assert read(tmp_path / "full") == read(tmp_path / "whole")


def test_another_choice_needs_no_embedding_and_another_folder(engine, data, tmp_path, monkeypatch):
    mine(engine, data, tmp_path / "out", num_negatives=3)
    with pytest.raises(UsageError, match="holds negatives mined with other settings"):
        mine(engine, data, tmp_path / "out", num_negatives=4)
    monkeypatch.setattr(type(engine.sentence), "forward", None)
    result = mine(engine, data, tmp_path / "out", num_negatives=4, overwrite=True)
    assert result.negatives == 4 * result.rows


def test_bad_rows_are_an_error_or_left_out_on_both_sides(engine, data, tmp_path):
    data = shutil.copytree(data.parent, tmp_path / "pairs", ignore=shutil.ignore_patterns("vectors*")) / data.name
    data.with_name("4.png").write_bytes(data.with_name("4.png").read_bytes()[:60])
    with pytest.raises(Exception, match=r"4\.png is broken"):
        mine(engine, data, tmp_path / "strict")
    result = mine(engine, data, tmp_path / "out", on_bad="skip", num_negatives=2)
    assert result.bad == 2  # the picture is a query and a positive
    assert all("'4.png'" not in str(row) for row in read(tmp_path / "out"))


def test_streams_of_the_hub_are_mined_with_the_template_and_the_cap_of_a_recipe(tiny_encoder, data, tmp_path, capsys):
    """A folder that `load_dataset` understands goes the way of the hub."""
    for name, count in (("pairs", 8), ("corpus", 5)):
        (tmp_path / name).mkdir()
        cells = [{"bytes": data.with_name(f"{number}.png").read_bytes(), "path": None} for number in range(count)]
        table = {"query": [f"colour {number}" for number in range(count)], "image": cells}
        datasets.Dataset.from_dict(table).cast_column("image", datasets.Image()).to_parquet(str(tmp_path / name / "train.parquet"))
    source = {"spec": f"hub:{tmp_path}/pairs:train", "row_template": "colpali", "cap": 6, "name": "pages"}
    (tmp_path / "recipe.yaml").write_text(json.dumps({"data": [source]}))
    asked = ["mine", tiny_encoder("qwen2_vl"), "--recipe", tmp_path / "recipe.yaml", "--corpus", f"hub:{tmp_path}/corpus"]
    asked += ["--out", tmp_path / "out", "--num-negatives", 9, "--device", "cpu"]
    assert main([str(word) for word in asked]) == 2
    assert "is a stream without an end; say with cap: N" in capsys.readouterr().err
    assert main([str(word) for word in [*asked, "--cap", 3, "--json"]]) == 0
    result = json.loads(capsys.readouterr().out)
    assert (result["rows"], result["candidates"], result["root"]) == (6, 6, None)  # of the corpus all are answers of a pair, too
    rows = read(tmp_path / "out")
    assert {row["task"] for row in rows} == {"pages"}
    assert {len(row["negatives"]) for row in rows} == {5}
    assert rows[0]["place"] == f"hub:{tmp_path}/pairs:train:1"
    assert main(["mine", "none", "--out", "none"]) == 2
    assert "no pairs are named; pass --data SPEC, or --recipe FILE" in capsys.readouterr().err


def test_a_corpus_of_a_recipe_may_be_a_part_of_a_source():
    MineConfig(corpus=(SourceConfig("hub:own/name", cap=9, row_template="colpali"),))
    with pytest.raises(UsageError, match=r"leave weight and name of rows\.jsonl out"):
        MineConfig(corpus=(SourceConfig("rows.jsonl", weight=2),))


@pytest.mark.parametrize(
    ("wish", "said"),
    [
        ({"num_negatives": 0}, "num_negatives takes a whole number from 1"),
        ({"range_min": 9, "range_max": 3}, "range_min is below range_max"),
        ({"random_share": 1.5}, "random_share takes a number from 0 to 1"),
        ({"sampling_strategy": "best"}, "sampling_strategy takes one of top, random"),
        ({"max_score": 0.1, "min_score": 0.2}, "no score is below 0.1 and above 0.2"),
    ],
)
def test_wishes_that_cannot_be_are_refused(wish, said):
    with pytest.raises(UsageError, match=said):
        NegativeChoice(**wish)


def test_the_stage_has_one_name_in_python():
    import twoway

    assert twoway.mine is stage.mine
