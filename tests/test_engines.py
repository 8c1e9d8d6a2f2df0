"""DDP, FSDP2 and hybrid sharding through the real main(): the same run as in one process.

Losses are read from trainer_state.json, which does not round them. ZeRO is in test_zero.py.
"""

import json
import shutil

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from test_world import variant

STEPS = 4


@pytest.fixture
def train_run(ranks, store, model_config, tmp_path):
    """Runs train.py in ranks and returns its folder."""

    def run(name: str, config, world: int, *, main: str = "train", **changes):
        values = {
            "config_file": model_config,
            "token_store": store,
            "output_dir": tmp_path / name,
            "max_seq_length": 128,
            "max_steps": STEPS,
            "per_device_train_batch_size": 8 // world,
            "learning_rate": 1e-2,
            "logging_steps": 1,
            "eval_strategy": "no",
            "held_out_rows": 0,
            "save_steps": 2,
            "dataloader_num_workers": 0,
        }
        words = [w for key, value in (values | changes).items() for w in (f"--{key}", str(value))]
        ended = ranks.run(words, config=config, world=world, main=main)
        assert ended.codes == [0] * world, ended.output
        run.output = ended.output
        return tmp_path / name

    return run


def losses(folder) -> dict[int, float]:
    state = json.loads((folder / f"checkpoint-{STEPS}" / "trainer_state.json").read_text())
    return {line["step"]: line["loss"] for line in state["log_history"] if "loss" in line}


def weights(folder) -> dict[str, torch.Tensor]:
    return load_file(folder / "model" / "model.safetensors")


@pytest.fixture(scope="module")
def alone():
    """The runs of one process that others are compared with, each made once."""
    return {}


def alone_losses(alone, train_run, use_muon: bool = False) -> dict[int, float]:
    if use_muon not in alone:
        alone[use_muon] = losses(train_run("alone", None, 1, use_muon=use_muon))
    return alone[use_muon]


@pytest.mark.parametrize(
    ("config", "world", "rows"),
    [
        (None, 1, 1),
        ("ddp.yaml", 2, 4),
        ("ddp.yaml", 2, 1),
        ("fsdp.yaml", 2, 4),
        ("fsdp.yaml", 2, 1),
    ],
)
def test_rows_ranks_and_accumulation_do_not_change_the_losses(
    train_run, alone, config, world, rows
):
    accumulation = 8 // world // rows
    folder = train_run(
        "run",
        config,
        world,
        per_device_train_batch_size=rows,
        gradient_accumulation_steps=accumulation,
    )
    assert losses(folder) == pytest.approx(alone_losses(alone, train_run), rel=1e-6)


def test_fsdp_that_the_recipe_asks_for_shards_without_a_yaml(train_run, alone):
    recipe = {"version": 2, "state_dict_type": "SHARDED_STATE_DICT", "activation_checkpointing": 1}
    folder = train_run("run", None, 2, fsdp="true", fsdp_config=json.dumps(recipe))
    assert losses(folder) == pytest.approx(alone_losses(alone, train_run), rel=1e-6)
    assert list((folder / f"checkpoint-{STEPS}").glob("pytorch_model_fsdp_0/*.distcp"))


def test_hybrid_sharding_gives_the_losses_of_one_process(train_run, alone, tmp_path):
    sizes = {"parallelism_config_dp_replicate_size": 2, "parallelism_config_dp_shard_size": 2}
    config = variant(tmp_path, "hsdp.yaml", {"num_processes": 4, "parallelism_config": sizes})
    folder = train_run("run", config, 4)
    assert losses(folder) == pytest.approx(alone_losses(alone, train_run), rel=1e-6)


def test_fsdp_resumes_to_the_losses_and_weights_of_the_unbroken_run(train_run, tmp_path):
    unbroken = train_run("unbroken", "fsdp.yaml", 2)
    shutil.copytree(unbroken / "checkpoint-2", tmp_path / "resumed" / "checkpoint-2")
    resumed = train_run("resumed", "fsdp.yaml", 2)
    assert losses(resumed) == losses(unbroken)
    before, after = weights(unbroken), weights(resumed)
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_fsdp_exports_a_model_that_transformers_opens(train_run):
    from transformers import AutoModelForCausalLM

    folder = train_run("run", "fsdp.yaml", 2) / "model"
    model, report = AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True)
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]
    assert torch.isfinite(model(torch.tensor([[5, 6, 7]])).logits).all()


def test_fsdp_in_bf16_keeps_float32_weights_and_sums_gradients_in_float32(train_run):
    """Symptom: accelerate adds up the gradients of ranks and micro-batches in bf16."""
    program = "rank_programs_e:show_fsdp_policies"
    folder = train_run("run", "fsdp.yaml", 2, bf16=True, main=program)
    policy = '["torch.bfloat16", "torch.float32", "torch.float32"]'  # compute, sum, weights
    assert train_run.output.count(f"FSDP modules: [{policy}]") == 2
    with safe_open(folder / "model" / "model.safetensors", "pt") as file:
        assert {file.get_slice(name).get_dtype() for name in file.keys()} == {"F32"}  # noqa: SIM118


@pytest.mark.parametrize("config", ["ddp.yaml", "fsdp.yaml"])
def test_muon_on_two_ranks_is_muon_on_one(train_run, alone, config):
    """Its bf16 iteration rounds otherwise when the sums are split: 1e-5 after four steps."""
    folder = train_run("run", config, 2, use_muon=True)
    expected = alone_losses(alone, train_run, use_muon=True)
    assert losses(folder) == pytest.approx(expected, rel=2e-5)


def test_ddp_does_not_search_for_unused_parameters(train_run):
    train_run("run", "ddp.yaml", 2)
    assert "find_unused_parameters" not in train_run.output
