"""The files of scores: written last and whole, read alike whatever measurement wrote them."""

import json

import pytest

from evaluation.results import find_results, read_results, results_file
from hugcoder.files import write_json
from hugcoder.refusal import Refusal

PASSED = {"value": 0.127, "low": 0.083, "high": 0.171}
OF_ONE = {"value": 12.5, "low": None, "high": None}
MEASURED = {
    "settings": {"temperature": 0.2, "tokenizer": "a" * 64},
    "scores": {"pass_at_1": PASSED, "seconds_per_problem": OF_ONE},
    "samples": [],
}


@pytest.fixture
def run(tmp_path):
    """As much of a run folder as says that there is a model."""
    write_json(tmp_path / "run" / "model" / "config.json", {})
    return tmp_path / "run"


def measured(run, kind="humaneval", output_dir=""):
    with results_file(kind, str(run / "model"), output_dir, started=0.0) as results:
        results.update(MEASURED)
    return results


@pytest.mark.parametrize(("kind", "name"), [("humaneval", "humaneval"), ("heldout", "results")])
def test_what_a_measurement_writes_is_found_and_read(run, kind, name, capsys):
    written = measured(run, kind)
    path = run / "evaluation" / f"{name}.json"
    assert json.loads(path.read_text()) == written
    assert find_results(path.parent) == {kind: written}
    assert written.items() >= {"kind": kind, "model": str(run / "model"), **MEASURED}.items()
    assert set(written["versions"]) == {"python", "torch", "transformers", "tokenizers"}
    assert written["hardware"]["cpus"] > 0
    assert written["seconds"] > 0
    assert f"{path} written" in capsys.readouterr().out


def test_results_go_where_the_user_says(run, tmp_path):
    written = measured(run, output_dir=str(tmp_path / "elsewhere"))
    assert read_results(tmp_path / "elsewhere" / "humaneval.json") == written
    assert find_results(run / "evaluation") == {}


def test_a_measurement_that_fails_leaves_what_was_there(run):
    before = measured(run)
    with (
        pytest.raises(ZeroDivisionError),
        results_file("humaneval", str(run), "", started=0.0) as results,
    ):
        results.update(MEASURED, samples=[1 / 0])
    assert find_results(run / "evaluation") == {"humaneval": before}


def test_a_measurement_without_scores_is_our_mistake(run):
    with (
        pytest.raises(AssertionError, match=r"humaneval lacks .*scores"),
        results_file("humaneval", str(run), "", started=0.0) as results,
    ):
        results.update(settings={}, samples=[])
    assert not (run / "evaluation").exists()


def test_two_measurements_at_once_in_one_folder_are_refused(run):
    with results_file("humaneval", str(run), "", started=0.0) as results:
        with pytest.raises(Refusal, match="evaluation is in use by"):
            measured(run, "mbpp")
        results.update(MEASURED)
    assert list(find_results(run / "evaluation")) == ["humaneval"]


@pytest.mark.parametrize("kind", [{}, {"kind": "evaluation"}])
def test_results_of_before_there_were_kinds_are_those_of_heldout(tmp_path, kind):
    old = {"settings": {"mode": "psm"}, "samples": [], "seconds": 3.5, "bits_per_byte": {}}
    write_json(tmp_path / "results.json", old | kind)
    assert find_results(tmp_path) == {"heldout": old | {"kind": "heldout", "scores": {}}}


def test_files_that_no_measurement_names_so_are_left_out(run):
    written = measured(run)
    folder = run / "evaluation"
    write_json(folder / "humaneval-before.json", written)
    write_json(folder / "notes.json", {"seen": "good"})
    (folder / ".owner.json").write_text("{")
    assert find_results(folder) == {"humaneval": written}


@pytest.mark.parametrize(
    "change",
    [
        {"settings": None},
        {"scores": [0.5]},
        {"scores": {"pass_at_1": 0.5}},
        {"scores": {"pass_at_1": {"value": 0.5}}},
        {"scores": {"pass_at_1": PASSED | {"high": "0.9"}}},
        {"seconds": "long"},
    ],
)
def test_damaged_results_are_refused_by_name(run, change):
    write_json(run / "evaluation" / "humaneval.json", measured(run) | change)
    with pytest.raises(Refusal, match=r"humaneval\.json is damaged"):
        find_results(run / "evaluation")


def test_results_that_were_cut_are_refused_by_name(run):
    measured(run)
    path = run / "evaluation" / "humaneval.json"
    path.write_text(path.read_text()[:-20])
    with pytest.raises(Refusal, match=r"humaneval\.json is damaged"):
        find_results(path.parent)


def test_results_under_another_name_are_refused(run):
    measured(run)
    path = run / "evaluation" / "humaneval.json"
    with pytest.raises(Refusal, match=r"writes under this name \(its kind is 'humaneval'\)"):
        read_results(path.rename(path.with_name("results.json")))
