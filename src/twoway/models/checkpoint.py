"""Checkpoints: a plain sentence-transformers folder is written and read, with its card and provenance; MoCa's own are read too."""

from __future__ import annotations

import copy
import json
import tempfile
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

import torch
import yaml
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from sentence_transformers import CrossEncoder, MultiVectorEncoder, SentenceTransformer
from sentence_transformers.base.modules import Transformer
from sentence_transformers.cross_encoder.modules import LogitScore
from sentence_transformers.sentence_transformer.modules import Pooling
from sentence_transformers.util import import_from_string
from transformers import AutoTokenizer

from twoway.content import media_kinds
from twoway.errors import TwowayError, UsageError, is_panic
from twoway.files import disk_errors, sha256, write_errors

from . import late_interaction, pooling
from .loading import PICKLES, check_safetensors, first_line, inner, read_json, weight_files
from .reranker import yes_no

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from transformers import PreTrainedConfig, PreTrainedModel


# Assemble a model and its processor as a plain sentence-transformers checkpoint, and read one back.
#
# The result needs no code of ours: `Transformer`, `Pooling` and `Normalize` are sentence-transformers' own modules.
# The weights are written once, by transformers; then the folder is opened by sentence-transformers as any user would
# open it, and everything that is reported about the result is measured on that.
#
# Another author's checkpoint keeps its settings: the modules after the model, how its inputs are called
# (`processing_kwargs`, modalities), its prompts and the default one, its similarity. What cannot be kept is refused
# by name. Training follows what it can follow (`trainable`): arguments of the chat template become a part of the
# template, so that every renderer has them.

SentenceModelT = TypeVar("SentenceModelT", SentenceTransformer, MultiVectorEncoder)
MODULES, SETTINGS = "modules.json", "config_sentence_transformers.json"
# A file of weights stays mapped while any tensor of it is held: small ones keep the peak low while a model is brought to float32.
SHARD = "1GB"
TRANSFORMER = Transformer.config_file_name
_LIBRARY = "sentence_transformers."
# Keys that are written again for the result, and arguments that sentence-transformers loads a model with and does not
# save.
_OURS = ("model_type", "__version__", "prompts", "default_prompt_name", "similarity_fn_name", "truncate_dim")
_LOADING = {"model_kwargs": "model_args", "processor_kwargs": "tokenizer_args", "config_kwargs": "config_args"}
_HARMLESS = {"dtype", "torch_dtype", "attn_implementation", "use_safetensors", "trust_remote_code"}
# Arguments of `apply_chat_template` that no variable of the template stands for.
_CALL = {"padding", "truncation", "max_length", "return_tensors", "restore_suffix", "tools", "documents", "continue_final_message"}


def _modalities(output: str) -> dict[str, dict[str, str]]:
    """Send every input through the chat template, so that a text alone and a text in a mixed batch are rendered alike."""
    called = {"method": "forward", "method_output_name": output}
    return {"text": called, "image": called, "message": {**called, "format": "structured"}}


_MODALITIES = _modalities("last_hidden_state")
# A model whose own head is read is called with it.
WITH_HEAD = {"transformer_task": "any-to-any", "modality_config": _modalities("logits"), "module_output_name": "causal_logits"}


