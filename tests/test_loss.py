"""The loss: equal to transformers' own, and its parts add up."""

from types import SimpleNamespace

import pytest
import torch
from core_fixtures import make_rows
from transformers.loss.loss_utils import ForCausalLMLoss

from hugcoder.data import row_statistics
from hugcoder.data.corpus import TRAIN
from hugcoder.data.rows import (
    FIM_CONTEXT,
    FIM_MIDDLE,
    IGNORED,
    LEFT_TO_RIGHT,
    NUM_LOSS_KINDS,
    PADDING,
)
from hugcoder.data.token_store import TokenStore
from hugcoder.pretraining.loss import loss_by_kind, token_losses
from hugcoder.pretraining.trainer import PretrainTrainer
from hugcoder.run.loss_sums import LossSums

VOCAB_SIZE = 1024


@pytest.fixture(scope="module")
def batch(store, codec) -> dict[str, torch.Tensor]:
    rows = make_rows(TokenStore(store, TRAIN), codec, row_length=128)
    picked = [rows[index] for index in row_statistics.fullest_rows(rows, 6)]
    return {name: torch.stack([row[name] for row in picked]) for name in picked[0]}


@pytest.fixture(scope="module")
def logits_BTV(batch) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return 3 * torch.randn(*batch["labels"].shape, VOCAB_SIZE, generator=generator)


@pytest.mark.parametrize("num_items", [None, 12345])
def test_the_whole_loss_is_that_of_transformers(batch, logits_BTV, num_items):
    sums, counts = loss_by_kind(logits_BTV, batch["labels"], batch["kinds"])
    own = sums.sum() / (counts.sum() if num_items is None else num_items)
    theirs = ForCausalLMLoss(logits_BTV, batch["labels"], VOCAB_SIZE, num_items_in_batch=num_items)
    assert own.item() == pytest.approx(theirs.item(), rel=1e-6)


def test_its_gradient_is_that_of_transformers(batch, logits_BTV):
    gradients = []
    for own in (True, False):
        logits = logits_BTV[:2].clone().requires_grad_()
        labels = batch["labels"][:2]
        if own:
            sums, counts = loss_by_kind(logits, labels, batch["kinds"][:2])
            loss = sums.sum() / counts.sum()
        else:
            loss = ForCausalLMLoss(logits, labels, VOCAB_SIZE)
        gradients.append(torch.autograd.grad(loss, logits)[0])
    torch.testing.assert_close(*gradients, rtol=1e-5, atol=1e-8)


def test_each_kind_is_what_a_loop_over_tokens_counts(batch, logits_BTV):
    sums, counts = loss_by_kind(logits_BTV, batch["labels"], batch["kinds"])
    log_probabilities = logits_BTV.log_softmax(-1)
    expected_sums, expected_counts = [0.0] * 4, [0] * 4
    for row, labels in enumerate(batch["labels"].tolist()):
        for t, label in enumerate(labels):
            if t == 0 or label == IGNORED:
                continue
            kind = int(batch["kinds"][row, t])
            expected_sums[kind] -= log_probabilities[row, t - 1, label].item()
            expected_counts[kind] += 1
    assert expected_counts[PADDING] == 0
    assert counts.tolist() == expected_counts[:NUM_LOSS_KINDS]
    assert sums.tolist() == pytest.approx(expected_sums[:NUM_LOSS_KINDS], rel=1e-5)
    assert all(expected_counts[kind] for kind in (LEFT_TO_RIGHT, FIM_CONTEXT, FIM_MIDDLE))


def test_counts_are_the_labels_that_can_be_predicted(batch, logits_BTV):
    _, counts = loss_by_kind(logits_BTV, batch["labels"], batch["kinds"])
    assert counts.sum() == (batch["labels"][:, 1:] != IGNORED).sum()


def test_the_first_label_of_a_row_is_never_predicted(logits_BTV):
    """Not by the last logits of the row before, as flattening without a shift would have it."""
    labels = torch.full((2, 4), IGNORED)
    labels[1, 0] = 7
    nll_N, targets_N = token_losses(logits_BTV[:2, :4], labels)
    assert (targets_N == IGNORED).all()
    assert (nll_N == 0).all()


def test_low_precision_logits_are_scored_in_float32(batch, logits_BTV):
    logits = logits_BTV.bfloat16()
    sums, _ = loss_by_kind(logits, batch["labels"], batch["kinds"])
    exact, _ = loss_by_kind(logits.float(), batch["labels"], batch["kinds"])
    assert sums.dtype == torch.float32
    torch.testing.assert_close(sums, exact)


@pytest.mark.parametrize("weight", [0.0, 1.0, 3.0])
def test_the_weight_of_middles_counts_in_the_gradient_and_not_in_the_log(batch, logits_BTV, weight):
    """Against a weighted sum over tokens; what is logged stays the plain mean."""
    logged = LossSums(torch.device("cpu"), NUM_LOSS_KINDS, {})
    trainer = SimpleNamespace(
        args=SimpleNamespace(use_liger_kernel=False, middle_weight=weight, suffix_loss_weight=0),
        accelerator=SimpleNamespace(num_processes=1),
        _loss_by_kind=loss_by_kind,
        loss_sums=logged,
    )
    outputs = SimpleNamespace(logits=logits_BTV)
    inputs = {name: batch[name] for name in ("labels", "kinds")}
    loss = PretrainTrainer.compute_loss(trainer, lambda: outputs, inputs, num_items_in_batch=1000)
    nats, targets = token_losses(logits_BTV, batch["labels"])
    kinds = torch.nn.functional.pad(batch["kinds"], (0, 1))[:, 1:].flatten()
    weights = torch.where(kinds == FIM_MIDDLE, weight, 1.0) * (targets != IGNORED)
    assert loss.item() == pytest.approx((nats * weights).sum().item() / 1000, rel=1e-5)
    sums, counts = loss_by_kind(logits_BTV, batch["labels"], batch["kinds"])
    plain = (sums.sum() / counts.sum()).item()
    logged.keep(logged.end_step(torch.tensor(1.0), lambda own: own)[1])
    assert logged.read_window()["loss"] == pytest.approx(plain, rel=1e-5)
