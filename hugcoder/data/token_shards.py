"""Encodes one shard of a corpus into the files of a token store, which `token_store` describes."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from hugcoder.data.codec import Codec
from hugcoder.data.token_store import (
    DOCUMENT_COLUMNS,
    ENDINGS,
    LINE_BLOCK,
    document_uid,
    dtype_for,
    index_schema,
    shard_file,
)
from hugcoder.file_table import hash_files
from hugcoder.files import atomic

ENCODE_BATCH_BYTES = 4 << 20


def write_shard(prefix: Path, rows: Iterable[dict[str, Any]], codec: Codec) -> dict[str, Any]:
    """Encode corpus rows into the three files of one shard, the index last.

    Args:
        prefix: path of the shard without its endings, such as store/train/00000.

    Returns: counts of documents, tokens and bytes, and the table of the three files.
    """
    import pyarrow
    import pyarrow.parquet

    dtype = dtype_for(codec.vocab_size)
    index: dict[str, list[Any]] = {name: [] for name in DOCUMENT_COLUMNS}
    with (
        atomic(shard_file(prefix, "documents.parquet")) as index_path,
        atomic(shard_file(prefix, "tokens.bin")) as tokens_path,
        atomic(shard_file(prefix, "lines.bin")) as lines_path,
    ):
        with tokens_path.open("wb") as tokens, lines_path.open("wb") as lines:
            for batch in _batches(rows):
                for row, ids in zip(
                    batch, codec.encode([r["content"] for r in batch]), strict=True
                ):
                    array = np.asarray(ids, dtype=dtype)
                    tokens.write(array.tobytes())
                    lines.write(line_table(array, codec.ends_line).tobytes())
                    _add_document(index, row, len(ids))
        table = pyarrow.table(index, schema=index_schema())
        pyarrow.parquet.write_table(table, index_path, compression="zstd")
    return {
        "documents": len(index["uid"]),
        "tokens": sum(index["num_tokens"]),
        "bytes": sum(index["num_bytes"]),
        "files": hash_files(prefix.parent, [f"{prefix.name}.{ending}" for ending in ENDINGS]),
    }


def _batches(rows: Iterable[dict[str, Any]]) -> Iterable[list[dict[str, Any]]]:
    batch, size = [], 0
    for row in rows:
        batch.append(row)
        size += row["size"]
        if size >= ENCODE_BATCH_BYTES:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def _add_document(index: dict[str, list[Any]], row: dict[str, Any], num_tokens: int) -> None:
    index["uid"].append(document_uid(row["blob_sha"]))
    index["num_tokens"].append(num_tokens)
    index["num_bytes"].append(row["size"])
    for name in ("source", "repo", "path", "language"):
        index[name].append(row[name])


def line_table(ids: np.ndarray, ends_line: np.ndarray) -> np.ndarray:
    """Count, in each block of LINE_BLOCK ids, the ids up to its last line end; 0 = no line end."""
    num_blocks = -(-len(ids) // LINE_BLOCK)
    padded = np.zeros(num_blocks * LINE_BLOCK, dtype=bool)
    padded[: len(ids)] = ends_line[ids]
    blocks = padded.reshape(num_blocks, LINE_BLOCK)
    last = LINE_BLOCK - blocks[:, ::-1].argmax(axis=1)
    return np.where(blocks.any(axis=1), last, 0).astype(np.uint8)
