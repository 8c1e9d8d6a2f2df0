"""`python -m tokenizer`: what is sampled, what is trained, what is refused, what is measured."""

import errno
import json
import random
import re
import shutil
import subprocess
import sys
from hashlib import sha1
from pathlib import Path

import pytest
from conftest import write_shards
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

from hugcoder.data.codec import Codec
from hugcoder.data.corpus import HELD_OUT, TRAIN
from hugcoder.data.special_tokens import END_OF_TEXT, SPECIAL_TOKENS
from hugcoder.refusal import Refusal
from tokenizer.__main__ import main
from tokenizer.check import PROBES, check_folder
from tokenizer.sample import fair_shares, head, plan_sample, read_sample
from tokenizer.train import (
    MAX_MATCH,
    MAX_SAMPLE_BYTES,
    PATTERNS,
    bounded,
    pre_tokenizer,
    save,
    train,
    untrained,
)

VOCAB_SIZE = 500
WORDS = [
    "self",
    "value",
    "index",
    "config",
    "result",
    "buffer",
    "request",
    "handler",
    "parse",
    "encode",
    "token",
    "stream",
]


def python_file(number: int) -> str:
    name, other = WORDS[number % 12], WORDS[number * 7 % 11]
    return (
        f"def {name}_{other}(self, {other}):\n"
        f'    """Return the {name} of {other}."""\n'
        f"    if {other} is None:\n        return {number}\n"
        f"    return self.{name}({other}) + {number * 31 % 997}\n\n\n"
    ) * 6


def go_file(number: int) -> str:
    name = WORDS[number % 12].title()
    return (
        f"func {name}{number}(w io.Writer) error {{\n\tif err := w.Close(); err != nil {{\n"
        f"\t\treturn err\n\t}}\n\treturn nil\n}}\n"
    ) * 5


def rows_of(language: str, contents: list[str]) -> list[dict]:
    extension = {"python": "py", "go": "go"}[language]
    return [
        {
            "source": "test",
            "repo": f"test/{language}",
            "path": f"{index}.{extension}",
            "language": language,
            "license": "MIT",
            "commit": "0" * 40,
            "blob_sha": sha1(content.encode()).hexdigest(),
            "size": len(content.encode()),
            "content": content,
        }
        for index, content in enumerate(contents)
    ]


TRAIN_ROWS = rows_of("python", [python_file(number) for number in range(300)])
TRAIN_ROWS += rows_of("go", [go_file(number) for number in range(40)])


@pytest.fixture(scope="session")
def corpus(tmp_path_factory) -> Path:
    held_out = rows_of("python", [python_file(number) for number in range(300, 310)])
    held_out += rows_of("go", [go_file(number) for number in range(40, 45)])
    folder = tmp_path_factory.mktemp("corpus")
    return write_shards(folder, {TRAIN: [TRAIN_ROWS], HELD_OUT: [held_out]})


def run(corpus: Path, folder: Path, *words: str) -> Path:
    main(["--corpus", str(corpus), "--output_dir", str(folder), *words])
    return folder


@pytest.fixture(scope="session")
def trained(corpus, tmp_path_factory) -> Path:
    return run(corpus, tmp_path_factory.mktemp("tokenizer"), "--vocab_size", str(VOCAB_SIZE))


@pytest.fixture(scope="session")
def codecs(corpus, trained, tmp_path_factory) -> list[Codec]:
    """One a pattern."""
    folder = tmp_path_factory.mktemp("compact")
    run(corpus, folder, "--vocab_size", str(VOCAB_SIZE), "--pattern", "compact")
    return [Codec(trained), Codec(folder)]


def unfinished_copy(trained: Path, folder: Path) -> Path:
    """The files of a tokenizer that has no manifest yet, for a test to change."""
    return shutil.copytree(trained, folder, ignore=shutil.ignore_patterns("manifest.json"))


