"""Whether a model knows that nothing is missing: places without a hole beside real holes.

The first token of an answer decides: the end token at once is silence (behind the token before the
cursor, which an answer writes again, see `hugcoder.data.healing`). *Quiet* is the share of
places where nothing is missing that are left alone, *show* the share of holes that are answered
with something. A model can raise either at the cost of the other by being more or less ready to
end, so both are given, for the greedy choice and at the readiness that keeps show at 90 %.

Holes and places come in pairs that have the same last character before them and the same first one
behind them (`hugcoder.data.holes.draw_pair`), so what can be told from these two is worth nothing.
That is measured too, by the best rule of that kind: see `two_characters`.
"""

from collections import Counter
from typing import TYPE_CHECKING, Any

import numpy as np

from evaluation.bootstrap import mean
from evaluation.middles import FIM_WAYS, empty_answers, first_tokens, score_answers
from evaluation.spans import BenchmarkSpan, ids_of
from hugcoder.data.holes import QUIET, SHOW
from hugcoder.generation.loading import CheckpointCodec
from hugcoder.generation.prompts import arrange_prompt

if TYPE_CHECKING:
    from transformers import PreTrainedModel

KEPT_SHOW = 0.9


def measure(
    model: "PreTrainedModel",
    codec: CheckpointCodec,
    spans: list[BenchmarkSpan],
    max_prompt_tokens: int,
    batch_tokens: int,
    seed: int,
) -> dict[str, Any]:
    """The silence part of results.json. Args: spans: of `spans.choose_pairs`."""
    rule = _rates(spans, two_characters(spans), seed)
    found: dict[str, Any] = {"spans": len(spans), "floors": {"two_characters": rule}}
    for order in FIM_WAYS:
        prompts = [
            arrange_prompt(codec, ids.prefix, ids.suffix, order, max_prompt_tokens)
            for ids in (ids_of(codec, span, max_prompt_tokens) for span in spans)
        ]
        scored = score_answers(model, codec, empty_answers(codec, prompts), batch_tokens)
        nats = np.array([one.nats.sum() for one in scored])
        greedy = first_tokens(codec, prompts, scored) == "end"
        found[order] = _rates(spans, greedy, seed) | {
            "quiet_at_show": _rates(spans, nats < kept_threshold(spans, nats), seed)
        }
    return found


def two_characters(spans: list[BenchmarkSpan]) -> np.ndarray:
    """Whether a rule that sees the two neighbouring characters says that nothing is missing there.

    The rule is the best there is, for it is made from the answers: it is silent where more of the
    places with these neighbours are `quiet` than `show`.
    """
    keys = [(s.prefix[-1:], s.suffix[:1]) for s in spans]
    balance: Counter[tuple[str, str]] = Counter()
    for key, span in zip(keys, spans, strict=True):
        balance[key] += 1 if span.kind == QUIET else -1
    return np.array([balance[key] > 0 for key in keys])


def kept_threshold(spans: list[BenchmarkSpan], nats: np.ndarray) -> float:
    """The nats of the end below which silence leaves `show` at KEPT_SHOW or more."""
    shown = np.sort(nats[[span.kind == SHOW for span in spans]])
    return float(shown[int((1 - KEPT_SHOW) * len(shown) + 1e-9)])


def _rates(spans: list[BenchmarkSpan], is_silent: np.ndarray, seed: int) -> dict[str, Any]:
    """Quiet and show, and `right`, their mean: 50 % for whoever sees nothing."""
    kinds = np.array([span.kind for span in spans])
    units = np.array([span.document.unit for span in spans], dtype=object)
    right = is_silent == (kinds == QUIET)
    found = {kind: mean(right[kinds == kind], units[kinds == kind], seed) for kind in (QUIET, SHOW)}
    return found | {"right": mean(right, units, seed)}
