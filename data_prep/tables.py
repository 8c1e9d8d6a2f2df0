"""Files that come as rows of parquet or JSON lines on disk.

A parquet chunk is some row groups, a JSON lines chunk some bytes; a compressed JSON lines file
(.gz, .zst, .bz2) is one chunk, since reading it cannot start in the middle. A file without rows, or
a hidden one in a folder, is counted and passed over; a damaged one is refused, as its rows would be
missed.
"""

import glob
import io
import json
import logging
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from data_prep.document import RawFile, Unreadable, reason_unread
from data_prep.filters.lfs_pointer import MAX_BYTES, is_pointer
from data_prep.layout import place_in
from data_prep.on_disk import demand_usable
from data_prep.table_rows import RowReader, as_items, row_reader
from hugcoder.files import format_demanded
from hugcoder.refusal import Refusal

logger = logging.getLogger(__name__)

CHUNK_BYTES = 64_000_000  # of parquet as it is uncompressed, or of JSON
MAX_LINE_BYTES = 64_000_000  # a longer line of JSON is dropped and never in memory as a whole
BATCH_ROWS = 64
HEAD_LINES, HEAD_BYTES = 100, 4_000_000  # from the first row on, in which fields are looked for
SEARCH_BYTES = 256_000_000  # of a file of JSON, in which the first row has to begin
FIRST_BYTES = 40  # shown of a file that holds no row
COMPRESSED = (".gz", ".zst", ".bz2")
JSONL = tuple(
    name + compression for name in ("jsonl", "ndjson", "json") for compression in ("", *COMPRESSED)
)
EMPTY, NOT_JSON_LINES = "empty_file", "not_json_lines"
PARQUET = "parquet"
JSON_LINES = "JSON lines, compressed as its name says"

Items = dict[str, Any]


def list_parquet(options: dict[str, Any], output_dir: Path | None = None) -> Iterator[Items]:
    """Chunks of parquet files. Raises: Refusal when there is none or a column is missing."""
    return _list_files(options, (PARQUET,), _parquet_chunks, output_dir)


def list_jsonl(options: dict[str, Any], output_dir: Path | None = None) -> Iterator[Items]:
    """Chunks of JSON lines files. Raises: Refusal when there is none or a field is missing."""
    return _list_files(options, JSONL, _jsonl_chunks, output_dir)


def _list_files(
    options: dict[str, Any],
    endings: tuple[str, ...],
    chunks_of: Callable[[Path, dict[str, Any]], Iterator[Items]],
    output_dir: Path | None,
) -> Iterator[Items]:
    """The chunks of every file of a source, and a last one for the files that are passed over."""
    path = options["path"]
    files, passed = _files(path, endings, output_dir)
    is_any, way_out = False, "give files that have rows and may be read"
    for file in files:
        try:
            for items in chunks_of(file, options):
                is_any = True
                yield items
        except Unreadable as error:
            passed.append(_dropped(str(file), 0, error.reason))
            if error.reason == NOT_JSON_LINES:
                logger.warning("%s is passed over: it %s", file, error)
                way_out = f"{file} {error}"
    if not is_any:
        _ = list(demand_usable(passed, path, way_out))
    if passed:
        yield {"passed": [[raw.path, raw.reason] for raw in passed]}


def _files(
    path: str, endings: tuple[str, ...], output_dir: Path | None
) -> tuple[list[Path], list[RawFile]]:
    """The files that a path, a folder or a pattern stands for, by name, and what is passed over.

    Args: output_dir: a folder in which nothing is looked for.
    """
    place = os.path.expanduser(path)
    if os.path.isdir(place):
        files, passed = _files_below(place, endings)
    else:  # a file's own name may hold what a pattern is made of, as in a[1].jsonl
        names = [place] if os.path.isfile(place) else glob.glob(place, recursive=True)
        files, passed = sorted(Path(name) for name in names if os.path.isfile(name)), []
    if output_dir:
        files = [file for file in files if place_in(file, output_dir) is None]
        passed = [raw for raw in passed if place_in(Path(raw.path), output_dir) is None]
    if not files and not passed:
        raise Refusal(
            f"sources: {path} stands for no file (a file, a folder of .{endings[0]} files or a "
            "pattern in quotes); check it."
        )
    return files, passed