# ---- what is trained -----------------------------------------------------------------------------


def test_the_special_tokens_have_the_ids_0_to_63_and_the_vocabulary_the_size_asked_for(codecs):
    for codec in codecs:
        assert codec.special_ids == {token: index for index, token in enumerate(SPECIAL_TOKENS)}
        assert codec.vocab_size == VOCAB_SIZE
        assert codec.end_of_text == SPECIAL_TOKENS.index(END_OF_TEXT) == 0
        assert sorted(codec.token_bytes[64:320]) == [bytes([byte]) for byte in range(256)]


@settings(max_examples=150, deadline=None)
@given(text=st.text())
def test_every_text_comes_back_byte_for_byte(codecs, text):
    for codec in codecs:
        (ids,) = codec.encode([text])
        assert codec.decode_bytes(ids) == text.encode()


@pytest.mark.parametrize("text", PROBES, ids=range(len(PROBES)))
def test_hostile_texts_come_back_byte_for_byte_and_hold_no_special_id(codecs, text):
    for codec in codecs:
        (ids,) = codec.encode([text])
        assert b"".join(codec.token_bytes[index] for index in ids) == text.encode()
        assert all(index >= len(SPECIAL_TOKENS) for index in ids)


def test_every_digit_is_a_token_of_its_own(codecs):
    for codec in codecs:
        numbers = [token for token in codec.token_bytes if any(48 <= byte < 58 for byte in token)]
        assert sorted(numbers) == [b"%d" % digit for digit in range(10)]


def test_only_compact_lets_punctuation_carry_newline_and_indentation(codecs):
    carries = [
        any(token.strip() and token.endswith(b"\n    ") for token in codec.token_bytes)
        for codec in codecs
    ]
    assert carries == [False, True]


def test_transformers_gives_the_same_ids_and_knows_end_and_padding(trained):
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(trained)
    texts = [python_file(7), go_file(3)]
    assert tokenizer(texts)["input_ids"] == Codec(trained).encode(texts)
    assert (tokenizer.eos_token_id, tokenizer.bos_token_id) == (0, 0)
    assert tokenizer.pad_token == "<fim_pad>"
    assert set(tokenizer.all_special_tokens) == set(SPECIAL_TOKENS)
    assert tokenizer.decode(tokenizer("x != y , z")["input_ids"]) == "x != y , z"


def test_the_saved_config_is_one_that_transformers_4_reads_too(trained):
    config = json.loads((trained / "tokenizer_config.json").read_text())
    assert config["tokenizer_class"] == "PreTrainedTokenizerFast"
    assert "extra_special_tokens" not in config  # a list there ends transformers 4
    named = {config["eos_token"], config["pad_token"]}
    assert set(config["additional_special_tokens"]) == set(SPECIAL_TOKENS) - named
    assert json.loads((trained / "special_tokens_map.json").read_text()).items() <= config.items()


def test_shards_and_their_order_do_not_matter(corpus, trained, tmp_path):
    shards = [TRAIN_ROWS[200:], TRAIN_ROWS[50:200][::-1], TRAIN_ROWS[:50]]
    other = write_shards(tmp_path / "corpus", {TRAIN: shards})
    folder = run(other, tmp_path / "tokenizer", "--vocab_size", str(VOCAB_SIZE))
    assert (folder / "tokenizer.json").read_bytes() == (trained / "tokenizer.json").read_bytes()


def test_importing_the_package_loads_no_torch():
    code = "import sys, tokenizer.__main__; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# ---- the sample ----------------------------------------------------------------------------------


@settings(max_examples=200, deadline=None)
@given(
    available=st.dictionaries(st.text(max_size=3), st.integers(0, 1000), min_size=1),
    total=st.integers(1, 3000),
)
def test_shares_use_the_budget_and_nobody_who_has_more_gets_less_than_another(available, total):
    shares = fair_shares(available, total)
    assert sum(shares.values()) == min(total, sum(available.values()))
    largest = max(shares.values())
    for language, share in shares.items():
        assert share == available[language] or share >= largest - 1


