"""Fixtures: a small corpus of real code, a tokenizer, a token store and a model config.

Made once a session from the standard library of the running interpreter; nothing is downloaded.
"""

import atexit
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sysconfig
import uuid
from pathlib import Path

import processes
import pytest

from hugcoder.data.corpus import COLUMNS, HELD_OUT, TRAIN, fingerprint_of
from hugcoder.data.special_tokens import SPECIAL_TOKENS
from hugcoder.file_table import hash_files
from hugcoder.files import write_json

REPOSITORIES = {TRAIN: ("json", "email", "asyncio", "logging"), HELD_OUT: ("concurrent", "html")}
MAX_FILE_BYTES = 40_000


def pytest_configure(config) -> None:
    """Mark what the tests start, so that nothing of it is left behind whatever becomes of them.

    Takes git's variables away, with which a hook that runs the tests would lead them astray.
    """
    mark = uuid.uuid4().hex
    os.environ[processes.MARK] = f"{os.environ.get(processes.MARK, '')} {mark}"
    # after all other ends, as of a logger's service, which were registered later
    atexit.register(processes.end_marked, mark)
    for name in [name for name in os.environ if name.startswith("GIT_")]:
        del os.environ[name]
    if signal.getsignal(signal.SIGTERM) == signal.SIG_DFL:
        tests = os.getpid()

        def interrupt(number: int, frame) -> None:
            if os.getpid() != tests:  # a data worker that was forked
                os._exit(128 + number)
            raise KeyboardInterrupt  # fixtures come to their ends, as at Ctrl-C

        signal.signal(signal.SIGTERM, interrupt)


def corpus_row(repo: str, path: str, text: str, language: str = "python") -> dict:
    """A row as data_prep writes it."""
    content = text.encode()
    blob = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
    values = ("test", repo, path, language, "PSF-2.0", "", blob, len(content), text)
    return dict(zip(COLUMNS, values, strict=True))


def write_corpus(folder: Path, rows: dict[str, list[dict]]) -> Path:
    """A complete corpus folder with one shard a split."""
    return write_shards(folder, {split: [part] for split, part in rows.items()})


def write_shards(folder: Path, shards: dict[str, list[list[dict]]]) -> Path:
    """A complete corpus folder, from the rows of the shards of each split."""
    import pyarrow
    import pyarrow.parquet

    said = []
    for split, parts in shards.items():
        (folder / split).mkdir(parents=True)
        for number, rows in enumerate(parts):
            name = f"{split}/{number:05}.parquet"
            table = pyarrow.Table.from_pylist(rows).select(list(COLUMNS))
            pyarrow.parquet.write_table(table, folder / name)
            size = sum(row["size"] for row in rows)
            counts = {"file": name, "files": len(rows), "content_bytes": size}
            said.append(counts | hash_files(folder, [name])[name])
    sizes = {
        split: {
            "files": sum(map(len, parts)),
            "bytes": sum(row["size"] for rows in parts for row in rows),
        }
        for split, parts in shards.items()
    }
    manifest = {
        "kind": "corpus",
        "shards": said,
        "fingerprint": fingerprint_of(said),
        "languages": {split: {"python": size} for split, size in sizes.items()},
    }
    write_json(folder / "manifest.json", manifest)
    return folder


@pytest.fixture(scope="session")
def corpus(tmp_path_factory) -> Path:
    """About 60 files of six packages of the standard library, two of them held out."""
    library = Path(sysconfig.get_paths()["stdlib"])
    rows: dict[str, list[dict]] = {}
    for split, names in REPOSITORIES.items():
        files = [path for name in names for path in sorted((library / name).rglob("*.py"))]
        texts = [(path, path.read_text(encoding="utf-8")) for path in files]
        rows[split] = [
            corpus_row(path.relative_to(library).parts[0], str(path.relative_to(library)), text)
            for path, text in texts
            if 0 < len(text.encode()) < MAX_FILE_BYTES
        ]
    return write_corpus(tmp_path_factory.mktemp("corpus") / "corpus", rows)


def train_tokenizer(
    folder: Path, texts: list[str], vocab_size: int, specials=SPECIAL_TOKENS
) -> Path:
    """A byte-level BPE tokenizer folder, without the tokenizer package's checks."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

    from tokenizer.train import PATTERNS

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(PATTERNS["standard"]), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=list(specials),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    folder.mkdir(parents=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": specials[0]}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return folder


@pytest.fixture(scope="session")
def tokenizer(corpus, tmp_path_factory) -> Path:
    from hugcoder.data.corpus import read_corpus

    texts = [row["content"] for row in read_corpus(corpus, TRAIN)]
    return train_tokenizer(tmp_path_factory.mktemp("tokenizer") / "tokenizer", texts, 1024)


@pytest.fixture(scope="session")
def codec(tokenizer):
    from hugcoder.data.codec import Codec

    return Codec(tokenizer)


@pytest.fixture(scope="session")
def store(corpus, tokenizer, tmp_path_factory) -> Path:
    from data_prep.tokenize_corpus import tokenize

    folder = tmp_path_factory.mktemp("store") / "tokens"
    tokenize(corpus, tokenizer, folder)
    return folder


@pytest.fixture(scope="session")
def model_config(tmp_path_factory) -> Path:
    """A Qwen3 of two layers, 64 wide."""
    path = tmp_path_factory.mktemp("model") / "config.json"
    config = {
        "model_type": "qwen3",
        "head_dim": 16,
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 256,
        "rope_theta": 10000.0,
        "tie_word_embeddings": True,
    }
    path.write_text(json.dumps(config))
    return path


@pytest.fixture(scope="session")
def ranks(tmp_path_factory):
    """A server that forks ranks; see tests/ranks.py."""
    from ranks import Ranks

    server = Ranks(tmp_path_factory.mktemp("ranks"))
    yield server
    server.close()


@pytest.fixture
def start():
    """Starts programs that end with the test; see tests/processes.py."""
    started = []

    def begin(words: list[str], **settings) -> subprocess.Popen:
        started.append(processes.start(words, **settings))
        return started[-1]

    yield begin
    for process in started:
        processes.end(process)


@pytest.fixture
def tiny(ranks, store, model_config, tmp_path):
    """Starts variations of a tiny run that leave no checkpoints; see tests/run_in_ranks.py."""
    from run_in_ranks import TinyRun

    return TinyRun(ranks, store, model_config, tmp_path, save_strategy="no")


@pytest.fixture
def disk(tmp_path):
    """Mounts a file system in memory with the given options or, called again, changes them."""
    folder = tmp_path / "disk"
    folder.mkdir()

    def mount(options: str) -> Path:
        if folder.is_mount():
            subprocess.run(["mount", "-o", f"remount,{options}", str(folder)], check=True)
            return folder
        words = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)]
        if shutil.which("mount") is None or subprocess.run(words, capture_output=True).returncode:
            pytest.skip("needs the right to mount a small file system")
        return folder

    yield mount
    if folder.is_mount():
        subprocess.run(["umount", str(folder)], check=True)
