"""Bulk embedding by Ray: what the plain engine leaves, whoever is lost on the way; the clusters are Ray's own for tests."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import ray
from PIL import Image
from ray.cluster_utils import Cluster as LocalCluster

from twoway.embedding.bulk import embed
from twoway.embedding.config import Cluster
from twoway.embedding.ray import ShardEmbedder
from twoway.embedding.shards import Shards
from twoway.embedding.writing import Writer
from twoway.errors import TwowayError, UsageError

ROWS, SHARD = 40, 4
NODE = {"object_store_memory": 100 << 20, "include_dashboard": False}
# A lost machine is seen within two seconds, not within half a minute.
QUICK = {"health_check_initial_delay_ms": 500, "health_check_period_ms": 500, "health_check_failure_threshold": 3}
pytestmark = pytest.mark.xdist_group("ranks")


@pytest.fixture
def cluster(monkeypatch):
    """Start a head that does no work; tests add nodes that do. A node of this process takes SIGTERM for itself: it is given back."""
    before = signal.getsignal(signal.SIGTERM)
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    local = LocalCluster(initialize_head=True, head_node_args={**NODE, "num_cpus": 0, "_system_config": QUICK})
    yield local
    ray.shutdown()
    local.shutdown()
    signal.signal(signal.SIGTERM, before)


@pytest.fixture
def data(tmp_path):
    """Write rows of text and pictures, three of them bad in different ways."""
    Image.new("RGB", (30, 30), "red").save(tmp_path / "red.png")
    (tmp_path / "torn.png").write_bytes((tmp_path / "red.png").read_bytes()[:60])
    rows = [{"text": f"row {number} " + "w " * (number % 7), "n": number} for number in range(ROWS)]
    rows[4], rows[9], rows[21] = {"image": "red.png", "id": "red"}, {"image": "none.png"}, {"image": "torn.png"}
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows) + "{broken\n")
    return tmp_path / "rows.jsonl"


def table(folder):
    shards = Shards.open(folder)
    found = [(one.drop(["vector"]).to_pylist(), shards.vectors(one)) for one in shards.tables()]
    bad = sorted((folder / "bad-rows.jsonl").read_text().splitlines())
    return [row for rows, _ in found for row in rows], np.concatenate([vectors for _, vectors in found]), bad, shards.manifest


def same(folder, reference):
    """Hold a folder to that of the plain engine: rows, places, bad rows and manifest the same, vectors to 1e-5."""
    (rows, vectors, bad, manifest), (right, true, listed, said) = table(folder), table(reference)
    assert rows == right
    assert bad == listed
    assert len(bad) == 3
    assert manifest == said
    assert np.abs(vectors - true).max() < 1e-5


@pytest.mark.slow
def test_ray_goes_on_where_the_plain_engine_was_stopped_and_leaves_the_same(cluster, tiny_encoder, data, tmp_path):
    how = {"device": "cpu", "on_bad": "skip", "shard_rows": SHARD}
    model = tiny_encoder("qwen2_vl")
    embed(model, data, tmp_path / "plain", **how)
    out = tmp_path / "out"
    shutil.copytree(tmp_path / "plain", out)
    for path in Shards.open(out).paths()[3:]:
        path.unlink()
    (out / "manifest.json").write_text((out / "manifest.json").read_text().replace('"finished": true', '"finished": false'))
    cluster.add_node(num_cpus=1, **NODE)
    machines, before = Cluster(address=cluster.address), signal.getsignal(signal.SIGTERM)
    result = embed(model, data, out, cluster=machines, **how)
    assert (result.rows, result.vectors, result.bad, result.embedded) == (ROWS + 1, ROWS - 2, 3, ROWS - 2 - 11)
    same(out, tmp_path / "plain")
    assert not ray.is_initialized()
    assert signal.getsignal(signal.SIGTERM) == before


def held_back(log, gate):
    """Make the embedder of the machines note each shard that it begins, and wait with number 6 and those behind it for the gate."""

    class HeldBack(ShardEmbedder):
        def __call__(self, batch):
            number = int(batch["number"][0])
            with open(log, "a") as file:
                file.write(f"{number} {os.getpid()}\n")
            until = time.monotonic() + 60
            while number >= 6 and not os.path.exists(gate) and time.monotonic() < until:
                time.sleep(0.05)
            return super().__call__(batch)

    return HeldBack


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_machine_that_is_lost_loses_no_row_and_doubles_none(cluster, tiny_encoder, data, tmp_path, monkeypatch):
    """The machine dies while it works on shard 6, has 7 in hand, and 2 is being written; what it answered of 3 to 5 may go with it."""
    how = {"device": "cpu", "on_bad": "skip", "shard_rows": SHARD}
    model = tiny_encoder("qwen2_vl")
    embed(model, data, tmp_path / "plain", **how)
    first = cluster.add_node(num_cpus=1, **NODE)
    log, gate = tmp_path / "begun", tmp_path / "gate"
    write = Writer.write

    def losing(self, *args, **kwargs):
        if self.due == 2 and not gate.exists():
            until = time.monotonic() + 60
            while "\n6 " not in log.read_text() and time.monotonic() < until:
                time.sleep(0.05)
            cluster.add_node(num_cpus=1, **NODE)
            cluster.remove_node(first, allow_graceful=False)
            gate.touch()
        write(self, *args, **kwargs)

    monkeypatch.setattr(Writer, "write", losing)
    monkeypatch.setattr("twoway.embedding.ray.ShardEmbedder", held_back(str(log), str(gate)))
    ray.init(address=cluster.address, log_to_driver=False)
    result = embed(model, data, tmp_path / "out", engine="ray", cluster=Cluster(), **how)
    assert (result.rows, result.embedded) == (ROWS + 1, ROWS - 2)
    same(tmp_path / "out", tmp_path / "plain")
    begun = [tuple(map(int, line.split())) for line in log.read_text().splitlines()]
    assert len({process for _, process in begun}) >= 2
    assert len([number for number, _ in begun if number == 6]) >= 2
    assert sorted(node["Alive"] for node in ray.nodes()) == [False, True, True]


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_killed_command_goes_on(cluster, tiny_encoder, data, tmp_path):
    how = {"device": "cpu", "on_bad": "skip", "shard_rows": SHARD}
    model = tiny_encoder("qwen2_vl")
    embed(model, data, tmp_path / "plain", **how)
    cluster.add_node(num_cpus=1, **NODE)
    out = tmp_path / "out"
    words = ["embed", model, "--data", data, "--out", out, "--device", "cpu", "--on-bad", "skip", "--shard-rows", SHARD]
    command = [sys.executable, "-m", "twoway", *map(str, words), "--engine", "ray", "--cluster.address", cluster.address]
    child = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    until = time.monotonic() + 120
    while not list(out.glob("part-*.parquet")) and child.poll() is None and time.monotonic() < until:
        time.sleep(0.02)
    os.kill(child.pid, signal.SIGKILL)
    assert child.wait() == -signal.SIGKILL
    left = Shards.open(out).done()
    assert 1 <= left < ROWS // SHARD
    assert embed(model, data, out, engine="ray", cluster=Cluster(address=cluster.address), **how).vectors == ROWS - 2
    same(out, tmp_path / "plain")


def test_a_cluster_that_is_not_there_and_wrong_numbers_are_refused(data, tmp_path, tiny_encoder):
    model = tiny_encoder("qwen2_vl")
    with pytest.raises(UsageError, match="actors takes a whole number from 1, not '0'"):
        embed(model, data, tmp_path / "out", engine="ray", cluster=Cluster(actors=0))
    with pytest.raises(TwowayError, match="no Ray cluster answers at"):
        embed(model, data, tmp_path / "out", engine="ray", cluster=Cluster(address="auto"))
    assert not (tmp_path / "out").exists()


def test_what_is_cut_in_this_process_is_refused(data, tmp_path):
    for how in ({"segment": 1.0}, {"chunks": 8}):
        with pytest.raises(UsageError, match="in this process; leave engine out"):
            embed("m", data, tmp_path / "out", engine="ray", **how)
    assert not (tmp_path / "out").exists()
