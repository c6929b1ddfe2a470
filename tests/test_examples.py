"""The examples run as they stand: alone, over a server in a thread, and as a notebook."""

from __future__ import annotations

import ast
import contextlib
import json
import socket
import threading
import time
from pathlib import Path

import nbformat
import pytest
import uvicorn
from IPython.core.interactiveshell import InteractiveShell
from traitlets.config import Config

from snippets import ROOT, load_example
from twoway.cli import build_parser
from twoway.cli.parser import SETTING
from twoway.embedding import open_embedder
from twoway.evaluation.config import EvaluateConfig

EXAMPLES = ROOT / "examples"


@pytest.fixture(scope="module")
def model(tiny_encoder):
    return tiny_encoder("qwen2_vl", prompts={"query": "find ", "document": "keep "})


@pytest.fixture(scope="module")
def address(model):
    """Serve the model in a thread, at an address that is free."""
    from twoway.server.app import create_app

    taken = socket.socket()
    taken.bind(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(create_app(open_embedder(model, device="cpu"), name="my-model"), log_config=None))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [taken]}, daemon=True)
    thread.start()
    until = time.monotonic() + 120
    while not server.started and time.monotonic() < until:
        time.sleep(0.02)
    yield f"http://127.0.0.1:{taken.getsockname()[1]}/v1"
    server.should_exit = True
    thread.join(30)
    with contextlib.suppress(OSError):
        taken.close()


def test_every_command_of_the_demo_is_one_that_there_is(monkeypatch, tmp_path):
    """The demo itself takes minutes; its words are read as the program reads them, and do nothing."""
    demo, seen = load_example("demo"), []

    def read(words):
        asked = build_parser(words[0]).parse_args(words)
        seen.append(words[0])
        if words[0] == "evaluate":
            chosen = vars(asked)[f"{SETTING}tasks"]
            EvaluateConfig(suite="nano", tasks=tuple(chosen))  # refuses a task that the suite does not have
            Path(words[-1]).write_text(json.dumps({"tasks": {name: {"score": 0.0, "chance": 0.0} for name in chosen}}))
        return int(words[0] == "check" and len(seen) == 1)

    monkeypatch.setattr(demo, "run", read)
    monkeypatch.setattr(demo, "gaps", lambda _folder: None)
    monkeypatch.setattr(demo, "OUT", tmp_path)
    monkeypatch.setattr(demo.shutil, "rmtree", lambda *_, **__: None)
    monkeypatch.setattr(demo.Path, "write_bytes", lambda *_: 0)
    demo.main()
    assert set(seen) == {"check", "convert", "pretrain", "finetune", "evaluate", "embed", "index", "search"}


def test_the_demo_of_videos_finds_clips_and_says_what_is_right(tiny_encoder, monkeypatch, tmp_path, capsys):
    """Clips, index and search are real; training, which takes minutes, is read and leaves a tiny model."""
    demo, trained = load_example("demo_media"), tiny_encoder("qwen2_vl")
    monkeypatch.setattr(demo, "OUT", tmp_path / "demo")
    monkeypatch.setattr(demo, "TRAINED", 2)
    monkeypatch.setattr(demo, "ASKED", 1)
    plain = demo.run

    def read(words):
        if words[0] not in ("convert", "finetune"):
            return plain(words)
        build_parser(words[0]).parse_args(words)
        assert Path(words[1]).is_dir()
        (tmp_path / "demo" / ("two-way" if words[0] == "convert" else "model")).symlink_to(trained)
        return 0

    monkeypatch.setattr(demo, "run", read)
    demo.main()
    said = capsys.readouterr().out
    assert "18 clips of 3 things" in said
    rates = {line[2:16].strip(): line.split()[-4:] for line in said.splitlines() if line.startswith("  ") and line.endswith("%")}
    assert set(rates) == {"chance", "before", "one frame", "three frames"}
    assert rates["chance"] == ["50.0%", "16.7%"] * 2
    assert rates["before"] == rates["three frames"], "the same model here"
    pairs = [json.loads(line) for line in (tmp_path / "demo" / "trained" / "pairs.jsonl").read_text().splitlines()]
    assert len(pairs) == 10
    assert pairs[0]["positive"] == {"video": "0001-moving-to-the-left.mp4"}
    assert pairs[0]["negatives"] == [], "what is asked for later is no negative either"
    assert pairs[1]["negatives"] == [pairs[2]["positive"]]


def printed(capsys):
    lines = capsys.readouterr().out.splitlines()
    scores = [float(line.split()[0]) for line in lines]
    assert scores == sorted(scores, reverse=True)
    assert all(-1.001 <= score <= 1.001 for score in scores)
    return lines


def test_a_checkpoint_needs_sentence_transformers_alone(model, capsys):
    imported = ast.walk(ast.parse((EXAMPLES / "sentence_transformers_alone.py").read_text()))
    named = {getattr(node, "module", None) or node.names[0].name for node in imported if isinstance(node, ast.Import | ast.ImportFrom)}
    assert named == {"__future__", "sys", "PIL", "sentence_transformers"}
    load_example("sentence_transformers_alone").main(str(model))
    lines = printed(capsys)
    assert sorted(line.split("  ")[-1] for line in lines) == ["a picture", "a picture and a text", "a text", "four parts in order"]


def test_a_data_set_gets_a_column_of_vectors(model, capsys, monkeypatch, tmp_path):
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path))
    load_example("datasets_map").main(str(model))
    assert len(printed(capsys)) == 3


@pytest.mark.xdist_group("ranks")
@pytest.mark.parametrize("name", ["langchain_search", "llama_index_search"])
def test_frameworks_ask_the_server(name, address, model, capsys):
    example = load_example(name)
    found = example.main(address, example.TEXTS["bread"])
    lines = printed(capsys)
    assert found == [line.split()[1].rstrip(":") for line in lines]
    # The words of a document are nearest to that document, as our own engine sees it too.
    assert found[0] == "bread"


def test_the_notebook_ends_with_pictures(model, monkeypatch):
    """In this process, which has the libraries: a kernel of its own would read them again."""
    monkeypatch.setenv("MODEL", str(model))
    monkeypatch.setenv("ROWS", "12")
    monkeypatch.chdir(ROOT)
    book = nbformat.read(EXAMPLES / "pictures.ipynb", as_version=4)
    nbformat.validate(book)
    assert all(not cell.get("outputs") for cell in book.cells)  # it is kept without what it shows
    assert book.metadata.kernelspec.name == "python3"
    shell = InteractiveShell(config=Config(HistoryManager={"enabled": False}))
    ran = [shell.run_cell(cell.source) for cell in book.cells if cell.cell_type == "code"]
    for one in ran:
        one.raise_error()
    assert all("image/png" in shell.display_formatter.format(one.result)[0] for one in ran[-2:])
