"""Fixtures every test may use: tiny models, built once a session and never written to."""

from __future__ import annotations

import gc
import multiprocessing
import os

# One thread each: the models are tiny, the tests run side by side, and nothing may be fetched.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


def pytest_itemcollected(item: pytest.Item) -> None:
    """Give all tests of a file to one worker (`--dist loadgroup`), so that what the file's fixtures make is made once."""
    if item.get_closest_marker("xdist_group") is None:
        item.add_marker(pytest.mark.xdist_group(item.nodeid.partition("::")[0]))


def pytest_collection_finish(session: pytest.Session) -> None:
    """Check the groups, then freeze what was imported: a garbage collection goes through millions of objects."""
    if getattr(session.config.option, "loadgroup", False) and not all("@" in item.nodeid for item in session.items):
        raise RuntimeError("pytest-xdist and this version of pytest lose the groups: install the versions of constraints.txt")
    gc.collect()
    gc.freeze()


def pytest_sessionfinish() -> None:
    """Let it go again: a library that finds its objects alive at the end prints a page about leaks."""
    gc.unfreeze()


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Nothing is kept in the user's cache, and nothing of it is used; what tests start inherits it."""
    os.environ["TWOWAY_CACHE"] = str(tmp_path_factory.mktemp("cache"))


PRELOAD = [
    "twoway.search.index",
    "twoway.training.trainer",
    "twoway.training.distributed",
    "twoway.recipes.stages",
    "twoway.data.loader",
    "twoway.embedding.opening",
]


@pytest.fixture(scope="session", autouse=True)
def fork_server() -> None:
    """Fork processes of `forkserver` from one that has read the libraries. It starts once a session, and finds no module of the tests."""
    multiprocessing.set_forkserver_preload(PRELOAD)


@pytest.fixture
def quick_ranks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ranks are forked; runs spawn them, which costs each rank seconds."""
    from twoway.training import distributed

    monkeypatch.setattr(distributed, "START", "forkserver")


@pytest.fixture
def quick_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Other processes that work beside a test are forked, too."""
    from multiprocessing.context import ForkServerProcess

    from twoway.processes import CleanProcess

    monkeypatch.setattr(CleanProcess, "_Popen", staticmethod(ForkServerProcess._Popen))


@pytest.fixture
def short_proof(monkeypatch: pytest.MonkeyPatch) -> None:
    """Prove the base and the result of a run on texts alone: twelve passes of the model, not 49. For tests of something else than a proof.

    A fixture that lives longer than one test, such as a module's undisturbed run, is made before this, and is proved in full.
    """
    from types import SimpleNamespace

    from twoway.methods import convert, model
    from twoway.proof.probe import probe

    texts = SimpleNamespace(probe=lambda model, processor, **_: probe(model, processor, paddings=("none",), image=False))
    for module in (convert, model):
        monkeypatch.setattr(module, "probe", texts)


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Return `tiny_model(family) -> folder`; see `tiny.FAMILIES` and `tiny.TEXT_FAMILIES`. Copy a folder before changing it."""
    home = tmp_path_factory.mktemp("tiny")
    built: dict[str, Path] = {}

    def get(family: str) -> Path:
        if family not in built:
            import torch
            import transformers

            from tiny import build

            torch.set_num_threads(1)
            transformers.logging.disable_progress_bar()
            transformers.logging.set_verbosity_error()
            built[family] = build(family, home)
        return built[family]

    return get


@pytest.fixture(scope="session")
def tiny_reranker(tiny_model: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a reranker that reads its score off its own head, as a `CrossEncoder`."""
    from rerank_toys import speaking
    from twoway.methods.convert import convert

    home = tmp_path_factory.mktemp("reranker")
    convert(speaking(tiny_model("qwen3_vl"), home / "base"), home / "reranker", attention="causal", head="yes-no")
    return home / "reranker"


@pytest.fixture(scope="session")
def tiny_late(tiny_model: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return an untrained model of many vectors, as a `MultiVectorEncoder`, whose queries end in two mask tokens."""
    from tiny import late

    return late(tiny_model("qwen2_vl"), tmp_path_factory.mktemp("late") / "model")


@pytest.fixture(scope="session")
def tiny_encoder(tiny_model: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Return `tiny_encoder(family, **options) -> folder` of the converted model. Copy a folder before changing it."""
    home = tmp_path_factory.mktemp("encoders")
    built: dict[str, Path] = {}

    def get(family: str, **options: object) -> Path:
        name = "-".join([family, *(f"{key}={value}" for key, value in sorted(options.items()))])
        if name not in built:
            from twoway.methods import convert
            from twoway.proof import probe

            built[name] = home / f"{len(built)}"
            with pytest.MonkeyPatch.context() as in_full:
                in_full.setattr(convert, "probe", probe)
                convert.convert(tiny_model(family), built[name], **options)
        return built[name]

    return get


@pytest.fixture
def hub(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, Path], None]:
    """Return `hub(id, folder)`, which has this folder answer to a hub id, as if it had been fetched before."""
    from huggingface_hub import constants

    home = tmp_path_factory.mktemp("hub")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(home))

    def put(name: str, folder: Path) -> None:
        place = home / f"models--{name.replace('/', '--')}"
        (place / "refs").mkdir(parents=True)
        (place / "refs/main").write_text("0" * 40)
        (place / "snapshots").mkdir()
        (place / "snapshots" / ("0" * 40)).symlink_to(folder)

    return put
