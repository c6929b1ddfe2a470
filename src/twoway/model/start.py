"""Open whatever `convert` and the training stages may start from, and keep together what has to go on with the model.

A source is a model, a sentence-transformers checkpoint (ours with its heads and provenance, or anybody's), a checkpoint of MoCa's trainer,
or an adapter, which is merged into its base.
"""

from __future__ import annotations

import dataclasses
import logging
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from twoway.errors import TwowayError, UsageError
from twoway.files import sha256

from . import adapters, backbone, card, encoder, moca, processor, source
from .layout import Layout, layout_of, layout_of_adapter

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Start:
    """A source, opened: the model and everything that has to go on with it."""

    model: PreTrainedModel
    name: str
    folder: Path
    heads: moca.Heads
    weights: dict[str, str]
    settings: encoder.Settings
    provenance: dict[str, Any]
    licence: str | None
    has_head: bool
    layout: Layout = field(default_factory=Layout)  # what the folder tells that the config does not
    note: dict[str, Any] = field(default_factory=dict)


def open_start(src: str | Path, *, dtype: str = "auto", base: str | None = None) -> Start:
    """Open a source: an adapter with its base, a sentence-transformers checkpoint, or a model."""
    folder = source.locate(src)
    if adapters.is_adapter(folder):
        return _open_adapter(src, folder, dtype, base)
    ready = encoder.is_encoder(folder)
    settings = encoder.read_settings(folder) if ready else encoder.Settings()
    inside = folder / settings.transformer
    loaded = backbone.load_model(inside, dtype=dtype)
    heads = moca.load_heads(folder)
    if any(moca.is_head(name) for name in loaded.extra):
        heads = dataclasses.replace(heads, patch_decoder=moca.read_patch_decoder(inside, loaded.model.config))
    ignored = [name for name in loaded.extra if not moca.is_head(name)]
    if ignored:
        log.warning("%s: %d tensors have no place in the model and are left out, %s for one", folder, len(ignored), ignored[0])
    has_head = loaded.has_head or _put_head(loaded.model, heads)
    return Start(
        model=loaded.model,
        name=str(src) if not Path(src).exists() else folder.resolve().name,
        folder=inside,
        heads=heads,
        weights=encoder.hashes(inside) if backbone.SKELETON.get() is None else {},
        settings=settings,
        provenance=card.read(folder),
        licence=card.licence(folder),
        has_head=has_head,
        layout=Layout() if ready else layout_of(folder),
        # The hub's client names the folder after the revision.
        note={} if Path(src).exists() else {"revision": folder.name},
    )


def warn_of_chat(start: Start) -> None:
    """Say that inputs are written as a chat where nothing says so: a trainer's whole weights have the name of their base."""
    told = start.layout != Layout() or start.settings.behind or start.provenance or card.speaks(start.folder)
    if not told:
        log.warning(
            "%s: nothing says how its inputs were written, and its chat template is taken; an embedding model of VLM2Vec's or CoCoA's kind "
            "without a card needs --template plain (or bare, for VLM2Vec)",
            start.name,
        )


def open_reader(folder: Path) -> tuple[PreTrainedConfig, Any, encoder.Settings]:
    """Open a model's config, its processor as a training stage has it, and its settings; the weights are not read."""
    settings = encoder.read_settings(folder) if encoder.is_encoder(folder) else encoder.Settings()
    inside = folder / settings.transformer
    config, parts = backbone.load_config(inside), processor.load_processor(inside)
    processor.ensure_template(parts)
    settings.bake(parts)
    return config, parts, settings


def _open_adapter(src: str | Path, folder: Path, dtype: str, base: str | None) -> Start:
    """Open an adapter's base and merge the adapter into it."""
    source.weight_files(folder, adapters.WEIGHTS)
    base = base or adapters.base_name(folder)
    if base is None:
        raise UsageError(f"{folder} is an adapter that names no base; name it with --base")
    opened = open_start(base, dtype=dtype)
    model = adapters.merge_folder(opened.model, folder)
    own = any((folder / name).exists() for name in ("processor_config.json", "preprocessor_config.json"))
    merged = {"adapter": folder.resolve().name if Path(src).exists() else str(src), **adapters.describe(folder)}
    sums = {f"base/{name}": value for name, value in opened.weights.items()}
    sums[f"adapter/{adapters.WEIGHTS}.safetensors"] = sha256(folder / f"{adapters.WEIGHTS}.safetensors")
    layout = layout_of_adapter(opened.layout, folder, encoder=encoder.is_encoder(source.locate(base)))
    note, home = opened.note | {"merged": merged}, folder if own else opened.folder
    return dataclasses.replace(opened, model=model, folder=home, weights=sums, layout=layout, note=note)


def _put_head(model: PreTrainedModel, heads: moca.Heads) -> bool:
    """Give a model that was saved without its head the one that lies beside it."""
    head = model.get_output_embeddings()
    if head is None or not heads.lm_head:
        return False
    try:
        head.load_state_dict(heads.lm_head)
    except RuntimeError as error:
        raise TwowayError(f"the language-model head beside the model does not fit it: {source.first_line(error)}") from error
    return True