@dataclass(frozen=True)
class CheckpointSettings:
    """What a sentence-transformers checkpoint says besides its model; of a model that is none, nothing."""

    transformer: str = ""  # where the model lies in it
    pooling: str | None = None  # in our words; nothing for a pooling that has none
    dim: int | None = None
    prompts: dict[str, str] = field(default_factory=dict)
    default_prompt: str | None = None
    similarity: str | None = None
    truncate_dim: int | None = None
    module: dict[str, Any] = field(default_factory=dict)  # how the first module calls processor and model, as its own config has it
    behind: tuple[torch.nn.Module, ...] = ()  # the modules after it
    reranks: bool = False  # these give a score of a query with a candidate, and no vector
    late_interaction: bool = False  # these give a vector for each token
    longest: int | None = None
    more: dict[str, Any] = field(default_factory=dict)  # entries of the configuration that nothing here reads

    @property
    def reads_head(self) -> bool:
        """Whether a score is read off the language-model head, which is then a part of the model that is saved."""
        return any(isinstance(module, LogitScore) for module in self.behind)

    @property
    def learnt(self) -> str | None:
        """Name a module behind the pooling that holds weights; our own cut to a dimension is none."""
        found = (type(module).__name__ for module in self.behind if any(True for _ in module.parameters()))
        return None if self.dim else next(found, None)

    def pooled(self, mode: str | None, dim: int | None) -> CheckpointSettings:
        """Return the settings with a pooling or a dimension that is asked for."""
        if (mode is None or mode == self.pooling) and (dim is None or dim == self.dim):
            return self
        if self.learnt:
            raise UsageError(f"the source's {self.learnt} module belongs behind its own pooling; leave pooling and truncate_dim out")
        return replace(self, pooling=mode or self.pooling, dim=dim or self.dim, behind=(), truncate_dim=None if dim else self.truncate_dim)

    def bake(self, parts: Any) -> None:
        """Give a processor what training has to see and sentence-transformers says only when it calls it."""
        if self.longest:
            parts.tokenizer.model_max_length = min(parts.tokenizer.model_max_length, self.longest)
        said = {key: value for key, value in self.module.get("processing_kwargs", {}).get("chat_template", {}).items() if key not in _CALL}
        if said and parts.chat_template:
            lines = "".join(f"{{% set {key} = {_literal(value)} %}}" for key, value in said.items())
            if not parts.chat_template.startswith(lines):
                parts.chat_template = parts.tokenizer.chat_template = lines + "{{ '' }}" + parts.chat_template

    def require_trainable(self, name: str) -> None:
        """Refuse what training would not see, by its name in the configuration."""
        if self.reranks:
            raise TwowayError(f"{name} is a reranker, which gives scores and no vectors; train it with twoway rerank")
        odd = list(self._untrained())
        if odd:
            raise TwowayError(f"{name} has {', '.join(odd)}, which training does not follow; convert it with settings of your own first")

    def _untrained(self) -> Iterator[str]:
        """Name what training does not follow."""
        if self.late_interaction:
            yield from late_interaction.untrained(self.behind)
        elif self.learnt:
            yield f"the module {self.learnt} ({MODULES})"
        if self.behind and self.pooling is None and not self.late_interaction:
            yield "pooling " + ", ".join(str(module.pooling_mode) for module in self.behind if isinstance(module, Pooling))
        if self.truncate_dim:
            yield f"truncate_dim {self.truncate_dim}"
        for kind, given in self.module.get("processing_kwargs", {}).items():
            odd = given if kind != "chat_template" else {key for key in given if key in _CALL - {"restore_suffix"}}
            yield from (f"processing_kwargs.{kind}.{key}" for key in odd)
        modalities = self.module.get("modality_config", _MODALITIES)
        if modalities.get("message", {}).get("format", "structured") != "structured":
            yield f"modality_config without structured messages ({TRANSFORMER})"
        yield from (f"{key} ({TRANSFORMER})" for key in ("query_length", "document_length", "query_expansion") if self.module.get(key))


def is_encoder(folder: Path) -> bool:
    """Say whether a folder is a sentence-transformers checkpoint."""
    return (folder / MODULES).exists()


def is_reranker(folder: Path) -> bool:
    """Say whether a sentence-transformers checkpoint scores pairs (`CrossEncoder`)."""
    kind = read_json(folder / SETTINGS).get("model_type") if (folder / SETTINGS).exists() else None
    return kind == "CrossEncoder" or any(type_.endswith(".LogitScore") for type_, _ in _modules(folder))


def open_sentence_model(
    folder: Path, settings: Mapping[str, Any], device: torch.device, *, kind: type[SentenceModelT] = SentenceTransformer
) -> SentenceModelT:
    """Open a sentence-transformers checkpoint with any modules; weights that are not safetensors are not read."""
    if is_encoder(folder):
        _require_no_pickles(folder)
    else:
        weight_files(folder)
    try:
        return kind(str(folder), device=str(device), model_kwargs=dict(settings), local_files_only=True)
    except BaseException as error:
        known = RuntimeError | ValueError | KeyError | OSError | ImportError | AttributeError | TypeError | SafetensorError
        if not (isinstance(error, known) or is_panic(error)):
            raise
        raise TwowayError(f"{folder} cannot be loaded by sentence-transformers: {first_line(error)}") from error


def is_late_interaction(folder: Path) -> bool:
    """Say whether a sentence-transformers checkpoint gives a vector for each token (`MultiVectorEncoder`)."""
    return (folder / SETTINGS).exists() and read_json(folder / SETTINGS).get("model_type") == "MultiVectorEncoder"


