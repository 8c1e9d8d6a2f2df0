"""Computes the loss of packed rows: left-to-right tokens, FIM context and FIM middles apart.

One pass over the logits gives all of them, on the device, without a host synchronisation.
"""

import torch
import torch.nn.functional as F

from hugcoder.data.rows import IGNORED, NUM_LOSS_KINDS


def loss_by_kind(
    logits_BTV: torch.Tensor, labels_BT: torch.Tensor, kinds_BT: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Sum the negative log-likelihood and count the predicted tokens of each kind.

    Args:
        labels_BT: not shifted; the logits at t - 1 predict the token at t.
        kinds_BT: LEFT_TO_RIGHT, FIM_CONTEXT, FIM_MIDDLE or PADDING of the token at t.

    Returns: two [NUM_LOSS_KINDS] float32 tensors, sums in nats and counts.
    """
    nll_N, targets_N = token_losses(logits_BTV, labels_BT)
    kinds_N = F.pad(kinds_BT, (0, 1), value=0)[:, 1:].flatten()
    is_predicted_N = targets_N != IGNORED
    sums, counts = [], []
    for kind in range(NUM_LOSS_KINDS):
        is_kind_N = is_predicted_N & (kinds_N == kind)
        sums.append((nll_N * is_kind_N).sum())
        counts.append(is_kind_N.sum())
    return torch.stack(sums), torch.stack(counts).float()


def token_losses(
    logits_BTV: torch.Tensor, labels_BT: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return each target's negative log-likelihood in nats, and the targets, flattened to [B x T].

    The last position of a row predicts nothing; its target is -100, like that of ignored tokens.
    """
    targets_N = F.pad(labels_BT, (0, 1), value=IGNORED)[:, 1:].flatten()
    logits_NV = logits_BTV.flatten(0, 1).float()
    return F.cross_entropy(logits_NV, targets_N, reduction="none", ignore_index=IGNORED), targets_N
