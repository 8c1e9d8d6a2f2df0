"""Proof, before the first step, that packed documents do not see each other.

Runs the real model, attention kernel, precision and micro-batch: the first rows of the run as they
are, then some of their units alone. If logits or losses differ, training refuses to start. Nothing
else would show a leak; the loss only looks a little better.
"""

import itertools
import logging
from collections.abc import Callable
from typing import Any

import torch

from hugcoder.loss import token_losses
from hugcoder.refusal import Refusal
from hugcoder.rows import IGNORED, PADDING

logger = logging.getLogger(__name__)

# batch without labels and kinds -> logits [B, T, V]
Forward = Callable[[dict[str, Any]], torch.Tensor]
Collate = Callable[[list[dict[str, torch.Tensor]]], dict[str, Any]]

UNITS_TRIED = 4
SHORTEST_UNIT = 8
# Allowed difference relative to the spread of the logits. Measured on untrained models: float32
# 1e-6, bfloat16 up to 5e-2, a leak 0.4 and more.
TOLERANCE = {torch.float32: 1e-3, torch.bfloat16: 0.15, torch.float16: 2e-2}


def prove_isolation(
    rows: list[dict[str, torch.Tensor]], forward: Forward, collate: Collate, dtype: torch.dtype
) -> str:
    """Compare units in their rows with the same units alone in rows of the same shape.

    Args:
        rows: one micro-batch of the training data.
        forward: the model as training calls it.
        dtype: the precision it computes in, which decides the tolerance.

    Returns: a sentence for the log.
    Raises: Refusal with the measured difference when a document sees another.
    """
    units = _units_behind_others(rows)[:UNITS_TRIED]
    if not units:
        return "isolation self-test: no row holds two documents, so there is nothing to leak"
    packed = _run(rows, forward, collate)
    spread = packed.float().std().item()
    worst_logit = worst_loss = seen = 0.0
    for row, start, stop in units:
        alone, disturbed = _alone_and_disturbed(rows, row, start, stop, forward, collate)
        inside = packed[row, start:stop]
        worst_logit = max(worst_logit, (inside - alone).abs().max().item() / spread)
        worst_loss = max(worst_loss, _loss_difference(rows[row], packed[row], alone, start, stop))
        seen = max(seen, (disturbed - alone)[-1].abs().max().item() / spread)
    allowed = TOLERANCE[dtype]
    if worst_logit > allowed or worst_loss > allowed:
        raise Refusal(
            f"packed documents leak into each other: the logits of a document change by "
            f"{worst_logit:.3f} of their spread and its loss by {worst_loss:.3f} nats a token when "
            f"other documents share the row (allowed {allowed}). The attention kernel ignores "
            "position_ids; give another --attn_implementation (sdpa isolates)."
        )
    if not seen > worst_logit:
        raise Refusal(
            f"the isolation self-test is blind: a document's own first half moves its last logits "
            f"by only {seen:.1e} of their spread, so a leak would not show. Give --residual_init "
            "scaled, or look at the weights."
        )
    return (
        f"isolation self-test: {len(units)} packed documents equal themselves alone (logits within "
        f"{worst_logit:.1e} of their spread, loss within {worst_loss:.1e} nats a token)"
    )


def _run(rows: list[dict[str, torch.Tensor]], forward: Forward, collate: Collate) -> torch.Tensor:
    batch = collate(rows)
    inputs = {name: value for name, value in batch.items() if name not in ("labels", "kinds")}
    # with gradients on, as in training: a compiled model would be compiled again without
    return forward(inputs).detach()


def _units_behind_others(rows: list[dict[str, torch.Tensor]]) -> list[tuple[int, int, int]]:
    """(row, start, stop) of units that something precedes in their row, spread over the rows."""
    units = []
    for index, row in enumerate(rows):
        length = int((row["kinds"] != PADDING).sum())
        starts = torch.nonzero(row["position_ids"][:length] == 0).flatten().tolist()
        for start, stop in list(itertools.pairwise([*starts, length]))[1:]:
            if stop - start >= SHORTEST_UNIT:
                units.append((index, start, stop))
    step = max(1, len(units) // UNITS_TRIED)
    return units[::step]


def _alone_and_disturbed(
    rows: list[dict[str, torch.Tensor]],
    row: int,
    start: int,
    stop: int,
    forward: Forward,
    collate: Collate,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits [T, V] of a unit alone in a row, and of the same unit with its first half reversed."""
    alone = _alone(rows[row], start, stop)
    disturbed = {name: value.clone() for name, value in alone.items()}
    half = (stop - start) // 2
    disturbed["input_ids"][:half] = alone["input_ids"][:half].flip(0)
    length = stop - start
    first = _run([alone, *rows[1:]], forward, collate)[0, :length]
    return first, _run([disturbed, *rows[1:]], forward, collate)[0, :length]


def _alone(row: dict[str, torch.Tensor], start: int, stop: int) -> dict[str, torch.Tensor]:
    """A row of the same shape that holds only one unit, at its beginning."""
    length = len(row["input_ids"])
    padding = length - (stop - start)
    position_ids = torch.cat([torch.arange(stop - start), torch.arange(padding)])
    alone = {name: value.clone() for name, value in row.items()} | {"position_ids": position_ids}
    alone["input_ids"] = torch.cat(
        [
            row["input_ids"][start:stop],
            row["input_ids"].new_full((padding,), int(row["input_ids"][0])),
        ]
    )
    return alone


def _loss_difference(
    row: dict[str, torch.Tensor], packed: torch.Tensor, alone: torch.Tensor, start: int, stop: int
) -> float:
    """Loss a token of one unit within its row, by the row's own labels, against the unit alone.

    The row's labels at start to stop count every target of the unit and, were the first label not
    masked, also the target that belongs to no document, which the unit alone does not have.
    """
    targets = row["labels"].to(packed.device)
    nll, _ = token_losses(packed[None], targets[None])
    inside = nll[max(start - 1, 0) : stop - 1].sum()
    own_labels = targets[start:stop].clone()
    own_labels[0] = IGNORED
    nll_alone, _ = token_losses(alone[None], own_labels[None])
    return (inside - nll_alone.sum()).abs().item() / (stop - start)
