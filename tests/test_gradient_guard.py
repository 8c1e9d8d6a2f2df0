"""The guard against bad gradients: its rule and memory; a rejected update leaves no trace."""

import json
import math
import shutil

import pytest
import torch
from run_in_ranks import assert_same_weights, losses, metrics_of, model_of

from hugcoder.refusal import Refusal
from hugcoder.run.gradient_guard import ENOUGH, WINDOW, GradientGuard, guard_optimizer


def guard_with(norms, sigmas: float = 6.0, max_skipped: int = 10) -> GradientGuard:
    guard = GradientGuard(sigmas, max_skipped)
    for norm in norms:
        guard.rejects(norm)
    return guard


def noise(num_norms: int, seed: int = 0) -> list[float]:
    generator = torch.Generator().manual_seed(seed)
    return (1 + 0.1 * torch.randn(num_norms, generator=generator)).abs().tolist()


def test_a_norm_that_is_no_number_is_always_skipped():
    guard = GradientGuard(sigmas=0.0, max_skipped=10)
    assert [guard.rejects(norm) for norm in (math.nan, math.inf, 1.0, 1e30)] == [1, 1, 0, 0]
    assert guard.num_skipped == 2


def test_a_spike_is_skipped_as_soon_as_half_the_window_is_known():
    assert not guard_with(noise(ENOUGH - 1)).rejects(1e3)
    assert guard_with(noise(ENOUGH)).rejects(1e3)


def test_the_bound_is_that_of_mean_and_deviation_over_the_window():
    norms = noise(3 * WINDOW)
    guard = GradientGuard(sigmas=1.5, max_skipped=10)
    history: list[float] = []
    for norm in norms:
        bound = math.inf
        if len(history) >= ENOUGH:
            std, mean = torch.std_mean(torch.tensor(history[-WINDOW:], dtype=torch.float64))
            bound = float(mean + 1.5 * std)
        assert guard.rejects(norm) == (norm > bound)
        history.append(min(norm, bound))
    assert 0.02 < guard.num_skipped / len(norms) < 0.2


def test_a_huge_norm_does_not_blind_the_guard():
    guard = guard_with([*noise(ENOUGH), 1e30])
    assert guard.rejects(10.0)
    assert not guard.rejects(1.1)


def test_a_lasting_rise_of_the_norm_is_accepted_after_a_few_steps():
    guard = guard_with(noise(WINDOW))
    judged = [guard.rejects(norm * 2) for norm in noise(WINDOW, seed=1)]
    assert judged[0]
    assert sum(judged) <= 10
    assert not any(judged[-100:])


def test_a_restored_guard_judges_as_the_unbroken_one():
    norms = noise(400)
    norms[100] = norms[250] = 5.0
    norms[120] = math.nan
    unbroken = GradientGuard(sigmas=2.0, max_skipped=10)
    whole = [unbroken.rejects(norm) for norm in norms]
    restored = GradientGuard(sigmas=2.0, max_skipped=10)
    restored.load_state(json.loads(json.dumps(guard_with(norms[:222], sigmas=2.0).state())))
    assert [restored.rejects(norm) for norm in norms[222:]] == whole[222:]
    assert restored.state() == unbroken.state()


def test_the_guard_is_exhausted_by_one_skip_too_many_within_the_window():
    guard = guard_with([math.nan] * 2, max_skipped=2)
    assert not guard.is_exhausted
    guard.rejects(math.nan)
    assert guard.is_exhausted
    for norm in noise(WINDOW):
        guard.rejects(norm)
    assert not guard.is_exhausted
    assert guard.num_skipped == 3


@pytest.mark.parametrize("is_spike", [True, False])
def test_a_rejected_step_keeps_the_loss_scaler_of_fp16_working(is_spike):
    from accelerate import Accelerator
    from accelerate.optimizer import AcceleratedOptimizer

    Accelerator(cpu=True)
    weight = torch.nn.Parameter(torch.ones(3))
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    optimizer = AcceleratedOptimizer(torch.optim.AdamW([weight], lr=0.1), scaler=scaler)
    guard = GradientGuard(sigmas=6.0, max_skipped=10)
    guard_optimizer(optimizer, guard)

    def step(factor: float, norm: float) -> None:
        scaler.scale((weight * factor).sum()).backward()
        scaler.unscale_(optimizer.optimizer)
        guard.rejects(norm)
        optimizer.step()
        optimizer.zero_grad()

    step(1.0, 1.0)
    assert not optimizer.step_was_skipped
    before = weight.detach().clone()
    if is_spike:
        for norm in noise(ENOUGH):
            guard.rejects(norm)
    step(9.0 if is_spike else math.inf, 9.0 if is_spike else math.inf)
    assert optimizer.step_was_skipped
    assert torch.equal(weight, before)
    assert scaler.get_scale() == (1024.0 if is_spike else 512.0)
    step(1.0, 1.0)
    assert not optimizer.step_was_skipped
    assert not torch.equal(weight, before)


