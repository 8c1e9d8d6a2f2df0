"""Packed documents do not see each other, and the self-test notices when they do.

Uses tiny real models of transformers with random weights made large, so that a leak shows.
"""

import random
from collections.abc import Callable

import numpy as np
import pytest
import torch
from core_fixtures import make_rows
from test_rows import units_of
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.integrations.neftune import activate_neftune

from hugcoder.data import row_statistics
from hugcoder.data.batch import PackedCollator, boundaries
from hugcoder.data.corpus import TRAIN
from hugcoder.data.rows import IGNORED, PADDING
from hugcoder.data.token_store import TokenStore
from hugcoder.model.residual import with_noisy_residual_outputs, writes_to_residual
from hugcoder.pretraining.isolation import prove_isolation
from hugcoder.pretraining.loss import loss_by_kind
from hugcoder.refusal import Refusal
from hugcoder.run import random_state

SHAPE = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "vocab_size": 1024,
    "initializer_range": 0.2,
}
collate = PackedCollator(is_flash=False)


OF_FAMILY = {
    "qwen3": {"head_dim": 16},
    "gemma2": {"head_dim": 16},
    "mixtral": {"num_local_experts": 4, "router_jitter_noise": 0.1},
    "qwen3_moe": {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32},
}


def make_model(family: str, attention: str, **changes):
    torch.manual_seed(0)
    config = AutoConfig.for_model(family, **(SHAPE | OF_FAMILY.get(family, {}) | changes))
    config.use_cache = False
    model = AutoModelForCausalLM.from_config(config, attn_implementation=attention)
    return model.train()


@pytest.fixture(scope="module")
def rows(store, codec) -> list[dict[str, torch.Tensor]]:
    """The four rows of 128 that hold the most units."""
    packed = make_rows(TokenStore(store, TRAIN), codec, row_length=128)
    crowded = [packed[index] for index in row_statistics.fullest_rows(packed, 4)]
    assert min(len(units_of(row)) for row in crowded) > 1
    return crowded


@pytest.fixture(scope="module")
def model():
    return make_model("llama", "sdpa")


def forward_of(model, **changes) -> Callable[[dict], torch.Tensor]:
    return lambda inputs: model(**(inputs | changes)).logits


