"""Rows: the same from any order, worker or restart, and together exactly the corpus."""

import collections
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import corpus_row, train_tokenizer, write_shards
from core_fixtures import dense_texts, make_rows, make_store
from torch.utils.data import DataLoader

from data_prep.tokenize_corpus import tokenize
from hugcoder.data import row_statistics
from hugcoder.data.codec import Codec
from hugcoder.data.corpus import HELD_OUT, TRAIN, read_corpus
from hugcoder.data.epochs import Epochs
from hugcoder.data.mixture import clear_mixture, mixture_repeats
from hugcoder.data.rows import FIM_CONTEXT, FIM_MIDDLE, IGNORED, LEFT_TO_RIGHT, PADDING, PackedRows
from hugcoder.data.token_store import TokenStore
from hugcoder.pretraining.arguments import DataArguments, PretrainArguments
from hugcoder.pretraining.loading import load_held_out
from hugcoder.refusal import Refusal

GO = "func f(x int) int {\n\treturn x\n}\n"


@pytest.fixture(scope="module")
def real(store) -> TokenStore:
    return TokenStore(store, TRAIN)


@pytest.fixture(scope="module")
def mixed(tokenizer, tmp_path_factory) -> TokenStore:
    """Twelve documents of Python and eight of Go, two of them of many pieces."""
    texts = [f"x{n} = {n}\n" * (n + 1) for n in range(11)] + ["y = 1\n" * 300]
    texts += [GO * (n + 1) for n in range(7)] + [GO * 60]
    languages = ["python"] * 12 + ["go"] * 8
    return make_store(tmp_path_factory.mktemp("mixed"), tokenizer, texts, languages)


def units_of(row: dict[str, torch.Tensor]) -> list[dict[str, np.ndarray]]:
    """The units of a row, found by its position ids; what is padding is left out."""
    arrays = {name: value.numpy() for name, value in row.items()}
    length = int((arrays["kinds"] != PADDING).sum())
    starts = np.flatnonzero(arrays["position_ids"][:length] == 0)
    stops = [*starts[1:], length]
    return [
        {name: value[start:stop] for name, value in arrays.items()}
        for start, stop in zip(starts, stops, strict=True)
    ]


def text_of(unit: dict[str, np.ndarray], codec) -> bytes:
    """The bytes of a unit's piece in their original order."""
    ids = unit["input_ids"].tolist()
    if unit["kinds"][0] == LEFT_TO_RIGHT:
        return codec.decode_bytes(ids)
    suffix_sentinel = ids.index(codec.fim_ids.sentinels["s"])
    last_sentinel = ids.index(codec.fim_ids.sentinels["m"])
    middle_start = int(np.flatnonzero(unit["kinds"] == FIM_MIDDLE)[0])
    prefix = ids[1:suffix_sentinel] + ids[last_sentinel + 1 : middle_start]  # PSM has the first
    suffix = ids[suffix_sentinel + 1 : last_sentinel]
    return codec.decode_bytes(prefix + ids[middle_start:] + suffix)


def as_lists(row: dict[str, torch.Tensor]) -> dict[str, list[int]]:
    return {name: value.tolist() for name, value in row.items()}


def len_epoch(rows: PackedRows) -> int:
    return rows.epochs.rows_in(0)


# ---- random access -------------------------------------------------------------------------------


def test_a_row_is_the_same_in_any_order_and_after_pickling(real, codec):
    forward = make_rows(real, codec, num_rows=8000)
    indices = [0, 1, 5, len_epoch(forward), 2 * len_epoch(forward) + 3, 3999]
    expected = [as_lists(forward[i]) for i in indices]
    fresh = make_rows(real, codec, num_rows=8000)
    assert [as_lists(fresh[i]) for i in reversed(indices)] == expected[::-1]
    copy = pickle.loads(pickle.dumps(forward))
    assert [as_lists(copy[i]) for i in indices] == expected
    restarted = make_rows(real, codec, num_rows=4000)
    assert as_lists(restarted[3999]) == expected[-1], "a restart needs no row before its own"


