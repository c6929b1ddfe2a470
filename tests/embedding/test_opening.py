"""Any model is opened as the kind that it is, and a fingerprint says whether two give the same vectors."""

from __future__ import annotations

import io
import json
import shutil
from pathlib import Path

import numpy as np
import peft
import pytest
import torch
from PIL import Image as PILImage
from safetensors.torch import load_file, save_file
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules import Dense
from sentence_transformers.sentence_transformer.modules import StaticEmbedding
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoModelForImageTextToText, AutoProcessor

from twoway.content import ContentError, Document, Image, Place, Text
from twoway.embedding import Embedder, open_embedder
from twoway.errors import TwowayError, UsageError
from twoway.methods.convert import convert


def picture() -> bytes:
    written = io.BytesIO()
    PILImage.fromarray(np.random.default_rng(0).integers(0, 255, (56, 84, 3), dtype=np.uint8)).save(written, "PNG")
    return written.getvalue()


GOLDEN = Path(__file__).parents[1] / "golden"
TEXTS = [Document((Text(words),)) for words in ("w4 w5", "a longer one " * 5)]
SHOWN = [*TEXTS, Document((Image(picture()), Text("w4 w5"))), Document((Image(picture()),))]


def same(first, second):
    return np.abs(first.array(TEXTS) - second.array(TEXTS)).max() < 1e-5


def test_a_plain_causal_model_reads_its_last_state(tiny_model, tiny_encoder):
    plain = open_embedder(tiny_model("qwen2_vl"), device="cpu")
    assert plain.read_as == {"attention": "causal", "pooling": "last", "template": "chat"}
    assert plain.sentence[1].pooling_mode == "lasttoken"
    assert same(plain, open_embedder(tiny_encoder("qwen2_vl", attention="causal", pooling="last"), device="cpu"))
    assert same(
        open_embedder(tiny_model("qwen2_vl"), device="cpu", pooling="eos"),
        open_embedder(tiny_encoder("qwen2_vl", attention="causal", pooling="eos"), device="cpu"),
    )


@pytest.mark.parametrize("template", [None, "chat"])
def test_a_folder_of_mocas_trainer_gives_the_same_vectors_opened_and_converted(template, tmp_path):
    parts = shutil.copytree(GOLDEN / "processor", tmp_path / "processor")
    own = parts / "chat_template.jinja"
    own.write_text("w7 " + own.read_text() + " w8")  # a chat has turns
    convert(GOLDEN / "reference-embedding", tmp_path / "ours", processor=parts, template=template)
    theirs = open_embedder(GOLDEN / "reference-embedding", device="cpu", processor=parts, template=template)
    ours = open_embedder(tmp_path / "ours", device="cpu")
    assert theirs.sentence[1].pooling_mode == ours.sentence[1].pooling_mode == "mean"
    assert np.abs(theirs.array(SHOWN) - ours.array(SHOWN)).max() < 1e-5
    rendered = ours.sentence[0].processor.apply_chat_template([{"role": "user", "content": "w4"}], tokenize=False)
    assert rendered == ("w7 w4 w8" if template == "chat" else "w4")  # plain unless a chat is asked for


@pytest.fixture
def cocoa(tiny_model, tmp_path):
    """Save a model under the name that CoCoA's own code gives a merged one."""
    folder = shutil.copytree(tiny_model("qwen2_5_vl"), tmp_path / "cocoa")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"architectures": ["Qwen2_5_VLBiForMNTP"]}))
    return folder


def at_eos(model, folder):
    """Return the vectors of `SHOWN` as CoCoA's paper has them, with none of the code under test: two-way, the state of a last EOS."""
    model.config.text_config.is_causal = False
    processor = AutoProcessor.from_pretrained(folder)
    found = []
    for document in SHOWN:
        pictures = [PILImage.open(io.BytesIO(image.source)) for image in document.images]
        words = "<|vision_start|><|image_pad|><|vision_end|>" * len(pictures) + "".join(document.texts) + processor.tokenizer.eos_token
        inputs = processor(text=[words], images=pictures or None, return_tensors="pt")
        with torch.no_grad():
            state = model.eval()(**inputs).last_hidden_state[0, -1]
        found.append((state / state.norm()).numpy())
    return np.stack(found)


