"""The video suite asks about the unseen half, beside each answer stands the opposite, and less than several frames is a guess."""

from __future__ import annotations

from collections import Counter

import pytest

from twoway.cli import main
from twoway.content import Image, Text, Video
from twoway.data.rows import Policy
from twoway.data.sources import samples
from twoway.data.sources.clips import MOTIONS, TOGETHER, named_things
from twoway.errors import UsageError
from twoway.evaluation.cache import VectorSource
from twoway.evaluation.config import NANO_VIDEO
from twoway.evaluation.evaluate import evaluate
from twoway.evaluation.metrics import chance_of
from twoway.evaluation.nano import THINGS, open_video_tasks
from twoway.evaluation.runner import run_task
from twoway.evaluation.tasks import BASELINES


@pytest.fixture(scope="module")
def tasks():
    return {task.name: task for task in open_video_tasks()}


def told(document):
    return next(part.text for part in document.parts if isinstance(part, Text))


def test_every_task_has_room(tasks):
    assert list(tasks) == list(NANO_VIDEO)
    assert {task.group for task in tasks.values()} == {"video"}
    assert {name: len(task.items) for name, task in tasks.items()} == {
        "clip-words": len(MOTIONS) * THINGS,
        "words-clip": len(MOTIONS) * THINGS,
        "motion": len(MOTIONS) * THINGS,
        "order": 2 * THINGS,
    }
    assert {name: round(chance_of(task).mean, 2) for name, task in tasks.items()} == {
        "clip-words": 0.01,
        "words-clip": 0.01,
        "motion": 0.17,
        "order": 0.5,
    }


def test_nothing_asked_is_known_to_contrastive_training(tasks):
    trained = named_things(samples.load_world(), "seen")
    known = {text for pair in samples.pairs("train-clips") for text in pair.texts} - set(MOTIONS)
    for name, task in tasks.items():
        if name != "motion":
            texts = {text for one in (*task.candidates, *(item.query for item in task.items)) for text in one.texts}
            assert len(texts) >= 2 * THINGS
            assert not texts & known
            assert not any(text.startswith(f"{thing} {motion}") for text in texts for thing in trained for motion in MOTIONS)


def test_words_alone_do_not_say_which_of_two_opposites_is_shown(tasks):
    """Every answer is right as often as its opposite, so no liking of words helps."""
    assert set(Counter(int(item.right[0]) for item in tasks["motion"].items).values()) == {THINGS}
    listed, right = Counter(), Counter()
    for item in tasks["order"].items:
        listed.update(map(int, item.among))
        right.update(map(int, item.right))
        first, second = (told(tasks["order"].candidates[number]).split(" right after ") for number in item.among)
        assert first == second[::-1]
    assert set(listed.values()) == {2}
    assert set(right.values()) == {1}


def test_each_clip_is_a_candidate_beside_its_opposite(tasks):
    clips = [next(part for part in one.parts if isinstance(part, Video)) for one in tasks["words-clip"].candidates]
    assert len(clips) == len(MOTIONS) * THINGS
    assert set(Counter(frozenset(frame.source for frame in clip.source) for clip in clips).values()) == {2}
    assert all(isinstance(frame, Image) and isinstance(frame.source, bytes) for clip in clips for frame in clip.source)
    assert len({frame.source for frame in clips[0].source}) > TOGETHER


@pytest.mark.parametrize("task", ["words-clip", "clip-words", "motion", "order"])
def test_models_that_cannot_know_do_not_answer(tasks, tmp_path, task):
    luck = chance_of(tasks[task])
    score = {name: run_task(tasks[task], VectorSource(engine, tmp_path), Policy()).scores().mean() for name, engine in BASELINES.items()}
    assert score["words"] <= luck.high
    assert score["pixels"] <= luck.high
    assert luck.low - 0.05 <= score["random"] <= luck.high + 0.05


def test_a_model_of_videos_is_scored(tiny_encoder, tmp_path):
    out = tmp_path / "results.json"
    found = evaluate(tiny_encoder("qwen2_vl"), "nano-video", subset=4, tasks=("motion", "order"), out=out, device="cpu", cache_dir=tmp_path)
    assert set(found.found["tasks"]) == {"motion", "order"}
    assert set(found.found["groups"]) == {"video", "known style"}
    assert {entry["metric"] for entry in found.found["tasks"].values()} == {"precision@1"}
    assert {entry["n"] for entry in found.found["tasks"].values()} == {4}


def test_a_model_that_takes_no_videos_is_refused_before_anything_is_embedded(tiny_encoder, tmp_path, capsys):
    model = tiny_encoder("paligemma")
    assert main(["evaluate", str(model), "--suite", "nano-video", "--cache-dir", str(tmp_path), "--device", "cpu"]) == 1
    said = capsys.readouterr().err
    assert "the suite nano-video shows videos, and" in said
    assert "takes none (it takes: image, text)" in said
    assert not list(tmp_path.rglob("*.sqlite"))


def test_an_unknown_task_is_named():
    with pytest.raises(UsageError, match="nano-video has no task 'oder'; did you mean order"):
        open_video_tasks(["oder"])
