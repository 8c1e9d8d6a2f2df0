"""Proves, before the first step, that packed documents do not see each other.

Runs the real model, attention kernel, precision and micro-batch three times: with the rows of the
run, with every second document changed, and with the other documents changed. An unchanged document
must keep its logits and its loss; if not, training refuses to start. Nothing else would show a
leak: the loss would only look a little better.

Documents stay in their places, so shapes, positions and masks are the same in all three passes. The
random numbers are the same too, so dropout, NEFTune and router noise make no difference. So nothing
rounds differently, and without a leak the difference is 0.0, not merely small. The test does not
see positions that count from the start of the row if the mask isolates.
"""

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from hugcoder.data.rows import PADDING
from hugcoder.pretraining.loss import token_losses
from hugcoder.refusal import Refusal
from hugcoder.run.random_state import repeated_draws

# Takes a batch without labels and kinds, and returns logits [B, T, V].
Forward = Callable[[dict[str, Any]], torch.Tensor]
Collate = Callable[[list[dict[str, torch.Tensor]]], dict[str, Any]]

SHORTEST_UNIT = 8  # tokens; a document of this length must react to a change of its own
# Allowed difference relative to the spread of the logits, on an accelerator. Measured on CPUs: 0.0
# in float32 and bfloat16, dense and with experts, sdpa and eager, compiled and sharded; 0.4 and
# more with a leak. On GPUs too, kernels add in the same order for the same shapes. But an expert
# gets other numbers of tokens, and a library may choose another kernel for them. So this is a
# rounding of the precision with a margin, not measured.
ROUNDING = {torch.float32: 1e-4, torch.float16: 4e-3, torch.bfloat16: 3e-2}


@dataclass(frozen=True)
class Document:
    """Says where a unit, or the padding of a row, stands in the micro-batch."""

    row: int
    start: int
    stop: int
    is_padding: bool

    @property
    def length(self) -> int:
        return self.stop - self.start

    @property
    def kept(self) -> int:
        """Return the token that is never changed: only tokens before it can move its logits."""
        return self.stop - 2

    @property
    def must_react(self) -> bool:
        return not self.is_padding and self.length >= SHORTEST_UNIT


@dataclass(frozen=True)
class Difference:
    """Says how far passes differ: logits relative to their spread, losses in nats a token."""

    logits: float
    loss: float


def prove_isolation(
    rows: list[dict[str, torch.Tensor]], forward: Forward, collate: Collate, dtype: torch.dtype
) -> str:
    """Compare each document with itself while the documents around it change.

    Restores the random number generators at the end.

    Args:
        rows: one micro-batch of the training data.
        forward: the model as training calls it; it may draw random numbers.
        dtype: the precision that the model computes in.

    Returns: a sentence for the log.
    Raises: Refusal with the measured difference when a document sees another.
    """
    documents = _documents(rows)
    units = [document for document in documents if not document.is_padding]
    has_two = len(units) > len({unit.row for unit in units})
    if not has_two or not any(unit.must_react for unit in units):
        return "isolation self-test: no row holds two documents, so there is nothing to leak"
    with repeated_draws() as repeat:
        original = _run(rows, forward, collate)
        seen, leaked = [], []
        for changed in (documents[0::2], documents[1::2]):
            repeat()
            other = _run(_with_others(rows, changed), forward, collate)
            reacting, watched = _compare(rows, original, other, documents, set(changed))
            seen += reacting
            leaked += watched
    worst = Difference(max(d.logits for d in leaked), max(d.loss for d in leaked))
    least = Difference(min(d.logits for d in seen), min(d.loss for d in seen))
    _judge(worst, least, 0.0 if original.device.type == "cpu" else ROUNDING[dtype])
    return (
        f"isolation self-test: {len(units)} packed documents keep their logits and losses when the "
        f"others change (within {worst.logits:.1e} of the logits' spread and {worst.loss:.1e} nats "
        f"a token; a change of their own moves them by {least.logits:.1e} and {least.loss:.1e})"
    )


