"""The loss of packed rows, whole and apart for left-to-right tokens, FIM context and FIM middles.

One pass over the logits gives all of them, on the device, without a host synchronisation.
"""

import torch
import torch.nn.functional as F

from hugcoder.data.rows import IGNORED, NUM_LOSS_KINDS


def loss_by_kind(
    logits_BTV: torch.Tensor, labels_BT: torch.Tensor, kinds_BT: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Summed negative log-likelihood and number of predicted tokens for each kind of token.

    Args:
        labels_BT: not shifted; the token at t is predicted by the logits at t - 1.
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
    """Negative log-likelihood in nats of each target, and the targets, both flattened to [B x T].

    The last position of a row predicts nothing and has the target -100, as ignored ones have.
    """
    targets_N = F.pad(labels_BT, (0, 1), value=IGNORED)[:, 1:].flatten()
    logits_NV = logits_BTV.flatten(0, 1).float()
    return F.cross_entropy(logits_NV, targets_N, reduction="none", ignore_index=IGNORED), targets_N
