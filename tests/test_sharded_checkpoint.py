"""FSDP2 checkpoints, written behind the training by two ranks: exact, elastic, never lost."""

import json
from pathlib import Path

import pytest
from ranks import World, variant
from run_in_ranks import (
    TinyRun,
    assert_same_weights,
    begin_at,
    exact_losses,
    losses,
    model_of,
)

from hugcoder.model import manifest


@pytest.fixture(scope="module")
def sharded(ranks, store, model_config, tmp_path_factory) -> TinyRun:
    folder = tmp_path_factory.mktemp("sharded")
    return TinyRun(ranks, store, model_config, folder, global_batch_size=4)


@pytest.fixture(scope="module")
def unbroken(sharded) -> Path:
    return sharded.whole("fsdp.yaml")


def assert_same(run: Path, unbroken: Path, after: int = 0) -> None:
    assert losses(run) == losses(unbroken, after)
    assert_same_weights(model_of(run), model_of(unbroken))


# ---- going on ------------------------------------------------------------------------------------


def test_a_resumed_run_has_the_losses_and_weights_of_the_unbroken_one(sharded, unbroken, tmp_path):
    run = begin_at(4, unbroken, tmp_path / "run")
    world = sharded.run(run, "fsdp.yaml")
    assert "going on from" in world.of_rank(0)
    assert_same(run, unbroken, after=4)


def test_one_process_goes_on_with_what_two_wrote(sharded, unbroken, tmp_path):
    run = begin_at(2, unbroken, tmp_path / "run")
    world = sharded.run(run, "fsdp.yaml", 1)
    assert "numbers start anew at step 2: 2 processes wrote the checkpoint" in world.of_rank(0)
    assert exact_losses(run) == pytest.approx(exact_losses(unbroken), rel=1e-6)


def test_two_processes_go_on_with_what_one_wrote(sharded, tmp_path):
    one = sharded.whole("fsdp.yaml", 1)
    run = begin_at(2, one, tmp_path / "two")
    sharded.run(run, "fsdp.yaml")
    assert exact_losses(run) == pytest.approx(exact_losses(one), rel=1e-6)


def test_muon_and_an_untied_head_resume_exactly_with_activation_checkpointing_switched(
    sharded, model_config, tmp_path
):
    untied = tmp_path / "config.json"
    values = json.loads(model_config.read_text()) | {"tie_word_embeddings": False}
    untied.write_text(json.dumps(values))
    settings = {"config_file": untied, "use_muon": True, "max_steps": 4}
    unbroken = sharded.whole("fsdp.yaml", **settings)
    run = begin_at(2, unbroken, tmp_path / "resumed")
    sharded.run(run, "fsdp.yaml", activation_checkpointing=True, **settings)
    assert_same(run, unbroken, after=2)


@pytest.mark.slow
def test_checkpoints_in_one_file_resume_exactly_too(sharded, tmp_path):
    full = {"fsdp_state_dict_type": "FULL_STATE_DICT"}
    config = variant(tmp_path, "fsdp.yaml", fsdp_config=full)
    unbroken = sharded.whole(config)
    assert not (unbroken / "checkpoint-4" / "optimizer_0").exists()
    run = begin_at(4, unbroken, tmp_path / "resumed")
    sharded.run(run, config)
    assert_same(run, unbroken, after=4)


# ---- behind the training -------------------------------------------------------------------------


def test_training_goes_on_while_a_checkpoint_is_written(sharded, tmp_path):
    run, program = tmp_path / "run", "rank_programs_checkpoint:slow_disk"
    log = sharded.run(run, "fsdp.yaml", main=program, save_steps=3, max_steps=5).of_rank(0)
    begun = log.index("checkpoint-3 is being written")
    done = log.index("checkpoint-3 is complete")
    assert begun < log.index("step 4/5") < done
    assert manifest.damage(run / "checkpoint-3") == ""
    assert manifest.damage(run / "checkpoint-5") == ""  # waited for at the end


def test_writing_at_once_gives_the_same_files(sharded, unbroken, tmp_path):
    log = sharded.run(tmp_path / "run", "fsdp.yaml", async_save=False).of_rank(0)
    assert "is being written" not in log
    for name in ("pytorch_model_fsdp_0/__0_0.distcp", "optimizer_0/__1_0.distcp"):
        path = f"checkpoint-4/{name}"
        assert (tmp_path / "run" / path).read_bytes() == (unbroken / path).read_bytes()


