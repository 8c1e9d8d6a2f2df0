"""DDP, FSDP2 and hybrid sharding through the real main(): the same run as in one process.

ZeRO is in test_zero.py, resuming in test_sharded_checkpoint.py.
"""

import json
import re

import pytest
import torch
from core_fixtures import make_store
from run_in_ranks import TinyRun, assert_same_weights, exact_losses, losses, model_of
from safetensors import safe_open


@pytest.fixture(scope="module")
def engines(ranks, store, model_config, tmp_path_factory) -> TinyRun:
    folder, changes = tmp_path_factory.mktemp("engines"), {"max_steps": 4, "global_batch_size": 8}
    return TinyRun(ranks, store, model_config, folder, **changes)


@pytest.fixture(scope="module")
def losses_of_one(engines) -> dict[int, float]:
    """Of one process that has all rows of a step at once."""
    return exact_losses(engines.whole(per_device_train_batch_size=8))


@pytest.mark.parametrize(
    ("config", "world", "rows"),
    [
        (None, 1, 1),
        (None, 2, 4),
        ("ddp.yaml", 2, 4),
        ("ddp.yaml", 2, 1),
        ("ddp.yaml", 2, 8),  # more than a device's share, which is what it takes then
        ("fsdp.yaml", 2, 4),
        ("fsdp.yaml", 2, 1),
    ],
)
def test_rows_ranks_and_accumulation_do_not_change_the_losses(
    engines, losses_of_one, config, world, rows
):
    run = engines.whole(config, world, per_device_train_batch_size=rows)
    assert exact_losses(run) == pytest.approx(losses_of_one, rel=1e-6)


@pytest.mark.parametrize(("config", "rows"), [("ddp.yaml", 1), ("fsdp.yaml", 4)])
def test_the_suffix_loss_does_not_depend_on_ranks_and_accumulation(engines, config, rows):
    words = {"suffix_loss_weight": 0.5, "learning_rate": 1e-2, "fim_rate": 1.0}
    one = engines.whole(per_device_train_batch_size=8, **words)
    two = engines.whole(config, 2, per_device_train_batch_size=rows, **words)
    assert exact_losses(two) == pytest.approx(exact_losses(one), rel=1e-5)
    for name, weights in model_of(one).items():
        torch.testing.assert_close(model_of(two)[name], weights, rtol=1e-3, atol=1e-5)


def test_fsdp_that_the_recipe_asks_for_shards_without_a_yaml(engines, losses_of_one):
    recipe = {"version": 2, "state_dict_type": "SHARDED_STATE_DICT"}
    words = {"fsdp": "true", "fsdp_config": json.dumps(recipe), "activation_checkpointing": True}
    run = engines.whole(None, 2, **words)
    assert exact_losses(run) == pytest.approx(losses_of_one, rel=1e-6)
    assert list((run / "checkpoint-4").glob("pytorch_model_fsdp_0/*.distcp"))


def test_a_layer_to_wrap_that_the_model_does_not_have_is_refused(tiny):
    recipe = json.dumps({"transformer_layer_cls_to_wrap": "LlamaDecoderLayer"})
    ended = tiny.run("x", world=2, fsdp="true", fsdp_config=recipe, max_steps=1, code=2)
    assert "names 'LlamaDecoderLayer', which the model does not have" in ended.output
    assert "give some of Qwen3DecoderLayer, " in ended.output
    assert "Traceback" not in ended.output


def test_hybrid_sharding_gives_the_losses_of_one_process(engines, losses_of_one):
    run = engines.whole("hsdp.yaml", 4)  # two copies of two shards
    assert exact_losses(run) == pytest.approx(losses_of_one, rel=1e-6)


def test_fsdp_exports_a_model_that_transformers_opens(engines):
    from transformers import AutoModelForCausalLM

    folder = engines.whole("fsdp.yaml") / "model"
    model, report = AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True)
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]
    assert torch.isfinite(model(torch.tensor([[5, 6, 7]])).logits).all()


def test_fsdp_in_bf16_keeps_float32_weights_and_sums_gradients_in_float32(engines):
    """Symptom: accelerate adds up the gradients of ranks and micro-batches in bf16."""
    program = "rank_programs_engines:show_fsdp_policies"
    world = engines.run("bf16", "fsdp.yaml", bf16=True, main=program)
    policy = '["torch.bfloat16", "torch.float32", "torch.float32"]'  # compute, sum, weights
    assert world.output.count(f"FSDP modules: [{policy}]") == 2
    with safe_open(engines.folder / "bf16" / "model" / "model.safetensors", "pt") as file:
        assert {file.get_slice(name).get_dtype() for name in file.keys()} == {"F32"}  # noqa: SIM118