def test_a_sample_is_balanced_and_small_languages_give_all_they_have(corpus):
    sizes = {
        language: sum(row["size"] for row in TRAIN_ROWS if row["language"] == language)
        for language in ("python", "go")
    }
    assert sizes["python"] > 5 * sizes["go"]
    balanced = plan_sample(corpus, TRAIN, sizes["go"], 10**6, seed=0)
    document = max(row["size"] for row in TRAIN_ROWS)
    for taken in balanced.num_bytes.values():
        assert 0 <= taken - sizes["go"] // 2 < document
    everything_of_go = plan_sample(corpus, TRAIN, 3 * sizes["go"], 10**6, seed=0)
    assert everything_of_go.num_bytes["go"] == sizes["go"]
    assert 0 <= everything_of_go.num_bytes["python"] - 2 * sizes["go"] < document


def test_the_plan_states_the_bytes_that_are_read_and_another_seed_reads_others(corpus):
    read = []
    for seed in (0, 0, 1):
        plan = plan_sample(corpus, TRAIN, 20_000, max_document_bytes=700, seed=seed)
        texts = [text for _, text in read_sample(plan)]
        assert sum(len(text.encode()) for text in texts) == plan.total_bytes
        read.append(texts)
    assert read[0] == read[1] != read[2]


@given(text=st.text(max_size=20), max_bytes=st.integers(0, 80))
def test_a_long_document_is_cut_between_characters(text, max_bytes):
    start = head(text, max_bytes)
    assert text.startswith(start)
    assert len(start.encode()) <= max_bytes
    rest = text[len(start) :]
    assert not rest or len((start + rest[0]).encode()) > max_bytes


def test_the_manifest_says_what_was_learned_from(corpus, trained):
    sample = json.loads((trained / "manifest.json").read_text())["sample"]
    assert sample["go"] == {
        "documents": 40,
        "bytes": sum(row["size"] for row in TRAIN_ROWS if row["language"] == "go"),
    }


# ---- reload and compare --------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["GPT2Tokenizer", "Qwen2Tokenizer"])
def test_a_class_that_replaces_the_pre_tokenizer_is_noticed(trained, tmp_path, name):
    folder = unfinished_copy(trained, tmp_path / "copy")
    config = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps(config | {"tokenizer_class": name}))
    with pytest.raises(Refusal, match=r"read by transformers splits .* PreTrainedTokenizerFast"):
        check_folder(folder, Tokenizer.from_file(str(trained / "tokenizer.json")))


@pytest.mark.parametrize("model_type", ["llama", "qwen3"])
def test_a_model_of_these_types_in_the_same_folder_changes_no_id(trained, tmp_path, model_type):
    folder = unfinished_copy(trained, tmp_path / "copy")
    (folder / "config.json").write_text(json.dumps({"model_type": model_type}))
    check_folder(folder, Tokenizer.from_file(str(trained / "tokenizer.json")))


def test_a_model_type_for_which_transformers_ignores_our_class_is_noticed(trained, tmp_path):
    folder = unfinished_copy(trained, tmp_path / "copy")
    (folder / "config.json").write_text(json.dumps({"model_type": "qwen2"}))
    with pytest.raises(Refusal, match="read by transformers splits"):
        check_folder(folder, Tokenizer.from_file(str(trained / "tokenizer.json")))


def test_other_merges_on_disk_are_noticed(trained, tmp_path):
    folder = unfinished_copy(trained, tmp_path / "copy")
    saved = json.loads((folder / "tokenizer.json").read_text())
    saved["model"]["merges"] = saved["model"]["merges"][1:]
    (folder / "tokenizer.json").write_text(json.dumps(saved))
    with pytest.raises(Refusal, match="read by tokenizers splits"):
        check_folder(folder, Tokenizer.from_file(str(trained / "tokenizer.json")))


