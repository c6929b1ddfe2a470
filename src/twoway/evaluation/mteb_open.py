"""Hand a model to mteb: as an object for its Python functions, or by its name for its command line.

mteb's command opens what stands in its registry or on the hub; a folder ends in "No model implementation is available", because mteb looks
a name up on the hub and makes an empty entry where it finds none. It has no hook for others, so an entry is put into its registry, in the
process that then runs mteb's own command.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mteb.cli import main as mteb_main
from mteb.models.model_implementations import MODEL_REGISTRY

from .engines import open_engine
from .mteb_meta import model_meta
from .mteb_model import MtebModel
from .vectors import VectorSource

if TYPE_CHECKING:
    from collections.abc import Sequence

_REVISION = 16  # last digits of the fingerprint; a server's end in those of its vectors


def mteb_model(model: Any, *, cache: str | Path | None = None, **opening: Any) -> MtebModel:
    """Open a model for `mteb.evaluate`; the options are those of `evaluate`."""
    engine = open_engine(model, **opening)
    vectors = VectorSource(engine, None if cache is None else Path(cache))
    name = Path(engine.name).name if Path(engine.name).is_dir() else engine.name
    return MtebModel(vectors, model_meta(engine, name=name or "model", revision=vectors.fingerprint[-_REVISION:]))


def register(model: str, **options: Any) -> None:
    """Open a model and put it into mteb's registry under its name as it is written; what mteb has itself is left to it."""
    if model in MODEL_REGISTRY:
        return
    opened = mteb_model(model, **options)

    def load(*_: Any, **__: Any) -> MtebModel:
        return opened

    MODEL_REGISTRY[model] = opened.mteb_model_meta.model_copy(update={"loader": load})


def run_mteb(words: Sequence[str], **options: Any) -> None:
    """Run mteb's own command with these words, its model registered."""
    model = named_model(words)
    if model is not None:
        register(model, **options)
    before = sys.argv
    sys.argv = ["mteb", *words]
    try:
        mteb_main()
    finally:
        sys.argv = before


def named_model(words: Sequence[str]) -> str | None:
    """Return the model among mteb's words."""
    for number, word in enumerate(words):
        name, sign, value = word.partition("=")
        if name in ("-m", "--model"):
            return value if sign else (words[number + 1] if number + 1 < len(words) else None)
    return None
