"""Configuration: what the types say is read, everything else is one line with file, line, key and the nearest right one."""

from __future__ import annotations

import math
from dataclasses import fields
from pathlib import Path
from typing import Literal

import pytest

from twoway.config import Field, Seconds, SettingPath, dump, load, settings
from twoway.errors import UsageError


@settings
class Optimizer:
    """A nested group."""

    lr: float = 2e-6
    betas: tuple[float, float] = (0.9, 0.999)
    steps: int = 100


@settings
class Cut:
    """A time."""

    segment: Seconds | None = Field(default=None, gt=0)


@settings
class Train:
    """One field of every kind."""

    model: str
    out: SettingPath = Path("out")
    attention: Literal["two-way", "causal", "off"] = "two-way"
    size: Literal[1, 2, "all"] = 1
    shift: bool = True
    epochs: int | None = None
    ratio: float | None = None
    limit: float | str = "auto"
    note: str | None = None
    data: tuple[str, ...] = ()
    layers: list[int] = Field(default_factory=list)
    prompts: dict[str, str] = Field(default_factory=dict)
    optimizer: Optimizer = Optimizer()
    tower: Optimizer | None = None

    def __post_init__(self) -> None:
        if self.ratio is not None and not 0 <= self.ratio <= 1:
            raise ValueError(f"ratio is a share between 0 and 1, not {self.ratio}")


FULL = """\
# a comment, and keys in any order
out: runs/one
model: "2024"
attention: off
size: all
shift: no
epochs: 3
ratio: 1
limit: 1e3
note: 'null'
data: [a.jsonl, "samples:pairs"]
layers:
  - 1
  - -2
prompts: {query: "Query: ", page: Page}
optimizer:
  lr: 1e-5
  betas: [0.9, .98]
  steps: 1_000
tower:
  lr: .inf
"""


