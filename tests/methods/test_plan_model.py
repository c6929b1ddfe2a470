"""Published sizes are the published ones; a family whose products are not known is refused."""

from __future__ import annotations

import pytest

from twoway.errors import TwowayError
from twoway.methods.counting import PictureGrid
from twoway.methods.memory import PUBLISHED, config_of, count_parameters
from twoway.models import loading

# Parameters as the checkpoints' own indices add up.
TOTAL = dict(zip(PUBLISHED, (2_208_985_600, 3_754_622_976, 8_292_166_656), strict=True))


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_published_size_has_all_of_its_parameters(name):
    config = config_of(name)
    assert count_parameters(config) == TOTAL[name]
    assert PictureGrid.of(name, config) == PictureGrid(merged=4, values=4 * 3 * 2 * 14 * 14, area=4 * 14 * 14)


def test_other_towers_are_refused(tiny_model):
    with pytest.raises(TwowayError, match="merge patches into image tokens"):
        PictureGrid.of("other", loading.load_config(tiny_model("gemma3")))
