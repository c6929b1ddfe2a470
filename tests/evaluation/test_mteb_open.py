"""A folder goes into mteb: as an object for its functions, by its name through its own command; MoCa's released layout, too."""

from __future__ import annotations

import json
import sys
from importlib.util import find_spec
from pathlib import Path

import mteb
import pytest
from huggingface_hub import ModelCard
from mteb.models import EncoderProtocol, ModelMeta, SearchProtocol
from mteb.models.model_implementations import MODEL_REGISTRY

import twoway
from mteb_toys import TOYS, ToyPages, ToyTexts
from twoway.cli import main
from twoway.evaluation.mteb import named_model
from twoway.methods.convert import convert

GOLDEN = Path(__file__).parents[1] / "golden"
QUIET = {"cache": None, "co2_tracker": False, "show_progress_bar": False}


@pytest.fixture(autouse=True)
def toys(monkeypatch: pytest.MonkeyPatch) -> None:
    for toy in TOYS:
        monkeypatch.setitem(sys.modules["mteb.get_tasks"]._TASKS_REGISTRY, toy.metadata.name, toy)


def score(model, task) -> float:
    return mteb.evaluate(model, task, encode_kwargs={"batch_size": 4}, **QUIET).task_results[0].get_score()


def test_the_meta_says_what_the_model_is(tiny_encoder, tmp_path):
    model = twoway.mteb_model(tiny_encoder("qwen2_vl", prompts={"query": "Find: "}), cache_dir=tmp_path, device="cpu")
    assert isinstance(model, EncoderProtocol)
    assert isinstance(model, SearchProtocol)
    meta = model.mteb_model_meta
    parameters = sum(one.numel() for one in model.model.parameters())
    assert (meta.modalities, meta.embed_dim, meta.max_tokens, meta.use_instructions) == (["image", "text", "video"], 32, 1024, True)
    assert (meta.n_parameters, meta.memory_usage_mb) == (parameters, round(4 * parameters / 2**20, 1))
    assert meta.similarity_fn_name == "cosine"
    assert meta.revision == model.vectors.fingerprint[-16:]


def test_mtebs_command_runs_on_a_folder_with_texts_and_with_pictures(tiny_encoder, tmp_path, monkeypatch):
    folder = tiny_encoder("qwen2_vl")
    # What stands in the way of the command alone; a mteb that opens folders would make our verb needless.
    with pytest.raises(NotImplementedError, match="No model implementation is available"):
        mteb.get_model(str(folder))
    monkeypatch.setattr(sys, "argv", ["pytest"])
    try:
        words = ["run", "-m", str(folder), "-t", "ToyTexts", "ToyPages", "--output-folder", str(tmp_path / "results"), "--no-co2-tracker"]
        assert main(["mteb", "--device", "cpu", "--cache-dir", str(tmp_path), *words]) == 0
    finally:
        MODEL_REGISTRY.pop(str(folder), None)
    assert sys.argv == ["pytest"]
    (texts,) = (tmp_path / "results").rglob("ToyTexts.json")
    (pages,) = (tmp_path / "results").rglob("ToyPages.json")
    alone = twoway.mteb_model(folder, cache_dir=tmp_path, device="cpu")
    assert json.loads(texts.read_text())["scores"]["test"][0]["main_score"] == score(alone, ToyTexts())
    assert {one["hf_subset"] for one in json.loads(pages.read_text())["scores"]["test"]} == {"english", "french"}
    meta = json.loads((texts.parent / "model_meta.json").read_text())
    kinds = ["image", "text", *(["video"] if find_spec("torchcodec") else [])]  # mteb's command decodes videos itself
    assert (meta["name"], meta["modalities"]) == (f"twoway/{folder.name}", kinds)


def test_a_checkpoint_on_the_hub_is_seen_to_take_pictures(tiny_encoder):
    folder = tiny_encoder("qwen2_vl")
    files = ("config_sentence_transformers.json", "sentence_bert_config.json", "modules.json", "config.json")
    loader, kind, modalities = ModelMeta._resolve_loader("owner/name", *(json.loads((folder / name).read_text()) for name in files))
    assert (loader.__name__, kind, modalities) == ("SentenceTransformerEncoderWrapper", "dense", ["image", "text", "video"])
    assert ModelCard.load(folder / "README.md").data.library_name == "sentence-transformers"


def test_the_released_layout_of_moca_runs_under_sdpa_and_scores_as_the_converted_one(tmp_path):
    released = twoway.mteb_model(
        GOLDEN / "reference-embedding", cache_dir=tmp_path, device="cpu", processor=GOLDEN / "processor", template="chat"
    )
    assert released.model[0].auto_model.config._attn_implementation == "sdpa"
    convert(GOLDEN / "reference-embedding", tmp_path / "ours", processor=str(GOLDEN / "processor"))
    ours = twoway.mteb_model(tmp_path / "ours", cache_dir=tmp_path, device="cpu")
    assert score(released, ToyPages()) == score(ours, ToyPages())


def test_the_model_is_found_among_mtebs_words():
    assert named_model(["run", "-t", "STS12", "-m", "out"]) == "out"
    assert named_model(["run", "--model=out", "-t", "STS12"]) == "out"
    assert named_model(["available-tasks"]) is None
    assert named_model(["run", "-m"]) is None


def test_without_words_the_verb_says_what_to_say(capsys):
    assert main(["mteb"]) == 2
    assert "twoway mteb run -m out -t STS12" in capsys.readouterr().err
