"""Open an embedding model of any kind, in one process or several, or a server."""

from __future__ import annotations

import logging
import os
from collections import deque
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from safetensors import SafetensorError
from sentence_transformers import MultiVectorEncoder, SentenceTransformer
from sentence_transformers.base.modules import Transformer
from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING

from twoway.config import gather, takes
from twoway.data.sources.formats import documents_of
from twoway.errors import TwowayError, UsageError
from twoway.models import adapters, checkpoint, loading, opening
from twoway.models import pooling as poolings
from twoway.models import processor as processors
from twoway.models.attention import set_attention
from twoway.models.config import by_part
from twoway.models.kernels import require_installed, use_kernels
from twoway.models.opening import number_as_text, open_start, warn_of_chat, write_as
from twoway.models.processor import set_pixels
from twoway.processes import CONTEXT, Team

from .config import OpenConfig, OpenManyConfig
from .embedder import Embedder, EmbedderSettings, MultiVectorEmbedder
from .inputs import size_in_memory

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from pathlib import Path

    from twoway.content import ContentError, Document
    from twoway.data.sources.formats import DocumentLike

    from .config import Side
    from .embedder import Refuse, Vector, Vectors
    from .endpoint import Endpoint

_log = logging.getLogger(__name__)


# Open an embedding model: ours, any sentence-transformers model, a checkpoint as its trainer wrote it, a
# vision-language model.
#
# A sentence-transformers checkpoint stores how its states become one vector. For any other, its layout decides
# (MoCa's, CoCoA's and VLM2Vec's are known, see `models.opening`), then the attention that its config declares, with
# the pooling that fits: the mean of two-way states, the last of causal ones. Explicit options override all of it. An
# adapter is merged into its base in memory. The same folder through `convert` gives the same vectors, with the same
# attention.


# Settings of `Embedder` that only Python has.
_ENGINE = ("batch_size", "window", "window_bytes", "remember", "limits")
# Beside them: whether a model of many vectors (late interaction) will do, too.
_MANY = "late_interaction"


@takes(EmbedderSettings)
@takes(OpenConfig)
def open_embedder(model: str | Path | Embedder | SentenceTransformer, *, config: OpenConfig | None = None, **options: Any) -> Embedder:
    """Open a model by folder or hub id; `options` are the settings of `OpenConfig`, and `batch_size`, `window` and so on of `Embedder`.

    A model of many vectors is refused, unless the caller says with `late_interaction=True` that it knows what to do with them.
    `dtype` is float32 on a CPU and the checkpoint's own elsewhere. `pooling`, `processor`, `template` and `attention` are for models that
    are no sentence-transformers checkpoint.
    """
    engine = {name: options.pop(name) for name in _ENGINE if name in options}
    many = bool(options.pop(_MANY, False))
    config = gather(OpenConfig, config, options, open_embedder)
    engine |= {name: value for name in ("budget", "workers") if (value := getattr(config, name)) is not None}
    bounds = {"min_pixels": config.min_pixels, "max_pixels": config.max_pixels}
    if isinstance(model, Embedder | SentenceTransformer | MultiVectorEncoder) and any(bounds.values()):
        raise UsageError("a model in memory has its own min_pixels and max_pixels; leave them out, or name its folder")
    if isinstance(model, MultiVectorEncoder):
        model = MultiVectorEmbedder.of(model, **engine)
    if isinstance(model, Embedder):
        _require_one_vector(model.name or "the model", late=model.late_interaction and not many)
        return model
    if isinstance(model, SentenceTransformer):
        return Embedder.of(model, **engine)
    place = find_device(config.device)
    dtype = config.dtype or ("float32" if place.type == "cpu" else "auto")
    require_installed(by_part(config.attn_implementation))
    folder = loading.locate(model)
    how: dict[str, str] = {}
    late = checkpoint.gives_many_vectors(folder)
    _require_one_vector(str(model), late=late and not many)
    if checkpoint.is_encoder(folder) or late:
        for name in ("pooling", "template", "attention", "processor"):
            if getattr(config, name) is not None:
                raise UsageError(f"{model} is a sentence-transformers checkpoint and has its own {name}; leave --{name} out, or convert it")
        kind: Any = MultiVectorEncoder if late else SentenceTransformer
        sentence = checkpoint.open_sentence_model(folder, {"dtype": dtype, "use_safetensors": True}, place, kind=kind)
        how = _said_by(sentence, folder)
    elif adapters.is_adapter(folder) or type(loading.load_config(folder)) in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING:
        sentence, how = _vision_language(model, dtype, config)
    elif said := [name for name in ("attention", "template", "processor") if getattr(config, name) is not None]:
        raise UsageError(f"{model} is a text model; --{said[0]} is for vision-language models, so leave it out")
    else:
        sentence, how = _text_model(folder, dtype, config.pooling)
    if config.max_length is not None:
        longest = sentence.max_seq_length
        if longest and config.max_length > longest:
            raise UsageError(f"--max-length {config.max_length} is out of range: this model takes 1 to {longest} tokens")
        sentence.max_seq_length = config.max_length
    if any(bounds.values()):
        _bound(sentence, str(model), bounds)
    sentence.to(place)
    if hasattr(sentence[0], "auto_model"):
        use_kernels(sentence[0].auto_model, config.attn_implementation)
    opened = (MultiVectorEmbedder if late else Embedder).of(sentence, name=str(model), **engine)
    opened.read_as = how
    return opened


