"""Scores held-out rows during training: nats per token and bits per byte, for each kind of token.

The evaluation package scores finished models.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from accelerate import Accelerator
from torch.utils.data import DataLoader, Dataset, SequentialSampler
from transformers import PreTrainedModel

from hugcoder.data.batch import PackedCollator
from hugcoder.data.rows import IGNORED, NUM_LOSS_KINDS, PackedRows
from hugcoder.pretraining.loss import loss_by_kind


@dataclass(frozen=True)
class Score:
    """Scores one kind of token; nan when there were no such tokens, or they have no bytes."""

    nats: float
    num_tokens: float
    num_bytes: float

    @property
    def nats_per_token(self) -> float:
        return self.nats / self.num_tokens if self.num_tokens else math.nan

    @property
    def bits_per_byte(self) -> float:
        return self.nats / math.log(2) / self.num_bytes if self.num_bytes else math.nan

    def metrics(self, loss: str, bits: str) -> dict[str, float]:
        """Return loss and bits per byte under these names; leave out those that do not exist."""
        found = {loss: self.nats_per_token} if self.num_tokens else {}
        return found | ({bits: self.bits_per_byte} if self.num_bytes else {})


class FilledUp(Dataset):
    """Adds ignored rows after the others, so that every rank gets whole batches.

    accelerate would add rows that are then counted twice.
    """

    def __init__(self, rows: Dataset, multiple: int):
        self.rows, self.length = rows, -(-len(rows) // multiple) * multiple

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        if index < len(self.rows):
            return self.rows[index]
        row = self.rows[0]
        return row | {"labels": torch.full_like(row["labels"], IGNORED)}


def held_out_batches(
    rows: Dataset, accelerator: Accelerator, collator: PackedCollator, batch_size: int
) -> DataLoader:
    """Share out rows to all ranks, in whole batches and the same number of them."""
    num_ranks = accelerator.num_processes
    per_rank = min(batch_size, -(-len(rows) // num_ranks))
    whole = FilledUp(rows, multiple=per_rank * num_ranks)
    sampler = SequentialSampler(whole)
    return accelerator.prepare(
        DataLoader(whole, batch_size=per_rank, sampler=sampler, collate_fn=collator)
    )


@torch.no_grad()
def score_rows(
    model: PreTrainedModel,
    rows: PackedRows,
    accelerator: Accelerator,
    collator: PackedCollator,
    batch_size: int,
    after_batch: Callable[[], None],
) -> list[Score]:
    """Score each kind of token over rows; all ranks share the work and get the answer."""
    loader = held_out_batches(rows, accelerator, collator, batch_size)
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
    return [Score(*sums) for sums in accelerator.reduce(totals, reduction="sum").T.tolist()]