@pytest.mark.filterwarnings("ignore:This DataLoader will create")
@pytest.mark.parametrize("num_workers", [1, 2, 4])
def test_workers_do_not_change_the_rows(real, codec, num_workers):
    rows = make_rows(real, codec, num_rows=24)
    expected = [as_lists(rows[i]) for i in range(24)]
    loader = DataLoader(rows, batch_size=4, num_workers=num_workers, multiprocessing_context="fork")
    batches = [as_lists({k: v[i] for k, v in batch.items()}) for batch in loader for i in range(4)]
    assert batches == expected


def test_seed_epoch_and_nothing_else_change_the_rows(mixed, codec):
    first, again = make_rows(mixed, codec, num_rows=500), make_rows(mixed, codec, num_rows=9)
    assert as_lists(first[3]) == as_lists(again[3])
    assert as_lists(first[3]) != as_lists(make_rows(mixed, codec, seed=43)[3])
    assert as_lists(first[3]) != as_lists(first[3 + len_epoch(first)])


def draws_of(rows: PackedRows, epoch: int) -> dict[tuple[int, int], list[list[int]]]:
    """(document, repeat) -> the ids of its units, for one epoch."""
    first, found = sum(rows.epochs.rows_in(e) for e in range(epoch)), {}
    for index in range(first, first + rows.epochs.rows_in(epoch)):
        plan, row = rows.epochs.locate(index)
        planned = plan.units_of(row, row + 1)
        keys = zip(planned.document.tolist(), planned.repeat.tolist(), strict=True)
        units = [unit["input_ids"].tolist() for unit in units_of(rows[index])]
        for key, start, ids in zip(keys, planned.start.tolist(), units, strict=True):
            found.setdefault(key, {})[start] = ids
    return {key: [ids for _, ids in sorted(parts.items())] for key, parts in found.items()}


def test_a_document_is_split_anew_in_each_epoch_repeat_and_seed(mixed, codec):
    mixture = {"test": 2.0}
    rows = make_rows(mixed, codec, fim_rate=1.0, mixture=mixture, num_rows=10_000)
    other = make_rows(mixed, codec, fim_rate=1.0, mixture=mixture, seed=43)
    first, second, reseeded = draws_of(rows, 0), draws_of(rows, 1), draws_of(other, 0)
    repeated = {(document, 1 - repeat): ids for (document, repeat), ids in first.items()}
    for drawn in (second, reseeded, repeated):
        assert drawn.keys() == first.keys()
        same = sum(drawn[key] == first[key] for key in first)
        assert same < 0.2 * len(first), "short documents may meet the same split by chance"


# ---- rows are the corpus -------------------------------------------------------------------------


@pytest.mark.parametrize("row_length", [64, 128, 1024])
def test_an_epoch_without_fim_is_every_document_and_its_end_token(real, codec, row_length):
    rows = make_rows(real, codec, row_length=row_length, fim_rate=0.0)
    plan, found = rows.epochs.plan(0), collections.defaultdict(dict)
    for index in range(len(rows)):
        units = units_of(rows[index])
        planned = plan.units_of(index, index + 1)
        places = zip(planned.document.tolist(), planned.start.tolist(), strict=True)
        for (document, start), unit in zip(places, units, strict=True):
            assert (unit["kinds"] == LEFT_TO_RIGHT).all()
            found[document][start] = unit["input_ids"].tolist()
    for document in range(len(real)):
        ids = [i for _, piece in sorted(found[document].items()) for i in piece]
        own = real.tokens(document, 0, int(real.lengths[document])).tolist()
        assert ids == [*own, codec.end_of_text]
        assert ids.count(codec.end_of_text) == 1


