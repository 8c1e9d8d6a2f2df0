"""Muon with AdamW as one optimizer: the same steps as the two apart, also after a restart."""

import copy
import io

import pytest
import torch
from torch.optim import _muon
from transformers import AutoConfig, AutoModelForCausalLM, get_scheduler

from hugcoder import hardware
from hugcoder.pretraining.optimizer import (
    MuonWithAdamW,
    hidden_matrices,
    make_muon,
    orthogonalized_in_float32,
)

SETTINGS = {
    "muon_learning_rate": 0.02,
    "muon_weight_decay": 0.01,
    "learning_rate": 3e-3,
    "betas": (0.9, 0.95),
    "epsilon": 1e-8,
}


@pytest.fixture
def model():
    return make_model()


def make_model(*, is_tied: bool = True):
    torch.manual_seed(0)
    config = AutoConfig.for_model(
        "qwen3",
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=16,
        vocab_size=64,
        tie_word_embeddings=is_tied,
    )
    return AutoModelForCausalLM.from_config(config)


def backward(model, step: int) -> None:
    generator = torch.Generator().manual_seed(step)
    ids = torch.randint(0, 64, (2, 12), generator=generator)
    model.zero_grad()
    model(input_ids=ids, labels=ids).loss.backward()


def train(model, optimizer, steps: range, scheduler=None) -> None:
    for step in steps:
        backward(model, step)
        optimizer.step()
        if scheduler:
            scheduler.step()


def weights(model) -> list[torch.Tensor]:
    return [parameter.detach().clone() for parameter in model.parameters()]


def assert_identical(first: list[torch.Tensor], second: list[torch.Tensor]) -> None:
    for one, other in zip(first, second, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0)


def parts_apart(model) -> tuple[torch.optim.Muon, torch.optim.AdamW]:
    named = dict(model.named_parameters())
    in_layers = [p for n, p in named.items() if n.startswith("model.layers") and p.ndim == 2]
    others = [p for p in named.values() if not any(p is q for q in in_layers)]
    muon = torch.optim.Muon(in_layers, lr=0.02, weight_decay=0.01)
    adamw = torch.optim.AdamW(
        others, lr=3e-3, betas=(0.9, 0.95), eps=1e-8, weight_decay=0.0, fused=True
    )
    return muon, adamw


@pytest.mark.parametrize("is_tied", [True, False])
def test_it_equals_the_two_optimizers_apart(is_tied):
    together, apart = make_model(is_tied=is_tied), make_model(is_tied=is_tied)
    optimizer = make_muon(together, **SETTINGS)
    muon, adamw = parts_apart(apart)
    for step in range(4):
        train(together, optimizer, range(step, step + 1))
        backward(apart, step)
        muon.step()
        adamw.step()
    assert_identical(weights(together), weights(apart))
    assert not torch.equal(weights(together)[0], weights(make_model(is_tied=is_tied))[0])


@pytest.mark.parametrize("is_tied", [True, False])
def test_each_weight_is_in_one_group_and_only_layer_matrices_in_muon(is_tied):
    model = make_model(is_tied=is_tied)
    optimizer = make_muon(model, **SETTINGS)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    muon, adamw = ([names[id(p)] for p in group["params"]] for group in optimizer.param_groups)
    assert sorted(muon + adamw) == sorted(names.values())
    assert all(name.startswith("model.layers") and "norm" not in name for name in muon)
    assert len(muon) == 2 * 7, "q, k, v, o, gate, up, down of two layers"
    assert all("embed" in name or "norm" in name or "lm_head" in name for name in adamw)


def test_frozen_weights_are_in_no_group(model):
    model.get_input_embeddings().weight.requires_grad_(False)
    optimizer = make_muon(model, **SETTINGS)
    frozen = model.get_input_embeddings().weight
    assert not any(p is frozen for group in optimizer.param_groups for p in group["params"])


def test_a_restart_goes_on_bit_for_bit(model):
    optimizer = make_muon(model, **SETTINGS)
    train(model, optimizer, range(3))
    file = io.BytesIO()
    torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict()}, file)
    train(model, optimizer, range(3, 6))

    restarted = make_model()
    second = make_muon(restarted, **SETTINGS)
    file.seek(0)
    saved = torch.load(file, weights_only=True)
    restarted.load_state_dict(saved["model"])
    second.load_state_dict(saved["optimizer"])
    train(restarted, second, range(3, 6))
    assert_identical(weights(model), weights(restarted))


