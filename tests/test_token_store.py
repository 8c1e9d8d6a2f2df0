"""The token store: every document comes back, a killed run goes on, another tokenizer is
refused."""

import json
import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
from conftest import corpus_row, train_tokenizer, write_corpus, write_shards
from core_fixtures import make_store

from data_prep import tokenize_corpus
from data_prep.__main__ import main
from hugcoder.data.corpus import HELD_OUT, SPLITS, TRAIN, read_corpus
from hugcoder.data.token_shards import line_table
from hugcoder.data.token_store import LINE_BLOCK, TokenStore, document_uid, dtype_for, manifest_of
from hugcoder.files import MANIFEST, read_manifest, write_json
from hugcoder.refusal import Refusal

TEXTS = [f"def f{n}(x):\n    return x * {n}\n" * (1 + n % 7) for n in range(30)]


def sharded_corpus(folder: Path, num_shards: int = 3) -> Path:
    """A corpus of thirty documents in several training shards."""
    rows = [
        corpus_row(f"repo{n % 4}", f"{n}.py", text, "go" if n % 3 else "python")
        for n, text in enumerate(TEXTS)
    ]
    parts = [rows[shard::num_shards] for shard in range(num_shards)]
    held_out = [[corpus_row("other", "a", "a = 1\n")]]
    return write_shards(folder, {TRAIN: parts, HELD_OUT: held_out})


def contents(store: Path) -> dict[str, bytes]:
    """Everything in a store but the manifest's timing."""
    files = {
        str(path.relative_to(store)): path.read_bytes()
        for path in sorted(store.rglob("*"))
        if path.is_file() and path.name != MANIFEST
    }
    manifest = {k: v for k, v in (read_manifest(store) or {}).items() if k != "seconds"}
    return files | {MANIFEST: json.dumps(manifest).encode()}


@pytest.mark.parametrize("split", SPLITS)
def test_every_document_comes_back(store, corpus, codec, split):
    tokens, rows = TokenStore(store, split), list(read_corpus(corpus, split))
    assert len(tokens) == len(rows)
    for document, row in enumerate(rows):
        ids = tokens.tokens(document, 0, int(tokens.lengths[document])).tolist()
        assert codec.decode_bytes(ids) == row["content"].encode()
        assert tokens.num_bytes[document] == row["size"]
        assert tokens.uids[document] == document_uid(row["blob_sha"])
        assert tokens.language_names[tokens.languages[document]] == row["language"]
        assert tokens.source_names[tokens.sources[document]] == row["source"]


def test_documents_of_many_shards_come_back_in_order(tokenizer, codec, tmp_path):
    corpus = sharded_corpus(tmp_path / "corpus")
    tokenize_corpus.tokenize(corpus, tokenizer, tmp_path / "store")
    tokens = TokenStore(tmp_path / "store", TRAIN)
    copy = pickle.loads(pickle.dumps(tokens))
    for document, row in enumerate(read_corpus(corpus, TRAIN)):
        ids = tokens.tokens(document, 0, int(tokens.lengths[document]))
        assert codec.decode(ids.tolist()) == row["content"]
        assert copy.tokens(document, 2, 5).tolist() == ids[2:5].tolist()


