"""FSDP2 checkpoints, written behind the training by two ranks: exact, elastic, never lost."""

import json
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml
from safetensors.torch import load_file

from hugcoder import checkpoint

ROOT = Path(__file__).resolve().parents[1]
STEPS = 6


def words(store: Path, model_config: Path, run: Path, **changes) -> list[str]:
    values = {
        "config_file": model_config,
        "token_store": store,
        "output_dir": run,
        "max_seq_length": 128,
        "max_steps": STEPS,
        "per_device_train_batch_size": 2,
        "global_batch_size": 4,
        "learning_rate": 1e-2,
        "logging_steps": 1,
        "eval_strategy": "no",
        "held_out_rows": 0,
        "save_steps": 2,
        "dataloader_num_workers": 0,
    }
    return [part for name, value in (values | changes).items() for part in (f"--{name}", value)]


@pytest.fixture(scope="module")
def launch(ranks, store, model_config):
    """Run train.py (or a program like it) in ranks and return the world; it must end well."""

    def run(folder: Path, *, codes=None, config="fsdp.yaml", world=2, main="train", **changes):
        model = changes.pop("model", model_config)
        argv = words(store, model, folder, **changes)
        done = ranks.run(argv, config=config, world=world, main=main, timeout=120)
        assert done.codes == ([0] * world if codes is None else codes), done.output[-3000:]
        return done

    return run


@pytest.fixture(scope="module")
def unbroken(launch, tmp_path_factory) -> Path:
    run = tmp_path_factory.mktemp("unbroken") / "run"
    launch(run)
    return run


def losses(run: Path) -> dict[int, float]:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return {line["step"]: line["train/loss"] for line in lines if "train/loss" in line}


def weights_are_equal(one: Path, other: Path) -> bool:
    first, second = (load_file(run / "model" / "model.safetensors") for run in (one, other))
    return all(first[name].equal(second[name]) for name in first) and set(first) == set(second)


def begin_at(step: int, source: Path, run: Path) -> Path:
    """A run folder that holds one checkpoint of another."""
    shutil.copytree(source / f"checkpoint-{step}", run / f"checkpoint-{step}")
    return run


def after(step: int, run: Path) -> dict[int, float]:
    return {at: loss for at, loss in losses(run).items() if at > step}


def fsdp_config(folder: Path, **changes) -> Path:
    config = yaml.safe_load((ROOT / "configs" / "fsdp.yaml").read_text())
    config["fsdp_config"] |= changes
    path = folder / "fsdp.yaml"
    path.write_text(yaml.safe_dump(config))
    return path


# ---- going on ------------------------------------------------------------------------------------


def test_a_resumed_run_has_the_losses_and_weights_of_the_unbroken_one(launch, unbroken, tmp_path):
    run = begin_at(4, unbroken, tmp_path / "run")
    world = launch(run)
    assert "going on from" in world.of_rank(0)
    assert losses(run) == after(4, unbroken)
    assert weights_are_equal(run, unbroken)


def test_one_process_goes_on_with_what_two_wrote(launch, unbroken, tmp_path):
    run = begin_at(2, unbroken, tmp_path / "run")
    world = launch(run, world=1)
    assert "random numbers start anew at step 2: written by 2 processes" in world.of_rank(0)
    assert losses(run) == pytest.approx(after(2, unbroken), rel=1e-6)


def test_two_processes_go_on_with_what_one_wrote(launch, tmp_path):
    launch(tmp_path / "one", world=1)
    run = begin_at(2, tmp_path / "one", tmp_path / "two")
    launch(run)
    assert losses(run) == pytest.approx(after(2, tmp_path / "one"), rel=1e-6)


def test_muon_and_an_untied_head_resume_exactly_with_activation_checkpointing_switched(
    launch, model_config, tmp_path
):
    untied = tmp_path / "config.json"
    values = json.loads(model_config.read_text()) | {"tie_word_embeddings": False}
    untied.write_text(json.dumps(values))
    launch(tmp_path / "unbroken", model=untied, use_muon=True, max_steps=4)
    run = begin_at(2, tmp_path / "unbroken", tmp_path / "resumed")
    plain = fsdp_config(tmp_path, fsdp_activation_checkpointing=False)
    launch(run, config=plain, model=untied, use_muon=True, max_steps=4)
    assert losses(run) == after(2, tmp_path / "unbroken")
    assert weights_are_equal(run, tmp_path / "unbroken")


@pytest.mark.slow
def test_checkpoints_in_one_file_resume_exactly_too(launch, tmp_path):
    config = fsdp_config(tmp_path, fsdp_state_dict_type="FULL_STATE_DICT")
    launch(tmp_path / "unbroken", config=config)
    assert not (tmp_path / "unbroken" / "checkpoint-4" / "optimizer_0").exists()
    run = begin_at(4, tmp_path / "unbroken", tmp_path / "resumed")
    launch(run, config=config)
    assert losses(run) == after(4, tmp_path / "unbroken")
    assert weights_are_equal(run, tmp_path / "unbroken")


# ---- behind the training -------------------------------------------------------------------------


def test_training_goes_on_while_a_checkpoint_is_written(launch, unbroken, tmp_path):
    run = tmp_path / "run"
    log = launch(run, main="rank_programs_c:slow_disk", save_steps=3, max_steps=5).of_rank(0)
    begun = log.index("checkpoint-3 is being written")
    done = log.index("checkpoint-3 is complete")
    assert begun < log.index("step 5/5") < done
    assert checkpoint.damage(run / "checkpoint-3") == ""
    assert checkpoint.damage(run / "checkpoint-5") == ""  # waited for at the end


