"""Corpora, token stores and tokenizers that were cut, lost or changed: every reader names the file.

Each damage is tried on a copy of a whole folder, through the entry points that read it.
"""

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import corpus_row, write_shards

from data_prep import tokenize_corpus
from data_prep.__main__ import main as data_prep
from data_prep.verify import verify
from evaluation.documents import choose_documents
from hugcoder.data import codec
from hugcoder.data.corpus import (
    HELD_OUT,
    SPLITS,
    TRAIN,
    check_files,
    fingerprint,
    read_corpus,
    read_rows,
)
from hugcoder.data.token_store import TokenStore
from hugcoder.file_table import hash_files
from hugcoder.files import MANIFEST, write_json
from hugcoder.model import manifest
from hugcoder.refusal import Refusal
from tokenizer.__main__ import is_kept
from tokenizer.__main__ import main as tokenizer_main

LFS_POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0" * 64 + b"\nsize 9\n"


def code(number: int) -> str:
    return f"def method_{number}(value):\n    return value + {number}\n"


@pytest.fixture(scope="module")
def whole(tokenizer, tmp_path_factory) -> Path:
    """A corpus of several shards, a tokenizer with a manifest, and a store of both."""
    root = tmp_path_factory.mktemp("whole")
    rows = [corpus_row(f"r{n % 3}", f"{n}.py", code(n) * (9 + n)) for n in range(24)]
    held_out = [corpus_row("h", f"h{n}.py", f"y = {n}\n" * 20) for n in range(4)]
    shards = {TRAIN: [rows[:8], rows[8:16], rows[16:]], HELD_OUT: [held_out]}
    write_shards(root / "corpus", shards)
    shutil.copytree(tokenizer, root / "tokenizer")
    files = hash_files(root / "tokenizer", ["tokenizer.json", "tokenizer_config.json"])
    sha256 = files["tokenizer.json"]["sha256"]
    manifest = {"kind": "tokenizer", "tokenizer_sha256": sha256, "files": files}
    write_json(root / "tokenizer" / MANIFEST, manifest)
    tokenize_corpus.tokenize(root / "corpus", root / "tokenizer", root / "store")
    return root


@pytest.fixture
def copy(whole, tmp_path) -> Path:
    return shutil.copytree(whole, tmp_path / "copy")


