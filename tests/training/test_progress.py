"""What a run says: means over all rows of a window, each step once, and a tracker that is there or refused."""

from __future__ import annotations

import json

import torch

from twoway.training.progress import LOG, Meter, TrainingLog, format_entry, read_log


def entry(step, **more):
    return {
        "step": step,
        "loss": 1.0,
        "rows_per_second": 2.0,
        "tokens_per_second": 3.0,
        "padding": 0.1,
        "memory_mb": 5,
        "seconds_left": 9.0,
    } | more


def test_an_entry_is_the_mean_over_targets_and_not_over_steps():
    meter = Meter(torch.device("cpu"))
    meter.add({"sum mlm": 10.0, "count mlm": 2, "sum mae": 0.0, "count mae": 0, "rows": 4, "tokens": 30, "padding": 10})
    meter.add({"sum mlm": 10.0, "count mlm": 8, "sum mae": 3.0, "count mae": 3, "rows": 4, "tokens": 30, "padding": 10})
    made = meter.entry(2, 10, {"mlm": 1.0, "mae": 0.5})
    assert (made["mlm"], made["mae"], made["loss"]) == (2.0, 1.0, 2.5)
    assert (made["rows"], made["tokens"], made["padding"], made["mlm_targets"]) == (8, 60, 0.25, 10)
    assert made["seconds_left"] >= 0
    meter.add({"sum mlm": 0.0, "count mlm": 0, "rows": 1, "tokens": 1, "padding": 0})
    assert "mlm" not in meter.entry(3, 10, {"mlm": 1.0, "mae": 0.5})  # no target is no loss of zero


def test_steps_that_are_done_again_are_in_the_log_once(tmp_path):
    log = TrainingLog(tmp_path, start=0, total=9)
    for step in (1, 2, 3):
        log.write(entry(step))
    with (tmp_path / LOG).open("a") as file:
        file.write('{"step": 4, "lo')
    log = TrainingLog(tmp_path, start=2, total=9)
    log.write(entry(3, loss=7.0))
    log.close()
    assert [(line["step"], line["loss"]) for line in read_log(tmp_path)] == [(1, 1.0), (2, 1.0), (3, 7.0)]
    assert all(json.loads(line) for line in (tmp_path / LOG).read_text().splitlines())


def test_outside_a_terminal_the_end_is_a_line(tmp_path, capsys):
    log = TrainingLog(tmp_path, start=0, total=2)
    log.write(entry(2, mlm=1.5, mlm_targets=3))
    assert capsys.readouterr().err == "step 2 of 2: loss 1.000 (mlm 1.500), 2.0 rows/s, 3 tokens/s, padding 10%, 5 MB\n"
    assert "mae" not in format_entry(entry(1, mlm=1.5, mlm_targets=3, mae_targets=0))
