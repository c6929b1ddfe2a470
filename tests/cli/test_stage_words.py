"""What a training verb says at its end."""

from __future__ import annotations

import json

from twoway.cli.training import _said
from twoway.methods.run import TrainResult


def test_rows_that_were_left_out_are_said_at_the_end(tmp_path):
    (tmp_path / "twoway.json").write_text(json.dumps({"attention": {"measured": "two-way"}}))
    result = TrainResult(str(tmp_path), 3, 0, {"step": 3, "mlm": 1.5, "mlm_targets": 4})
    plain = f"{tmp_path}: 3 steps done, two-way as measured; last mlm 1.500"
    assert _said(result) == plain
    row = json.dumps({"file": "rows.jsonl", "row": 3, "unit": "row", "reason": "broken"})
    (tmp_path / "bad-rows.jsonl").write_text(f"{row}\n{row}\n")
    assert _said(result) == f"{plain}; 2 bad rows left out, listed in {tmp_path / 'bad-rows.jsonl'}"