def _require_one_vector(name: str, *, late: bool) -> None:
    if late:
        raise UsageError(f"{name} gives a vector for each token (late interaction), and one vector a document is needed here")


def _bound(sentence: SentenceTransformer, name: str, bounds: dict[str, int | None]) -> None:
    """Bound the pictures of an opened model."""
    first: Any = sentence[0]
    processor, config = getattr(first, "processor", None), getattr(getattr(first, "auto_model", None), "config", None)
    if getattr(processor, "image_processor", None) is None or getattr(processor, "image_token", None) is None:
        raise UsageError(f"{name} shows no pictures whose area could be bounded; leave min_pixels and max_pixels out")
    set_pixels(config, processor, **bounds)


def find_device(name: str) -> torch.device:
    """Check that a device is there, or choose one."""
    if name == "auto":
        found = torch.accelerator.current_accelerator(check_available=True)
        return found if found is not None else torch.device("cpu")
    try:
        place = torch.device(name)
        torch.empty(0, device=place)
    except (RuntimeError, AssertionError) as error:
        raise UsageError(f"device {name!r} cannot be used here: {loading.first_line(error)}") from error
    return place


def _said_by(sentence: SentenceTransformer, folder: Path) -> dict[str, str]:
    """Return the attention of a sentence-transformers checkpoint; nothing if its folder does not declare it, as in many text models."""
    config = getattr(getattr(sentence[0], "auto_model", None), "config", None)
    if config is None:
        return {}
    found = opening.declared(config, checkpoint.read_card(folder))
    return {"attention": found.attention} if found.by or type(config) in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING else {}


def _vision_language(model: str | Path, dtype: str, config: OpenConfig) -> tuple[SentenceTransformer, dict[str, str]]:
    """Put pooling behind a vision-language model in memory; return how it is read, too."""
    attention, template, processor = config.attention, config.template, config.processor
    start = open_start(model, dtype=dtype)
    told = start.layout
    wanted: Any = attention or told.attention or opening.declared(start.model.config, start.provenance).attention
    set_attention(start.model, wanted)
    own = start.settings
    settings = own.pooled(config.pooling or (None if own.behind else told.pooling or ("mean" if wanted == "two-way" else "last")), None)
    mode = settings.pooling or "its own"
    if template is None:
        warn_of_chat(start)
    template = template or told.template
    _log.info("%s: %s attention, pooling %s, %s template", model, wanted, mode, template)
    if mode == "eos" and attention is None and wanted == "causal":
        _log.warning(
            "%s: pooling eos over causal attention, which is what its config means; if CoCoA trained it, say --attention two-way", model
        )
    parts: Any = processors.load_processor(loading.locate(processor, loading.PROCESSOR) if processor else start.folder)
    processors.require_fit(start.model, parts)
    write_as(parts, template)
    if template == "bare":
        _log.warning("%s: pictures keep their shape; VLM2Vec's first code made each 1344 pixels square, so scores are not its own", model)
    processors.set_max_length(start.model, parts, own.longest)
    if mode == "eos":
        poolings.append_eos(parts)
    sentence = checkpoint.read_around(loading.inner(start.model), parts, settings)
    if template == "bare":
        number_as_text(sentence[0].processor)
    return sentence, {"attention": wanted, "pooling": mode, "template": template}


