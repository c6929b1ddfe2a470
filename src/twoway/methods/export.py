"""A trained model becomes a plain checkpoint, as `convert` makes one: its attention measured, with its provenance and its heads beside it.

It is made from the base and the last checkpoint alone, in one process, whatever ranks trained it; so a run that dies in the last
minute makes the same files when it is called again. The files are written beside and moved into place one by one, the provenance
last: a folder that has it is finished.
"""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING, Any

import torch

from twoway.errors import TwowayError
from twoway.files import fresh_folder
from twoway.models import adapters, checkpoint, loading
from twoway.models import pooling as poolings
from twoway.training.checkpointing import Checkpoints, read_weights

from .convert import measure, try_out

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from twoway.training.module import TrainingModule

    from .model import PreparedModel

_MADE = ".finished"


def export_model(
    prepared: PreparedModel[TrainingModule],
    out: Path,
    weights: Sequence[Path],
    *,
    step: str,
    options: dict[str, Any],
    steps: int,
    pooling: str | None = None,
    notes: tuple[str, ...] = (),
) -> checkpoint.Card:
    """Write the model of a run into `out`, and return its card.

    `weights` are the folders whose weights it gets, the mean of several; `pooling` stands instead of the base's own, and `notes` are for
    the card's readers.
    """
    _take_weights(prepared, out, steps, weights)
    start, parts = prepared.start, prepared.processor
    model = adapters.merge_adapter(prepared.adapted) if prepared.adapted is not None else start.model
    decoder = _decoder_state(prepared)
    kind = getattr(loading.load_config(start.folder), "dtype", None) or torch.float32
    model.to(kind)
    decoder = {name: one.to(kind) for name, one in decoder.items()}
    settings = start.settings.pooled(pooling or (None if start.settings.behind else start.settings.pooling or "mean"), None)
    for module in settings.behind if settings.reranks or settings.late_interaction else ():
        module.to(kind)
    mode = "none" if settings.late_interaction else settings.pooling or "mean"
    if mode == "eos":
        poolings.append_eos(parts)  # a tokenizer that does it already does it once
    beside = out / _MADE
    shutil.rmtree(beside, ignore_errors=True)
    with fresh_folder(beside) as folder:
        saved_heads = checkpoint.save_model(model, parts, folder, settings, has_head=start.has_head, patch_decoder=decoder)
        result = checkpoint.assemble_model(folder, settings)
        tried = try_out(result, mode)  # in float32 from here on: half precision rounds more, and many a CPU is very slow in it
        facts = start.provenance
        entry = {
            "step": step,
            "source": start.name,
            "options": options | start.note,
            "versions": loading.versions(),
            "source_weights": start.weights,
            "weights": checkpoint.hashes(folder),
        }
        written = checkpoint.Card(
            **measure(result, prepared.attention, mode),
            base=facts.get("base") or start.name,
            max_length=int(parts.tokenizer.model_max_length),
            mask_token=prepared.token.record(),
            prompts=settings.prompts,
            licence=facts.get("licence") or start.licence,
            heads=saved_heads,
            notes=(*tried, *notes),
            chain=[*facts.get("chain", []), entry],
        )
        written.write(folder)
    _move(beside, out)
    return written


def is_exported(out: Path) -> bool:
    """Say whether a run's folder holds its model."""
    return (out / checkpoint.CARD_FILE).exists()


def _take_weights(prepared: PreparedModel[TrainingModule], out: Path, steps: int, folders: Sequence[Path]) -> None:
    """Put a run's weights, or the mean of several, into the base."""
    checkpoints = Checkpoints(out)
    if steps not in checkpoints.steps():
        raise TwowayError(f"{checkpoints.path(steps)} is missing, so the model cannot be written; give the command again")
    trained = {name: one for name, one in prepared.module.to("cpu").eval().named_parameters() if one.requires_grad}
    read_weights(folders[0], trained)
    if len(folders) > 1:
        sums = {name: one.detach().double() for name, one in trained.items()}
        for folder in folders[1:]:
            read_weights(folder, trained)
            for name, one in trained.items():
                sums[name] += one.detach()
        with torch.no_grad():
            for name, one in trained.items():
                one.copy_(sums[name] / len(folders))


def _decoder_state(prepared: PreparedModel[TrainingModule]) -> dict[str, torch.Tensor]:
    """Return the patch decoder; one beside the base that this run did not need is kept."""
    decoder = getattr(prepared.module, "decoder", None)
    if decoder is None:
        return prepared.start.heads.patch_decoder
    return {name: one.detach().contiguous() for name, one in decoder.state_dict().items()}


def _move(beside: Path, out: Path) -> None:
    """Move what was made into place, the provenance last."""
    made = sorted(beside.iterdir(), key=lambda path: path.name == checkpoint.CARD_FILE)
    for path in made:
        target = out / path.name
        if target.is_dir():
            shutil.rmtree(target)
        path.replace(target)
    beside.rmdir()
