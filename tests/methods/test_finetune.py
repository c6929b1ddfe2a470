"""The whole command on tiny models: what comes out, going on after a stop, what is measured on the way, and what is refused."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image as PILImage
from safetensors.torch import load_file
from sentence_transformers import SentenceTransformer

from cut_off import cut_off, same_bits
from full_disk import disk_full
from pair_toys import USUAL, pair_file
from twoway.cli import main
from twoway.config import load
from twoway.content import Document, Image, Text
from twoway.data.config import PairSource
from twoway.errors import TwowayError, UsageError
from twoway.methods.config import AdapterConfig
from twoway.methods.convert import convert
from twoway.methods.finetune.config import ContrastiveConfig, FinetuneConfig
from twoway.methods.finetune.method import METHOD, finetune
from twoway.methods.run import configure
from twoway.models import checkpoint
from twoway.proof.check import check
from twoway.training.progress import read_log

pytestmark = pytest.mark.usefixtures("short_proof")


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    """Pairs of three tasks, with pictures, texts and hard negatives."""
    return pair_file(tmp_path_factory.mktemp("pairs"))


@pytest.fixture(scope="module")
def whole(tiny_model, rows, tmp_path_factory):
    """A run that nothing disturbs."""
    out = tmp_path_factory.mktemp("runs") / "whole"
    result = finetune(tiny_model("qwen2_vl"), out, [str(rows)], **USUAL, eval_data=(PairSource(str(rows), name="again"),), eval_rows=5)
    assert (result.steps, result.resumed) == (6, 0)
    return out


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"global_batch_size": "16"}, "finetune: global_batch_size takes a whole number from 2, not '16'"),
        ({"batch_size": 16}, r"finetune: unknown key batch_size; did you mean global_batch_size\?"),
        ({"loss": {"temprature": 0.02}}, r"finetune: unknown key loss.temprature; did you mean loss.temperature\?"),
        ({"loss": 0.02}, "finetune: loss takes a group of keys .*, not '0.02'"),
        ({"pooling": "maen"}, "finetune: pooling takes .*, not 'maen'"),
        ({"learning_rate": object()}, "finetune: learning_rate cannot be of the type object"),
        ({"global_batch_size": 0}, "finetune: global_batch_size takes a whole number from 2, not '0'"),
    ],
)
def test_options_of_python_are_read_as_the_commands_are(options, said):
    with pytest.raises(UsageError, match=said):
        finetune("no base is looked for", "nowhere", "rows.jsonl", **options)


def test_groups_may_be_dicts_and_stand_over_a_configuration():
    given = FinetuneConfig(loss=ContrastiveConfig(margin=0.1), learning_rate=1e-4)
    made = configure(METHOD, given, "rows.jsonl", {"loss": {"temperature": 0.02}, "lora": AdapterConfig(r=4), "seed": np.int64(3)})
    assert made == replace(
        given, loss=ContrastiveConfig(margin=0.1, temperature=0.02), lora=AdapterConfig(r=4), seed=3, data=(PairSource("rows.jsonl"),)
    )


def test_the_result_is_a_plain_two_way_checkpoint_that_says_what_it_was_trained_with(whole, tiny_model):
    report = check(whole, backends=["sdpa"])
    assert (report.verdict, report.ok) == ("two-way", True)
    facts = checkpoint.read_card(whole)
    assert [step["step"] for step in facts["chain"]] == ["finetune"]
    assert facts["pooling"] == "mean"
    model = SentenceTransformer(str(whole), device="cpu")
    assert {name: text for name, text in model.prompts.items() if text} == USUAL["prompts"]
    before = load_file(tiny_model("qwen2_vl") / "model.safetensors")
    before = {name.removeprefix("model."): value for name, value in before.items()}
    after = {name.removeprefix("language_model."): value for name, value in load_file(whole / "model.safetensors").items()}
    assert sum(not torch.equal(value, before[name]) for name, value in after.items()) > len(after) / 2


def test_a_saved_prompt_gives_the_tokens_that_training_saw(whole, tiny_model, rows, tmp_path):
    """`prompt_name=` and a document, against what the run's own encoder made of the same row and side."""
    from twoway.content import to_messages
    from twoway.methods.finetune.data import open_data
    from twoway.methods.finetune.method import prepare

    config = FinetuneConfig(**USUAL, data=(PairSource(str(rows)),))
    prepared = prepare(tiny_model("qwen2_vl"), config)
    data = open_data(config, prepared, tmp_path, shards=1, bad_rows=None)
    model = SentenceTransformer(str(whole), device="cpu")
    for row in range(6):
        identity, pair = data.pairs.read(row)
        example = data.encode((identity, pair), epoch=0)
        for side, document, content in (("query", pair.query, example.query), ("document", pair.positive, example.positive)):
            name = next((name for name in (f"{pair.task}-{side}", side) if name in model.prompts), None)
            prompt = (model.prompts[name] if name else "") or None
            features = model.preprocess([to_messages(document)], prompt=prompt)
            assert features["input_ids"][0].tolist() == content.example.inputs["input_ids"].tolist()


