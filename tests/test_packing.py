"""Cutting and packing against brute force: nothing lost, nothing over, nothing cut in a character.

The content of rows is tested in test_rows.py.
"""

from types import SimpleNamespace

import numpy as np
import pytest
from conftest import train_tokenizer
from core_fixtures import dense_texts, make_store
from hypothesis import given, settings
from hypothesis import strategies as st

import fim
from hugcoder.data.codec import Codec
from hugcoder.data.corpus import TRAIN
from hugcoder.data.packing import (
    CUT_SHARE,
    PackingSettings,
    Pieces,
    best_fit,
    cut_documents,
    plan_epoch,
)
from hugcoder.data.token_shards import line_table
from hugcoder.data.token_store import LINE_BLOCK, TokenStore, last_line_ends

SHORT_LINES = "".join(f"x{n} = y[{n}]\n" for n in range(400))
EMOJI_LINE = "\U0001f468\u200d\U0001f469\u200d\U0001f467" * 200
MIXED_LINE = "\u6f22a\U0001f600b\u00e9e\u0301" * 300
MINIFIED = "function(a,b){return a+b};" * 150


@pytest.fixture(scope="module")
def awkward(tokenizer, tmp_path_factory) -> TokenStore:
    """Documents of one giant line, of short lines, of one character, of nothing, of CRLF."""
    crlf = SHORT_LINES.replace("\n", "\r\n")
    mixed = SHORT_LINES[:1500] + MINIFIED + SHORT_LINES[:1500]
    texts = [SHORT_LINES, EMOJI_LINE, "", MIXED_LINE, "x", MINIFIED, crlf, mixed]
    return make_store(tmp_path_factory.mktemp("awkward"), tokenizer, texts)


@pytest.fixture(scope="module")
def real(store) -> TokenStore:
    return TokenStore(store, TRAIN)


@pytest.fixture(scope="module")
def dense(tmp_path_factory) -> tuple[TokenStore, Codec]:
    """A script of three bytes a letter, no spaces, and a tokenizer that merges across letters."""
    folder = tmp_path_factory.mktemp("dense")
    texts = dense_texts(num_texts=12, num_letters=1500)
    tokenizer = train_tokenizer(folder / "tokenizer", texts, 2048)
    return make_store(folder, tokenizer, texts), Codec(tokenizer)


# ---- best fit ------------------------------------------------------------------------------------


def naive_best_fit(lengths: list[int], capacity: int) -> list[int]:
    """Fill of each row after best-fit-decreasing in O(n^2)."""
    fills: list[int] = []
    for length in sorted(lengths, reverse=True):
        fitting = [row for row, fill in enumerate(fills) if fill + length <= capacity]
        if fitting:
            fills[max(fitting, key=lambda row: fills[row])] += length
        else:
            fills.append(length)
    return fills


@given(st.integers(1, 64).flatmap(lambda c: st.tuples(st.just(c), st.lists(st.integers(1, c)))))
@settings(max_examples=200, deadline=None)
def test_best_fit_equals_the_naive_algorithm(capacity_and_lengths):
    capacity, lengths = capacity_and_lengths
    rows, num_rows = best_fit(np.array(lengths, dtype=np.int64), capacity)
    naive = naive_best_fit(lengths, capacity)
    assert num_rows == len(naive)
    fills = np.bincount(rows, lengths, minlength=num_rows) if lengths else np.zeros(0)
    assert sorted(fills.tolist()) == sorted(naive)
    assert all(0 < fill <= capacity for fill in fills)


def test_best_fit_reaches_the_optimum_where_pairs_fit_exactly():
    rng = np.random.default_rng(0)
    half = rng.integers(1, 100, size=300)
    lengths = rng.permutation(np.concatenate([half, 100 - half]))
    assert best_fit(lengths, 100)[1] == 300


# ---- cutting -------------------------------------------------------------------------------------


