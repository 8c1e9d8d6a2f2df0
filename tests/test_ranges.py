"""Ranges of settings, and that no number given to any other program ends in a traceback."""

import math
import typing

import pytest

from data_prep.arguments import CorpusArguments
from evaluation.heldout_arguments import HeldoutArguments
from generate import GenerateArguments
from hugcoder.hardware import check_device
from hugcoder.ranges import Range
from hugcoder.recipe import parse
from hugcoder.refusal import Refusal
from tokenizer.arguments import MeasureArguments, TokenizerArguments

HOSTILE = ["nan", "inf", "-inf", "-1", "-0.5", "0", "0.5", "1", "2", "1e9", "99999999999", "x", ""]
HOSTILE += ["1e308", "9" * 400]
GIVEN = {
    CorpusArguments: ["--sources", "type=python", "--output_dir", "x"],
    TokenizerArguments: ["--corpus", "x", "--output_dir", "y"],
    MeasureArguments: ["--tokenizer", "x", "--corpus", "y"],
    HeldoutArguments: ["--model", "x", "--corpus", "y"],
    GenerateArguments: ["--model", "x", "--prompt", "y"],
}
NUMBERS = [
    (group, name)
    for group in GIVEN
    for name, kind in typing.get_type_hints(group).items()
    if kind in (int, float)
]


@pytest.mark.parametrize(("group", "name"), NUMBERS)
def test_any_value_of_a_number_parses_or_is_refused(group, name):
    for value in HOSTILE:
        words = [*GIVEN[group], f"--{name}={value}"]
        try:
            found = getattr(parse([group], words, description=""), name)
        except Refusal as refusal:
            sentence = str(refusal)
        else:
            is_number = isinstance(found, int) or math.isfinite(found)
            sentence = name if is_number else f"{value} was taken"
        assert name in sentence
        assert "\n" not in sentence


@pytest.mark.parametrize(
    ("group", "words", "sentence"),
    [
        (GenerateArguments, ["--temperature", "nan"], "temperature nan must be 0, or"),
        (GenerateArguments, ["--seed", "-1", "--temperature", "1"], "seed -1 is out of range"),
        (GenerateArguments, ["--seed", "3"], "seed 3 has no effect at temperature 0"),
        (HeldoutArguments, ["--seed", "-1"], "seed -1 is out of range; give a whole number, 0"),
    ],
)
def test_a_number_that_would_fail_late_is_refused_at_once(group, words, sentence):
    with pytest.raises(Refusal, match=sentence):
        parse([group], [*GIVEN[group], *words], description="")


@pytest.mark.parametrize("name", ["toaster", "cuda:99", "meta", "-1"])
def test_a_device_that_is_not_there_is_refused(name):
    with pytest.raises(Refusal, match=f"device {name} cannot be used here"):
        check_device(name)


@pytest.mark.parametrize(
    ("allowed", "inside", "outside", "words"),
    [
        (Range(0), [0, 0.5, 1e300], [-1e-9], "0 or more"),
        (Range(0, above=True), [1e-300], [0], "a number above 0"),
        (Range(1, is_whole=True), [1, 7.0], [0, 1.5], "a whole number, 1 or more"),
        (Range(0, 1, below=True), [0, 0.999], [1], "0 to below 1"),
        (Range(0, 1, above=True), [1], [0, 1.1], "above 0 to 1"),
    ],
)
def test_a_range_says_what_it_holds_and_never_holds_what_is_no_number(
    allowed, inside, outside, words
):
    assert all(allowed.holds(value) for value in inside)
    never = [math.nan, math.inf, -math.inf]
    assert not any(allowed.holds(value) for value in [*outside, *never])
    assert str(allowed) == words