def test_each_step_is_of_one_task_and_the_log_says_how_it_did(whole):
    lines = read_log(whole)
    steps = [line for line in lines if line["step"]]
    assert [line["step"] for line in steps] == list(range(1, 7))
    for line in steps:
        assert line["contrastive"] > 0
        assert len([key for key in line if key.startswith("accuracy/")]) == 1
        assert {"accuracy", "positive", "hardest", "temperature", "grad_norm"} <= line.keys()
    measured = [line for line in lines if "mrr/again" in line]
    assert [line["step"] for line in measured] == [0, 3, 6]
    assert measured[0]["queries/again"] == 15
    assert {"mrr/again/colour", "recall1/again/words", "recall10/again/same", "mrr/held-out"} <= measured[0].keys()
    assert all(0 < line["mrr/again"] <= 1 for line in measured)


def test_the_report_shows_queries_with_what_they_found(whole):
    page = (whole / "report.html").read_text()
    for said in ("What queries find", "MRR by task", "In-batch accuracy by task", "repeats", "query · colour"):
        assert said in page
    assert page.count("data:image/jpeg") > 3
    assert page.count("<figure>") == 11  # every chart has its numbers in the log


def test_the_report_has_the_last_step_and_what_chance_scores(whole):
    page, last = (whole / "report.html").read_text(), read_log(whole)[-1]
    assert last["step"] == 6
    for number in (f"{last['contrastive']:.3f}", f"{last['accuracy']:.1%}"):
        assert f"<b>{number}</b>" in page
    assert "chance" in page


def test_a_run_that_was_cut_off_ends_with_the_same_bits(whole, tiny_model, rows, tmp_path):
    out = tmp_path / "cut"
    options = USUAL | {"eval_data": (PairSource(str(rows), name="again"),), "eval_rows": 5}
    with cut_off(4):
        finetune(tiny_model("qwen2_vl"), out, [str(rows)], **options)
    assert not (out / "model.safetensors").exists()
    result = finetune(tiny_model("qwen2_vl"), out, [str(rows)], **options | {"save_steps": 3, "dataloader_num_workers": 1})
    assert (result.steps, result.resumed) == (6, 2)
    same_bits(out / "model.safetensors", whole / "model.safetensors")
    assert [line.get("loss") for line in read_log(out)] == [line.get("loss") for line in read_log(whole)]
    for name in ("weights.safetensors", "state.json"):
        assert (out / "best" / name).read_bytes() == (whole / "best" / name).read_bytes()


def test_a_run_with_augmentation_that_was_cut_off_ends_with_the_same_bits(whole, tiny_model, rows, tmp_path):
    options = USUAL | {"eval_steps": 0, "augment": {"scale": [0.9, 1.1], "rotate": 8, "colour": 0.2}}
    finetune(tiny_model("qwen2_vl"), tmp_path / "at once", [str(rows)], **options)
    with cut_off(4):
        finetune(tiny_model("qwen2_vl"), tmp_path / "cut", [str(rows)], **options)
    finetune(tiny_model("qwen2_vl"), tmp_path / "cut", [str(rows)], **options | {"dataloader_num_workers": 1})
    same_bits(tmp_path / "cut" / "model.safetensors", tmp_path / "at once" / "model.safetensors")
    losses = [[line["loss"] for line in read_log(out) if "loss" in line] for out in (tmp_path / "at once", whole)]
    assert all(one != other for one, other in zip(*losses, strict=True))


