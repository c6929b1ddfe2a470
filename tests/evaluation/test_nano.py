"""The nano suite asks about the unseen half alone, and nothing in it can be answered without looking."""

from __future__ import annotations

import pytest

from twoway.content import Image, Text
from twoway.data.rows import Policy
from twoway.data.sources import samples
from twoway.errors import UsageError
from twoway.evaluation.cache import VectorSource
from twoway.evaluation.metrics import chance_of
from twoway.evaluation.nano import TASKS, Held, open_nano_tasks
from twoway.evaluation.runner import run_task
from twoway.evaluation.tasks import BASELINES

SEEN_TEXT = ("capital", "continent", "called", "keywords")


@pytest.fixture(scope="module")
def tasks():
    return {task.name: task for task in open_nano_tasks()}


@pytest.fixture(scope="module")
def score(tasks, tmp_path_factory):
    folder = tmp_path_factory.mktemp("vectors")
    sources = {name: VectorSource(engine, folder) for name, engine in BASELINES.items()}
    return lambda baseline, task: run_task(tasks[task], sources[baseline], Policy()).scores().mean()


def test_every_task_has_room(tasks):
    assert list(tasks) == list(TASKS)
    assert {task.group for task in tasks.values()} == {"classification", "vqa", "retrieval", "grounding", "documents", "texts"}
    for name, task in tasks.items():
        assert len(task.items) >= 100, name
        assert len(task.candidates) >= (5 if name in ("continent", "category", "category-new-style", "scene-names") else 100), name
        assert chance_of(task).mean < 0.5


def test_nothing_asked_is_known_to_contrastive_training():
    held, world = Held.read(), samples.load_world()
    seen = {row["concept"] for row in world.concepts.values() if row["half"] == "seen"}
    asked = {row["concept"] for row in (*held.plain, *held.far(), *held.styled(samples.HELD_STYLES[0]))}
    assert asked
    assert not asked & seen
    assert len({row["concept"] for row in held.plain}) == len(held.plain) > 1000
    assert len({row["style"] for row in held.plain}) > 20


def test_pictures_have_no_file_name_that_could_tell(tasks):
    for task in tasks.values():
        for document in (*task.candidates[:20], *(item.query for item in task.items[:20])):
            assert all(not hasattr(part.source, "name") for part in document.parts if isinstance(part, Image))


@pytest.mark.parametrize("task", ["category-new-style", "continent", "capital", "name-picture-new-source"])
def test_words_alone_and_luck_do_not_answer_what_is_asked_about_pictures(tasks, score, task):
    luck = chance_of(tasks[task])
    assert score("words", task) <= luck.high
    assert luck.low - 0.05 <= score("random", task) <= luck.high + 0.05


def test_the_shown_picture_is_a_candidate_where_another_is_wished(tasks):
    task = tasks["composed"]
    shown = {part for item in task.items for part in item.query.parts if isinstance(part, Image)}
    assert shown <= {part for one in task.candidates for part in one.parts}
    assert all(any(isinstance(part, Text) for part in item.query.parts) for item in task.items)


def test_an_unknown_task_is_named():
    with pytest.raises(UsageError, match="'captial'; did you mean capital"):
        open_nano_tasks(["captial"])
