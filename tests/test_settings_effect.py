"""Settings of the Trainer that few runs use do here what they say, through the real main()."""

import json
from pathlib import Path

import pytest
import torch
from run_in_ranks import command_line, losses, metrics_of, tiny_words

import train


@pytest.fixture(autouse=True)
def fresh_accelerator():
    """Accelerate keeps its state in the process; a run must not see the one before it."""
    from accelerate.state import AcceleratorState, GradientState

    yield
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()


@pytest.fixture
def run(store, model_config, tmp_path):
    """Runs two steps with changes, and returns the run folder."""

    def run_with(name: str = "run", **changes) -> Path:
        settings = {"max_steps": 2, "warmup_steps": 0, "decay_ratio": 0, "save_strategy": "no"}
        settings |= {"output_dir": tmp_path / name, "attn_implementation": "sdpa"}
        train.main(command_line(tiny_words(store, model_config, **settings) | changes))
        return tmp_path / name

    return run_with


def test_logging_scoring_and_saving_happen_when_they_are_asked_for(run):
    scoring = {"eval_strategy": "steps", "eval_steps": 1, "eval_delay": 2, "eval_on_start": True}
    saving = {"save_strategy": "steps", "save_steps": 1, "save_total_limit": 0}
    logging = {"logging_steps": 3, "logging_first_step": True}
    folder = run(max_steps=4, held_out_rows=2, **scoring, **saving, **logging)
    scored = [line["step"] for line in metrics_of(folder) if "eval/loss" in line]
    assert scored == [0, 2, 3, 4]
    assert list(losses(folder)) == [1, 3]
    names = {path.name for path in folder.glob("checkpoint-*")}
    assert names == {f"checkpoint-{step}" for step in (1, 2, 3, 4)}


def test_nothing_is_scored_or_logged_where_the_answer_is_no(run):
    """Symptom: the end of a run scored held-out rows in spite of --eval_strategy no."""
    folder = run(eval_strategy="no", held_out_rows=2, logging_strategy="no")
    names = {name for line in metrics_of(folder) for name in line}
    assert not any(name.startswith("eval/") for name in names)
    assert not list(losses(folder))


def test_every_optimizer_moves_the_weights_its_own_way(run):
    after_a_step = {}
    for optim, words in {
        "adamw_torch": None,
        "adafactor": None,
        "adagrad": "eps=1e-6",
        "rmsprop": "alpha=0.9,centered=true",
        "sgd": "momentum=0.9,nesterov=true",
    }.items():
        after_a_step[optim] = losses(run(optim, optim=optim, optim_args=words))[2]
    assert len(set(after_a_step.values())) == len(after_a_step)


def test_a_gradient_norm_of_0_clips_nothing_and_a_small_one_clips(run):
    settings = {"optim": "sgd", "learning_rate": 1}
    free = losses(run("free", max_grad_norm=0, **settings))
    assert losses(run("high", max_grad_norm=1e9, **settings)) == free
    clipped = losses(run("clipped", max_grad_norm=1e-6, **settings))
    assert clipped[1] == free[1]
    assert clipped[2] != free[2]


def test_recomputing_draws_the_same_dropout_and_computes_each_layer_once_more(
    run, model_config, tmp_path, monkeypatch
):
    from transformers.models.qwen3.modeling_qwen3 import Qwen3MLP

    config = json.loads(model_config.read_text()) | {"attention_dropout": 0.1}
    (tmp_path / "dropout.json").write_text(json.dumps(config))
    forward, calls = Qwen3MLP.forward, []
    monkeypatch.setattr(Qwen3MLP, "forward", lambda *args: calls.append(1) or forward(*args))
    plain, before = losses(run("plain", config_file=tmp_path / "dropout.json")), len(calls)
    changed = {"config_file": tmp_path / "dropout.json", "gradient_checkpointing": True}
    assert losses(run("recomputing", **changed)) == plain
    assert len(calls) - 2 * before == config["num_hidden_layers"] * 2  # steps


def test_recomputing_compiling_and_determinism_leave_the_losses_as_they_are(run):
    plain = losses(run("plain"))
    recomputing = {
        "activation_checkpointing": True,
        "activation_checkpointing_kwargs": '{"use_reentrant": false, "every_n_layers": 2}',
    }
    assert losses(run("recomputing", **recomputing)) == plain
    compiled = run("compiled", torch_compile=True, torch_compile_backend="eager")
    assert losses(compiled) == pytest.approx(plain, rel=1e-5)
    try:
        assert losses(run("determined", full_determinism=True)) == plain
        assert torch.are_deterministic_algorithms_enabled()
    finally:
        torch.use_deterministic_algorithms(False)


@pytest.mark.slow
@pytest.mark.parametrize("way", ["spawn", "forkserver"])
def test_workers_may_be_started_in_another_way(run, way):
    workers = {"dataloader_num_workers": 2, "dataloader_prefetch_factor": 4}
    plain = losses(run("plain"))
    assert losses(run(way, dataloader_multiprocessing_context=way, **workers)) == plain