def test_a_full_disk_ends_a_run_with_a_line_wherever_it_comes_and_the_same_command_goes_on(whole, tiny_model, rows, tmp_path):
    out = tmp_path / "full"
    options = USUAL | {"eval_data": (PairSource(str(rows), name="again"),), "eval_rows": 5}
    weights = (whole / "model.safetensors").stat().st_size
    for room in (64, 3000, weights - 1):  # of settings, of the log, of weights
        with disk_full(room), pytest.raises(TwowayError, match=r"no space left on the disk while writing"):
            finetune(tiny_model("qwen2_vl"), out, [str(rows)], **options)
        assert not (out / "model.safetensors").exists()
    finetune(tiny_model("qwen2_vl"), out, [str(rows)], **options)
    same_bits(out / "model.safetensors", whole / "model.safetensors")


def test_the_best_weights_are_kept_and_may_become_the_model(whole, tiny_model, rows, tmp_path):
    scores = {line["step"]: line["mrr/again"] for line in read_log(whole) if line["step"] and "mrr/again" in line}
    state = json.loads((whole / "best" / "state.json").read_text())
    assert state["score"] == max(scores.values()) == scores[state["step"]]
    out = tmp_path / "best"
    options = USUAL | {"learning_rate": 1e-2, "load_best_model_at_end": True, "eval_steps": 1, "max_steps": 3, "save_steps": 3}
    finetune(tiny_model("qwen2_vl"), out, [str(rows)], **options)
    kept, model = load_file(out / "best" / "weights.safetensors"), load_file(out / "model.safetensors")
    name = next(name for name in model if name.endswith("q_proj.weight"))
    assert torch.equal(kept[next(one for one in kept if one.endswith(name.removeprefix("model.")))], model[name])


def test_the_mean_of_the_last_checkpoints_may_become_the_model(tiny_model, rows, tmp_path):
    out = tmp_path / "mean"
    steps = {"max_steps": 3, "save_steps": 1, "save_minutes": 0, "save_total_limit": 2, "average_checkpoints": 2}
    finetune(tiny_model("qwen2_vl"), out, [str(rows)], **USUAL | steps)
    model, saved = (
        load_file(out / "model.safetensors"),
        [load_file(out / f"checkpoints/step-{step}/weights.safetensors") for step in (2, 3)],
    )
    name = next(name for name in model if name.endswith("q_proj.weight"))
    first, last = (next(one[key] for key in one if key.endswith(name.removeprefix("model."))) for one in saved)
    assert not torch.equal(first, last)
    assert torch.allclose(model[name], (first + last) / 2, atol=1e-7)


def test_the_best_on_other_rows_is_not_taken_for_the_best(tiny_model, rows, tmp_path, caplog):
    """A run goes on and measures on other rows: what was best on the old ones is not compared with them."""
    options = USUAL | {"max_steps": 2, "save_steps": 1, "eval_steps": 1, "load_best_model_at_end": True, "held_out": 0}
    options |= {"eval_data": (PairSource(str(rows), name="again"),), "eval_rows": 5}
    base, out = tiny_model("qwen2_vl"), tmp_path / "same"
    with cut_off(2):
        finetune(base, out, [str(rows)], **options)
    state = json.loads((out / "best" / "state.json").read_text())
    (out / "best" / "state.json").write_text(json.dumps(state | {"score": 2.0, "step": 1}))  # no other step does as well
    shutil.copytree(out, tmp_path / "other")
    finetune(base, out, [str(rows)], **options)
    assert json.loads((out / "best" / "state.json").read_text())["score"] == 2.0
    assert "other rows" not in caplog.text
    finetune(base, tmp_path / "other", [str(rows)], **options | {"eval_rows": 4})
    found = json.loads((tmp_path / "other" / "best" / "state.json").read_text())
    assert (found["step"], found["score"] <= 1) == (2, True)
    assert "of step 1, were measured on other rows" in caplog.text


