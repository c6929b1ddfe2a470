"""`pretrain`: a causal vision-language model learns two-way attention by restoring words and patches (MoCa's first stage).

The recipe, top to bottom: open the base and the data; see that this is the run that stands in the folder, if one does; train from its
last checkpoint; write a plain checkpoint out of the last one. Ranks train; the model is written by one process after them.
"""

from __future__ import annotations

import contextlib
import dataclasses
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from twoway.config import dump
from twoway.data.mixture import SourceConfig
from twoway.errors import UsageError, did_you_mean
from twoway.files import disk_errors, write_whole
from twoway.model import card
from twoway.training import ranks as between
from twoway.training.checkpoint import Checkpoints, read_run, same_run
from twoway.training.config import FREE
from twoway.training.launch import launch
from twoway.training.progress import read_log, require_tracker
from twoway.training.trainer import Trainer

from .convert import _quiet
from .pretrain_config import PretrainConfig
from .pretrain_data import TABLES, PretrainData, open_data
from .pretrain_model import prepare, require_two_way
from .pretrain_watch import Watch
from .trained import finish, finished

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .pretrain_model import Prepared

CONFIG, BAD_ROWS = "config.yaml", "bad-rows.jsonl"


@dataclass(frozen=True)
class PretrainResult:
    """What came out. `resumed` is the step that this call began at; it is the last one where the run was done already."""

    out: str
    steps: int
    resumed: int
    last: dict[str, Any]  # the last entry of the log

    def as_json(self) -> dict[str, Any]:
        """Return it as plain data."""
        return dataclasses.asdict(self)


def pretrain(
    base: str | Path,
    out: str | Path,
    data: Sequence[str | SourceConfig] = (),
    *,
    config: PretrainConfig | None = None,
    nproc: int = 1,
    force: bool = False,
    **options: Any,
) -> PretrainResult:
    """Pre-train `base` into `out` on `data` (specs of sources); `options` are the fields of `PretrainConfig`.

    The same call goes on where an earlier one stopped. `force` goes on although configuration, base or data changed.
    """
    config = _configure(config, data, options)
    out = Path(out)
    if nproc < 1:
        raise UsageError(f"--nproc is at least 1, not {nproc}")
    if nproc > 1 and between.started_by_others():
        raise UsageError("--nproc starts ranks by itself; under torchrun or accelerate launch leave it out")
    require_tracker(config.log)
    same_run(out, _run(base, config), free=FREE, force=force, write=False)
    done = read_run(out).get("steps")
    if done is not None and finished(out) and not force:
        return PretrainResult(str(out), done, done, _last(out))
    began = (Checkpoints(out).steps() or [0])[-1]
    if nproc > 1:
        launch(nproc, _train, base, out, config, force)
        prepared = None
    else:
        prepared = _train(base, out, config, force)
        if between.started_by_others() and not _is_first():
            return PretrainResult(str(out), 0, began, {})
    _write(base, out, config, prepared)
    return PretrainResult(str(out), read_run(out)["steps"], began, _last(out))


def _train(base: str | Path, out: Path, config: PretrainConfig, force: bool) -> Prepared:
    """Be one rank of the run, from the last checkpoint to the end."""
    ranks = between.Ranks(config.device)
    with _quiet():
        prepared = prepare(base, config)
        shards = config.shards or read_run(out).get("shards") or ranks.count
        if shards % ranks.count:
            raise UsageError(f"{shards} shards cannot be shared by {ranks.count} ranks; set shards to a multiple of {ranks.count}")
        data = _open(config, prepared, out, ranks, shards)
        total = data.total(config)
        run = _run(base, config) | {"weights": prepared.start.weights, "data": data.mixture.digest()}
        if ranks.first:
            same_run(out, run | {"shards": shards, "steps": total}, free=FREE, force=force)
            write_whole(out / CONFIG, dump(config))
            # A model of an earlier end of this run (--force with more steps) is not this run's.
            (out / card.FILE).unlink(missing_ok=True)
            if not Checkpoints(out).steps():
                require_two_way(prepared)
        ranks.wait()
    trainer = Trainer(prepared.task, config, out, total=total, ranks=ranks, events=[Watch(prepared, data, config, out)])
    trainer.run(data.loader)
    ranks.leave()
    return prepared


