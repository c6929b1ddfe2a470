"""Options that several verbs have mean the same in all of them."""

from __future__ import annotations

import argparse
from typing import get_args

from twoway.cli.options import add_on_bad, add_opening, opening
from twoway.data.policy import BAD_ROWS, OnBad


def test_a_bad_row_has_two_choices_and_fails_by_default():
    parser = argparse.ArgumentParser()
    add_on_bad(parser)
    assert parser.parse_args([]).on_bad == "fail"
    assert parser.parse_args(["--on-bad", "skip"]).on_bad == "skip"
    (option,) = (one for one in parser._actions if one.dest == "on_bad")
    assert tuple(option.choices) == get_args(OnBad)
    assert BAD_ROWS in option.help


def test_what_is_not_said_of_a_model_is_left_to_the_opening():
    parser = argparse.ArgumentParser()
    add_opening(parser)
    assert opening(parser.parse_args([])) == {"device": "auto"}
    said = opening(parser.parse_args(["--pooling", "last", "--max-length", "7", "--dtype", "bfloat16"]))
    assert said == {"pooling": "last", "max_length": 7, "device": "auto", "dtype": "bfloat16"}