def test_line_ends_of_documents_are_found_in_their_own_shards(tokenizer, codec, tmp_path):
    tokenize_corpus.tokenize(sharded_corpus(tmp_path / "corpus"), tokenizer, tmp_path / "store")
    tokens = TokenStore(tmp_path / "store", TRAIN)
    assert len(tokens.prefixes) == 3
    documents = np.repeat(np.flatnonzero(tokens.lengths > 2), 4)
    until = tokens.lengths[documents] - 1
    after = np.tile([0, 1, 2, 0], len(documents) // 4)
    found = tokens.last_line_ends(documents, after, until)
    for document, first, last, end in zip(documents, after, until, found, strict=True):
        ids = tokens.tokens(document, 0, int(tokens.lengths[document]))
        table = line_table(np.asarray(ids, dtype=np.int64), codec.ends_line)
        recorded = [LINE_BLOCK * n + int(within) for n, within in enumerate(table) if within]
        assert end == max([one for one in recorded if first < one <= last], default=first)


def test_empty_documents_and_empty_shards_are_kept(tokenizer, tmp_path):
    store = make_store(tmp_path, tokenizer, ["", "x = 1\n", ""])
    assert store.lengths.tolist()[::2] == [0, 0]
    assert store.tokens(0, 0, 0).tolist() == []
    all_empty = make_store(tmp_path / "second", tokenizer, [""])
    assert all_empty.tokens(0, 0, 0).tolist() == []


# ---- interrupted runs ----------------------------------------------------------------------------


@pytest.mark.parametrize("killed_at", [0, 5, 10, 15, 29])
def test_a_killed_run_goes_on_to_the_bytes_of_an_unbroken_one(
    tokenizer, tmp_path, monkeypatch, killed_at
):
    corpus = sharded_corpus(tmp_path / "corpus")
    tokenize_corpus.tokenize(corpus, tokenizer, tmp_path / "unbroken")
    seen, read_rows = 0, tokenize_corpus.corpora.read_rows

    def dying_rows(shard, *args):
        nonlocal seen
        for row in read_rows(shard, *args):
            if seen == killed_at:
                raise KeyboardInterrupt
            seen += 1
            yield row

    with monkeypatch.context() as patch:
        patch.setattr(tokenize_corpus.corpora, "read_rows", dying_rows)
        with pytest.raises(KeyboardInterrupt):
            tokenize_corpus.tokenize(corpus, tokenizer, tmp_path / "store")
    with pytest.raises(Refusal, match="is not a complete token store"):
        TokenStore(tmp_path / "store", TRAIN)
    finished = {
        path: path.stat().st_mtime_ns for path in (tmp_path / "store" / TRAIN).glob("*.bin")
    }
    assert len(finished) == 2 * (killed_at // 10)
    tokenize_corpus.tokenize(corpus, tokenizer, tmp_path / "store")
    assert contents(tmp_path / "store") == contents(tmp_path / "unbroken")
    assert all(path.stat().st_mtime_ns == time for path, time in finished.items()), "not redone"


@pytest.mark.parametrize("lost", ["00001.counts.json", "00000.counts.json"])
def test_a_shard_without_counts_is_made_again_to_the_same_bytes(tokenizer, tmp_path, lost):
    corpus = sharded_corpus(tmp_path / "corpus")
    tokenize_corpus.tokenize(corpus, tokenizer, tmp_path / "store")
    expected = contents(tmp_path / "store")
    (tmp_path / "store" / MANIFEST).unlink()
    (tmp_path / "store" / TRAIN / lost).unlink()
    tokenize_corpus.tokenize(corpus, tokenizer, tmp_path / "store")
    assert contents(tmp_path / "store") == expected


def test_a_complete_store_is_not_made_again(tokenizer, tmp_path, capsys):
    corpus, store = sharded_corpus(tmp_path / "corpus"), tmp_path / "store"
    words = ["--corpus", str(corpus), "--tokenizer", str(tokenizer), "--output_dir", str(store)]
    main(["tokenize", *words])
    assert "train: 30 documents" in capsys.readouterr().out
    before = {path: path.stat().st_mtime_ns for path in store.rglob("*")}
    main(["tokenize", *words])
    assert "is complete; nothing to do" in capsys.readouterr().out
    assert {path: path.stat().st_mtime_ns for path in store.rglob("*")} == before


# ---- refusals ------------------------------------------------------------------------------------


@pytest.fixture
def other_tokenizer(tmp_path) -> Path:
    return train_tokenizer(tmp_path / "other_tokenizer", TEXTS, 400)


def test_another_tokenizer_is_refused_in_a_begun_and_in_a_complete_store(
    tokenizer, other_tokenizer, tmp_path
):
    corpus, store = sharded_corpus(tmp_path / "corpus"), tmp_path / "store"
    tokenize_corpus.tokenize(corpus, tokenizer, store)
    for _ in range(2):
        with pytest.raises(Refusal, match=r"was made with another tokenizer .*--output_dir"):
            tokenize_corpus.tokenize(corpus, other_tokenizer, store)
        (store / MANIFEST).unlink(missing_ok=True)


def test_another_corpus_is_refused(tokenizer, tmp_path):
    tokenize_corpus.tokenize(sharded_corpus(tmp_path / "a"), tokenizer, tmp_path / "store")
    rows = {TRAIN: [corpus_row("r", "p", "other = 1\n")], HELD_OUT: []}
    other = write_corpus(
        tmp_path / "b", {s: r or [corpus_row("h", "h", "")] for s, r in rows.items()}
    )
    with pytest.raises(Refusal, match="was made with another corpus"):
        tokenize_corpus.tokenize(other, tokenizer, tmp_path / "store")


def test_a_tokenizer_without_fim_tokens_is_refused_before_any_work(corpus, tmp_path):
    plain = train_tokenizer(tmp_path / "plain", TEXTS, 300, ["<|endoftext|>"])
    with pytest.raises(Refusal, match="the tokenizer lacks the fill-in-the-middle tokens"):
        tokenize_corpus.tokenize(corpus, plain, tmp_path / "store")
    assert not (tmp_path / "store").exists()


def test_a_folder_that_is_no_corpus_is_refused(tokenizer, tmp_path):
    with pytest.raises(Refusal, match="is not a complete corpus"):
        tokenize_corpus.tokenize(tmp_path, tokenizer, tmp_path / "store")


@pytest.mark.parametrize("folder", ["nowhere", "corpus"])
def test_a_folder_that_is_no_store_is_refused(corpus, tmp_path, folder):
    with pytest.raises(Refusal, match=r"is not a complete token store.*data_prep tokenize"):
        TokenStore(corpus if folder == "corpus" else tmp_path / folder, TRAIN)


def test_a_corpus_in_place_of_a_store_is_told_where_its_store_goes(corpus, tmp_path):
    with pytest.raises(Refusal, match=rf"--corpus {corpus} .* --output_dir {corpus}-tokens`"):
        TokenStore(corpus, TRAIN)
    write_json(tmp_path / "manifest.json", {"kind": "tokenizer"})
    with pytest.raises(Refusal, match=r"it is a tokenizer.*; give the folder that"):
        TokenStore(tmp_path, TRAIN)
    with pytest.raises(Refusal, match=f"no folder {tmp_path}/none"):
        TokenStore(tmp_path / "none", TRAIN)


@pytest.mark.parametrize(
    "found",
    [
        {"format": 999},
        pytest.param({}),
    ],
)
def test_a_store_of_another_format_is_refused(store, tmp_path, found):
    manifest = {k: v for k, v in manifest_of(store).items() if k != "format"}
    (tmp_path / MANIFEST).write_text(json.dumps(manifest | found))
    with pytest.raises(Refusal, match=r"has format .*, but this program reads"):
        TokenStore(tmp_path, TRAIN)


def test_an_output_folder_that_holds_something_else_is_refused(corpus, tokenizer):
    with pytest.raises(Refusal):
        tokenize_corpus.tokenize(corpus, tokenizer, corpus)


def test_only_the_tokenizer_is_copied_from_a_models_folder(tokenizer, tmp_path):
    model = tmp_path / "model"
    shutil.copytree(tokenizer, model)
    (model / "model.safetensors").write_bytes(b"w" * 1000)
    tokenize_corpus.tokenize(sharded_corpus(tmp_path / "corpus"), model, tmp_path / "store")
    assert (tmp_path / "store/tokenizer/tokenizer.json").is_file()
    assert not (tmp_path / "store/tokenizer/model.safetensors").exists()


# ---- the type of an id ---------------------------------------------------------------------------


def test_ids_are_as_narrow_as_the_vocabulary_allows():
    assert dtype_for(65_535) == dtype_for(65_536) == np.uint16
    assert dtype_for(65_537) == np.uint32
    assert np.iinfo(dtype_for(65_536)).max == 65_535


def widen(tokenizer: Path, folder: Path, vocab_size: int) -> Path:
    """The same tokenizer with added tokens up to `vocab_size`; the last stands for `LASTWORD`."""
    from tokenizers import AddedToken, Tokenizer

    wide = Tokenizer.from_file(str(tokenizer / "tokenizer.json"))
    missing = vocab_size - wide.get_vocab_size()
    names = [f"\u2603{n}\u2603" for n in range(missing - 1)] + ["LASTWORD"]
    wide.add_tokens([AddedToken(name, normalized=False) for name in names])
    folder.mkdir()
    wide.save(str(folder / "tokenizer.json"))
    return folder


@pytest.mark.parametrize(("vocab_size", "name"), [(65_536, "uint16"), (65_537, "uint32")])
def test_the_last_id_of_a_large_vocabulary_is_kept(tokenizer, tmp_path, vocab_size, name):
    wide = widen(tokenizer, tmp_path / "wide", vocab_size)
    store = make_store(tmp_path, wide, ["LASTWORD\n", "a = 1\n"])
    assert manifest_of(store.folder)["dtype"] == name
    assert manifest_of(store.folder)["vocab_size"] == vocab_size
    assert store.tokens(0, 0, 1).tolist() == [vocab_size - 1]
