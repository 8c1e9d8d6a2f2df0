"""Files that come as rows of parquet or JSON lines on disk.

A parquet chunk is some row groups, a JSON lines chunk some bytes; a compressed JSON lines file
(.gz, .zst, .bz2) is one chunk, since it cannot be entered in the middle.
"""

import glob
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from data_prep.document import RawFile
from data_prep.rows import RowReader, as_items, row_reader
from hugcoder.files import format_demanded
from hugcoder.refusal import Refusal

CHUNK_BYTES = 64_000_000  # of parquet as it is uncompressed, or of JSON
MAX_LINE_BYTES = 64_000_000  # a longer line of JSON is dropped and never in memory as a whole
BATCH_ROWS = 64
JSONL = ("jsonl", "ndjson", "json", "jsonl.gz", "json.gz", "jsonl.zst", "json.zst", "jsonl.bz2")
JSON_LINES = "JSON lines, compressed as its name says"
COMPRESSED = (".gz", ".zst", ".bz2")


def _files(path: str, endings: tuple[str, ...]) -> list[Path]:
    """The files that a path, a folder or a pattern stands for, by name."""
    place = Path(path).expanduser()
    if place.is_dir():
        found = [file for ending in endings for file in place.rglob(f"*.{ending}")]
    else:
        found = [Path(name) for name in glob.glob(str(place), recursive=True)]
    if not found:
        raise Refusal(
            f"sources: {path} stands for no file (a file, a folder of .{endings[0]} files or a "
            "pattern in quotes); check it."
        )
    return sorted(set(found))


def _identity(file: Path) -> dict[str, Any]:
    status = file.stat()
    return {"file": str(file), "size": status.st_size, "modified": status.st_mtime_ns}


def list_parquet(options: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Chunks of parquet files. Raises: Refusal when there is none or a column is missing."""
    import pyarrow.parquet

    for file in _files(options["path"], ("parquet",)):
        with format_demanded(file, "parquet"):
            metadata = pyarrow.parquet.read_metadata(file)
        names = metadata.schema.to_arrow_schema().names
        shared = _identity(file) | {"reader": as_items(row_reader(names, options, str(file)))}
        groups: list[int] = []
        num_bytes = 0
        for group in range(metadata.num_row_groups):
            groups.append(group)
            num_bytes += metadata.row_group(group).total_byte_size
            if num_bytes >= CHUNK_BYTES or group == metadata.num_row_groups - 1:
                yield shared | {"row_groups": groups}
                groups, num_bytes = [], 0


def read_parquet(items: dict[str, Any]) -> Iterator[RawFile]:
    """The rows of some row groups, a few in memory at a time."""
    import pyarrow.parquet

    reader = RowReader(**items["reader"])
    columns = sorted(set(reader.columns.values()))
    path = Path(items["file"])
    with format_demanded(path, "parquet"), pyarrow.parquet.ParquetFile(path) as file:
        batches = file.iter_batches(BATCH_ROWS, items["row_groups"], columns)
        rows = (row for batch in batches for row in batch.to_pylist())
        for index, row in enumerate(rows):
            position = f"{path.name}/{items['row_groups'][0]}/{index}"
            yield reader.raw_file(row, position)


def list_jsonl(options: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Chunks of JSON lines files. Raises: Refusal when there is none or a field is missing."""
    for file in _files(options["path"], JSONL):
        with format_demanded(file, JSON_LINES), _open(file) as stream:
            first = stream.readline(MAX_LINE_BYTES)
        names = _parsed(first)
        if names is None:
            raise Refusal(f"sources: the first line of {file} is no JSON object; remove the file.")
        shared = _identity(file) | {"reader": as_items(row_reader(names, options, str(file)))}
        step = shared["size"] if file.suffix in COMPRESSED else CHUNK_BYTES
        for start in range(0, shared["size"], step):
            yield shared | {"start": start, "stop": start + step}


def _open(file: Path) -> io.BufferedReader:
    """The uncompressed bytes of a file."""
    if file.suffix not in COMPRESSED:
        return file.open("rb")
    import pyarrow

    return io.BufferedReader(pyarrow.input_stream(file, compression="detect"))


def _parsed(line: bytes) -> dict[str, Any] | None:
    try:
        row = json.loads(line)
    except ValueError:  # JSONDecodeError, or bytes that are no UTF-8
        return None
    return row if isinstance(row, dict) else None


def read_jsonl(items: dict[str, Any]) -> Iterator[RawFile]:
    """The rows of the lines that begin between two bytes."""
    reader, file = RowReader(**items["reader"]), Path(items["file"])
    is_whole = file.suffix in COMPRESSED
    with format_demanded(file, JSON_LINES), _open(file) as stream:
        start = 0 if is_whole else items["start"]
        if start:  # a line belongs to the chunk in which it begins
            stream.seek(start - 1)
            start += _skip_line(stream) - 1
        while (is_whole or start < items["stop"]) and (line := stream.readline(MAX_LINE_BYTES)):
            position, size = f"{file.name}/{start}", len(line)
            if size == MAX_LINE_BYTES and not line.endswith(b"\n"):
                size += _skip_line(stream)
                yield _dropped(position, size, "too_large")
            elif line.strip():
                row = _parsed(line)
                is_row = row is not None
                yield (
                    reader.raw_file(row, position)
                    if is_row
                    else _dropped(position, size, "not_json")
                )
            start += size


def _skip_line(stream: io.BufferedReader) -> int:
    """Go to the start of the next line; returns the number of bytes passed."""
    num_bytes = 0
    while line := stream.readline(1 << 20):
        num_bytes += len(line)
        if line.endswith(b"\n"):
            break
    return num_bytes


def _dropped(position: str, size: int, reason: str) -> RawFile:
    return RawFile(repo="", path=position, size=size, load=bytes, reason=reason)
