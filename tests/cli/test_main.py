"""The program as a user meets it: quick help, near words, exit codes, no traceback for a user's mistake."""

from __future__ import annotations

import re
import resource
import signal
import subprocess
import sys
import time
import tomllib
from pathlib import Path

import pytest

import twoway
from made_vectors import pictures, vectors_of
from twoway import cli
from twoway.errors import TwowayError, UsageError, with_extra
from twoway.evaluation.config import SUITES
from twoway.files import fresh_folder, write_whole


def run(*words: str) -> int:
    try:
        return cli.main(list(words))
    except SystemExit as stop:
        return int(stop.code or 0)


def least_of(count: int, command: list[str]) -> float:
    """Return the least seconds of a processor that a command took."""

    def once() -> float:
        before = spent()
        subprocess.run(command, check=True, capture_output=True)
        return spent() - before

    def spent() -> float:
        used = resource.getrusage(resource.RUSAGE_CHILDREN)
        return used.ru_utime + used.ru_stime

    return min(once() for _ in range(count))


def test_help_costs_little_beside_the_start_of_a_bare_interpreter():
    """In seconds of a processor, of the program and of the verb with the most options."""
    bare = least_of(5, [sys.executable, "-c", "pass"])
    assert least_of(5, [sys.executable, "-m", "twoway", "--help"]) < 15 * bare
    assert least_of(3, [sys.executable, "-m", "twoway", "finetune", "--help"]) < 20 * bare


def test_the_grammar_imports_no_heavy_library_and_an_index_of_vectors_none_of_models():
    models = "torch transformers sentence_transformers peft"
    heavy = f"{models} datasets pyarrow PIL numpy rich yaml pydantic pydantic_core"
    code = f"import sys, twoway.cli; twoway.cli.build_parser(); print([m for m in {heavy.split()} if m in sys.modules])\n"
    code += "import twoway.search.index, twoway.search.query, twoway.search.lance\n"
    code += f"print([m for m in {models.split()} if m in sys.modules])"
    out = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    assert out.split("\n")[:2] == ["[]", "[]"]


@pytest.mark.parametrize("verb", cli.VERBS)
def test_each_verb_teaches(verb, capsys):
    assert run(verb, "--help") == 0
    text = capsys.readouterr().out
    assert "example:" in text
    assert f"twoway {verb}" in text
    options = text.split("options:")[-1].partition("example:")[0]
    takes_a_value = re.search(r"^  (?:-\w, )?--[\w-]+ [A-Z{]", options, re.MULTILINE)
    assert "default" in options or not takes_a_value


def test_the_words_of_evaluate_are_about_every_suite():
    assert [suite for suite in SUITES if not re.search(rf"suite {suite}\b(?!-)", cli.VERBS["evaluate"].help.replace("\n", " "))] == []


def test_a_mistyped_verb_names_the_nearest(capsys):
    assert run("conver") == 2
    assert "did you mean convert?" in capsys.readouterr().err


def test_a_mistyped_option_names_the_nearest(capsys):
    assert run("convert", "a", "b", "--poling", "mean") == 2
    err = capsys.readouterr().err
    assert "did you mean --pooling?" in err
    assert err.count("\n") == 1


def test_a_mistyped_value_names_the_nearest(capsys):
    assert run("convert", "a", "b", "--pooling", "maen") == 2
    assert "did you mean mean?" in capsys.readouterr().err


def test_an_abbreviated_option_is_refused(capsys):
    assert run("convert", "a", "b", "--pool", "mean") == 2
    assert "--pooling" in capsys.readouterr().err


def test_no_verb_shows_help_and_is_wrong_use(capsys):
    assert run() == 2
    assert "VERB" in capsys.readouterr().out


def of_an_interrupt():
    """Return what an interrupt becomes in the middle of an import."""
    error = ImportError("initialization failed")
    error.__cause__ = KeyboardInterrupt()
    return error


@pytest.mark.parametrize(
    ("error", "code"), [(TwowayError("it broke"), 1), (UsageError("not so"), 2), (KeyboardInterrupt(), 130), (of_an_interrupt(), 130)]
)
def test_exit_codes_and_one_line_errors(error, code, monkeypatch, capsys):
    def fail(_args):
        raise error

    from twoway.cli import models

    monkeypatch.setattr(models, "run_convert", fail)
    assert run("convert", "a", "b") == code
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert "Traceback" not in err


def test_what_an_error_repeats_is_shown_by_a_terminal_and_not_obeyed(monkeypatch, capsys):
    def fail(_):
        raise TwowayError("no field 'a\x1b]0;owned\x07\x9b2J\rb'\nEuro € ü \udcff")

    from twoway.cli import models

    monkeypatch.setattr(models, "run_convert", fail)
    assert run("convert", "a", "b") == 1
    assert capsys.readouterr().err == "twoway convert: no field 'a\\x1b]0;owned\\x07\\x9b2J\\rb'\nEuro € ü \\udcff\n"


INTERRUPT = """
import runpy, signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # the tests may run where it is ignored
class Interrupt:
    def find_spec(self, name, *_):
        if name == {at!r}:
            signal.raise_signal(signal.SIGINT)
sys.meta_path.insert(0, Interrupt())
sys.argv[1:] = ["compare", "a.json", "b.json"]
runpy.run_module("twoway", run_name="__main__")
"""


@pytest.mark.parametrize("at", ["argparse", "twoway.cli.verbs", "twoway.evaluation.config", "twoway.evaluation.compare"])
def test_ctrl_c_is_one_line_from_the_first_moment(at):
    """Before the program builds its grammar, while it does, and while a verb imports what it needs."""
    ended = subprocess.run([sys.executable, "-c", INTERRUPT.format(at=at)], capture_output=True, text=True, timeout=240)
    assert (ended.returncode, ended.stdout, ended.stderr) == (130, "", "twoway: interrupted; nothing was begun\n")