def _open(config: PretrainConfig, prepared: Prepared, out: Path, ranks: between.Ranks, shards: int) -> PretrainData:
    """Open the data; the first rank looks through it and keeps the tables for the others."""
    if not ranks.first:
        ranks.wait()
        return open_data(config, prepared, out, shards=shards, bad_rows=out / BAD_ROWS, keep=True)
    with disk_errors():
        out.mkdir(parents=True, exist_ok=True)
    try:
        # A run that goes on adds to the list of what it has met so far.
        data = open_data(config, prepared, out, shards=shards, bad_rows=out / BAD_ROWS, keep=bool(Checkpoints(out).steps()))
    except BaseException:
        if not read_run(out):
            # Nothing is left of a run that could not begin, but for a list of bad rows.
            shutil.rmtree(out / TABLES, ignore_errors=True)
            with contextlib.suppress(OSError):
                out.rmdir()
        raise
    ranks.wait()
    return data


def _write(base: str | Path, out: Path, config: PretrainConfig, prepared: Prepared | None) -> None:
    """Write the model out of the last checkpoint."""
    for stale in out.glob("..finished.*.tmp"):
        shutil.rmtree(stale, ignore_errors=True)
    run = read_run(out)
    with _quiet():
        # A task in pieces, or one that was shared, is not taken apart again: the base is opened anew.
        fresh = prepared if prepared is not None and not between.started_by_others() else prepare(base, config)
        options = {key: value for key, value in _plain(config).items() if value != _plain(PretrainConfig()).get(key)}
        options = {key: value for key, value in options.items() if key not in FREE and key != "data"}
        options |= {"steps": run["steps"], "shards": run["shards"], "data": run["data"]}
        finish(fresh, out, step="pretrain", options=options, steps=run["steps"])


def _configure(config: PretrainConfig | None, data: Sequence[str | SourceConfig], options: dict[str, Any]) -> PretrainConfig:
    """Put the parts of a call together."""
    known = [option.name for option in dataclasses.fields(PretrainConfig)]
    for name in options:
        if name not in known:
            raise UsageError(f"pretrain has no option {name!r}{did_you_mean(name, known)} (there are: {', '.join(known)})")
    made = dataclasses.replace(config or PretrainConfig(), **options)
    if data:
        made = dataclasses.replace(made, data=tuple(SourceConfig(one) if isinstance(one, str) else one for one in data))
    if not made.data:
        raise UsageError("no data is named; pass --data SPEC, or a recipe that names some")
    return made


def _run(base: str | Path, config: PretrainConfig) -> dict[str, Any]:
    """Say what a run is, as far as its command says it. Where data lies is not part of it; what it is, the data's digest says."""
    sources = [{"name": one.label, "weight": one.weight, "cap": one.cap, "template": one.template} for one in config.data]
    return {"base": _name(base), "config": _plain(config) | {"data": sources}}


def _plain(config: PretrainConfig) -> dict[str, Any]:
    plain: dict[str, Any] = yaml.safe_load(dump(config))
    return plain


def _name(base: str | Path) -> str:
    """Return what the base is called; the place of a folder means nothing elsewhere."""
    return Path(base).resolve().name if Path(base).exists() else str(base)


def _last(out: Path) -> dict[str, Any]:
    """Return the last entry of the log that has a loss."""
    return next((line for line in reversed(read_log(out)) if "loss" in line), {})


def _is_first() -> bool:
    with contextlib.suppress(KeyError, ValueError):
        import os

        return int(os.environ["RANK"]) == 0
    return True