def _text_model(folder: Path, dtype: str, mode: str | None) -> tuple[SentenceTransformer, dict[str, str]]:
    """Put pooling behind a text model as sentence-transformers opens it; return how it is read, too."""
    config = loading.load_config(folder)
    loading.weight_files(folder)
    attention = opening.declared(config, {}).attention
    mode = mode or ("mean" if attention == "two-way" else "last")
    if poolings.require_mode(mode) == "eos":
        raise UsageError("pooling eos is for vision-language models; use --pooling last or mean")
    try:
        transformer = Transformer(str(folder), model_kwargs={"dtype": dtype, "use_safetensors": True})
    except (RuntimeError, ValueError, KeyError, OSError, ImportError, TypeError, SafetensorError) as error:
        raise TwowayError(f"{folder} cannot be loaded: {loading.first_line(error)}") from error
    behind = poolings.modules(mode, transformer.get_embedding_dimension(), None, transformer.model.dtype)
    return SentenceTransformer(modules=[transformer, *behind], device="cpu"), {"attention": attention, "pooling": mode}


# One model in several processes, each on a device of its own: all GPUs of a machine, or a few shares of its
# processors.
#
# What comes out is what one process gives, in order, with the same refusals: rows are embedded in blocks, and only
# the last bits of a vector depend on what shares its batch. Blocks are small at first, so that a small task is shared
# too, and grow, so that rows of one length meet.

_FIRST, _ROWS, _BYTES = 32, 512, 64 << 20


@takes(OpenManyConfig)
def open_embedders(model: str | Path | Embedder | SentenceTransformer, *, config: OpenManyConfig | None = None, **options: Any) -> Embedder:
    """Open a model as `open_embedder` does, in several processes; by default one for each GPU of the machine."""
    engine = {name: options.pop(name) for name in (*_ENGINE, _MANY) if name in options}
    config = gather(OpenManyConfig, config, options, open_embedders)
    opening = config.opening() | engine
    processes = opening.pop("processes", None)
    if isinstance(model, Embedder | SentenceTransformer | MultiVectorEncoder):
        if processes is not None and processes > 1:
            raise UsageError("a model in memory cannot be sent to other processes; name its folder or hub id")
        return open_embedder(model, **opening)
    devices = _devices(config.device, processes)
    if len(devices) == 1:
        return open_embedder(model, **opening)
    # The copy here says what the model is, and embeds nothing: it takes no room on a device.
    opening["dtype"] = config.dtype or ("float32" if devices[0] == "cpu" else "auto")
    return Embedders(open_embedder(model, **{**opening, "device": "cpu"}), {"model": str(model), **opening}, devices)


def _devices(device: str, processes: int | None) -> list[str]:
    """Return the device of each process."""
    there = torch.cuda.device_count() if device in ("auto", "cuda") and torch.cuda.is_available() else 0
    if there:
        if processes is not None and processes > there:
            raise UsageError(f"--processes {processes}: this machine shows {there} GPUs, and each process needs one")
        return [f"cuda:{number}" for number in range(processes or there)]
    if device not in ("auto", "cpu") and (processes or 1) > 1:
        raise UsageError(f"--processes {processes} cannot share the device {device}; leave --device out, and each has a GPU of its own")
    return ["cpu" if device == "auto" else device] * (processes or 1)