def test_ctrl_c_in_an_import_while_a_command_works_waits_for_its_end():
    """A library in C that is interrupted as it begins may wait for itself for ever, and what is half-written has to be taken away."""
    work = """
import time
from twoway.cli import evaluate
def run(_):
    try:
        import colorsys
        print("imported")
        while True:
            time.sleep(0.01)
    finally:
        print("cleaned")
evaluate.run_compare = run
"""
    code = INTERRUPT.format(at="colorsys").replace("runpy.run_module", f"{work}runpy.run_module")
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=240)
    said = "twoway compare: interrupted; nothing half-written is left\n"
    assert (ended.returncode, ended.stdout, ended.stderr) == (130, "imported\ncleaned\n", said)


_READY = """
import runpy, signal
signal.signal(signal.SIGINT, signal.default_int_handler)
print("ready", flush=True)
runpy.run_module("twoway", run_name="__main__")
"""


@pytest.mark.slow
@pytest.mark.parametrize("verb", ["evaluate", "index"])
def test_ctrl_c_at_any_moment_of_a_program_is_gone_on_with(verb, tiny_encoder, tmp_path, monkeypatch):
    """From its first line on; what Python does before that is its own."""
    monkeypatch.chdir(tmp_path)
    vectors_of(pictures(tmp_path / "data", 12), tmp_path / "vectors", shard_rows=2)
    model = str(tiny_encoder("qwen2_vl"))
    commands = {
        "evaluate": [model, "--suite", "nano", "--tasks", "called", "--subset", "6", "--device", "cpu", "--cache-dir"],
        "index": ["vectors", "--index"],
    }
    options = {"evaluate": ["--out", "found.json"], "index": []}[verb]

    def begin(place):
        command = [sys.executable, "-c", _READY, verb, *commands[verb], place, *options]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        assert process.stdout.readline() == "ready\n"
        return process

    start = time.monotonic()
    whole = begin("whole")
    assert (whole.communicate()[1].count("Traceback"), whole.returncode) == (0, 0)
    seconds, ended = time.monotonic() - start, []
    Path("found.json").rename("whole.json") if verb == "evaluate" else None
    for share in (0.01, 0.05, 0.2, 0.5, 0.8, 0.9, 0.95, 1.0):
        process = begin("cut")
        time.sleep(share * seconds)
        process.send_signal(signal.SIGINT)
        said = process.communicate(timeout=240)[1]
        ended.append(process.returncode)
        if process.returncode:
            assert (process.returncode, "Traceback" in said) in ((130, False), (-signal.SIGINT, False)), said
            assert process.returncode != 130 or "interrupted; " in said.splitlines()[-1]
            assert not Path("found.json").exists()
        if Path("found.json").exists():
            Path("found.json").unlink()
    assert 130 in ended
    assert begin("cut").wait(240) == 0
    assert verb == "index" or Path("found.json").read_bytes() == Path("whole.json").read_bytes()
    assert not list(tmp_path.glob(".*.tmp"))


def test_ctrl_c_that_is_ignored_stays_so():
    code = INTERRUPT.format(at="twoway.cli.verbs").replace("class", "signal.signal(signal.SIGINT, signal.SIG_IGN)\nclass", 1)
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=240)
    assert (ended.returncode, ended.stderr.startswith("twoway compare: a.json")) == (2, True), ended.stderr


@pytest.mark.parametrize("extra", ["train", "eval", "index", "milvus", "ray", "serve"])
def test_a_package_that_is_missing_is_had_from_the_clone(extra):
    assert with_extra(extra) == f"in the clone of twoway, run: pip install -e '.[{extra}]'"
    declared = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert extra in declared
    assert not [path for path in Path(twoway.__file__).parent.rglob("*.py") if "pip install 'twoway[" in path.read_text()]


def test_an_interrupted_output_leaves_nothing(tmp_path):
    with pytest.raises(KeyboardInterrupt), fresh_folder(tmp_path / "out") as beside:
        (beside / "half").write_text("x")
        raise KeyboardInterrupt
    assert list(tmp_path.iterdir()) == []


def test_an_output_can_be_read_by_others(tmp_path):
    with fresh_folder(tmp_path / "out") as beside:
        (beside / "inner").mkdir()
        (beside / "inner" / "weights").touch(mode=0o600)
    assert (tmp_path / "out" / "inner" / "weights").stat().st_mode & 0o777 == 0o644
    assert (tmp_path / "out").stat().st_mode & 0o777 == 0o755


def test_an_existing_output_is_refused_or_replaced_whole(tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    (out / "old").write_text("x")
    with pytest.raises(UsageError, match="--overwrite"), fresh_folder(out):
        pass
    with pytest.raises(RuntimeError), fresh_folder(out, overwrite=True):
        raise RuntimeError
    assert (out / "old").exists()
    with fresh_folder(out, overwrite=True) as beside:
        (beside / "new").write_text("y")
    assert [p.name for p in out.iterdir()] == ["new"]
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


def test_a_full_disk_is_one_line_and_leaves_nothing(tmp_path):
    def full():
        raise OSError(28, "No space left on device")

    with pytest.raises(TwowayError, match="no space left"), fresh_folder(tmp_path / "out"):
        full()
    assert list(tmp_path.iterdir()) == []


def test_write_whole_replaces_at_once(tmp_path):
    write_whole(tmp_path / "a.json", "one")
    write_whole(tmp_path / "a.json", b"two")
    assert (tmp_path / "a.json").read_bytes() == b"two"
    assert len(list(tmp_path.iterdir())) == 1
