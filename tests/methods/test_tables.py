"""Tables of a run are found again by the run that goes on, and by no other base."""

from __future__ import annotations

import json
from types import SimpleNamespace

from twoway.methods.tables import table_path

SAID = {"rows": 3}


def prepared(weights):
    return SimpleNamespace(start=SimpleNamespace(weights={"model.safetensors": weights}))


def begun(out, weights):
    (out / "tables").mkdir(parents=True, exist_ok=True)
    (out / "run.json").write_text(json.dumps({"weights": {"model.safetensors": weights}}))
    return out / "tables"


def test_another_base_has_another_table(tmp_path):
    first, other = (table_path(tmp_path / "tables", "costs", SAID, prepared(weights), ".npy") for weights in ("a", "b"))
    assert first != other
    assert first != table_path(tmp_path / "tables", "costs", {"rows": 4}, prepared("a"), ".npy")


def test_a_run_that_goes_on_finds_its_table_and_so_does_its_forecast(tmp_path):
    first = table_path(tmp_path / "tables", "costs", SAID, prepared("a"), ".npy")
    folder = begun(tmp_path, "a")
    assert table_path(folder, "costs", SAID, prepared("a"), ".npy") == first
    assert table_path(folder, "costs", SAID, SimpleNamespace(start=SimpleNamespace()), ".npy") == first