def test_a_folder_of_cocoas_trainer_is_two_way_and_read_at_an_eos_that_is_appended(cocoa, tiny_model, tmp_path):
    wanted = at_eos(AutoModelForImageTextToText.from_pretrained(tiny_model("qwen2_5_vl")).model, cocoa)
    assert np.abs(open_embedder(cocoa, device="cpu").array(SHOWN) - wanted).max() < 1e-5
    convert(cocoa, tmp_path / "ours")
    assert np.abs(open_embedder(tmp_path / "ours", device="cpu").array(SHOWN) - wanted).max() < 1e-5


def test_cocoas_last_stage_is_an_adapter_with_dora_over_such_a_folder(cocoa, tiny_model, tmp_path):
    model = AutoModelForImageTextToText.from_pretrained(tiny_model("qwen2_5_vl"))
    torch.manual_seed(0)
    tuned = peft.get_peft_model(model, peft.LoraConfig(target_modules=["q_proj", "up_proj"], init_lora_weights=False, use_dora=True))
    tuned.peft_config["default"].base_model_name_or_path = str(cocoa)
    tuned.save_pretrained(tmp_path / "adapter")
    found = open_embedder(tmp_path / "adapter", device="cpu").array(SHOWN)
    assert np.abs(found - at_eos(tuned.merge_and_unload().model, cocoa)).max() < 1e-5
    assert not np.allclose(found, open_embedder(cocoa, device="cpu").array(SHOWN), atol=1e-3)


def test_what_no_name_tells_is_asked_for_or_warned_about(tiny_model, caplog):
    folder = tiny_model("qwen2_5_vl")  # CoCoA's merged Qwen2-VL has the name of any other
    wanted = at_eos(AutoModelForImageTextToText.from_pretrained(folder).model, folder)
    found = open_embedder(folder, device="cpu", pooling="eos", attention="two-way", template="plain")
    assert found.read_as == {"attention": "two-way", "pooling": "eos", "template": "plain"}
    assert np.abs(found.array(SHOWN) - wanted).max() < 1e-5
    assert "--attention" not in caplog.text
    open_embedder(folder, device="cpu", pooling="eos")
    assert "if CoCoA trained it, say --attention two-way" in caplog.text


@pytest.fixture
def adapter(tiny_model, tmp_path):
    """Save an adapter as a trainer leaves it, and beside it the model that it makes of its base."""
    model = AutoModelForImageTextToText.from_pretrained(tiny_model("qwen2_vl"))
    torch.manual_seed(0)
    tuned = peft.get_peft_model(model, peft.LoraConfig(target_modules=["q_proj", "v_proj"], init_lora_weights=False))
    tuned.save_pretrained(tmp_path / "adapter")
    merged = tuned.merge_and_unload()
    shutil.copytree(tiny_model("qwen2_vl"), tmp_path / "merged")
    merged.save_pretrained(tmp_path / "merged")
    return tmp_path / "adapter"


def test_an_adapter_is_merged_into_its_base(tiny_model, adapter):
    found = open_embedder(adapter, device="cpu", template="chat")
    assert found.sentence[1].pooling_mode == "lasttoken"
    assert same(found, open_embedder(adapter.parent / "merged", device="cpu"))
    assert not same(found, open_embedder(tiny_model("qwen2_vl"), device="cpu"))