# ---- reruns and refusals -------------------------------------------------------------------------


def test_a_complete_tokenizer_is_kept_and_other_settings_are_refused(corpus, trained, capsys):
    before = (trained / "manifest.json").stat().st_mtime_ns
    run(corpus, trained, "--vocab_size", str(VOCAB_SIZE))
    assert "is complete and was made with these settings; kept." in capsys.readouterr().out
    with pytest.raises(Refusal, match=f"vocab_size {VOCAB_SIZE} there, 400 now"):
        run(corpus, trained, "--vocab_size", "400")
    assert (trained / "manifest.json").stat().st_mtime_ns == before


def test_an_unfinished_tokenizer_is_made_again(corpus, trained, tmp_path):
    (tmp_path / "tokenizer.json").write_text("{")
    run(corpus, tmp_path, "--vocab_size", str(VOCAB_SIZE))
    assert (tmp_path / "tokenizer.json").read_bytes() == (trained / "tokenizer.json").read_bytes()


def test_a_folder_with_other_files_is_not_written_to(corpus, tmp_path):
    (tmp_path / "model.safetensors").touch()
    with pytest.raises(
        Refusal, match=r"holds model\.safetensors, which is not part of a tokenizer"
    ):
        run(corpus, tmp_path, "--vocab_size", str(VOCAB_SIZE))
    with pytest.raises(Refusal, match="holds a complete corpus; give another output_dir"):
        run(corpus, corpus, "--vocab_size", str(VOCAB_SIZE))


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--vocab_size", "319"], "vocab_size 319 is too small.* at least 320"),
        (["--vocab_size", "100000"], r"give [\d,]+ tokens, not vocab_size 100,000"),
        (["--vocab_size", "9" * 30], r"is too large; give at most 1,048,576"),
        (["--sample_bytes", "0"], "sample_bytes 0 counts bytes; give at least 1, at most"),
        (["--sample_bytes", "9" * 30], "sample_bytes 9+ counts bytes; give at least 1, at most"),
        (["--max_document_bytes", "-1"], "max_document_bytes -1 counts bytes"),
        (["--pattern", "gpt2"], "pattern: invalid choice: 'gpt2'"),
        (["--vocab", "400"], "unknown setting '--vocab'"),
    ],
)
def test_a_mistake_is_refused_and_leaves_no_tokenizer(corpus, tmp_path, words, sentence):
    with pytest.raises(Refusal, match=sentence):
        run(corpus, tmp_path, *words)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("words", [["--help"], ["measure", "--help"]])
def test_help_is_printed_with_code_0(words, capsys):
    with pytest.raises(SystemExit, match="0"):
        main(words)
    shown = capsys.readouterr().out
    assert "--corpus" in shown
    assert "measure" in shown.lower()


def test_the_recipes_are_read(corpus, tmp_path):
    folders = ["--corpus", str(corpus), "--output_dir", str(tmp_path)]
    with pytest.raises(Refusal, match="not vocab_size 4,096"):
        main(["configs/recipes/tokenizer_quickstart.yaml", *folders])
    main(["configs/recipes/tokenizer.yaml", *folders, "--vocab_size", "400"])
    assert json.loads((tmp_path / "manifest.json").read_text())["sample_bytes"] == 10**9


def test_the_size_that_a_refusal_names_is_reached_and_what_occurs_once_gets_no_token(tmp_path):
    rows = rows_of("go", ["xylophone " * 3, "quagmire", "xylem " * 2])
    corpus = write_shards(tmp_path / "corpus", {TRAIN: [rows]})
    with pytest.raises(Refusal, match="not vocab_size 49,152; give vocab_size") as refusal:
        run(corpus, tmp_path / "tokenizer")
    reached = re.search(r"give vocab_size (\d+)", str(refusal.value))[1]
    tokens = Codec(run(corpus, tmp_path / "tokenizer", "--vocab_size", reached)).token_bytes
    assert b" xylophone" in tokens
    assert not any(b"qu" in token or b"mi" in token for token in tokens)