@pytest.mark.parametrize("fim_rate", [0.5, 1.0])
def test_an_epoch_with_fim_holds_every_document_once(real, codec, fim_rate):
    rows, found = make_rows(real, codec, row_length=256, fim_rate=fim_rate), {}
    for index in range(len(rows)):
        planned = rows.epochs.plan(0).units_of(index, index + 1)
        places = zip(planned.document.tolist(), planned.start.tolist(), strict=True)
        for place, unit in zip(places, units_of(rows[index]), strict=True):
            assert place not in found
            found[place] = text_of(unit, codec)
    for document in range(len(real)):
        texts = [text for (of, _), text in sorted(found.items()) if of == document]
        own = real.tokens(document, 0, int(real.lengths[document]))
        assert b"".join(texts) == codec.decode_bytes(own.tolist())


@pytest.mark.parametrize("row_length", [64, 128, 256])
def test_rows_of_a_script_without_spaces_are_made_and_lose_little(tmp_path, row_length):
    """Symptom: a UnicodeDecodeError in the middle of training, again at every restart."""
    texts = dense_texts(num_texts=8, num_letters=900)
    tokenizer = train_tokenizer(tmp_path / "tokenizer", texts, 2048)
    codec, store = Codec(tokenizer), make_store(tmp_path, tokenizer, texts)
    rows = make_rows(store, codec, row_length=row_length, fim_rate=0.9)
    num_bytes = 0
    for index in range(len(rows)):
        for unit in units_of(rows[index]):
            if unit["kinds"][0] == FIM_CONTEXT:
                num_bytes += len(text_of(unit, codec).decode("utf-8", errors="strict").encode())
            else:
                num_bytes += len(text_of(unit, codec))
    assert num_bytes > 0.9 * store.num_bytes.sum(), "what does not fit is trimmed off the suffix"


@pytest.mark.parametrize("fim_rate", [0.0, 0.5, 1.0])
def test_labels_kinds_and_positions_say_what_each_token_is(mixed, codec, fim_rate):
    rows = make_rows(mixed, codec, row_length=128, fim_rate=fim_rate)
    sentinels = set(codec.fim_ids.sentinels.values())
    for index in range(len(rows)):
        row = {name: value.numpy() for name, value in rows[index].items()}
        assert {len(value) for value in row.values()} == {128}
        assert all(value.dtype == np.int64 for value in row.values())
        is_padding, is_first = row["kinds"] == PADDING, row["position_ids"] == 0
        is_scored = ~is_padding & ~is_first
        is_scored &= ~np.isin(row["input_ids"], list(sentinels))  # given, never to be written
        assert (row["labels"] == np.where(is_scored, row["input_ids"], IGNORED)).all()
        assert (row["input_ids"][is_padding] == codec.pad).all()
        assert (np.diff(is_padding.astype(int)) >= 0).all(), "padding comes last"
        steps = np.diff(row["position_ids"])
        assert ((steps == 1) | is_first[1:]).all()
        assert is_first[0]
        assert not is_padding.any() or is_first[np.flatnonzero(is_padding)[0]]
        for unit in units_of(rows[index]):
            kinds, ids = unit["kinds"], unit["input_ids"].tolist()
            if kinds[0] == LEFT_TO_RIGHT:
                assert set(kinds) == {LEFT_TO_RIGHT}
                assert not sentinels & set(ids)
                continue
            middle_start = int(np.flatnonzero(kinds == FIM_MIDDLE)[0])
            assert set(kinds[:middle_start]) == {FIM_CONTEXT}
            assert set(kinds[middle_start:]) == {FIM_MIDDLE}
            assert sentinels == set(ids[:middle_start]) & sentinels
            assert not sentinels & set(ids[middle_start:])
            assert ids[-1] == codec.fim_ids.end
            assert unit["labels"][-1] == codec.fim_ids.end, "where a middle ends is learned"


def test_fim_rate_zero_and_one_are_all_or_nothing(mixed, codec):
    assert not make_rows(mixed, codec, fim_rate=0.0).epochs.plan(0).units.is_fim.any()
    assert make_rows(mixed, codec, fim_rate=1.0).epochs.plan(0).units.is_fim.all()


# ---- epochs and shares ---------------------------------------------------------------------------


