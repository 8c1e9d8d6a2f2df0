"""The fill-in-the-middle transform against oracles: nothing lost, nothing added, no state.

Uses the real codec of the fixtures on code, emoji, CJK, combining characters, CRLF and hostile
text. How pieces are cut and packed is in test_packing.py, how rows are made in test_rows.py.
"""

import dataclasses
from typing import NamedTuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import fim
from hugcoder.data import fim_formats
from hugcoder.data.corpus import TRAIN
from hugcoder.data.packing import cut_documents
from hugcoder.data.token_store import TokenStore

KINDS = tuple(fim.SpanMix.__dataclass_fields__)
HOSTILE = "<fim_prefix>a<fim_suffix>b<fim_middle>c<|endoftext|><fim_pad><|im_end|>"
FRAGMENTS = [
    "def f(x):\n",
    "    return x\r\n",
    "\n",
    "\r\n",
    "\t",
    " ",
    "a",
    "\U0001f600",
    "\U0001f468\u200d\U0001f469\u200d\U0001f467",
    "\u6f22\u5b57",
    "e\u0301",
    "\x00",
    "<fim_middle>",
    "<|endoftext|>",
]
TEXTS = st.one_of(
    st.lists(st.sampled_from(FRAGMENTS), min_size=1, max_size=30).map("".join),
    st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=60),
)
SEEDS = st.integers(0, 2**32)


def mix_of(kind: str) -> fim.SpanMix:
    return fim.SpanMix(**{name: float(name == kind) for name in KINDS})


def settings_of(kind: str, spm_rate: float) -> fim.FimSettings:
    return fim.FimSettings(fim_rate=1.0, spm_rate=spm_rate, spans=mix_of(kind))


class Parts(NamedTuple):
    """A unit taken apart again: ids between its sentinels."""

    prefix: list[int]
    suffix: list[int]
    middle: list[int]


def take_apart(unit: fim.Unit, ids: fim.FimIds, is_spm: bool) -> Parts:
    """Split a unit at its sentinels, insisting on exactly three, their order and the end token."""
    names = {index: letter for letter, index in ids.sentinels.items()}
    found = [(position, names[i]) for position, i in enumerate(unit.ids) if i in names]
    is_suffix_first = is_spm and ids.format.spm == fim.SPM_ORDERS[1]
    assert [letter for _, letter in found] == list("spm" if is_suffix_first else "psm")
    first, second, third = (position for position, _ in found)
    assert first == 0
    assert unit.ids[-1] == ids.end
    assert unit.ids.count(ids.end) == 1
    middle = unit.ids[unit.middle_start : -1]
    if is_suffix_first:
        assert unit.middle_start == third + 1
        return Parts(unit.ids[second + 1 : third], unit.ids[1:second], middle)
    if is_spm:
        assert second == 1, "SPM variant 2 opens with [prefix][suffix]"
        return Parts(unit.ids[third + 1 : unit.middle_start], unit.ids[2:third], middle)
    assert unit.middle_start == third + 1
    return Parts(unit.ids[1:second], unit.ids[second + 1 : third], middle)


def roomy(text: str) -> int:
    """More tokens than any unit of `text` can have: no token stands for less than a byte."""
    return len(text.encode()) + fim.NUM_ADDED_TOKENS


# ---- lossless, intact, in order ------------------------------------------------------------------


@pytest.mark.parametrize(("spm_rate", "variant"), [(0.0, 2), (1.0, 1), (1.0, 2)])
@pytest.mark.parametrize("kind", KINDS)
@given(text=TEXTS, seed=SEEDS)
@settings(max_examples=40, deadline=None)
def test_a_unit_gives_back_the_bytes_of_its_text(codec, kind, spm_rate, variant, text, seed):
    ids = codec.fim_ids.with_spm_variant(variant)
    made = fim.make_unit(
        text,
        codec.encode,
        ids,
        np.random.default_rng(seed),
        settings_of(kind, spm_rate),
        roomy(text),
    )
    parts = take_apart(made, ids, is_spm=spm_rate == 1)
    assert made.ids[: made.middle_start] == ids.prompt(
        parts.prefix, parts.suffix, "spm" if spm_rate else "psm"
    )
    prefix, suffix, middle = (codec.decode_bytes(part) for part in parts)
    assert prefix + middle + suffix == text.encode()
    middle.decode("utf-8", errors="strict")  # cuts fall between characters
    prefix.decode("utf-8", errors="strict")


