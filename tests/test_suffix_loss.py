"""The suffix loss, against a loop over the places of real rows."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import fim
from hugcoder.data.rows import FIM_MIDDLE
from hugcoder.pretraining import suffix_loss as module
from hugcoder.pretraining.suffix_loss import layer_of, suffix_loss

SIZE = 32


@pytest.fixture(params=[("psm", 2), ("spm", 1), ("spm", 2)])
def batch(codec, request):
    """Two rows of units in one order, with a plain text and padding between them."""
    order, variant = request.param
    ids_of, settings = codec.fim_ids.with_spm_variant(variant), fim.FimSettings(1, order == "spm")
    texts = ["def f(a):\n    return a + 1\n", "x = [1, 2, 3]\n", "", "import os\nimport sys\n"]
    rows = []
    for row in range(2):
        ids, positions, kinds, truths = [], [], [], []
        for number, text in enumerate(texts):
            rng = np.random.default_rng(10 * row + number)
            unit = fim.make_unit(text or "y", codec.encode, ids_of, rng, settings, 60)
            unit_ids, start = (
                (unit.ids, unit.middle_start) if text else (codec.encode(["a b"])[0], 99)
            )
            first = unit_ids[unit_ids.index(ids_of.sentinels["s"]) + 1] if text else None
            for place in range(len(unit_ids)):
                ids.append(unit_ids[place])
                positions.append(place)
                kinds.append(FIM_MIDDLE if place >= start else 1)
                writes = start - 1 <= place < len(unit_ids) - 1
                truths.append(first if text and writes else None)
        rows.append([ids, positions, kinds, truths])
    length = max(len(row[0]) for row in rows)
    for ids, positions, kinds, truths in rows:
        missing = length - len(ids)
        ids += [codec.pad] * missing
        positions += range(missing)
        kinds += [3] * missing
        truths += [None] * missing
    ids, positions, kinds = (torch.tensor([row[part] for row in rows]) for part in range(3))
    generator = torch.Generator().manual_seed(0)
    states = tuple(torch.randn(*ids.shape, SIZE, generator=generator) for _ in range(5))
    return SimpleNamespace(
        ids=ids,
        positions=positions,
        kinds=kinds,
        states=states,
        truths=[row[3] for row in rows],
        sentinel=ids_of.sentinels["s"],
    )


def test_it_is_the_cross_entropy_of_the_suffixes_first_tokens(batch):
    """A token that is its own suffix's first is found at its place, the others among negatives."""
    order, signs = module._rotation(SIZE, torch.device("cpu"))
    chosen = torch.linspace(0, batch.ids.shape[1] - 1, module.NEGATIVES).long().tolist()
    nats = []
    for row, truths in enumerate(batch.truths):
        for place, truth in enumerate(truths):
            if truth is None:
                continue
            state = batch.states[2][row, place]
            asked = (state / state.pow(2).mean().add(1e-7).sqrt())[order] * signs
            unit = batch.positions[row, : place + 1].tolist()
            start = max(index for index, position in enumerate(unit) if position == 0)
            ids = batch.ids[row].tolist()
            own = ids.index(batch.sentinel, start) + 1
            assert ids[own] == truth
            right = asked @ batch.states[0][row, own]
            wrong = [asked @ batch.states[0][row, i] for i in chosen if ids[i] != truth]
            nats.append(float(torch.stack([right, *wrong]).logsumexp(0) - right))
    found = suffix_loss(batch.states, batch.ids, batch.positions, batch.kinds, batch.sentinel)
    assert found[1].item() == len(nats) > 20
    assert found[0].item() == pytest.approx(math.fsum(nats), rel=1e-4)


def test_its_gradient_reaches_only_places_that_write_a_middle(batch):
    states = [state.requires_grad_() for state in batch.states]
    suffix_loss(tuple(states), batch.ids, batch.positions, batch.kinds, batch.sentinel)[
        0
    ].backward()
    assert all(state.grad is None for i, state in enumerate(states) if i != 2)
    reached = states[2].grad.abs().sum(-1) > 0
    asked = torch.tensor([[truth is not None for truth in row] for row in batch.truths])
    assert torch.equal(reached, asked)
    assert states[2].grad.isfinite().all()


def test_rows_that_share_a_micro_batch_do_not_matter(batch):
    rows = (batch.ids, batch.positions, batch.kinds)
    together = suffix_loss(batch.states, *rows, batch.sentinel)
    alone = [
        suffix_loss([s[[row]] for s in batch.states], *(r[[row]] for r in rows), batch.sentinel)
        for row in range(2)
    ]
    torch.testing.assert_close(together, alone[0] + alone[1])


def test_rows_without_holes_count_nothing(batch):
    plain = torch.full_like(batch.ids, 300)
    positions = torch.arange(batch.ids.shape[1]).expand_as(batch.ids)
    found = suffix_loss(batch.states, plain, positions, torch.zeros_like(plain), batch.sentinel)
    assert found.tolist() == [0, 0]


@pytest.mark.parametrize(("layers", "layer"), [(1, 1), (2, 1), (4, 2), (33, 16)])
def test_the_state_half_way_up_is_asked(layers, layer):
    assert layer_of((torch.zeros(1),) * (layers + 1)) == layer