def test_a_loss_on_hard_negatives_alone_refuses_rows_without_any(tiny_model, tmp_path):
    data = _lines(tmp_path / "rows.jsonl", *(row | {"negatives": []} for row in GOOD))
    options = USUAL | {"max_steps": 1, "prompts": {}, "held_out": 0, "eval_steps": 0}
    with pytest.raises(UsageError, match="own compares with a row's own hard negatives alone, and no row of this batch has any"):
        finetune(tiny_model("qwen2_vl"), tmp_path / "own", [data], **options, loss=ContrastiveConfig(negatives="own"))
    assert finetune(tiny_model("qwen2_vl"), tmp_path / "all", [data], **options).steps == 1


def test_a_causal_model_of_the_last_token_stays_causal(tiny_model, rows, tmp_path):
    """What VLM2Vec does: causal attention, last token, LoRA, temperature 0.02."""
    options = USUAL | {"max_steps": 2, "attention": "causal", "pooling": "last", "loss": ContrastiveConfig(temperature=0.02)}
    config = load(FinetuneConfig, None, ["lora.r=2"])
    finetune(tiny_model("qwen2_vl"), tmp_path / "out", [str(rows)], config=config, **options, template="plain")
    facts = checkpoint.read_card(tmp_path / "out")
    assert facts["attention"]["measured"] == "causal"
    assert facts["pooling"] == "last"
    model = SentenceTransformer(str(tmp_path / "out"), device="cpu")
    assert np.isfinite(model.encode(["a", "b"], prompt_name="query")).all()


def test_an_eos_token_ends_every_row_in_training_and_after_it(tiny_model, rows, tmp_path):
    finetune(tiny_model("qwen2_vl"), tmp_path / "out", [str(rows)], **USUAL | {"max_steps": 1, "pooling": "eos"})
    model = SentenceTransformer(str(tmp_path / "out"), device="cpu")
    ids = model.preprocess(["a text"], prompt=model.prompts["query"])["input_ids"][0].tolist()
    assert ids[-1] == model.tokenizer.eos_token_id
    assert checkpoint.read_card(tmp_path / "out")["pooling"] == "eos"


def test_the_command_takes_sources_to_measure_on(tiny_model, rows, tmp_path, capsys):
    options = [f"{key}={value}" for key, value in USUAL.items() if key not in ("prompts", "max_steps", "held_out")]
    words = ["finetune", str(tiny_model("qwen2_vl")), str(tmp_path / "out"), "--data", str(rows), "--eval-data", str(rows), *options]
    assert main([*words, "max_steps=1", "held_out=0", "eval_rows=4"]) == 0
    said = capsys.readouterr().out
    assert said.startswith(f"{tmp_path / 'out'}: 1 steps done, two-way as measured; last contrastive ")
    assert "; MRR on rows.jsonl 0." in said
    # What is measured may change; what is trained may not.
    assert main([*words, "max_steps=1", "held_out=0", "eval_rows=5"]) == 0
    assert "done already" in capsys.readouterr().out
    assert main([*words, "max_steps=1", "held_out=1", "eval_rows=5"]) == 2


def _lines(path, *rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


GOOD = [{"query": f"q{number}", "positive": f"p{number}"} for number in range(8)]


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"query": "q"}, r"rows\.jsonl:9: the row has no positive"),
        ({"query": "q", "positive": "p", "negatives": ["p"]}, r"rows\.jsonl:9: negative 1 is the positive itself"),
        ({"query": {"image": "gone.png"}, "positive": "p"}, r"rows\.jsonl:9: .*gone\.png does not exist"),
    ],
)
def test_bad_rows_stop_the_run_or_are_left_out(bad, message, tiny_model, tmp_path):
    data, options = _lines(tmp_path / "rows.jsonl", *GOOD, bad), USUAL | {"max_steps": 1, "prompts": {}}
    with pytest.raises(TwowayError, match=message):
        finetune(tiny_model("qwen2_vl"), tmp_path / "out", [data], **options)
    assert not (tmp_path / "out").exists()
    finetune(tiny_model("qwen2_vl"), tmp_path / "out", [data], **options, on_bad="skip")
    assert json.loads((tmp_path / "out" / "bad-rows.jsonl").read_text())["row"] == 9


