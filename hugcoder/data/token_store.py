"""Reads a tokenized corpus: memory-mapped token ids with an index of documents.

    <store>/manifest.json                    written last: tokenizer hash, dtype, counts, files
    <store>/tokenizer/                       the tokenizer of these ids
    <store>/train/00000.tokens.bin           ids of the documents one after another, no separators
    <store>/train/00000.lines.bin            one byte for each LINE_BLOCK ids: its last line end
    <store>/train/00000.documents.parquet    one row for each document, columns DOCUMENT_COLUMNS
    <store>/train/00000.counts.json          sums of the shard, sizes and hashes of its files
    <store>/held_out/...                     the same for files that training never sees

Each shard of the corpus becomes one shard here, so shards are made in parallel and a killed run
repeats only one. `hugcoder.data.token_shards` encodes one. Opening a store compares names and sizes
with the manifest, and the index with the files that it points into; `python -m data_prep verify`
compares contents.
"""

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from hugcoder.data.corpus import SPLITS
from hugcoder.file_table import FileTable, missing_or_resized, unknown_file
from hugcoder.files import MANIFEST, format_demanded, keys_demanded, read_manifest
from hugcoder.refusal import Refusal

FORMAT = 1  # of these files; raise it when they change
LINE_BLOCK = 16
DOCUMENT_COLUMNS = ("uid", "num_tokens", "num_bytes", "source", "repo", "path", "language")
ENDINGS = ("tokens.bin", "lines.bin", "documents.parquet")  # the files of a shard
COUNTS = "counts.json"  # lies beside them: what write_shard returned
TOKENIZER = "tokenizer"  # the folder in a store


def dtype_for(vocab_size: int) -> np.dtype:
    """Return the smallest unsigned type that holds every id."""
    return np.dtype(np.uint16 if vocab_size <= 1 << 16 else np.uint32)


def document_uid(blob_sha: str) -> int:
    """Return a document's 64-bit identity, the key of all random choices about it."""
    return int(blob_sha[:16], 16)


def last_line_ends(
    table: np.ndarray, offsets: np.ndarray, after: np.ndarray, until: np.ndarray
) -> np.ndarray:
    """Do `TokenStore.last_line_ends` for documents whose line tables begin at `offsets`."""
    ends, block = after.copy(), until // LINE_BLOCK
    waiting = np.arange(len(ends))
    while len(waiting):
        last = table[offsets[waiting] + block[waiting]].astype(np.int64)
        end = block[waiting] * LINE_BLOCK + last
        is_found = (last > 0) & (end <= until[waiting])
        ends[waiting] = np.where(is_found & (end > after[waiting]), end, after[waiting])
        block[waiting] -= 1
        waiting = waiting[~is_found & ((block[waiting] + 1) * LINE_BLOCK > after[waiting])]
    return ends


def shard_file(prefix: Path, ending: str) -> Path:
    return prefix.with_name(f"{prefix.name}.{ending}")


def index_schema():
    import pyarrow

    numbers = {"uid": pyarrow.uint64(), "num_tokens": pyarrow.int64(), "num_bytes": pyarrow.int64()}
    return pyarrow.schema(
        [(name, numbers.get(name, pyarrow.string())) for name in DOCUMENT_COLUMNS]
    )


def manifest_of(store: Path) -> dict[str, Any]:
    """Read the manifest of a store. Raises: Refusal when `store` is not a complete token store."""
    manifest = read_manifest(store)
    if manifest is None or manifest.get("kind") != "token_store":
        is_corpus = manifest is not None and manifest.get("kind") == "corpus"
        corpus, output = (store, f"{store}-tokens") if is_corpus else ("CORPUS", store)
        found = "it has no manifest" if store.exists() else f"no folder {store.absolute()}"
        found = found if manifest is None else f"it is a {manifest.get('kind')}"
        way_out = (
            f"make it with `python -m data_prep tokenize --corpus {corpus} --tokenizer TOKENIZER "
            f"--output_dir {output}`{', and give that' if is_corpus else ''}"
        )
        if manifest is not None and not is_corpus:
            way_out = "give the folder that `python -m data_prep tokenize` made"
        raise Refusal(f"{store} is not a complete token store ({found}); {way_out}.")
    if manifest.get("format") != FORMAT:
        raise Refusal(
            f"{store} has format {manifest.get('format')}, but this program reads {FORMAT}; delete "
            "it and tokenize the corpus again."
        )
    with keys_demanded(store):
        files_of(manifest)
        sizes = [manifest["vocab_size"]] if "vocab_size" in manifest else [1 << 16, 1 << 17]
        if manifest["dtype"] not in (names := [dtype_for(size).name for size in sizes]):
            raise ValueError(f"dtype is {manifest['dtype']}, not {' or '.join(names)}")
        for name in ("tokenizer_sha256", "corpus_fingerprint"):
            manifest[name][:1]  # must be a text
        for split in SPLITS:
            sum(manifest["splits"][split][name] for name in ("documents", "tokens", "bytes"))
    return manifest


