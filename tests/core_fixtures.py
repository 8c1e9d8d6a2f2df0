"""Token stores made from texts, and rows on them; used by the tests of packing, rows and loss."""

import random
from pathlib import Path

from conftest import corpus_row, write_corpus

import fim
from data_prep.tokenize_corpus import tokenize
from hugcoder.data.codec import Codec
from hugcoder.data.corpus import HELD_OUT, TRAIN
from hugcoder.data.epochs import RowSettings
from hugcoder.data.rows import PackedRows
from hugcoder.data.token_store import TokenStore


def make_store(
    folder: Path, tokenizer: Path, texts: list[str], languages: list[str] | None = None
) -> TokenStore:
    """The training split of a store that holds `texts` as documents, in order."""
    languages = languages or ["python"] * len(texts)
    rows = [
        corpus_row("repo", f"file{number}", text, language)
        for number, (text, language) in enumerate(zip(texts, languages, strict=True))
    ]
    held_out = [corpus_row("other", "held_out", "held = out\n")]
    corpus = write_corpus(folder / "corpus", {TRAIN: rows, HELD_OUT: held_out})
    tokenize(corpus, tokenizer, folder / "store")
    return TokenStore(folder / "store", TRAIN)


def make_rows(
    store: TokenStore,
    codec: Codec,
    *,
    row_length: int = 128,
    seed: int = 42,
    fim_rate: float = 0.5,
    mixture: dict[str, float] | None = None,
    num_rows: int | None = None,
) -> PackedRows:
    settings = RowSettings(row_length, seed, fim.FimSettings(fim_rate), mixture or {})
    return PackedRows(store, codec, settings, num_rows)


def dense_texts(num_texts: int, num_letters: int) -> list[str]:
    """Texts of evenly spread letters of three bytes, as packed encodings and dense scripts are."""
    rng = random.Random(0)
    letters = [chr(code) for code in range(0x4E00, 0x4E00 + 2500)]
    return ["".join(rng.choices(letters, k=num_letters)) + "\n" for _ in range(num_texts)]