def test_a_picture_that_breaks_on_the_way_is_named(tiny_model, tmp_path):
    picture = tmp_path / "a.png"
    PILImage.new("RGB", (28, 28)).save(picture)
    picture.write_bytes(picture.read_bytes()[:60])  # the header is whole, the pixels are not
    data = _lines(tmp_path / "rows.jsonl", *GOOD, {"query": {"image": "a.png"}, "positive": "p"})
    options = USUAL | {"max_steps": 2, "global_batch_size": 9, "prompts": {}, "held_out": 0}
    with pytest.raises(TwowayError, match=r"rows\.jsonl:9: .*a\.png is broken"):
        finetune(tiny_model("qwen2_vl"), tmp_path / "fail", [data], **options)
    finetune(tiny_model("qwen2_vl"), tmp_path / "skip", [data], **options, on_bad="skip")
    assert {line["rows"] for line in read_log(tmp_path / "skip") if line["step"]} == {8}


def test_what_is_longer_than_a_row_may_be_is_cut_and_counted(tiny_model, tmp_path):
    data = _lines(tmp_path / "rows.jsonl", *GOOD[:7], {"query": "long " * 100, "positive": "p"})
    options = USUAL | {"max_steps": 1, "global_batch_size": 8, "prompts": {}, "held_out": 0, "max_length": 64}
    result = finetune(tiny_model("qwen2_vl"), tmp_path / "out", [data], **options)
    assert result.last["cut"] == pytest.approx(1 / 16, abs=1 / 100)


def test_a_task_with_fewer_rows_than_a_batch_is_refused_or_kept(tiny_model, tmp_path):
    data, options = _lines(tmp_path / "rows.jsonl", *GOOD), USUAL | {"max_steps": 1, "global_batch_size": 64, "prompts": {}}
    with pytest.raises(UsageError, match=r"a batch has 64 rows of one task, more than there are in rows\.jsonl \(8\)"):
        finetune(tiny_model("qwen2_vl"), tmp_path / "out", [data], **options | {"small_tasks": "fail"})
    assert not (tmp_path / "out").exists()
    result = finetune(tiny_model("qwen2_vl"), tmp_path / "out", [data], **options)
    assert result.last["rows"] == 8


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["loss.temperature=0"], "loss.temperature=0: loss.temperature takes a number above 0"),
        (["global_batch_size=1"], "global_batch_size takes a whole number from 2"),
        (["per_device_train_batch_size=4"], "leave per_device_train_batch_size out"),
        (["max_repeats=0"], "max_repeats takes a number from 1"),
        (["mixed=true", "sampling=weight"], "sampling is size"),
        (["load_best_model_at_end=true"], "needs eval_steps"),
        (["average_checkpoints=3"], "raise save_total_limit"),
        (["average_checkpoints=2"], "set save_minutes to 0"),
        (["average_checkpoints=2", "lora.r=4"], "an adapter's factors"),
        (["attention=both"], "attention"),
        (["tempurature=1"], "unknown|no key|did you mean"),
    ],
)
def test_settings_that_cannot_be_are_refused_at_once(words, message):
    with pytest.raises(UsageError, match=message):
        load(FinetuneConfig, None, words)