def test_writing_at_once_gives_the_same_files(launch, unbroken, tmp_path):
    log = launch(tmp_path / "run", async_save=False).of_rank(0)
    assert "is being written" not in log
    for name in ("pytorch_model_fsdp_0/__0_0.distcp", "optimizer_0/__1_0.distcp"):
        path = f"checkpoint-4/{name}"
        assert (tmp_path / "run" / path).read_bytes() == (unbroken / path).read_bytes()


def test_old_checkpoints_are_deleted_and_the_newest_does_not_grow_with_the_run(launch, tmp_path):
    launch(tmp_path, save_total_limit=2, main="rank_programs_c:few_log_lines")
    assert [folder.name for folder in checkpoint.checkpoints_in(tmp_path)] == [
        "checkpoint-4",
        "checkpoint-6",
    ]
    manifest = json.loads((tmp_path / "checkpoint-6" / "manifest.json").read_text())
    assert manifest["tokens"] == 6 * 4 * 128
    assert manifest["world_size"] == 2
    assert manifest["engine"] == "FSDP"
    state = json.loads((tmp_path / "checkpoint-6" / "trainer_state.json").read_text())
    assert [line["step"] for line in state["log_history"]] == [4, 5, 6]
    assert sorted(losses(tmp_path)) == [1, 2, 3, 4, 5, 6]


# ---- accidents -----------------------------------------------------------------------------------


@pytest.mark.parametrize("accident", ["killed_between_files", "killed_before_the_manifest"])
def test_a_kill_while_writing_loses_nothing_that_was_complete(
    launch, unbroken, tmp_path, accident, ranks, store, model_config
):
    argv = words(store, model_config, tmp_path, save_total_limit=1)
    killed = ranks.run(argv, config="fsdp.yaml", main=f"rank_programs_c:{accident}", grace=2.0)
    assert -9 in killed.codes
    assert killed.codes != [-9, -9]
    log = launch(tmp_path, save_total_limit=1).of_rank(0)
    assert "checkpoint-4 is torn: it has no manifest" in log
    assert (tmp_path / "torn-checkpoint-4").is_dir()
    assert losses(tmp_path) == losses(unbroken)
    assert weights_are_equal(tmp_path, unbroken)


def test_a_bit_that_flipped_in_a_shard_is_found_before_training(launch, unbroken, tmp_path):
    for step in (2, 4):
        begin_at(step, unbroken, tmp_path)
    shard = tmp_path / "checkpoint-4" / "optimizer_0" / "__1_0.distcp"
    content = bytearray(shard.read_bytes())
    content[len(content) // 2] ^= 1
    shard.write_bytes(content)
    log = launch(tmp_path).of_rank(0)
    assert "checkpoint-4 is torn: optimizer_0/__1_0.distcp has changed since" in log
    assert losses(tmp_path) == after(2, unbroken)


def test_a_damaged_checkpoint_that_was_asked_for_is_refused_by_all_ranks(
    launch, unbroken, tmp_path
):
    given = begin_at(4, unbroken, tmp_path) / "checkpoint-4"
    (given / "rng_state_1.pth").unlink()
    world = launch(tmp_path / "run", codes=[2, 2], resume_from_checkpoint=given)
    for rank in range(2):
        assert "is not a complete checkpoint (rng_state_1.pth is missing)" in world.of_rank(rank)


def test_another_engine_is_refused_with_the_way_out(launch, unbroken, tmp_path):
    run = begin_at(4, unbroken, tmp_path)
    world = launch(run, config="ddp.yaml", codes=[2, 2])
    assert "was written by the engine FSDP and this is MULTI_CPU" in world.of_rank(1)


@pytest.fixture
def small_disk(tmp_path, unbroken):
    """A file system with room for one and a half checkpoints."""
    folder = tmp_path / "small"
    folder.mkdir()
    files = [path for path in (unbroken / "checkpoint-2").rglob("*") if path.is_file()]
    size = int(1.5 * sum(path.stat().st_size for path in files))
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("needs the right to mount a small file system")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_disk_that_fills_behind_the_training_ends_all_ranks_in_a_sentence(
    launch, unbroken, small_disk
):
    run = small_disk / "run"
    world = launch(run, codes=[2, 2])
    for rank in range(2):
        assert "No space left on device" in world.of_rank(rank)
        assert "Traceback" not in world.of_rank(rank)
    assert checkpoint.damage(run / "checkpoint-2") == ""
    subprocess.run(["mount", "-o", "remount,size=90m", str(small_disk)], check=True)
    assert "going on from" in launch(run).of_rank(0)
    assert losses(run) == losses(unbroken)
    assert weights_are_equal(run, unbroken)


def test_a_full_disk_ends_all_ranks_in_a_sentence_when_one_of_them_writes_for_all(
    launch, small_disk
):
    world = launch(small_disk / "run", codes=[2, 2], config="ddp.yaml")
    for rank in range(2):
        assert "No space left on device" in world.of_rank(rank)
        assert "Traceback" not in world.of_rank(rank)
    assert checkpoint.damage(small_disk / "run" / "checkpoint-2") == ""