@pytest.fixture
def write(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def make(text):
        Path("train.yaml").write_bytes(text if isinstance(text, bytes) else text.encode())
        return Path("train.yaml")

    return make


def refusal(*arguments):
    with pytest.raises(UsageError) as caught:
        load(Train, *arguments)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_every_kind_is_read_as_its_type(write):
    config = load(Train, write(FULL))
    assert config == Train(
        model="2024",
        out=Path("runs/one"),
        attention="off",
        size="all",
        shift=False,
        epochs=3,
        ratio=1.0,
        limit=1000.0,
        note="null",
        data=("a.jsonl", "samples:pairs"),
        layers=[1, -2],
        prompts={"query": "Query: ", "page": "Page"},
        optimizer=Optimizer(1e-5, (0.9, 0.98), 1000),
        tower=Optimizer(lr=math.inf),
    )
    assert type(config.ratio) is float


@pytest.mark.parametrize("text", ["model: m", FULL, 'model: "yes"\nnote: "1e-5"\nprompts: {a: "on", b: ": x", c: "ü\\n"}\nlimit: "1"\n'])
def test_dump_and_load_are_a_round_trip(write, text):
    config = load(Train, write(text))
    assert load(Train, write(dump(config))) == config


def test_dump_shows_the_defaults_in_the_order_of_the_dataclass():
    assert dump(Train(model="m")).splitlines()[:4] == ["model: m", "out: out", "attention: two-way", "size: 1"]


@pytest.mark.parametrize("number", ["1e-5", "1.0e-5", "1E-5", "+0.00001", "1.e-5", ".1e-4", "0.000_01"])
def test_a_number_may_be_written_in_any_usual_way(write, number):
    assert load(Train, write(f"model: m\noptimizer: {{lr: {number}}}")).optimizer.lr == pytest.approx(1e-5)
    assert load(Train, None, ["model=m", f"optimizer.lr={number}"]).optimizer.lr == pytest.approx(1e-5)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("model: m\nmodle: x", "train.yaml:2: unknown key modle; did you mean model?"),
        ("model: m\n\noptimizer:\n  steps: 1\n  lrr: 2", "train.yaml:5: unknown key optimizer.lrr; did you mean optimizer.lr?"),
        ("model: m\nlr: 1e-5", "train.yaml:2: unknown key lr; did you mean optimizer.lr?"),
        ("model: m\nzzz: 1", "train.yaml:2: unknown key zzz (known: model, out, "),
        ("model: m\nout: a\nmodel: n", "train.yaml:3: model is there twice (first at train.yaml:1)"),
        ("model: m\noptimizer: {lr: 1, lr: 2}", "train.yaml:2: lr is there twice"),
        ("out: a", "train.yaml: missing model (text)"),
        ("model: 2024", "train.yaml:1: model takes text; put it in quotes, not '2024'"),
        ("model: no", "train.yaml:1: model takes text; put it in quotes"),
        ("model:", "train.yaml:1: model takes text, not nothing"),
        ("model: [a]", "train.yaml:1: model takes text, not a list"),
        ("model: {a: b}", "train.yaml:1: model takes text, not a group of keys"),
        ("model: m\nattention: twoway", "train.yaml:2: attention takes one of two-way, causal, off, not 'twoway'; did you mean two-way?"),
        ("model: m\nsize: 3", "size takes one of 1, 2, all, not '3'"),
        ("model: m\nshift: 1", "shift takes true or false, not '1'"),
        ("model: m\nshift: 'true'", "shift takes true or false"),
        ("model: m\nepochs: true", "epochs takes a whole number, not 'true'"),
        ("model: m\nepochs: 1.0", "epochs takes a whole number, not '1.0'"),
        ("model: m\nepochs: 010", "epochs takes a whole number, not '010'"),
        ("model: m\nepochs: 12:30:00", "epochs takes a whole number, not '12:30:00'"),
        ("model: m\nepochs: '3'", "epochs takes a whole number"),
        ("model: m\nepochs: " + "9" * 5000, "epochs takes a whole number"),
        ("model: m\nratio: half", "ratio takes a number, not 'half'"),
        ("model: m\nratio: '0.5'", "ratio takes a number"),
        ("model: m\nratio: .nan", "ratio takes a number"),
        ("model: m\nratio: 1e999", "ratio takes a number, not '1e999'"),
        ("model: m\nratio: 1:30", "ratio takes a number"),
        ("model: m\nratio: true", "ratio takes a number"),
        ("model: m\nratio: 2", "train.yaml: ratio is a share between 0 and 1, not 2.0"),
        ("model: m\nout: ''", "out takes a path"),
        ("model: m\nlimit: [1]", "limit takes a number or text, not a list"),
        ("model: m\ndata: a.jsonl", "train.yaml:2: data takes a list like [..., ...], each text, not 'a.jsonl'"),
        ("model: m\ndata:\n- a\n- 5", "train.yaml:4: data[2] takes text; put it in quotes, not '5'"),
        ("model: m\nlayers: [1, x]", "layers[2] takes a whole number, not 'x'"),
        ("model: m\noptimizer: {betas: [0.9]}", "optimizer.betas takes a list of 2 (a number, a number), not a list of 1"),
        ("model: m\noptimizer: 3", "optimizer takes a group of keys (lr, betas, steps), not '3'"),
        ("model: m\noptimizer:", "optimizer takes a group of keys (lr, betas, steps), not nothing"),
        ("model: m\nprompts: [a]", "prompts takes names with values, each text, not a list"),
        ("model: m\nprompts: {a: 1}", "prompts.a takes text; put it in quotes"),
        ("- model", "train.yaml: a configuration is keys with values, not a list"),
        ("just words", "train.yaml: a configuration is keys with values, not 'just words'"),
        ("model: m\nout: [a", "train.yaml:2: invalid YAML"),
        ("model: m\n\tout: a", "train.yaml:2: invalid YAML"),
        ("model: m\n---\nmodel: n", "train.yaml:2: invalid YAML"),
        ("model: m\n[a, b]: c", "train.yaml:2: a key is a single word"),
        ("model: &a m\nout: *a", "train.yaml:2: aliases (*a) are not read"),
        ("model: !!python/object/apply:os.system [ls]", "train.yaml:1: tags (!!python/object/apply:os.system) are not read"),
        ("model: !shout m", "train.yaml:1: tags (!shout) are not read"),
        ("model: \x07", "train.yaml: invalid YAML"),
        ("model: " + "[" * 900 + "]" * 900, "train.yaml: invalid YAML (nested too deeply)"),
        ("model: " + "[" * 100 + "]" * 100, "train.yaml: invalid YAML (nested too deeply)"),
        ("model: " + "[" * 99 + "]" * 99, "train.yaml:1: model takes text, not a list"),
        (b"model: caf\xe9", "train.yaml is not UTF-8 (byte 11)"),
        (b"", "train.yaml: missing model (text)"),
    ],
)
def test_what_does_not_fit_is_refused_with_file_line_and_key(write, text, words):
    assert words in refusal(write(text))


