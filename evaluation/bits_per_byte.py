"""Bits per byte of whole files read left to right, beside gzip and xz on the same files.

A file longer than the context is read in windows that advance by half a context. Each token is
scored once, in the first window that holds it; except at the file's beginning, at least half a
context stands before it. Nothing predicts a file's first token, in training or here: it costs
log2(vocabulary) bits, unless the model's family puts a start token before every text. The end token
is not counted. Bits are pooled: total bits over total bytes.
"""

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from evaluation.bootstrap import estimate
from evaluation.documents import Document
from evaluation.floors import gzip_bits, xz_bits
from evaluation.likelihood import score
from hugcoder.generation.loading import CheckpointCodec
from hugcoder.generation.prompts import context_length

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def windows(num_tokens: int, context: int) -> list[tuple[int, int, int]]:
    """(start, first scored, stop) of each window; together they score tokens 1 to num_tokens."""
    found = []
    start, scored = 0, 1
    while scored < num_tokens:
        stop = min(start + context, num_tokens)
        found.append((max(stop - context, 0), scored, stop))
        start, scored = start + context // 2, stop
    return found


def document_bits(
    model: "PreTrainedModel", codec: CheckpointCodec, texts: list[str], batch_tokens: int
) -> np.ndarray:
    """The bits that the model needs for each text: [texts]."""
    sequences, firsts, owners = [], [], []
    for owner, ids in enumerate(codec.encode(texts)):
        ids = [*codec.start_ids, *ids]
        for start, first, stop in windows(len(ids), context_length(model)):
            sequences.append(ids[start:stop])
            firsts.append(first - start)
            owners.append(owner)
    first_bits = 0.0 if codec.start_ids else math.log2(model.config.vocab_size)
    bits = np.full(len(texts), first_bits)
    for owner, scored in zip(owners, score(model, sequences, firsts, batch_tokens), strict=True):
        bits[owner] += scored.nats.sum() / math.log(2)
    return bits


def measure(
    model: "PreTrainedModel",
    codec: CheckpointCodec,
    documents: list[Document],
    batch_tokens: int,
    seed: int,
) -> dict[str, Any]:
    """The bits_per_byte part of results.json."""
    data = [document.text.encode() for document in documents]
    bits = {
        "model": document_bits(model, codec, [d.text for d in documents], batch_tokens),
        "gzip": np.array([gzip_bits(one) for one in data], dtype=float),
        "xz": np.array([xz_bits(one) for one in data], dtype=float),
    }
    num_bytes = np.array([len(one) for one in data], dtype=float)
    repos = np.array([document.repo for document in documents], dtype=object)
    units = np.array([document.unit for document in documents], dtype=object)
    languages = np.array([document.language for document in documents], dtype=object)

    def parts(names: np.ndarray) -> dict[str, dict[str, Any]]:
        return {
            str(name): _part(names == name, bits, num_bytes, units, seed)
            for name in np.unique(names)
        }

    everything = {name: estimate(values, num_bytes, units, seed) for name, values in bits.items()}
    return everything | {
        "by_language": parts(languages),
        "by_repository": parts(repos),
        "files": len(documents),
        "bytes": int(num_bytes.sum()),
        "repositories": len(np.unique(repos)),
        "units": len(np.unique(units)),
    }


def _part(
    is_in: np.ndarray,
    bits: dict[str, np.ndarray],
    num_bytes: np.ndarray,
    units: np.ndarray,
    seed: int,
) -> dict[str, Any]:
    """The model's estimate on some of the files, and what compressors need for them."""
    total = num_bytes[is_in].sum()
    return estimate(bits["model"][is_in], num_bytes[is_in], units[is_in], seed) | {
        "gzip": float(bits["gzip"][is_in].sum() / total),
        "xz": float(bits["xz"][is_in].sum() / total),
        "files": int(is_in.sum()),
        "bytes": int(total),
    }