@pytest.mark.parametrize("config", ["ddp.yaml", "fsdp.yaml"])
def test_muon_on_two_ranks_is_muon_on_one(engines, config):
    """From zero residual outputs; its bf16 iteration rounds otherwise when sums are split, which
    shows in the fifth digit by step 4."""
    settings = {"use_muon": True, "residual_init": "zero"}
    alone = engines.whole(per_device_train_batch_size=8, **settings)
    run = engines.whole(config, **settings)
    assert exact_losses(run) == pytest.approx(exact_losses(alone), rel=1e-4)
    name = "model.layers.1.mlp.down_proj.weight"
    found, expected = model_of(run)[name], model_of(alone)[name]
    assert expected.any()
    assert (found - expected).norm() < 0.02 * expected.norm()


@pytest.mark.parametrize("name", ["ddp_broadcast_buffers", "ddp_bucket_cap_mb"])
def test_what_ddp_is_told_does_not_change_the_losses(engines, losses_of_one, name):
    run = engines.whole("ddp.yaml", per_device_train_batch_size=1, **{name: 1})
    assert exact_losses(run) == pytest.approx(losses_of_one, rel=1e-6)


def test_ddp_does_not_search_for_unused_parameters(engines):
    world = engines.run("search", "ddp.yaml", main="rank_programs_engines:show_ddp_search")
    assert "DDP searches: False" in world.of_rank(0)
    assert "DDP searches: False" in world.of_rank(1)


# ---- the isolation self-test ---------------------------------------------------------------------


@pytest.fixture(scope="module")
def noisy(model_config, tokenizer, tmp_path_factory) -> dict:
    """Settings of a model that draws random numbers, on rows that hold several documents each."""
    folder = tmp_path_factory.mktemp("noisy")
    texts = [f"def plus_{i}(value):\n    return value + {i}\n" * (1 + i % 4) for i in range(200)]
    make_store(folder, tokenizer, texts)
    config = json.loads(model_config.read_text()) | {"attention_dropout": 0.1}
    (folder / "config.json").write_text(json.dumps(config))
    return {
        "config_file": folder / "config.json",
        "token_store": folder / "store",
        "neftune_noise_alpha": 5,
        "max_steps": 2,
    }


@pytest.mark.parametrize("config", [None, "ddp.yaml", "fsdp.yaml", "deepspeed.yaml"])
def test_a_model_that_draws_random_numbers_is_proved_to_isolate(engines, noisy, tmp_path, config):
    log = engines.run(tmp_path / "run", config, bf16=True, **noisy).of_rank(0)
    assert "(within 0.0e+00 of the logits' spread and 0.0e+00 nats a token" in log


@pytest.mark.slow
@pytest.mark.parametrize("config", ["ddp.yaml", "fsdp.yaml", "deepspeed.yaml"])
def test_recomputing_gives_the_same_losses_and_weights_under_every_engine(engines, noisy, config):
    """With dropout, of which accelerate's own recomputation under FSDP draws another one."""
    runs, computed = [], []
    for is_recomputing in (False, True):
        name = f"recomputing-{is_recomputing}-{config.removesuffix('.yaml')}"
        settings = noisy | {"activation_checkpointing": is_recomputing, "save_strategy": "no"}
        program = "rank_programs_engines:count_layers"
        log = engines.run(name, config, main=program, **settings).of_rank(0)
        runs.append(engines.folder / name)
        computed.append(int(re.search(r"LAYERS (\d+) computed", log)[1]))
    assert losses(runs[1]) == losses(runs[0])
    assert_same_weights(model_of(runs[1]), model_of(runs[0]))
    micro_batches, layers = 2 * 2, 2  # of a rank in two steps of 8 rows; of the model
    assert computed[1] - computed[0] == micro_batches * layers


def test_the_proof_takes_no_random_number_from_the_training(engines, noisy):
    proved = engines.whole("ddp.yaml", **noisy)
    unproved = engines.whole("ddp.yaml", main="rank_programs_engines:train_unproved", **noisy)
    assert exact_losses(proved) == exact_losses(unproved)