def test_a_scheduler_drives_both_learning_rates(model):
    optimizer = make_muon(model, **SETTINGS)
    scheduler = get_scheduler("linear", optimizer, num_warmup_steps=2, num_training_steps=6)
    assert [group["lr"] for group in optimizer.param_groups] == [0.0, 0.0]
    before = weights(model)
    train(model, optimizer, range(1), scheduler)
    assert_identical(weights(model), before)  # the first step of a warm-up has a rate of 0
    train(model, optimizer, range(1, 2), scheduler)
    assert [group["lr"] for group in optimizer.param_groups] == [0.02, 3e-3]
    parts = [part.param_groups[0]["lr"] for part in optimizer.parts]
    assert parts == [0.02, 3e-3], "the parts read the rate the schedule wrote"


def test_a_restart_under_a_scheduler_goes_on_bit_for_bit(model):
    def build(model):
        optimizer = make_muon(model, **SETTINGS)
        return optimizer, get_scheduler("cosine", optimizer, 1, 8)

    optimizer, scheduler = build(model)
    train(model, optimizer, range(3), scheduler)
    saved = copy.deepcopy(
        [part.state_dict() for part in (model, optimizer, scheduler)],
    )
    train(model, optimizer, range(3, 6), scheduler)
    restarted = make_model()
    second, its_scheduler = build(restarted)
    for part, state in zip((restarted, second, its_scheduler), saved, strict=True):
        part.load_state_dict(state)
    train(restarted, second, range(3, 6), its_scheduler)
    assert_identical(weights(model), weights(restarted))


def test_zero_grad_reaches_every_weight(model):
    optimizer = make_muon(model, **SETTINGS)
    backward(model, 0)
    optimizer.zero_grad()
    assert all(parameter.grad is None for parameter in model.parameters())


def names_in_muon(model) -> set[str]:
    taken = {id(parameter) for parameter in hidden_matrices(model)}
    return {name for name, parameter in model.named_parameters() if id(parameter) in taken}


def test_muon_takes_no_vectors_embeddings_or_heads():
    names = names_in_muon(make_model(is_tied=False))
    assert any("up_proj" in name for name in names)
    assert not any(part in name for name in names for part in ("norm", "embed", "lm_head"))


def test_embeddings_of_gpt2_like_models_are_not_in_muon():
    from transformers import GPT2Config, GPT2LMHeadModel

    model = GPT2LMHeadModel(GPT2Config(n_embd=8, n_layer=1, n_head=1, vocab_size=16, n_positions=8))
    names = names_in_muon(model)
    assert any("c_attn" in name for name in names)
    assert not any(part in name for name in names for part in ("wte", "wpe", "ln_", "lm_head"))


def test_a_closure_is_refused(model):
    optimizer: MuonWithAdamW = make_muon(model, **SETTINGS)
    with pytest.raises(RuntimeError, match="takes no closure"):
        optimizer.step(lambda: 0.0)


@pytest.mark.parametrize("shape", [(64, 64), (48, 96), (96, 48)])
def test_muon_without_bf16_is_muon_to_the_rounding_of_bf16(shape):
    grad = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    words = (grad, (3.4445, -4.775, 2.0315), 5, 1e-7)
    ours, theirs = orthogonalized_in_float32(*words), _muon._zeropower_via_newtonschulz(*words)
    assert ours.dtype == torch.float32
    assert (ours - theirs.float()).norm() < 0.03 * ours.norm()


def test_a_processor_without_bf16_steps_in_float32(model, monkeypatch):
    """Symptom: ten seconds a step, all of them emulated bf16 products of Muon."""
    monkeypatch.setattr(_muon, "_zeropower_via_newtonschulz", _muon._zeropower_via_newtonschulz)
    monkeypatch.setattr(hardware, "processor_has_bf16", lambda: True)
    theirs = _muon._zeropower_via_newtonschulz
    make_muon(model, **SETTINGS)
    assert _muon._zeropower_via_newtonschulz is theirs
    monkeypatch.setattr(hardware, "processor_has_bf16", lambda: False)
    make_muon(model, **SETTINGS)
    assert _muon._zeropower_via_newtonschulz is orthogonalized_in_float32
