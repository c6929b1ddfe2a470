"""Published sizes are the published ones; a family whose products are not known is refused."""

from __future__ import annotations

import pytest

from twoway.errors import TwowayError
from twoway.methods.counting import PUBLISHED, anatomy, anatomy_of
from twoway.models import loading

# Parameters as the checkpoints' own indices add up.
TOTAL = dict(zip(PUBLISHED, (2_208_985_600, 3_754_622_976, 8_292_166_656), strict=True))


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_published_size_has_all_of_its_parameters(name):
    model = anatomy(name)
    assert model.total == TOTAL[name]
    assert (model.merged, model.values) == (4, 4 * 3 * 2 * 14 * 14)


def test_lines_and_vectors_are_all_of_a_layer():
    model = anatomy("Qwen/Qwen2.5-VL-3B-Instruct")
    lines = sum(one.size for one in model.language.lines) / model.language.count
    assert 0 < model.layer - lines < 0.001 * model.layer


def test_other_towers_are_refused(tiny_model):
    with pytest.raises(TwowayError, match="merge patches into image tokens"):
        anatomy_of("other", loading.load_config(tiny_model("gemma3")))
