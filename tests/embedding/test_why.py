"""Where the score is a sum over tokens its parts add up to it; elsewhere a cell pulls what the score falls by without it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image as PILImage

from clips import tone
from documents import document, noise
from tiny import FAMILIES
from twoway.content import Audio, ContentError, Document, Image, Text, Video
from twoway.embedding import open_embedder
from twoway.embedding.explain import Explainer, Why
from twoway.errors import TwowayError

WIDE = noise(112, 56)
GREY = PILImage.new("RGB", (56, 28), (128, 128, 128))


@pytest.fixture(scope="module")
def explainers(tiny_encoder):
    made = {}

    def get(family, **options):
        key = (family, *options.items())
        if key not in made:
            made[key] = Explainer(open_embedder(tiny_encoder(family, **options), device="cpu", workers=0))
        return made[key]

    return get


def query(engine, words="w4 w5", dim=None):
    return engine.array([document(words)], side="query", truncate_dim=dim)[0]


def cosine(engine, one, wanted):
    vector = engine.array([one], side="document")[0][: len(wanted)]
    return float(vector @ wanted / np.linalg.norm(vector) / np.linalg.norm(wanted))


@pytest.mark.parametrize("family", FAMILIES)
def test_the_parts_of_a_mean_add_up_to_the_score(family, explainers):
    explain = explainers(family)
    for one in (document(WIDE), document(WIDE, " w7 w8")) if explain.engine.inputs.messages else (document(WIDE),):
        wanted = query(explain.engine)
        why = explain(one, wanted)
        assert why.method == "parts"
        assert np.sum(why.pulls) + why.rest == pytest.approx(why.score, abs=1e-5)
        assert why.score == pytest.approx(cosine(explain.engine, one, wanted), abs=1e-5)
        assert np.ptp(why.shades) == 1


def test_a_part_is_the_state_times_the_query_over_the_length_of_the_sum(explainers):
    explain = explainers("qwen2_vl")
    engine = explain.engine
    wanted = query(engine)
    sentence = engine.sentence
    features = sentence.preprocess([{"image": WIDE}])
    with torch.inference_mode():
        states = sentence[0](features)["token_embeddings"][0].numpy()
    images = (features["input_ids"][0] == sentence[0].auto_model.config.image_token_id).numpy()
    parts = states @ wanted / np.linalg.norm(states.sum(0))
    pulls = np.array(explain(document(WIDE), wanted).pulls)
    assert pulls.shape[1] == 2 * pulls.shape[0]
    assert np.allclose(pulls.reshape(-1), parts[images], atol=1e-6)


def test_a_linear_layer_behind_the_mean_is_part_of_the_sum(explainers):
    explain = explainers("qwen2_vl", truncate_dim=16)
    why = explain(document(WIDE), query(explain.engine))
    assert why.method == "parts"
    assert np.sum(why.pulls) + why.rest == pytest.approx(why.score, abs=1e-5)


def test_a_query_may_be_cut_to_its_first_numbers(explainers):
    explain = explainers("qwen2_vl")
    wanted = query(explain.engine, dim=8)
    why = explain(document(WIDE), 3 * wanted)
    assert np.sum(why.pulls) + why.rest == pytest.approx(why.score, abs=1e-5)
    assert why.score == pytest.approx(cosine(explain.engine, document(WIDE), wanted), abs=1e-5)


@pytest.mark.parametrize("pooling", ["last", "eos"])
def test_where_one_state_is_the_vector_a_cell_pulls_what_the_score_falls_by(pooling, explainers):
    explain = explainers("qwen2_vl", attention="causal", pooling=pooling)
    engine = explain.engine
    wanted = query(engine)
    why = explain(document(WIDE), wanted)
    assert (why.method, why.rest) == ("occlusion", None)
    assert (len(why.pulls), len(why.pulls[0])) == (4, 8)
    grey = WIDE.copy()
    grey.paste((128, 128, 128), (14, 28, 28, 42))
    assert why.score == pytest.approx(cosine(engine, document(WIDE), wanted), abs=1e-5)
    assert why.pulls[2][1] == pytest.approx(why.score - cosine(engine, document(grey), wanted), abs=1e-5)


def test_a_grey_picture_has_no_cell_that_pulls(explainers):
    explain = explainers("qwen2_vl", attention="causal", pooling="last")
    why = explain(document(PILImage.new("RGB", (112, 56), (128, 128, 128))), query(explain.engine))
    assert not np.any(why.pulls)
    assert not np.any(why.shades)


def test_a_picture_of_one_pixel_has_one_cell(explainers):
    explain = explainers("qwen2_vl", attention="causal", pooling="last")
    why = explain(document(PILImage.new("RGB", (1, 1), "red")), query(explain.engine))
    assert np.shape(why.pulls) == (1, 1)


def test_shades_go_from_the_least_to_the_most():
    assert Why("parts", 0.5, ((-1.0, 0.0), (1.0, 3.0)), 0.0).shades == [[0.0, 0.25], [0.5, 1.0]]


def frames(count, **taken):
    return Video(tuple(Image(noise(56, 28, seed=number)) for number in range(count)), fps=2.0, **taken)


@pytest.mark.parametrize("family", ["qwen2_vl", "qwen2_5_vl", "qwen3_vl"])
def test_the_parts_of_a_videos_frames_add_up_to_the_score(family, explainers):
    explain = explainers(family)
    wanted = query(explain.engine)
    one = Document((Text("w1"), frames(7), Text("w7 w8")))
    why = explain.in_time(one, wanted)
    assert why.method == "parts"
    assert sum(moment.pull for moment in why.moments) + why.rest == pytest.approx(why.score, abs=1e-5)
    assert why.score == pytest.approx(cosine(explain.engine, one, wanted), abs=1e-5)
    assert [(moment.start, moment.end) for moment in why.moments] == [(0, 1), (1, 2), (2, 3), (3, 3.5)], "a token is of a pair of frames"
    for number, moment in enumerate(why.moments):
        assert np.array_equal(moment.frame, noise(56, 28, seed=2 * number))
        assert np.sum(moment.cells) == pytest.approx(moment.pull)
    assert (min(why.shades), max(why.shades)) == (0, 1)
    assert np.ptp(why.grids) == 1
    assert f"most from second {max(why.moments, key=lambda moment: moment.pull).start:.1f}" in why.describe()


def test_where_one_state_is_the_vector_a_frame_pulls_what_the_score_falls_by(explainers):
    explain = explainers("qwen2_vl", attention="causal", pooling="last")
    wanted = query(explain.engine)
    why = explain.in_time(Document((frames(20, num_frames=16, start=1.0),)), wanted)
    assert (why.method, why.rest, why.grids, len(why.moments)) == ("occlusion", None, None, 8)
    assert (why.moments[0].start, why.moments[-1].end) == (1, 10)
    pixels = [noise(56, 28, seed=number) for number in range(6)]
    whole, grey = (Document((Video(tuple(map(Image, one)), fps=2.0),)) for one in (pixels, [*pixels[:2], GREY, *pixels[3:]]))
    why = explain.in_time(whole, wanted)
    assert why.score == pytest.approx(cosine(explain.engine, whole, wanted), abs=1e-5)
    assert why.moments[2].pull == pytest.approx(why.score - cosine(explain.engine, grey, wanted), abs=1e-5)


def test_the_seconds_of_a_sound_add_up_to_the_score_or_are_silenced(explainers, tmp_path):
    sound = Audio(tone(tmp_path / "a.wav", seconds=3), start=0.5, end=2.5)
    for options, method in (({}, "parts"), ({"attention": "causal", "pooling": "last"}, "occlusion")):
        explain = explainers("qwen2_5_omni", **options)
        wanted = query(explain.engine)
        why = explain.in_time(Document((sound,)), wanted)
        assert why.method == method
        assert (why.moments[0].start, why.moments[-1].end) == pytest.approx((0.5, 2.5))
        assert all(one.end == pytest.approx(other.start) for one, other in zip(why.moments, why.moments[1:], strict=False))
        assert why.score == pytest.approx(cosine(explain.engine, Document((sound,)), wanted), abs=1e-5)
        if method == "parts":
            assert sum(moment.pull for moment in why.moments) + why.rest == pytest.approx(why.score, abs=1e-5)
    quiet = Audio(tone(tmp_path / "quiet.wav", loud=0))
    assert explain.in_time(Document((quiet,)), wanted).shades == [0] * 8, "silence that is silenced changes nothing"


def test_what_cannot_be_explained_is_said(explainers):
    explain = explainers("qwen2_vl")
    wanted = query(explain.engine)
    with pytest.raises(ContentError, match="on one picture, and this has 0"):
        explain(document("w4"), wanted)
    with pytest.raises(ContentError, match="on one picture, and this has 2"):
        explain(document(WIDE, WIDE), wanted)
    with pytest.raises(ContentError, match="on one video or one sound, and this is another document"):
        explain.in_time(document(WIDE), wanted)
    for wrong in (np.zeros(8), np.ones(99), np.ones(0)):
        with pytest.raises(TwowayError, match="1 to 32 numbers"):
            explain(document(WIDE), wrong)