# ---- damages -------------------------------------------------------------------------------------


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def cut_one_byte(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def lengthen(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b"\0\0")


def empty(path: Path) -> None:
    path.write_bytes(b"")


def point_to_lfs(path: Path) -> None:
    path.write_bytes(LFS_POINTER)


def flip(path: Path) -> None:
    """Another value of one bit, the size unchanged."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def double(path: Path) -> None:
    shutil.copy(path, path.with_name(f"{path.stem} (copy){path.suffix}"))


DAMAGES: dict[str, Callable[[Path], None]] = {
    "lost": Path.unlink,
    "cut": cut,
    "cut_one_byte": cut_one_byte,
    "longer": lengthen,
    "empty": empty,
    "lfs_pointer": point_to_lfs,
    "doubled": double,
}
NO_JSON = {
    "cut": cut,
    "empty": empty,
    "not_utf8": lambda path: path.write_bytes(b"\xff\xfe{}"),
    "a_list": lambda path: path.write_text("[1]"),
    "null": lambda path: path.write_text("null"),
}


def without_sizes(folder: Path) -> None:
    """Make a folder look like one from before manifests had sizes."""
    manifest = json.loads((folder / MANIFEST).read_text())
    manifest.pop("files", None)
    for shard in manifest.get("shards", []):
        del shard["bytes"]
    write_json(folder / MANIFEST, manifest)


# ---- readers of a corpus -------------------------------------------------------------------------


def tokenize(root: Path) -> None:
    words = ["--corpus", str(root / "corpus"), "--tokenizer", str(root / "tokenizer")]
    data_prep(["tokenize", *words, "--output_dir", str(root / "new")])


def train_tokenizer(root: Path) -> None:
    words = ["--corpus", str(root / "corpus"), "--output_dir", str(root / "new")]
    tokenizer_main([*words, "--vocab_size", "330"])


def measure_tokenizer(root: Path) -> None:
    words = [str(root / "tokenizer"), "--corpus", str(root / "corpus"), "--split", TRAIN]
    tokenizer_main(["measure", *words])


def choose(root: Path) -> None:
    choose_documents(root / "corpus", 10, 10_000, 10_000, seed=0)


CORPUS_READERS = [tokenize, train_tokenizer, measure_tokenizer, choose]


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("reader", CORPUS_READERS)
def test_a_damaged_shard_is_named_by_every_reader(copy, reader, damage):
    """Symptom: a lost or doubled shard was tokenized, under the same fingerprint."""
    DAMAGES[damage](copy / "corpus" / TRAIN / "00001.parquet")
    with pytest.raises(Refusal, match=r"corpus .* says: train/00001.*copy the folder again"):
        reader(copy)
    assert not (copy / "new" / MANIFEST).exists()


@pytest.mark.parametrize("reader", [tokenize, train_tokenizer, measure_tokenizer])
def test_a_changed_bit_is_noticed_where_contents_are_read(copy, reader):
    flip(copy / "corpus" / TRAIN / "00001.parquet")
    with pytest.raises(Refusal, match=r"train/00001\.parquet has changed since it was written"):
        reader(copy)


@pytest.mark.parametrize("damage", ["cut", "empty", "lfs_pointer", "cut_one_byte"])
@pytest.mark.parametrize("reader", CORPUS_READERS)
def test_a_damaged_shard_of_a_corpus_without_sizes_is_named(copy, reader, damage):
    without_sizes(copy / "corpus")
    DAMAGES[damage](copy / "corpus" / HELD_OUT / "00000.parquet")
    DAMAGES[damage](copy / "corpus" / TRAIN / "00000.parquet")
    with pytest.raises(Refusal, match=r"(train|held_out)/00000\.parquet"):
        reader(copy)


def test_a_corpus_without_sizes_is_read_as_before(copy):
    before = [list(read_corpus(copy / "corpus", split)) for split in SPLITS]
    without_sizes(copy / "corpus")
    assert [list(read_corpus(copy / "corpus", split)) for split in SPLITS] == before


def test_a_manifest_that_lost_a_shard_contradicts_its_fingerprint(copy):
    path = copy / "corpus" / MANIFEST
    manifest = json.loads(path.read_text())
    (copy / "corpus" / manifest["shards"].pop(1)["file"]).unlink()
    write_json(path, manifest)
    with pytest.raises(Refusal, match="its fingerprint is not the one of its shards"):
        tokenize(copy)


def test_a_shard_with_other_columns_is_named(copy):
    import pyarrow
    import pyarrow.parquet

    path = copy / "corpus" / TRAIN / "00000.parquet"
    pyarrow.parquet.write_table(pyarrow.table({"size": [1]}), path)
    with pytest.raises(Refusal, match=r"00000\.parquet has no column blob_sha"):
        list(read_rows(path))


def test_hidden_files_of_file_managers_are_no_shards(copy):
    (copy / "corpus" / TRAIN / "._00000.parquet").write_bytes(b"\0")
    (copy / "corpus" / TRAIN / ".DS_Store").write_bytes(b"\0")
    tokenize(copy)
    TokenStore(copy / "new", TRAIN)


# ---- readers of a store --------------------------------------------------------------------------

STORE_FILES = [
    "train/00001.tokens.bin",
    "train/00001.lines.bin",
    "train/00001.documents.parquet",
    "tokenizer/tokenizer.json",
]


@pytest.mark.parametrize("name", STORE_FILES)
@pytest.mark.parametrize("damage", [name for name in DAMAGES if name != "doubled"])
def test_a_damaged_file_of_a_store_is_named(copy, name, damage):
    """Symptom: a store whose tokens.bin had lost its second half was trained on, exit code 0."""
    DAMAGES[damage](copy / "store" / name)
    with pytest.raises(Refusal, match=rf"token store .* says: {name} (is missing|has \d)"):
        TokenStore(copy / "store", HELD_OUT)  # of either split


@pytest.mark.parametrize("name", STORE_FILES[:3])
@pytest.mark.parametrize("damage", [name for name in DAMAGES if name != "doubled"])
def test_a_damaged_file_of_a_store_without_sizes_is_named(copy, name, damage):
    without_sizes(copy / "store")
    DAMAGES[damage](copy / "store" / name)
    with pytest.raises(Refusal, match=name):
        TokenStore(copy / "store", TRAIN)


def test_a_store_without_sizes_is_read_as_before(copy):
    new = TokenStore(copy / "store", TRAIN)
    without_sizes(copy / "store")
    old = TokenStore(copy / "store", TRAIN)
    assert [old.tokens(n, 0, 9).tolist() for n in range(24)] == [
        new.tokens(n, 0, 9).tolist() for n in range(24)
    ]


def test_a_shard_too_many_in_a_store_is_named(copy):
    double(copy / "store" / TRAIN / "00001.tokens.bin")
    with pytest.raises(Refusal, match=r"train/00001\.tokens \(copy\)\.bin is a file too many"):
        TokenStore(copy / "store", TRAIN)


def test_an_index_of_another_shard_is_noticed_without_sizes(copy):
    without_sizes(copy / "store")
    folder = copy / "store" / TRAIN
    shutil.copy(folder / "00000.documents.parquet", folder / "00001.documents.parquet")
    with pytest.raises(Refusal, match=r"the index of train/ counts [\d,]+ tokens, not"):
        TokenStore(copy / "store", TRAIN)


def test_the_measures_of_a_tokenizer_may_come_later(copy):
    (copy / "store" / "tokenizer" / "measure.json").write_text("{}")
    assert "is whole" in verify(copy / "store")


@pytest.mark.parametrize("name", STORE_FILES[:3])
def test_a_complete_store_that_is_damaged_is_not_called_complete(copy, name):
    cut(copy / "store" / name)
    with pytest.raises(Refusal, match=name):
        tokenize_corpus.tokenize(copy / "corpus", copy / "tokenizer", copy / "store")


# ---- interrupted work ----------------------------------------------------------------------------


@pytest.mark.parametrize("name", [*STORE_FILES[:3], "train/00001.counts.json"])
@pytest.mark.parametrize("damage", [name for name in DAMAGES if name != "doubled"])
def test_a_torn_shard_is_made_again_when_an_interrupted_store_goes_on(copy, name, damage):
    store = copy / "store"
    (store / MANIFEST).unlink()
    DAMAGES[damage](store / name)
    untouched = (store / TRAIN / "00000.tokens.bin").stat().st_mtime_ns
    tokenize_corpus.tokenize(copy / "corpus", copy / "tokenizer", store)
    assert (store / TRAIN / "00000.tokens.bin").stat().st_mtime_ns == untouched
    verify(store)


def test_a_shard_of_rows_that_were_exchanged_is_made_again(copy):
    """The corpus is another, and origin.json still says the same of it."""
    corpus, store = copy / "corpus", copy / "store"
    shutil.rmtree(corpus)
    rows = [corpus_row("r", f"{n}.py", f"z = {n}\n") for n in range(3)]
    write_shards(corpus, {TRAIN: [rows], HELD_OUT: [rows[:1]]})
    shutil.rmtree(store)
    tokenize_corpus.tokenize(corpus, copy / "tokenizer", store)
    (store / MANIFEST).unlink()
    counts = store / TRAIN / "00000.counts.json"
    write_json(counts, json.loads(counts.read_text()) | {"source_sha256": "0" * 64, "tokens": 1})
    tokenize_corpus.tokenize(corpus, copy / "tokenizer", store)
    assert len(TokenStore(store, TRAIN)) == 3


@pytest.mark.parametrize(
    "damage", [{"tokens": "9"}, {"documents": None}, {"files": []}, {"files": {"x": 5}}]
)
def test_a_shard_whose_counts_say_nonsense_is_made_again(copy, damage, caplog):
    """Symptom: a traceback over an entry of counts.json."""
    store = copy / "store"
    (store / MANIFEST).unlink()
    counts = store / TRAIN / "00000.counts.json"
    write_json(counts, json.loads(counts.read_text()) | damage)
    tokenize_corpus.tokenize(copy / "corpus", copy / "tokenizer", store)
    assert "is made again: 00000.counts.json is damaged" in caplog.text
    verify(store)


@pytest.mark.parametrize("damage", NO_JSON)
def test_a_damaged_origin_is_named(copy, damage):
    NO_JSON[damage](copy / "store" / "origin.json")
    with pytest.raises(Refusal, match=r"origin\.json is damaged"):
        tokenize_corpus.tokenize(copy / "corpus", copy / "tokenizer", copy / "store")


# ---- manifests -----------------------------------------------------------------------------------


def test_the_same_shards_in_other_splits_are_another_corpus(tmp_path):
    """Symptom: files that had been trained on were called held out."""
    one, two = [corpus_row("a", "a.py", code(1))], [corpus_row("b", "b.py", code(2))]
    folders = [
        write_shards(tmp_path / "halves", {TRAIN: [one], HELD_OUT: [two]}),
        write_shards(tmp_path / "all", {TRAIN: [one, two], HELD_OUT: []}),
    ]
    hashes = [[facts["sha256"] for facts in check_files(folder).values()] for folder in folders]
    assert hashes[0] == hashes[1]
    assert fingerprint(folders[0]) != fingerprint(folders[1])


def test_a_corpus_from_before_names_were_in_the_fingerprint_is_read(copy):
    path = copy / "corpus" / MANIFEST
    manifest = json.loads(path.read_text())
    hashes = "".join(shard["sha256"] for shard in manifest["shards"])
    write_json(path, manifest | {"fingerprint": hashlib.sha256(hashes.encode()).hexdigest()})
    assert len(list(read_corpus(copy / "corpus", TRAIN))) == 24


def open_store(root: Path) -> None:
    TokenStore(root / "store", TRAIN)


def read_corpus_train(root: Path) -> None:
    list(read_corpus(root / "corpus", TRAIN))


def read_tokenizer(root: Path) -> None:
    codec.Codec(root / "tokenizer")


READERS = {
    "corpus": [*CORPUS_READERS, lambda root: verify(root / "corpus")],
    "store": [open_store, lambda root: verify(root / "store")],
    "tokenizer": [read_tokenizer, measure_tokenizer, tokenize],
}
PAIRS = [(name, reader) for name, readers in READERS.items() for reader in readers]


@pytest.mark.parametrize("damage", NO_JSON)
@pytest.mark.parametrize(("name", "reader"), PAIRS)
def test_a_damaged_manifest_is_named_by_every_reader(copy, name, reader, damage):
    NO_JSON[damage](copy / name / MANIFEST)
    with pytest.raises(Refusal, match=rf"{name}/manifest\.json is damaged") as refusal:
        reader(copy)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    ("name", "key"),
    [
        *(("corpus", key) for key in ("shards", "fingerprint")),
        *(("store", key) for key in ("splits", "dtype", "tokenizer_sha256", "corpus_fingerprint")),
    ],
)
@pytest.mark.parametrize("value", [None, 5])
def test_a_manifest_that_lacks_something_is_named(copy, name, key, value):
    path = copy / name / MANIFEST
    manifest = json.loads(path.read_text())
    del manifest[key]
    write_json(path, manifest if value is None else manifest | {key: value})
    readers = CORPUS_READERS if name == "corpus" else [open_store]
    for reader in readers:
        with pytest.raises(Refusal, match=rf"{name}/manifest\.json is damaged"):
            reader(copy)


@pytest.mark.parametrize("value", ["x", None, [1], -1, 0.5])
def test_a_size_that_is_no_number_of_bytes_is_named(copy, value):
    """Symptom: a traceback, where the sentence about the wrong size was made."""
    for name, reader in (("corpus", read_corpus_train), ("store", open_store)):
        path = copy / name / MANIFEST
        manifest = json.loads(path.read_text())
        tables = manifest["shards"] if name == "corpus" else list(manifest["files"].values())
        tables[0]["bytes"] = value
        write_json(path, manifest)
        with pytest.raises(Refusal, match=r"manifest\.json"):
            reader(copy)


@pytest.mark.parametrize(
    "change",
    [{"dtype": "uint32"}, {"dtype": "float64"}, {"vocab_size": 70000}, {"vocab_size": "x"}],
)
def test_a_store_whose_type_is_not_its_vocabularys_is_refused(copy, change):
    """Symptom: with another type of the same width the ids would be other ids."""
    path = copy / "store" / MANIFEST
    write_json(path, json.loads(path.read_text()) | change)
    with pytest.raises(Refusal, match=r"store/manifest\.json is damaged"):
        open_store(copy)


def test_a_store_that_does_not_say_its_vocabulary_is_read(copy):
    path = copy / "store" / MANIFEST
    manifest = json.loads(path.read_text())
    del manifest["vocab_size"]
    write_json(path, manifest)
    open_store(copy)
    write_json(path, manifest | {"dtype": "int16"})
    with pytest.raises(Refusal, match=r"store/manifest\.json is damaged"):
        open_store(copy)


@pytest.mark.parametrize("reader", CORPUS_READERS)
def test_a_store_is_no_corpus_and_the_sentence_says_what_it_is(copy, reader):
    shutil.copy(copy / "store" / MANIFEST, copy / "corpus" / MANIFEST)
    with pytest.raises(Refusal, match=r"is not a complete corpus \(it is a token_store\)"):
        reader(copy)


# ---- a tokenizer ---------------------------------------------------------------------------------


@pytest.mark.parametrize("damage", ["lost", "cut", "cut_one_byte", "longer"])
@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer_config.json"])
def test_a_tokenizer_that_is_not_its_manifests_is_not_used(copy, name, damage):
    DAMAGES[damage](copy / "tokenizer" / name)
    for reader in (read_tokenizer, tokenize, measure_tokenizer):
        with pytest.raises(Refusal, match="tokenizer"):
            reader(copy)
    with pytest.raises(Refusal):
        is_kept(copy / "tokenizer", {})


def test_a_vocabulary_that_was_edited_after_its_manifest_is_named(copy):
    path = copy / "tokenizer" / "tokenizer.json"
    path.write_text(path.read_text().replace("<|im_start|>", "<|im_stort|>"))  # of the same size
    for reader in (read_tokenizer, tokenize, measure_tokenizer):
        with pytest.raises(Refusal, match=r"tokenizer\.json has changed since it was written"):
            reader(copy)


# ---- on demand -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("corpus", "train/00002.parquet"),
        *(("store", file) for file in STORE_FILES),
        ("store", "train/00000.counts.json"),
        ("tokenizer", "tokenizer_config.json"),
    ],
)
def test_verify_finds_a_changed_bit_and_names_the_file(copy, capsys, name, file):
    folder = copy / name
    data_prep(["verify", str(folder)])
    assert f"{folder} is whole: " in capsys.readouterr().out
    flip(folder / file)
    with pytest.raises(Refusal, match=rf"{file}"):
        data_prep(["verify", str(folder)])


def test_verify_says_what_it_could_not_compare_of_an_older_store(copy):
    without_sizes(copy / "store")
    assert "were made before hashes were kept" in verify(copy / "store")
    flip(copy / "store" / "tokenizer" / "tokenizer.json")
    with pytest.raises(Refusal, match="tokenizer"):
        verify(copy / "store")


def test_verify_refuses_what_it_does_not_know(copy):
    with pytest.raises(Refusal, match="a folder without a manifest"):
        verify(copy)
    with pytest.raises(Refusal, match="no folder is given"):
        data_prep(["verify"])
    for kind in ("evaluation", ["corpus"]):
        write_json(copy / MANIFEST, {"kind": kind})
        with pytest.raises(Refusal, match="give a corpus, a token store, a tokenizer, or a run's"):
            verify(copy)


@pytest.mark.parametrize("kind", [manifest.MODEL, manifest.CHECKPOINT])
def test_verify_finds_a_changed_bit_of_a_model_and_of_a_checkpoint(tmp_path, capsys, kind):
    names = ["model.safetensors", "rng_state.pth"]
    for name in names:
        (tmp_path / name).write_bytes(b"weights")
    manifest.complete(tmp_path, {"kind": kind, "step": 1, "world_size": 1})
    data_prep(["verify", str(tmp_path)])
    assert f"{tmp_path} is whole: 2 files" in capsys.readouterr().out
    flip(tmp_path / "model.safetensors")
    with pytest.raises(Refusal, match=r"model\.safetensors has changed since it was written"):
        data_prep(["verify", str(tmp_path)])
    (tmp_path / "model.safetensors").write_bytes(b"weights")
    cut(tmp_path / MANIFEST)
    with pytest.raises(Refusal, match=r"manifest\.json is damaged"):
        data_prep(["verify", str(tmp_path)])


# ---- what a corpus is made of --------------------------------------------------------------------


def make_corpus(source: str, root: Path) -> None:
    words = ["--sources", source, "--output_dir", str(root / "made"), "--num_workers", "1"]
    data_prep([*words, "--held_out_repositories", "0"])


@pytest.mark.parametrize("damage", ["cut", "empty", "lfs_pointer", "flipped_everywhere"])
def test_a_damaged_source_of_parquet_is_named(copy, damage):
    path = copy / "corpus" / TRAIN / "00000.parquet"
    content = path.read_bytes()
    if damage == "flipped_everywhere":  # the footer stays whole, the pages do not
        path.write_bytes(content[:4] + bytes(255 - b for b in content[4:400]) + content[400:])
    else:
        DAMAGES[damage](path)
    told = "holds nothing that can be read" if damage == "empty" else "cannot be read as parquet"
    with pytest.raises(Refusal, match=rf"00000\.parquet {told}") as refusal:
        make_corpus(f"type=parquet,path={path}", copy)
    assert "\n" not in str(refusal.value)


def test_a_cut_source_of_compressed_json_lines_is_named(tmp_path):
    import gzip
    import random

    random.seed(0)
    letters = ["".join(random.choices("abcdefgh \n", k=4000)) for _ in range(40)]
    rows = [json.dumps({"content": text, "path": "a.py", "repo": "r"}) for text in letters]
    path = tmp_path / "rows.jsonl.gz"
    path.write_bytes(gzip.compress("\n".join(rows).encode())[:-20_000])
    with pytest.raises(Refusal, match=r"rows\.jsonl\.gz cannot be read as JSON lines"):
        make_corpus(f"type=jsonl,path={path}", tmp_path)


def test_a_complete_corpus_that_is_damaged_is_not_called_complete(copy):
    source = f"type=parquet,path={copy / 'corpus' / TRAIN}"
    make_corpus(source, copy)
    cut(copy / "made" / TRAIN / "00000.parquet")
    with pytest.raises(Refusal, match=r"train/00000\.parquet has [\d,]+ bytes, not"):
        make_corpus(source, copy)


@pytest.mark.parametrize("damage", ["cut", "lost"])
def test_a_torn_chunk_of_an_interrupted_corpus_is_named_or_made_again(copy, damage, monkeypatch):
    from data_prep import pipeline

    source = f"type=parquet,path={copy / 'corpus' / TRAIN}"
    with monkeypatch.context() as broken:
        broken.setattr(pipeline, "choose", lambda *words: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            make_corpus(source, copy)
    (chunk, *_) = sorted((copy / "made" / ".work").glob("*.parquet"))
    DAMAGES[damage](chunk)
    if damage == "cut":
        with pytest.raises(Refusal, match=rf"{chunk.name} cannot be read as parquet.*remove it"):
            make_corpus(source, copy)
        chunk.unlink()
    make_corpus(source, copy)
    assert "is whole" in verify(copy / "made")