def assert_tiles(pieces: Pieces, store: TokenStore) -> None:
    """Pieces of a document follow each other without a gap from its first token to its last."""
    for document in range(len(store)):
        of_it = np.flatnonzero(pieces.document == document)
        starts, lengths = pieces.start[of_it], pieces.length[of_it]
        assert (lengths > 0).all()
        assert pieces.number[of_it].tolist() == list(range(len(of_it)))
        assert starts.tolist() == [0, *np.cumsum(lengths)[:-1]][: len(of_it)]
        assert lengths.sum() == store.lengths[document]
        assert pieces.is_last[of_it].tolist() == [False] * (len(of_it) - 1) + [True] * bool(
            len(of_it)
        )


@pytest.mark.parametrize("limit", [52, 63, 200, 1000])
def test_pieces_tile_every_document(awkward, real, codec, limit):
    for store in (awkward, real):
        pieces = cut_documents(store, codec, limit)
        assert pieces.length.max() <= limit
        assert_tiles(pieces, store)


@pytest.mark.parametrize("limit", [52, 63, 64, 65, 200])
def test_no_cut_falls_inside_a_character(awkward, codec, limit):
    pieces = cut_documents(awkward, codec, limit)
    assert pieces.is_text.all()
    for document, start, length in zip(pieces.document, pieces.start, pieces.length, strict=True):
        ids = awkward.tokens(document, start, start + length).tolist()
        codec.decode_bytes(ids).decode("utf-8", errors="strict")


@pytest.mark.parametrize("limit", [20, 52, 116, 244])
def test_pieces_are_text_even_where_most_tokens_begin_inside_a_character(dense, limit):
    """Symptom: only 8 tokens back were looked at, and training ended in a UnicodeDecodeError."""
    store, codec = dense
    inside = codec.continues_character[store.tokens(0, 0, int(store.lengths[0]))]
    assert inside.mean() > 0.5, "otherwise this tests nothing"
    pieces = cut_documents(store, codec, limit)
    assert_tiles(pieces, store)
    assert pieces.length.max() <= limit
    assert pieces.is_text.mean() > 0.9
    assert_is_text_says_what_decodes(pieces, store, codec)


def assert_is_text_says_what_decodes(pieces: Pieces, store, codec: Codec) -> None:
    for index in range(len(pieces.document)):
        start, length = int(pieces.start[index]), int(pieces.length[index])
        ids = store.tokens(int(pieces.document[index]), start, start + length).tolist()
        try:
            codec.decode_bytes(ids).decode("utf-8", errors="strict")
            assert pieces.is_text[index]
        except UnicodeDecodeError:
            assert not pieces.is_text[index]


@pytest.mark.parametrize("limit", [2, 3, 5])
def test_a_piece_with_no_boundary_in_it_stays_left_to_right(codec, tokenizer, tmp_path, limit):
    """One emoji is four tokens of a byte each here, so a piece of three has no place to be cut."""
    text = "\U0001f9ff" * 40
    store = make_store(tmp_path, tokenizer, [text, "x = 1\n"])
    pieces = cut_documents(store, codec, limit)
    assert_tiles(pieces, store)
    assert_is_text_says_what_decodes(pieces, store, codec)
    settings = PackingSettings(64, seed=1, fim_rate=1.0)
    units = plan_epoch(store, codec, pieces, settings, 0).units
    in_fim = units.num_tokens[units.is_fim].sum()
    assert in_fim == pieces.length[pieces.is_text].sum(), "and FIM takes every other one"
    for unit in np.flatnonzero(units.is_fim):
        start, stop = units.start[unit], units.start[unit] + units.num_tokens[unit]
        ids = store.tokens(int(units.document[unit]), int(start), int(stop)).tolist()
        codec.decode_bytes(ids).decode("utf-8", errors="strict")


