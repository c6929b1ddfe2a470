"""A recipe is read in layers, and what does not fit is one line that says where."""

from __future__ import annotations

import pytest

from recipe_fakes import KINDS, SHARED, write
from twoway.errors import UsageError
from twoway.recipes.recipe import read_recipe


def stages(path, *words):
    return {stage.name: stage for stage in read_recipe(path, words, kinds=KINDS).stages}


def test_each_stage_starts_from_the_latest_that_makes_a_model(tmp_path):
    path = write(tmp_path, {"make": {}, "first": {"stage": "train"}, "look": {"stage": "score"}, "second": {"stage": "train"}})
    found = stages(path)
    assert {name: one.source for name, one in found.items()} == {"make": "base", "first": "make", "look": "first", "second": "first"}
    assert [one.folder for one in found.values()] == ["1-make", "2-first", "3-look", "4-second"]
    assert [one.kind.name for one in found.values()] == ["make", "train", "score", "train"]


def test_a_stage_may_name_its_source_and_folder(tmp_path):
    path = write(
        tmp_path, {"make": {}, "one": {"stage": "train", "from": "base", "folder": "here"}, "two": {"stage": "train", "from": "a/b"}}
    )
    found = stages(path)
    assert (found["one"].source, found["one"].folder, found["two"].source) == ("base", "here", "a/b")


def test_nearer_wins(tmp_path):
    (tmp_path / "one.yaml").write_text("learning_rate: 2\nsteps: 7\ngroup: {a: 2}\n")
    path = write(
        tmp_path,
        {"train": {"recipe": "one.yaml", "learning_rate": 3}, "other": {"stage": "train"}},
        learning_rate=1,
        seed=5,
        group={"a": 1, "b": 1},
    )
    found = stages(path)
    assert (found["train"].config.learning_rate, found["train"].config.steps, found["train"].config.seed) == (3, 7, 5)
    assert (found["other"].config.learning_rate, found["other"].config.steps) == (1, 4)
    assert (found["train"].config.group.a, found["train"].config.group.b) == (2, 1)
    assert (found["other"].config.group.a, found["other"].config.group.b) == (1, 1)


def test_words_reach_the_recipe_every_stage_or_one(tmp_path):
    path = write(tmp_path, {"train": {"learning_rate": 3}, "other": {"stage": "train"}})
    found = stages(path, "learning_rate=9", "*.steps=1", "other.steps=2", "other.group.a=4", "base=elsewhere/model")
    assert [(one.config.learning_rate, one.config.steps) for one in found.values()] == [(3, 1), (9, 2)]
    assert (found["train"].config.group.a, found["other"].config.group.a) == (0, 4)
    assert read_recipe(path, ["base=elsewhere/model"], kinds=KINDS).base == "elsewhere/model"


def test_shared_keys_go_to_the_stages_that_have_them(tmp_path):
    path = write(tmp_path, {"make": {}, "train": {}}, steps=2)
    assert stages(path)["train"].config.steps == 2
    assert not hasattr(stages(path)["make"].config, "steps")


def test_settings_of_one_stage_are_a_recipe_of_one_stage(tmp_path):
    path = tmp_path / "alone.yaml"
    path.write_text("steps: 3\nlearning_rate: 2\n")
    recipe = read_recipe(path, ["base=a/b"], kinds=KINDS)
    assert [(one.name, one.config.steps, one.source) for one in recipe.stages] == [("train", 3, "base")]
    path.write_text("seed: 3\n")
    with pytest.raises(UsageError, match=r"its keys fit train and score; write what each stage does \(stages: "):
        read_recipe(path, ["base=a/b"], kinds=KINDS)