def test_global_rows_run_through_the_epochs_without_gap(mixed, codec):
    rows = make_rows(mixed, codec, num_rows=1000)
    assert len(rows) == 1000
    sizes = [rows.epochs.rows_in(epoch) for epoch in range(4)]
    located = [(epoch, row) for epoch, size in enumerate(sizes) for row in range(size)]
    fresh = make_rows(mixed, codec, num_rows=1000)
    for index in [*range(sum(sizes) - 1, 0, -7), *range(0, sum(sizes), 5)]:
        plan, row = fresh.epochs.locate(index)
        assert (plan.epoch, row) == located[index]
    assert fresh.epochs.epoch_at(0) == 0
    assert fresh.epochs.epoch_at(sizes[0]) == 1
    assert fresh.epochs.epoch_at(sizes[0] + sizes[1] // 2) == 1 + sizes[1] // 2 / sizes[1]
    assert len(make_rows(mixed, codec)) == sizes[0], "without a length it is one epoch"


@pytest.mark.parametrize("index", [-1, 50])
def test_there_is_no_row_outside_the_length(mixed, codec, index):
    with pytest.raises(IndexError):
        make_rows(mixed, codec, num_rows=50)[index]


def test_shares_are_those_counted_from_the_plan(mixed, codec):
    rows = make_rows(mixed, codec, num_rows=1000)
    start, stop = 3, 2 * len_epoch(rows) + 5
    tokens, in_fim, total = collections.Counter(), 0, 0
    for index in range(start, stop):
        plan, row = rows.epochs.locate(index)
        units = plan.units_of(row, row + 1)
        for unit, document in enumerate(units.document):
            language = mixed.language_names[mixed.languages[document]]
            tokens[language] += int(units.num_tokens[unit])
            total += int(units.length[unit])
            in_fim += int(units.length[unit]) * bool(units.is_fim[unit])
    shares = row_statistics.shares(rows, start, stop)
    assert shares["fim"] == pytest.approx(in_fim / total)
    for language, count in tokens.items():
        assert shares[f"language/{language}"] == pytest.approx(count / sum(tokens.values()))
    assert sum(v for k, v in shares.items() if k.startswith("language/")) == pytest.approx(1)


def test_shares_report_padding(mixed, codec):
    rows = make_rows(mixed, codec)
    plan = rows.epochs.plan(0)
    free = 1 - plan.units.length.sum() / (plan.num_rows * rows.settings.row_length)
    assert row_statistics.shares(rows, 0, plan.num_rows)["padding"] == pytest.approx(free)


def test_a_mixture_changes_the_shares_as_it_says(mixed, codec):
    rows = make_rows(mixed, codec, fim_rate=0.0, mixture={"go": 2, "python": 0})
    assert row_statistics.shares(rows, 0, len(rows))["language/go"] == 1
    go = mixed.lengths[mixed.languages == mixed.language_names.index("go")].sum()
    assert rows.epochs.plan(0).units.num_tokens.sum() == 2 * go
    by_source = make_rows(mixed, codec, fim_rate=0.0, mixture={"test": 3})
    assert len(by_source.epochs.plan(0).units.document) == 3 * len(by_source.epochs.pieces.document)


def test_a_large_evaluation_batch_leaves_more_than_one_held_out_row(store, codec, tmp_path):
    data = DataArguments(token_store=str(store), max_seq_length=128, held_out_rows=64)
    training = PretrainArguments(
        output_dir=str(tmp_path), per_device_eval_batch_size=128, use_cpu=True
    )
    held_out = load_held_out(data, training, codec)
    assert [len(rows) for rows in held_out.values()] == [64, 64]


def test_the_fullest_rows_hold_the_most_units(mixed, codec):
    rows = make_rows(mixed, codec)
    counts = [len(units_of(rows[i])) for i in range(len(rows))]
    fullest = row_statistics.fullest_rows(rows, 3)
    assert [counts[i] for i in fullest] == sorted(counts, reverse=True)[:3]
    assert len(row_statistics.fullest_rows(rows, len(rows) + 2)) == len(rows) + 2


# ---- refusals ------------------------------------------------------------------------------------


def test_the_documents_of_rows_are_those_whose_text_is_in_them(real, codec, corpus):
    texts = {row["path"]: row["content"].encode() for row in read_corpus(corpus, TRAIN)}
    rows = make_rows(real, codec, row_length=256, fim_rate=0.0)
    end = codec.decode_bytes([codec.end_of_text])
    for index in range(0, len(rows) - 1, 7):
        named = {document["path"] for document in row_statistics.documents(rows, index, index + 2)}
        units = [unit for i in (index, index + 1) for unit in units_of(rows[i])]
        held = [text_of(unit, codec).removesuffix(end) for unit in units]
        assert all(any(text in texts[path] for path in named) for text in held)
        assert all(any(text in texts[path] for text in held) for path in named)


def test_a_mixture_of_unknown_names_is_refused(mixed, codec):
    holds = "holds the languages go, python and the sources test"
    with pytest.raises(Refusal, match=f"mixture names cobol, but .* {holds}"):
        make_rows(mixed, codec, mixture={"cobol": 2.0, "go": 1.0})


class Named:
    """What a mixture is read against: documents of each language from each source."""

    folder = Path("store")

    def __init__(self, languages: list[str], sources: list[str], repos: list[str] | None = None):
        self.language_names, self.source_names = languages, sources
        pairs = [(lang, src) for lang in range(len(languages)) for src in range(len(sources))]
        self.languages, self.sources = np.array(pairs).T
        # each source but the first is one repository of its name; the first has one a language
        self.repo_names = [*sources[1:], *(repos or [f"of_{name}" for name in languages])]
        self.repos = np.where(self.sources > 0, self.sources - 1, len(sources) - 1 + self.languages)


AMBIGUOUS = Named(["python", "go"], ["python", "web", "org/set?x=y", "language/go"])


def test_a_name_of_a_language_and_a_source_is_refused_with_both_ways_to_say_it():
    """Symptom: the weight 2 showed the documents that were both 4 times."""
    with pytest.raises(Refusal, match="give language/python or source/python, as in --mixture lan"):
        mixture_repeats(AMBIGUOUS, {"python": 2.0})


@pytest.mark.parametrize(
    ("mixture", "expected"),
    [
        ({"language/python": 2.0}, {("python", "python"): 2, ("python", "web"): 2}),
        ({"source/python": 2.0}, {("python", "python"): 2, ("go", "python"): 2}),
        (
            {"language/python": 2.0, "source/python": 3.0},
            {("python", "python"): 6, ("python", "web"): 2, ("go", "python"): 3},
        ),
        ({"go": 0.5, "web": 4.0}, {("go", "web"): 2, ("go", "python"): 0.5, ("python", "web"): 4}),
        ({"org/set?x=y": 2.0}, {("go", "org/set?x=y"): 2}),
        ({"language/go": 2.0}, {("go", "web"): 2, ("python", "language/go"): 1}),
        ({"source/language/go": 2.0}, {("python", "language/go"): 2, ("go", "web"): 1}),
    ],
)
def test_a_document_is_shown_by_its_language_times_its_source(mixture, expected):
    repeats = mixture_repeats(AMBIGUOUS, mixture)
    languages = [AMBIGUOUS.language_names[code] for code in AMBIGUOUS.languages]
    sources = [AMBIGUOUS.source_names[code] for code in AMBIGUOUS.sources]
    found = dict(zip(zip(languages, sources, strict=True), repeats.tolist(), strict=True))
    assert {pair: found[pair] for pair in expected} == expected


OWN = Named(["python", "go"], ["all", "zod"], repos=["all", "org/go"])  # "all" is two sets


@pytest.mark.parametrize(
    ("mixture", "expected"),
    [
        ({"org/go": 2.0}, [1, 1, 2, 1]),
        ({"repository/all": 2.0, "source/all": 3.0}, [6, 1, 3, 1]),
        ({"zod": 2.0, "python": 3.0}, [3, 6, 1, 2]),  # the source zod is the repository zod
        ({"repository/zod": 2.0, "source/zod": 1.0}, [1, 2, 1, 2]),
    ],
)
def test_a_mixture_weights_one_repository_beside_languages_and_sources(mixture, expected):
    assert mixture_repeats(OWN, mixture).tolist() == expected
    assert mixture_repeats(OWN, clear_mixture(OWN, mixture)).tolist() == expected


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("all", "is a source and a repository of store; give source/all or repository/all, as in"),
        ("repository/zodd", "no repository of that name among 3; did you mean 'zod'"),
        ("org/goo", "did you mean 'org/go'"),
    ],
)
def test_a_repository_that_is_unknown_or_not_clear_is_refused(name, words):
    with pytest.raises(Refusal, match=words):
        mixture_repeats(OWN, {name: 2.0})


