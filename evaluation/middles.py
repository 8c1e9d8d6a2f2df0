"""What a model says of true middles, without sampling noise: their probability, their bits, what
the text after a hole is worth, and how its answer would begin.

The same middle is scored, as the tokens that a healed answer has (`hugcoder.data.healing`), the
first of them among those that may come first:
- after a fill-in-the-middle prompt, in PSM and in SPM order;
- after the prefix of that prompt alone, as plain text: only the suffix makes the difference;
- after the longest prefix that fits: what the room of the suffix would be worth without it;
- as a control, in both orders with the suffix of another hole: a model that does not read the
  suffix loses nothing, and ends behind the middle as often.
Context is cut as for generation (`hugcoder.generation.prompts.kept_context`), or to what a longer
middle leaves. The end token is no text: it is in no bits per byte, and has its own probability,
here at the length of generation and in `evaluation.ends` at several lengths.

The mean probability of a middle and its end is the share of holes that sampling at temperature 1
would fill in exactly: it moves long before a greedy answer is right.
"""

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from evaluation.bootstrap import estimate, mean
from evaluation.likelihood import Scored, score
from evaluation.spans import BenchmarkSpan, ids_of
from evaluation.training_split import TrainingSplit
from hugcoder.data.holes import KINDS
from hugcoder.generation.loading import CheckpointCodec
from hugcoder.generation.prompts import Prompt, arrange_prompt, context_length, kept_context

if TYPE_CHECKING:
    from transformers import PreTrainedModel

FIM_WAYS = ("psm", "spm")
FOREIGN = {"psm_foreign": "psm", "spm_foreign": "spm"}
WAYS = (*FIM_WAYS, *FOREIGN, "prefix_only", "longest_prefix")
FIRST_TOKENS = ("text", "end", "sentinel")


