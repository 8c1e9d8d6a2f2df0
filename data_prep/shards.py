"""The last pass: the files that stay, in listing order, from chunks into the corpus's shards.

A shard is planned from sizes alone, so workers write shards side by side and any number of them
writes the same bytes.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from data_prep.collect import ROW_GROUP_BYTES, schema, written_to
from data_prep.table_of_files import FileTable
from hugcoder.data.corpus import COLUMNS
from hugcoder.file_table import hash_files
from hugcoder.files import atomic, format_demanded


@dataclass(frozen=True)
class ShardPlan:
    """One shard: its path inside the corpus, and the rows it takes of each chunk, in order."""

    name: str
    parts: list[tuple[int, np.ndarray]]
    num_files: int
    num_bytes: int


def plan_shards(
    table: FileTable, members: np.ndarray, split: str, shard_bytes: int
) -> Iterator[ShardPlan]:
    """Cut the files `members` ([M] positions in listing order) into shards of some shard_bytes."""
    ends = np.cumsum(table.size[members])
    shard_of_file = (ends - 1).clip(min=0) // shard_bytes
    for index, start in enumerate(np.flatnonzero(np.diff(shard_of_file, prepend=-1))):
        stop = np.searchsorted(shard_of_file, shard_of_file[start], side="right")
        files = members[start:stop]
        bounds = np.flatnonzero(np.diff(table.chunk[files], prepend=-1))
        parts = [
            (int(table.chunk[group[0]]), table.row[group]) for group in np.split(files, bounds[1:])
        ]
        num_bytes = int(table.size[files].sum())
        yield ShardPlan(f"{split}/{index:05d}.parquet", parts, len(files), num_bytes)


def write_shard(plan: ShardPlan, chunks: list[Path], output_dir: Path) -> dict[str, Any]:
    """Write one shard; returns what the manifest says of it."""
    import pyarrow
    import pyarrow.parquet

    path = output_dir / plan.name
    with (
        written_to(path),
        atomic(path) as temporary,
        pyarrow.parquet.ParquetWriter(temporary, schema(), compression="zstd") as writer,
    ):
        waiting: list[Any] = []
        for chunk, rows in plan.parts:
            for table in _rows_of(chunks[chunk], rows):
                waiting.append(table)
                if sum(part.nbytes for part in waiting) >= ROW_GROUP_BYTES:
                    writer.write_table(pyarrow.concat_tables(waiting))
                    waiting = []
        if waiting:
            writer.write_table(pyarrow.concat_tables(waiting))
    counts = {"file": plan.name, "files": plan.num_files, "content_bytes": plan.num_bytes}
    return counts | hash_files(output_dir, [plan.name])[plan.name]


def _rows_of(chunk: Path, rows: np.ndarray) -> Iterator[Any]:
    """The given rows (ascending) of a chunk as pyarrow tables, a row group in memory at a time."""
    import pyarrow.parquet

    with format_demanded(chunk, "parquet"), pyarrow.parquet.ParquetFile(chunk) as file:
        start = 0
        for group in range(file.num_row_groups):
            stop = start + file.metadata.row_group(group).num_rows
            wanted = rows[np.searchsorted(rows, start) : np.searchsorted(rows, stop)]
            if len(wanted):
                yield file.read_row_group(group, columns=[*COLUMNS]).take(wanted - start)
            start = stop