# ---- in real runs --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("config", "factor"),
    [
        ("ddp.yaml", "nan"),
        ("fsdp.yaml", "1e4"),
        pytest.param("ddp.yaml", "1e4", marks=pytest.mark.slow),
        pytest.param("fsdp.yaml", "nan", marks=pytest.mark.slow),
    ],
)
def test_a_bad_gradient_on_one_rank_leaves_no_trace(tiny, config, factor):
    given = {"step": 3, "rank": 1, "factor": factor, "knows_spikes": factor != "nan"}
    ill = tiny.run("ill", config, program="with_bad_gradients", given=given)
    tiny.run("left out", config, program="without_an_update", given={"step": 3})
    run, left_out = tiny.folder / "ill", tiny.folder / "left out"
    assert_same_weights(model_of(run), model_of(left_out))

    found, healthy = losses(run), losses(left_out)
    assert found == {step: loss for step, loss in healthy.items() if step != 3}
    lines = [line for line in metrics_of(run) if "train/learning_rate" in line]
    assert [line["train/skipped_steps"] for line in lines] == [0, 0, 1, 1, 1, 1]
    assert lines[2]["train/learning_rate"] == lines[3]["train/learning_rate"]
    [end] = [line for line in metrics_of(run) if "train/train_loss" in line]
    assert end["train/train_loss"] == pytest.approx(sum(found.values()) / 5, rel=0.05)

    [skipped] = (run / "skipped_steps.jsonl").read_text().splitlines()
    skipped = json.loads(skipped)
    assert skipped["step"] == 3
    assert skipped["rows"] == [8, 12]
    assert len(skipped["documents"]) >= 2
    assert all(d["path"].endswith(".py") and d["repo"] for d in skipped["documents"])
    norm = lines[2]["train/grad_norm"]
    if factor == "nan":
        assert math.isnan(norm)
        assert skipped["bound"] is None
    else:
        assert norm > skipped["bound"] > 1
    assert f"step 3 is skipped: gradient norm {norm:.4g}" in ill.of_rank(0)
    assert "is skipped" not in ill.of_rank(1)


def test_skipped_steps_are_left_out_of_the_mean_over_several_steps(tiny):
    given = {"step": 2, "rank": 0, "factor": "nan"}
    tiny.run("whole", program="with_bad_gradients", given=given, logging_steps=3, max_steps=3)
    tiny.run("single", program="with_bad_gradients", given=given, max_steps=3)
    whole, single = losses(tiny.folder / "whole"), losses(tiny.folder / "single")
    assert list(single) == [1, 3]
    assert whole[3] == pytest.approx((single[1] + single[3]) / 2, rel=0.02)


def test_a_resumed_run_judges_and_logs_as_the_unbroken_one(tiny):
    given = {"step": 3, "rank": 0, "factor": "nan", "knows_spikes": True}
    changes = {"program": "with_bad_gradients", "given": given, "logging_steps": 2, "save_steps": 1}
    tiny.run("run", save_strategy="steps", save_total_limit=9, **changes)
    folder = tiny.folder / "run"
    unbroken = losses(folder)
    skipped = (folder / "skipped_steps.jsonl").read_text()
    weights = model_of(folder)
    guard = kept_guard(folder / "checkpoint-6")
    assert guard["num_skipped"] == 1
    assert len(guard["norms"]) == ENOUGH + 5

    for step in (2, 4, 5):
        for later in range(step + 1, 7):
            shutil.rmtree(folder / f"checkpoint-{later}")
        shutil.rmtree(folder / "model")
        ended = tiny.run("run", save_strategy="steps", save_total_limit=9, **changes)
        assert f"going on from {folder / f'checkpoint-{step}'}" in ended.output
        assert losses(folder) == unbroken
        assert (folder / "skipped_steps.jsonl").read_text() == skipped
        assert_same_weights(model_of(folder), weights)
        assert kept_guard(folder / "checkpoint-6") == guard


def kept_guard(checkpoint) -> dict:
    state = json.loads((checkpoint / "trainer_state.json").read_text())
    return state["stateful_callbacks"]["KeptState"]["gradient_guard"]


def test_a_fused_loss_is_logged_alike(tiny):
    settings = {"max_steps": 3, "gradient_accumulation_steps": 2}
    tiny.run("apart", "ddp.yaml", **settings)
    tiny.run("fused", "ddp.yaml", program="with_a_fused_loss", **settings)
    fused, apart = tiny.folder / "fused", tiny.folder / "apart"
    assert losses(fused) == pytest.approx(losses(apart), rel=1e-5)
    assert not any("train/loss_ar" in line for line in metrics_of(fused))


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"skip_spike_sigmas": -1}, "skip_spike_sigmas -1 is out of range; give 0 or more."),
        ({"max_skipped_steps": -1}, "max_skipped_steps -1 is out of range; give a whole number"),
        ({"fp16": True}, "fp16 true is not possible on this processor; give --bf16 true"),
        ({"enable_jit_checkpoint": True}, "enable_jit_checkpoint True is not possible here"),
    ],
)
def test_a_mistake_is_refused_in_one_sentence(tmp_path, changes, sentence):
    from hugcoder.pretraining.arguments import PretrainArguments

    with pytest.raises(Refusal, match=sentence):
        PretrainArguments(output_dir=str(tmp_path), **changes)
