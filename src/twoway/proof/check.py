"""`check`: prove what a model's attention does under every attention backend of this machine, and compare that with what it declares.

The steps: open the model; run the probe (`proof.probe`) under each backend, unpadded and padded on either side, with text and with images,
and unpadded with a video or a sound where the model takes any; for a sentence-transformers model, check that an embedding does not depend
on other rows of the batch; give the verdict. A backend that the family or the machine lacks is listed with the reason.
"""

from __future__ import annotations

import logging
import warnings
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import torch
from transformers.utils import logging as tf_logging

from twoway.config import gather, takes
from twoway.errors import TwowayError, UsageError
from twoway.models import kernels
from twoway.models.config import SDPA
from twoway.models.loading import first_line
from twoway.models.opening import Declared, Opened, open_model

from . import probe
from . import verdict as proof_verdict
from .config import BACKENDS, CheckConfig

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    C = TypeVar("C")

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Skipped:
    """A backend or a kind of input that was not proved, and why."""

    what: str
    reason: str


@dataclass(frozen=True)
class Report:
    """What a check found."""

    model: str
    family: str
    declared: Declared
    cells: tuple[proof_verdict.Cell, ...]
    skipped: tuple[Skipped, ...]
    embedding: dict[str, float]  # how far an embedding moves in company; empty where the model gives none
    dtype: str
    device: str

    @property
    def verdict(self) -> str:
        """The verdict: two-way, causal, mixed, leaks or unclear."""
        if any(moved > probe.NEW_SHAPE for moved in self.embedding.values()) and self.dtype == "float32":
            return proof_verdict.LEAKS
        return proof_verdict.merge_names(cell.verdict for cell in self.cells)

    @property
    def reason(self) -> str:
        """Say what decides the verdict where that is not plain."""
        moved = [f"an embedding moves beside {name} ({far:.1e})" for name, far in self.embedding.items() if far > probe.NEW_SHAPE]
        return "; ".join(filter(None, [proof_verdict.explain(self.cells), *moved]))

    @property
    def layers(self) -> dict[str, tuple[proof_verdict.LayerProof, ...]]:
        """Return each layer as probed, by case."""
        return {f"{cell.backend}/{cell.kind}/{cell.padding}": cell.layers for cell in self.cells}

    @property
    def ok(self) -> bool:
        """Tell whether the model is what it declares.

        A model that declares causal attention may let the tokens of its images see each other, or its prompt, where its family is made so
        (Gemma 3, PaliGemma); then all its layers agree. One that leaves out layers may not.
        """
        if self.verdict == self.declared.attention:
            # A mixed one is what it declares where the layers are those that its card names.
            return not self.declared.layers or all(
                tuple(one.attention for one in cell.layers) == self.declared.layers for cell in self.cells
            )
        native = any(cell.kind != "text" for cell in self.cells) and not any(proof_verdict.name_layers(cell.layers) for cell in self.cells)
        return self.declared.attention == proof_verdict.CAUSAL and self.verdict == proof_verdict.MIXED and native

    @property
    def notes(self) -> tuple[str, ...]:
        """Return what is worth knowing besides, each with its cases."""
        noted: dict[str, list[proof_verdict.Cell]] = {}
        for cell in self.cells:
            for note in cell.notes:
                noted.setdefault(note, []).append(cell)
        return tuple(f"{note} [{proof_verdict.where(cells, self.cells)}]" for note, cells in noted.items())

    def as_json(self) -> dict[str, Any]:
        """Return the report as plain data."""
        head = {"model": self.model, "family": self.family, "declared": asdict(self.declared), "measured": self.verdict, "ok": self.ok}
        rest = {"reason": self.reason, "cells": [cell.as_json() for cell in self.cells], "skipped": [asdict(one) for one in self.skipped]}
        return head | rest | {"embedding": self.embedding, "notes": list(self.notes), "dtype": self.dtype, "device": self.device}


