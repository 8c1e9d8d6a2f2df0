"""Checkpoints: torn ones are never chosen, and another run's are refused by name."""

import json
from pathlib import Path

import pytest

from hugcoder import checkpoint
from hugcoder.files import MANIFEST, atomic, write_json
from hugcoder.refusal import Refusal
from hugcoder.run_record import run_identity

IDENTITY = {"tokenizer": "abc", "seed": 42, "fim_rate": 0.5, "mixture": {"go": 2.0}}


def make_checkpoint(run: Path, step: int, identity=IDENTITY) -> Path:
    folder = run / f"checkpoint-{step}"
    (folder / "shards").mkdir(parents=True)
    (folder / "model.safetensors").write_bytes(b"w" * 100)
    (folder / "shards" / "0.bin").write_bytes(b"o" * 50)
    (folder / "empty").touch()
    checkpoint.complete(folder, identity, step)
    return folder


def lose_manifest(folder: Path) -> None:
    (folder / MANIFEST).unlink()


def lose_file(folder: Path) -> None:
    (folder / "shards" / "0.bin").unlink()


def shorten_file(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(b"w" * 99)


def lengthen_file(folder: Path) -> None:
    (folder / "empty").write_bytes(b"x")


TEARS = [lose_manifest, lose_file, shorten_file, lengthen_file]


def test_a_finished_checkpoint_is_complete(tmp_path):
    folder = make_checkpoint(tmp_path, 5)
    assert checkpoint.is_complete(folder)
    manifest = json.loads((folder / MANIFEST).read_text())
    assert manifest["step"] == 5
    assert manifest["identity"] == IDENTITY
    assert manifest["files"] == {"model.safetensors": 100, "shards/0.bin": 50, "empty": 0}


def test_a_file_that_came_later_does_not_tear_it(tmp_path):
    folder = make_checkpoint(tmp_path, 5)
    (folder / "notes.txt").write_text("mine")
    assert checkpoint.is_complete(folder)


@pytest.mark.parametrize("tear", TEARS)
def test_a_torn_checkpoint_is_passed_over(tmp_path, tear, caplog):
    make_checkpoint(tmp_path, 9)
    make_checkpoint(tmp_path, 100)
    tear(make_checkpoint(tmp_path, 1000))
    assert checkpoint.last_complete(tmp_path) == tmp_path / "checkpoint-100"
    assert "checkpoint-1000 is torn" in caplog.text
    assert checkpoint.find_resumable(tmp_path, None, IDENTITY) == tmp_path / "checkpoint-100"


def test_the_last_is_the_highest_step_and_not_the_last_name_or_date(tmp_path):
    for step in (100, 9, 20):
        make_checkpoint(tmp_path, step)
    (tmp_path / "checkpoint-best").mkdir()
    (tmp_path / "checkpoint-999.partial").mkdir()
    assert checkpoint.last_complete(tmp_path) == tmp_path / "checkpoint-100"


@pytest.mark.parametrize("given", [None, ""])
def test_a_new_run_has_nothing_to_resume(tmp_path, given):
    assert checkpoint.find_resumable(tmp_path / "new", given, IDENTITY) is None


@pytest.mark.parametrize("given", ["true", "last", "True"])
def test_asking_for_the_last_where_there_is_none_is_refused(tmp_path, given):
    with pytest.raises(Refusal, match=r"there is no complete checkpoint in .* to resume from"):
        checkpoint.find_resumable(tmp_path, given, IDENTITY)
    folder = make_checkpoint(tmp_path, 3)
    assert checkpoint.find_resumable(tmp_path, given, IDENTITY) == folder


@pytest.mark.parametrize("tear", TEARS)
def test_a_given_checkpoint_that_is_torn_is_refused_and_not_replaced(tmp_path, tear):
    make_checkpoint(tmp_path, 1)
    torn = make_checkpoint(tmp_path, 2)
    tear(torn)
    with pytest.raises(Refusal, match=r"checkpoint-2 is not a complete checkpoint"):
        checkpoint.find_resumable(tmp_path, str(torn), IDENTITY)


def test_a_given_checkpoint_is_taken_even_when_a_later_one_is_there(tmp_path):
    first = make_checkpoint(tmp_path, 1)
    make_checkpoint(tmp_path, 2)
    assert checkpoint.find_resumable(tmp_path, str(first), IDENTITY) == first


def test_a_complete_folder_that_is_no_checkpoint_is_refused(tmp_path):
    write_json(tmp_path / MANIFEST, {"kind": "corpus"})
    with pytest.raises(Refusal, match="is not a complete checkpoint"):
        checkpoint.find_resumable(tmp_path, str(tmp_path), IDENTITY)


@pytest.mark.parametrize(
    ("name", "value"), [("tokenizer", "xyz"), ("seed", 43), ("fim_rate", 0.9), ("mixture", {})]
)
def test_another_runs_checkpoint_is_refused_with_both_values(tmp_path, name, value):
    folder = make_checkpoint(tmp_path, 7)
    for given in (None, str(folder)):
        with pytest.raises(Refusal) as caught:
            checkpoint.find_resumable(tmp_path, given, IDENTITY | {name: value})
        message = str(caught.value)
        assert f"its {name} is {IDENTITY[name]!r}, now it is {value!r}" in message
        assert "checkpoint-7 belongs to another run" in message


def test_a_fact_that_the_checkpoint_does_not_know_is_a_difference(tmp_path):
    make_checkpoint(tmp_path, 7)
    with pytest.raises(Refusal, match="its rope is None, now it is 1"):
        checkpoint.find_resumable(tmp_path, None, IDENTITY | {"rope": 1})


# ---- identity ------------------------------------------------------------------------------------

STORE = {"tokenizer_sha256": "t" * 64, "corpus_fingerprint": "c" * 64}


def test_an_identity_survives_its_json_file(tmp_path):
    identity = run_identity(STORE, {"hidden_size": 64}, seed=1, spans=("a", "b"), rate=0.1)
    folder = make_checkpoint(tmp_path, 1, identity)
    checkpoint.compare_identity(folder, identity)


@pytest.mark.parametrize(
    ("name", "value", "is_same"),
    [
        ("hidden_size", 65, False),
        ("rope_theta", 5e5, False),
        ("use_cache", False, True),
        ("transformers_version", "9", True),
        ("_name_or_path", "elsewhere", True),
    ],
)
def test_the_model_is_its_shape_and_not_its_circumstances(name, value, is_same):
    config = {
        "hidden_size": 64,
        "rope_theta": 1e4,
        "use_cache": True,
        "transformers_version": "5",
        "_name_or_path": "",
    }
    first = run_identity(STORE, config, seed=1)
    second = run_identity(STORE, dict(reversed((config | {name: value}).items())), seed=1)
    assert (first == second) == is_same


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
