"""Reads a curated corpus on disk, which `python -m data_prep` writes.

    data/<name>/manifest.json          written last; a folder without it is not a corpus
    data/<name>/train/00000.parquet    one row for each file, columns COLUMNS
    data/<name>/held_out/00000.parquet files that training never sees: whole repositories, whole
                                       folders, or single files (`held_out_by`)

The manifest has a table of the shards with their sizes and hashes. Opening a corpus compares names
and sizes; reading contents also compares the hash of the shard.
Holds the format and its readers; imports pyarrow only where a file is read.
"""

import hashlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from hugcoder.file_table import FileTable, changed, missing_or_resized, unknown_file
from hugcoder.files import MANIFEST, format_demanded, keys_demanded, read_manifest
from hugcoder.refusal import Refusal

TRAIN, HELD_OUT = "train", "held_out"
SPLITS = (TRAIN, HELD_OUT)
REPOSITORY, FOLDER, FILE = "repository", "folder", "file"  # what may be held out as a whole
COLUMNS = ("source", "repo", "path", "language", "license", "commit", "blob_sha", "size", "content")


def manifest_of(corpus: Path) -> dict[str, Any]:
    """Read the manifest of a corpus. Raises: Refusal when `corpus` is not a complete corpus."""
    manifest = read_manifest(corpus)
    if manifest is None or manifest.get("kind") != "corpus":
        found = "it has no manifest" if manifest is None else f"it is a {manifest.get('kind')}"
        way_out = "give the folder that `python -m data_prep` made"
        if manifest is None:
            recipe = "configs/corpora/quickstart.yaml"
            way_out = f"make it with `python -m data_prep {recipe} --output_dir {corpus}`"
        raise Refusal(f"{corpus} is not a complete corpus ({found}); {way_out}.")
    with keys_demanded(corpus):
        files_of(manifest)
        manifest["fingerprint"][:1]  # must be a text
        if held_out_by(manifest) not in (REPOSITORY, FOLDER, FILE):
            raise ValueError(f"held_out_by is {manifest['held_out_by']!r}")
    return manifest


def held_out_by(manifest: dict[str, Any]) -> str:
    """Return what the corpus holds out as a whole: REPOSITORY, FOLDER or FILE."""
    return manifest.get("held_out_by", REPOSITORY)


def unit_of(repo: str, path: str, by: str) -> str:
    """Return the repository, folder or file that a file is held out with.

    The folder is the one that holds the file itself, without its subfolders.
    """
    if by == REPOSITORY:
        return repo
    whole = f"{repo}/{path}"
    return whole if by == FILE else whole.rpartition("/")[0]


def plural_of(by: str) -> str:
    return "repositories" if by == REPOSITORY else f"{by}s"


def files_of(manifest: dict[str, Any]) -> FileTable:
    """List the shards of a corpus, in order, by their names in its folder."""
    return {
        shard["file"]: {key: shard[key] for key in ("bytes", "sha256") if key in shard}
        for shard in manifest["shards"]
    }


def fingerprint(corpus: Path) -> str:
    """Return a hash of the corpus's content and splits, the same whenever it was made."""
    return manifest_of(corpus)["fingerprint"]


def fingerprint_of(shards: list[dict[str, Any]]) -> str:
    """Compute the fingerprint of a corpus from the shards in its manifest."""
    named = "".join(f"{shard['file']} {shard['sha256']}\n" for shard in shards)
    return hashlib.sha256(named.encode()).hexdigest()


def _nameless_fingerprint_of(shards: list[dict[str, Any]]) -> str:
    """Compute the fingerprint in older manifests, which does not tell the splits apart."""
    return hashlib.sha256("".join(shard["sha256"] for shard in shards).encode()).hexdigest()


def check_files(corpus: Path) -> FileTable:
    """Compare names and sizes of the shards with the manifest, and return its table.

    Reads no shard. Raises: Refusal naming the first file that is missing, cut, or too many.
    """
    manifest = manifest_of(corpus)
    table = files_of(manifest)
    with keys_demanded(corpus):
        found = missing_or_resized(corpus, table) or unknown_file(corpus, SPLITS, table)
    if found:
        raise Refusal(_damage_sentence(corpus, found))
    with keys_demanded(corpus):
        formulas = (fingerprint_of, _nameless_fingerprint_of)
        is_consistent = manifest["fingerprint"] in [of(manifest["shards"]) for of in formulas]
    if not is_consistent:
        raise Refusal(_damage_sentence(corpus, "its fingerprint is not the one of its shards"))
    return table


def check_content(corpus: Path, table: FileTable, names: Iterable[str]) -> None:
    """Read some shards and compare them with the table.

    Raises: Refusal naming the first shard that has changed.
    """
    if found := changed(corpus, {name: table[name] for name in names}):
        raise Refusal(_damage_sentence(corpus, found))


def _damage_sentence(corpus: Path, what: str) -> str:
    return (
        f"the corpus {corpus} is not what its {MANIFEST} says: {what}; copy the folder again, or "
        "delete it and run `python -m data_prep`."
    )


def shards(corpus: Path, split: str) -> list[Path]:
    """List the parquet files of one split, in order. Raises: Refusal, see check_files."""
    return [corpus / name for name in check_files(corpus) if name.startswith(f"{split}/")]


def read_rows(
    shard: Path, columns: tuple[str, ...] = COLUMNS, batch_size: int = 256
) -> Iterator[dict[str, Any]]:
    """Yield the rows of one shard as dictionaries, with `batch_size` in memory at a time.

    Raises: Refusal when the file is damaged or lacks a column.
    """
    import pyarrow.parquet

    with format_demanded(shard, "parquet"), pyarrow.parquet.ParquetFile(shard) as file:
        if missing := sorted(set(columns) - set(file.schema_arrow.names)):
            raise Refusal(f"{shard} has no column {missing[0]}; it is not a shard of a corpus.")
        for batch in file.iter_batches(batch_size=batch_size, columns=list(columns)):
            yield from batch.to_pylist()


def read_corpus(
    corpus: Path, split: str, columns: tuple[str, ...] = COLUMNS
) -> Iterator[dict[str, Any]]:
    """Yield the rows of one split, in order; when contents are read, compare each shard's hash.

    Raises: Refusal naming a shard that is not what the manifest says.
    """
    table = check_files(corpus)
    for name in [name for name in table if name.startswith(f"{split}/")]:
        if "content" in columns:
            check_content(corpus, table, [name])
        yield from read_rows(corpus / name, columns)