@pytest.mark.parametrize("spm_rate", [0.0, 1.0])
@given(text=TEXTS, seed=SEEDS)
@settings(max_examples=60, deadline=None)
def test_a_healed_unit_asks_for_the_token_before_the_cursor(codec, spm_rate, text, seed):
    whole = fim.FimSettings(1.0, spm_rate, mix_of("short"), healing=True)
    arguments = (text, codec.encode, codec.fim_ids)
    made = fim.make_unit(*arguments, np.random.default_rng(seed), whole, roomy(text))
    apart = settings_of("short", spm_rate)
    other = fim.make_unit(*arguments, np.random.default_rng(seed), apart, roomy(text))
    prefix, suffix, middle = take_apart(made, codec.fim_ids, is_spm=spm_rate == 1)
    cut = take_apart(other, codec.fim_ids, is_spm=spm_rate == 1)
    assert prefix == cut.prefix[:-1]
    assert suffix == cut.suffix
    last, written = (codec.decode_bytes(ids) for ids in (cut.prefix[-1:], cut.middle))
    assert codec.decode_bytes(middle) == last + written
    before = codec.decode_bytes([*cut.prefix, *cut.middle]).decode()
    whole_ids = codec.encode([before])[0]
    assert [*prefix, *middle] == whole_ids or whole_ids[: len(prefix)] != prefix


@pytest.mark.parametrize("spm_rate", [0.0, 1.0])
def test_hostile_text_adds_no_special_id(codec, spm_rate):
    special = set(codec.special_ids.values())
    for seed in range(50):
        rng = np.random.default_rng(seed)
        mix = settings_of(KINDS[seed % 4], spm_rate)
        unit = fim.make_unit(HOSTILE, codec.encode, codec.fim_ids, rng, mix, roomy(HOSTILE))
        assert sum(index in special for index in unit.ids) == fim.NUM_ADDED_TOKENS
        assert codec.decode_bytes(unit.ids).count(b"<fim_middle>") <= 1


@given(text=TEXTS, seed=SEEDS, room=st.integers(4, 60), spm_rate=st.sampled_from([0.0, 1.0]))
@settings(max_examples=200, deadline=None)
def test_a_squeezed_unit_fits_and_keeps_middle_and_end(codec, text, seed, room, spm_rate):
    mix = fim.FimSettings(1.0, spm_rate)
    rng = np.random.default_rng(seed)
    unit = fim.make_unit(text, codec.encode, codec.fim_ids, rng, mix, room)
    assert len(unit.ids) <= room
    parts = take_apart(unit, codec.fim_ids, is_spm=spm_rate == 1)
    prefix, suffix, middle = (codec.decode_bytes(part) for part in parts)
    middle.decode("utf-8", errors="strict")
    assert prefix + middle + suffix in text.encode(), "what is left is one stretch of the text"
    if suffix:
        assert text.encode().startswith(prefix + middle), "the suffix gives way before the prefix"


def test_trimming_never_cuts_a_character_in_two(codec):
    text = "\U0001f600" * 40
    num_tokens = len(codec.encode([text])[0])
    for room in range(num_tokens - 12, num_tokens + fim.NUM_ADDED_TOKENS):
        rng = np.random.default_rng(room)
        unit = fim.make_unit(
            text, codec.encode, codec.fim_ids, rng, settings_of("short", 0.0), room
        )
        parts = take_apart(unit, codec.fim_ids, is_spm=False)
        for part in parts:
            codec.decode_bytes(part).decode("utf-8", errors="strict")