def _files_below(place: str, endings: tuple[str, ...]) -> tuple[list[Path], list[RawFile]]:
    """The files of a folder, without what is hidden, such as the ._x.parquet of macOS."""
    passed: list[RawFile] = []

    def note(error: OSError) -> None:
        passed.append(_dropped(str(error.filename), 0, reason_unread(error)))

    found = [
        Path(folder, name)
        for folder, _, names in os.walk(place, onerror=note)
        for name in names
        if name.endswith(tuple(f".{ending}" for ending in endings))
    ]
    hidden = {file for file in found if _is_hidden(file.relative_to(place))}
    passed += [_dropped(str(file), 0, "hidden_file") for file in sorted(hidden)]
    return sorted(set(found) - hidden), passed


def _is_hidden(path: Path) -> bool:
    return any(part.startswith(".") for part in path.parts)


def _identity(file: Path) -> Items:
    """What tells a file from its later states.

    Raises: Unreadable when it has no bytes, or may not be read.
    """
    status = file.stat()
    if not os.access(file, os.R_OK):
        raise Unreadable("unreadable")
    if not status.st_size:
        raise Unreadable(EMPTY)
    return {"file": str(file), "size": status.st_size, "modified": status.st_mtime_ns}


@contextmanager
def _reading(file: Path, name: str) -> Iterator[None]:
    """Turn what pyarrow raises over a file into a sentence that names it, and a way out.

    Raises: Refusal for a file that is damaged, or is a pointer of git-lfs.
    """
    try:
        with format_demanded(file, name):
            yield
    except Refusal as refusal:
        if _is_pointer(file):
            raise Refusal(
                f"sources: {file} cannot be read as {name} (it is a pointer of git-lfs): run `git "
                "lfs pull` where it was cloned, then the same command."
            ) from None
        raise Refusal(f"sources: {refusal}") from None


def _is_pointer(file: Path) -> bool:
    with suppress(OSError), file.open("rb") as stream:
        return is_pointer(stream.read(MAX_BYTES))
    return False


def _parquet_chunks(file: Path, options: dict[str, Any]) -> Iterator[Items]:
    """Raises: Unreadable when the file has no rows, whatever its columns."""
    import pyarrow.parquet

    shared = _identity(file)
    with _reading(file, PARQUET):
        metadata = pyarrow.parquet.read_metadata(file)
        names = metadata.schema.to_arrow_schema().names
    if not metadata.num_rows:
        raise Unreadable(EMPTY)
    shared |= {"reader": as_items(row_reader(names, options, str(file)))}
    groups: list[int] = []
    num_bytes = 0
    for group in range(metadata.num_row_groups):
        groups.append(group)
        num_bytes += metadata.row_group(group).total_byte_size
        if num_bytes >= CHUNK_BYTES or group == metadata.num_row_groups - 1:
            yield shared | {"row_groups": groups}
            groups, num_bytes = [], 0


def read_parquet(items: Items) -> Iterator[RawFile]:
    """The rows of some row groups, a few in memory at a time."""
    import pyarrow.parquet

    if "passed" in items:
        yield from _read_passed(items)
        return
    reader = RowReader(**items["reader"])
    columns = sorted(set(reader.columns.values()))
    path = Path(items["file"])
    kind = pyarrow.large_binary()  # read as this, a dictionary is not checked for UTF-8
    with _reading(path, PARQUET), pyarrow.parquet.ParquetFile(path, binary_type=kind) as file:
        batches = file.iter_batches(BATCH_ROWS, items["row_groups"], columns)
        rows = (row for batch in batches for row in _rows_of(batch))
        for index, row in enumerate(rows):
            position = f"{path.name}/{items['row_groups'][0]}/{index}"
            yield reader.raw_file(row, position)


def _rows_of(batch: Any) -> Iterator[dict[str, Any]]:
    """The rows of a batch, with bytes for strings, so that a string may be no UTF-8."""
    columns = [_values_of(column.cast(_as_bytes(column.type))) for column in batch.columns]
    for values in zip(*columns, strict=True):
        yield dict(zip(batch.schema.names, values, strict=True))


