"""Trackers get the numbers of every logged step, and are refused before any work where their package is missing."""

from __future__ import annotations

import sys
from types import ModuleType

import pytest
from accelerate import tracking

from twoway.errors import UsageError
from twoway.training.progress import TrainingLog, open_tracker, require_tracker


class Noted:
    """Stands for a tracker of accelerate."""

    requires_logging_directory = False
    seen: list[tuple[str, object]]

    def __init__(self, name):
        Noted.seen = [("named", name)]

    def start(self):
        Noted.seen.append(("start", None))

    def log(self, values, step):
        Noted.seen.append(("log", (step, values)))

    def finish(self):
        Noted.seen.append(("finish", None))


def test_a_tracker_of_accelerate_gets_numbers_and_no_words(tmp_path, monkeypatch):
    monkeypatch.setitem(tracking.LOGGER_TYPE_TO_CLASS, "wandb", Noted)
    out = tmp_path / "my-run"
    out.mkdir()
    log = TrainingLog(out, start=0, total=2, tracker="wandb")
    log.write({"step": 1, "loss": 2.5, "not_finite": "loss"})
    log.close()
    assert Noted.seen == [("named", "my-run"), ("start", None), ("log", (1, {"loss": 2.5})), ("finish", None)]


def test_none_is_none(tmp_path):
    assert open_tracker("none", tmp_path, 0) is None
    require_tracker("none")


def test_a_tracker_that_is_not_installed_is_refused_with_the_way_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(UsageError, match=r"\.\[train\]"):
        require_tracker("tensorboard")
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(UsageError, match="report_to=wandb needs the package wandb"):
        require_tracker("wandb")
    here = ModuleType("mlflow")
    here.__spec__ = tracking.__spec__
    monkeypatch.setitem(sys.modules, "mlflow", here)
    require_tracker("mlflow")
