"""Every snippet of the README and the pages: run in a folder with small fixtures or, where it is named here with the reason, checked.

A command that is not run goes through the program's own parser, and the files, targets, extras and modules that it names must be there.
Output that a page promises is compared with what the snippet before it printed.
"""

from __future__ import annotations

import json
import re
import runpy
import shutil
import subprocess

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

import twoway
from clips import clip
from snippets import BLOCK, PAGES, PLACEHOLDER, ROOT, SHELL, blocks, check, commands, name
from tiny import published
from twoway.cli import main
from twoway.cli.verbs import VERBS
from twoway.config import load
from twoway.content import KINDS
from twoway.data.sources.formats import FORMATS
from twoway.errors import UsageError
from twoway.losses import PAIR_LOSSES

# Verbs that are checked and not run, and why.
LONG = {
    **dict.fromkeys(("pretrain", "bridge", "finetune", "rerank", "run"), "train for minutes; tests/methods and tests/test_recipes.py"),
    "evaluate": "scores thousands of rows; tests/evaluation/test_evaluate.py",
    "compare": "compares results that evaluate takes minutes for; tests/evaluation/test_compare.py",
    "plan": "seconds each, and compared with the page in tests/cli/test_plan.py",
    "mteb": "fetches benchmarks from the hub; tests/evaluation/test_mteb_open.py",
    "serve": "does not end; tests/server",
    "study": "takes minutes to hours; tests/study",
}
# Other commands that are not run, by a pattern, and why.
NOT_RUN = {
    r"^make ": "its targets are what CI runs",
    r"^(curl|mteb|torchrun) ": "needs a server, a benchmark's data, several machines",
    r"^pip install ": "would change the environment",
    r"^python -m benchmarks": "benchmarks take minutes to hours; that of a billion pages is compared in test_billion.py",
    r"^python examples/": "run in tests/test_examples.py",
    r"^twoway check .*--bridge": "forty seconds; tests/proof/test_check_bridge.py",
    r"^twoway check out/": "reads what a run takes minutes to make; tests/proof/test_check.py",
    r"^twoway data (check|prepare) (samples:|recipes/)": "reads all samples or the hub; tests/recipes/test_data_check.py and so on",
    r"--engine ray": "starts Ray; tests/embedding/test_embed_ray.py",
    r"milvus://": "needs a server; tests/search",
}
# Commands that say by their exit code that something is bad, as the page says they do.
FINDS_BAD = {"twoway data check papers"}
# What the commands of a page print besides the output that stands there.
PRINTED = {
    "docs/embed.md": ["vectors: 3 vectors of 32 x float32; 3 embedded now", "more: 4 vectors of 16 x int8; 4 embedded now"],
    "docs/mining.md": ["which mined remembers"],
    "docs/how-to/resume.md": ["all of them were there already"],
}
# Python that is not run, by a line of it, and why.
NOT_RUN_PYTHON: dict[str, str] = {
    "mteb.evaluate(": "fetches a benchmark from the hub; tests/evaluation/test_mteb_open.py",
    '"http://127.0.0.1:8000/v1': "asks a server; tests/server/test_run.py",
}
# What stands on the page, and what stands for it here.
STANDS_FOR = {'"MODEL"': '"my-model"'}
HUB = "Qwen/Qwen2-VL-2B-Instruct"


@pytest.fixture(autouse=True)
def what_pages_register():
    """What a page adds for its process to know (a content kind, a loss, a format) is gone after its test."""
    yield
    for known in (KINDS, PAIR_LOSSES, FORMATS):
        for key in [key for key, one in known.items() if not one.__module__.startswith("twoway.")]:
            del known[key]