def test_an_adapter_with_the_layer_names_of_older_days_is_merged_too(adapter):
    wanted = open_embedder(adapter, device="cpu")
    path = adapter / "adapter_model.safetensors"
    now, old = "base_model.model.model.language_model.", "base_model.model.model."
    tensors = load_file(path)
    assert all(name.startswith(now) for name in tensors)
    save_file({name.replace(now, old): tensor for name, tensor in tensors.items()}, path)
    assert same(open_embedder(adapter, device="cpu"), wanted)
    save_file({name.replace(now, "base_model.model.elsewhere."): tensor for name, tensor in tensors.items()}, path)
    with pytest.raises(TwowayError, match="is an adapter for another base"):
        open_embedder(adapter, device="cpu")


def test_an_adapter_of_somebody_gives_the_same_vectors_opened_and_converted(adapter, tmp_path):
    convert(adapter, tmp_path / "ours", attention="causal", pooling="last")
    assert (
        np.abs(open_embedder(adapter, device="cpu").array(SHOWN) - open_embedder(tmp_path / "ours", device="cpu").array(SHOWN)).max() < 1e-5
    )


def test_an_adapters_inputs_are_written_plain_and_instructions_behind_the_picture(adapter):
    parts = open_embedder(adapter, device="cpu").sentence[0].processor
    content = [{"type": "image"}, {"type": "text", "text": " What is it?"}]
    asked = [{"role": "user", "content": content}]
    shown = "<|vision_start|><|image_pad|><|vision_end|>"
    assert parts.apply_chat_template(asked, tokenize=False) == f"{shown} What is it?"
    told = [{"role": "system", "content": [{"type": "text", "text": " Answer:"}]}, *asked]
    assert parts.apply_chat_template(told, tokenize=False) == f"{shown} Answer: What is it?"
    assert not same(open_embedder(adapter, device="cpu"), open_embedder(adapter, device="cpu", template="chat"))


@pytest.fixture
def vlm2vec(tiny_model, tmp_path):
    """Save an adapter that asks for the layers that VLM2Vec's code asks for, whatever its base has."""
    model = AutoModelForImageTextToText.from_pretrained(tiny_model("qwen2_vl"))
    torch.manual_seed(0)
    asked = ["qkv_proj", "o_proj", "gate_up_proj", "down_proj", "k_proj", "q_proj", "out_proj", "v_proj"]
    tuned = peft.get_peft_model(model, peft.LoraConfig(target_modules=asked, init_lora_weights=False, use_dora=True))
    tuned.save_pretrained(tmp_path / "vlm2vec")
    return tmp_path / "vlm2vec", tuned.merge_and_unload().model.eval()


def test_vlm2vec_is_read_with_bare_pictures_at_positions_of_text(vlm2vec, tiny_model, tmp_path, caplog):
    """None of the code under test: positions count up, as transformers 4 gave them where it found no mark before a picture."""
    folder, model = vlm2vec
    processor = AutoProcessor.from_pretrained(tiny_model("qwen2_vl"))
    wanted, places = [], []
    for document in SHOWN:
        pictures = [PILImage.open(io.BytesIO(image.source)) for image in document.images]
        inputs = processor(text=["<|image_pad|>" * len(pictures) + "".join(document.texts)], images=pictures or None, return_tensors="pt")
        places.append(torch.arange(inputs["input_ids"].shape[1]).expand(3, 1, -1))
        with torch.no_grad():
            state = model(**inputs, position_ids=places[-1]).last_hidden_state[0, -1]
        wanted.append((state / state.norm()).numpy())
    found = open_embedder(folder, device="cpu")
    assert found.read_as == {"attention": "causal", "pooling": "last", "template": "bare"}
    assert np.abs(found.array(SHOWN) - np.stack(wanted)).max() < 1e-5
    assert "so scores are not its own" in caplog.text
    plain = open_embedder(folder, device="cpu", template="plain").array(SHOWN)
    assert np.abs(plain[:2] - np.stack(wanted)[:2]).max() < 1e-5
    assert np.abs(plain[2:] - np.stack(wanted)[2:]).max() > 1e-3
    result = convert(folder, tmp_path / "ours", attention="causal", pooling="last")
    assert any("not VLM2Vec's own" in note for note in result.card.notes)
    assert "are not VLM2Vec's own" in caplog.text
    with pytest.raises(UsageError, match="template takes one of chat, plain, not 'bare'"):
        convert(folder, tmp_path / "again", template="bare")