def _as_bytes(kind: Any) -> Any:
    """The type of a column with bytes for strings, also in a dictionary or in lists."""
    import pyarrow
    from pyarrow import types

    if types.is_dictionary(kind):
        return _as_bytes(kind.value_type)
    if types.is_list(kind) or types.is_fixed_size_list(kind):
        return pyarrow.list_(_as_bytes(kind.value_type))
    if types.is_large_list(kind):
        return pyarrow.large_list(_as_bytes(kind.value_type))
    if types.is_string(kind):
        return pyarrow.binary()
    is_text = types.is_large_string(kind) or types.is_string_view(kind)
    return pyarrow.large_binary() if is_text else kind


def _values_of(column: Any) -> list[Any]:
    """The values of a column as Python has them: a time that Python cannot hold is its number, and
    any other such value None.
    """
    try:
        return column.to_pylist()
    except (OverflowError, ValueError, KeyError):  # KeyError: an unknown time zone
        return [_value_of(scalar) for scalar in column]


def _value_of(scalar: Any) -> Any:
    try:
        return scalar.as_py()
    except (OverflowError, ValueError, KeyError):
        number = getattr(scalar, "value", None)
        return number if isinstance(number, int) else None


def _jsonl_chunks(file: Path, options: dict[str, Any]) -> Iterator[Items]:
    """Raises: Unreadable when the file holds only white space."""
    shared = _identity(file)
    names = _fields_of(file)
    shared |= {"reader": as_items(row_reader(names, options, str(file)))}
    step = shared["size"] if file.suffix in COMPRESSED else CHUNK_BYTES
    for start in range(0, shared["size"], step):
        yield shared | {"start": start, "stop": start + step}


def _fields_of(file: Path) -> list[str]:
    """The fields of the first rows of a file.

    Raises: Unreadable when it has no lines, or none of those that are searched is a row.
    """
    names: dict[str, None] = {}
    lines, num_bytes, searched, first, is_whole = 0, 0, 0, b"", True
    with _reading(file, JSON_LINES), _open(file) as stream:
        while lines < HEAD_LINES and num_bytes < HEAD_BYTES and searched < SEARCH_BYTES:
            line = stream.readline(MAX_LINE_BYTES)
            if not line:
                break
            is_start, is_whole = is_whole, line.endswith(b"\n") or len(line) < MAX_LINE_BYTES
            first = first or line.strip()[:FIRST_BYTES]
            if is_start and is_whole:  # else it is a part of a line that is dropped as too large
                names |= dict.fromkeys(_parsed(line) or ())
            searched += len(line)
            if names:
                lines, num_bytes = lines + bool(line.strip()), num_bytes + len(line)
    if not first:
        raise Unreadable(EMPTY)
    if not names:
        hint = "has no line that is a JSON object, as each should be"
        if searched >= SEARCH_BYTES:
            hint += f", in its first {searched:,} bytes"
        if first.startswith(b"["):
            hint = "is a JSON list; write one object a line (jq -c '.[]' does)"
        raise Unreadable(NOT_JSON_LINES, f"{hint} (it begins with {first!r})")
    return list(names)


def _open(file: Path) -> io.BufferedReader:
    """The uncompressed bytes of a file."""
    if file.suffix not in COMPRESSED:
        return file.open("rb")
    import pyarrow

    return io.BufferedReader(pyarrow.input_stream(file, compression="detect"))


def _parsed(line: bytes) -> dict[str, Any] | None:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):  # no JSON, bytes that are no UTF-8, or too deep
        return None
    return row if isinstance(row, dict) else None


def read_jsonl(items: Items) -> Iterator[RawFile]:
    """The rows of the lines that begin between two bytes."""
    if "passed" in items:
        yield from _read_passed(items)
        return
    reader, file = RowReader(**items["reader"]), Path(items["file"])
    is_whole = file.suffix in COMPRESSED
    with _reading(file, JSON_LINES), _open(file) as stream:
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


def _read_passed(items: Items) -> Iterator[RawFile]:
    for path, reason in items["passed"]:
        yield _dropped(path, 0, reason)


def _dropped(position: str, size: int, reason: str) -> RawFile:
    return RawFile(repo="", path=position, size=size, load=bytes, reason=reason)
