"""What the second pass knows of each collected file: 68 bytes of columns, never the content.

Held in memory for the whole corpus: 100 GB of code are some 12 million files and 820 MB. Where
folders or files are held out, their names are held too.
"""

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from hugcoder.data.corpus import REPOSITORY, unit_of
from hugcoder.files import format_demanded

TEXT_COLUMNS = ("repo", "language", "license")
UNIT = "unit"


@dataclass
class FileTable:
    """Columns of N files in listing order.

    blob: [N] 20 raw bytes, git's name of what was read; content: [N] the same of the text that is
    kept, which a rule may have changed; size: [N] bytes of it; chunk, row: [N] where it lies; repo,
    language, license and unit (what is held out as a whole): [N] positions in names[column].
    """

    blob: np.ndarray
    content: np.ndarray
    size: np.ndarray
    chunk: np.ndarray
    row: np.ndarray
    repo: np.ndarray
    language: np.ndarray
    license: np.ndarray
    unit: np.ndarray
    names: dict[str, list[str]] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.size)


def load_table(chunks: list[Path], held_out_by: str = REPOSITORY) -> FileTable:
    """Read the columns of every chunk, in order."""
    import pyarrow.compute
    import pyarrow.parquet

    is_fine = held_out_by != REPOSITORY
    texts = (*TEXT_COLUMNS, UNIT) if is_fine else TEXT_COLUMNS
    read = ["blob_sha", "changed_sha", "size", *TEXT_COLUMNS, *["path"] * is_fine]
    positions: dict[str, dict[str, int]] = {column: {} for column in texts}
    parts: dict[str, list[np.ndarray]] = {name: [] for name in (*texts, "blob", "content", "size")}
    for path in chunks:
        with format_demanded(path, "parquet"):
            table = pyarrow.parquet.read_table(path, columns=read)
        kept = pyarrow.compute.coalesce(table["changed_sha"], table["blob_sha"])
        for name, column in (("blob", table["blob_sha"]), ("content", kept)):
            raw = bytes.fromhex("".join(column.to_pylist()))
            parts[name].append(np.frombuffer(raw, dtype="V20"))
        parts["size"].append(table["size"].to_numpy())
        values = {column: table[column].to_pylist() for column in TEXT_COLUMNS}
        if is_fine:
            named = zip(values["repo"], table["path"].to_pylist(), strict=True)
            values[UNIT] = [unit_of(*pair, held_out_by) for pair in named]
        for column in texts:
            parts[column].append(_positions(values[column], positions[column]))
    lengths = np.array([len(part) for part in parts["size"]], dtype=np.int64)
    columns = {column: _joined(parts[column], np.int32) for column in texts}
    names = {column: list(known) for column, known in positions.items()}
    return FileTable(
        blob=_joined(parts["blob"], "V20"),
        content=_joined(parts["content"], "V20"),
        size=_joined(parts["size"], np.int64),
        chunk=np.repeat(np.arange(len(chunks), dtype=np.int32), lengths),
        row=_joined([np.arange(length, dtype=np.int32) for length in lengths], np.int32),
        **({UNIT: columns["repo"]} | columns),
        names={UNIT: names["repo"]} | names,
    )


def _positions(values: list[str], known: dict[str, int]) -> np.ndarray:
    """[len(values)] position of each value in `known`, which grows."""
    return np.array([known.setdefault(value, len(known)) for value in values], dtype=np.int32)


def _joined(parts: list[np.ndarray], dtype: type | str) -> np.ndarray:
    return np.concatenate(parts) if parts else np.empty(0, dtype=dtype)


def names_of_rows(table: FileTable, rows: np.ndarray, chunks: list[Path]) -> list[str]:
    """`repository/path` of a few rows ([M] positions in the table)."""
    import pyarrow.parquet

    named = []
    for row in rows.tolist():
        path = chunks[table.chunk[row]]
        with format_demanded(path, "parquet"):
            read = pyarrow.parquet.read_table(path, columns=["repo", "path"])
        (found,) = read.slice(int(table.row[row]), 1).to_pylist()
        named.append(f"{found['repo']}/{found['path']}")
    return named
