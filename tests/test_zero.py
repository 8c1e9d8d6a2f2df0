"""DeepSpeed ZeRO-1, -2 and -3 with two processes through train.py's real main().

Runs resume exactly, on other numbers of processes too, give the losses of one plain process, drop
bad gradients at the engine's step and leave checkpoints whose full weights need no GPU.
"""

import json
import shutil
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from ranks import variant
from run_in_ranks import (
    TinyRun,
    assert_same_weights,
    begin_at,
    exact_losses,
    losses,
    model_of,
)
from safetensors.torch import load_file

from hugcoder.engines import zero
from hugcoder.refusal import Refusal
from hugcoder.run.export_weights import export_checkpoint

OFFLOAD = "offload"
CONFIGS = {
    1: "deepspeed_zero1.yaml",
    2: "deepspeed_zero2.yaml",
    3: "deepspeed.yaml",
    OFFLOAD: "deepspeed_offload.yaml",
}
ROUNDING = 2e-6  # relative; losses that differ only by the order of float32 sums
slow = pytest.mark.slow
can_compile = pytest.mark.skipif(
    not (shutil.which("g++") and shutil.which("ninja")),
    reason="DeepSpeed compiles the optimizer for CPUs: needs g++ and ninja, and minutes",
)
has_fp16 = pytest.mark.skipif(
    not torch.ops.mkldnn._is_mkldnn_fp16_supported(),  # DeepSpeed refuses fp16 on it
    reason="needs a processor with avx512_fp16 or amx_fp16",
)
STAGES = (1, 2, 3)
OFFLOADED = pytest.param(OFFLOAD, marks=[slow, can_compile])
MOST = [pytest.param(1, marks=slow), 2, 3, OFFLOADED]
LAST = [pytest.param(1, marks=slow), pytest.param(2, marks=slow), 3, OFFLOADED]


@pytest.fixture(scope="module")
def zero_run(ranks, store, model_config, tmp_path_factory) -> TinyRun:
    changes = {
        "per_device_train_batch_size": 1,
        "per_device_eval_batch_size": 4,
        "global_batch_size": 8,
        "save_steps": 3,
        "eval_strategy": "steps",
        "eval_steps": 6,
        "held_out_rows": 4,
    }
    run = TinyRun(ranks, store, model_config, tmp_path_factory.mktemp("zero"), **changes)
    run.timeout = 900.0  # the optimizer for CPUs is compiled
    return run


def resumed(zero_run: TinyRun, whole: Path, stage, world: int = 2, **settings) -> Path:
    """A run that goes on from checkpoint-3 of another, after a start killed in resharding."""
    run = zero_run.folder / f"resumed-{zero_run.ranks.count}"
    begin_at(3, whole, run)
    (run / "universal-checkpoint-3" / "global_step3").mkdir(parents=True)
    zero_run.run(run, CONFIGS[stage], world, **settings)
    return run


def assert_same(run: Path, whole: Path) -> None:
    """The one went on from checkpoint-3 of the other."""
    assert losses(run) == losses(whole, after=3)
    assert_same_weights(model_of(run), model_of(whole))


# ---- training, resuming, the model ---------------------------------------------------------------


@pytest.mark.parametrize("stage", MOST)
def test_a_resumed_run_has_the_losses_and_weights_of_the_unbroken_run(zero_run, stage):
    whole = zero_run.whole(CONFIGS[stage])
    run = resumed(zero_run, whole, stage)
    assert_same(run, whole)
    assert list(run.glob("universal-*")) == []


@pytest.mark.parametrize("stage", STAGES)
def test_any_program_opens_the_model(zero_run, stage):
    from transformers import AutoModelForCausalLM

    folder = zero_run.whole(CONFIGS[stage]) / "model"
    model, loading = AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True)
    assert not loading["missing_keys"]
    assert not loading["mismatched_keys"]
    assert torch.isfinite(model(torch.arange(10)[None]).logits).all()