def test_old_checkpoints_are_deleted_and_the_newest_does_not_grow_with_the_run(sharded, tmp_path):
    program = "rank_programs_checkpoint:few_log_lines"
    sharded.run(tmp_path, "fsdp.yaml", save_total_limit=2, main=program)
    assert [folder.name for folder in manifest.checkpoints_in(tmp_path)] == [
        "checkpoint-4",
        "checkpoint-6",
    ]
    written = json.loads((tmp_path / "checkpoint-6" / "manifest.json").read_text())
    assert written["tokens"] == 6 * 4 * 128
    assert written["world_size"] == 2
    assert written["engine"] == "FSDP"
    state = json.loads((tmp_path / "checkpoint-6" / "trainer_state.json").read_text())
    assert [line["step"] for line in state["log_history"]] == [4, 5, 6]
    assert sorted(losses(tmp_path)) == [1, 2, 3, 4, 5, 6]


# ---- accidents -----------------------------------------------------------------------------------


@pytest.mark.parametrize("accident", ["killed_between_files", "killed_before_the_manifest"])
def test_a_kill_while_writing_loses_nothing_that_was_complete(
    sharded, unbroken, tmp_path, accident, ranks
):
    argv, program = (
        sharded.argv(tmp_path, save_total_limit=1),
        f"rank_programs_checkpoint:{accident}",
    )
    killed = ranks.run(argv, config="fsdp.yaml", main=program, grace=2.0)
    assert -9 in killed.codes
    assert killed.codes != [-9, -9]
    log = sharded.run(tmp_path, "fsdp.yaml", save_total_limit=1).of_rank(0)
    assert "checkpoint-4 is torn: it has no manifest" in log
    assert (tmp_path / "torn-checkpoint-4").is_dir()
    assert_same(tmp_path, unbroken)


def test_a_bit_that_flipped_in_a_shard_is_found_before_training(sharded, unbroken, tmp_path):
    for step in (2, 4):
        begin_at(step, unbroken, tmp_path)
    shard = tmp_path / "checkpoint-4" / "optimizer_0" / "__1_0.distcp"
    content = bytearray(shard.read_bytes())
    content[len(content) // 2] ^= 1
    shard.write_bytes(content)
    log = sharded.run(tmp_path, "fsdp.yaml").of_rank(0)
    assert "checkpoint-4 is torn: optimizer_0/__1_0.distcp has changed since" in log
    assert losses(tmp_path) == losses(unbroken, after=2)


def test_a_damaged_checkpoint_that_was_asked_for_is_refused_by_all_ranks(
    sharded, unbroken, tmp_path
):
    given = begin_at(4, unbroken, tmp_path) / "checkpoint-4"
    (given / "rng_state_1.pth").unlink()
    settings = {"code": 2, "resume_from_checkpoint": given}
    world = sharded.run(tmp_path / "run", "fsdp.yaml", **settings)
    for rank in range(2):
        assert "is not a complete checkpoint (rng_state_1.pth is missing)" in world.of_rank(rank)


def test_another_engine_is_refused_with_the_way_out(sharded, unbroken, tmp_path):
    run = begin_at(4, unbroken, tmp_path)
    world = sharded.run(run, "ddp.yaml", code=2)
    assert "was written by the engine FSDP and this is MULTI_CPU" in world.of_rank(1)
    assert "(torchrun --nproc_per_node 1 train.py RECIPE.yaml" in world.of_rank(1)


def test_another_kind_of_fsdp_checkpoint_is_refused_with_both_names(sharded, unbroken, tmp_path):
    full = {"fsdp_state_dict_type": "FULL_STATE_DICT"}
    config = variant(tmp_path, "fsdp.yaml", fsdp_config=full)
    world = sharded.run(begin_at(4, unbroken, tmp_path), config, code=2)
    for rank in range(2):
        sentence = "with fsdp_state_dict_type SHARDED_STATE_DICT and this is FULL_STATE_DICT"
        assert sentence in world.of_rank(rank)


@pytest.fixture
def small_disk(disk, unbroken) -> Path:
    """A file system with room for one and a half checkpoints."""
    files = [path for path in (unbroken / "checkpoint-2").rglob("*") if path.is_file()]
    return disk(f"size={int(1.5 * sum(path.stat().st_size for path in files))}")


def assert_ended_by_a_full_disk(world: World, run: Path) -> None:
    for rank in range(2):
        assert "No space left on device" in world.of_rank(rank)
        assert "Traceback" not in world.of_rank(rank)
    assert manifest.damage(run / "checkpoint-2") == ""


def test_a_disk_that_fills_behind_the_training_ends_all_ranks_in_a_sentence(
    sharded, unbroken, small_disk, disk
):
    run = small_disk / "run"
    assert_ended_by_a_full_disk(sharded.run(run, "fsdp.yaml", code=2), run)
    disk("size=90m")
    assert "going on from" in sharded.run(run, "fsdp.yaml").of_rank(0)
    assert_same(run, unbroken)


def test_a_full_disk_ends_all_ranks_in_a_sentence_when_one_of_them_writes_for_all(
    sharded, small_disk
):
    run = small_disk / "run"
    assert_ended_by_a_full_disk(sharded.run(run, "ddp.yaml", code=2), run)
