"""What every training method does in the same way; a `Method` says what it does in its own.

Top to bottom: check that this is the run that stands in the folder, if one does; open the base and the data; train from the last
checkpoint, in this process or in several ranks; write a plain checkpoint out of the last one, in one process. The same call resumes a run.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import os
import shutil
import sys
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

import torch

from twoway.config import dump, fill, plain_values
from twoway.data.config import SourceConfig
from twoway.data.rows import BAD_ROWS
from twoway.errors import UsageError
from twoway.files import disk_errors, write_whole
from twoway.models import checkpoint, kernels, loading
from twoway.models.loading import first_line
from twoway.training import distributed as between
from twoway.training.checkpointing import Checkpoints, read_run, require_same_run
from twoway.training.config import FREE
from twoway.training.distributed import launch
from twoway.training.precision import choose_dtype, resolve_dtype
from twoway.training.progress import read_log, require_tracker
from twoway.training.trainer import Trainer

from .config import MethodConfig
from .convert import quiet_loading
from .export import export_model, is_exported
from .memory import choose_parallel
from .model import choose_kernels
from .tables import TABLES, LostRows, LostRowsCallback

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from twoway.training.trainer import BatchSource, Callback

    from .model import PreparedModel

log = logging.getLogger(__name__)

CONFIG = "config.yaml"
C = TypeVar("C", bound=MethodConfig)


class MethodData(Protocol):
    """The data of a run, as far as this module knows it."""

    loader: BatchSource
    lost: tuple[LostRows, ...]

    def total(self, config: Any) -> int:
        """Return the number of steps of the run."""

    def digest(self) -> Any:
        """Return what tells this data from other data."""


@dataclass(frozen=True)
class Method(Generic[C]):
    """What a method does in its own way. Ranks are sent it, so its functions are those of a module."""

    name: str  # the verb, and the step in a model's provenance
    config: type[C]
    prepare: Callable[[str | Path, C], PreparedModel[Any]]  # the base, with the module that trains
    open_data: Callable[..., Any]  # (config, prepared, out, *, shards, bad_rows, keep) -> MethodData
    callback: Callable[[Any, Any, C, Path], Callback]  # (prepared, data, config, out): measures on the way, writes the report
    verify: Callable[[Any], None]  # (prepared): what must hold before the first step of a run
    pooling: str | None = None  # of the model that comes out; None for that of the base
    source: type[SourceConfig] = SourceConfig  # what a spec of data becomes
    select_weights: Callable[[Path, Any], Path | None] | None = None  # (out, config): a folder of weights to write instead of the last ones


@dataclass(frozen=True)
class TrainResult:
    """What came out. `resumed` is the step that this call began at; it is the last one where the run was done already."""

    out: str
    steps: int
    resumed: int
    last: dict[str, Any]  # the last entry of the log

    def as_json(self) -> dict[str, Any]:
        """Return it as plain data."""
        return dataclasses.asdict(self)


def run_method(method: Method[C], base: str | Path, out: str | Path, config: C, *, nproc: int = 1, force: bool = False) -> TrainResult:
    """Train `base` into `out`, or go on where an earlier call stopped. `force` goes on although configuration, base or data changed."""
    out = Path(out)
    if nproc < 1:
        raise UsageError(f"--nproc is at least 1, not {nproc}")
    if nproc > 1 and between.launched_externally():
        raise UsageError("--nproc starts ranks by itself; under torchrun or accelerate launch leave it out")
    require_tracker(config.report_to)
    kernels.require_installed(config.attn_implementation)
    config = as_begun(config, out)
    require_same_run(out, _run(method, base, config), free=FREE, force=force, write=False)
    done = read_run(out).get("steps")
    if done is not None and is_exported(out) and not force:
        return TrainResult(str(out), done, done, _last(out) if _is_first() else {})
    began = (Checkpoints(out).steps() or [0])[-1]
    if nproc > 1:
        launch(nproc, train, method, base, out, config, force)
        prepared = None
    else:
        prepared = train(method, base, out, config, force)
        if between.launched_externally() and not _is_first():
            return TrainResult(str(out), 0, began, {})
    _write(method, base, out, config, prepared)
    return TrainResult(str(out), read_run(out)["steps"], began, _last(out))


def configure(method: Method[C], config: C | None, data: Sequence[str | SourceConfig], options: dict[str, Any]) -> C:
    """Put the parts of a call together: `options` are fields of the method's configuration, `data` stands instead of its sources."""
    made = fill(method.config, options, method.name, over=config) if options else config or method.config()
    if data:
        named = [data] if isinstance(data, str | Path | SourceConfig) else data
        made = dataclasses.replace(made, data=tuple(method.source(str(one)) if isinstance(one, str | Path) else one for one in named))
    if not made.data:
        raise UsageError("no data is named; pass --data SPEC, or a recipe that names some")
    return made