def test_a_name_given_plain_and_with_its_prefix_is_refused():
    for read in (mixture_repeats, clear_mixture):
        with pytest.raises(Refusal, match="mixture names source/web twice, once as source/web"):
            read(AMBIGUOUS, {"web": 2.0, "source/web": 3.0})


def test_a_mixture_is_the_same_however_its_names_are_written():
    names = {"source/web": 2.0, "language/python": 3.0, "language/go": 4.0}
    names |= {"source/language/go": 5.0}
    cleared = {"web": 2.0, "language/python": 3.0, "go": 4.0, "source/language/go": 5.0}
    assert clear_mixture(AMBIGUOUS, names) == cleared
    assert clear_mixture(AMBIGUOUS, cleared) == cleared


def test_a_mixture_that_leaves_nothing_is_refused(mixed, codec):
    with pytest.raises(Refusal, match="leaves nothing of"):
        make_rows(mixed, codec, mixture={"test": 0.0})


def test_a_store_that_holds_nothing_out_is_refused_with_the_flag_that_helps(
    tokenizer, codec, tmp_path
):
    """Symptom: "build a larger corpus", which no larger corpus would have helped."""
    row = corpus_row("repo", "a.py", "def f():\n    return 1\n" * 9, "python")
    corpus = write_shards(tmp_path / "corpus", {TRAIN: [[row]], HELD_OUT: []})
    tokenize(corpus, tokenizer, tmp_path / "store")
    with pytest.raises(
        Refusal, match=r"give --held_out_rows 0 to train without scores.*--held_out"
    ):
        make_rows(TokenStore(tmp_path / "store", HELD_OUT), codec)


