"""The real program under load, then told to stop: nothing is its fault, memory is bounded, it ends well. A short form of the benchmark."""

from __future__ import annotations

import subprocess
import sys

import pytest

from snippets import ROOT

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("ranks")]


def test_64_clients_with_bad_requests_among_them(tiny_encoder):
    command = [sys.executable, "-m", "benchmarks.bench_serve", "--documents", "0", "--soak", "10", "--model", str(tiny_encoder("qwen2_vl"))]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=280)
    assert ended.returncode == 0, ended.stderr
    assert "soak: 64 clients" in ended.stdout
    assert "resident memory" in ended.stdout


def test_its_errors_before_it_serves_are_one_line(tmp_path, tiny_encoder):
    def said(*words):
        ended = subprocess.run([sys.executable, "-m", "twoway", "serve", *words], capture_output=True, text=True, timeout=120)
        assert "Traceback" not in ended.stderr
        return ended.returncode, ended.stderr.strip().splitlines()[-1]

    model = str(tiny_encoder("qwen2_vl"))
    assert said(str(tmp_path / "absent"), "--port", "0")[0] != 0
    code, line = said(model, "--port", "0", "--index", str(tmp_path / "absent"))
    assert code == 2
    assert "twoway index" in line
    assert said(model, "--port", "70000") == (2, "twoway serve: --port 70000 is out of range: ports go from 0 to 65535")
    code, line = said(model, "--api-keys", str(tmp_path / "absent"))
    assert code == 2
    assert "cannot be read" in line