@pytest.mark.parametrize("stage", STAGES)
def test_two_ranks_accumulating_four_give_the_losses_of_one_process_accumulating_eight(
    zero_run, stage
):
    alone = exact_losses(zero_run.whole())
    assert list(alone) == [1, 2, 3, 4, 5, 6]
    found = exact_losses(zero_run.whole(CONFIGS[stage]))
    assert found == pytest.approx(alone, rel=ROUNDING)


@slow
@pytest.mark.parametrize("stage", LAST[:3])
def test_the_suffix_loss_is_that_of_one_process(zero_run, stage):
    words = {"suffix_loss_weight": 0.5, "fim_rate": 1.0}
    one = zero_run.whole(None, 1, per_device_train_batch_size=8, **words)
    two = zero_run.whole(CONFIGS[stage], 2, **words)
    assert exact_losses(two) == pytest.approx(exact_losses(one), rel=ROUNDING)


@slow
@pytest.mark.parametrize("stage", STAGES)
def test_bf16_of_the_recipe_trains_and_resumes_exactly(zero_run, stage):
    whole = zero_run.whole(CONFIGS[stage], bf16="true")
    assert losses(whole)[6] < losses(whole)[1] - 0.3
    assert losses(whole) == pytest.approx(losses(zero_run.whole()), rel=2e-3)
    assert_same(resumed(zero_run, whole, stage, bf16="true"), whole)


# ---- another number of processes -----------------------------------------------------------------


@pytest.mark.parametrize("stage", LAST)
@pytest.mark.parametrize(("then", "now"), [(2, 1), pytest.param(1, 2, marks=slow)])
def test_a_run_goes_on_with_another_number_of_processes(zero_run, stage, then, now):
    whole = zero_run.whole(CONFIGS[stage], then)
    before = file_sizes(whole / "checkpoint-3")
    run = resumed(zero_run, whole, stage, now)
    assert exact_losses(run) == pytest.approx(exact_losses(whole), rel=ROUNDING)
    assert file_sizes(run / "checkpoint-3") == before
    assert list(run.glob("universal-*")) == []


@pytest.mark.parametrize("stage", LAST)
def test_the_universal_form_loses_no_bit(zero_run, stage):
    whole = zero_run.whole(CONFIGS[stage])
    program = "rank_programs_zero:resume_through_universal"
    assert_same(resumed(zero_run, whole, stage, main=program), whole)


def file_sizes(checkpoint: Path) -> dict[str, int]:
    files = [path for path in checkpoint.rglob("*") if path.is_file()]
    return {str(p.relative_to(checkpoint)): p.stat().st_size for p in files}


def test_a_checkpoint_of_another_stage_is_refused(zero_run):
    checkpoint = zero_run.whole(CONFIGS[2]) / "checkpoint-3"
    with pytest.raises(Refusal, match="was written by ZeRO-2, but now ZeRO-3 runs"):
        zero.check_stage(checkpoint, 3)
    zero.check_stage(checkpoint, 2)


def test_a_checkpoint_of_another_engine_is_refused(zero_run):
    checkpoint = zero_run.whole() / "checkpoint-3"
    with pytest.raises(Refusal, match="was not written by DeepSpeed"):
        zero.shards_of(checkpoint)


