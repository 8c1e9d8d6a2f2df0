"""Initial weights: the seed alone decides them, on every engine; no rank ever holds them all."""

import json
import shutil
from functools import partial
from pathlib import Path

import pytest
import torch
from run_in_ranks import (
    TinyRun,
    assert_same_weights,
    exact_losses,
    losses,
    metrics_of,
    model_of,
)
from tiny_models import small_config
from transformers import AutoConfig, AutoModelForCausalLM

from hugcoder.model.random_init import build_random, is_on_meta
from hugcoder.model.residual import writes_to_residual
from hugcoder.refusal import Refusal

SMALL = {
    "vocab_size": 300,
    "hidden_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "max_position_embeddings": 64,
    "pad_token_id": 3,
}
MODEL_TYPES = {
    "llama": {"intermediate_size": 96, "num_key_value_heads": 2},
    "qwen3": {"intermediate_size": 96, "num_key_value_heads": 2, "tie_word_embeddings": True},
    "starcoder2": {"intermediate_size": 96, "num_key_value_heads": 2},
    "gpt_bigcode": {"n_inner": 96},
    "gpt2": {"n_inner": 96},
    "qwen3_moe": {"moe_intermediate_size": 32, "num_experts": 4, "num_key_value_heads": 2},
}


def config_of(model_type: str, **changes):
    return AutoConfig.for_model(model_type, **(SMALL | MODEL_TYPES[model_type] | changes))


def build(config, seed=1, residual_init="normal", on_meta=False):
    return build_random(config, "sdpa", seed=seed, residual_init=residual_init, on_meta=on_meta)


# ---- one process ---------------------------------------------------------------------------------


OTHER_TYPES = ["gpt_neox", "mixtral", "modernbert-decoder", "olmo2", "phi", "phi3"]


@pytest.mark.parametrize("model_type", [*MODEL_TYPES, *OTHER_TYPES])
def test_weights_are_drawn_as_transformers_draws_them(model_type):
    torch.manual_seed(0)
    config = partial(config_of if model_type in MODEL_TYPES else small_config, model_type)
    ours, theirs = (
        build(config()),
        AutoModelForCausalLM.from_config(config(), dtype=torch.float32),
    )
    expected, drawn = theirs.state_dict(), ours.state_dict()
    assert list(drawn) == list(expected)
    for name, tensor in drawn.items():
        assert tensor.dtype == expected[name].dtype, name
        assert tensor.mean().item() == pytest.approx(expected[name].mean().item(), abs=6e-3), name
        assert tensor.std().item() == pytest.approx(expected[name].std().item(), rel=0.25), name
        zeros, wanted = ((values == 0).all(-1) for values in (tensor, expected[name]))
        assert torch.equal(zeros, wanted), name  # biases, the row of the padding token
    buffers = dict(theirs.named_buffers())
    assert all(torch.equal(buffer, buffers[name]) for name, buffer in ours.named_buffers())
    assert [name for name, _ in ours.named_parameters()] == [
        name for name, _ in theirs.named_parameters()
    ]  # what was tied is tied


def test_the_seed_decides_the_weights_and_the_state_of_torch_does_not():
    torch.manual_seed(1)
    first = build(config_of("qwen3")).state_dict()
    state = torch.get_rng_state()
    torch.manual_seed(2)
    same, other = build(config_of("qwen3")).state_dict(), build(config_of("qwen3"), seed=2)
    torch.manual_seed(1)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(first[name], tensor) for name, tensor in same.items())
    different = [name for name, t in other.state_dict().items() if not torch.equal(first[name], t)]
    assert "model.embed_tokens.weight" in different
    assert len(different) == sum("norm" not in name for name in first)


def test_modules_do_not_share_a_stream():
    weights = build(config_of("llama")).state_dict()
    layers = [weights[f"model.layers.{i}.self_attn.q_proj.weight"] for i in range(3)]
    layers.append(weights["model.layers.0.self_attn.o_proj.weight"])
    assert torch.corrcoef(torch.stack([w.flatten() for w in layers])).triu(1).abs().max() < 0.06


@pytest.mark.parametrize(("residual_init", "factor"), [("scaled", 6**-0.5), ("zero", 0.0)])
def test_what_writes_into_the_residual_stream_is_scaled(residual_init, factor):
    plain = build(config_of("llama")).state_dict()
    for name, tensor in build(config_of("llama"), residual_init=residual_init).state_dict().items():
        wanted = plain[name] * factor if writes_to_residual(name) else plain[name]
        assert torch.equal(tensor, wanted), name


def test_a_model_left_on_meta_takes_no_memory():
    model = build(config_of("qwen3"), on_meta=True)
    assert is_on_meta(model)
    assert all(tensor.is_meta for tensor in [*model.parameters(), *model.buffers()])


# ---- engines -------------------------------------------------------------------------------------

ENGINES = {
    "ddp": ("ddp.yaml", 2),
    "fsdp": ("fsdp.yaml", 2),
    "zero2": ("deepspeed_zero2.yaml", 2),
    "zero3": ("deepspeed.yaml", 2),
    "hsdp": ("hsdp.yaml", 4),  # two copies of two shards
    "fsdp_of_one": ("fsdp.yaml", 1),
}
CHANGES = {"max_steps": 1, "per_device_train_batch_size": 1, "global_batch_size": 4}
ROUNDING = 2e-6  # relative; losses that differ only by the order of float32 sums


