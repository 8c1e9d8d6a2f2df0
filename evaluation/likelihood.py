"""Negative log-likelihoods of tokens in their sequences: the one place where a model scores.

Sequences are padded on the right and given without an attention mask: attention is causal, so what
stands to the right of a token cannot change its score. Shapes: B sequences, T tokens, V vocabulary.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch

if TYPE_CHECKING:
    from transformers import PreTrainedModel

MAX_LOGITS = 1 << 26  # in one forward pass: 256 MB of float32


class Scored(NamedTuple):
    """What a model says of one sequence from index `first` on."""

    nats: np.ndarray  # [len(sequence) - first] float64, of each token given all before it
    likeliest: np.ndarray  # [len(sequence) - first] ids of the likeliest tokens in their places


@torch.inference_mode()
def score(
    model: "PreTrainedModel",
    sequences: list[list[int]],
    firsts: list[int],
    batch_tokens: int,
    allowed: Sequence[np.ndarray | None] | None = None,
) -> list[Scored]:
    """Score each sequence from its index `first` (at least 1) on.

    Args:
        batch_tokens: tokens with padding in one forward pass.
        allowed: for each sequence the ids that are possible at `first`; None = all.
    """
    allowed = allowed or [None] * len(sequences)
    assert all(first >= 1 for first in firsts), "nothing predicts a sequence's first token"
    vocab_size = model.config.vocab_size
    order = sorted(range(len(sequences)), key=lambda i: (len(sequences[i]), -firsts[i]))
    scores: list[Scored] = [Scored(np.empty(0), np.empty(0))] * len(sequences)
    while order:
        width = len(sequences[order[-1]])
        batch: list[int] = []
        keep = 0
        while order:
            wider = max(keep, width - firsts[order[-1]] + 1)
            too_large = (len(batch) + 1) * width > batch_tokens
            too_large |= (len(batch) + 1) * wider * vocab_size > MAX_LOGITS
            if batch and too_large:
                break
            batch.append(order.pop())
            keep = wider
        _score_batch(model, sequences, firsts, allowed, batch, keep, scores)
    return scores


def _score_batch(
    model: "PreTrainedModel",
    sequences: list[list[int]],
    firsts: list[int],
    allowed: Sequence[np.ndarray | None],
    batch: list[int],
    keep: int,
    scores: list[Scored],
) -> None:
    """Fill in the scores of the sequences of `batch`, the longest first. Only the last `keep`
    positions get logits.
    """
    width = len(sequences[batch[0]])
    rows = [sequences[i] + [0] * (width - len(sequences[i])) for i in batch]
    ids_BT = torch.tensor(rows, device=model.device)
    logits_BTV = model(input_ids=ids_BT, use_cache=False, logits_to_keep=keep).logits
    offset = width - logits_BTV.shape[1]  # position of the first row of logits
    for row, index in enumerate(batch):
        first, length = firsts[index], len(sequences[index])
        logits_TV = logits_BTV[row, first - 1 - offset : length - 1 - offset].float().clone()
        if allowed[index] is not None:
            forbidden_V = torch.ones(logits_TV.shape[1], dtype=torch.bool, device=model.device)
            forbidden_V[torch.from_numpy(allowed[index]).to(model.device)] = False
            logits_TV[0].masked_fill_(forbidden_V, -torch.inf)
        targets_T = ids_BT[row, first:length]
        nats_T = torch.nn.functional.cross_entropy(logits_TV, targets_T, reduction="none")
        likeliest = logits_TV.argmax(-1).cpu().numpy()
        scores[index] = Scored(nats_T.double().cpu().numpy(), likeliest)