def _judge(worst: Difference, least: Difference, allowed: float) -> None:
    """Judge the differences.

    Raises: Refusal when a document moves with others, or does not move with its own tokens.
    """
    if worst.logits > allowed or worst.loss > allowed:
        reason = (
            "The labels make one document predict a token of another, or padding"
            if worst.logits <= allowed
            else "Either the attention kernel ignores position_ids (give another "
            "--attn_implementation; sdpa isolates), or the model mixes the tokens of a row without "
            "attention, as recurrent layers and experts of limited capacity do; such a model "
            "cannot be trained on packed rows"
        )
        raise Refusal(
            f"packed documents leak into each other: the logits of a document change by "
            f"{worst.logits:.3f} of their spread and its loss by {worst.loss:.2g} nats a token "
            f"when other documents of the micro-batch change (allowed {allowed}). {reason}."
        )
    if not (least.logits > worst.logits and least.loss > worst.loss):
        raise Refusal(
            f"the isolation self-test is blind: a document's own tokens move its logits by only "
            f"{least.logits:.1e} of their spread and its loss by {least.loss:.1e} nats a token, so "
            "a leak would not show. Look at the weights and the labels; with zeros in the weights, "
            "give --residual_init scaled."
        )


def _run(rows: list[dict[str, torch.Tensor]], forward: Forward, collate: Collate) -> torch.Tensor:
    batch = collate(rows)
    inputs = {name: value for name, value in batch.items() if name not in ("labels", "kinds")}
    # gradients are on, as in training: without them a compiled model would be compiled again
    return forward(inputs).detach().clone()  # a compiled graph may reuse its output's memory


def _documents(rows: list[dict[str, torch.Tensor]]) -> list[Document]:
    """List all documents in order; of two neighbours in a row, only one is changed at a time."""
    documents = []
    for index, row in enumerate(rows):
        starts = torch.nonzero(row["position_ids"] == 0).flatten().tolist()
        for start, stop in itertools.pairwise([*starts, len(row["position_ids"])]):
            is_padding = int(row["kinds"][start]) == PADDING
            documents.append(Document(index, start, stop, is_padding))
    return documents


def _with_others(
    rows: list[dict[str, torch.Tensor]], changed: list[Document]
) -> list[dict[str, torch.Tensor]]:
    """Replace each token of some documents by another token that occurs in the rows.

    One token of each document stays, so that a change of its logits comes through the attention.
    """
    known = torch.stack([row["input_ids"] for row in rows]).unique()
    result = [row | {"input_ids": row["input_ids"].clone()} for row in rows]
    for document in changed:
        ids = result[document.row]["input_ids"]
        own = ids[document.start : document.stop].clone()
        next_known = known[(torch.searchsorted(known, own) + 1) % len(known)]
        ids[document.start : document.stop] = next_known
        if document.must_react:
            ids[document.kept] = own[-2]
    return result


def _compare(
    rows: list[dict[str, torch.Tensor]],
    original: torch.Tensor,
    other: torch.Tensor,
    documents: list[Document],
    changed: set[Document],
) -> tuple[list[Difference], list[Difference]]:
    """Measure the changed documents (at the kept token) and all other documents."""
    spread = original.std().item()
    if not math.isfinite(spread + other.std().item()):
        raise Refusal(
            "the model's logits are not finite numbers before the first step; give other weights."
        )
    reacting, watched = [], []
    for index, row in enumerate(rows):
        logits = (original[index].float() - other[index].float()).abs().amax(-1) / spread
        targets = row["labels"].to(original.device)[None]
        loss = token_losses(original[index][None], targets)[0]
        loss_of_other = token_losses(other[index][None], targets)[0]
        for document in (document for document in documents if document.row == index):
            own = slice(document.start, document.stop)
            # logits predict the next token; so a first label that is not masked counts too
            predicted = slice(max(document.start - 1, 0), document.stop - 1)
            change = (loss[predicted].sum() - loss_of_other[predicted].sum()).abs().item()
            change /= document.length
            if document not in changed:
                watched.append(Difference(logits[own].max().item(), change))
            elif document.must_react:
                reacting.append(Difference(logits[document.kept].item(), change))
    return reacting, watched