def batch_of(rows: list[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    batch = collate(rows)
    return {name: batch[name] for name in ("input_ids", "position_ids")}


@torch.no_grad()
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("family", ["llama", "qwen3"])
def test_every_packed_document_has_the_logits_it_has_alone(rows, family, attention):
    model = make_model(family, attention)
    packed = model(**batch_of(rows)).logits
    spread = packed.std().item()
    for index, row in enumerate(rows):
        start = 0
        for unit in units_of(row):
            ids = torch.from_numpy(unit["input_ids"])[None]
            alone = model(input_ids=ids).logits[0]
            inside = packed[index, start : start + len(unit["input_ids"])]
            assert (inside - alone).abs().max().item() < 1e-4 * spread
            start += len(unit["input_ids"])


@torch.no_grad()
def test_the_packed_loss_is_the_mean_over_the_documents_own_tokens(rows, model):
    batch = collate(rows)
    logits = model(**batch_of(rows)).logits
    sums, counts = loss_by_kind(logits, batch["labels"], batch["kinds"])
    own_sum = own_count = 0.0
    for row in rows:
        for unit in units_of(row):
            ids = torch.from_numpy(unit["input_ids"])[None]
            labels = torch.from_numpy(unit["labels"])[None]  # none on sentinels
            num_predicted = int((labels[:, 1:] != IGNORED).sum())
            own_sum += model(input_ids=ids, labels=labels).loss.item() * num_predicted
            own_count += num_predicted
    assert counts.sum().item() == own_count
    assert sums.sum().item() / own_count == pytest.approx(own_sum / own_count, rel=1e-5)


# ---- the self-test -------------------------------------------------------------------------------


NO_DIFFERENCE = "within 0.0e+00 of the logits' spread and 0.0e+00 nats a token"


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    ("family", "attention"),
    [
        ("llama", "sdpa"),
        ("llama", "eager"),
        ("gpt2", "sdpa"),  # dropouts of 0.1 by its own defaults, absolute positions
        ("gpt2", "eager"),
        ("gpt_bigcode", "sdpa"),
        ("starcoder2", "sdpa"),
        ("mistral", "sdpa"),
        ("gemma2", "eager"),
        ("mixtral", "sdpa"),
        ("qwen3_moe", "sdpa"),
    ],
)
def test_a_model_that_isolates_keeps_logits_and_loss_to_the_last_bit(
    rows, family, attention, dtype
):
    model = make_model(family, attention)

    def forward(inputs):
        with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
            return model(**inputs).logits

    sentence = prove_isolation(rows, forward, collate, dtype)
    assert f"{sum(len(units_of(row)) for row in rows)} packed documents keep" in sentence
    assert NO_DIFFERENCE in sentence


def noisy_models() -> dict[str, Callable]:
    def with_neftune():
        model = make_model("llama", "sdpa")
        activate_neftune(model, 5.0)
        return model

    return {
        "attention dropout": lambda: make_model("qwen3", "sdpa", attention_dropout=0.5),
        "three dropouts": lambda: make_model("gpt2", "sdpa"),
        "NEFTune": with_neftune,
        "router noise": lambda: make_model("mixtral", "sdpa"),
    }


@pytest.mark.parametrize("noise", noisy_models())
def test_random_draws_of_training_are_no_leak_and_are_drawn_again_in_training(rows, noise):
    model = noisy_models()[noise]()
    with torch.no_grad():
        first, second = model(**batch_of(rows)).logits, model(**batch_of(rows)).logits
    assert not torch.equal(first, second)  # it does draw
    expected = undisturbed_draws()
    assert NO_DIFFERENCE in prove_isolation(rows, forward_of(model), collate, torch.float32)
    assert undisturbed_draws() == expected
    assert model.training


def undisturbed_draws() -> tuple:
    """What the generators would give next; they stay where they are."""
    with random_state.repeated_draws():
        return random.random(), float(np.random.rand()), torch.rand(2).tolist()


@pytest.mark.parametrize("noise", noisy_models())
def test_a_leak_is_noticed_behind_random_draws(rows, noise):
    model = noisy_models()[noise]()
    mask = torch.ones(len(rows), 128, dtype=torch.long)
    with pytest.raises(Refusal, match="packed documents leak into each other"):
        prove_isolation(rows, forward_of(model, attention_mask=mask), collate, torch.float32)


@pytest.mark.parametrize("seen", ["the token before", "the token after", "the row before"])
def test_one_token_that_sees_another_document_a_little_is_noticed(rows, model, seen):
    second = len(units_of(rows[1])[0]["input_ids"])  # where the row's second document starts
    places = {
        "the token before": ((1, second), (1, second - 1)),
        "the token after": ((1, second - 1), (1, second)),
        "the row before": ((1, 0), (0, -1)),
    }
    into, out_of = places[seen]

    def forward(inputs):
        logits = model(**inputs).logits.clone()
        logits[into] += 1e-3 * logits[out_of]
        return logits

    with pytest.raises(Refusal, match="packed documents leak into each other"):
        prove_isolation(rows, forward, collate, torch.float32)


def test_boundaries_that_only_a_single_row_follows_are_noticed(rows, model):
    """As flash kernels without cu_seq_lens: position ids isolate at a batch size of 1 only."""

    def forward(inputs):
        if len(inputs["input_ids"]) == 1:
            return model(**inputs).logits
        return model(input_ids=inputs["input_ids"]).logits

    assert NO_DIFFERENCE in prove_isolation(rows[:1], forward, collate, torch.float32)
    with pytest.raises(Refusal, match="packed documents leak into each other"):
        prove_isolation(rows, forward, collate, torch.float32)


@pytest.mark.parametrize("family", ["opt", "falcon", "bloom", "mamba"])
def test_families_that_do_not_isolate_are_refused(rows, family):
    model = make_model(family, "eager")
    with pytest.raises(Refusal, match="packed documents leak into each other"):
        prove_isolation(rows, forward_of(model), collate, torch.float32)


def test_the_proof_takes_three_passes(rows, model):
    passes = []
    forward = forward_of(model)
    prove_isolation(
        rows, lambda inputs: passes.append(1) or forward(inputs), collate, torch.float32
    )
    assert len(passes) == 3


def test_an_attention_mask_of_ones_is_noticed(rows, model):
    def forward(inputs):
        mask = torch.ones_like(inputs["input_ids"])
        return model(**inputs, attention_mask=mask).logits

    with pytest.raises(Refusal, match=r"leak into each other.*--attn_implementation"):
        prove_isolation(rows, forward, collate, torch.float32)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_position_ids_that_do_not_restart_are_noticed_at_every_tolerance(rows, model, dtype):
    positions = torch.arange(128).expand(len(rows), -1)
    forward = forward_of(model, position_ids=positions)
    with pytest.raises(Refusal, match="packed documents leak into each other"):
        prove_isolation(rows, forward, collate, dtype)


def test_a_cache_that_leaks_is_noticed(rows, model):
    forward = forward_of(model.eval(), use_cache=True)
    with pytest.raises(Refusal, match="packed documents leak into each other"):
        prove_isolation(rows, forward, collate, torch.float32)


def test_an_untrained_model_of_usual_spread_still_shows_a_leak(rows):
    torch.manual_seed(0)
    config = AutoConfig.for_model("llama", **(SHAPE | {"initializer_range": 0.02}))
    model = AutoModelForCausalLM.from_config(config)
    mask = torch.ones(len(rows), 128, dtype=torch.long)
    with pytest.raises(Refusal, match="packed documents leak into each other"):
        prove_isolation(rows, forward_of(model, attention_mask=mask), collate, torch.bfloat16)


def test_a_leak_is_noticed_when_residual_outputs_start_at_zero(rows):
    model = make_model("llama", "sdpa")
    for name, parameter in model.named_parameters():
        if writes_to_residual(name):
            torch.nn.init.zeros_(parameter)
    mask = torch.ones(len(rows), 128, dtype=torch.long)
    leaking = forward_of(model, attention_mask=mask)
    with pytest.raises(Refusal, match="the isolation self-test is blind"):
        prove_isolation(rows, leaking, collate, torch.float32)
    with (
        with_noisy_residual_outputs(model),
        pytest.raises(Refusal, match="packed documents leak into each other"),
    ):
        prove_isolation(rows, leaking, collate, torch.float32)
    outputs = [p for name, p in model.named_parameters() if name.endswith("o_proj.weight")]
    assert not any(parameter.any() for parameter in outputs)


def test_first_labels_that_are_not_masked_are_noticed(rows, model):
    wrong = []
    for row in rows:
        is_first = (row["position_ids"] == 0) & (row["kinds"] != PADDING)
        labels = torch.where(is_first, row["input_ids"], row["labels"])
        wrong.append(row | {"labels": labels})
    with pytest.raises(Refusal, match=r"its loss by [0-9.]+ nats a token"):
        prove_isolation(wrong, forward_of(model), collate, torch.float32)


def test_labels_that_are_missing_are_noticed(rows, model):
    wrong = [row | {"labels": torch.full_like(row["labels"], IGNORED)} for row in rows]
    with pytest.raises(Refusal, match="its loss by"):
        prove_isolation(wrong, forward_of(model), collate, torch.float32)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("bad_pass", [0, 2])
def test_logits_that_are_no_numbers_prove_nothing(rows, model, bad, bad_pass):
    passes = []

    def forward(inputs):
        logits = model(**inputs).logits.clone()
        logits[0, 5] = bad if len(passes) == bad_pass else 0.0
        passes.append(1)
        return logits

    with pytest.raises(Refusal, match="the model's logits are not finite numbers"):
        prove_isolation(rows, forward, collate, torch.float32)


def test_rows_of_one_document_each_have_nothing_to_leak(rows, model):
    single = []
    for row in rows:
        kinds = row["kinds"].clone()
        kinds[len(units_of(row)[0]["kinds"]) :] = PADDING
        single.append(row | {"kinds": kinds})
    sentence = prove_isolation(single, forward_of(model), collate, torch.float32)
    assert "nothing to leak" in sentence


# ---- the batch -----------------------------------------------------------------------------------


def test_a_batch_has_no_attention_mask(rows):
    assert set(collate(rows)) == {"input_ids", "labels", "position_ids", "kinds"}


def test_flash_kernels_get_the_boundaries_of_the_flattened_batch(rows):
    batch = PackedCollator(is_flash=True)(rows)
    expected, offset = [], 0
    for row in rows:
        expected += [offset + i for i, p in enumerate(row["position_ids"].tolist()) if p == 0]
        offset += 128
    assert batch["cu_seq_lens_q"].tolist() == batch["cu_seq_lens_k"].tolist() == [*expected, offset]
    assert batch["cu_seq_lens_q"].dtype == torch.int32
    longest = batch["cu_seq_lens_q"].diff().max().item()
    assert longest <= batch["max_length_q"] == batch["max_length_k"] == 128
    assert boundaries(torch.arange(5)[None])["cu_seq_lens_q"].tolist() == [0, 5]
