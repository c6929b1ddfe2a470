"""What cannot be converted is refused in one line that says what, where and what to do, and nothing half-written is left."""

from __future__ import annotations

import errno
import json
import shutil
from types import SimpleNamespace
from typing import TYPE_CHECKING

import pytest
import transformers
from huggingface_hub import errors as hub
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

import twoway
from twoway import cli
from twoway.errors import TwowayError, UsageError
from twoway.methods import convert as stage
from twoway.methods.config import ConvertConfig
from twoway.models import loading

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    Change = Callable[[Path], None]


def rewrite(name: str, **values: object) -> Change:
    """Change values in a JSON file."""

    def change(folder: Path) -> None:
        content = json.loads((folder / name).read_text())
        (folder / name).write_text(json.dumps(content | values))

    return change


def remove(*names: str) -> Change:
    return lambda folder: [(folder / name).unlink() for name in names] and None


def rename(old: str, new: str) -> Change:
    return lambda folder: (folder / old).rename(folder / new) and None


def cut(folder: Path) -> None:
    whole = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(whole[: len(whole) // 2])


def scramble(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(b"\xff" * 4096)


def lose_a_tensor(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    del weights[next(name for name in weights if "down_proj" in name)]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def lose_a_shard(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "model-00001-of-00002.safetensors")
    shards = {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": shards}))


def too_many_words(folder: Path) -> None:
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    tokenizer.add_tokens([f"<word{n}>" for n in range(50)])
    tokenizer.save_pretrained(folder)


def not_finite(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    next(weights[name] for name in weights if "down_proj" in name)[0] = float("nan")
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def theirs(folder: Path) -> None:
    (folder / "modules.json").write_text(json.dumps([{"type": "a.Transformer", "path": ""}, {"type": "a.LayerNorm", "path": "1"}]))


CHANGES: dict[str, tuple[Change, str]] = {
    "no config": (remove("config.json"), "config.json is missing"),
    "broken config": (lambda folder: (folder / "config.json").write_text("{") and None, "config.json cannot be read"),
    "config of another kind": (lambda folder: (folder / "config.json").write_text("[]") and None, "should hold a JSON object, not a list"),
    "no model type": (lambda folder: (folder / "config.json").write_text("{}") and None, "names no model_type"),
    "unknown type": (rewrite("config.json", model_type="qwen2_vll"), "'qwen2_vll'; did you mean qwen2_vl"),
    "code of its own": (
        rewrite("config.json", model_type="own", auto_map={"AutoConfig": "own.Config"}),
        "code from checkpoints is not run",
    ),
    "cut off": (cut, "model.safetensors is cut off or corrupt"),
    "corrupt": (scramble, "model.safetensors is cut off or corrupt"),
    "no weights": (remove("model.safetensors"), "has no weights: model.safetensors is missing"),
    "pickle": (rename("model.safetensors", "pytorch_model.bin"), r"only pickle weights \(pytorch_model.bin\).*save_pretrained"),
    "a shard lost": (lose_a_shard, "lacks the weight file model-00002-of-00002.safetensors"),
    "a tensor lost": (lose_a_tensor, "lack 1 tensors.*down_proj"),
    "another config": (rewrite("config.json", vision_config={"model_type": "qwen2_vl_vision", "depth": 1}), "do not fit its config"),
    "not finite": (not_finite, "not finite"),
    "no processor": (remove("processor_config.json"), "has no processor.*--processor"),
    "a broken processor": (lambda folder: (folder / "processor_config.json").write_text("{") and None, "processor in .* cannot be loaded"),
    "too many words": (too_many_words, "vocabulary does not fit: .* 272 embeddings"),
    "another encoder": (
        theirs,
        "has a.Transformer, a.LayerNorm; .* the rest would be lost",
    ),
}


def refused(tmp_path: Path, src: str | Path, words: str, **options: object) -> TwowayError:
    """Convert, and see that it is refused in one line with nothing left behind."""
    before = sorted(tmp_path.iterdir())
    with pytest.raises(TwowayError, match=words) as caught:
        twoway.convert(src, tmp_path / "out", **options)
    assert "\n" not in str(caught.value)
    assert sorted(tmp_path.iterdir()) == before
    return caught.value


@pytest.mark.parametrize("name", CHANGES)
def test_a_broken_source_is_refused(name: str, tiny_model: Callable[[str], Path], tmp_path: Path) -> None:
    change, words = CHANGES[name]
    change(shutil.copytree(tiny_model("qwen2_vl"), tmp_path / "src"))
    refused(tmp_path, tmp_path / "src", words)


@pytest.mark.parametrize(
    ("src", "words"),
    [
        ("no/such-model", "no such model: no/such-model"),
        ("./nowhere", "no such model: ./nowhere is neither"),
        ("a b", "neither a folder nor"),
    ],
)
def test_no_such_model(src: str, words: str, tmp_path: Path) -> None:
    refused(tmp_path, src, words)


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (hub.GatedRepoError, "is gated on the hub; ask for access"),
        (hub.RepositoryNotFoundError, "the hub has no repository of that name"),
        (hub.HfHubHTTPError, "the hub did not answer: why"),
        (hub.LocalEntryNotFoundError, "the hub cannot be reached"),
        (ConnectionError, "the hub did not answer: why"),
    ],
)
def test_what_the_hub_answers_is_said(error: type[Exception], words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        response = {"response": SimpleNamespace(headers={}, request=None)} if issubclass(error, hub.HfHubHTTPError) else {}
        raise error("why\nand a second line", **response)

    monkeypatch.setattr(loading.huggingface_hub, "snapshot_download", fail)
    refused(tmp_path, "owner/name", words)


@pytest.mark.parametrize(
    ("wish", "said"),
    [
        ({"template": "plane"}, "template takes one of chat, plain, not 'plane'; did you mean plain"),
        ({"attention": "twoway"}, "attention takes one of two-way, causal, mixed, not 'twoway'; did you mean two-way"),
        ({"pooling": "means"}, "pooling takes one of mean, last, eos, not 'means'; did you mean mean"),
    ],
)
def test_a_wish_that_does_not_exist_is_refused_before_any_work(wish: dict[str, str], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        ConvertConfig(**wish)


def test_a_file_is_no_model(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    refused(tmp_path, tmp_path / "file", "is a file; name the folder")


@pytest.mark.parametrize(("family", "words"), [("llama", "text-only model"), ("bert", "an encoder alone")])
def test_a_model_without_images_is_refused(family: str, words: str, tiny_model: Callable[[str], Path], tmp_path: Path) -> None:
    refused(tmp_path, tiny_model(family), words)


def test_a_wrong_processor_is_refused(tiny_model: Callable[[str], Path], tmp_path: Path) -> None:
    src = tiny_model("qwen2_vl")
    refused(tmp_path, src, "has no processor", processor=str(tiny_model("llama")))
    refused(tmp_path, src, "image token", processor=str(tiny_model("smolvlm")))
    refused(tmp_path, src, "the vocabulary does not fit", processor=str(tiny_model("paligemma")))
    # The same tokens, and patches of another size: only a run shows it.
    refused(tmp_path, src, "do not work together", processor=str(tiny_model("qwen3_vl")))


def test_an_adapter_of_pickles_is_refused(tmp_path: Path) -> None:
    (tmp_path / "adapter").mkdir()
    (tmp_path / "adapter" / "adapter_config.json").write_text("{}")
    (tmp_path / "adapter" / "adapter_model.bin").touch()
    refused(tmp_path, tmp_path / "adapter", "only pickle weights")


def test_what_a_family_cannot_do_is_refused(tiny_model: Callable[[str], Path], tmp_path: Path) -> None:
    refused(tmp_path, tiny_model("paligemma"), "takes the EOS token off again", pooling="eos")
    refused(tmp_path, tiny_model("gemma3"), "brings every picture to one size", max_pixels=500)
    refused(tmp_path, tiny_model("internvl"), "leave min_pixels out", min_pixels=1000)


def test_a_model_that_stays_causal_is_refused(tiny_model: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A family that reads the switch in no layer: the config says two-way and the proof does not."""
    monkeypatch.setattr(stage, "set_attention", lambda model, _: setattr(model.config, "is_causal", False))
    refused(tmp_path, tiny_model("qwen3_vl"), "was to be two-way and is measured causal")


@pytest.mark.parametrize(
    "failure",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)"),
    ],
)
def test_a_full_disk_leaves_nothing(
    failure: Exception, tiny_model: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_self: object, folder: Path, **_options: object) -> None:
        (folder / "model.safetensors").write_bytes(b"half")
        raise failure

    source = tiny_model("qwen2_vl")
    monkeypatch.setattr(transformers.PreTrainedModel, "save_pretrained", fail)
    refused(tmp_path, source, "no space left")


def test_an_interrupt_leaves_nothing(tiny_model: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(stage.probe, "probe", interrupt)
    assert cli.main(["convert", str(tiny_model("qwen2_vl")), str(tmp_path / "out")]) == 130
    assert not list(tmp_path.iterdir())


def test_what_is_there_is_kept(tiny_model: Callable[[str], Path], tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").write_text("mine")
    with pytest.raises(UsageError, match="exists already"):
        twoway.convert(tiny_model("qwen2_vl"), tmp_path / "out")
    with pytest.raises(TwowayError, match="text-only"):
        twoway.convert(tiny_model("llama"), tmp_path / "out", overwrite=True)
    assert (tmp_path / "out" / "mine").read_text() == "mine"
