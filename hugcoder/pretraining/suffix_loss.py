"""An auxiliary loss with which a model learns to read where the text behind the hole begins.

A middle ends where its text goes on as the suffix does. But whether it ends is one token of a
hundred, and in its first millions of tokens a small model learns ends from middles alone: it ends
as often before the suffix of another hole (benchmarks/filling_in_cpu.md). So from each place that
writes a token of a middle it must also tell the first token of its suffix, among others of the
row, from the hidden state of one layer. Without a parameter of its own: a place points at the
embedding of the token, through a fixed rotation, so that the answer does not become the next token.
Asking a model for what lies ahead at each token of a middle is borrowed from horizon-length
prediction (Ding et al. 2024, arXiv 2410.03103), which asks how long the middle will be.

Shapes: B rows, T tokens, D hidden size, N negatives.
"""

from functools import lru_cache

import torch
import torch.nn.functional as F

from hugcoder.data.rows import FIM_MIDDLE

NEGATIVES = 256  # tokens of the row, evenly spaced, that the true one is told from
ROTATION_SEED = 7
IMPOSSIBLE = -1e4  # finite, so that gradients are as well


def suffix_loss(
    hidden_states: tuple[torch.Tensor, ...],
    input_ids_BT: torch.Tensor,
    position_ids_BT: torch.Tensor,
    kinds_BT: torch.Tensor,
    suffix_sentinel: int,
) -> torch.Tensor:
    """Sum the negative log-likelihood of the suffixes' first tokens and count the places asked.

    Without a host synchronisation, and with shapes that do not depend on the values.

    Args: hidden_states: [B, T, D] each, the embeddings first.
    Returns: [2] float32, nats and their number; units without a suffix count nothing.
    """
    states_BTD, embedded_BTD = hidden_states[layer_of(hidden_states)], hidden_states[0].detach()
    asked_BTD = _rotated(F.rms_norm(states_BTD.float(), states_BTD.shape[-1:]))
    embedded_BTD = embedded_BTD.float()
    place_BT = _first_of_suffix(input_ids_BT, position_ids_BT, suffix_sentinel)
    truth_BT = input_ids_BT.gather(1, place_BT)
    true_BTD = embedded_BTD.gather(1, place_BT[..., None].expand_as(embedded_BTD))
    true_BT = (asked_BTD * true_BTD).sum(-1)

    # of the same row, so that the loss does not depend on which rows share a micro-batch
    last = input_ids_BT.shape[1] - 1
    chosen_N = torch.linspace(0, last, NEGATIVES, device=input_ids_BT.device).long()
    others_BTN = asked_BTD @ embedded_BTD[:, chosen_N].transpose(1, 2)
    is_truth_BTN = truth_BT[..., None] == input_ids_BT[:, None, chosen_N]
    others_BTN = others_BTN.masked_fill(is_truth_BTN, IMPOSSIBLE)
    nats_BT = torch.logaddexp(true_BT, others_BTN.logsumexp(-1)) - true_BT

    is_asked_BT = (place_BT > 0) & _writes_a_middle(position_ids_BT, kinds_BT)
    return torch.stack([(nats_BT * is_asked_BT).sum(), is_asked_BT.sum().float()])


def layer_of(hidden_states: tuple[torch.Tensor, ...]) -> int:
    """Return which state is asked: half way up, so that the layers above can use the answer."""
    return max((len(hidden_states) - 1) // 2, 1)


def _first_of_suffix(
    input_ids_BT: torch.Tensor, position_ids_BT: torch.Tensor, suffix_sentinel: int
) -> torch.Tensor:
    """For each token the place in its row of its unit's first token of the suffix; 0 = none."""
    unit_BT = (position_ids_BT == 0).cumsum(1)
    after_T = torch.arange(1, input_ids_BT.shape[1] + 1, device=input_ids_BT.device)
    is_sentinel_BT = input_ids_BT == suffix_sentinel
    place_of_unit = torch.zeros_like(torch.cat([unit_BT, unit_BT[:, :1]], dim=1))
    # tokens that are no sentinel write the 0 that entry 0 has already; units count from 1
    place_of_unit.scatter_(1, unit_BT * is_sentinel_BT, after_T * is_sentinel_BT)
    return place_of_unit.gather(1, unit_BT).clamp(max=input_ids_BT.shape[1] - 1)


def _writes_a_middle(position_ids_BT: torch.Tensor, kinds_BT: torch.Tensor) -> torch.Tensor:
    """Tell for each place whether the next token of its unit belongs to a middle."""
    is_middle_BT = (kinds_BT == FIM_MIDDLE) & (position_ids_BT > 0)
    return F.pad(is_middle_BT, (0, 1))[:, 1:]


def _rotated(states_BTD: torch.Tensor) -> torch.Tensor:
    """Apply a fixed rotation: coordinates change their places, and half of them their signs."""
    order, signs = _rotation(states_BTD.shape[-1], states_BTD.device)
    return states_BTD[..., order] * signs


@lru_cache(maxsize=1)
def _rotation(size: int, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(ROTATION_SEED)
    order = torch.randperm(size, generator=generator)
    signs = torch.randint(0, 2, (size,), generator=generator) * 2.0 - 1.0
    return order.to(device), signs.to(device)