def train(method: Method[C], base: str | Path, out: Path, config: C, force: bool) -> PreparedModel[Any]:
    """Be one rank of the run, from the last checkpoint to the end."""
    ranks = between.Ranks(config.device, timedelta(seconds=config.ddp_timeout))
    config = resolve_dtype(config, ranks)
    kernels.require_kernels(config.attn_implementation, ranks.device, torch.bfloat16 if config.dtype == "bfloat16" else torch.float32)
    with quiet_loading():
        prepared = _prepare(method, base, config, ranks)
        config = dataclasses.replace(config, parallel=ranks.all_gather_object(choose_parallel(prepared, config, ranks))[0])
        shards = config.batches_per_step or read_run(out).get("shards") or ranks.world_size
        if shards % ranks.world_size:
            raise UsageError(
                f"{shards} batches a step cannot be shared by {ranks.world_size} ranks; set batches_per_step to a multiple of it"
            )
        if ranks.is_main_process and not Checkpoints(out).steps():
            # A proof looks into layers; compiled ones would be compiled for it alone.
            with torch.compiler.set_stance("force_eager"):
                method.verify(prepared)
        data = _open(method, config, prepared, out, ranks, shards)
        total = data.total(config)
        run = _run(method, base, config) | {"weights": prepared.start.weights, "data": data.digest()}
        if ranks.is_main_process:
            lost = [str(one) for one in data.lost]
            require_same_run(out, run | {"shards": shards, "steps": total} | ({"lost": lost} if lost else {}), free=FREE, force=force)
            write_whole(out / CONFIG, dump(config))
            # A model of an earlier end of this run (--force with more steps) is not this run's.
            (out / checkpoint.CARD_FILE).unlink(missing_ok=True)
            sys.stderr.write(_says_type(config, ranks, begun=bool(Checkpoints(out).steps())))
        ranks.barrier()
        callbacks = [LostRowsCallback(data.lost), method.callback(prepared, data, config, out)]
        trainer = Trainer(prepared.module, config, out, total_steps=total, ranks=ranks, callbacks=callbacks)
        if ranks.device.type != "cpu":
            decoder = getattr(prepared.module, "decoder", None)
            body, masks = getattr(decoder, "body", None), prepared.module.has_own_masks
            choose_kernels(prepared.start.model, config, decoder=body, masks=masks, device=ranks.device)
        trainer.train(data.loader)
    ranks.destroy()
    return prepared


def _prepare(method: Method[C], base: str | Path, config: C, ranks: between.Ranks) -> PreparedModel[Any]:
    """Open the base: the first rank reads its weights, and the others get them from it when the module is wrapped (`Ranks.wrap`)."""
    if ranks.is_main_process:
        prepared = method.prepare(base, config)
        ranks.barrier()
        ranks.all_gather_object((prepared.token.token, prepared.start.weights))
        return prepared
    ranks.barrier()
    token, weights = ranks.all_gather_object(None)[0]
    chosen = loading.SKELETON.set(token)
    try:
        prepared = method.prepare(base, config)
        # The names of a run's tables hold what the base's weights are, so all ranks find those that the first one made.
        return dataclasses.replace(prepared, start=dataclasses.replace(prepared.start, weights=weights))
    except (NotImplementedError, RuntimeError) as error:
        log.warning("rank %d reads the weights for itself: the model cannot be made without them (%s)", ranks.rank, first_line(error))
    finally:
        loading.SKELETON.reset(chosen)
    return method.prepare(base, config)