def test_a_folder_that_reads_back_differently_stays_incomplete(corpus, tmp_path, monkeypatch):
    def save_wrongly(tokenizer, folder):
        fingerprint = save(tokenizer, folder)
        config = json.loads((folder / "tokenizer_config.json").read_text())
        config["tokenizer_class"] = "GPT2Tokenizer"
        (folder / "tokenizer_config.json").write_text(json.dumps(config))
        return fingerprint

    monkeypatch.setattr("tokenizer.__main__.save", save_wrongly)
    with pytest.raises(Refusal, match="read by transformers splits"):
        run(corpus, tmp_path, "--vocab_size", str(VOCAB_SIZE))
    assert not (tmp_path / "manifest.json").exists()


def test_no_corpus_and_an_empty_corpus_are_refused(tmp_path):
    with pytest.raises(Refusal, match="is not a complete corpus"):
        run(tmp_path / "nowhere", tmp_path / "tokenizer")
    empty = write_shards(tmp_path / "empty", {})
    with pytest.raises(Refusal, match=r"the train split of .* holds no text"):
        run(empty, tmp_path / "tokenizer")


def test_a_sample_that_could_overflow_the_trainers_counters_is_refused(tmp_path):
    rows = [row | {"size": MAX_SAMPLE_BYTES // 300 + 1} for row in TRAIN_ROWS]
    plan = plan_sample(write_shards(tmp_path, {TRAIN: [rows]}), TRAIN, 2**40, 2**40, seed=0)
    with pytest.raises(Refusal, match="counts pairs in 32 bits"):
        train(plan, VOCAB_SIZE, "standard")


# ---- measuring -----------------------------------------------------------------------------------


def measure(corpus: Path, folder: Path, *words: str) -> dict:
    main(["measure", str(folder), "--corpus", str(corpus), *words])
    return json.loads((folder / "measure.json").read_text())


def test_measure_counts_what_a_plain_loop_counts_and_loses_nothing(corpus, trained, capsys):
    report = measure(corpus, trained)
    texts = [go_file(number) for number in range(40, 45)]
    num_tokens = sum(len(ids) for ids in Codec(trained).encode(texts))
    row = report["languages"]["go"]
    assert (row["documents"], row["tokens"]) == (5, num_tokens)
    assert row["bytes_per_token"] == sum(len(text.encode()) for text in texts) / num_tokens
    rows = report["languages"].values()
    assert report["all"]["tokens"] == sum(row["tokens"] for row in rows)
    assert report["macro"]["bytes_per_token"] == pytest.approx(
        sum(row["bytes_per_token"] for row in rows) / 2
    )
    assert report["trained_bytes"] == sum(row["size"] for row in TRAIN_ROWS)
    printed = capsys.readouterr().out
    assert "0 round-trip failures" in printed
    assert "MACRO" in printed


def test_measure_ends_with_code_1_when_text_is_lost(corpus, trained, tmp_path):
    folder = unfinished_copy(trained, tmp_path / "copy")
    saved = json.loads((folder / "tokenizer.json").read_text())
    saved["normalizer"] = {"type": "Lowercase"}
    (folder / "tokenizer.json").write_text(json.dumps(saved))
    with pytest.raises(SystemExit, match="1"):
        measure(corpus, folder)
    report = json.loads((folder / "measure.json").read_text())
    assert report["round_trip_failures"] == report["all"]["documents"] == 15


def test_measure_refuses_a_folder_without_tokenizer_and_a_split_without_text(
    corpus, trained, tmp_path
):
    with pytest.raises(Refusal, match="there is no tokenizer in"):
        measure(corpus, tmp_path)
    no_held_out = write_shards(tmp_path / "corpus", {TRAIN: [TRAIN_ROWS]})
    with pytest.raises(Refusal, match=r"the held_out split of .* holds no text"):
        measure(no_held_out, trained)


# ---- text without spaces -------------------------------------------------------------------------


@pytest.mark.parametrize("pattern", PATTERNS)
def test_pieces_for_training_are_the_matches_where_none_is_long(pattern):
    exact, pieces = (pre_tokenizer(r) for r in (PATTERNS[pattern], bounded(PATTERNS[pattern])))
    longest = "x" * MAX_MATCH
    texts = [*PROBES, longest, " " * MAX_MATCH + "x", "\u4e16" * MAX_MATCH, f"{longest}\n{longest}"]
    compared = 0
    for text in texts:
        expected = exact.pre_tokenize_str(text)
        if all(stop - start <= MAX_MATCH for _, (start, stop) in expected):
            assert pieces.pre_tokenize_str(text) == expected
            compared += 1
    assert compared == len(texts) - 1  # one probe has 500 spaces
    cut = pieces.pre_tokenize_str("x" * (3 * MAX_MATCH + 1))
    assert [len(match) for match, _ in cut] == [MAX_MATCH] * 3 + [1]


@pytest.mark.parametrize("pattern", PATTERNS)
def test_the_vocabulary_of_code_is_that_of_whole_matches(pattern, corpus, monkeypatch):
    plan = plan_sample(corpus, TRAIN, 10**9, 100_000, 0)
    learned, _ = train(plan, VOCAB_SIZE, pattern)
    monkeypatch.setattr("tokenizer.train.MAX_MATCH", 100_000)
    assert train(plan, VOCAB_SIZE, pattern)[0].to_str() == learned.to_str()


@pytest.mark.parametrize("pattern", PATTERNS)
def test_text_without_spaces_is_learned_in_pieces_and_comes_back(pattern, tmp_path):
    """Symptom: learning from 5 MB of it took minutes, a merge walked through 60,000 characters."""
    rng = random.Random(0)
    texts = ["".join(chr(0x4E00 + rng.randrange(99)) for _ in range(9_000)), "name" + "x" * 60_000]
    folder = write_shards(tmp_path / "corpus", {TRAIN: [rows_of("python", texts)], HELD_OUT: []})
    learned, _ = train(plan_sample(folder, TRAIN, 10**9, 100_000, 0), 700, pattern)
    assert max(map(len, learned.get_vocab())) <= MAX_MATCH
    finished, plain = (json.loads(t.to_str()) for t in (learned, untrained(PATTERNS[pattern])))
    assert finished["pre_tokenizer"] == plain["pre_tokenizer"]
    save(learned, tmp_path / "tokenizer")
    codec = Codec(tmp_path / "tokenizer")
    assert [codec.decode_bytes(ids) for ids in codec.encode(texts)] == [t.encode() for t in texts]


# ---- disks and damage ----------------------------------------------------------------------------


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EACCES])
def test_a_full_or_forbidden_disk_is_told_with_the_file(number, trained, tmp_path, monkeypatch):
    """Symptom: tokenizers raises a bare Exception."""
    tokenizer = Tokenizer.from_file(str(trained / "tokenizer.json"))

    def refused(path, *words, **more):
        raise OSError(number, "no")

    monkeypatch.setattr(Path, "write_text", refused)
    with pytest.raises(OSError, match="no") as error:
        save(tokenizer, tmp_path)
    assert (error.value.errno, error.value.filename) == (number, f"{tmp_path}/tokenizer.json")
    assert not list(tmp_path.iterdir())


def test_measuring_a_folder_that_is_not_there_makes_none(corpus, tmp_path):
    with pytest.raises(Refusal, match="there is no tokenizer in"):
        measure(corpus, tmp_path / "a" / "b" / "tokenizer")
    assert not list(tmp_path.iterdir())
