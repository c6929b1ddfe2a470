"""Merging: the weights are those that the formula gives, the rest is checked, and the result is a plain checkpoint."""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from sentence_transformers import CrossEncoder, SentenceTransformer

import twoway
from rerank_toys import speaking
from twoway import cli
from twoway.errors import TwowayError, UsageError
from twoway.methods.merge import slerp, ties

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

WEIGHTS = "model.safetensors"


@pytest.fixture(scope="module")
def family(tiny_encoder: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Return a base and two models that have moved from it, each in its own way."""
    home, base = tmp_path_factory.mktemp("merge"), tiny_encoder("qwen2_vl")
    made = {"base": base}
    for seed, name in enumerate(("first", "second")):
        made[name] = shutil.copytree(base, home / name)
        generator = torch.Generator().manual_seed(seed)
        tensors = load_file(base / WEIGHTS)
        moved = {key: one + 0.02 * torch.randn(one.shape, generator=generator).to(one.dtype) for key, one in tensors.items()}
        save_file(moved, made[name] / WEIGHTS, metadata={"format": "pt"})
    return made


def tensors_of(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / WEIGHTS)


def merged(family: dict[str, Path], out: Path, **options: Any) -> dict[str, torch.Tensor]:
    twoway.merge([family["first"], family["second"]], out, **options)
    return tensors_of(out)


def change(folder: Path, name: str, **values: object) -> Path:
    path = folder / name
    path.write_text(json.dumps(json.loads(path.read_text()) | values))
    return folder


def test_a_weighted_mean(family: dict[str, Path], tmp_path: Path) -> None:
    found = merged(family, tmp_path / "out", weights=(3, 1))
    first, second = tensors_of(family["first"]), tensors_of(family["second"])
    assert found.keys() == first.keys()
    for name, one in found.items():
        assert torch.allclose(one, 0.75 * first[name] + 0.25 * second[name], atol=1e-6), name
    card = json.loads((tmp_path / "out/twoway.json").read_text())
    assert card["attention"]["measured"] == "two-way"
    step = card["chain"][-1]
    assert [one["weight"] for one in step["merged"]] == [0.75, 0.25]
    assert card["chain"][0] == json.loads((family["first"] / "twoway.json").read_text())["chain"][0]
    plain = SentenceTransformer(str(tmp_path / "out"), device="cpu")
    assert np.isfinite(plain.encode(["a text"])).all()


@pytest.mark.usefixtures("short_proof")
def test_one_model_with_all_the_weight_is_that_model(family: dict[str, Path], tmp_path: Path) -> None:
    for number, options in enumerate(({"weights": (0, 1)}, {"weights": (0, 1), "method": "slerp"})):
        twoway.merge([family["first"], family["second"]], tmp_path / str(number), **options)
        found, second = (SentenceTransformer(str(one), device="cpu") for one in (tmp_path / str(number), family["second"]))
        assert np.abs(found.encode(["some words"]) - second.encode(["some words"])).max() < 1e-5


def test_slerp_goes_along_the_arc() -> None:
    first, second = torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0])
    assert torch.allclose(slerp(first, second, 0.5), torch.full((2,), 0.5**0.5))
    assert torch.allclose(slerp(first, 3 * first, 0.5), 2 * first)


def test_ties_by_hand() -> None:
    changes = [torch.tensor([4.0, -1.0, 3.0, 0.1]), torch.tensor([-2.0, -3.0, 0.2, 0.1])]
    # The larger two of each stay: [4, ., 3, .] and [-2, -3, ., .]; signs by the sum: +, -, +, none.
    assert torch.equal(ties(changes, (0.5, 0.5), 0.5), torch.tensor([4.0, -3.0, 3.0, 0.0]))
    assert torch.equal(ties(changes, (0.2, 0.8), 0.5), torch.tensor([-2.0, -3.0, 3.0, 0.0]))


def test_ties_with_all_changes_of_one_model_is_that_model(family: dict[str, Path], tmp_path: Path) -> None:
    found = merged(family, tmp_path / "out", method="ties", base=str(family["base"]), density=1.0, weights=(1, 0))
    first = tensors_of(family["first"])
    assert max(float((one - first[name]).abs().max()) for name, one in found.items()) < 1e-6


@pytest.mark.usefixtures("short_proof")
def test_a_suite_chooses_the_weights(family: dict[str, Path], tmp_path: Path) -> None:
    pairs = tmp_path / "pairs.jsonl"
    rows = [{"query": f"{word} one", "positive": f"{word} two"} for word in ("tree", "house", "cat", "sun", "car", "red", "old", "sea")]
    pairs.write_text("".join(json.dumps(row) + "\n" for row in rows))
    result = twoway.merge([family["first"], family["second"]], tmp_path / "out", suite="pairs", data=pairs, grid=2)
    assert [weights for weights, _ in result.tried] == [(1, 0), (0.5, 0.5), (0, 1)]
    scores = dict(result.tried)
    assert scores[result.weights] == max(scores.values())
    for name, weights in (("first", (1, 0)), ("second", (0, 1)), ("out", result.weights)):
        folder = tmp_path / "out" if name == "out" else family[name]
        assert twoway.evaluate(str(folder), "pairs", data=pairs).found["mean"] == pytest.approx(scores[weights])
    assert [one["score"] for one in json.loads((tmp_path / "out/twoway.json").read_text())["chain"][-1]["tried"]] == list(scores.values())


def test_models_of_two_bases_are_refused(family: dict[str, Path], tmp_path: Path) -> None:
    other = shutil.copytree(family["base"], tmp_path / "other")
    generator = torch.Generator().manual_seed(7)
    save_file({key: 0.1 * torch.randn(one.shape, generator=generator) for key, one in tensors_of(other).items()}, other / WEIGHTS)
    with pytest.raises(TwowayError, match=r"were not trained from one base: the cosine of their weights is -?0\.\d\d"):
        twoway.merge([family["first"], other], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_models_of_two_shapes_are_refused(family: dict[str, Path], tiny_encoder: Callable[..., Path], tmp_path: Path) -> None:
    with pytest.raises(TwowayError, match="the models are not of one base: of "):
        twoway.merge([family["first"], tiny_encoder("smolvlm")], tmp_path / "out")


@pytest.mark.usefixtures("short_proof")
def test_settings_that_differ_need_a_word(
    family: dict[str, Path], tiny_encoder: Callable[..., Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    causal = tiny_encoder("qwen2_vl", attention="causal", pooling="last")
    with pytest.raises(UsageError, match="differ in attention: 'two-way' and 'causal'; say with settings_from"):
        twoway.merge([family["first"], causal], tmp_path / "out")
    result = twoway.merge([family["first"], causal], tmp_path / "out", settings_from=str(causal))
    assert (result.card.attention["measured"], result.card.pooling) == ("causal", "last")
    assert "its attention is left out" in caplog.text
    prompted = change(
        shutil.copytree(family["second"], tmp_path / "prompted"), "config_sentence_transformers.json", prompts={"query": "Q: "}
    )
    with pytest.raises(UsageError, match="differ in prompts"):
        twoway.merge([family["first"], prompted], tmp_path / "again")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"weights": (1.0,)}, "1 weights are given for 2 models"),
        ({"weights": (1.0, -1.0)}, "not negative"),
        ({"method": "ties"}, "name the model that all were trained from"),
        ({"base": "x"}, "base is for method ties"),
        ({"settings_from": "x"}, "none of the models"),
        ({"suite": "nano", "grid": 60}, "61 evaluations"),
        ({"tasks": ("a",)}, "belong to a suite"),
    ],
)
def test_what_cannot_be_is_said_in_one_line(family: dict[str, Path], tmp_path: Path, options: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        twoway.merge([family["first"], family["second"]], tmp_path / "out", **options)


def test_a_model_that_gives_no_vectors_is_converted_first(
    family: dict[str, Path], tiny_model: Callable[[str], Path], tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match="convert it first: twoway convert"):
        twoway.merge([family["first"], tiny_model("qwen2_vl")], tmp_path / "out")


def test_rerankers_keep_the_head_that_is_read(tiny_model: Callable[[str], Path], tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    twoway.convert(speaking(tiny_model("qwen3_vl"), tmp_path / "speaks"), first, head="yes-no", attention="causal")
    shutil.copytree(first, second)
    moved = {name: one + 0.02 * torch.ones_like(one) for name, one in tensors_of(first).items()}
    save_file(moved, second / WEIGHTS, metadata={"format": "pt"})
    twoway.merge([first, second], tmp_path / "out", weights=(0, 1))
    pairs = [("a fox", "a fox in the snow"), ("a fox", "nothing")]
    found, wanted = (CrossEncoder(str(one), device="cpu").predict(pairs) for one in (tmp_path / "out", second))
    assert np.abs(found - wanted).max() < 1e-5
    with pytest.raises(UsageError, match="these models are rerankers"):
        twoway.merge([first, second], tmp_path / "again", suite="nano")


def test_the_command(family: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["merge", str(family["first"]), str(family["second"]), str(tmp_path / "out"), "--weights", "1", "--weights", "1"]
    assert cli.main([*words, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["weights"] == [0.5, 0.5]
    assert cli.main(words) == 2
    assert "exists" in capsys.readouterr().err
