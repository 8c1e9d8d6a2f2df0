"""Checkpoints: torn or damaged ones are never chosen, never deleted, and rotation loses nothing."""

import json
import os
import shutil
from pathlib import Path

import pytest

from hugcoder.files import MANIFEST, atomic, write_json
from hugcoder.model import manifest
from hugcoder.refusal import Refusal
from hugcoder.run import checkpoint
from hugcoder.run.identity import Identity

IDENTITY = Identity({"tokenizer": "abc", "seed": 42, "fim_rate": 0.5, "mixture": {"go": 2.0}})
WEIGHTS, SHARD, RANDOM = "model.safetensors", "shards/__1_0.distcp", "rng_state_0.pth"


def make_checkpoint(
    run: Path, step: int, identity=IDENTITY, world_size: int = 2, kind=manifest.CHECKPOINT
) -> Path:
    folder = run / f"checkpoint-{step}"
    (folder / "shards").mkdir(parents=True)
    (folder / WEIGHTS).write_bytes(b"w" * 100)
    (folder / SHARD).write_bytes(b"o" * 50)
    (folder / "empty").touch()
    for rank in range(2):
        (folder / f"rng_state_{rank}.pth").write_bytes(b"r")
    facts = {"kind": kind, "step": step, "tokens": 9 * step, "world_size": world_size}
    manifest.complete(folder, facts | {"engine": "FSDP", "identity": identity.facts})
    return folder


def lose_manifest(folder: Path) -> None:
    (folder / MANIFEST).unlink()