@given(
    text=st.lists(
        st.sampled_from(["\U0001f600", "\u6f22", "e\u0301", "a", "\n", "x = 1\n", " " * 9]),
        min_size=60,
        max_size=400,
    ).map("".join),
    limit=st.integers(52, 90),
)
@settings(max_examples=60, deadline=None)
def test_random_text_is_tiled_and_cut_between_characters(codec, text, limit):
    ids = np.array(codec.encode([text])[0], dtype=np.int64)
    table = line_table(ids, codec.ends_line)
    store = SimpleNamespace(
        lengths=np.array([len(ids)]),
        tokens=lambda document, start, stop: ids[start:stop],
        last_line_ends=lambda documents, after, until: last_line_ends(
            table, np.zeros(len(documents), np.int64), after, until
        ),
    )
    pieces = cut_documents(store, codec, limit)
    assert pieces.length.max() <= limit
    decoded = [
        codec.decode_bytes(ids[start : start + length].tolist()).decode("utf-8", errors="strict")
        for start, length in zip(pieces.start, pieces.length, strict=True)
    ]
    assert "".join(decoded) == text


@pytest.mark.parametrize("limit", [100, 257])
def test_short_lines_are_cut_at_their_ends_and_pieces_are_long(awkward, codec, limit):
    pieces = cut_documents(awkward, codec, limit)
    longest_line = max(len(ids) for ids in codec.encode(SHORT_LINES.splitlines(keepends=True)))
    for document in (0, 6):  # LF and CRLF
        of_it = (pieces.document == document) & ~pieces.is_last
        for start, length in zip(pieces.start[of_it], pieces.length[of_it], strict=True):
            last = awkward.tokens(document, start + length - 1, start + length)
            assert codec.ends_line[last].all()
            assert length > limit - LINE_BLOCK - longest_line - 2


def test_the_line_table_names_the_last_line_end_of_each_block():
    ends_line = np.array([False, True])
    rng = np.random.default_rng(0)
    for length in (0, 1, 31, 32, 33, 100):
        ids = rng.integers(0, 2, size=length) * (rng.random(length) < 0.1)
        expected = []
        for first in range(0, length, LINE_BLOCK):
            ends = np.flatnonzero(ids[first : first + LINE_BLOCK])
            expected.append(int(ends[-1]) + 1 if len(ends) else 0)
        assert line_table(ids.astype(np.int64), ends_line).tolist() == expected


@given(
    ends=st.lists(st.integers(0, 199), max_size=30),
    after=st.integers(0, 199),
    length=st.integers(0, 199),
)
@settings(max_examples=300, deadline=None)
def test_the_last_line_end_is_that_of_a_walk_over_the_recorded_ones(ends, after, length):
    """A block records only its last line end, so an earlier one of the same block is not seen."""
    ids = np.zeros(200, dtype=np.int64)
    ids[ends] = 1
    table, until = line_table(ids, np.array([False, True])), min(after + length, 199)
    recorded = [block * LINE_BLOCK + int(last) for block, last in enumerate(table.tolist()) if last]
    expected = max([end for end in recorded if after < end <= until], default=after)
    found = last_line_ends(table, np.array([0]), np.array([after]), np.array([until]))
    assert found.tolist() == [expected]


# ---- the plan ------------------------------------------------------------------------------------


def arrays(plan) -> list[list]:
    return [array.tolist() for array in (*plan.units, plan.row_offsets)]


