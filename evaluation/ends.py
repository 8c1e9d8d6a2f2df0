"""How a model finds the end of a middle: by the text that follows, or by the unit's length.

The end token is scored behind the true middle, in both orders, in units of several exact lengths.
A model that has learned the end from the suffix gives it the same probability at every length. One
that was trained on units of one length finds it at that length only, and never stops in an editor.
Lengths double from 64 to the context.
"""

from typing import TYPE_CHECKING, Any

import numpy as np

from evaluation.bootstrap import mean
from evaluation.likelihood import score
from evaluation.spans import BenchmarkSpan
from hugcoder.generation.loading import CheckpointCodec
from hugcoder.generation.prompts import MIN_PROMPT_TOKENS, arrange_prompt, context_length

if TYPE_CHECKING:
    from transformers import PreTrainedModel

SHORTEST_UNIT = 64
ORDERS = ("psm", "spm")


def lengths_up_to(context: int) -> list[int]:
    """The lengths of the units that are scored, in tokens."""
    lengths = [context]
    while lengths[0] >= 2 * SHORTEST_UNIT:
        lengths.insert(0, lengths[0] // 2)
    return lengths


def measure(
    model: "PreTrainedModel",
    codec: CheckpointCodec,
    spans: list[BenchmarkSpan],
    batch_tokens: int,
    seed: int,
) -> dict[str, Any]:
    """The ends part of results.json: by order, P(end | true middle) at each length, and `spread`,
    the highest less the lowest of them. Every length has the same holes; lengths that no
    file fills are left out.
    """
    found: dict[str, Any] = {}
    for order in ORDERS:
        lengths = lengths_up_to(context_length(model))
        while lengths and not (taken := _long_enough(codec, spans, order, lengths)):
            lengths.pop()
        origins = [span.document.unit for span in taken] if lengths else []
        by_length = {}
        for length in lengths:
            units = [_unit(codec, span, order, length) for span in taken]
            nats = score(model, units, [length - 1] * len(units), batch_tokens)
            probabilities = [float(np.exp(-one[0])) for one in nats]
            by_length[str(length)] = {
                "probability": mean(probabilities, origins, seed),
                "spans": len(taken),
            }
        values = [one["probability"]["value"] for one in by_length.values()]
        spread = max(values) - min(values) if values else None
        found[order] = {"by_length": by_length, "spread": spread}
    return found


def _long_enough(
    codec: CheckpointCodec, spans: list[BenchmarkSpan], order: str, lengths: list[int]
) -> list[BenchmarkSpan]:
    """The spans that give a unit of each length."""
    return [s for s in spans if all(_unit(codec, s, order, length) for length in lengths)]


def _unit(codec: CheckpointCodec, span: BenchmarkSpan, order: str, length: int) -> list[int]:
    """A whole unit of exactly `length` tokens; empty when the file is too short for it, or the
    middle too long."""
    prefix, middle, suffix = codec.encode([span.prefix, span.truth, span.suffix])
    room = length - len(middle) - 1
    if room < MIN_PROMPT_TOKENS:
        return []
    unit = [*arrange_prompt(codec, prefix, suffix, order, room), *middle, codec.fim_ids.end]
    return unit if len(unit) == length else []