@pytest.mark.parametrize("room", [4, 5, 9, 30])
def test_a_middle_that_cannot_fit_gives_its_end_to_the_suffix(codec, room):
    text, mix = "x = 1\ny = 2\n" * 20, settings_of("random", 0.0)
    for seed in range(20):
        rng = np.random.default_rng(seed)
        unit = fim.make_unit(text, codec.encode, codec.fim_ids, rng, mix, room)
        prefix, suffix, middle = map(codec.decode, take_apart(unit, codec.fim_ids, is_spm=False))
        assert prefix + middle + suffix in text
        assert len(unit.ids) <= room


def test_a_unit_without_room_for_its_sentinels_is_an_error(codec):
    rng, mix = np.random.default_rng(0), settings_of("random", 0.0)
    with pytest.raises(ValueError, match="a unit has 4 tokens or more, not 3"):
        fim.make_unit("x = 1\n", codec.encode, codec.fim_ids, rng, mix, 3)


# ---- spans ---------------------------------------------------------------------------------------


@given(text=TEXTS, seed=SEEDS)
@settings(max_examples=150, deadline=None)
def test_spans_are_what_their_kind_says(text, seed):
    rng = np.random.default_rng(seed)
    for kind in KINDS:
        span = fim.draw_span(text, rng, mix_of(kind))
        assert 0 <= span.start <= span.stop <= len(text)
        middle = text[span.start : span.stop]
        if kind in ("empty", "line_end"):
            assert middle == ""
        if kind in ("line", "one_line", "line_end"):
            rest = text[span.stop :]
            assert rest == "" or rest.startswith(("\n", "\r\n"))
        if kind == "one_line":
            assert "\n" not in middle
        if kind == "short":
            assert 1 <= len(middle) <= fim.MAX_SHORT_CHARACTERS
        if kind == "line":
            assert middle.count("\n") < fim.MAX_SPAN_LINES


@pytest.mark.parametrize("kind", KINDS)
def test_an_empty_text_has_an_empty_middle(kind):
    assert fim.draw_span("", np.random.default_rng(0), mix_of(kind)) == fim.Span(0, 0)


def test_line_spans_stop_before_the_line_break_of_crlf_files():
    text = "if a:\r\n    b = c\r\n    d = e\r\n"
    rng = np.random.default_rng(0)
    for kind in ("line", "one_line", "line_end"):
        spans = [fim.draw_span(text, rng, mix_of(kind)) for _ in range(100)]
        assert not [s for s in spans if text[: s.stop].endswith("\r")]


def test_random_spans_average_a_third_of_the_text():
    rng, text = np.random.default_rng(0), "x" * 1000
    spans = [fim.draw_span(text, rng, mix_of("random")) for _ in range(4000)]
    mean = np.mean([span.stop - span.start for span in spans])
    # |a - b| of two uniform numbers: mean 1/3, standard deviation sqrt(1/18) = 0.236
    assert abs(mean / 1000 - 1 / 3) < 5 * 0.236 / np.sqrt(4000)


def test_kinds_are_drawn_as_often_as_their_weights_say():
    rng, mix = np.random.default_rng(0), fim.SpanMix(random=0, short=6, line=0, empty=2)
    draws = [fim.draw_span("x" * 50, rng, mix) for _ in range(4000)]
    empty = np.mean([span.start == span.stop for span in draws])
    assert abs(empty - 0.25) < 5 * np.sqrt(0.25 * 0.75 / 4000)


# ---- rates and randomness ------------------------------------------------------------------------


@pytest.mark.parametrize("rate", [0.0, 0.1, 0.5, 0.9, 1.0])
def test_fim_rate_is_the_share_of_transformed_pieces(rate):
    documents = np.repeat(np.arange(10_000, dtype=np.uint64) << np.uint64(40), 2)
    pieces = np.tile([0, 1], 10_000)
    share = fim.is_transformed(rate, 42, 0, documents, pieces).mean()
    assert abs(share - rate) <= 5 * np.sqrt(rate * (1 - rate) / len(documents))