# ---- the guard -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("stage", "changes"),
    [
        pytest.param(1, {}, marks=slow),
        pytest.param(OFFLOAD, {}, marks=[slow, can_compile]),
        (2, {"bf16": "true", "max_grad_norm": 0}),
        (3, {}),
        pytest.param(1, {"bf16": "true"}, marks=slow),
        pytest.param(2, {"max_grad_norm": 0}, marks=slow),
        pytest.param(3, {"bf16": "true", "max_grad_norm": 0}, marks=slow),
        pytest.param(2, {"fp16": "true"}, marks=[slow, has_fp16]),
        pytest.param(3, {"fp16": "true"}, marks=[slow, has_fp16]),
    ],
)
def test_a_bad_gradient_on_one_rank_leaves_all_ranks_as_they_were(zero_run, stage, changes):
    ran = zero_run.run(
        "-".join(["bad", str(stage), *changes]),
        CONFIGS[stage],
        main="rank_programs_zero:train_with_bad_gradients",
        global_batch_size=2,
        max_steps=8,
        lr_scheduler_type="cosine",
        warmup_steps=0,
        **changes,
    )
    steps = [steps_of(ran.of_rank(rank)) for rank in (0, 1)]
    for of_rank in steps:
        assert [step["step"] for step in of_rank if step["skipped"]] == [3, 5, 6]
        assert [step["judged"] for step in of_rank] == [step["skipped"] for step in of_rank]
        for before, after in pairwise(of_rank):
            is_held = (before["state"], before["rate"]) == (after["state"], after["rate"])
            assert is_held == after["skipped"]
    assert [s["norm"] for s in steps[0]] == [s["norm"] for s in steps[1]]
    assert float(steps[0][4]["norm"]) > 100 > 5 > float(steps[0][7]["norm"])


def steps_of(output: str) -> list[dict]:
    return [json.loads(line[5:]) for line in output.splitlines() if line.startswith("STEP ")]


# ---- full weights --------------------------------------------------------------------------------


@pytest.mark.parametrize("stage", STAGES)
def test_exported_weights_are_those_of_the_model(zero_run, stage, tmp_path):
    run = zero_run.whole(CONFIGS[stage])
    expected = model_of(run)
    export_checkpoint(run / "checkpoint-6", tmp_path / "whole")
    assert_same_weights(load_file(tmp_path / "whole" / "model.safetensors"), expected)

    export_checkpoint(run / "checkpoint-6", tmp_path / "parts", max_file_bytes=100_000)
    index = json.loads((tmp_path / "parts" / "model.safetensors.index.json").read_text())
    parts = sorted((tmp_path / "parts").glob("*.safetensors"))
    assert len(parts) > 2
    assert {path.name for path in parts} == set(index["weight_map"].values())
    assert_same_weights({k: v for path in parts for k, v in load_file(path).items()}, expected)


@slow
def test_exported_weights_of_a_bf16_run_are_the_float32_masters(zero_run, tmp_path):
    run = zero_run.whole(CONFIGS[3], bf16="true")
    export_checkpoint(run / "checkpoint-6", tmp_path)
    exported = load_file(tmp_path / "model.safetensors")
    assert {weight.dtype for weight in exported.values()} == {torch.float32}
    rounded = {name: weight.bfloat16() for name, weight in exported.items()}
    assert any(not torch.equal(rounded[name].float(), exported[name]) for name in exported)
    assert_same_weights(rounded, model_of(run))


# ---- weights that the configuration does not gather ----------------------------------------------


@pytest.fixture(scope="module", params=["yaml", pytest.param("json", marks=slow)])
def ungathered(request, zero_run) -> Path:
    """ZeRO-3 as `accelerate config` answers by default, or by a file of DeepSpeed's own."""
    if request.param == "yaml":
        changes = {"zero3_save_16bit_model": False}
    else:
        names = ("train_micro_batch_size_per_gpu", "gradient_clipping")
        said = dict.fromkeys((*names, "gradient_accumulation_steps"), "auto")
        file = zero_run.folder / "zero3.json"
        file.write_text(json.dumps(said | {"zero_optimization": {"stage": 3}}))
        names = ("zero_stage", "offload_optimizer_device", "offload_param_device")
        changes = dict.fromkeys((*names, "zero3_save_16bit_model"))
        changes |= {"deepspeed_config_file": str(file)}
    folder = zero_run.folder / request.param
    folder.mkdir()
    return variant(folder, "deepspeed.yaml", deepspeed_config=changes)


