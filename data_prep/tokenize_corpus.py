"""`python -m data_prep tokenize`: a curated corpus and a tokenizer -> a token store.

Shards are encoded one by one, each after a comparison with the corpus's manifest. A shard whose
counts are there, and whose files have the sizes that these say, is not done again, so a killed run
goes on where it was. The format itself is in `hugcoder.data.token_store`.
"""

import logging
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tqdm import tqdm

from hugcoder.data import corpus as corpora
from hugcoder.data import token_shards, token_store
from hugcoder.data.codec import Codec
from hugcoder.data.tokenizer_files import copy_tokenizer, files_in
from hugcoder.file_table import FileTable, hash_files, missing_or_resized
from hugcoder.files import MANIFEST, keys_demanded, read_manifest, read_object, write_json
from hugcoder.ownership import contents, owned
from hugcoder.recipe import parse
from hugcoder.refusal import Refusal

logger = logging.getLogger(__name__)

SUMS = ("documents", "tokens", "bytes")
ORIGIN = "origin.json"  # in a store from its beginning: what it is made of

DESCRIPTION = """Encode a curated corpus with a tokenizer into a token store, which train.py
reads: python -m data_prep tokenize --corpus FOLDER --tokenizer FOLDER --output_dir FOLDER."""


@dataclass
class TokenizeArguments:
    corpus: str = field(
        metadata={"help": "Folder of a curated corpus, as `python -m data_prep` writes it."}
    )
    tokenizer: str = field(metadata={"help": "Folder of the tokenizer that encodes it."})
    output_dir: str = field(metadata={"help": "Folder of the token store to make."})


def main(argv: list[str] | None = None) -> None:
    arguments = parse([TokenizeArguments], argv, description=DESCRIPTION)
    tokenize(Path(arguments.corpus), Path(arguments.tokenizer), Path(arguments.output_dir))


def tokenize(corpus: Path, tokenizer: Path, store: Path) -> None:
    """Make the store, or go on with one that was interrupted.

    Raises: Refusal when `store` belongs to another corpus or tokenizer.
    """
    codec = Codec(tokenizer)
    codec.fim_ids  # noqa: B018  refuses a tokenizer without fill-in-the-middle tokens, before any work
    origin = {
        "format": token_store.FORMAT,
        "corpus_fingerprint": corpora.fingerprint(corpus),
        "tokenizer_sha256": codec.fingerprint,
    }
    if _is_complete(store, origin):  # perhaps where nobody may write
        print(f"{store} is complete; nothing to do.")
        return
    with owned(store):
        if _is_complete(store, origin):
            print(f"{store} is complete; it was made just now.")
            return
        _make_store(corpus, tokenizer, store, codec, origin)


def _make_store(
    corpus: Path, tokenizer: Path, store: Path, codec: Codec, origin: dict[str, Any]
) -> None:
    began = time.perf_counter()
    write_json(store / ORIGIN, origin)
    copy_tokenizer(tokenizer, store / token_store.TOKENIZER)
    table = corpora.check_files(corpus)
    splits = {split: _encode_split(corpus, table, split, store, codec) for split in corpora.SPLITS}
    write_json(
        store / MANIFEST,
        {
            "kind": "token_store",
            "corpus": str(corpus),
            "tokenizer": str(tokenizer),
            **origin,
            "vocab_size": codec.vocab_size,
            "dtype": token_store.dtype_for(codec.vocab_size).name,
            "splits": splits,
            "files": _table_of(store, splits),
            "seconds": round(time.perf_counter() - began, 1),
        },
    )
    for split, counts in splits.items():
        ratio = counts["bytes"] / max(counts["tokens"], 1)
        print(
            f"{split}: {counts['documents']:,} documents, {counts['tokens']:,} tokens, "
            f"{ratio:.2f} bytes per token"
        )


def _is_complete(store: Path, origin: dict[str, Any]) -> bool:
    """Whether this very store is there and whole.

    Raises: Refusal when the folder holds another one or something else, or a damaged one.
    """
    claim = store / ORIGIN
    if claim.is_file() and (found := read_object(claim)) != origin:
        name = next(name for name in origin if found.get(name) != origin[name])
        before, now = str(found.get(name))[:12], str(origin[name])[:12]
        raise Refusal(
            f"{store} was made with another {name.split('_')[0]} ({name} {before}, now {now}); "
            "delete it or give another --output_dir."
        )
    if not claim.is_file() and contents(store):
        raise Refusal(f"{store} holds something else; give another --output_dir.")
    if read_manifest(store) is None:
        return False
    token_store.check_files(store)
    return True


def _encode_split(
    corpus: Path, table: FileTable, split: str, store: Path, codec: Codec
) -> dict[str, Any]:
    """Encode the shards of one split that are not done; returns the sums of all."""
    totals: dict[str, Any] = {"documents": 0, "tokens": 0, "bytes": 0, "shards": []}
    names = [name for name in table if name.startswith(f"{split}/")]
    for name in tqdm(names, desc=f"tokenize {split}", unit="shard", disable=None):
        prefix = store / split / Path(name).stem
        source = table[name]["sha256"]
        counts = _counts_of(prefix, source)
        if counts is None:
            corpora.check_content(corpus, table, [name])
            counts = token_shards.write_shard(prefix, corpora.read_rows(corpus / name), codec)
            counts |= {"source_sha256": source}
            write_json(token_store.shard_file(prefix, token_store.COUNTS), counts)
        for key in SUMS:
            totals[key] += counts[key]
        totals["shards"].append(prefix.name)
    return totals


def _counts_of(prefix: Path, source: str) -> dict[str, Any] | None:
    """What a shard's counts say; None when it is not there, is torn, or is of another source."""
    path = token_store.shard_file(prefix, token_store.COUNTS)
    if not path.is_file():
        return None
    reason = f"{path.name} is damaged, of other rows, or older than the hashes in it"
    try:
        counts = read_object(path)
        with keys_demanded(path.parent, path.name):
            is_whole = all(type(counts[name]) is int for name in SUMS)
            expected = {
                token_store.shard_file(prefix, ending).name for ending in token_store.ENDINGS
            }
            if is_whole and counts["source_sha256"] == source and set(counts["files"]) == expected:
                reason = missing_or_resized(prefix.parent, counts["files"])
    except Refusal:  # nothing is lost: it is made again
        pass
    if not reason:
        return counts
    logger.warning("%s is made again: %s", prefix, reason)
    return None


def _table_of(store: Path, splits: dict[str, Any]) -> FileTable:
    """The files of a store that is about to be complete; hashes of shards are those of writing."""
    table: FileTable = {}
    for split, totals in splits.items():
        for shard in totals["shards"]:
            counts = f"{split}/{shard}.{token_store.COUNTS}"
            files = read_object(store / counts)["files"]
            table |= {f"{split}/{name}": facts for name, facts in files.items()}
            table |= hash_files(store, [counts])
    folder = store / token_store.TOKENIZER
    return table | hash_files(
        store, [path.relative_to(store).as_posix() for path in files_in(folder)]
    )
