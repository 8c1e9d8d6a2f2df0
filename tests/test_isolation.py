"""Packed documents do not see each other, and the self-test notices when they do.

Uses tiny real models of transformers with random weights made large, so that a leak shows.
"""

from collections.abc import Callable

import pytest
import torch
from core_fixtures import make_rows
from test_rows import units_of
from transformers import AutoConfig, AutoModelForCausalLM

from hugcoder.batch import PackedCollator, boundaries
from hugcoder.corpus import TRAIN
from hugcoder.isolation import prove_isolation
from hugcoder.loss import loss_by_kind
from hugcoder.model import awake
from hugcoder.refusal import Refusal
from hugcoder.residual import writes_to_residual
from hugcoder.rows import IGNORED, PADDING
from hugcoder.token_store import TokenStore

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


def make_model(family: str, attention: str):
    torch.manual_seed(0)
    extra = {"head_dim": 16} if family == "qwen3" else {}
    config = AutoConfig.for_model(family, **SHAPE, **extra)
    config.use_cache = False
    model = AutoModelForCausalLM.from_config(config, attn_implementation=attention)
    return model.train()


@pytest.fixture(scope="module")
def rows(store, codec) -> list[dict[str, torch.Tensor]]:
    """The four rows of 128 that hold the most units."""
    packed = make_rows(TokenStore(store, TRAIN), codec, row_length=128)
    crowded = [packed[index] for index in packed.fullest_rows(4)]
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
            own_sum += model(input_ids=ids, labels=ids).loss.item() * (ids.shape[1] - 1)
            own_count += ids.shape[1] - 1
    assert counts.sum().item() == own_count
    assert sums.sum().item() / own_count == pytest.approx(own_sum / own_count, rel=1e-5)


# ---- the self-test -------------------------------------------------------------------------------


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_the_self_test_passes_on_a_model_that_isolates(rows, attention):
    model = make_model("llama", attention)
    sentence = prove_isolation(rows, forward_of(model), collate, torch.float32)
    assert "4 packed documents equal themselves alone" in sentence


def test_the_self_test_passes_in_bfloat16(rows, model):
    def forward(inputs):
        with torch.autocast("cpu", torch.bfloat16):
            return model(**inputs).logits

    assert "equal themselves alone" in prove_isolation(rows, forward, collate, torch.bfloat16)


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
    with awake(model), pytest.raises(Refusal, match="packed documents leak into each other"):
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