def _open(method: Method[C], config: C, prepared: PreparedModel[Any], out: Path, ranks: between.Ranks, shards: int) -> MethodData:
    """Open the data; the first rank looks through it and keeps the tables for the others."""
    data: MethodData
    if not ranks.is_main_process:
        ranks.barrier()
        data = method.open_data(config, prepared, out, shards=shards, bad_rows=out / BAD_ROWS, keep=True)
        return data
    with disk_errors():
        out.mkdir(parents=True, exist_ok=True)
    try:
        # A run that goes on adds to the list of what it has met so far.
        keep = bool(Checkpoints(out).steps())
        data = method.open_data(config, prepared, out, shards=shards, bad_rows=out / BAD_ROWS, keep=keep)
        steps = data.total(config)
        if config.average_checkpoints > (saved := -(-steps // config.save_steps)):
            made = f"{steps} steps with save_steps {config.save_steps} make {saved} checkpoints"
            raise UsageError(f"average_checkpoints {config.average_checkpoints}: {made}")
    except BaseException:
        if not read_run(out):
            # Nothing is left of a run that could not begin, but for a list of bad rows.
            shutil.rmtree(out / TABLES, ignore_errors=True)
            with contextlib.suppress(OSError):
                out.rmdir()
        raise
    ranks.barrier()
    return data


def _write(method: Method[C], base: str | Path, out: Path, config: C, prepared: PreparedModel[Any] | None) -> None:
    """Write the model out of the last checkpoint."""
    for stale in out.glob("..finished.*.tmp"):
        shutil.rmtree(stale, ignore_errors=True)
    run, config = read_run(out), as_begun(config, out)
    with quiet_loading():
        # A task in pieces, or one that was shared, is not taken apart again: the base is opened anew.
        fresh = prepared if prepared is not None and not between.launched_externally() else method.prepare(base, config)
        usual = plain_values(method.config())
        options = {
            key: value for key, value in plain_values(config).items() if value != usual.get(key) and key not in FREE and key != "data"
        }
        options |= {"steps": run["steps"], "shards": run["shards"], "data": run["data"]}
        weights = method.select_weights(out, config) if method.select_weights is not None else None
        lost = tuple(f"Trained without some rows: {one}." for one in run.get("lost", ()))
        kept = Checkpoints(out)
        folders = [weights] if weights is not None else [kept.path(step) for step in kept.steps()[-config.average_checkpoints :]]
        export_model(fresh, out, folders, step=method.name, options=options, steps=run["steps"], pooling=method.pooling, notes=lost)


def as_begun(config: C, out: Path) -> C:
    """Return a configuration in the type that the run in `out` began in, where it leaves the type to the machine."""
    begun = read_run(out).get("config", {}).get("dtype")
    return config if begun is None or config.dtype != "auto" else dataclasses.replace(config, dtype=begun)


def _says_type(config: MethodConfig, ranks: between.Ranks, *, begun: bool) -> str:
    """Say which type a run computes in and what this machine is fast in, in a line."""
    here, as_begun = choose_dtype(ranks.device), ", as this run began" if begun else ""
    why = here.why if here.dtype == config.dtype else f"{here.dtype} would be faster here, {here.why}"
    return f"computing in {config.dtype}{as_begun} ({why})\n"


def _run(method: Method[C], base: str | Path, config: C) -> dict[str, Any]:
    """Say what a run is, as far as its command says it. Where data lies is not part of it; what it is, the data's digest says."""
    sources = [one.conditions() for one in config.data]
    return {"stage": method.name, "base": _name(base), "config": plain_values(config) | {"data": sources}}


def _name(base: str | Path) -> str:
    """Return what the base is called; the place of a folder means nothing elsewhere."""
    return Path(base).resolve().name if Path(base).exists() else str(base)


def _last(out: Path) -> dict[str, Any]:
    """Return the last entry of the log that has a loss."""
    return next((line for line in reversed(read_log(out)) if "loss" in line), {})


def _is_first() -> bool:
    with contextlib.suppress(KeyError, ValueError):
        return int(os.environ["RANK"]) == 0
    return True
