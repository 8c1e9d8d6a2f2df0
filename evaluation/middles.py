"""Bits per byte of true middles: what the text after a hole is worth, without sampling noise.

Prefix, middle and suffix are encoded apart, as in training. The same middle tokens are scored:
- after a fill-in-the-middle prompt, in PSM and in SPM order;
- after the prefix of that prompt alone, as plain text: only the suffix makes the difference;
- after the longest prefix that fits: what the room of the suffix would be worth without it;
- as a control, in both orders with the suffix of another hole: a model that does not read the
  suffix loses nothing.
Context is cut as for generation (`hugcoder.generation.prompts.kept_context`), or to what a longer
middle leaves. The end token is no text: its probability is reported apart, and at several lengths
in `evaluation.ends`.
"""

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from evaluation.bootstrap import estimate, mean
from evaluation.likelihood import score
from evaluation.spans import KINDS, BenchmarkSpan
from hugcoder.generation.loading import CheckpointCodec
from hugcoder.generation.prompts import arrange_prompt, context_length, kept_context

if TYPE_CHECKING:
    from transformers import PreTrainedModel

FIM_WAYS = ("psm", "spm")
FOREIGN = {"psm_foreign": "psm", "spm_foreign": "spm"}
WAYS = (*FIM_WAYS, *FOREIGN, "prefix_only", "longest_prefix")


@dataclass(frozen=True)
class MiddleScores:
    """By way, an array with one entry a span: bits of the middle, and nats of the end token."""

    bits: dict[str, np.ndarray]
    stop_nats: dict[str, np.ndarray]


def fitting_spans(
    spans: list[BenchmarkSpan], codec: CheckpointCodec, context: int
) -> list[BenchmarkSpan]:
    """The spans whose middle takes at most half the context."""
    middles = codec.encode([span.truth for span in spans])
    return [s for s, ids in zip(spans, middles, strict=True) if len(ids) <= context // 2]


def score_middles(
    model: "PreTrainedModel",
    codec: CheckpointCodec,
    spans: list[BenchmarkSpan],
    max_prompt_tokens: int,
    batch_tokens: int,
) -> MiddleScores:
    """Score the true middle of each span in every way.

    Args: max_prompt_tokens: what stands before a middle, see `prompts.prompt_room`.
    """
    bits, stop_nats = {}, {}
    for way in WAYS:
        sequences, firsts = [], []
        for index, span in enumerate(spans):
            other = spans[(index + len(spans) // 2) % len(spans)]
            most = (max_prompt_tokens, context_length(model))
            before, middle, after = _sequence(codec, span, other, way, *most)
            sequences.append([*before, *middle, *after])
            firsts.append(len(before))
        nats = score(model, sequences, firsts, batch_tokens)
        if way in FIM_WAYS:
            stop_nats[way] = np.array([one[-1] for one in nats])
            nats = [one[:-1] for one in nats]
        bits[way] = np.array([one.sum() for one in nats]) / math.log(2)
    return MiddleScores(bits, stop_nats)


def _sequence(
    codec: CheckpointCodec,
    span: BenchmarkSpan,
    other: BenchmarkSpan,
    way: str,
    max_prompt_tokens: int,
    context: int,
) -> tuple[list[int], list[int], list[int]]:
    """Ids before the middle, of it and after it. Args: other: the hole with the foreign suffix."""
    texts = [span.prefix, span.truth, span.suffix, other.suffix]
    prefix, middle, suffix, foreign = codec.encode(texts)
    room = min(max_prompt_tokens, context - len(middle) - 1)
    if way in FIM_WAYS:
        return arrange_prompt(codec, prefix, suffix, way, room), middle, [codec.fim_ids.end]
    if way in FOREIGN:
        prefix, suffix = kept_context(codec, prefix, suffix, room)
        prompt = codec.fim_ids.prompt(prefix, foreign[: len(suffix)], FOREIGN[way])
        return [*codec.start_ids, *prompt], middle, []
    if way == "prefix_only":
        prefix, _ = kept_context(codec, prefix, suffix, room)
    else:
        prefix = prefix[-(room - len(codec.start_ids)) :]
    return [*codec.start_ids, *prefix], middle, []


def measure(
    model: "PreTrainedModel",
    codec: CheckpointCodec,
    spans: list[BenchmarkSpan],
    max_prompt_tokens: int,
    batch_tokens: int,
    seed: int,
) -> dict[str, Any]:
    """The middle_bits_per_byte part of results.json."""
    scores = score_middles(model, codec, spans, max_prompt_tokens, batch_tokens)
    kinds = np.array([span.kind for span in spans])
    everything = _summary(scores, spans, np.ones(len(spans), dtype=bool), seed)
    by_kind = {
        kind: _summary(scores, spans, kinds == kind, seed) for kind in KINDS if kind in kinds
    }
    return everything | {"by_kind": by_kind}


def _summary(
    scores: MiddleScores, spans: list[BenchmarkSpan], is_in: np.ndarray, seed: int
) -> dict[str, Any]:
    """Bits per byte each way; gains over the prefix alone (bits per byte and per cent) and over a
    foreign suffix (per cent); the end token's mean nats and mean probability.
    """
    taken = [span for span, is_taken in zip(spans, is_in, strict=True) if is_taken]
    units = [span.document.unit for span in taken]
    num_bytes = np.array([len(span.truth.encode()) for span in taken], dtype=float)
    bits = {way: values[is_in] for way, values in scores.bits.items()}
    summary: dict[str, Any] = {way: estimate(bits[way], num_bytes, units, seed) for way in WAYS}
    summary["stop"] = {}
    for way in FIM_WAYS:
        gained = bits["prefix_only"] - bits[way]
        summary[f"gain_{way}"] = estimate(gained, num_bytes, units, seed)
        summary[f"gain_{way}_percent"] = estimate(100 * gained, bits["prefix_only"], units, seed)
        read = bits[f"{way}_foreign"] - bits[way]
        percent = estimate(100 * read, bits[f"{way}_foreign"], units, seed)
        summary[f"gain_{way}_over_foreign_percent"] = percent
        nats = scores.stop_nats[way][is_in]
        summary["stop"][way] = {
            "nats": mean(nats, units, seed),
            "probability": mean(np.exp(-nats), units, seed),
        }
    return summary | {"spans": len(taken), "bytes": int(num_bytes.sum())}
