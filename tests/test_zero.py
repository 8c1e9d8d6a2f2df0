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
from safetensors.torch import load_file

from hugcoder import zero
from hugcoder.refusal import Refusal

OFFLOAD = "offload"
CONFIGS = {
    0: "cpu.yaml",  # one process, no DeepSpeed
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
STAGES = (1, 2, 3)
OFFLOADED = pytest.param(OFFLOAD, marks=[slow, can_compile])
MOST = [pytest.param(1, marks=slow), 2, 3, OFFLOADED]
LAST = [pytest.param(1, marks=slow), pytest.param(2, marks=slow), 3, OFFLOADED]


class Launcher:
    """Starts runs of train.py that differ in a few words, each in its own folder."""

    def __init__(self, ranks, folder: Path, words: dict):
        self.ranks, self.folder, self.words = ranks, folder, words
        self.finished: dict[tuple, Path] = {}
        self.printed: dict[str, str] = {}

    def launch(self, name: str, stage, *, world: int = 2, main: str = "train", **changes):
        """Run to the end; returns what the ranks printed."""
        words = self.words | {"output_dir": self.folder / name} | changes
        argv = [part for key, value in words.items() for part in (f"--{key}", value)]
        ran = self.ranks.run(argv, config=CONFIGS[stage], world=world, main=main, timeout=900)
        assert not any(ran.codes), ran.output[-4000:]
        self.printed[name] = ran.output
        return ran

    def run(self, name: str, stage, **settings) -> Path:
        self.launch(name, stage, **settings)
        return self.folder / name

    def whole(self, stage, world: int = 2, **changes) -> Path:
        """A run of six steps that was not interrupted; made once for equal settings."""
        key = (stage, world, *sorted(changes.items()))
        if key not in self.finished:
            name = "whole-" + "-".join(map(str, key)).replace(" ", "")
            changes = {"gradient_accumulation_steps": 8 // world} | changes
            self.finished[key] = self.run(name, stage, world=world, **changes)
        return self.finished[key]

    def resumed(self, whole: Path, stage, *, world: int = 2, **settings) -> Path:
        """A run that goes on from checkpoint-3 of another, after a start killed in resharding."""
        name = f"{whole.name}-resumed-{len(list(self.folder.iterdir()))}"
        shutil.copytree(whole / "checkpoint-3", self.folder / name / "checkpoint-3")
        (self.folder / name / "universal-checkpoint-3" / "global_step3").mkdir(parents=True)
        settings = {"gradient_accumulation_steps": 8 // world} | settings
        return self.run(name, stage, world=world, **settings)


@pytest.fixture(scope="module")
def launcher(ranks, store, model_config, tmp_path_factory) -> Launcher:
    words = {
        "config_file": model_config,
        "token_store": store,
        "max_seq_length": 128,
        "max_steps": 6,
        "per_device_train_batch_size": 1,
        "per_device_eval_batch_size": 4,
        "learning_rate": 1e-2,
        "logging_steps": 1,
        "save_steps": 3,
        "eval_steps": 6,
        "held_out_rows": 4,
        "dataloader_num_workers": 0,
    }
    return Launcher(ranks, tmp_path_factory.mktemp("zero"), words)


def losses(run: Path) -> dict[int, float]:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return {line["step"]: line["train/loss"] for line in lines if "train/loss" in line}


def after_step_3(run: Path) -> dict[int, float]:
    return {step: loss for step, loss in losses(run).items() if step > 3}


def model_of(run: Path) -> dict[str, torch.Tensor]:
    return load_file(run / "model" / "model.safetensors")


def assert_same_bits(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    assert found.keys() == expected.keys()
    assert [name for name in found if not torch.equal(found[name], expected[name])] == []


# ---- training, resuming, the model ---------------------------------------------------------------


@pytest.mark.parametrize("stage", MOST)
def test_a_resumed_run_has_the_losses_and_weights_of_the_unbroken_run(launcher, stage):
    whole = launcher.whole(stage)
    resumed = launcher.resumed(whole, stage)
    assert losses(resumed) == after_step_3(whole)
    assert_same_bits(model_of(resumed), model_of(whole))
    assert list(resumed.glob("universal-*")) == []


@pytest.mark.parametrize("stage", STAGES)
def test_any_program_opens_the_model(launcher, stage):
    from transformers import AutoModelForCausalLM

    folder = launcher.whole(stage) / "model"
    model, loading = AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True)
    assert not loading["missing_keys"]
    assert not loading["mismatched_keys"]
    assert torch.isfinite(model(torch.arange(10)[None]).logits).all()


@pytest.mark.parametrize("stage", STAGES)
def test_two_ranks_accumulating_four_give_the_losses_of_one_process_accumulating_eight(
    launcher, stage
):
    alone = losses(launcher.whole(0, world=1))
    assert list(alone) == [1, 2, 3, 4, 5, 6]
    assert losses(launcher.whole(stage)) == pytest.approx(alone, rel=ROUNDING)


@slow
@pytest.mark.parametrize("stage", STAGES)
def test_bf16_of_the_recipe_trains_and_resumes_exactly(launcher, stage):
    whole = launcher.whole(stage, bf16="true")
    assert losses(whole)[6] < losses(whole)[1] - 0.3
    assert losses(whole) == pytest.approx(losses(launcher.whole(0, world=1)), rel=2e-3)
    resumed = launcher.resumed(whole, stage, bf16="true")
    assert losses(resumed) == after_step_3(whole)
    assert_same_bits(model_of(resumed), model_of(whole))


# ---- another number of processes -----------------------------------------------------------------


@pytest.mark.parametrize("stage", LAST)
@pytest.mark.parametrize(("then", "now"), [(2, 1), pytest.param(1, 2, marks=slow)])
def test_a_run_goes_on_with_another_number_of_processes(launcher, stage, then, now):
    whole = launcher.whole(stage, world=then)
    before = file_sizes(whole / "checkpoint-3")
    resumed = launcher.resumed(whole, stage, world=now)
    assert losses(resumed) == pytest.approx(after_step_3(whole), rel=ROUNDING)
    assert file_sizes(resumed / "checkpoint-3") == before
    assert list(resumed.glob("universal-*")) == []


@pytest.mark.parametrize("stage", LAST)
def test_the_universal_form_loses_no_bit(launcher, stage):
    whole = launcher.whole(stage)
    main = "rank_programs_zero:resume_through_universal"
    resumed = launcher.resumed(whole, stage, main=main)
    assert losses(resumed) == after_step_3(whole)
    assert_same_bits(model_of(resumed), model_of(whole))


def file_sizes(checkpoint: Path) -> dict[str, int]:
    files = [path for path in checkpoint.rglob("*") if path.is_file()]
    return {str(p.relative_to(checkpoint)): p.stat().st_size for p in files}


def test_a_checkpoint_of_another_stage_is_refused(launcher):
    checkpoint = launcher.whole(2) / "checkpoint-3"
    with pytest.raises(Refusal, match="was written by ZeRO-2, now ZeRO-3 runs"):
        zero.check_stage(checkpoint, 3)
    zero.check_stage(checkpoint, 2)


def test_a_checkpoint_of_another_engine_is_refused(launcher):
    checkpoint = launcher.whole(0, world=1) / "checkpoint-3"
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
        pytest.param(2, {"fp16": "true"}, marks=slow),
        pytest.param(3, {"fp16": "true"}, marks=slow),
    ],
)
def test_a_bad_gradient_on_one_rank_leaves_all_ranks_as_they_were(launcher, stage, changes):
    ran = launcher.launch(
        "-".join(["bad", str(stage), *changes]),
        stage,
        main="rank_programs_zero:train_with_bad_gradients",
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
def test_exported_weights_are_those_of_the_model(launcher, stage, tmp_path):
    run = launcher.whole(stage)
    expected = model_of(run)
    expected.pop("lm_head.weight", None)  # tied; some engines write it twice
    zero.export_weights(run / "checkpoint-6", tmp_path / "whole")
    assert_same_bits(load_file(tmp_path / "whole" / "model.safetensors"), expected)

    zero.export_weights(run / "checkpoint-6", tmp_path / "parts", max_file_bytes=100_000)
    index = json.loads((tmp_path / "parts" / "model.safetensors.index.json").read_text())
    parts = sorted((tmp_path / "parts").glob("*.safetensors"))
    assert len(parts) > 2
    assert {path.name for path in parts} == set(index["weight_map"].values())
    assert_same_bits({k: v for path in parts for k, v in load_file(path).items()}, expected)


@slow
def test_exported_weights_of_a_bf16_run_are_the_float32_masters(launcher, tmp_path):
    run = launcher.whole(3, bf16="true")
    zero.export_weights(run / "checkpoint-6", tmp_path)
    exported = load_file(tmp_path / "model.safetensors")
    assert {weight.dtype for weight in exported.values()} == {torch.float32}
    rounded = {name: weight.bfloat16() for name, weight in exported.items()}
    assert any(not torch.equal(rounded[name].float(), exported[name]) for name in exported)
    assert_same_bits(rounded, model_of(run))


# ---- words ---------------------------------------------------------------------------------------


def test_no_warning_is_repeated_at_every_step(launcher):
    assert "deprecated" not in launcher.printed[launcher.whole(3).name]


def test_muon_is_refused_before_anything_is_loaded(launcher):
    argv = ["--config_file", launcher.words["config_file"], "--token_store", "x", "--output_dir"]
    argv += [launcher.folder / "muon", "--use_muon", "true"]
    ran = launcher.ranks.run(argv, config=CONFIGS[3])
    assert ran.codes == [2, 2]
    assert "use_muon true does not work with DeepSpeed" in ran.of_rank(0)


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
def test_offloaded_shards_give_the_losses_of_others(launcher, stage):
    expected = losses(launcher.whole(3))
    assert losses(launcher.whole(stage)) == pytest.approx(expected, rel=1e-4)  # another Adam