def gives_many_vectors(folder: Path) -> bool:
    """Say the same of a checkpoint of any layout: transformers' own (ColPali, ColQwen2), PyLate's and Stanford's, too."""
    said = read_json(folder / SETTINGS).get("model_type") if (folder / SETTINGS).exists() else None
    config = folder / "config.json"
    names = (read_json(config).get("architectures") or ()) if config.exists() else ()
    late = any(str(name).endswith("ForRetrieval") or name == "HF_ColBERT" for name in names)
    return said in ("MultiVectorEncoder", "ColBERT") or (said is None and late)


def open_cross_encoder(folder: Path, dtype: str) -> CrossEncoder:
    """Open a checkpoint that scores pairs, as sentence-transformers does, or a text model with a head of scores; pickles are not read."""
    weight_files(folder)
    if is_encoder(folder):
        _require_no_pickles(folder)
    settings: dict[str, Any] = {"dtype": dtype, "use_safetensors": True}
    try:
        lacking = is_encoder(folder) and any(not (folder / place / "config.json").exists() for _, place in _modules(folder)[1:])
        if lacking:  # of a score that does not say its tokens
            said = read_checkpoint_settings(folder)
            transformer = Transformer(str(folder / said.transformer), model_kwargs=settings, **_called(said))
            return _reranker(transformer, said)
        return CrossEncoder(str(folder), device="cpu", model_kwargs=settings, local_files_only=True)
    except (RuntimeError, ValueError, KeyError, OSError, ImportError, AttributeError, TypeError, SafetensorError) as error:
        raise TwowayError(f"{folder} cannot be loaded by sentence-transformers: {first_line(error)}") from error


def _require_no_pickles(folder: Path) -> None:
    """Refuse modules whose weights are pickles alone; sentence-transformers would read them."""
    for _, path in _modules(folder):
        inside = [folder] if path in ("", ".") else [one for one in (folder / path, *(folder / path).rglob("*")) if one.is_dir()]
        for one in inside:
            pickles = sorted(file.name for kind in PICKLES for file in one.glob(kind) if file.name != "training_args.bin")
            if pickles and not any(one.glob("*.safetensors")):
                way = f"from sentence_transformers import SentenceTransformer as M; M('{folder}').save_pretrained('NEW')"
                raise TwowayError(
                    f"{one} has only pickle weights ({pickles[0]}), which run code when they are read; "
                    f'where you trust the file, convert it once: python -c "{way}"'
                )


def _modules(folder: Path) -> list[tuple[str, str]]:
    """Return the types and the folders of a checkpoint's modules."""
    try:
        return [(str(module["type"]), str(module["path"])) for module in json.loads((folder / MODULES).read_text(encoding="utf-8"))]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise TwowayError(f"{folder / MODULES} cannot be read: {first_line(error)}") from error


def read_checkpoint_settings(folder: Path) -> CheckpointSettings:
    """Read the settings of a sentence-transformers checkpoint; what would be lost is an error that names it."""
    try:
        listed = [dict(module) for module in json.loads((folder / MODULES).read_text(encoding="utf-8"))]
        names = [str(module["type"]).rsplit(".", 1)[-1] for module in listed]
        places = [str(module["path"]) for module in listed]
    except (ValueError, KeyError, TypeError, OSError) as error:
        raise TwowayError(f"{folder / MODULES} cannot be read: {first_line(error)}") from error
    if "Transformer" not in names:
        raise TwowayError(f"{folder} has the modules {', '.join(names)} and no Transformer among them; there is nothing to convert")
    foreign = [str(module["type"]) for module in listed if not str(module["type"]).startswith(_LIBRARY)]
    called = [name for name, module in zip(names, listed, strict=True) if module.get("kwargs")]
    if foreign or names[0] != "Transformer" or names.count("Transformer") > 1 or called:
        odd = foreign or called or names
        raise TwowayError(
            f"{folder / MODULES} has {', '.join(odd)}; a Transformer and then modules of sentence-transformers itself, without kwargs, "
            "can be carried over, and the rest would be lost"
        )
    own = read_json(folder / "twoway.json") if (folder / "twoway.json").exists() else {}
    said = read_json(folder / SETTINGS) if (folder / SETTINGS).exists() else {}
    kind, reranks, many = said.get("model_type", "SentenceTransformer"), is_reranker(folder), is_late_interaction(folder)
    if kind != "SentenceTransformer" and not (reranks or many):
        raise TwowayError(f"{folder / SETTINGS}: model_type {kind} gives no single vector, and cannot be carried over")
    if reranks and not {"LogitScore", "Dense"} & set(names):
        raise TwowayError(f"{folder / SETTINGS}: model_type {kind}, and no module gives a score, so it cannot be carried over")
    inside = folder / places[0]
    module, longest = _read_module(inside, with_head="LogitScore" in names)
    behind = tuple(_load(folder, str(entry["type"]), place) for entry, place in zip(listed[1:], places[1:], strict=True))
    modes = {theirs: ours for ours, theirs in reversed(pooling.MODES.items())}
    mode = next((modes.get(str(one.pooling_mode)) for one in behind if isinstance(one, Pooling)), None)
    default = said.get("default_prompt_name")
    return CheckpointSettings(
        transformer=places[0],
        pooling=None if many else own.get("pooling") or mode,
        dim=None if many else own.get("dim"),
        prompts={name: text or "" for name, text in said.get("prompts", {}).items() if text or name == default},
        default_prompt=default,
        similarity=said.get("similarity_fn_name"),
        truncate_dim=said.get("truncate_dim"),
        module=module,
        behind=behind,
        reranks=reranks,
        late_interaction=many,
        longest=longest,
        more={key: value for key, value in said.items() if key not in _OURS},
    )