def test_a_sources_own_instructions_are_saved_under_its_task():
    """Without a name of its own a source's task is its file's."""
    sources = (PairSource("a.jsonl", query="Find: "), PairSource("b.jsonl", task="b", document="A page: "))
    config = FinetuneConfig(data=sources, prompts={"document": "It: "})
    assert config.all_prompts() == {"document": "It: ", "a.jsonl-query": "Find: ", "b-document": "A page: "}
    with pytest.raises(UsageError, match="the prompt b-query is said twice"):
        FinetuneConfig(data=(PairSource("x", task="b", query="1"), PairSource("y", task="b", query="2"))).all_prompts()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"prompts": {"color-query": "x"}}, r"prompts\.color-query: .*did you mean colour-query"),
        ({"task_weights": {"word": 2.0}}, "no task 'word'; did you mean words"),
        ({"truncate_dim": 999}, "truncate_dim 999 is out of range"),
        ({"average_checkpoints": 2, "save_minutes": 0, "save_steps": 99}, "make 1 checkpoints"),
        ({"load_best_model_at_end": True, "held_out": 0}, "load_best_model_at_end needs rows to measure on"),
    ],
)
def test_what_the_data_or_the_model_lacks_is_refused(options, message, tiny_model, rows, tmp_path):
    with pytest.raises(UsageError, match=message):
        finetune(tiny_model("qwen2_vl"), tmp_path / "out", [str(rows)], **USUAL | options)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("family", "pooling"), [("qwen2_vl", "mean"), ("qwen2_vl", "last"), ("qwen2_vl", "eos"), ("gemma3", "mean")])
def test_what_is_too_long_has_the_vector_that_the_saved_model_gives_it(family, pooling, tiny_model, tmp_path):
    """Cut at the checkpoint's limit, with an instruction and without, a picture before the text or none: longer than Gemma's window."""
    from twoway.content import to_messages
    from twoway.data.collators import model_inputs
    from twoway.data.processing import Encoder
    from twoway.methods.finetune.data import SentenceInputs
    from twoway.methods.finetune.method import prepare

    convert(tiny_model(family), tmp_path / "saved", pooling=pooling, max_length=60)
    prepared = prepare(tmp_path / "saved", FinetuneConfig(prompt_place="system"))
    encode = SentenceInputs(prepared.input_module, Encoder(prepared.processor, prepared.geometry, max_length=prepared.max_length))
    model, task = SentenceTransformer(str(tmp_path / "saved"), device="cpu"), prepared.module.eval()
    words, picture = Text("long and longer " * 40), Image(PILImage.new("RGB", (56, 28), "red"))
    for parts in ((words,), (picture, words)):
        for instruction in ("", "Find: "):
            example = encode("row", Document(parts), instruction)
            assert example.cut
            inputs = model_inputs([example.inputs], pad_token=prepared.pad_token, padding_side="right")
            with torch.no_grad():
                ours = torch.nn.functional.normalize(task.predict(inputs), dim=-1)
            theirs = model.encode([to_messages(Document(parts))], prompt=instruction or None, convert_to_tensor=True)
            torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5)


def test_contents_are_written_as_encode_writes_them_and_special_strings_stay_text(tiny_model):
    from twoway.content import to_messages
    from twoway.data.processing import Encoder
    from twoway.methods.finetune.data import SentenceInputs
    from twoway.methods.finetune.method import prepare

    prepared = prepare(tiny_model("qwen2_vl"), FinetuneConfig())
    write = SentenceInputs(prepared.input_module, Encoder(prepared.processor, prepared.geometry, max_length=prepared.max_length))
    picture, special = Image(PILImage.new("RGB", (56, 28), "red")), prepared.processor.image_token
    for parts in ((Text("a red thing"),), (picture, Text("and words"))):
        wanted = prepared.input_module.preprocess([to_messages(Document(parts))], prompt="Find: ")
        made = write("row", Document(parts), "Find: ").inputs
        assert torch.equal(made["input_ids"], wanted["input_ids"][0])
        assert "pixel_values" not in wanted or torch.equal(made["pixel_values"], wanted["pixel_values"])
    literal = (Text(f"say {special} now"),)
    with pytest.raises(ValueError, match="no images were passed"):
        prepared.input_module.preprocess([to_messages(Document(literal))])
    assert prepared.geometry.image_token not in write("row", Document(literal)).inputs["input_ids"]
