"""Train a tokenizer on a curated corpus, or measure one.

    python -m tokenizer configs/recipes/tokenizer.yaml --corpus data/quickstart \\
        --output_dir data/quickstart-tokenizer
    python -m tokenizer measure --tokenizer data/quickstart-tokenizer --corpus data/quickstart

The output folder is complete when its manifest.json is there. A complete folder is kept, an
unfinished one is made again.
"""

import logging
import sys
import time
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

from hugcoder.data import codec
from hugcoder.data import corpus as corpora
from hugcoder.data.tokenizer_files import TRAINED
from hugcoder.file_table import hash_files
from hugcoder.files import MANIFEST, read_manifest, write_json
from hugcoder.ownership import owned
from hugcoder.recipe import parse
from hugcoder.refusal import Refusal, entry_point
from tokenizer.arguments import MeasureArguments, TokenizerArguments
from tokenizer.check import check_folder
from tokenizer.measure import measure
from tokenizer.sample import plan_sample
from tokenizer.train import FILES, save, train

TRAIN_DESCRIPTION = (
    "Train a byte-level BPE tokenizer for code on a corpus. To measure one: "
    "python -m tokenizer measure --help."
)
MEASURE_DESCRIPTION = (
    "Measure a tokenizer on a corpus: bytes per token, tokens per word-like unit, losslessness. "
    "Exit code 1 when a text does not come back byte for byte."
)


def main(argv: list[str] | None = None) -> None:
    words = sys.argv[1:] if argv is None else argv
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    if words[:1] == ["measure"]:
        measure_main(words[1:])
    else:
        train_main(words)


def train_main(argv: list[str]) -> None:
    args = parse([TokenizerArguments], argv, description=TRAIN_DESCRIPTION)
    corpus, folder = Path(args.corpus), Path(args.output_dir)
    identity = identity_of(args)
    if is_kept(folder, identity):  # before owning it: the folder may be read-only
        print(f"{folder} is complete and was made with these settings; kept.")
        return
    with owned(folder):
        if is_kept(folder, identity):
            print(f"{folder} was completed just now by another start with these settings; kept.")
            return
        make(args, corpus, folder, identity)


def make(args: TokenizerArguments, corpus: Path, folder: Path, identity: dict[str, Any]) -> None:
    """Train, save and check; the manifest comes last."""
    started = time.perf_counter()
    plan = plan_sample(corpus, corpora.TRAIN, args.sample_bytes, args.max_document_bytes, args.seed)
    tokenizer, sample = train(plan, args.vocab_size, args.pattern)
    fingerprint = save(tokenizer, folder)
    check_folder(folder, tokenizer)
    names = [name for name in TRAINED if (folder / name).is_file()]
    manifest = {
        "kind": codec.KIND,
        **identity,
        "sample": sample,
        "tokenizer_sha256": fingerprint,
        "files": hash_files(folder, names),
        "seconds": round(time.perf_counter() - started, 1),
        "versions": {"tokenizers": version("tokenizers"), "transformers": version("transformers")},
    }
    write_json(folder / MANIFEST, manifest)
    num_bytes = sum(entry["bytes"] for entry in sample.values())
    print(
        f"{folder}: {args.vocab_size:,} tokens learned from {num_bytes / 1e6:,.1f} MB in "
        f"{len(sample)} languages, {manifest['seconds']:.1f} s"
    )


def measure_main(argv: list[str]) -> None:
    """Measure; exit with code 1 when a text does not come back byte for byte."""
    args = parse([MeasureArguments], argv, description=MEASURE_DESCRIPTION, positional="tokenizer")
    codec.Codec(args.tokenizer)  # first, because `owned` would make a folder that is not there
    with owned(Path(args.tokenizer)):
        report = measure(args)
    if report["round_trip_failures"]:
        sys.exit(1)


def identity_of(args: TokenizerArguments) -> dict[str, Any]:
    """Collect what decides the tokenizer: settings other than folders, and the corpus's content."""
    settings = asdict(args)
    del settings["output_dir"]
    fingerprint = corpora.fingerprint(Path(settings.pop("corpus")))
    return settings | {"corpus_fingerprint": fingerprint}


def is_kept(folder: Path, identity: dict[str, Any]) -> bool:
    """Tell whether the folder already holds this very tokenizer.

    Raises: Refusal when it holds another one, a damaged one, or files that do not belong to one.
    """
    manifest = read_manifest(folder)
    if manifest is None:
        foreign = sorted({path.name for path in folder.glob("[!.]*")} - set(FILES))
        if foreign:
            raise Refusal(
                f"{folder} holds {foreign[0]}, which is not part of a tokenizer; give an "
                "output_dir that is empty or new."
            )
        return False
    if manifest.get("kind") != codec.KIND:
        raise Refusal(f"{folder} holds a complete {manifest.get('kind')}; give another output_dir.")
    differing = [
        f"{name} {manifest.get(name)} there, {value} now"
        for name, value in identity.items()
        if manifest.get(name) != value
    ]
    if differing:
        raise Refusal(
            f"{folder} holds a complete tokenizer made with other settings ({'; '.join(differing)}"
            f"); give another output_dir or delete the folder."
        )
    codec.Codec(folder)  # refuses a tokenizer that was cut or changed after it was finished
    return True


if __name__ == "__main__":
    entry_point(main)()