@pytest.mark.parametrize("rate", [0.0, 0.3, 1.0])
def test_spm_rate_is_the_share_of_units_in_spm_order(codec, rate):
    mix, ids = fim.FimSettings(1.0, rate), codec.fim_ids
    units = [
        fim.make_unit("a = 1\n", codec.encode, ids, fim.piece_rng(1, 0, n, 0), mix, 40)
        for n in range(800)
    ]
    # in PSM order an empty prefix also puts the two sentinels side by side, so look at both ends
    is_spm = [unit.ids[unit.middle_start - 1] != ids.sentinels["m"] for unit in units]
    starts = [unit.ids[1] == ids.sentinels["s"] for unit in units]
    assert sum(is_spm) <= rate * 800 + 5 * np.sqrt(rate * (1 - rate) * 800)
    assert sum(starts) >= rate * 800 - 5 * np.sqrt(rate * (1 - rate) * 800)


def test_a_unit_does_not_depend_on_what_was_made_before(codec):
    texts = {n: f"def f{n}(x):\n    return x + {n}\n" for n in range(30)}

    def make(n: int) -> fim.Unit:
        rng = fim.piece_rng(7, 3, n, 0)
        return fim.make_unit(texts[n], codec.encode, codec.fim_ids, rng, fim.FimSettings(), 80)

    forward = {n: make(n) for n in texts}
    assert {n: make(n) for n in reversed(texts)} == forward


def test_every_part_of_the_key_changes_the_random_stream():
    key = {"seed": 1, "epoch": 2, "document": 3, "start": 4, "repeat": 5}
    first = fim.piece_rng(**key).random()
    assert fim.piece_rng(**key).random() == first
    others = {fim.piece_rng(**(key | {name: 99})).random() for name in key}
    assert len(others | {first}) == 6


@given(seed=st.integers(-(2**31), 2**63 - 1), keys=st.lists(st.integers(0, 2**64 - 1), min_size=1))
def test_hash_uniform_is_a_pure_function_of_each_key(seed, keys):
    array = np.array(keys, dtype=np.uint64)
    values = fim.hash_uniform(seed, 5, array)
    assert ((values >= 0) & (values < 1)).all()
    np.testing.assert_array_equal(fim.hash_uniform(seed, 5, array[::-1]), values[::-1])
    np.testing.assert_array_equal(fim.hash_uniform(seed, 5, array[:1]), values[:1])


@pytest.mark.parametrize("seed", [0, 1, 42])
def test_hash_uniform_is_uniform_and_uncorrelated(seed):
    values = fim.hash_uniform(seed, 0, np.arange(100_000), 0)
    counts = np.histogram(values, bins=100, range=(0, 1))[0]
    # chi-square with 99 degrees of freedom: mean 99, standard deviation 14
    assert ((counts - 1000.0) ** 2 / 1000).sum() < 99 + 5 * 14.1
    for other in (values[1:], fim.hash_uniform(seed + 1, 0, np.arange(1, 100_000), 0)):
        assert abs(np.corrcoef(values[:-1], other)[0, 1]) < 5 / np.sqrt(100_000)