class Embedders(Embedder):
    """An embedder that embeds in other processes; `engine` describes the model."""

    def __init__(self, engine: Embedder, opening: dict[str, Any], devices: Sequence[str]) -> None:
        vars(self).update(vars(engine))
        self.late_interaction = engine.late_interaction
        self.devices = devices
        turn = CONTEXT.Value("i", 0)
        self.team = Team(len(devices), _begin, opening, devices, turn, title="embedding")

    @property
    def device(self) -> torch.device:
        """Return a device that this process may compute on beside."""
        return torch.device(self.devices[0])

    def close(self) -> None:
        """End the processes."""
        self.team.close()

    def embed(
        self,
        documents: Iterable[DocumentLike],
        *,
        side: Side | None = None,
        prompt: str | None = None,
        prompt_name: str | None = None,
        truncate_dim: int | None = None,
        ordered: bool = False,
        refuse: Refuse | None = None,
    ) -> Iterator[tuple[int, Vector]]:
        """See `Embedder.embed`; vectors always come in order."""
        how: dict[str, Any] = {"side": side, "prompt": prompt, "prompt_name": prompt_name, "truncate_dim": truncate_dim}
        self.check(**how)
        return self._results(documents_of(documents), how, refuse)

    def _results(self, documents: Iterable[Document], how: dict[str, Any], refuse: Refuse | None) -> Iterator[tuple[int, Vector]]:
        begun: deque[tuple[int, Any]] = deque()

        def finish() -> Iterator[tuple[int, Vector]]:
            first, wait = begun.popleft()
            numbers, vectors, bad = wait()
            for number, error in bad:
                if refuse is None:
                    raise error
                refuse(first + number, error)
            yield from ((first + number, vector) for number, vector in zip(numbers, vectors, strict=True))

        for first, block in _blocks(documents, len(self.devices)):
            begun.append((first, self.team.submit(_embed_here, block, how)))
            if len(begun) > 2 * len(self.devices):
                yield from finish()
        while begun:
            yield from finish()


def _blocks(documents: Iterable[Document], shares: int) -> Iterator[tuple[int, list[Document]]]:
    """Cut the documents into blocks, with the number of the first of each."""
    block: list[Document] = []
    first = held = made = 0
    for number, document in enumerate(documents):
        block.append(replace(document, meta={}))
        held += size_in_memory(document)
        if len(block) >= min(_ROWS, _FIRST << (made // shares)) or held >= _BYTES:
            yield first, block
            block, first, held, made = [], number + 1, 0, made + 1
    if block:
        yield first, block


_OWN: dict[str, Embedder] = {}  # of a process that embeds


def _begin(opening: dict[str, Any], devices: Sequence[str], turn: Any) -> None:
    """Open the model on the next device that is free."""
    with turn.get_lock():
        number, turn.value = turn.value, turn.value + 1
    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(max(1, (os.cpu_count() or 1) // len(devices)))
    _OWN["engine"] = open_embedder(**{**opening, "device": devices[number]})


def _embed_here(documents: list[Document], how: dict[str, Any]) -> tuple[list[int], Vectors, list[tuple[int, ContentError]]]:
    """Embed a block; return the numbers of the documents that have vectors, the vectors, and what was refused."""
    engine = _OWN["engine"]
    bad: list[tuple[int, ContentError]] = []
    found = sorted(engine.embed(documents, refuse=lambda number, error: bad.append((number, error)), **how), key=lambda one: one[0])
    every = [vector for _, vector in found]
    rows = np.stack(every) if every and not engine.late_interaction else every  # one piece is sent faster
    return [number for number, _ in found], rows, sorted(bad, key=lambda one: one[0])


# What `evaluate` takes for a model: everything that the embedding engine opens, and a server of vectors by its
# address.


@takes(OpenManyConfig)
def open_engine(model: Any, *, config: OpenManyConfig | None = None, late_interaction: bool = False, **options: Any) -> Embedder | Endpoint:
    """Open a model; a server has its own settings, so none can be passed to it. `late_interaction`: it may have many vectors."""
    from .endpoint import Endpoint, is_endpoint

    if is_endpoint(model):
        for name, value in (config.opening() if config is not None else options).items():
            if value is not None and value != getattr(OpenManyConfig(), name, None):
                raise UsageError(f"--{name.replace('_', '-')} is not for a model behind a server, which has its own settings; leave it out")
        return Endpoint(str(model))
    return open_embedders(model, config=config, late_interaction=late_interaction, **options)
