"""How a model finds the end of a middle: by the text that follows, or by the unit's length.

The end token is scored behind the true middle, in both orders, in units of several exact lengths.
A model that has learned the end from the suffix gives it the same probability at every length. One
that was trained on units of one length finds it at that length only, and never stops in an editor.
"""

from typing import TYPE_CHECKING, Any

import numpy as np

from evaluation.bootstrap import mean
from evaluation.likelihood import score
from evaluation.spans import BenchmarkSpan, ids_of
from hugcoder.data.holes import KINDS, UNIT_LENGTHS
from hugcoder.generation.loading import CheckpointCodec
from hugcoder.generation.prompts import MIN_PROMPT_TOKENS, arrange_prompt, context_length

if TYPE_CHECKING:
    from transformers import PreTrainedModel

ORDERS = ("psm", "spm")


def lengths_up_to(context: int) -> list[int]:
    """The lengths of the units that are scored, in tokens; long ones double from 512."""
    doubled = [512 * 2**power for power in range(context.bit_length())]
    return [*(length for length in (*UNIT_LENGTHS, *doubled) if length < context), context]


def measure(
    model: "PreTrainedModel",
    codec: CheckpointCodec,
    spans: list[BenchmarkSpan],
    batch_tokens: int,
    seed: int,
) -> dict[str, Any]:
    """The ends part of results.json: what `_summary` says by order, for all holes and by kind."""
    found: dict[str, Any] = {"by_kind": {}}
    for order in ORDERS:
        taken, by_length = _probabilities(model, codec, spans, order, batch_tokens)
        kinds = np.array([span.kind for span in taken])
        found[order] = _summary(taken, by_length, np.ones(len(taken), dtype=bool), seed)
        for kind in KINDS:
            if kind in kinds:
                part = _summary(taken, by_length, kinds == kind, seed)
                found["by_kind"].setdefault(kind, {})[order] = part
    return found


def _probabilities(
    model: "PreTrainedModel",
    codec: CheckpointCodec,
    spans: list[BenchmarkSpan],
    order: str,
    batch_tokens: int,
) -> tuple[list[BenchmarkSpan], dict[int, np.ndarray]]:
    """The holes that give a unit of each length, and by length their P(end | true middle) [holes].

    Lengths that no file fills are left out.
    """
    context = context_length(model)
    lengths = lengths_up_to(context)
    while lengths and not (taken := _long_enough(codec, spans, order, lengths, context)):
        lengths.pop()
    by_length = {}
    for length in lengths:
        units = [_unit(codec, span, order, length, context) for span in taken]
        scored = score(model, units, [length - 1] * len(units), batch_tokens)
        by_length[length] = np.array([np.exp(-one.nats[0]) for one in scored])
    return (taken if lengths else []), by_length


def _summary(
    spans: list[BenchmarkSpan], by_length: dict[int, np.ndarray], is_in: np.ndarray, seed: int
) -> dict[str, Any]:
    """The mean probability at each length, and `spread`, the highest less the lowest of them."""
    origins = [span.document.unit for span, is_taken in zip(spans, is_in, strict=True) if is_taken]
    means = {
        str(length): {"probability": mean(values[is_in], origins, seed), "spans": len(origins)}
        for length, values in by_length.items()
    }
    values = [one["probability"]["value"] for one in means.values()]
    return {"by_length": means, "spread": max(values) - min(values) if values else None}


def _long_enough(
    codec: CheckpointCodec,
    spans: list[BenchmarkSpan],
    order: str,
    lengths: list[int],
    context: int,
) -> list[BenchmarkSpan]:
    """The spans that give a unit of each length."""
    return [s for s in spans if all(_unit(codec, s, order, n, context) for n in lengths)]


def _unit(
    codec: CheckpointCodec, span: BenchmarkSpan, order: str, length: int, context: int
) -> list[int]:
    """A whole unit of exactly `length` tokens; empty when the file is too short for it, or the
    middle too long."""
    prefix, _, suffix, last, answer = ids_of(codec, span, context)
    room = length - len(answer) - 1 + len(last)  # an answer writes `last` again, and then the end
    if room < MIN_PROMPT_TOKENS:
        return []
    prompt = arrange_prompt(codec, prefix, suffix, order, room)
    unit = [*prompt.ids, *answer, codec.fim_ids.end]
    return unit if prompt.last == last and len(unit) == length else []