def test_whole_weights_without_a_card_are_not_taken_for_a_chat_in_silence(tiny_model, tmp_path, caplog):
    said = "nothing says how its inputs were written, and its chat template is taken"
    folder = shutil.copytree(tiny_model("qwen2_vl"), tmp_path / "weights")
    open_embedder(folder, device="cpu")
    assert said in caplog.text
    caplog.clear()
    convert(folder, tmp_path / "ours")
    assert said in caplog.text
    caplog.clear()
    open_embedder(folder, device="cpu", template="plain")
    open_embedder(tmp_path / "ours", device="cpu")
    (folder / "README.md").write_text("---\npipeline_tag: image-text-to-text\n---\n")
    open_embedder(folder, device="cpu")
    assert said not in caplog.text


@pytest.mark.parametrize(("family", "mode"), [("qwen2", "lasttoken"), ("bert", "mean")])
def test_a_text_model_takes_texts_and_refuses_pictures(family, mode, tiny_model):
    engine = open_embedder(tiny_model(family), device="cpu")
    assert engine.read_as["pooling"] == mode.removesuffix("token")
    assert engine.sentence[1].pooling_mode == mode
    alone = engine.sentence.encode(["w4 w5", "a longer one " * 5], show_progress_bar=False)
    assert np.abs(engine.array(TEXTS) - alone).max() < 1e-5
    with pytest.raises(TwowayError, match="takes no images"):
        engine.array([Document((Image(b"x"),))])
    for wish in ({"attention": "two-way"}, {"template": "plain"}, {"processor": str(tiny_model(family))}):
        with pytest.raises(UsageError, match=f"is a text model; --{next(iter(wish))} is for vision-language models"):
            open_embedder(tiny_model(family), device="cpu", **wish)


def test_a_fingerprint_is_of_what_is_computed_and_not_of_where_it_lies(tiny_encoder, tmp_path):
    here = tiny_encoder("qwen2_vl")
    shutil.copytree(here, tmp_path / "copy")
    opened = open_embedder(here, device="cpu")
    opened.array(TEXTS)
    first = opened.fingerprint
    assert open_embedder(tmp_path / "copy", device="cpu").fingerprint == first
    assert Embedder.of(SentenceTransformer(str(here), device="cpu")).fingerprint == first
    others = [
        open_embedder(here, device="cpu", dtype="bfloat16"),
        open_embedder(here, device="cpu", max_length=64),
        open_embedder(tiny_encoder("qwen2_vl", pooling="last"), device="cpu"),
        open_embedder(tiny_encoder("qwen2_vl", attention="causal"), device="cpu"),
        open_embedder(tiny_encoder("qwen2_vl", prompts={"query": "ask "}), device="cpu"),
    ]
    with torch.no_grad():
        opened.sentence[0].model.get_input_embeddings().weight[5, 5] += 1
    found = [first, opened.fingerprint, *(other.fingerprint for other in others)]
    assert len(set(found)) == len(found)