@pytest.mark.parametrize("fim_rate", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("row_length", [64, 256, 1024])
def test_every_token_is_in_the_rows_once_and_no_row_is_over(real, codec, row_length, fim_rate):
    packing = PackingSettings(row_length, seed=3, fim_rate=fim_rate)
    pieces = cut_documents(real, codec, packing.content_limit)
    plan = plan_epoch(real, codec, pieces, packing, epoch=1)
    units = plan.units
    for document in range(len(real)):
        own = np.flatnonzero(units.document == document)
        own = own[np.argsort(units.start[own])]
        stops = units.start[own] + units.num_tokens[own]
        assert units.start[own].tolist() == [0, *stops[:-1]]
        assert stops[-1] == real.lengths[document]
        assert units.is_last[own].tolist() == [False] * (len(own) - 1) + [True]
    assert plan.row_offsets[0] == 0
    assert plan.row_offsets[-1] == len(units.document)
    assert (np.diff(plan.row_offsets) > 0).all()
    fills = np.add.reduceat(units.length, plan.row_offsets[:-1])
    assert fills.max() <= row_length
    planned = fim.planned_length(units.num_tokens)
    bare = units.num_tokens + units.is_last
    assert units.length.tolist() == np.where(units.is_fim, planned, bare).tolist()


def test_where_a_unit_ends_does_not_tell_that_it_fills_a_row(real, codec):
    """Symptom: 95 % of units filled their row, and the end of a middle was learned from that."""
    packing = PackingSettings(256, seed=3, fim_rate=0.9)
    pieces = cut_documents(real, codec, packing.content_limit)
    units = plan_epoch(real, codec, pieces, packing, 0).units
    lengths = units.num_tokens[units.is_fim]
    shares = np.histogram(lengths, bins=[1, 64, 128, 192, 245])[0] / len(lengths)
    assert (shares > 0.07).all()
    assert (lengths > packing.content_limit - 12).mean() < 0.05
    stays = units.num_tokens[~units.is_fim]
    assert np.median(stays) > 0.8 * packing.content_limit, "left-to-right keeps its context"


@pytest.mark.parametrize("row_length", [256, 2048])
def test_of_documents_of_one_length_a_share_is_cut_and_the_others_keep_it(codec, row_length):
    """Symptom: files of nearly one length, shorter than a row, would teach it as the end."""
    num_documents, length = 2000, 180
    store = SimpleNamespace(
        uids=np.arange(num_documents, dtype=np.uint64),
        last_line_ends=lambda documents, after, until: until,
        lengths=np.full(num_documents, length),
    )
    packing = PackingSettings(row_length, seed=3, fim_rate=1.0)
    pieces = cut_documents(store, codec, packing.content_limit)
    units = plan_epoch(store, codec, pieces, packing, 0).units
    whole = np.bincount(units.document, minlength=num_documents) == 1
    drawn = np.log(length / 40) / np.log((packing.content_limit + 1) / 40)  # below that length
    expected = 1 - CUT_SHARE * drawn
    assert abs(whole.mean() - expected) < 5 * np.sqrt(0.25 / num_documents)
    shown_whole = units.num_tokens[whole[units.document]]
    assert (shown_whole == length).all()
    short = units.num_tokens[~whole[units.document]]
    assert np.std(short) > 20


def test_repeats_of_a_document_are_cut_each_in_its_own_way(real, codec):
    packing = PackingSettings(256, seed=3, fim_rate=1.0)
    pieces = cut_documents(real, codec, packing.content_limit)
    twice = np.full(len(real), 2.0)
    units = plan_epoch(real, codec, pieces, packing, 0, twice).units
    longest = int(real.lengths.argmax())
    starts = [
        sorted(units.start[(units.document == longest) & (units.repeat == repeat)].tolist())
        for repeat in (0, 1)
    ]
    assert len(starts[0]) > 10
    assert starts[0] != starts[1]


def test_a_plan_is_a_pure_function_of_seed_and_epoch(real, codec):
    packing = PackingSettings(256, seed=3, fim_rate=0.5)
    pieces = cut_documents(real, codec, packing.content_limit)
    first = arrays(plan_epoch(real, codec, pieces, packing, 0))
    plan_epoch(real, codec, pieces, packing, 5)
    assert arrays(plan_epoch(real, codec, pieces, packing, 0)) == first
    other_seed = PackingSettings(256, seed=4, fim_rate=0.5)
    assert arrays(plan_epoch(real, codec, pieces, packing, 1)) != first
    assert arrays(plan_epoch(real, codec, pieces, other_seed, 0)) != first


@pytest.mark.parametrize(
    ("seed", "epochs"),
    [
        (42, (0, 1)),
        (42, (1, 10)),
        pytest.param(12345678, (1, 10)),
        pytest.param(1234567890, (0, 1)),
    ],
)
def test_each_epoch_has_its_own_order_whatever_the_seed(real, codec, seed, epochs):
    """Symptom: the key of the order was cut to 16 characters, which long seeds fill alone."""
    packing = PackingSettings(256, seed, fim_rate=0.0)
    pieces = cut_documents(real, codec, packing.content_limit)
    first, second = (
        plan_epoch(real, codec, pieces, packing, epoch).units.start.tolist() for epoch in epochs
    )
    assert first != second


def test_long_and_short_units_come_throughout_an_epoch(real, codec):
    packing = PackingSettings(256, seed=3, fim_rate=0.5)
    pieces = cut_documents(real, codec, packing.content_limit)
    plan = plan_epoch(real, codec, pieces, packing, 0)
    longest = np.maximum.reduceat(plan.units.length, plan.row_offsets[:-1])
    correlation = np.corrcoef(np.arange(plan.num_rows), longest)[0, 1]
    assert abs(correlation) < 5 / np.sqrt(plan.num_rows)


def synthetic_store(num_documents: int, limit: int) -> tuple[SimpleNamespace, Pieces]:
    """Documents with the lengths of source files: log-normal, median 622 tokens, p90 5,307."""
    rng = np.random.default_rng(0)
    sigma = np.log(5307 / 622) / 1.2816
    lengths = np.maximum(rng.lognormal(np.log(622), sigma, num_documents), 1).astype(np.int64)
    num_pieces = -(-lengths // limit)
    document = np.repeat(np.arange(num_documents), num_pieces)
    number = np.arange(len(document)) - np.repeat(np.cumsum(num_pieces) - num_pieces, num_pieces)
    start = number * limit
    length = np.minimum(lengths[document] - start, limit)
    is_last = number == num_pieces[document] - 1
    store = SimpleNamespace(
        uids=rng.integers(0, 2**63, num_documents).astype(np.uint64),
        last_line_ends=lambda documents, after, until: until,
    )
    is_text = np.ones(len(start), dtype=bool)
    return store, Pieces(document, number, start, length, is_last, is_text)


@pytest.mark.parametrize("fim_rate", [0.0, 0.5, 1.0])
def test_less_than_two_percent_of_rows_of_2048_is_padding(fim_rate, codec):
    packing = PackingSettings(2048, seed=1, fim_rate=fim_rate)
    store, pieces = synthetic_store(4000, packing.content_limit)
    plan = plan_epoch(store, codec, pieces, packing, 0)
    used = pieces.length.sum() + plan.units.is_fim.sum() * fim.NUM_ADDED_TOKENS
    assert 1 - plan.units.length.sum() / (plan.num_rows * 2048) < 0.01, "left by best-fit"
    assert 1 - used / (plan.num_rows * 2048) < 0.02, "and by the reserve"


def test_a_mixture_repeats_whole_documents_as_often_as_it_says(codec):
    packing = PackingSettings(2048, seed=1, fim_rate=0.5)
    store, pieces = synthetic_store(2000, packing.content_limit)
    wanted = np.array([0.0, 0.3, 1.0, 2.5])[np.arange(2000) % 4]
    epochs, seen = 6, np.zeros(2000)
    for epoch in range(epochs):
        units = plan_epoch(store, codec, pieces, packing, epoch, wanted).units
        tokens = np.zeros(2000, dtype=np.int64)
        np.add.at(tokens, units.document, units.num_tokens)
        lengths = np.zeros(2000, dtype=np.int64)
        np.add.at(lengths, pieces.document, pieces.length)
        assert (tokens % lengths == 0).all(), "all of a document or none"
        per_document = tokens // lengths
        assert (np.abs(per_document - wanted) < 1).all()
        keys = zip(*(a.tolist() for a in (units.document, units.repeat, units.start)), strict=True)
        assert len(set(keys)) == len(units.document), "each unit has a random stream of its own"
        seen += per_document
    for rate in (0.0, 0.3, 1.0, 2.5):
        fraction = rate % 1
        error = 5 * np.sqrt(fraction * (1 - fraction) / (500 * epochs))
        assert abs(seen[wanted == rate].mean() / epochs - rate) <= error


def test_content_limits_leave_room_for_what_a_unit_adds():
    assert PackingSettings(64, 0, fim_rate=0.0).content_limit == 63
    assert fim.planned_length(PackingSettings(64, 0, fim_rate=0.5).content_limit) == 64