def halve_manifest(folder: Path) -> None:
    text = (folder / MANIFEST).read_text()
    (folder / MANIFEST).write_text(text[: len(text) // 2])


def lose_file(folder: Path) -> None:
    (folder / SHARD).unlink()


def shorten_file(folder: Path) -> None:
    (folder / WEIGHTS).write_bytes(b"w" * 99)


def lengthen_file(folder: Path) -> None:
    (folder / "empty").write_bytes(b"x")


def flip_bit(path: Path, position: int = 0) -> None:
    content = bytearray(path.read_bytes())
    content[position] ^= 1
    path.write_bytes(content)


def flip_bit_of_weights(folder: Path) -> None:
    flip_bit(folder / WEIGHTS)


TEARS = {
    lose_manifest: "it has no manifest",
    halve_manifest: "its manifest cannot be read",
    lose_file: f"{SHARD} is missing",
    shorten_file: f"{WEIGHTS} has 99 bytes, not 100",
    lengthen_file: "empty has 1 bytes, not 0",
    flip_bit_of_weights: f"{WEIGHTS} has changed since it was written",
}


def names_in(run: Path) -> set[str]:
    return {path.name for path in run.iterdir()}


# ---- the manifest --------------------------------------------------------------------------------


def test_a_finished_checkpoint_is_complete_and_its_manifest_says_of_what(tmp_path):
    folder = make_checkpoint(tmp_path, 5)
    assert manifest.is_complete(folder)
    assert manifest.damage(folder) == ""
    written = json.loads((folder / MANIFEST).read_text())
    assert written["step"] == 5
    assert written["tokens"] == 45
    assert written["identity"] == IDENTITY.facts
    assert {name: facts["bytes"] for name, facts in written["files"].items()} == {
        WEIGHTS: 100,
        SHARD: 50,
        "empty": 0,
        "rng_state_0.pth": 1,
        "rng_state_1.pth": 1,
    }


def test_a_file_that_came_later_does_not_tear_it(tmp_path):
    folder = make_checkpoint(tmp_path, 5)
    (folder / "notes.txt").write_text("mine")
    assert manifest.damage(folder) == ""


def test_a_bit_that_flipped_is_found_in_every_file_and_in_the_manifest(tmp_path):
    folder = make_checkpoint(tmp_path, 5)
    for path in [path for path in folder.rglob("*") if path.is_file() and path.stat().st_size]:
        size = path.stat().st_size
        for position in {0, size // 3, size // 2, size - 2 if size > 1 else 0}:
            flip_bit(path, position)
            assert manifest.damage(folder), (path, position)
            flip_bit(path, position)
    assert manifest.damage(folder) == ""


def test_a_world_with_a_rank_whose_random_state_is_missing_is_torn(tmp_path):
    folder = make_checkpoint(tmp_path, 5, world_size=3)
    assert manifest.damage(folder) == "rng_state_2.pth is missing"
    alone = make_checkpoint(tmp_path, 6, world_size=1)
    assert manifest.damage(alone) == "rng_state.pth is missing"
    renamed = alone.rename(tmp_path / "mine")
    assert manifest.damage(renamed) == "rng_state.pth is missing"


def test_the_ranks_hash_each_file_once_and_their_own_themselves():
    names = [
        "pytorch_model_fsdp_0/.metadata",
        "pytorch_model_fsdp_0/__0_0.distcp",
        "pytorch_model_fsdp_0/__1_0.distcp",
        "global_step4/bf16_zero_pp_rank_1_mp_rank_00_optim_states.pt",
        "rng_state_1.pth",
        "rng_state_9.pth",
        "model-00001-of-00002.safetensors",
    ]
    of_rank_0, of_rank_1 = (manifest.share_of(names, rank, 2) for rank in range(2))
    assert of_rank_1 == [names[2], names[3], names[4]]
    assert sorted(of_rank_0 + of_rank_1) == sorted(names)


# ---- choosing ------------------------------------------------------------------------------------


@pytest.mark.parametrize(("tear", "reason"), TEARS.items())
def test_a_torn_checkpoint_is_kept_aside_and_the_one_before_is_used(tmp_path, tear, reason, caplog):
    make_checkpoint(tmp_path, 9)
    make_checkpoint(tmp_path, 100)
    tear(make_checkpoint(tmp_path, 1000))
    assert checkpoint.find_resumable(tmp_path, None, IDENTITY) == tmp_path / "checkpoint-100"
    assert f"checkpoint-1000 is torn: {reason}" in caplog.text
    assert names_in(tmp_path) == {"checkpoint-9", "checkpoint-100", "torn-checkpoint-1000"}


def test_a_second_torn_one_of_the_same_step_gets_a_number(tmp_path):
    for _ in range(3):
        lose_manifest(make_checkpoint(tmp_path, 4))
        assert checkpoint.find_resumable(tmp_path, None, IDENTITY) is None
    assert names_in(tmp_path) == {f"torn-checkpoint-4{end}" for end in ("", "-2", "-3")}


def test_looking_for_the_last_complete_one_renames_nothing(tmp_path):
    make_checkpoint(tmp_path, 4)
    lose_manifest(make_checkpoint(tmp_path, 8))  # as one that is being written
    assert manifest.last_complete(tmp_path) == tmp_path / "checkpoint-4"
    assert names_in(tmp_path) == {"checkpoint-4", "checkpoint-8"}


def test_the_last_is_the_highest_step_and_not_the_last_name_or_date(tmp_path):
    for step in (100, 9, 20):
        make_checkpoint(tmp_path, step)
    (tmp_path / "checkpoint-best").mkdir()
    (tmp_path / "checkpoint-999.partial").mkdir()
    assert checkpoint.find_resumable(tmp_path, None, IDENTITY) == tmp_path / "checkpoint-100"


@pytest.mark.parametrize("given", [None, ""])
def test_a_new_run_has_nothing_to_resume(tmp_path, given):
    assert checkpoint.find_resumable(tmp_path / "new", given, IDENTITY) is None


@pytest.mark.parametrize("given", ["true", "last", "True"])
def test_asking_for_the_last_where_there_is_none_is_refused(tmp_path, given):
    with pytest.raises(Refusal, match=r"there is no complete checkpoint in .* to resume from"):
        checkpoint.find_resumable(tmp_path, given, IDENTITY)
    folder = make_checkpoint(tmp_path, 3)
    assert checkpoint.find_resumable(tmp_path, given, IDENTITY) == folder


@pytest.mark.parametrize(("tear", "reason"), TEARS.items())
def test_a_given_checkpoint_that_is_torn_is_refused_and_left_where_it_is(tmp_path, tear, reason):
    make_checkpoint(tmp_path, 1)
    torn = make_checkpoint(tmp_path, 2)
    tear(torn)
    with pytest.raises(Refusal, match="checkpoint-2 is not a complete checkpoint") as refusal:
        checkpoint.find_resumable(tmp_path, str(torn), IDENTITY)
    assert reason in str(refusal.value)
    assert names_in(tmp_path) == {"checkpoint-1", "checkpoint-2"}


def test_a_given_checkpoint_is_taken_even_when_a_later_one_is_there(tmp_path):
    first = make_checkpoint(tmp_path, 1)
    make_checkpoint(tmp_path, 2)
    assert checkpoint.find_resumable(tmp_path, str(first), IDENTITY) == first


def test_a_complete_folder_that_is_no_checkpoint_is_refused(tmp_path):
    write_json(tmp_path / MANIFEST, {"kind": "corpus"})
    with pytest.raises(Refusal, match="is not a complete checkpoint"):
        checkpoint.find_resumable(tmp_path, str(tmp_path), IDENTITY)
    with pytest.raises(Refusal, match=r"nowhere is not .* \(there is no such folder\)"):
        checkpoint.find_resumable(tmp_path, str(tmp_path / "nowhere"), IDENTITY)


def test_a_final_model_is_no_checkpoint_to_resume_from(tmp_path):
    model = make_checkpoint(tmp_path, 7, kind=manifest.MODEL)
    with pytest.raises(Refusal, match="is a model without the state of its training"):
        checkpoint.find_resumable(tmp_path, str(model), IDENTITY)


def test_a_folder_without_a_manifest_is_refused_where_its_facts_are_wanted(tmp_path):
    with pytest.raises(Refusal, match=r"has no manifest\.json, which is written last"):
        manifest.manifest_of(tmp_path)


def test_a_copy_gets_all_facts_but_those_of_its_files(tmp_path):
    facts = manifest.facts_of(make_checkpoint(tmp_path, 5))
    assert set(facts) == {"kind", "step", "tokens", "world_size", "engine", "identity"}


def test_another_runs_checkpoint_is_refused_with_both_values(tmp_path):
    folder = make_checkpoint(tmp_path, 7)
    for given in (None, str(folder)):
        with pytest.raises(Refusal, match="checkpoint-7 belongs to another run: its seed is 42"):
            checkpoint.find_resumable(tmp_path, given, Identity(IDENTITY.facts | {"seed": 43}))


def test_a_damaged_final_model_is_not_finished(tmp_path):
    model = make_checkpoint(tmp_path, 8).rename(tmp_path / checkpoint.FINAL_MODEL)
    assert checkpoint.is_finished(tmp_path, IDENTITY, 8)
    assert not checkpoint.is_finished(tmp_path, IDENTITY, 9)
    flip_bit(model / WEIGHTS)
    assert not checkpoint.is_finished(tmp_path, IDENTITY, 8)


def test_a_finished_run_that_is_sent_back_is_not_finished_until_it_has_gone_on(tmp_path):
    """Symptom: --resume_from_checkpoint on a finished run did nothing and exited 0."""
    early = make_checkpoint(tmp_path, 4)
    make_checkpoint(tmp_path, 8)
    make_checkpoint(tmp_path, 9).rename(tmp_path / checkpoint.FINAL_MODEL)
    given = str(early)
    assert checkpoint.is_finished(tmp_path, IDENTITY, 8, "last")
    assert not checkpoint.is_finished(tmp_path, IDENTITY, 8, given)
    assert checkpoint.find_resumable(tmp_path, given, IDENTITY) == early
    assert {"left-checkpoint-8", "left-model"} < names_in(tmp_path)
    assert not checkpoint.is_finished(tmp_path, IDENTITY, 8, given)  # killed at once
    assert checkpoint.find_resumable(tmp_path, given, IDENTITY) == early
    again = make_checkpoint(tmp_path, 8)  # killed after a new checkpoint
    assert checkpoint.find_resumable(tmp_path, f"{tmp_path}/./checkpoint-4/", IDENTITY) == again
    make_checkpoint(tmp_path, 9).rename(tmp_path / checkpoint.FINAL_MODEL)
    assert checkpoint.is_finished(tmp_path, IDENTITY, 8, given)


def test_a_run_sent_back_is_known_from_another_folder_and_by_a_link(tmp_path, monkeypatch):
    """Symptom: a second start from elsewhere left the checkpoints of the first again."""
    run, elsewhere = tmp_path / "run", tmp_path / "elsewhere"
    make_checkpoint(run, 4)
    elsewhere.mkdir()
    (elsewhere / "link").symlink_to(run / "checkpoint-4")
    monkeypatch.chdir(tmp_path)
    checkpoint.find_resumable(Path("run"), "run/checkpoint-4", IDENTITY)
    again = make_checkpoint(run, 8)
    monkeypatch.chdir(elsewhere)
    for given in (str(run / "checkpoint-4"), "../run/./checkpoint-4/", "link"):
        assert checkpoint.find_resumable(Path("../run"), given, IDENTITY).resolve() == again
    moved = run.rename(tmp_path / "moved")
    found = checkpoint.find_resumable(moved, str(moved / "checkpoint-4"), IDENTITY)
    assert found == moved / "checkpoint-8"


def test_a_restart_with_the_flag_goes_on_although_the_given_checkpoint_is_deleted(tmp_path):
    """Symptom: rotation took the checkpoint that the flag names, and the restart was refused."""
    early = make_checkpoint(tmp_path, 4)
    assert checkpoint.find_resumable(tmp_path, str(early), IDENTITY) == early
    later = make_checkpoint(tmp_path, 8)
    shutil.rmtree(early)
    assert checkpoint.find_resumable(tmp_path, str(early), IDENTITY) == later
    shutil.rmtree(later)
    with pytest.raises(Refusal, match="checkpoint-4 is not a complete checkpoint"):
        checkpoint.find_resumable(tmp_path, str(early), IDENTITY)


def test_a_torn_checkpoint_in_a_read_only_folder_ends_in_the_error_of_the_disk(disk):
    run = disk("size=1m")
    make_checkpoint(run, 4)
    lose_manifest(make_checkpoint(run, 8))
    disk("ro")  # for the administrator too
    with pytest.raises(OSError, match="Read-only file system"):  # the entry point's sentence
        checkpoint.find_resumable(run, None, IDENTITY)


# ---- rotation ------------------------------------------------------------------------------------


def test_rotation_keeps_the_newest_complete_ones_and_what_is_not_ours(tmp_path):
    folders = [make_checkpoint(tmp_path, step) for step in (5, 10, 20, 100)]
    lose_manifest(make_checkpoint(tmp_path, 90))  # torn: neither counted nor deleted
    for name in ("torn-checkpoint-3", "checkpoint-best", "model", "checkpoint-7-copy"):
        shutil.copytree(folders[0], tmp_path / name)
    checkpoint.rotate(tmp_path, 2, folders[-1])
    kept = {"checkpoint-20", "checkpoint-100", "checkpoint-90"}
    kept |= {"torn-checkpoint-3", "checkpoint-best", "model", "checkpoint-7-copy"}
    assert names_in(tmp_path) == kept


@pytest.mark.parametrize("limit", [None, 0, -1])
def test_without_a_limit_nothing_is_deleted(tmp_path, limit):
    folders = [make_checkpoint(tmp_path, step) for step in (1, 2)]
    checkpoint.rotate(tmp_path, limit, folders[-1])
    assert names_in(tmp_path) == {"checkpoint-1", "checkpoint-2"}


def test_rotation_leaves_the_future_that_an_earlier_checkpoint_was_taken_before(tmp_path):
    folders = [make_checkpoint(tmp_path, step) for step in (4, 8, 12, 16)]
    checkpoint.rotate(tmp_path, 1, folders[1])
    assert names_in(tmp_path) == {"checkpoint-8", "checkpoint-12", "checkpoint-16"}


def test_a_deletion_cut_short_leaves_nothing_that_looks_complete(tmp_path, monkeypatch):
    folders = [make_checkpoint(tmp_path, step) for step in (1, 2)]

    def killed(folder):
        os.unlink(Path(folder) / WEIGHTS)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(shutil, "rmtree", killed)
        with pytest.raises(KeyboardInterrupt):
            checkpoint.rotate(tmp_path, 1, folders[-1])
    assert manifest.checkpoints_in(tmp_path) == [folders[-1]]
    checkpoint.rotate(tmp_path, 1, folders[-1])
    assert names_in(tmp_path) == {"checkpoint-2"}


def test_writing_a_step_again_takes_the_old_one_away_only_when_the_new_one_is_complete(tmp_path):
    old = make_checkpoint(tmp_path, 4)
    checkpoint.make_empty_folder(old)
    assert list(old.iterdir()) == []
    assert names_in(tmp_path) == {"checkpoint-4", "deleting-checkpoint-4"}
    old.rmdir()
    checkpoint.rotate(tmp_path, 3, make_checkpoint(tmp_path, 4))
    assert names_in(tmp_path) == {"checkpoint-4"}


# ---- atomic files --------------------------------------------------------------------------------


def test_an_interrupted_write_leaves_the_old_file_and_nothing_else(tmp_path):
    write_json(tmp_path / "a.json", {"old": 1})

    def interrupted() -> None:
        with atomic(tmp_path / "a.json") as temporary:
            temporary.write_text("{half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]
    assert json.loads((tmp_path / "a.json").read_text()) == {"old": 1}