def test_a_store_without_a_token_is_refused(tokenizer, codec, tmp_path):
    empty = make_store(tmp_path, tokenizer, ["", ""])
    with pytest.raises(Refusal, match=r"the train split of .* holds no documents"):
        make_rows(empty, codec)
    assert len(make_rows(TokenStore(empty.folder, HELD_OUT), codec)) == 1


def test_a_late_row_is_found_by_the_remembered_epochs_and_not_by_planning_them_again(
    real, codec, tmp_path, monkeypatch
):
    rows, file = make_rows(real, codec), tmp_path / "epochs.json"
    rows.epochs.remember(file, may_write=True)
    late = 5 * rows.epochs.rows_in(0) + 3
    expected_plan, expected_row = rows.epochs.locate(late)

    again = make_rows(real, codec)
    again.epochs.remember(file, may_write=False)
    planned = []
    plan = Epochs.plan
    monkeypatch.setattr(Epochs, "plan", lambda self, n: planned.append(n) or plan(self, n))
    found_plan, found_row = again.epochs.locate(late)
    assert (found_plan.epoch, found_row) == (expected_plan.epoch, expected_row)
    assert planned == [expected_plan.epoch]

    other = make_rows(real, codec, seed=7)
    before = list(other.epochs._first_rows)
    other.epochs.remember(file, may_write=False)
    assert other.epochs._first_rows == before  # another seed, another plan
