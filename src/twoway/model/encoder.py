"""Assemble a model and its processor as a plain sentence-transformers checkpoint, and read one back.

What is written needs no code of ours: `Transformer`, `Pooling` and `Normalize` are sentence-transformers' own modules. The weights
are written once, by transformers; then the folder is opened by sentence-transformers as anybody would open it, and everything
that is said about the result is measured on that.
"""

from __future__ import annotations

import json
import tempfile
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules import Transformer

from twoway.errors import TwowayError, UsageError
from twoway.files import disk_errors, sha256

from . import pooling
from .source import first_line, read_json, weight_files

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from transformers import PreTrainedModel

MODULES, SETTINGS = "modules.json", "config_sentence_transformers.json"
_KEPT = ("Transformer", "Pooling", "Dense", "Normalize")


@dataclass(frozen=True)
class Settings:
    """What a sentence-transformers checkpoint says besides its model."""

    transformer: str = ""
    pooling: str | None = None
    dim: int | None = None
    prompts: dict[str, str] = field(default_factory=dict)


def is_encoder(folder: Path) -> bool:
    """Say whether a folder is a sentence-transformers checkpoint."""
    return (folder / MODULES).exists()


def read_settings(folder: Path) -> Settings:
    """Read the settings of a sentence-transformers checkpoint; modules that would be lost are an error."""
    try:
        listed = json.loads((folder / MODULES).read_text(encoding="utf-8"))
        found = {str(module["type"]).rsplit(".", 1)[-1]: str(module["path"]) for module in listed}
    except (ValueError, KeyError, TypeError) as error:
        raise TwowayError(f"{folder / MODULES} cannot be read: {first_line(error)}") from error
    other = sorted(found.keys() - set(_KEPT))
    if "Transformer" not in found:
        raise TwowayError(f"{folder} has the modules {', '.join(found)} and no Transformer among them; there is nothing to convert")
    if other:
        raise TwowayError(
            f"{folder} has the modules {', '.join(found)}; convert keeps {', '.join(_KEPT)} and would lose {', '.join(other)}"
        )
    own = read_json(folder / "twoway.json") if (folder / "twoway.json").exists() else {}
    if "Dense" in found and not own:
        raise TwowayError(f"{folder} has a Dense module, a learnt projection that convert does not carry over")
    config = read_json(folder / found["Pooling"] / "config.json") if "Pooling" in found else {}
    names = {theirs: ours for ours, theirs in reversed(pooling.MODES.items())}
    mode = config.get("pooling_mode") or next((name for name in names if config.get(f"pooling_mode_{name}")), None)
    prompts = read_json(folder / SETTINGS).get("prompts", {}) if (folder / SETTINGS).exists() else {}
    return Settings(
        found["Transformer"], own.get("pooling") or names.get(str(mode)), own.get("dim"), {k: v for k, v in prompts.items() if v}
    )


def save_model(model: PreTrainedModel, processor: Any, folder: Path) -> None:
    """Write weights and processor as transformers does."""
    with disk_errors():
        model.save_pretrained(folder)
        processor.save_pretrained(folder)


def assemble(folder: Path, *, mode: str, dim: int | None, prompts: Mapping[str, str]) -> SentenceTransformer:
    """Open a saved model, put pooling behind it, write the settings, and return what anyone gets who loads the folder."""
    try:
        transformer = Transformer(str(folder), model_kwargs={"use_safetensors": True})
    except (RuntimeError, ValueError, KeyError, OSError, TypeError) as error:
        raise TwowayError(f"sentence-transformers cannot load the converted model: {first_line(error)}") from error
    encoder = _behind(transformer, mode, dim, prompts)
    # The weights lie there already; only the settings are written.
    transformer.save = lambda path, *_, **__: transformer.save_config(path)
    with disk_errors():
        encoder.save(str(folder), create_model_card=False)
    del transformer.save
    return encoder


def around(model: PreTrainedModel, processor: Any, *, mode: str, dim: int | None, prompts: Mapping[str, str]) -> SentenceTransformer:
    """Put pooling behind a model in memory; the result is what `assemble` gives once it is saved."""

    class Ready(Transformer):  # type: ignore[misc]
        """A transformer module whose model is loaded already."""

        def _load_config(self, *_: Any, **__: Any) -> tuple[Any, bool]:
            return model.config, False

        def _load_model(self, *_: Any, **__: Any) -> Any:
            return model

    with tempfile.TemporaryDirectory() as folder:
        processor.save_pretrained(folder)
        transformer = Ready(folder)
    transformer.__class__ = Transformer
    return _behind(transformer, mode, dim, prompts)


def _behind(transformer: Any, mode: str, dim: int | None, prompts: Mapping[str, str]) -> SentenceTransformer:
    """Say how a transformer module takes its inputs, and put pooling behind it."""
    entry = {"method": "forward", "method_output_name": "last_hidden_state"}
    # Every input goes through the chat template, so a text alone and a text in a mixed batch are rendered alike.
    transformer.modality_config = {"text": dict(entry), "image": dict(entry), "message": {**entry, "format": "structured"}}
    transformer.input_formatter.message_format = "structured"
    transformer.input_formatter.supported_modalities = list(transformer.modality_config)
    behind = pooling.modules(mode, transformer.get_embedding_dimension(), dim, transformer.model.dtype)
    return SentenceTransformer(modules=[transformer, *behind], prompts=dict(prompts), device="cpu")


def hashes(folder: Path) -> dict[str, str]:
    """Return the SHA-256 of each weight file of a model."""
    return {path.name: sha256(path) for path in weight_files(folder)}


def parse_prompts(given: Mapping[str, str] | list[str]) -> dict[str, str]:
    """Read prompts given as a mapping or as NAME=TEXT."""
    if not isinstance(given, list):
        return dict(given)
    pairs = [item.partition("=") for item in given]
    for item, (name, sign, _) in zip(given, pairs, strict=True):
        if not sign or not name.strip():
            raise UsageError(f"--prompt {item!r} should be NAME=TEXT, such as query='Find an image of '")
    return {name.strip(): text for name, _, text in pairs}


__all__ = ["Settings", "around", "assemble", "disk_errors", "hashes", "is_encoder", "parse_prompts", "read_settings", "save_model"]
