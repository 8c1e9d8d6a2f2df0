"""A curated corpus on disk: what `python -m data_prep` writes and everything else reads.

    data/<name>/manifest.json          written last; a folder without it is not a corpus
    data/<name>/train/00000.parquet    one row a file, columns COLUMNS
    data/<name>/held_out/00000.parquet files of repositories that training never sees

Holds the format and its readers; imports pyarrow only where a file is read.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from hugcoder.files import read_manifest
from hugcoder.refusal import Refusal

TRAIN, HELD_OUT = "train", "held_out"
SPLITS = (TRAIN, HELD_OUT)
COLUMNS = ("source", "repo", "path", "language", "license", "commit", "blob_sha", "size", "content")


def manifest_of(corpus: Path) -> dict[str, Any]:
    """The manifest of a complete corpus. Raises: Refusal when `corpus` is none."""
    manifest = read_manifest(corpus)
    if manifest is None or manifest.get("kind") != "corpus":
        raise Refusal(
            f"{corpus} is not a complete corpus (no manifest of one); make it with `python -m "
            f"data_prep "
            f"configs/corpora/quickstart.yaml --output_dir {corpus}`."
        )
    return manifest


def fingerprint(corpus: Path) -> str:
    """A hash of the corpus's content: the same for the same files, however and whenever made."""
    return manifest_of(corpus)["fingerprint"]


def shards(corpus: Path, split: str) -> list[Path]:
    """The parquet files of one split, in order."""
    return sorted((corpus / split).glob("*.parquet"))


def read_rows(
    shard: Path, columns: tuple[str, ...] = COLUMNS, batch_size: int = 256
) -> Iterator[dict[str, Any]]:
    """Rows of one shard as dictionaries, `batch_size` in memory at a time."""
    import pyarrow.parquet

    with pyarrow.parquet.ParquetFile(shard) as file:
        for batch in file.iter_batches(batch_size=batch_size, columns=list(columns)):
            yield from batch.to_pylist()


def read_corpus(
    corpus: Path, split: str, columns: tuple[str, ...] = COLUMNS
) -> Iterator[dict[str, Any]]:
    """Rows of one split, in order."""
    for shard in shards(corpus, split):
        yield from read_rows(shard, columns)