@takes(CheckConfig)
def check(model: str | Path, *, config: CheckConfig | None = None, **options: Any) -> Report:
    """Prove what the attention of `model` does: a folder or hub id, of transformers or sentence-transformers.

    `options` are the settings of `CheckConfig`.
    """
    config = gather(CheckConfig, config, options, check)
    with quiet_compiler():
        opened = open_model(model, dtype=config.dtype, device=config.device, processor=config.processor)
        cells, skipped = prove(opened, config.backends or BACKENDS, _cells)
        moved = embedding_in_company(opened)
    said = Declared(config.expect, "asked for") if config.expect else opened.declared
    used = str(opened.model.dtype).removeprefix("torch.")
    return Report(str(model), opened.model.config.model_type, said, cells, skipped, moved, used, str(opened.model.device))


def _cells(model: Any, processor: Any) -> tuple[tuple[proof_verdict.Cell, ...], tuple[str, ...]]:
    """Prove one model under the backend it has; return the cases, and notes on what could not be tested."""
    verdict = probe.probe(model, processor, paddings=probe.PADDINGS, time=True)
    return verdict.cells, verdict.notes


def prove(
    opened: Opened, backends: Sequence[str], probe: Callable[[Any, Any], tuple[tuple[C, ...], tuple[str, ...]]]
) -> tuple[tuple[C, ...], tuple[Skipped, ...]]:
    """Run a proof under each backend; at least one must work."""
    cells: list[C] = []
    skipped: list[Skipped] = []
    with kernels.kernels_restored(opened.model):
        for backend in backends:
            reason = _switch(opened.model, backend)
            if not reason:
                # Compiling the flex kernel for a CPU takes minutes; unfused it builds the same masks and gives the same states.
                try:
                    with torch.compiler.set_stance("force_eager" if opened.model.device.type == "cpu" else "default"):
                        found, notes = probe(opened.model, opened.processor)
                except (RuntimeError, NotImplementedError, ValueError, ImportError) as error:
                    reason = f"does not run here: {first_line(error)}"
                else:
                    cells += found
                    skipped += [Skipped(*note.split(": ", 1)) for note in notes]
            if reason:
                skipped.append(Skipped(backend, reason))
    if not cells:
        raise TwowayError(f"{opened.folder}: nothing could be proved: " + "; ".join(f"{one.what} {one.reason}" for one in skipped))
    return tuple(cells), tuple(dict.fromkeys(skipped))


def _switch(model: Any, backend: str) -> str:
    """Set a backend, or say why not."""
    if not kernels.is_installed(backend):
        return "not on this machine"
    try:
        model.set_attn_implementation(backend)
        if backend == SDPA:
            kernels.use_kernels(model, backend)
    except (ValueError, ImportError, UsageError) as error:
        return f"not supported by this model: {first_line(error).split('. ')[0]}"
    now = model.get_decoder().config._attn_implementation
    return "" if now == backend else f"not supported by this model: it stays with {now}"


def embedding_in_company(opened: Opened) -> dict[str, float]:
    """Measure how far a row's embedding moves when other rows, and padding with them, come into its batch."""
    if opened.sentence is None:
        return {}
    ordinary = probe.probe_ids(opened.model, opened.sentence.tokenizer)
    words = probe.known_words(opened.sentence.tokenizer, ordinary)
    rows: dict[str, list[Any]] = {"longer texts": [words[0], " ".join(words), " ".join(words * 2)]}
    if "image" in opened.sentence[0].modalities and not probe.no_image(opened.model, opened.processor):
        picture, other = probe.noise_image(1), probe.noise_image(2)
        rows["other images"] = [{"image": picture, "text": words[0]}, {"image": other, "text": " ".join(words)}]
    moved = {}
    for name, batch in rows.items():
        company = opened.sentence.encode(batch, batch_size=len(batch), show_progress_bar=False)[0]
        alone = opened.sentence.encode(batch[:1], show_progress_bar=False)[0]
        moved[name] = float(np.linalg.norm(company - alone) / max(np.linalg.norm(alone), np.finfo(np.float32).tiny))
    return moved


@contextmanager
def quiet_compiler() -> Iterator[None]:
    """Keep the load report and the compiler's talk about many shapes to ourselves."""
    level, bars = tf_logging.get_verbosity(), tf_logging.is_progress_bar_enabled()
    compiler = logging.getLogger("torch._dynamo")
    compiled = compiler.level
    tf_logging.set_verbosity_error()
    tf_logging.disable_progress_bar()
    compiler.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        tf_logging.set_verbosity(level)
        compiler.setLevel(compiled)
        if bars:
            tf_logging.enable_progress_bar()
