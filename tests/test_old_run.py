"""A run, a corpus and a token store of an older version are read, and gone on with to its losses.

tests/old_run.tar.xz was made by the version before the rooms of hugcoder/: six files of its own
code, a tokenizer of 448 tokens, and a run of six steps that was killed behind its checkpoint at
step 3. unbroken.jsonl holds what it logged where nobody killed it. Paths in it are relative.
"""

import json
import tarfile
from pathlib import Path

import pytest

import train
from data_prep.verify import verify
from hugcoder.data.corpus import TRAIN
from hugcoder.data.token_store import TokenStore
from hugcoder.model import manifest

ARCHIVE = Path(__file__).with_name("old_run.tar.xz")
WORDS = (
    "--config_file model.json --token_store tokens --output_dir run --max_seq_length 128 "
    "--max_steps 6 --per_device_train_batch_size 2 --gradient_accumulation_steps 2 "
    "--learning_rate 1e-2 --logging_steps 1 --eval_steps 3 --held_out_rows 4 --save_steps 3 "
    "--dataloader_num_workers 0 --spm_rate 0.4 --mixture two=2"
)
LOGGED = ("train/loss", "train/loss_ar", "train/loss_middle", "train/grad_norm", "train/tokens")
LOGGED = (*LOGGED, "train/share_fim", "eval/bits_per_byte", "eval/middle_loss")


@pytest.fixture(scope="module")
def old(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("old")
    with tarfile.open(ARCHIVE) as archive:
        archive.extractall(folder, filter="data")
    return folder / "old_run"


def logged(path: Path) -> list[dict]:
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    return [{name: line[name] for name in ("step", *LOGGED) if name in line} for line in lines]


def test_its_corpus_and_its_tokens_are_whole(old):
    for name in ("corpus", "tokens"):
        verify(old / name)
    assert len(TokenStore(old / "tokens", TRAIN)) == 4


def test_it_goes_on_to_the_losses_of_the_unbroken_run(old, monkeypatch):
    monkeypatch.chdir(old)
    train.main(WORDS.split())
    starts = json.loads(Path("run/run.json").read_text())["starts"]
    assert [start["resumed_from"] for start in starts] == ["", "checkpoint-3"]
    found, expected = logged(Path("run/metrics.jsonl")), logged(Path("unbroken.jsonl"))
    assert len(found) == len(expected)
    for now, then in zip(found, expected, strict=True):
        assert now == pytest.approx(then, rel=2e-4)  # another processor adds in another order
    facts = [manifest.facts_of(Path("run") / name) for name in ("checkpoint-3", "checkpoint-6")]
    # what the old version did and had no name for
    since = {"fim_healing": False, "spm_variant": 0}
    known = {"identity": facts[0]["identity"] | since, "step": 6, "tokens": 2 * facts[0]["tokens"]}
    assert facts[0] | known == facts[1]
