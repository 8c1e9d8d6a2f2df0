"""Held-out rows scored in the training loop: nats a token and bits a byte of each kind of token.

What the scores of a finished model are is the evaluation package's concern.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from accelerate import Accelerator
from torch.utils.data import DataLoader, SequentialSampler
from transformers import PreTrainedModel

from hugcoder.batch import PackedCollator
from hugcoder.loss import loss_by_kind
from hugcoder.rows import NUM_LOSS_KINDS, PackedRows


@dataclass(frozen=True)
class Score:
    """Of one kind of token; nan where there was none."""

    nats_per_token: float
    bits_per_byte: float


@torch.no_grad()
def score_rows(
    model: PreTrainedModel,
    rows: PackedRows,
    accelerator: Accelerator,
    collator: PackedCollator,
    batch_size: int,
    after_batch: Callable[[], None],
) -> list[Score]:
    """The score of each kind of token over rows; all ranks share the work and get the answer."""
    per_rank = max(1, min(batch_size, len(rows) // accelerator.num_processes))
    sampler = SequentialSampler(rows)
    loader = accelerator.prepare(
        DataLoader(rows, batch_size=per_rank, sampler=sampler, collate_fn=collator)
    )
    num_bytes = torch.from_numpy(rows.codec.num_bytes).to(accelerator.device)
    totals = torch.zeros(3, NUM_LOSS_KINDS, device=accelerator.device)
    model.eval()
    for batch in loader:
        kinds, labels = batch.pop("kinds"), batch.pop("labels")
        sums, counts = loss_by_kind(model(**batch).logits, labels, kinds)
        sizes = num_bytes[labels.clamp(min=0)] * (labels >= 0)
        by_kind = [(sizes * (kinds == kind)).sum() for kind in range(NUM_LOSS_KINDS)]
        totals += torch.stack([sums, counts, torch.stack(by_kind).float()])
        after_batch()
    model.train()
    by_kind = accelerator.reduce(totals, reduction="sum").T.tolist()
    return [
        Score(nats / max(tokens, 1), nats / math.log(2) / max(size, 1))
        for nats, tokens, size in by_kind
    ]
