"""Measures a tokenizer on text it was not trained on: bytes per token, fertility, losslessness.

Bytes per token says how well a tokenizer compresses, not how good a model becomes: evaluation
measures that, as bits per byte and infilling. Works on every byte-level tokenizer.json, not only on
those trained here.
"""

import re
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from hugcoder.data.codec import Codec
from hugcoder.data.corpus import fingerprint, manifest_of
from hugcoder.files import read_manifest, write_json
from tokenizer.arguments import MeasureArguments
from tokenizer.sample import plan_sample, read_sample

REPORT = "measure.json"
BATCH_DOCUMENTS = 64
# A unit is what a programmer calls a word: a name or number, or one punctuation character.
UNIT = re.compile(r"\w+|[^\w\s]")


@dataclass
class Counts:
    """Sums up the documents of one language."""

    documents: int = 0
    bytes: int = 0
    tokens: int = 0
    units: int = 0
    round_trip_failures: int = 0

    @property
    def bytes_per_token(self) -> float:
        return self.bytes / self.tokens if self.tokens else 0.0

    @property
    def tokens_per_unit(self) -> float:
        return self.tokens / self.units if self.units else 0.0

    def add(self, other: "Counts") -> None:
        for name, value in asdict(other).items():
            setattr(self, name, getattr(self, name) + value)


def measure(args: MeasureArguments) -> dict[str, Any]:
    """Measure, print the table and write measure.json into the tokenizer's folder.

    Returns: the report, as written.
    Raises: Refusal when the folder holds no byte-level tokenizer or the corpus no text.
    """
    codec, corpus = Codec(args.tokenizer), Path(args.corpus)
    manifest_of(corpus)
    plan = plan_sample(corpus, args.split, args.max_bytes, args.max_document_bytes, args.seed)
    counts: dict[str, Counts] = {}
    is_used = np.zeros(len(codec.token_bytes), dtype=bool)
    batch: list[tuple[str, str]] = []
    for document in read_sample(plan):
        batch.append(document)
        if len(batch) == BATCH_DOCUMENTS:
            _count(batch, codec, counts, is_used)
            batch = []
    _count(batch, codec, counts, is_used)
    report = _report(args, codec, dict(sorted(counts.items())), is_used)
    write_json(codec.folder / REPORT, report)
    print(table(report))
    return report


def _count(
    batch: list[tuple[str, str]], codec: Codec, counts: dict[str, Counts], is_used: np.ndarray
) -> None:
    """Add a batch of (language, text) to `counts` and mark its ids in `is_used` [vocab]."""
    encoded = codec.encode([text for _, text in batch])
    for (language, text), ids in zip(batch, encoded, strict=True):
        is_used[ids] = True
        data = text.encode("utf-8")
        counts.setdefault(language, Counts()).add(
            Counts(
                documents=1,
                bytes=len(data),
                tokens=len(ids),
                units=len(UNIT.findall(text)),
                round_trip_failures=int(codec.decode_bytes(ids) != data),
            )
        )


def _report(
    args: MeasureArguments, codec: Codec, counts: dict[str, Counts], is_used: np.ndarray
) -> dict[str, Any]:
    pooled = Counts()
    for count in counts.values():
        pooled.add(count)
    trained = read_manifest(codec.folder) or {}
    sample = trained.get("sample", {}).values()
    return {
        "corpus": args.corpus,
        "corpus_fingerprint": fingerprint(Path(args.corpus)),
        "trained_on_fingerprint": trained.get("corpus_fingerprint", ""),
        "split": args.split,
        "tokenizer_sha256": codec.fingerprint,
        "vocab_size": codec.vocab_size,
        "trained_bytes": sum(entry["bytes"] for entry in sample),
        "vocabulary_used": int(is_used.sum()) / (codec.vocab_size - len(codec.special_ids)),
        "round_trip_failures": pooled.round_trip_failures,
        "languages": {language: _row(count) for language, count in counts.items()},
        "all": _row(pooled),
        "macro": {
            name: sum(getattr(count, name) for count in counts.values()) / len(counts)
            for name in ("bytes_per_token", "tokens_per_unit")
        },
    }


def _row(count: Counts) -> dict[str, float]:
    return asdict(count) | {
        "bytes_per_token": count.bytes_per_token,
        "tokens_per_unit": count.tokens_per_unit,
    }


def table(report: dict[str, Any]) -> str:
    """Format the report: a line for each language, then ALL (pooled) and MACRO (their mean)."""
    lines = [
        f"{'language':<14}{'files':>8}{'MB':>9}{'tokens':>13}{'bytes/token':>13}{'tokens/unit':>13}"
    ]
    for name, row in [*report["languages"].items(), ("ALL", report["all"])]:
        lines.append(
            f"{name:<14}{row['documents']:>8,}{row['bytes'] / 1e6:>9.2f}{row['tokens']:>13,}"
            f"{row['bytes_per_token']:>13.3f}{row['tokens_per_unit']:>13.3f}"
        )
    macro = report["macro"]
    lines.append(f"{'MACRO':<44}{macro['bytes_per_token']:>13.3f}{macro['tokens_per_unit']:>13.3f}")
    trained = report["trained_bytes"]
    origin = f", learned from {trained / 1e6:,.1f} MB" if trained else ""
    lines.append(
        f"{report['vocab_size']:,} tokens{origin}; {report['vocabulary_used']:.1%} of the "
        f"vocabulary occurs in the {report['split']} text; "
        f"{report['round_trip_failures']} round-trip failures"
    )
    learned, measured = report["trained_on_fingerprint"], report["corpus_fingerprint"]
    if learned not in ("", measured):
        lines.append(
            f"read this with care: the tokenizer was trained on the corpus {learned[:16]}, and "
            f"this is {measured[:16]}; it may have been trained on these files too"
        )
    return "\n".join(lines)