@pytest.fixture(scope="module")
def runs(ranks, store, model_config, tmp_path_factory) -> TinyRun:
    return TinyRun(ranks, store, model_config, tmp_path_factory.mktemp("init"), **CHANGES)


@pytest.fixture(scope="module")
def untied_runs(ranks, store, model_config, tmp_path_factory) -> TinyRun:
    folder = tmp_path_factory.mktemp("untied")
    config = json.loads(model_config.read_text()) | {"tie_word_embeddings": False}
    (folder / "config.json").write_text(json.dumps(config))
    return TinyRun(ranks, store, folder / "config.json", folder, **CHANGES)


def run_of(runs: TinyRun, engine: str, **settings) -> Path:
    config, world = ENGINES[engine]
    return runs.whole(config, world, **settings)


FROZEN = {"learning_rate": 0}  # what is saved after a step is what it began with


def num_parameters(run: Path) -> int:
    return json.loads((run / "run.json").read_text())["parameters"]


SLOW = [pytest.param(engine, marks=pytest.mark.slow) for engine in ("zero2", "fsdp_of_one")]


@pytest.mark.parametrize("engine", ["ddp", "fsdp", "zero3", "hsdp", *SLOW])
def test_every_engine_begins_with_the_weights_of_one_process(engine, runs):
    alone, run = runs.whole(**FROZEN), run_of(runs, engine, **FROZEN)
    assert_same_weights(model_of(run), model_of(alone))
    assert exact_losses(run) == pytest.approx(exact_losses(alone), rel=ROUNDING)
    assert num_parameters(run) == num_parameters(alone)


@pytest.mark.parametrize("engine", ["fsdp", "zero3"])
def test_sharded_engines_begin_as_one_process_with_an_untied_head_and_zeros(engine, untied_runs):
    """The self-test before step 1 gives the zeros noise for a while, also where they are shards."""
    settings = FROZEN | {"residual_init": "zero", "copy_heads": 1}
    alone, run = untied_runs.whole(**settings), run_of(untied_runs, engine, **settings)
    weights = model_of(run)
    assert_same_weights(weights, model_of(alone))
    assert not torch.equal(weights["lm_head.weight"], weights["model.embed_tokens.weight"])
    outputs = [tensor for name, tensor in weights.items() if writes_to_residual(name)]
    assert len(outputs) == 4
    assert sum(bool(tensor.any()) for tensor in outputs) == 2  # of the heads that copy
    assert exact_losses(run) == pytest.approx(exact_losses(alone), rel=ROUNDING)


@pytest.mark.parametrize("engine", ["fsdp", "zero3"])
def test_the_shards_of_a_matrix_are_not_the_same_numbers(engine, runs):
    weights = model_of(run_of(runs, engine, **FROZEN))
    halves = weights["model.embed_tokens.weight"].flatten().chunk(2)
    assert torch.corrcoef(torch.stack(halves))[0, 1].abs() < 0.02


def test_sharding_on_meta_trains_as_a_model_that_every_rank_had_whole(runs):
    """In bf16 with activation checkpointing and two micro-batches, bit by bit."""
    flags = {"bf16": True, "max_steps": 3, "activation_checkpointing": True}
    on_meta = run_of(runs, "fsdp", **flags)
    whole = run_of(runs, "fsdp", main="rank_programs_init:train_a_whole_model", **flags)
    assert_same_weights(model_of(on_meta), model_of(whole))
    assert losses(on_meta) == losses(whole)
    norms = [[line.get("train/grad_norm") for line in metrics_of(run)] for run in (on_meta, whole)]
    assert norms[0] == norms[1]


@pytest.mark.slow
def test_a_run_that_resumes_makes_no_weights_and_ends_with_the_same(runs):
    run = run_of(runs, "fsdp", max_steps=4)
    whole = model_of(run)
    for name in ("model", "checkpoint-4"):
        shutil.rmtree(run / name)
    assert "going on from" in runs.run(run, "fsdp.yaml", max_steps=4).output
    assert_same_weights(model_of(run), whole)


@pytest.mark.parametrize("engine", ["fsdp", "zero3"])
def test_a_rank_never_holds_more_than_its_shards_and_one_block(engine, runs, tmp_path):
    config = json.loads(runs.words["config_file"].read_text()) | {"num_hidden_layers": 24}
    (tmp_path / "deep.json").write_text(json.dumps(config))
    command = runs.argv("weighed", config_file=tmp_path / "deep.json")
    program = "rank_programs_init:weigh_the_start"
    words = [str(tmp_path / "report.json"), *command]
    ended = runs.ranks.run(words, config=ENGINES[engine][0], main=program)
    assert not any(ended.codes), ended.output
    report = json.loads((tmp_path / "report.json").read_text())
    # the block, beside it the largest tensor as the engine splits or gathers it
    assert report["peak"] < report["whole"] / 2 + 3 * report["largest"] + 100_000
    assert report["peak"] < 0.8 * report["whole"]


def test_a_kernel_that_a_family_does_not_have_is_refused_with_the_way_out():
    config = small_config("gemma2")
    with pytest.raises(Refusal, match=r"attn_implementation sdpa .* gemma2: .* such as eager"):
        build_random(config, "sdpa", seed=1, residual_init="normal", on_meta=True)
    build_random(config, "eager", seed=1, residual_init="normal", on_meta=True)