def test_words_win_over_the_file_and_reach_into_groups(write):
    words = ["optimizer.lr=1e-4", "ratio=0.5", "data=[x]", "tower.steps=7", "prompts.query=Find: ", "note=null", "shift=false"]
    config = load(Train, write(FULL), words)
    assert (config.optimizer, config.ratio, config.data) == (Optimizer(1e-4, (0.9, 0.98), 1000), 0.5, ("x",))
    assert (config.tower, config.note, config.shift) == (Optimizer(lr=math.inf, steps=7), None, False)
    assert config.prompts == {"query": "Find: ", "page": "Page"}


@pytest.mark.parametrize("text", ["2024", "no", "a: b", "[x", "Query: [x", "1e-5", "a=b", "", " spaced ", "# no comment", "@x", "*a", "!x"])
def test_a_word_for_a_text_is_taken_as_it_stands(text):
    assert load(Train, None, [f"model={text}"]).model == text


def test_a_word_may_be_quoted_as_in_yaml_and_replace_a_null_group(write):
    assert load(Train, None, ['model="no"']).model == "no"
    assert load(Train, None, ["model=m", "note='null'"]).note == "null"
    assert load(Train, write("model: m\ntower: null"), ["tower.steps=7"]).tower == Optimizer(steps=7)
    assert load(Train, None, ["model=m", "tower={steps: 7}"]).tower == Optimizer(steps=7)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["modle=m"], "modle=m: unknown key modle; did you mean model?"),
        (["model=m", "optimizer.lr=fast"], "optimizer.lr=fast: optimizer.lr takes a number, not 'fast'"),
        (["model=m", "optimizer.l=1"], "optimizer.l=1: unknown key optimizer.l; did you mean optimizer.lr?"),
        (["model=m", "model.name=x"], "model.name=x: model takes text, not a group of keys"),
        (["model=m", "epochs=1", "epochs=2"], "epochs=2: epochs is set twice"),
        (["model"], "'model' is not of the form key=value"),
        (["=m"], "'=m' is not of the form key=value"),
        (["optimizer.=1"], "'optimizer.=1' is not of the form key=value"),
        (["model=m", "shift="], "shift=: shift takes true or false, not nothing"),
        ([], "the configuration: missing model (text)"),
        (["model=m", "ratio=7"], "the configuration: ratio is a share between 0 and 1"),
    ],
)
def test_a_wrong_word_is_named_itself(words, message):
    assert message in refusal(None, words)


@pytest.mark.parametrize(("written", "seconds"), [("10", 10), ("2.5", 2.5), ("10s", 10), ("500ms", 0.5), ("1.5 min", 90), ("2h", 7200)])
def test_a_time_is_seconds_or_has_a_unit(write, written, seconds):
    for found in (
        load(Cut, options={"segment": written}),
        load(Cut, overrides=[f"segment={written}"]),
        load(Cut, write(f"segment: {written}")),
    ):
        assert found == Cut(segment=seconds)
        assert load(Cut, write(dump(found))) == found


@pytest.mark.parametrize(
    ("written", "says"),
    [
        ("10m", r"takes seconds \(10\), or a number with a unit \(10ms, 10s, 10min, 10h\), not '10m'"),
        ("0s", "takes a number above 0, not '0s'"),
    ],
)
def test_a_time_that_is_none_is_refused(written, says):
    with pytest.raises(UsageError, match=f"^--segment {says}$"):
        load(Cut, options={"segment": written})


def test_a_file_that_is_not_there_is_one_line(tmp_path):
    assert "nowhere.yaml cannot be read (No such file or directory)" in refusal(tmp_path / "nowhere.yaml")


def test_a_subclass_with_another_default_keeps_the_range_and_what_a_field_is_about():
    @settings
    class Rate:
        rate: float = Field(default=1.0, gt=0, description="how fast")

    @settings
    class Slow(Rate):
        rate: float = 0.1

    assert Slow().rate == 0.1
    assert fields(Slow)[0].metadata["description"] == "how fast"
    for _ in range(2):  # the first object builds the validator
        with pytest.raises(UsageError, match=r"^rate takes a number above 0, not '-1'$"):
            Slow(-1)
    with pytest.raises(UsageError, match=r"^rate=0: rate takes a number above 0, not '0'$"):
        load(Slow, None, ["rate=0"])


@settings
class Span:
    low: int = 0
    high: int = 1

    def __post_init__(self) -> None:
        if self.low > self.high:
            raise UsageError(f"low {self.low} is above high {self.high}")


@settings
class Whole:
    span: Span = Field(default_factory=Span)


def test_an_error_inside_a_group_has_the_place_of_the_group(write):
    with pytest.raises(UsageError, match=r"^train\.yaml:1: low 3 is above high 1$"):
        load(Whole, write("span:\n  low: 3\n"))
