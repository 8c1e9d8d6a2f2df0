"""What the second pass knows of each collected file: 56 bytes of columns, never the content.

Held in memory for the whole corpus: 100 GB of code are some 12 million files and 700 MB.
"""

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from hugcoder.files import format_demanded

TEXT_COLUMNS = ("repo", "language", "license")


@dataclass
class FileTable:
    """Columns of N files in listing order.

    blob: [N] 20 raw bytes; size: [N] bytes; chunk, row: [N] where the content lies; repo, language
    and license: [N] positions in names[column].
    """

    blob: np.ndarray
    size: np.ndarray
    chunk: np.ndarray
    row: np.ndarray
    repo: np.ndarray
    language: np.ndarray
    license: np.ndarray
    names: dict[str, list[str]] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.size)


def load_table(chunks: list[Path]) -> FileTable:
    """Read the columns of every chunk, in order."""
    import pyarrow.parquet

    positions: dict[str, dict[str, int]] = {column: {} for column in TEXT_COLUMNS}
    parts: dict[str, list[np.ndarray]] = {name: [] for name in (*TEXT_COLUMNS, "blob", "size")}
    for path in chunks:
        with format_demanded(path, "parquet"):
            table = pyarrow.parquet.read_table(path, columns=["blob_sha", "size", *TEXT_COLUMNS])
        blobs = bytes.fromhex("".join(table["blob_sha"].to_pylist()))
        parts["blob"].append(np.frombuffer(blobs, dtype="V20"))
        parts["size"].append(table["size"].to_numpy())
        for column in TEXT_COLUMNS:
            parts[column].append(_positions(table[column].to_pylist(), positions[column]))
    lengths = np.array([len(part) for part in parts["size"]], dtype=np.int64)
    return FileTable(
        blob=_joined(parts["blob"], "V20"),
        size=_joined(parts["size"], np.int64),
        chunk=np.repeat(np.arange(len(chunks), dtype=np.int32), lengths),
        row=_joined([np.arange(length, dtype=np.int32) for length in lengths], np.int32),
        **{column: _joined(parts[column], np.int32) for column in TEXT_COLUMNS},
        names={column: list(known) for column, known in positions.items()},
    )


def _positions(values: list[str], known: dict[str, int]) -> np.ndarray:
    """[len(values)] position of each value in `known`, which grows."""
    return np.array([known.setdefault(value, len(known)) for value in values], dtype=np.int32)


def _joined(parts: list[np.ndarray], dtype: type | str) -> np.ndarray:
    return np.concatenate(parts) if parts else np.empty(0, dtype=dtype)