@dataclass(frozen=True)
class MiddleScores:
    """By way, an array with one entry a span.

    bits: of the middle. end_nats: of the end token behind it. first: what the likeliest first token
    is, of FIRST_TOKENS; it is taken before generation forbids sentinels. Only orders of
    fill-in-the-middle have an end, and only with the own suffix a first token; the n-gram floor has
    its own idea of an end.
    """

    bits: dict[str, np.ndarray]
    end_nats: dict[str, np.ndarray]
    first: dict[str, np.ndarray]


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
    bits, end_nats, first = {}, {}, {}
    for way in WAYS:
        asked = []
        for index, span in enumerate(spans):
            other = spans[(index + len(spans) // 2) % len(spans)]
            most = (max_prompt_tokens, context_length(model))
            asked.append(_sequence(codec, span, other, way, *most))
        nats = [one.nats for one in score_answers(model, codec, asked, batch_tokens)]
        if way in FIM_WAYS or way in FOREIGN:
            end_nats[way] = np.array([one[-1] for one in nats])
            nats = [one[:-1] for one in nats]
        if way in FIM_WAYS:
            prompts = [prompt for prompt, _ in asked]
            scored = score_answers(model, codec, empty_answers(codec, prompts), batch_tokens)
            first[way] = first_tokens(codec, prompts, scored)
        bits[way] = np.array([one.sum() for one in nats]) / math.log(2)
    return MiddleScores(bits, end_nats, first)


def score_answers(
    model: "PreTrainedModel",
    codec: CheckpointCodec,
    asked: list[tuple[Prompt, list[int]]],
    batch_tokens: int,
) -> list[Scored]:
    """Score answers behind their prompts, the first token among those that may come first."""
    sequences = [[*prompt.ids, *answer] for prompt, answer in asked]
    firsts = [len(prompt.ids) for prompt, _ in asked]
    beginnings = [codec.healing.beginning(prompt.last) for prompt, _ in asked]
    allowed = [codec.healing.allowed(beginning) if beginning else None for beginning in beginnings]
    return score(model, sequences, firsts, batch_tokens, allowed)


def empty_answers(codec: CheckpointCodec, prompts: list[Prompt]) -> list[tuple[Prompt, list[int]]]:
    """The answer to each prompt that adds nothing: the token before the cursor, and the end."""
    return [(prompt, [*prompt.last, codec.fim_ids.end]) for prompt in prompts]


def first_tokens(codec: CheckpointCodec, prompts: list[Prompt], scored: list[Scored]) -> np.ndarray:
    """What the likeliest answer begins with, one of FIRST_TOKENS for each prompt.

    Args: scored: the scores of `empty_answers`.
    """
    pairs = zip(prompts, scored, strict=True)
    return np.array([_first_token(codec, prompt, one.likeliest.tolist()) for prompt, one in pairs])


def _first_token(codec: CheckpointCodec, prompt: Prompt, likeliest: list[int]) -> str:
    if likeliest[:-1] != prompt.last:
        return "text"
    if likeliest[-1] in codec.fim_ids.sentinels.values():
        return "sentinel"
    return "end" if likeliest[-1] in codec.fim_ids.stops else "text"


def _sequence(
    codec: CheckpointCodec,
    span: BenchmarkSpan,
    other: BenchmarkSpan,
    way: str,
    max_prompt_tokens: int,
    context: int,
) -> tuple[Prompt, list[int]]:
    """The prompt of a hole and its answer. Args: other: the hole with the foreign suffix."""
    prefix, middle, suffix, _, answer = ids_of(codec, span, context)
    room, end = min(max_prompt_tokens, context - len(middle) - 1), [codec.fim_ids.end]
    if way in FIM_WAYS:
        prompt = arrange_prompt(codec, prefix, suffix, way, room)
    elif way in FOREIGN:
        own_prefix, own_suffix = kept_context(codec, prefix, suffix, room)
        foreign = ids_of(codec, other, context).suffix
        ids, last = codec.healing.heal(own_prefix)
        ids = codec.fim_ids.prompt(ids, foreign[: len(own_suffix)], FOREIGN[way])
        prompt = Prompt([*codec.start_ids, *ids], last)
    else:
        if way == "prefix_only":
            kept, _ = kept_context(codec, prefix, suffix, room)
        else:
            kept = prefix[-(room - len(codec.start_ids)) :]
        ids, last = codec.healing.heal(kept)
        if not ids and not codec.start_ids:  # something must stand before what is scored
            ids, last = last, []
        prompt, end = Prompt([*codec.start_ids, *ids], last), []
    return prompt, [*(answer if prompt.last else middle), *end]


def ngram_scores(
    codec: CheckpointCodec, spans: list[BenchmarkSpan], training: TrainingSplit
) -> tuple[np.ndarray, np.ndarray]:
    """The n-gram floor's bits of each middle, and its nats of the end: of going on as the text
    behind the hole does.
    """
    bits, end_nats = [], []
    for span in spans:
        prefix, middle, suffix = codec.encode([span.prefix, span.truth, span.suffix])
        ids = [*prefix, *middle, *(suffix[:1] or [codec.fim_ids.end])]
        nats = -np.log(training.ngram.probabilities(ids, len(prefix)))
        bits.append(nats[:-1].sum() / math.log(2))
        end_nats.append(nats[-1])
    return np.array(bits), np.array(end_nats)


def measure(
    model: "PreTrainedModel",
    codec: CheckpointCodec,
    spans: list[BenchmarkSpan],
    training: TrainingSplit,
    max_prompt_tokens: int,
    batch_tokens: int,
    seed: int,
) -> dict[str, Any]:
    """The middle_bits_per_byte part of results.json, see `_summary`."""
    scores = score_middles(model, codec, spans, max_prompt_tokens, batch_tokens)
    scores.bits["ngram"], scores.end_nats["ngram"] = ngram_scores(codec, spans, training)
    kinds = np.array([span.kind for span in spans])
    everything = _summary(scores, spans, np.ones(len(spans), dtype=bool), seed)
    by_kind = {
        kind: _summary(scores, spans, kinds == kind, seed) for kind in KINDS if kind in kinds
    }
    return everything | {"by_kind": by_kind}


def _summary(
    scores: MiddleScores, spans: list[BenchmarkSpan], is_in: np.ndarray, seed: int
) -> dict[str, Any]:
    """Bits per byte each way, `ngram` the floor's; gains over the prefix alone (bits per byte and
    per cent) and over a foreign suffix (per cent); `stop`, the end token's mean nats and mean
    probability, also with a foreign suffix; `filled`, the mean probability of the middle with its
    end, of the middle alone, their mean bits, and the shares of FIRST_TOKENS.
    """
    taken = [span for span, is_taken in zip(spans, is_in, strict=True) if is_taken]
    units = [span.document.unit for span in taken]
    num_bytes = np.array([len(span.truth.encode()) for span in taken], dtype=float)
    bits = {way: values[is_in] for way, values in scores.bits.items()}
    summary: dict[str, Any] = {
        way: estimate(values, num_bytes, units, seed) for way, values in bits.items()
    }
    summary["stop"], summary["filled"] = {}, {}
    for way in FIM_WAYS:
        gained = bits["prefix_only"] - bits[way]
        summary[f"gain_{way}"] = estimate(gained, num_bytes, units, seed)
        summary[f"gain_{way}_percent"] = estimate(100 * gained, bits["prefix_only"], units, seed)
        read = bits[f"{way}_foreign"] - bits[way]
        percent = estimate(100 * read, bits[f"{way}_foreign"], units, seed)
        summary[f"gain_{way}_over_foreign_percent"] = percent
        first = scores.first[way][is_in]
        shares = {name: mean(first == name, units, seed) for name in FIRST_TOKENS}
        summary["filled"][way] = {"first": shares}
    for way, all_nats in scores.end_nats.items():
        end_nats, end_bits = all_nats[is_in], all_nats[is_in] / math.log(2)
        summary["stop"][way] = {
            "nats": mean(end_nats, units, seed),
            "probability": mean(np.exp(-end_nats), units, seed),
        }
        if way in FOREIGN:
            continue
        summary["filled"][way] = summary["filled"].get(way, {}) | {
            "probability": mean(2.0 ** -(bits[way] + end_bits), units, seed),
            "bits": mean(bits[way] + end_bits, units, seed),
            "middle_probability": mean(2.0 ** -bits[way], units, seed),
            "middle_bits": mean(bits[way], units, seed),
        }
    return summary | {"spans": len(taken), "bytes": int(num_bytes.sum())}
