"""What a run is made of: facts under the names of their flags, compared with those of a folder."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest

from hugcoder.pretraining.identity import pretraining_identity
from hugcoder.refusal import Refusal
from hugcoder.run.identity import Identity

STORE = {"tokenizer_sha256": "t" * 64, "corpus_fingerprint": "c" * 64}
CONFIG = {
    "hidden_size": 64,
    "rope_parameters": {"rope_theta": 1e4, "rope_type": "default"},
    "use_cache": True,
    "transformers_version": "5",
    "_name_or_path": "",
}
HERE = Path("run/checkpoint-4")


def identity(
    config: dict = CONFIG, *, allow: tuple[str, ...] = (), spm_variant: int = 0, **changes
) -> Identity:
    values = {"seed": 1, "rows_per_step": 8, "use_muon": False, "allow_changes": list(allow)}
    values |= {"max_seq_length": 128, "fim_rate": 0.5, "spm_rate": 0.5, "mixture_weights": {}}
    both = SimpleNamespace(**values | {"fim_healing": False, "fim_spans": ["line=1"]} | changes)
    return pretraining_identity(both, both, both.mixture_weights, STORE, config, spm_variant)


def test_an_identity_is_what_its_json_file_holds():
    facts = identity(fim_spans=("line=2", "random=6"), mixture_weights={"go": 2.0}).facts
    assert json.loads(json.dumps(facts)) == facts


@pytest.mark.parametrize(
    ("name", "value", "is_same"),
    [
        ("hidden_size", 65, False),
        ("rope_parameters", {"rope_theta": 5e5, "rope_type": "default"}, False),
        ("use_cache", False, True),
        ("transformers_version", "9", True),
        ("_name_or_path", "elsewhere", True),
    ],
)
def test_the_model_is_its_shape_and_not_its_circumstances(name, value, is_same):
    other = identity(dict(reversed((CONFIG | {name: value}).items())))
    assert (identity().facts == other.facts) == is_same


def test_an_spm_order_that_is_not_named_is_the_familys():
    identity(spm_variant=2).compare(identity().facts, HERE)
    with pytest.raises(Refusal, match="its spm_variant is 0, now it is 1"):
        identity(spm_variant=1).compare(identity().facts, HERE)


def test_a_change_is_refused_with_both_values_and_the_way_to_allow_it(caplog):
    found = identity().facts
    with pytest.raises(
        Refusal, match=r"its fim_rate is 0\.5, now it is 0\.9.*--allow_changes fim_ra"
    ):
        identity(fim_rate=0.9).compare(found, HERE)
    identity(fim_rate=0.9, allow=("fim_rate",)).compare(found, HERE)
    assert caplog.messages == ["allowed change: fim_rate 0.5 -> 0.9"]


def test_what_an_allowed_change_does_not_name_is_still_refused():
    with pytest.raises(Refusal, match="its seed is 1, now it is 2"):
        identity(seed=2, fim_rate=0.9, allow=("fim_rate",)).compare(identity().facts, HERE)


def test_a_change_that_the_weights_do_not_fit_cannot_be_allowed():
    with pytest.raises(Refusal, match=r"model\.hidden_size is 64, now it is 65\D*output_dir\.$"):
        identity(CONFIG | {"hidden_size": 65}).compare(identity().facts, HERE)
    with pytest.raises(
        Refusal, match=r"allow_changes names model\.hidden_size; what may change is"
    ):
        identity(allow=("model.hidden_size",))


@pytest.mark.parametrize(
    "written",
    [
        ["random=0.4", "line=0.6"],
        ["line=0.60", "random=.4"],
        ["line=6", "random=4", "empty=0"],
        {"line": 0.6, "random": 0.4},
    ],
)
def test_spans_are_compared_by_what_they_mean_also_with_an_older_checkpoint(written, caplog):
    """Symptom: another order of the same weights was another run."""
    now = identity(fim_spans=["random=0.4", "line=0.6"])
    now.compare(now.facts | {"fim_spans": written}, HERE)
    assert caplog.messages == []


def test_other_spans_are_another_run():
    with pytest.raises(Refusal, match="its fim_spans is"):
        identity(fim_spans=["line=0.6", "random=0.4"]).compare(
            identity().facts | {"fim_spans": ["line=0.6", "random=0.5"]}, HERE
        )


def test_a_weight_of_one_in_a_mixture_is_none():
    now = identity(mixture_weights={"go": 1.0, "sql": 2.0})
    now.compare(now.facts | {"mixture": {"sql": 2}}, HERE)


@pytest.mark.parametrize(
    ("processes", "way"),
    [
        ("1", "Keep the run as it is with --global_batch_size 16, give another --output_dir, or"),
        ("3", "3 processes cannot share 16 rows; start a number that can"),
    ],
)
def test_another_batch_is_refused_with_the_flag_that_keeps_the_run(monkeypatch, processes, way):
    """Symptom: only --allow_changes was offered, which trains with another batch."""
    monkeypatch.setenv("WORLD_SIZE", processes)
    with pytest.raises(Refusal, match=f"{way}.* --allow_changes global_batch_size"):
        identity(rows_per_step=8).compare(identity(rows_per_step=16).facts, HERE)


def test_facts_that_only_another_release_knows_are_not_compared(caplog):
    found = identity().facts
    identity(CONFIG | {"new_key": 1}).compare(found, HERE)
    identity().compare(found | {"model.old_key": 1}, HERE)
    assert caplog.messages == []


def test_the_corpus_stands_where_the_report_looks_for_it():
    """Symptom: a renamed fact ended the report of a finished run in a KeyError."""
    assert identity().facts["corpus"] == STORE["corpus_fingerprint"][:16]