def _read_module(inside: Path, *, with_head: bool = False) -> tuple[dict[str, Any], int | None]:
    """Read the first module's own settings, and its longest row."""
    try:
        module: dict[str, Any] = Transformer.load_config(str(inside))
    except (ValueError, OSError) as error:
        raise TwowayError(f"{inside / TRANSFORMER} cannot be read: {first_line(error)}") from error
    module = {key: value for key, value in module.items() if value is not None}
    longest = module.pop("max_seq_length", None)
    for new, old in _LOADING.items():
        given = module.pop(new, None) or module.pop(old, None) or {}
        lost = sorted(given.keys() - _HARMLESS)
        if lost:
            raise TwowayError(f"{inside / TRANSFORMER}: {new}.{lost[0]} changes how the model is loaded, and cannot be carried over")
    if module.pop("do_lower_case", False):
        raise TwowayError(f"{inside / TRANSFORMER}: do_lower_case belongs into the tokenizer, and cannot be carried over")
    task = module.get("transformer_task", "feature-extraction")
    if task != "feature-extraction" and not (with_head and task in ("any-to-any", "text-generation")):
        raise TwowayError(f"{inside / TRANSFORMER}: transformer_task {task} gives no vectors, and cannot be carried over")
    unknown = sorted(module.keys() - set(Transformer.config_keys))
    if unknown:
        raise TwowayError(f"{inside / TRANSFORMER}: {unknown[0]} is not known to this sentence-transformers, and cannot be carried over")
    return module, longest


def _load(folder: Path, kind: str, place: str) -> torch.nn.Module:
    """Load a module that follows the model; a score that does not say its tokens (some published rerankers) is that of yes and no."""
    if kind.endswith(".LogitScore") and not (folder / place / LogitScore.config_file_name).exists():
        tokens: torch.nn.Module = yes_no(AutoTokenizer.from_pretrained(folder), str(folder))
        return tokens
    if any(path for pattern in PICKLES for path in (folder / place).glob(pattern)) and not any((folder / place).glob("*.safetensors")):
        raise TwowayError(f"{folder / place} has only pickle weights, which run code when they are read; save them as safetensors")
    try:
        module: torch.nn.Module = import_from_string(kind).load(str(folder), subfolder=place, local_files_only=True)
    except (ImportError, AttributeError, ValueError, TypeError, KeyError, OSError, RuntimeError) as error:
        raise TwowayError(f"{folder / MODULES}: {kind} cannot be loaded: {first_line(error)}") from error
    return module.eval()


def _literal(value: Any) -> str:
    """Write a value as a chat template has it."""
    return json.dumps(value, ensure_ascii=False)


def save_model(
    model: PreTrainedModel,
    processor: Any,
    folder: Path,
    settings: CheckpointSettings,
    *,
    has_head: bool,
    patch_decoder: Mapping[str, torch.Tensor],
) -> dict[str, Any]:
    """Write weights and processor as transformers does, the heads beside them, and return what is said of those.

    A language-model head that a score is read off is a part of the model; any other stands apart.
    """
    apart = has_head and not settings.reads_head
    heads = Heads(dict(patch_decoder), lm_head_of(model) if apart else {})
    with disk_errors():
        (model if settings.reads_head else inner(model)).save_pretrained(folder, max_shard_size=SHARD)
        processor.save_pretrained(folder)
        return save_heads(heads, folder)


Assembled: TypeAlias = SentenceTransformer | CrossEncoder | MultiVectorEncoder


