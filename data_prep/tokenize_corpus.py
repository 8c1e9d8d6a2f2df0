"""`python -m data_prep tokenize`: a curated corpus and a tokenizer -> a token store.

Shards are encoded one by one; a shard whose index file is there is complete and is not done again,
so a killed run goes on where it was. The format itself is in `hugcoder.token_store`.
"""

import json
import logging
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tqdm import tqdm

from hugcoder import corpus as corpora
from hugcoder import token_store
from hugcoder.codec import Codec
from hugcoder.files import MANIFEST, read_manifest, write_json
from hugcoder.recipe import parse
from hugcoder.refusal import Refusal
from hugcoder.tokenizer_files import copy_tokenizer

logger = logging.getLogger(__name__)


@dataclass
class TokenizeArguments:
    corpus: str = field(
        metadata={"help": "Folder of a curated corpus, as `python -m data_prep` writes it."}
    )
    tokenizer: str = field(metadata={"help": "Folder of the tokenizer that encodes it."})
    output_dir: str = field(metadata={"help": "Folder of the token store to make."})


def main(argv: list[str] | None = None) -> None:
    arguments = parse([TokenizeArguments], argv, description=__doc__.splitlines()[0])
    tokenize(Path(arguments.corpus), Path(arguments.tokenizer), Path(arguments.output_dir))


def tokenize(corpus: Path, tokenizer: Path, store: Path) -> None:
    """Make the store, or go on with one that was interrupted.

    Raises: Refusal when `store` belongs to another corpus or tokenizer.
    """
    began = time.perf_counter()
    codec = Codec(tokenizer)
    codec.fim_ids  # noqa: B018  refuses a tokenizer without fill-in-the-middle tokens, before any work
    origin = {
        "format": token_store.FORMAT,
        "corpus_fingerprint": corpora.fingerprint(corpus),
        "tokenizer_sha256": codec.fingerprint,
    }
    if not _claim(store, origin):
        print(f"{store} is complete; nothing to do.")
        return
    copy_tokenizer(tokenizer, store / "tokenizer")
    splits = {split: _encode_split(corpus, split, store, codec) for split in corpora.SPLITS}
    write_json(
        store / MANIFEST,
        {
            "kind": "token_store",
            "corpus": str(corpus),
            **origin,
            "vocab_size": codec.vocab_size,
            "dtype": token_store.dtype_for(codec.vocab_size).name,
            "splits": splits,
            "seconds": round(time.perf_counter() - began, 1),
        },
    )
    for split, counts in splits.items():
        ratio = counts["bytes"] / max(counts["tokens"], 1)
        print(
            f"{split}: {counts['documents']:,} documents, {counts['tokens']:,} tokens, "
            f"{ratio:.2f} bytes per token"
        )


def _claim(store: Path, origin: dict[str, Any]) -> bool:
    """Mark the folder as ours; False when the same store is already complete in it."""
    claim = store / "origin.json"
    if claim.is_file() and (found := json.loads(claim.read_text())) != origin:
        name = next(name for name in origin if found.get(name) != origin[name])
        before, now = str(found.get(name))[:12], str(origin[name])[:12]
        raise Refusal(
            f"{store} was made with another {name.split('_')[0]} ({name} {before}, now {now}); "
            "delete it or give another --output_dir."
        )
    if not claim.is_file() and store.is_dir() and any(store.iterdir()):
        raise Refusal(f"{store} holds something else; give another --output_dir.")
    if read_manifest(store) is not None:
        return False
    write_json(claim, origin)
    return True


def _encode_split(corpus: Path, split: str, store: Path, codec: Codec) -> dict:
    totals: dict = {"documents": 0, "tokens": 0, "bytes": 0, "shards": []}
    shards = corpora.shards(corpus, split)
    for shard in tqdm(shards, desc=f"tokenize {split}", unit="shard", disable=None):
        prefix = store / split / shard.stem
        counts_path = token_store.shard_file(prefix, "counts.json")
        if not counts_path.is_file():
            rows = corpora.read_rows(shard)
            write_json(counts_path, token_store.write_shard(prefix, rows, codec))
        counts = json.loads(counts_path.read_text())
        totals = {
            key: totals[key] + counts[key] if key in counts else totals[key] for key in totals
        }
        totals["shards"].append(prefix.name)
    return totals