@pytest.mark.parametrize(
    ("text", "words", "message"),
    [
        ("stages: {bridge: }", (), r"x\.yaml:1: there is no stage 'bridge' \(there are: make, train, score; "),
        ("stages: {trian: }", (), r"no stage 'trian'; did you mean train\? \(there are"),
        ("stages: [train]", (), r"stages are names with what each does .*not a list"),
        ("stages: {}", (), r"stages are names"),
        ("stages:\n  train: 3", (), r"x\.yaml:2: train takes a group of keys, not '3'"),
        ("stages:\n  train:\n    step: 3", (), r"x\.yaml:3: unknown key step; did you mean steps\?"),
        ("stepz: 1\nstages: {train: }", (), r"x\.yaml:1: no stage of this recipe has a key stepz; did you mean steps\?"),
        ("a: 1\nstages: {train: }", (), r"no stage of this recipe has a key a; did you mean group\.a\?"),
        ("stages: {train: }", ("train.step=1",), r"train\.step=1: unknown key step; did you mean steps\?"),
        ("stages: {train: }", ("*.learning_rate=fast",), r"\*\.learning_rate=fast: learning_rate takes a number, not 'fast'"),
        ("stages: {train: }", ("train=3",), r"train=3: train takes keys of its own"),
        ("stages: {train: }", ("learning_rate",), r"'learning_rate' is not of the form key=value"),
        ("stages: {train: {from: later}, later: {stage: train}}", (), "train cannot start from later, which is not done before it"),
        ("stages: {score: , train: {from: score}}", (), "train cannot start from score, which makes no model"),
        ("stages: {make: , train: {from: mak}}", (), r"starts from 'mak', which is not a stage before it.*did you mean make\?"),
        ("stages: {train: {recipe: gone.yaml}}", (), r"there is no .*gone\.yaml"),
        ("stages: {train: {folder: ../x}}", (), "the folder of train is a plain name"),
        ("stages: {train: {folder: x}, two: {stage: train, folder: x}}", (), "train and two have one folder, x"),
        ("stages: {learning_rate: {stage: train}}", (), "a stage cannot be called learning_rate, which is a setting"),
        ("stages: {a b: {stage: train}}", (), "a stage cannot be called 'a b'"),
    ],
)
def test_what_does_not_fit_is_said(text, words, message, tmp_path):
    path = tmp_path / "x.yaml"
    path.write_text(f"{text}\nbase: a/b\n")
    with pytest.raises(UsageError, match=message):
        read_recipe(path, words, kinds=KINDS)


def test_a_base_must_be_named_where_one_is_needed(tmp_path):
    path = tmp_path / "x.yaml"
    path.write_text("stages: {train: }\n")
    with pytest.raises(UsageError, match=r"no base is named"):
        read_recipe(path, kinds=KINDS)
    assert read_recipe(path, ["train.from=a/b"], kinds=KINDS).base == ""


def test_a_file_that_holds_stages_is_no_part_of_another(tmp_path):
    write(tmp_path, {"train": {}}).rename(tmp_path / "inner.yaml")
    with pytest.raises(UsageError, match=r"inner\.yaml holds stages itself"):
        read_recipe(write(tmp_path, {"train": {"recipe": "inner.yaml"}}), kinds=KINDS)


def test_shipped_stages_have_no_setting_called_as_a_recipe_s_own_key():
    from twoway.recipes.stages import KINDS as REAL

    assert set(REAL) >= {"convert", "pretrain"}
    for kind in REAL.values():
        assert not kind.keys & {*SHARED, "stage", "from", "folder", "recipe", "stages"}, kind.name


def test_the_page_on_recipes_says_what_is(tmp_path, monkeypatch, capsys):
    import re
    import shutil
    from pathlib import Path

    home = Path(__file__).parents[2]
    text = (home / "docs" / "recipes.md").read_text(encoding="utf-8")
    blocks = dict(re.findall(r"^```(yaml|python)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL))
    (tmp_path / "page.yaml").write_text(blocks["yaml"])
    shutil.copy(home / "recipes" / "nano-pretrain.yaml", tmp_path)
    recipe = read_recipe(tmp_path / "page.yaml")
    assert [(one.name, one.folder, one.source) for one in recipe.stages] == [
        ("convert", "1-convert", "base"),
        ("pretrain", "2-pretrain", "convert"),
        ("longer", "second", "pretrain"),
    ]
    assert (recipe.stages[1].config.seed, recipe.stages[2].config.max_steps, recipe.stages[2].config.budget) == (1, 5, 4096)
    monkeypatch.chdir(home)
    exec(compile(blocks["python"], "recipes.md", "exec"), {})
    assert capsys.readouterr().out.startswith("convert base ")


def test_the_page_lists_every_stage():
    from pathlib import Path

    from twoway.recipes.stages import KINDS as REAL

    text = (Path(__file__).parents[2] / "docs" / "recipes.md").read_text(encoding="utf-8")
    assert all(f"| `{name}` |" in text for name in REAL)