@pytest.fixture
def folder(tiny_encoder, tiny_model, hub, tmp_path, monkeypatch):
    """Fill a folder with what the pages speak of."""
    for place in ("pictures", "scans", "papers", "more"):
        (tmp_path / place).mkdir()
    colours = {
        "pictures/cat": "white",
        "teapot": "red",
        "red": "red",
        "green": "green",
        "blue": "blue",
        "scans/1": "navy",
        "scans/2": "olive",
    }
    for path, colour in colours.items():
        Image.new("RGB", (30, 30), colour).save(tmp_path / f"{path}.png")
    Image.new("RGB", (60, 60), "white").save(
        tmp_path / "papers/paper.pdf", save_all=True, append_images=[Image.new("RGB", (60, 60), "teal")]
    )
    (tmp_path / "clips").mkdir()
    for number in range(2):
        clip(tmp_path / f"clips/{number}.mp4", frames=24 + number)
    (tmp_path / "papers/torn.pdf").write_bytes(b"%PDF-1.4 torn")
    pq.write_table(pa.table({"text": ["one row", "another"]}), tmp_path / "more/rows.parquet")
    (tmp_path / "pages.jsonl").write_text('{"text": "a page"}\n')
    pairs = [{"query": f"question {n} {'w ' * n}", "positive": f"answer {n * n} {'v ' * n}"} for n in range(9)]
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in pairs))
    for name_of_model in ("my-model", "other-model"):
        (tmp_path / name_of_model).symlink_to(tiny_encoder("qwen2_vl"))
    for place in ("recipes", "samples", "examples", "studies"):
        if (ROOT / place).exists():
            (tmp_path / place).symlink_to(ROOT / place)
    (tmp_path / "hub").symlink_to(tiny_model("qwen2_vl"))
    hub("Qwen/Qwen3-VL-Embedding-2B", published(tiny_model("qwen3_vl"), tmp_path / "published"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def why_not(command, words):
    """Return why a command is not run: patterns, a long verb, a placeholder."""
    verbs = [verb for verb in LONG if words[:2] == ["twoway", verb]]
    return [pattern for pattern in NOT_RUN if re.search(pattern, command)] + verbs + PLACEHOLDER.findall(command)


def fresh(folder, text):
    """Take my-model away where the snippet is about to make it."""
    if re.search(r"twoway[. ]convert\W", text):
        (folder / "my-model").unlink(missing_ok=True) if (folder / "my-model").is_symlink() else shutil.rmtree(folder / "my-model")


def run_shell(block, folder):
    for command, words in commands(block.text):
        if why_not(command, words):
            check(words)
            continue
        assert words[0] == "twoway", f"{block.page}: {command}: run it here, or say in NOT_RUN why not"
        fresh(folder, command)
        code = main([word.replace(HUB, "hub") for word in words[1:]])
        assert code == (command in FINDS_BAD), f"{block.page}: {command}"


def run_python(block, names):
    text = block.text
    for written, here in {**STANDS_FOR, HUB: "hub"}.items():
        text = text.replace(written, here)
    if any(line in text for line in NOT_RUN_PYTHON):
        compile(text, block.page, "exec")
        return {}
    with open(f"{block.number}.py", "w", encoding="utf-8") as file:
        file.write(text)
    return runpy.run_path(f"{block.number}.py", init_globals=names, run_name=f"docs_{block.number}")


@pytest.mark.parametrize("page", [page for page in PAGES if BLOCK.search(page.read_text(encoding="utf-8"))], ids=name)
def test_the_snippets_of_a_page_do_what_it_says(page, folder, capsys, request):
    if "my-colqwen" in page.read_text(encoding="utf-8"):
        (folder / "my-colqwen").symlink_to(request.getfixturevalue("tiny_late"))
    if "my-reranker" in page.read_text(encoding="utf-8"):
        (folder / "my-reranker").symlink_to(request.getfixturevalue("tiny_reranker"))
    first, second = (Image.open(folder / f"{colour}.png") for colour in ("red", "blue"))
    names, kind, printed, said = {"first": first, "second": second, "twoway": twoway}, "", "", ""
    for block in blocks(page):
        if "." in block.file:
            (folder / block.file).write_text(block.text, encoding="utf-8")
    for block in blocks(page):
        if block.kind == "output":
            assert printed == block.text if kind == "python" else set(block.text.splitlines()) <= set(printed.splitlines())
        if block.kind in SHELL:
            run_shell(block, folder)
        elif block.kind == "python":
            fresh(folder, block.text)
            names |= {key: value for key, value in run_python(block, names).items() if not key.startswith("__")}
        if block.kind in (*SHELL, "python"):
            kind, printed = block.kind, capsys.readouterr().out
            said += printed
    assert [words for words in PRINTED.get(name(page), []) if words not in said] == []


def test_nothing_is_named_that_is_gone():
    """Each reason still has a snippet, and each verb is one."""
    found = [command for page in PAGES for block in blocks(page) if block.kind in SHELL for command, _ in commands(block.text)]
    assert [pattern for pattern in [*NOT_RUN, *FINDS_BAD] if not any(re.search(pattern, command) for command in found)] == []
    code = "".join(block.text for page in PAGES for block in blocks(page) if block.kind == "python")
    assert [line for line in NOT_RUN_PYTHON if line not in code] == []
    assert set(LONG) <= set(VERBS)


def test_make_help_lists_every_target():
    targets = re.findall(r"^\.PHONY: (.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)[0].split()
    shown = subprocess.run(["make", "--silent", "help"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert {line.split()[0] for line in shown.splitlines()} == set(targets)


def test_the_errors_of_the_configuration_page_are_the_real_ones(folder):
    (page,) = (one for one in PAGES if one.name == "configuration.md")
    (block,) = (one for one in blocks(page) if one.kind == "python")
    (file,) = (one for one in blocks(page) if one.file)
    (folder / file.file).write_text(file.text, encoding="utf-8")
    kind = run_python(block, {})["Train"]
    rows = re.findall(r"^\| `(.*?)` \| `(train.*?)` \|$", page.read_text(encoding="utf-8"), re.MULTILINE)
    assert len(rows) == 6
    for written, answer in rows:
        (folder / "train.yaml").write_text(f"model: m\n{written}\n")
        with pytest.raises(UsageError) as caught:
            load(kind, "train.yaml")
        assert str(caught.value) == answer
