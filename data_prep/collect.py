"""The first pass: read the files of one chunk, filter them, keep the rest in a parquet of its own.

Runs in worker processes. A chunk is done when its .json of counts is there, which is written last;
its name holds a hash of the listing, the settings and this package's code, so that a run that was
cut off goes on where it stopped, and uses no chunk that it would make in another way.
"""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from data_prep.counts import Counts
from data_prep.document import Document, RawFile, Unreadable, is_utf8, reason_unread
from data_prep.filters import RuleSettings, apply_rules, rules_of
from data_prep.languages import language_of
from data_prep.sources import Chunk, read_chunk
from hugcoder.data.corpus import COLUMNS
from hugcoder.files import atomic, read_object, write_json
from hugcoder.refusal import NO_ROOM

ROW_GROUP_BYTES = 8_000_000  # content that waits in memory until it is written
CHUNK_COLUMNS = (*COLUMNS, "changed_sha")  # of a chunk; shards have no more than COLUMNS


def fingerprint_with_code(settings: RuleSettings) -> str:
    """Hash of the settings and of the code that applies them."""
    digest = hashlib.sha256(repr(settings).encode())
    for file in sorted(Path(__file__).parent.rglob("*.py")):
        digest.update(file.read_bytes())
    return digest.hexdigest()


def collect_chunk(chunk: Chunk, settings: RuleSettings, target: Path) -> Counts:
    """Filter one chunk into `target` (.parquet) and count it, unless that is done already."""
    done = target.with_suffix(".json")
    if done.is_file() and target.is_file():
        return Counts.from_json(read_object(done))
    counts = Counts()
    with written_to(target), atomic(target) as temporary:
        writer = _RowWriter(temporary)
        for raw in read_chunk(chunk):
            outcome = examine(raw, chunk.source, settings)
            if isinstance(outcome, Document):
                writer.write(outcome)
            _count(counts, raw, outcome)
        writer.close()
    write_json(done, counts.as_json())
    return counts


@contextmanager
def written_to(path: Path) -> Iterator[None]:
    """Name the file in an error of writing it that names none, such as that of a full disk."""
    try:
        yield
    except OSError as error:
        if error.errno in NO_ROOM and not error.filename:
            error.filename = str(path)
        raise


def examine(raw: RawFile, source: str, settings: RuleSettings) -> Document | tuple[str, int]:
    """The document as the rules leave it, or the reason why it is dropped and the bytes it had."""
    language = raw.language or language_of(raw.path)
    if reason := raw.reason or _reason_unread(raw, language, settings):
        return reason, raw.size
    try:
        data = raw.load()
    except Unreadable as error:
        return error.reason, raw.size
    except OSError as error:  # it has gone since it was listed, or is private
        return reason_unread(error), raw.size
    document = Document(source, raw.repo, raw.path, language, raw.license, raw.commit, data)
    outcome = apply_rules(document, rules_of(settings))
    return (outcome, document.size) if isinstance(outcome, str) else outcome


def _reason_unread(raw: RawFile, language: str, settings: RuleSettings) -> str | None:
    if not all(map(is_utf8, (raw.repo, raw.path, raw.license, raw.commit, language))):
        return "name_not_utf8"
    if not language:
        return "unknown_language"
    if settings.languages and language not in settings.languages:
        return "other_language"
    return "too_large" if raw.size > settings.max_file_bytes else None


def _count(counts: Counts, raw: RawFile, outcome: Document | tuple[str, int]) -> None:
    if isinstance(outcome, Document):
        num_read = len(outcome.as_read)
        counts.read.add(1, num_read)
        counts.kept.add(1, outcome.size)
        if outcome.original is not None:
            counts.changed.add(1, num_read - outcome.size)
        return
    reason, size = outcome
    counts.read.add(1, size)
    counts.drop(reason, 1, size, [raw.name])


class _RowWriter:
    """Documents to one parquet file, a row group in memory at a time."""

    def __init__(self, path: Path):
        import pyarrow.parquet

        self._schema = schema(CHUNK_COLUMNS)
        self._writer = pyarrow.parquet.ParquetWriter(path, self._schema, compression="lz4")
        self._rows: list[dict[str, Any]] = []
        self._num_bytes = 0

    def write(self, document: Document) -> None:
        self._rows.append({column: getattr(document, column) for column in CHUNK_COLUMNS})
        self._num_bytes += document.size
        if self._num_bytes >= ROW_GROUP_BYTES:
            self._flush()

    def _flush(self) -> None:
        import pyarrow

        self._writer.write_table(pyarrow.Table.from_pylist(self._rows, schema=self._schema))
        self._rows, self._num_bytes = [], 0

    def close(self) -> None:
        if self._rows:
            self._flush()
        self._writer.close()


def schema(columns: tuple[str, ...] = COLUMNS):
    """The columns of a corpus, or others, as a pyarrow schema: strings, and `size` in bytes."""
    import pyarrow

    return pyarrow.schema(
        [(name, pyarrow.int64() if name == "size" else pyarrow.string()) for name in columns]
    )