def assemble_model(folder: Path, settings: CheckpointSettings) -> Assembled:
    """Open a saved model, put its modules behind it, write the settings, and return what anyone gets who loads the folder."""
    try:
        transformer = _with_modalities(Transformer(str(folder), model_kwargs={"use_safetensors": True}, **_called(settings)), settings)
    except (RuntimeError, ValueError, KeyError, OSError, TypeError) as error:
        raise TwowayError(f"sentence-transformers cannot load the converted model: {first_line(error)}") from error
    encoder = (_reranker if settings.reranks else _behind)(transformer, settings)
    # The weights lie there already; only the settings are written.
    transformer.save = lambda path, *_, **__: transformer.save_config(path)
    with disk_errors():
        encoder.save(str(folder), create_model_card=False)
        if settings.more:
            path = folder / SETTINGS
            path.write_text(json.dumps(settings.more | read_json(path), indent=2, sort_keys=True, ensure_ascii=False), encoding="utf-8")
    del transformer.save
    return encoder


def read_around(model: PreTrainedModel, processor: Any, settings: CheckpointSettings) -> SentenceTransformer | MultiVectorEncoder:
    """Put pooling behind a model in memory; the result is what `assemble` gives once it is saved."""
    return _behind(_module_around(model, processor, settings), settings)


def read_reranker(model: PreTrainedModel, processor: Any, settings: CheckpointSettings) -> CrossEncoder:
    """Put the modules of a reranker behind a model in memory."""
    return _reranker(_module_around(model, processor, settings), settings)


def modules_around(model: PreTrainedModel, processor: Any, settings: CheckpointSettings) -> list[torch.nn.Module]:
    """Return the modules of `read_around`, wherever the model lies; training calls them one after the other."""
    transformer = _module_around(model, processor, settings)
    return [transformer, *_modules_behind(transformer, settings)]


def input_module(transformer: Any) -> Any:
    """Return a first module without its model: its `preprocess` makes the inputs of `encode`, and it can be sent to workers."""
    module = copy.copy(transformer)
    module._modules = {"model": _NoModel(transformer.config)}
    return module


class _NoModel(torch.nn.Module):
    """Stands for the model where inputs alone are made."""

    def __init__(self, config: PreTrainedConfig) -> None:
        super().__init__()
        self.config = config


def _module_around(model: Any, processor: Any, settings: CheckpointSettings) -> Any:
    """Put sentence-transformers' first module around a model in memory, with the processor as it is saved."""

    class Ready(Transformer):  # type: ignore[misc]
        """A transformer module whose model is loaded already."""

        def _load_config(self, *_: Any, **__: Any) -> tuple[Any, bool]:
            return model.config, False

        def _load_model(self, *_: Any, **__: Any) -> Any:
            return model

    with tempfile.TemporaryDirectory() as folder:
        with write_errors(Path(folder)), disk_errors():
            processor.save_pretrained(folder)
        transformer = _with_modalities(Ready(folder, **_called(settings)), settings)
    transformer.__class__ = Transformer
    return transformer


def _called(settings: CheckpointSettings) -> dict[str, Any]:
    """Return how the first module takes its inputs."""
    ours = {"modality_config": {key: dict(value) for key, value in _MODALITIES.items()}, "module_output_name": "token_embeddings"}
    return (copy.deepcopy(WITH_HEAD) if settings.reads_head else ours) | settings.module


def _with_modalities(transformer: Any, settings: CheckpointSettings) -> Any:
    """Let the first module take what else its processor takes, such as videos, unless the source says what it takes."""
    if "modality_config" not in settings.module:
        processor = transformer.processor
        taken = transformer.infer_modalities_from_processor(processor)
        for kind in media_kinds():
            if kind.modality in taken and kind.token(processor) is not None:
                transformer.modality_config.setdefault(kind.modality, dict(transformer.modality_config["text"]))
        transformer.input_formatter.supported_modalities = list(transformer.modality_config)
    return transformer


def _modules_behind(transformer: Any, settings: CheckpointSettings) -> list[torch.nn.Module]:
    """Return what follows a transformer module: the source's own modules, or pooling and a normalisation."""
    width, dtype = transformer.get_embedding_dimension(), transformer.model.dtype
    if settings.reranks or settings.late_interaction:
        return list(settings.behind)
    carried = [module.to(dtype) if settings.dim else module for module in settings.behind]
    return carried or pooling.modules(settings.pooling or "mean", width, settings.dim, dtype)