def files_of(manifest: dict[str, Any]) -> FileTable:
    """List the files of a store by their names in its folder; for an old store only the names."""
    named = {
        f"{split}/{shard}.{ending}": {}
        for split in SPLITS
        for shard in manifest["splits"][split]["shards"]
        for ending in ENDINGS
    }
    return named | manifest.get("files", {})


def check_files(store: Path) -> FileTable:
    """Compare names and sizes of a store's files with its manifest, and return its table.

    Reads no contents. Raises: Refusal naming the first file that is missing, cut, or too many.
    """
    manifest = manifest_of(store)
    table = files_of(manifest)
    counts = {
        f"{split}/{s}.{COUNTS}" for split in SPLITS for s in manifest["splits"][split]["shards"]
    }
    with keys_demanded(store):
        found = missing_or_resized(store, table) or unknown_file(
            store, SPLITS, table.keys() | counts
        )
    if found:
        raise Refusal(damage_sentence(store, found))
    return table


def damage_sentence(store: Path, what: str) -> str:
    """Return the sentence that refuses a damaged store."""
    return (
        f"the token store {store} is not what its {MANIFEST} says: {what}; copy the folder again, "
        "or delete it and tokenize the corpus again."
    )


class TokenStore:
    """Reads one split of a store; takes 48 bytes of memory a document, tokens stay on disk.

    Has arrays with one entry for each document: `uids`, `lengths` (tokens), `num_bytes`,
    `languages` and `sources` (codes into `language_names` and `source_names`).
    """

    def __init__(self, store: str | Path, split: str):
        self.folder, self.split = Path(store), split
        check_files(self.folder)
        manifest = manifest_of(self.folder)
        self.dtype = np.dtype(manifest["dtype"])
        self.prefixes = [self.folder / split / name for name in manifest["splits"][split]["shards"]]
        self._read_index(manifest["splits"][split])

    def _read_index(self, expected: dict[str, Any]) -> None:
        import pyarrow
        import pyarrow.parquet

        columns = ["uid", "num_tokens", "num_bytes", "source", "language"]
        paths = [shard_file(prefix, "documents.parquet") for prefix in self.prefixes]
        schema = pyarrow.schema([field for field in index_schema() if field.name in columns])
        shards = []
        for path in paths:
            with format_demanded(path, "parquet"):
                shards.append(pyarrow.parquet.read_table(path, columns=columns).cast(schema))
        table = pyarrow.concat_tables([schema.empty_table(), *shards]).combine_chunks()
        self.uids = table["uid"].to_numpy()
        self.lengths = table["num_tokens"].to_numpy()
        self.num_bytes = table["num_bytes"].to_numpy()
        self.languages, self.language_names = _codes(table["language"], "languages")
        self.sources, self.source_names = _codes(table["source"], "sources")
        self._check_index(shards, expected)
        counts = [shard.num_rows for shard in shards]
        self._first_document = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
        self._shard = np.repeat(np.arange(len(counts), dtype=np.int32), counts)
        self._token_offset = _offsets_within(self.lengths, self._first_document)
        self._line_offset = _offsets_within(-(-self.lengths // LINE_BLOCK), self._first_document)

    def _check_index(self, shards: list[Any], expected: dict[str, Any]) -> None:
        """Compare the index with the manifest's counts and with the sizes of its token files."""
        found = {"documents": len(self.lengths), "tokens": int(self.lengths.sum())}
        for name, number in found.items():
            if number != expected[name]:
                counted = f"the index of {self.split}/ counts {number:,} {name}"
                what = f"{counted}, not {expected[name]:,}"
                raise Refusal(damage_sentence(self.folder, what))
        for prefix, shard in zip(self.prefixes, shards, strict=True):
            lengths = shard["num_tokens"].to_numpy()
            num_blocks = int((-(-lengths // LINE_BLOCK)).sum())
            sizes = {
                f"{self.split}/{prefix.name}.tokens.bin": int(lengths.sum()) * self.dtype.itemsize,
                f"{self.split}/{prefix.name}.lines.bin": num_blocks,
            }
            table = {name: {"bytes": size} for name, size in sizes.items()}
            if what := missing_or_resized(self.folder, table):
                raise Refusal(damage_sentence(self.folder, f"{what}, as its index says"))

    def __len__(self) -> int:
        return len(self.lengths)

    def __getstate__(self) -> dict[str, Any]:  # each worker opens its own memory maps
        return {k: v for k, v in self.__dict__.items() if k not in ("_tokens", "_lines")}

    @cached_property
    def _repo_codes(self) -> tuple[np.ndarray, list[str]]:
        import pyarrow
        import pyarrow.parquet

        shards = []
        for prefix in self.prefixes:
            path = shard_file(prefix, "documents.parquet")
            with format_demanded(path, "parquet"):
                shards.append(pyarrow.parquet.read_table(path, columns=["repo"])["repo"])
        chunks = [chunk for shard in shards for chunk in shard.chunks]
        return _codes(pyarrow.chunked_array(chunks, pyarrow.string()), "repositories", np.int32)

    @property
    def repos(self) -> np.ndarray:
        """Return each document's repository code; read when first used, 4 bytes a document."""
        return self._repo_codes[0]

    @property
    def repo_names(self) -> list[str]:
        return self._repo_codes[1]

    @cached_property
    def _tokens(self) -> list[np.ndarray]:
        return [_map(shard_file(prefix, "tokens.bin"), self.dtype) for prefix in self.prefixes]

    @cached_property
    def _lines(self) -> list[np.ndarray]:
        return [
            _map(shard_file(prefix, "lines.bin"), np.dtype(np.uint8)) for prefix in self.prefixes
        ]

    def tokens(self, document: int, start: int, stop: int) -> np.ndarray:
        """Return the ids start to stop of one document."""
        first = self._token_offset[document]
        return self._tokens[self._shard[document]][first + start : first + stop]

    def last_line_ends(
        self, documents: np.ndarray, after: np.ndarray, until: np.ndarray
    ) -> np.ndarray:
        """Find each document's last recorded line end after `after` and up to `until` [N].

        Returns `after` where there is none. `documents` must ascend.
        """
        ends = after.copy()
        bounds = np.searchsorted(documents, self._first_document)
        for shard in np.flatnonzero(np.diff(bounds)).tolist():
            own = slice(bounds[shard], bounds[shard + 1])
            offsets = self._line_offset[documents[own]]
            ends[own] = last_line_ends(self._lines[shard], offsets, after[own], until[own])
        return ends

    def origins(self, documents: Sequence[int]) -> list[dict[str, str]]:
        """Read the repository and path of documents from the disk."""
        import pyarrow.parquet

        asked = np.asarray(documents, dtype=np.int64)
        origins: list[dict[str, str]] = [{}] * len(asked)
        for shard in np.unique(self._shard[asked]).tolist():
            path = shard_file(self.prefixes[shard], "documents.parquet")
            with format_demanded(path, "parquet"):
                table = pyarrow.parquet.read_table(path, columns=["repo", "path"])
            places = np.flatnonzero(self._shard[asked] == shard)
            rows = table.take(asked[places] - self._first_document[shard]).to_pylist()
            for place, row in zip(places.tolist(), rows, strict=True):
                origins[place] = row
        return origins


def _map(path: Path, dtype: np.dtype) -> np.ndarray:
    # numpy cannot map an empty file, and a shard of empty documents has one
    return np.memmap(path, dtype, mode="r") if path.stat().st_size else np.zeros(0, dtype)


def _codes(column, what: str, dtype: type = np.int16) -> tuple[np.ndarray, list[str]]:
    """Return a code for each value, and the names. Raises: Refusal for too many for `dtype`."""
    encoded = column.combine_chunks().dictionary_encode()
    num_names, most = len(encoded.dictionary), np.iinfo(dtype).max + 1
    if num_names > most:
        raise Refusal(
            f"the token store has documents of {num_names:,} {what}, but at most {most:,} are "
            "possible; make the corpus again with fewer."
        )
    return encoded.indices.to_numpy().astype(dtype), encoded.dictionary.to_pylist()


def _offsets_within(lengths: np.ndarray, first_document: np.ndarray) -> np.ndarray:
    """Compute where each document starts in its shard's file."""
    starts = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    return starts[:-1] - np.repeat(starts[first_document[:-1]], np.diff(first_document))
