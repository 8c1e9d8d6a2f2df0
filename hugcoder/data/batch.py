"""Makes batches of rows in the one form in which transformers keeps packed documents apart.

With transformers 5, position ids that restart isolate packed documents only when the batch has no
attention_mask and the model runs with use_cache=False. Flash kernels also need the document
boundaries of the flattened micro-batch: from position ids alone they isolate only at batch size 1.
`hugcoder.pretraining.isolation` proves the isolation on the real model before training starts.
"""

from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class PackedCollator:
    """Stack rows; add `cu_seq_lens` and `max_length` where the attention kernel reads them."""

    is_flash: bool

    def __call__(self, rows: list[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor | int]:
        batch: dict[str, torch.Tensor | int] = {
            name: torch.stack([row[name] for row in rows]) for name in rows[0]
        }
        return batch | boundaries(batch["position_ids"]) if self.is_flash else batch


def boundaries(position_ids_BT: torch.Tensor) -> dict[str, torch.Tensor | int]:
    """Return the keyword arguments that tell flash attention where documents begin.

    `max_length` is the row length, an upper bound. An exact value would differ from batch to batch
    and make torch.compile compile again.
    """
    starts = torch.nonzero(position_ids_BT.flatten() == 0).flatten()
    end = torch.tensor([position_ids_BT.numel()])
    cu_seq_lens = torch.cat([starts, end]).to(torch.int32)
    row_length = position_ids_BT.shape[1]
    return {
        "cu_seq_lens_q": cu_seq_lens,
        "cu_seq_lens_k": cu_seq_lens,
        "max_length_q": row_length,
        "max_length_k": row_length,
    }