def _behind(transformer: Any, settings: CheckpointSettings) -> SentenceTransformer | MultiVectorEncoder:
    """Put the modules behind a transformer module."""
    if settings.late_interaction:
        return MultiVectorEncoder(
            modules=[transformer, *settings.behind],
            prompts=dict(settings.prompts),
            default_prompt_name=settings.default_prompt,
            similarity_fn_name=settings.similarity,
            device="cpu",
        )
    return SentenceTransformer(
        modules=[transformer, *_modules_behind(transformer, settings)],
        prompts=dict(settings.prompts),
        default_prompt_name=settings.default_prompt,
        similarity_fn_name=settings.similarity,
        truncate_dim=settings.truncate_dim,
        device="cpu",
    )


def _reranker(transformer: Any, settings: CheckpointSettings) -> CrossEncoder:
    """Put a reranker's modules behind a transformer module; its scores go through the activation that the source has."""
    activation = str(settings.more.get("activation_fn", ""))
    return CrossEncoder(
        modules=[transformer, *settings.behind],
        prompts=dict(settings.prompts),
        default_prompt_name=settings.default_prompt,
        activation_fn=import_from_string(activation)() if activation.startswith("torch.") else None,
        device="cpu",
    )


def hashes(folder: Path) -> dict[str, str]:
    """Return the SHA-256 of each weight file of a model."""
    return {path.name: sha256(path) for path in weight_files(folder)}


__all__ = [
    "CheckpointSettings",
    "assemble_model",
    "disk_errors",
    "hashes",
    "input_module",
    "is_encoder",
    "modules_around",
    "open_sentence_model",
    "read_around",
    "read_checkpoint_settings",
    "save_model",
]


# The model card and the provenance: what a checkpoint is, and everything that was done to it, by which version, from
# what.
#
# `twoway.json` is for programs: the settings, and a chain with one entry a step, which every later step copies and
# appends to. It holds hashes of the weights that went in and came out, so a chain can be checked, and no date or
# folder of the machine, so the same command gives the same file. `README.md` says the same to people, in the hub's
# form.

CARD_FILE, CARD = "twoway.json", "README.md"