@pytest.mark.parametrize("longest", [52, 244, 2036])
def test_drawn_lengths_are_log_uniform_between_a_few_lines_and_the_longest(longest):
    documents = np.arange(20_000, dtype=np.uint64)
    drawn = fim.draw_lengths(1, 0, documents, 0, 0, 0, longest)
    shortest = min(fim.SHORTEST_DRAWN, longest // 2)
    assert drawn.min() == shortest
    assert drawn.max() == longest
    middle = (shortest * (longest + 1)) ** 0.5
    assert abs((drawn < middle).mean() - 0.5) < 5 * 0.5 / np.sqrt(len(drawn)) + 1 / shortest
    for epoch, start, repeat, part in ((1, 0, 0, 0), (0, 9, 0, 0), (0, 0, 1, 0), (0, 0, 0, 1)):
        other = fim.draw_lengths(1, epoch, documents, start, repeat, part, longest)
        assert (drawn != other).mean() > 0.8


# ---- the plan's length ---------------------------------------------------------------------------


def test_the_planned_length_hardly_ever_needs_a_redraw_on_real_code(codec, store):
    """Redraws skew the spans; measured 1 in 4,008 units at a reserve of 8."""
    tokens = TokenStore(store, TRAIN)
    pieces = cut_documents(tokens, codec, 244)
    calls = 0

    def counting_encode(texts: list[str]) -> list[list[int]]:
        nonlocal calls
        calls += 1
        return codec.encode(texts)

    for document, start, length in zip(pieces.document, pieces.start, pieces.length, strict=True):
        ids = tokens.tokens(document, start, start + length)
        text = codec.decode_bytes(ids.tolist()).decode()
        rng = fim.piece_rng(42, 0, int(tokens.uids[document]), int(start))
        room = fim.planned_length(int(length))
        unit = fim.make_unit(text, counting_encode, codec.fim_ids, rng, fim.FimSettings(1.0), room)
        assert sorted(codec.decode_bytes(unit.ids)) == sorted(text.encode()), "nothing is trimmed"
    assert calls <= len(pieces.document) * 1.01


# ---- families and refusals -----------------------------------------------------------------------


def vocabulary_of(family: fim.FimFormat) -> dict[str, int]:
    names = [family.prefix, family.suffix, family.middle, family.end, family.pad, *family.stops]
    return {name: 1000 + n for n, name in enumerate(name for name in names if name)}


@pytest.mark.parametrize("family", fim_formats.FORMATS, ids=lambda family: family.name)
def test_the_ids_of_each_family_are_found(family):
    vocabulary = {"def": 3} | vocabulary_of(family)
    found = fim_formats.find_ids(vocabulary)
    assert found.format == family
    assert found.end == vocabulary[family.end]
    names = {"p": family.prefix, "s": family.suffix, "m": family.middle}
    assert found.sentinels == {letter: vocabulary[name] for letter, name in names.items()}
    given = {"def", family.prefix, family.suffix, family.middle}
    ends = {index for name, index in vocabulary.items() if name not in given}
    assert found.stops == ends, "whatever can only stand behind a text, and no sentinel"


@pytest.mark.parametrize("missing", ["prefix", "suffix", "middle", "end"])
def test_a_vocabulary_without_all_sentinels_is_refused(missing):
    vocabulary = vocabulary_of(fim_formats.STARCODER)
    del vocabulary[getattr(fim_formats.STARCODER, missing)]
    with pytest.raises(ValueError, match=r"every known family; known are starcoder .*<fim_prefix>"):
        fim_formats.find_ids(vocabulary)


def test_a_prompt_is_what_stands_before_the_middle(codec):
    ids = codec.fim_ids
    for mode in ("psm", "spm"):
        prompt = ids.prompt([1, 2], [3], mode)
        whole = ids.arrange(getattr(ids.format, mode), [1, 2], [3], [7, 8, 9])
        assert whole == [*prompt, 7, 8, 9]


def test_a_family_without_a_middle_sentinel_has_none_in_its_units(codec):
    two = dataclasses.replace(fim_formats.STARCODER, name="two", psm="sSpPM", spm="pPsSM")
    vocabulary = {two.prefix: 1, two.suffix: 2, two.end: 3}
    ids = fim_formats.find_ids(vocabulary, (two,))
    assert ids.arrange(two.psm, [10], [20], [30]) == [2, 20, 1, 10, 30]
    unit = fim.make_unit(
        "ab", codec.encode, ids, np.random.default_rng(0), settings_of("random", 0.0), 9
    )
    assert unit.ids[unit.middle_start - 1] != 3
    assert len(unit.ids) <= 9


@pytest.mark.parametrize("name", ["fim_rate", "spm_rate"])
@pytest.mark.parametrize("value", [-0.1, 1.5, float("nan")])
def test_a_rate_that_is_no_probability_is_refused(name, value):
    with pytest.raises(ValueError, match=f"{name} {value} is not a probability; give 0 to 1"):
        fim.FimSettings(**{name: value})


@pytest.mark.parametrize("weights", [(0, 0, 0, 0), (1, -1, 1, 1)])
def test_span_weights_that_are_negative_or_all_zero_are_refused(weights):
    with pytest.raises(ValueError, match="must be at least 0 and not all 0"):
        fim.SpanMix(*weights)
