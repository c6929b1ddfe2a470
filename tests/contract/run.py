"""Run what users run, through the command alone, and write down all that comes out: `python -m tests.contract.run OUT.json`.

Two commits whose files are equal on one machine (`python -m tests.contract.compare OLD.json NEW.json`) compute the same numbers,
bit for bit.
`python -m tests.contract.run --golden` writes the numbers that the suite compares with, and no hash.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import io
import json
import os
import re
import signal
import socket
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

from tests.contract.names import canonical, command, here, lines, spelt

GOLDEN = Path(__file__).with_name("golden.json")
STEPS = {"max_steps": 12, "seed": 1, "dtype": "float32", "learning_rate": 1e-3, "save_steps": 6, "dataloader_num_workers": 0}
STEPS |= {"training_device": "cpu", "max_length": 200}
PAIRS = {
    "train_data": "pairs.jsonl", "batch_size": 6, "budget": 300, "held_out": 2, "hard_negatives": 2, "temperature": 0.1,
    "query_prompt": "Find: ", **STEPS,
}  # fmt: skip
MACHINE = re.compile(r"/weights/|^convert/check/(cells|embedding)/|^evaluate/items/\d+/(item|about)")
LORA = {"lora_r": 4, "lora_alpha": 8, "lora_dropout": 0.1}


def run(folder: Path, told: Callable[[str], None] = lambda _: None) -> dict[str, Any]:
    """Run everything in a new folder and return what came out, by the command that made it."""
    from tests.contract.inputs import make

    with contextlib.chdir(folder), _environment(TWOWAY_CACHE=str(folder / "cache"), HF_HUB_OFFLINE="1"):
        make(folder)
        found = {}
        for name, work in WORK.items():
            begun = time.process_time()
            found[name] = work()
            told(f"{name}: {time.process_time() - begun:.1f} s")
    return found


def convert() -> Any:
    call("convert", "qwen2_vl", "converted", prompts=["query=Find: "])
    report = json.loads(call("check", "converted", backends=["sdpa"], as_json=True))
    return {"weights": weights("converted"), "check": canonical(report)}


def pretrain() -> Any:
    call("pretrain", "qwen2_vl", "pretrained", train_data="pretraining.jsonl", batch_rows=3, **STEPS)
    return trained("pretrained")


def pretrain_causal() -> Any:
    call("pretrain", "qwen2_vl", "next-token", train_data="pretraining.jsonl", objective="causal", budget=200, **STEPS)
    return trained("next-token")


def bridge() -> Any:
    data = {"train_data": "bridged.jsonl", "on_bad": "skip"}  # a pair of two pictures has no words to restore
    call("bridge", "converted", "bridged", batch_rows=3, held_out=2, max_target=24, **data, **STEPS)
    return trained("bridged") | {"bad": lines(Path("bridged", here("bad-rows.jsonl")).read_text())}


def finetune() -> Any:
    call("finetune", "qwen2_vl", "tuned", **PAIRS, eval_data="pairs.jsonl", eval_rows=8, eval_steps=6)
    return trained("tuned")


def finetune_lora() -> Any:
    call("finetune", "pretrained", "tuned-lora", **PAIRS, **LORA)
    return trained("tuned-lora")


def embed() -> Any:
    made: dict[str, Any] = {}
    for model in ("tuned", "tuned-lora", "bridged"):
        call("embed", model, out=f"vectors-{model}", data="documents.jsonl", side="document", shard_rows=10, device="cpu")
        made[model] = table(f"vectors-{model}/part-*.parquet")
    call("embed", "tuned", out="vectors-short", data="documents.jsonl", truncate_dim=8, precision="int8", device="cpu")
    made["tuned, 8 x int8"] = table("vectors-short/part-*.parquet")
    return made


def encode() -> Any:
    """Open what was trained as anybody does, without this package."""
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer("tuned", device="cpu")
    return {side: model.encode(["a red thing", "two"], prompt_name=side).tolist() for side in ("query", "document")}


def search() -> Any:
    call("index", "vectors-tuned", db="index")
    asked: dict[str, tuple[list[str], dict[str, Any]]] = {
        "words": (["the red one"], {}),
        "picture": ([], {"image": "pictures/3.png"}),
        "both, filtered": (["number 4"], {"image": "pictures/4.png", "filter": "number >= 5 and shelf = 'A'"}),
        "like": ([], {"like": "d7"}),
        "hybrid": (["navy"], {"hybrid": True}),
    }
    return {
        name: canonical(json.loads(call("search", "index", *words, top_k=5, as_json=True, **options)))
        for name, (words, options) in asked.items()
    }


def evaluate() -> Any:
    call("evaluate", "tuned", suite="mmeb", data="mmeb", output="results.json", device="cpu")
    return {"results": canonical(json.loads(Path(here("results.json")).read_text())), "items": table("results.items.parquet")}


def mine() -> Any:
    call("mine", "tuned", data="pairs.jsonl", out="mined", negatives=2, range_min=0, range_max=6, relative_margin=0.001, device="cpu")
    return table("mined/part-*.parquet")


def serve() -> Any:
    """Serve in this process, ask from a thread, and stop as the system does, by a signal; so this is the main thread."""
    if threading.current_thread() is not threading.main_thread():
        raise RuntimeError("the contract runs in the main thread, which is the one that gets signals")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    replies: dict[str, Any] = {}
    ended = threading.Event()
    asker = threading.Thread(target=_ask_all, args=(f"http://127.0.0.1:{port}", replies, ended))
    asker.start()
    try:
        call("serve", "tuned", db="index", port=port, device="cpu")
    finally:
        ended.set()
        asker.join()
    return replies


WORK = {
    one.__name__: one
    for one in (convert, pretrain, pretrain_causal, bridge, finetune, finetune_lora, embed, encode, search, evaluate, mine, serve)
}


def call(verb: str, *places: str, **options: Any) -> str:
    """Run a command in this process and return what it printed; one that fails ends the contract."""
    from twoway.cli import main

    words, printed = command(verb, *places, **options), io.StringIO()
    with contextlib.redirect_stdout(printed):
        code = main(words)
    if code:
        raise RuntimeError(f"twoway {' '.join(words)}: exit code {code}")
    return printed.getvalue()


def trained(out: str) -> Any:
    """Return the log of a run and the hash of its weights."""
    return {"log": lines((Path(out) / here("log.jsonl")).read_text()), "weights": weights(out)}


def weights(folder: str) -> dict[str, str]:
    """Return one hash of all tensors of each file, whatever the order in which they lie."""
    from safetensors.torch import load_file

    found = {}
    for path in sorted(Path(folder).rglob("*.safetensors")):
        name = path.relative_to(folder).as_posix()
        if name.startswith(here("checkpoints")):
            continue
        total = hashlib.sha256()
        for key, value in sorted(load_file(path).items()):
            total.update(f"{key} {value.dtype} {tuple(value.shape)}".encode())
            total.update(value.contiguous().numpy().tobytes())
        found[name] = total.hexdigest()
    return canonical(found)


def table(pattern: str) -> list[dict[str, Any]]:
    """Return the rows of Parquet files, pictures as hashes of their bytes."""
    import pyarrow.parquet as pq

    folder, _, name = pattern.rpartition("/")
    rows = [row for path in sorted(Path(folder or ".").glob(here(name))) for row in pq.read_table(path).to_pylist()]
    if not rows:
        raise RuntimeError(f"{pattern}: no rows")
    return [canonical(_plain(row)) for row in rows]


def _plain(found: Any) -> Any:
    if isinstance(found, bytes):
        return f"sha256 {hashlib.sha256(found).hexdigest()}"
    if isinstance(found, dict):
        return {key: _plain(value) for key, value in found.items()}
    return [_plain(one) for one in found] if isinstance(found, list) else found


def _ask_all(server: str, replies: dict[str, Any], ended: threading.Event) -> None:
    if not _ready(server, ended):
        return  # it did not start, and says why itself
    try:
        for name, (path, body) in _asked().items():
            replies[name] = _ask(server + here(path), body)
    finally:
        os.kill(os.getpid(), signal.SIGTERM)


def _asked() -> dict[str, tuple[str, Any]]:
    picture = "data:image/png;base64," + base64.b64encode(Path("pictures/5.png").read_bytes()).decode()
    content = [{"type": "image_url", "image_url": {"url": picture}}, {"type": "text", "text": "what is it?"}]
    return {
        "models": ("/v1/models", None),
        "texts": ("/v1/embeddings", {"model": "tuned", "input": ["a red thing", "two"]}),
        "dimensions": ("/v1/embeddings", {"model": "tuned", "input": "a red thing", "dimensions": 8}),
        "message": ("/v1/embeddings", {"model": "tuned", "messages": [{"role": "user", "content": content}]}),
        "search": ("/v1/search", {"text": "the red one", "k": 3}),
        "search, filtered": ("/v1/search", {"image": picture, "k": 3, "filter": "shelf = 'B'"}),
        "index": ("/v1/index", None),
        "item": ("/v1/index/items/d3", None),
        "no model": ("/v1/embeddings", {"model": "another", "input": "a"}),
        "no item": ("/v1/index/items/d99", None),
    }


def _ask(address: str, body: Any) -> Any:
    data = None if body is None else json.dumps(spelt(body)).encode()
    request = urllib.request.Request(address, data, {"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=120) as answer:
            return {"status": answer.status, "body": canonical(json.loads(answer.read()))}
    except urllib.error.HTTPError as error:
        return {"status": error.code, "body": canonical(json.loads(error.read()))}


def _ready(server: str, ended: threading.Event) -> bool:
    while not ended.wait(0.1):
        with contextlib.suppress(OSError):
            urllib.request.urlopen(server + here("/readyz"), timeout=120).close()
            return True
    return False


@contextlib.contextmanager
def _environment(**wanted: str) -> Any:
    before = dict(os.environ)
    os.environ.update(wanted)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def flat(found: Any, path: str = "") -> dict[str, Any]:
    """Return each value by the path to it; a vector is one value."""
    if isinstance(found, dict):
        pairs = [(str(key), value) for key, value in found.items()]
    elif isinstance(found, list) and not all(isinstance(one, int | float) for one in found):
        pairs = [(str(number), value) for number, value in enumerate(found)]
    else:
        return {path: found}
    return {name: value for key, inner in pairs for name, value in flat(inner, f"{path}/{key}".lstrip("/")).items()}


def numbers(found: dict[str, Any]) -> dict[str, Any]:
    """Return what every machine agrees on: no hash (of weights, of a picture's bytes), no noise, and numbers rounded."""
    return {path: _rounded(value) for path, value in found.items() if not MACHINE.search(path)}


def _rounded(value: Any) -> Any:
    if isinstance(value, list):
        return [_rounded(one) for one in value]
    return float(f"{value:.6g}") if isinstance(value, float) else value


def write(path: Path, found: dict[str, Any]) -> None:
    """Write a line for each value."""
    lines = [f"{json.dumps(name, ensure_ascii=False)}: {json.dumps(value, ensure_ascii=False)}" for name, value in found.items()]
    path.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")


def main(words: list[str]) -> int:
    """Write what came out to a file, or the suite's numbers."""
    if len(words) != 1:
        sys.stderr.write("usage: python -m tests.contract.run OUT.json (or --golden)\n")
        return 2
    import torch

    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as scratch:
        found = flat(run(Path(scratch).resolve(), told=lambda line: sys.stderr.write(f"{line}\n") and None))
    write(*((GOLDEN, numbers(found)) if words == ["--golden"] else (Path(words[0]), found)))
    sys.stderr.write(f"{time.process_time():.1f} s of one core\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