@dataclass(frozen=True)
class Card:
    """Everything a checkpoint says about itself."""

    base: str
    family: str
    attention: dict[str, Any]
    pooling: str
    width: int
    dim: int | None
    max_length: int
    mask_token: dict[str, Any]
    prompts: dict[str, str]
    licence: str | None
    heads: dict[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    chain: list[dict[str, Any]] = field(default_factory=list)
    score: str = ""  # of a reranker, how it is read; of an embedding model, nothing
    late_interaction: bool = False  # each token has a vector

    def write(self, folder: Path) -> None:
        """Write both files."""
        said = {key: value for key, value in asdict(self).items() if key not in ("score", "late_interaction") or value}
        (folder / CARD_FILE).write_text(json.dumps({"format": 1} | said, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        (folder / CARD).write_text(self.markdown(), encoding="utf-8")

    def markdown(self) -> str:
        """Return the card as the hub shows it."""
        reranks, many = bool(self.score), self.late_interaction
        head: dict[str, Any] = {
            "library_name": "sentence-transformers",
            "pipeline_tag": "text-ranking" if reranks else "feature-extraction",
            "tags": [
                "sentence-transformers",
                *(("cross-encoder", "reranker") if reranks else ("multi-vector", "late-interaction") if many else ("feature-extraction",)),
                "multimodal",
                "twoway",
            ],
            "base_model": self.base,
        }
        if self.licence:
            head["license"] = self.licence
        token = self.mask_token
        vector = [
            ("Pooling", self.pooling),
            ("Numbers a vector", f"{self.dim or self.width}" + (f" (the first of {self.width})" if self.dim else "")),
        ]
        if many:
            vector = [
                ("Vectors", "one for each token, compared by MaxSim (late interaction)"),
                ("Numbers a vector", f"{self.dim or self.width}"),
            ]
        rows = [
            ("Base", f"{self.base} ({self.family})"),
            ("Licence of the base", self.licence or "not stated by the base; look there before you pass this on"),
            ("Attention, declared", self.attention["declared"]),
            ("Attention, as measured", self.attention["measured"] + (f" ({why})" if (why := self.attention.get("reason")) else "")),
            *([("Score", self.score)] if reranks else vector),
            ("Longest row", f"{self.max_length} tokens"),
            ("Mask token", f"`{token['token']}`, id {token['id']} ({token['how']})"),
            ("Prompts", "; ".join(f"{name}: `{text}`" for name, text in self.prompts.items()) or "none"),
        ]
        table = "\n".join(f"| {name} | {_cell(value)} |" for name, value in rows)
        steps = "\n".join(f"{number}. {_step(step)}" for number, step in enumerate(self.chain, 1))
        notes = "".join(f"\n- {note}" for note in (*(() if reranks else (_CHAT,)), *self.notes))
        front, kind = yaml.safe_dump(head, sort_keys=False).strip(), self.attention["declared"]
        use = _RERANK if reranks else _MANY if many else _EMBED
        title = f"A {kind} multimodal {'reranker' if reranks else 'late-interaction model' if many else 'embedding model'}"
        return _TEXT.format(front=front, title=title, table=table, use=use, notes=notes, steps=steps, file=CARD_FILE)


def read_card(folder: Path) -> dict[str, Any]:
    """Read the provenance beside a model; empty where there is none."""
    return read_json(folder / CARD_FILE) if (folder / CARD_FILE).exists() else {}


def attention_of_card(provenance: dict[str, Any]) -> str | None:
    """Return the attention that a provenance declares."""
    said = provenance.get("attention")
    return said.get("declared") if isinstance(said, dict) else said


def licence_of(folder: Path) -> str | None:
    """Read the licence from a base's card."""
    front = _front(folder)
    named = front.get("license")
    if named == "other":
        named = front.get("license_name") or named
    return str(named) if named else None


def speaks(folder: Path) -> bool:
    """Say whether a card calls its model one that answers, which reads its inputs as a chat."""
    return _front(folder).get("pipeline_tag") in ("image-text-to-text", "any-to-any", "visual-question-answering", "text-generation")


def _front(folder: Path) -> dict[str, Any]:
    """Read what a card says to programs; empty where there is no card, or none that can be read."""
    card = folder / CARD
    lines = card.read_text(encoding="utf-8", errors="replace").split("---", 2) if card.exists() else []
    if len(lines) < 3 or lines[0].strip():
        return {}
    try:
        front = yaml.safe_load(lines[1])
    except yaml.YAMLError:
        return {}
    return front if isinstance(front, dict) else {}


def _step(step: dict[str, Any]) -> str:
    versions = ", ".join(f"{name} {number}" for name, number in step["versions"].items())
    done = " ".join(f"{key}={value}" for key, value in step["options"].items() if value not in (None, {}, []))
    sums = ", ".join(f"`{name}` {value[:16]}" for name, value in step["weights"].items())
    return f"**{step['step']}** from {step['source']} ({done}), by {versions}; SHA-256 of the result: {sums}."


def _cell(value: object) -> str:
    return str(value).replace("|", "\\|").replace("\n", " ")


_CHAT = (
    "Encode chat messages in a call of their own: in a call that also holds texts or images, sentence-transformers 6.2 drops what "
    "the messages say."
)
_EMBED = """```python
from sentence_transformers import SentenceTransformer
from PIL import Image

model = SentenceTransformer("path/to/this/folder")
vectors = model.encode(["a text", Image.open("a.png"), {"image": Image.open("a.png"), "text": "and words"}])
content = [{"type": "text", "text": "first"}, {"type": "image", "image": Image.open("a.png")}, {"type": "text", "text": "then"}]
vectors = model.encode([[{"role": "user", "content": content}]])
```

Texts and images in any order go in as the content of a chat message, as above."""
_MANY = """```python
from sentence_transformers import MultiVectorEncoder
from PIL import Image

model = MultiVectorEncoder("path/to/this/folder")
queries = model.encode_query(["what is asked"])
documents = model.encode_document([Image.open("a.png"), "a text"])
scores = model.similarity(queries, documents)
```

A query or a document is a matrix: a row for each of its tokens."""
_RERANK = """```python
from sentence_transformers import CrossEncoder
from PIL import Image

model = CrossEncoder("path/to/this/folder")
scores = model.predict([("what is asked", "a text"), ("what is asked", Image.open("a.png"))])
content = [{"type": "image", "image": Image.open("a.png")}, {"type": "text", "text": "and words"}]
asked = {"role": "query", "content": [{"type": "text", "text": "what is asked"}]}
scores = model.predict([[asked, {"role": "document", "content": content}]])
```

Texts and images in any order go in as the messages `query` and `document`, as above."""
_TEXT = """---
{front}
---

# {title}

| | |
|---|---|
{table}

{use}
{notes}

## What was done

{steps}

The whole chain, with every hash, is in `{file}`.
"""


# Checkpoints as MoCa's trainer saves them, and the heads that are stored beside a model.
#
# Such a checkpoint names an architecture that transformers does not have (`Qwen2_5ForEmbedding`, or
# `Qwen2_5ForMLMMAE` with a patch decoder beside the backbone) and keeps the key layout of its time. The backbone goes
# through transformers' own key conversion. The heads (the patch decoder, and a language-model head that is not tied)
# are only for further training, so they are in `heads/` beside the model, where other loaders do not look. They are
# in `PatchDecoder`'s form, `body.layers.N.*` and `to_values.*`: the released code orders the values of a position's
# patches value by value; here they are patch by patch, as the processor gives them.

FOLDER, INDEX = "heads", "heads.json"
PATCH_DECODER, LM_HEAD = "patch_decoder", "lm_head"
# The trainer's names and the patch decoder's; its decoder is one layer.
_NAMES = {"mae_decoder.": "body.layers.0.", "mae_proj.": "to_values."}


@dataclass(frozen=True)
class Heads:
    """What a model needs for further training and not for embedding."""

    patch_decoder: dict[str, torch.Tensor] = field(default_factory=dict)
    lm_head: dict[str, torch.Tensor] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(self.patch_decoder or self.lm_head)


def is_head(name: str) -> bool:
    """Say whether a tensor of a checkpoint belongs to a head of MoCa's trainer."""
    return name.startswith(tuple(_NAMES))


def read_patch_decoder(folder: Path, config: PreTrainedConfig) -> dict[str, torch.Tensor]:
    """Read the patch decoder out of a trainer's checkpoint; empty where there is none."""
    found: dict[str, torch.Tensor] = {}
    patches = getattr(config.vision_config, "spatial_merge_size", 1) ** 2
    for path in weight_files(folder):
        with safe_open(str(path), framework="pt") as file:
            for name in filter(is_head, file.keys()):
                old = next(prefix for prefix in _NAMES if name.startswith(prefix))
                found[_NAMES[old] + name.removeprefix(old)] = file.get_tensor(name)
    for name in [name for name in found if name.startswith("to_values.")]:
        rows = found[name]
        if len(rows) % patches:
            raise TwowayError(f"{folder}: the patch decoder gives {len(rows)} values, which {patches} patches a position cannot share")
        found[name] = rows.reshape(-1, patches, *rows.shape[1:]).transpose(0, 1).reshape(rows.shape).contiguous()
    return found


def lm_head_of(model: PreTrainedModel) -> dict[str, torch.Tensor]:
    """Return the language-model head where it is a matrix of its own; a tied one is in the embeddings already."""
    head, table = model.get_output_embeddings(), model.get_input_embeddings().weight
    if head is None or head.weight is table:
        return {}
    return {name: tensor.detach().contiguous() for name, tensor in head.state_dict().items()}


def save_heads(heads: Heads, out: Path) -> dict[str, Any]:
    """Write the heads below `out` with a small JSON that says what they are, and return that."""
    index: dict[str, Any] = {}
    if heads.patch_decoder:
        layers = {name.split(".")[2] for name in heads.patch_decoder if name.startswith("body.layers.")}
        values = int(heads.patch_decoder["to_values.weight"].shape[0])
        index[PATCH_DECODER] = {"file": f"{PATCH_DECODER}.safetensors", "depth": len(layers), "values": values}
    if heads.lm_head:
        rows, width = heads.lm_head["weight"].shape
        index[LM_HEAD] = {"file": f"{LM_HEAD}.safetensors", "rows": rows, "width": width}
    if index:
        (out / FOLDER).mkdir()
        for name, entry in index.items():
            save_file(getattr(heads, name), out / FOLDER / entry["file"], metadata={"format": "pt"})
        (out / FOLDER / INDEX).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")
    return index


def load_heads(folder: Path) -> Heads:
    """Read the heads beside a model that `convert` or a training stage wrote; without any, they are empty."""
    if not (folder / FOLDER / INDEX).exists():
        return Heads()
    read: dict[str, dict[str, torch.Tensor]] = {}
    for name, entry in read_json(folder / FOLDER / INDEX).items():
        if name not in (PATCH_DECODER, LM_HEAD) or not isinstance(entry, dict) or "file" not in entry:
            raise TwowayError(f"{folder / FOLDER / INDEX} names a head {name!r} that is not known; it holds {PATCH_DECODER} and {LM_HEAD}")
        path = folder / FOLDER / str(entry["file"])
        check_safetensors(path)
        read[name] = load_file(path)
    return Heads(**read)