def test_a_model_of_static_vectors_is_a_sentence_transformer_too(tmp_path):
    words = Tokenizer(models.WordLevel({word: number for number, word in enumerate(["[UNK]", "w4", "w5", "longer", "cat.png"])}, "[UNK]"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    table = np.random.default_rng(0).normal(size=(5, 8)).astype(np.float32)
    SentenceTransformer(modules=[StaticEmbedding(words, embedding_weights=table)], device="cpu").save(str(tmp_path / "static"))
    engine = open_embedder(tmp_path / "static", device="cpu")
    found = engine.array([*TEXTS, Document((Text("cat.png"),))])
    assert np.abs(found - engine.sentence.encode(["w4 w5", "a longer one " * 5, "cat.png"], show_progress_bar=False)).max() < 1e-6
    assert np.abs(found[2] - table[4]).max() < 1e-6
    with pytest.raises(TwowayError, match="takes no images"):
        engine.array([Document((Image(b"x"),))])


def test_wrong_wishes_are_said_in_one_line(tiny_encoder, tmp_path):
    folder = tiny_encoder("qwen2_vl")
    for wish, said in (
        ({"dtype": "float3"}, "dtype takes one of .*, not 'float3'; did you mean float32"),
        ({"pooling": "mean"}, "has its own pooling"),
        ({"template": "plain"}, "has its own template"),
        ({"attention": "two-way"}, "has its own attention; leave --attention out"),
        ({"processor": str(folder)}, "has its own processor; leave --processor out"),
        ({"attention": "twoway"}, "attention takes one of .*, not 'twoway'; did you mean two-way"),
        ({"max_length": 0}, "max_length takes a whole number from 1, not '0'"),
        ({"device": "nothing"}, "device 'nothing' cannot be used here"),
    ):
        with pytest.raises(UsageError, match=said):
            open_embedder(folder, **{"device": "cpu"} | wish)
    with pytest.raises(TwowayError, match="no such model"):
        open_embedder(tmp_path / "none")


@pytest.mark.parametrize("written", ["pytorch_model.bin", "model.safetensors"])
def test_a_module_whose_weights_are_pickles_is_refused_in_one_line(tiny_encoder, tmp_path, written):
    folder = shutil.copytree(tiny_encoder("qwen2_vl"), tmp_path / "model")
    dense = Dense(SentenceTransformer(str(folder), device="cpu").get_embedding_dimension(), 8)
    (folder / "3_Dense").mkdir()
    (folder / "3_Dense/config.json").write_text(json.dumps(dense.get_config_dict()))
    write = torch.save if written.endswith(".bin") else save_file
    write(dense.state_dict(), folder / "3_Dense" / written)
    listed = json.loads((folder / "modules.json").read_text())
    kind = f"{Dense.__module__}.{Dense.__name__}"
    (folder / "modules.json").write_text(json.dumps([*listed, {"idx": 3, "name": "3", "path": "3_Dense", "type": kind}]))
    if written.endswith(".bin"):
        with pytest.raises(
            TwowayError, match=r"3_Dense has only pickle weights \(pytorch_model.bin\), which run code when they are read"
        ) as said:
            open_embedder(folder, device="cpu")
        assert len(str(said.value).splitlines()) == 1
    else:
        assert open_embedder(folder, device="cpu").array(TEXTS).shape == (2, 8)


def test_a_tokenizer_whose_pattern_explodes_costs_the_text_that_does_it(tiny_encoder, tmp_path):
    folder = shutil.copytree(tiny_encoder("qwen2_vl"), tmp_path / "model")
    said = json.loads((folder / "tokenizer.json").read_text())
    said["pre_tokenizer"] = {"type": "Split", "pattern": {"Regex": "(x+x+)+y"}, "behavior": "Isolated", "invert": False}
    (folder / "tokenizer.json").write_text(json.dumps(said))
    engine = open_embedder(folder, device="cpu")
    bad = Document((Text("x" * 60),), Place("rows.jsonl", 2))
    with pytest.raises(ContentError, match=r"rows.jsonl:2: the model's tokenizer fails on it \(Onig: Regex search error") as said:
        engine.array([TEXTS[0], bad])
    assert len(str(said.value).splitlines()) == 1
    refused = []
    found = dict(engine.embed([TEXTS[0], bad, TEXTS[1]], refuse=lambda *given: refused.append(given)))
    assert (sorted(found), len(refused)) == ([0, 2], 1)
