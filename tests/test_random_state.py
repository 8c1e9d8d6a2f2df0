"""Random numbers of a resumed run: a model that draws them needs as many processes as before."""

import random

import numpy as np
import pytest
import torch
from transformers import DbrxConfig, GPT2Config, MixtralConfig, Qwen3Config

from hugcoder.model import manifest
from hugcoder.refusal import Refusal
from hugcoder.run import random_state


@pytest.fixture
def written_by_two(tmp_path):
    folder = tmp_path / "checkpoint-4"
    folder.mkdir()
    manifest.complete(folder, {"step": 4, "world_size": 2})
    return folder


def drawn() -> tuple:
    return random.random(), float(np.random.rand()), torch.rand(2).tolist()


def test_a_model_without_dropout_goes_on_at_any_world_size(written_by_two):
    for world_size in (1, 2, 3):
        random_state.check_random_state(written_by_two, Qwen3Config(), world_size)


def test_a_model_with_dropout_needs_as_many_processes(written_by_two):
    config = Qwen3Config(attention_dropout=0.1)
    random_state.check_random_state(written_by_two, config, 2)
    with pytest.raises(Refusal, match=r"written by 2 processes and these are 1.* is 0\.1"):
        random_state.check_random_state(written_by_two, config, 1)


def test_noise_of_neftune_needs_as_many_processes_too(written_by_two):
    random_state.check_random_state(written_by_two, Qwen3Config(), 2, 5.0)
    with pytest.raises(Refusal, match=r"but neftune_noise_alpha is 5\.0.*Start 2 processes"):
        random_state.check_random_state(written_by_two, Qwen3Config(), 1, 5.0)


def test_noise_of_routers_counts_wherever_the_config_keeps_it():
    assert random_state.dropouts(MixtralConfig(router_jitter_noise=0.1)) == {
        "router_jitter_noise": 0.1
    }
    nested = DbrxConfig(ffn_config={"moe_jitter_eps": 0.01}, attn_config={"attn_pdrop": 0.2})
    assert random_state.dropouts(nested) == {"moe_jitter_eps": 0.01, "attn_pdrop": 0.2}


def test_repeated_draws_are_the_same_and_leave_the_generators_as_they_were():
    with random_state.repeated_draws() as repeat:
        first = drawn()
        assert drawn() != first
        repeat()
        assert drawn() == first
    assert drawn() == first


def test_dropouts_of_heads_that_are_not_trained_do_not_count():
    still = GPT2Config(resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0)
    assert random_state.dropouts(still) == {}
    assert set(random_state.dropouts(GPT2Config())) == {"resid_pdrop", "embd_pdrop", "attn_pdrop"}


def test_each_rank_begins_elsewhere_and_the_same_rank_at_the_same_place(written_by_two):
    seen = []
    for rank in (0, 1, 0):
        random_state.restart(written_by_two, 42, rank, 3)
        seen.append(drawn())
    assert seen[0] == seen[2]
    assert seen[0] != seen[1]
