"""What a model is, in mteb's words (`ModelMeta`): what it takes, how long its vectors are, its size and memory, whether it has prompts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mteb.models.model_meta import ModelMeta, ScoringFunction

if TYPE_CHECKING:
    from .vectors import Engine

_MEBI = 1 << 20
_FRAMEWORK = ["Sentence Transformers", "PyTorch"]


def model_meta(engine: Engine, *, name: str, revision: str, loader: Any = None) -> ModelMeta:
    """Describe an opened model; `revision` is its fingerprint, or the beginning of it."""
    known: dict[str, Any] = {
        # mteb files results under a name of two parts.
        "name": name if "/" in name else f"twoway/{name}",
        "revision": revision,
        "loader": loader,
        "embed_dim": engine.dimension,
        "modalities": modalities(engine),
        "similarity_fn_name": ScoringFunction.COSINE,
    }
    sentence = getattr(engine, "sentence", None)
    if sentence is not None:
        parameters = list(sentence.parameters())
        table = _embeddings(sentence)
        known |= {
            "similarity_fn_name": ScoringFunction.from_str(sentence.similarity_fn_name),
            "max_tokens": sentence.max_seq_length,
            "n_parameters": sum(one.numel() for one in parameters),
            "n_embedding_parameters": None if table is None else int(table.weight.numel()),
            "memory_usage_mb": round(sum(one.numel() * one.element_size() for one in parameters) / _MEBI, 1),
            "use_instructions": any(sentence.prompts.values()),
            "framework": _FRAMEWORK,
            "open_weights": True,
        }
    return ModelMeta.create_empty(known)


def modalities(engine: Engine) -> list[str]:
    """Return what a model takes of what mteb knows."""
    inputs = getattr(engine, "inputs", None)
    return ["image", "text"] if inputs is None or inputs.pictures else ["text"]


def _embeddings(sentence: Any) -> Any:
    """Return the table of token embeddings, if the first module has one."""
    model = getattr(sentence[0], "auto_model", None)
    return model.get_input_embeddings() if model is not None and hasattr(model, "get_input_embeddings") else None
