"""Initial weights: the seed alone decides them, on every engine; no rank ever holds them all."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModelForCausalLM

from hugcoder.random_init import RESIDUAL_OUTPUTS, build_random, is_on_meta

ROOT = Path(__file__).resolve().parents[1]
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


@pytest.mark.parametrize("model_type", MODEL_TYPES)
def test_weights_are_drawn_as_transformers_draws_them(model_type):
    torch.manual_seed(0)
    ours, theirs = (
        build(config_of(model_type)),
        AutoModelForCausalLM.from_config(config_of(model_type), dtype=torch.float32),
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
        wanted = plain[name] * factor if name.endswith(RESIDUAL_OUTPUTS) else plain[name]
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
    "hsdp": ("hsdp.yaml", 4),
    "fsdp_of_one": ("fsdp.yaml", 1),
}


class Runs:
    """Starts train.py on an engine, and remembers what came of it."""

    def __init__(self, ranks, folder, store, model_config):
        self.ranks, self.folder, self.store, self.config = ranks, folder, store, model_config
        self.done: dict[str, tuple[dict, list[dict]]] = {}

    def command(self, engine: str, name: str, **changes) -> list:
        world = ENGINES[engine][1] if engine in ENGINES else 1
        words = {
            "config_file": self.config,
            "token_store": self.store,
            "output_dir": self.folder / name,
            "max_seq_length": 128,
            "max_steps": 1,
            "per_device_train_batch_size": 4 // world,
            "logging_steps": 1,
            "held_out_rows": 0,
            "dataloader_num_workers": 0,
            "save_strategy": "no",
        }
        words |= changes
        return [part for key, value in words.items() for part in (f"--{key}", value)]

    def run(self, engine: str, name: str, main="train", **changes) -> tuple[dict, list[dict]]:
        """Weights and losses of a run; a second time with the same name, what it left."""
        if name not in self.done:
            config, world = ENGINES.get(engine, (None, 1))
            command = self.command(engine, name, **changes)
            if engine == "hsdp":
                config = self.hsdp_of_four()
            ended = self.ranks.run(command, config=config, world=world, main=main)
            assert not any(ended.codes), ended.output
            self.done[name] = self.left_by(name)
        return self.done[name]

    def hsdp_of_four(self) -> Path:
        """configs/hsdp.yaml with two copies of two shards."""
        path = self.folder / "hsdp.yaml"
        text = (ROOT / "configs" / "hsdp.yaml").read_text()
        assert text.count("dp_shard_size: 4") == 1
        path.write_text(text.replace("dp_shard_size: 4", "dp_shard_size: 2"))
        return path

    def left_by(self, name: str) -> tuple[dict, list[dict]]:
        lines = (self.folder / name / "metrics.jsonl").read_text().splitlines()
        metrics = [line for line in map(json.loads, lines) if "train/loss" in line]
        weights = load_file(self.folder / name / "model" / "model.safetensors")
        if json.loads(self.config.read_text())["tie_word_embeddings"]:
            weights.pop("lm_head.weight", None)  # ZeRO-1 and 2 write a tied matrix twice
        return weights, metrics


@pytest.fixture(scope="session")
def runs(ranks, store, model_config, tmp_path_factory):
    return Runs(ranks, tmp_path_factory.mktemp("init"), store, model_config)


@pytest.fixture(scope="session")
def untied_runs(ranks, store, model_config, tmp_path_factory):
    folder = tmp_path_factory.mktemp("untied")
    config = json.loads(model_config.read_text()) | {"tie_word_embeddings": False}
    (folder / "config.json").write_text(json.dumps(config))
    return Runs(ranks, folder, store, folder / "config.json")


FROZEN = {"learning_rate": 0}  # what is saved after a step is what it began with


def assert_equal(left: dict, right: dict) -> None:
    assert left.keys() == right.keys()
    for name, tensor in left.items():
        assert torch.equal(tensor, right[name]), name


def num_parameters(runs: Runs, name: str) -> int:
    return json.loads((runs.folder / name / "run.json").read_text())["parameters"]


SLOW = [pytest.param(engine, marks=pytest.mark.slow) for engine in ("zero2", "fsdp_of_one")]


@pytest.mark.parametrize("engine", ["ddp", "fsdp", "zero3", "hsdp", *SLOW])
def test_every_engine_begins_with_the_weights_of_one_process(engine, runs):
    alone, alone_metrics = runs.run("alone", "alone", **FROZEN)
    weights, metrics = runs.run(engine, engine, **FROZEN)
    assert_equal(weights, alone)
    assert metrics[0]["train/loss"] == pytest.approx(alone_metrics[0]["train/loss"], rel=2e-6)
    assert num_parameters(runs, engine) == num_parameters(runs, "alone")


@pytest.mark.parametrize("engine", ["fsdp", "zero3"])
def test_sharded_engines_begin_as_one_process_with_an_untied_head_and_zeros(engine, untied_runs):
    """The self-test before step 1 gives the zeros noise for a while, also where they are shards."""
    settings = FROZEN | {"residual_init": "zero"}
    alone, alone_metrics = untied_runs.run("alone", "alone", **settings)
    weights, metrics = untied_runs.run(engine, engine, **settings)
    assert_equal(weights, alone)
    assert not torch.equal(weights["lm_head.weight"], weights["model.embed_tokens.weight"])
    outputs = [tensor for name, tensor in weights.items() if name.endswith(RESIDUAL_OUTPUTS)]
    assert len(outputs) == 4
    assert not any(tensor.any() for tensor in outputs)
    assert metrics[0]["train/loss"] == pytest.approx(alone_metrics[0]["train/loss"], rel=2e-6)


@pytest.mark.parametrize("engine", ["fsdp", "zero3"])
def test_the_shards_of_a_matrix_are_not_the_same_numbers(engine, runs):
    weights, _ = runs.run(engine, engine, **FROZEN)
    halves = weights["model.embed_tokens.weight"].flatten().chunk(2)
    assert torch.corrcoef(torch.stack(halves))[0, 1].abs() < 0.02


def test_sharding_on_meta_trains_as_a_model_that_every_rank_had_whole(runs):
    """In bf16 with activation checkpointing and two micro-batches, bit by bit."""
    flags = {"bf16": True, "max_steps": 3, "gradient_accumulation_steps": 2}
    on_meta = runs.run("fsdp", "bf16", **flags)
    whole = runs.run("fsdp", "whole", main="rank_programs_init:train_a_whole_model", **flags)
    assert_equal(on_meta[0], whole[0])
    names = ("train/loss", "train/grad_norm")
    assert [[m[n] for n in names] for m in on_meta[1]] == [[m[n] for n in names] for m in whole[1]]


def test_muon_trains_shards_from_zero_residual_outputs_as_it_trains_one_process(runs):
    flags = {"use_muon": True, "residual_init": "zero", "max_steps": 3}
    alone, alone_metrics = runs.run("alone", "muon_alone", **flags)
    weights, metrics = runs.run("fsdp", "muon_fsdp", **flags)
    for line, other in zip(metrics, alone_metrics, strict=True):
        assert line["train/loss"] == pytest.approx(other["train/loss"], rel=1e-5)
    name = "model.layers.1.mlp.down_proj.weight"
    assert alone[name].any()
    difference = (weights[name] - alone[name]).norm() / alone[name].norm()
    assert difference < 0.02  # Muon orthogonalizes in bfloat16


@pytest.mark.slow
def test_a_run_that_resumes_makes_no_weights_and_ends_with_the_same(runs):
    flags = {"max_steps": 4, "save_strategy": "steps", "save_steps": 2}
    whole, _ = runs.run("fsdp", "resumed", **flags)
    run = runs.folder / "resumed"
    for name in ("model", "checkpoint-4"):
        shutil.rmtree(run / name)
    ended = runs.ranks.run(runs.command("fsdp", "resumed", **flags), config="fsdp.yaml")
    assert not any(ended.codes), ended.output
    assert "going on from" in ended.output
    assert_equal(runs.left_by("resumed")[0], whole)


@pytest.mark.parametrize("engine", ["fsdp", "zero3"])
def test_a_rank_never_holds_more_than_its_shards_and_one_block(engine, runs, tmp_path):
    config = json.loads(runs.config.read_text()) | {"num_hidden_layers": 24}
    (tmp_path / "deep.json").write_text(json.dumps(config))
    command = runs.command(engine, "weighed", config_file=tmp_path / "deep.json")
    program = "rank_programs_init:weigh_the_start"
    words = [tmp_path / "report.json", *command]
    ended = runs.ranks.run(words, config=ENGINES[engine][0], main=program)
    assert not any(ended.codes), ended.output
    report = json.loads((tmp_path / "report.json").read_text())
    # the block, beside it the largest tensor as the engine splits or gathers it
    assert report["peak"] < report["whole"] / 2 + 3 * report["largest"] + 100_000
    assert report["peak"] < 0.8 * report["whole"]