def test_ungathered_checkpoints_hold_shards_once_and_the_final_model_is_whole(
    zero_run, ungathered, tmp_path
):
    whole = zero_run.whole(CONFIGS[3])
    run = zero_run.folder / f"shards-{ungathered.parent.name}"
    log = zero_run.run(run, ungathered, main="rank_programs_zero:show_saves").of_rank(0)
    assert log.count("SAVE ") == 2  # of steps 3 and 6
    assert not list(run.glob("checkpoint-*/*.safetensors"))
    assert losses(run) == losses(whole)
    assert_same_weights(model_of(run), model_of(whole))
    export_checkpoint(run / "checkpoint-3", tmp_path / "out")
    export_checkpoint(whole / "checkpoint-3", tmp_path / "expected")
    exported, expected = (tmp_path / name / "model.safetensors" for name in ("out", "expected"))
    assert_same_weights(load_file(exported), load_file(expected))

    again = begin_at(3, run, tmp_path / "resumed")
    zero_run.run(again, ungathered)
    assert_same(again, whole)


def test_a_final_model_without_weights_is_not_called_finished(zero_run, ungathered):
    run = zero_run.folder / f"without-{ungathered.parent.name}"
    program = "rank_programs_zero:export_without_gathering"
    ended = zero_run.run(run, ungathered, code=2, main=program, max_steps=1, eval_strategy="no")
    for rank in (0, 1):
        assert "model is not the whole model: 24 of 24 weights are missing" in ended.of_rank(rank)
    assert not (run / "model" / "manifest.json").exists()


# ---- words ---------------------------------------------------------------------------------------


def test_no_warning_is_repeated_at_every_step(zero_run):
    assert "deprecated" not in zero_run.run("words", CONFIGS[3], max_steps=2).output


def test_muon_is_refused_before_anything_is_loaded(zero_run):
    ran = zero_run.run("muon", CONFIGS[3], code=2, token_store="x", use_muon="true")
    assert "use_muon true does not work with DeepSpeed" in ran.of_rank(0)


def test_fp16_is_refused_where_the_processor_lacks_it_before_anything_is_loaded(zero_run):
    """Symptom: a traceback, "Type fp16 is not supported on your device", once all was loaded."""
    changes = {"token_store": "x", "fp16": "true", "code": 2}
    without = {"program": "without_fp16", "given": {}}  # as on a processor that lacks it
    ran = zero_run.run("fp16", CONFIGS[3], **without, **changes)
    assert "fp16 true is not possible on this processor; give --bf16 true" in ran.of_rank(0)
    assert "Traceback" not in ran.output


def test_offload_without_a_compiler_is_refused(monkeypatch):
    from ranks import launch_environment

    for name, value in launch_environment(CONFIGS[OFFLOAD], 2).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("PATH", "")
    with pytest.raises(Refusal, match=r"offload_optimizer_device cpu needs g\+\+ and ninja"):
        zero.check_offload()


def test_the_lock_of_a_killed_compilation_is_named(tmp_path, monkeypatch, caplog):
    lock = tmp_path / "cpu_adam" / "lock"
    lock.parent.mkdir()
    lock.touch()
    monkeypatch.setenv("ACCELERATE_USE_DEEPSPEED", "true")
    monkeypatch.setenv("ACCELERATE_DEEPSPEED_OFFLOAD_OPTIMIZER_DEVICE", "cpu")
    monkeypatch.setenv("TORCH_EXTENSIONS_DIR", str(tmp_path))
    monkeypatch.setattr(shutil, "which", lambda name: name)
    zero.check_offload()
    assert f"{lock} is there" in caplog.text


@pytest.mark.parametrize("stage", [OFFLOADED])
def test_offloaded_shards_give_the_losses_of_others(zero_run, stage):
    expected = losses(zero_run.whole(CONFIGS[3]))
    assert losses(zero_run.whole(CONFIGS[stage])) == pytest.approx(
        expected, rel=1e-4
    )  # another Adam


@slow
def test_compiling_under_stage_3_does_not_run_into_the_limit(zero_run):
    """Symptom: dozens of lines of torch._dynamo's recompile_limit, for each kind of hook 8."""
    settings = {"torch_compile": True, "torch_compile_backend": "eager", "max_steps": 1}
    ended = zero_run.run("compiled", CONFIGS[3], **settings, eval_strategy="no", held_out_rows=0)
    assert "recompile_limit" not in ended.output
