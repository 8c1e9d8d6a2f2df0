"""python -m evaluation through its main, and what it refuses."""

import json
from importlib import import_module

import pytest
from evaluation_fixtures import write_run

from evaluation.__main__ import COMMANDS, main
from evaluation.heldout import table
from hugcoder.data.holes import KINDS
from hugcoder.refusal import Refusal

FLAGS = [
    *("--max_documents", "8", "--max_bytes", "30000", "--num_spans", "8"),
    *("--max_new_tokens", "16", "--device", "cpu"),
]


@pytest.fixture(scope="module")
def run_folder(tokenizer, tmp_path_factory):
    return write_run(tmp_path_factory.mktemp("run"), tokenizer)


@pytest.fixture(scope="module")
def results(run_folder, corpus):
    main([str(run_folder / "model"), "--corpus", str(corpus), *FLAGS])
    return json.loads((run_folder / "evaluation" / "results.json").read_text())


def is_estimate(value):
    return (
        set(value) == {"value", "low", "high"} and value["low"] <= value["value"] <= value["high"]
    )


def test_the_results_hold_every_promised_part(results, run_folder, corpus):
    assert results["kind"] == "heldout"
    assert results["model"] == str(run_folder / "model")
    assert results["corpus"] == str(corpus)
    whole = results["bits_per_byte"]
    assert all(is_estimate(whole[name]) for name in ("model", "gzip", "xz"))
    assert set(whole["by_repository"]) == {"concurrent", "html"}
    assert whole["files"] <= 8
    assert whole["bytes"] <= 30_000
    middle = results["middle_bits_per_byte"]
    ways = ("psm", "spm", "prefix_only", "gain_psm", "gain_spm")
    assert all(is_estimate(middle[name]) for name in ways)
    for kind in KINDS:
        part = results["infilling"][kind]
        assert 1 <= part["spans"] <= 8
        names = ("exact_match", "edit_similarity", "stopped", "syntax_valid")
        assert all(is_estimate(part["model"][name]) for name in names)
        assert set(part["floors"]) == {"empty", "copy_previous_line", "ngram"}
        for way in ("psm", "spm", "ngram"):
            filled = middle["by_kind"][kind]["filled"][way]
            assert all(is_estimate(filled[name]) for name in ("probability", "bits"))
    silent = results["silence"]
    assert all(is_estimate(silent["psm"][name]) for name in ("quiet", "show", "right"))
    assert silent["floors"]["two_characters"]["right"]["value"] == 0.5
    assert len(results["samples"]) >= 5
    assert results["seconds"] > 0
    assert results["scores"]["bits_per_byte"] == whole["model"]
    assert results["scores"]["gain_spm_percent"] == middle["gain_spm_percent"]
    exact = results["infilling"]["random"]["model"]["exact_match"]
    assert results["scores"]["random_exact_match"] == exact
    assert all(is_estimate(score) for score in results["scores"].values())


def test_a_missing_interval_is_said_in_words(results):
    """Symptom: `25.0 (? to ?)`."""
    one = {"value": 0.25, "low": None, "high": None}
    part = results["infilling"]["single_line"]
    changed = {"single_line": part | {"model": part["model"] | {"exact_match": one}}}
    lines = list(table(results | {"infilling": results["infilling"] | changed}))
    assert any("25.0 (no interval)" in line for line in lines)
    assert lines[-1].startswith("no interval: one repository alone has such files or holes")
    assert not any("no interval" in line for line in table(results))


def test_a_second_evaluation_gives_the_same_figures(results, run_folder, corpus, tmp_path, capsys):
    flags = [*FLAGS, "--output_dir", str(tmp_path)]
    main(["heldout", str(run_folder), "--corpus", str(corpus), *flags])
    again = json.loads((tmp_path / "results.json").read_text())
    for name in (
        "scores",
        "bits_per_byte",
        "middle_bits_per_byte",
        "ends",
        "silence",
        "infilling",
        "samples",
    ):
        assert again[name] == results[name]
    out = capsys.readouterr().out
    assert "bits per byte of" in out
    assert "suffix gain" in out
    assert "copy previous line" in out


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--corpus", "data/x"], "no model is given"),
        (["some/model"], "--corpus is not given"),
        (["some/model", "--corpus", "data/x", "--num_spans", "0"], "num_spans 0 must be at least"),
        (["some/model", "--corpus", "data/x"], "data/x is not a complete corpus"),
        (["some/model", "--corpse", "data/x"], "Did you mean 'corpus'"),
        (["heldout", "--corpus", "data/x"], "no model is given"),
        (["heldout", "some/model"], "--corpus is not given"),
        (["mine.yaml", "some/model"], "the recipe mine.yaml does not exist"),
        (["reprot", "runs/x"], "'reprot' is neither a command .* Did you mean report"),
        (["human"], r"'human' is neither a command \(heldout, report\) nor a folder with a model"),
    ],
)
def test_mistakes_are_refused_before_anything_is_loaded(words, sentence):
    with pytest.raises(Refusal, match=sentence):
        main(words)


def test_help_names_every_command_and_each_has_a_program_with_its_own_usage(capsys):
    main(["--help"])
    shown = capsys.readouterr().out
    for name, line in COMMANDS.items():
        assert f"  {name} " in shown
        assert line in shown
        with pytest.raises(SystemExit, match="0"):
            import_module(f"evaluation.{name}").main(["--help"])
        assert f" {name} " in capsys.readouterr().out.splitlines()[0]


def test_a_folder_of_a_commands_name_is_a_model_where_it_is_given_as_a_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "report").mkdir()
    with pytest.raises(Refusal, match="--corpus is not given"):
        main(["./report"])


def test_the_word_report_starts_the_report(tmp_path):
    with pytest.raises(Refusal, match="is no run folder"):
        main(["report", str(tmp_path)])


def test_a_folder_without_a_model_is_refused(corpus, tmp_path):
    with pytest.raises(Refusal, match="there is no model at"):
        main([str(tmp_path), "--corpus", str(corpus)])


def test_a_hub_model_needs_a_place_for_its_results(corpus):
    with pytest.raises(Refusal, match="say with --output_dir where results go"):
        main(["bigcode/starcoder2-3b", "--corpus", str(corpus)])


def test_more_new_tokens_than_the_context_has_are_refused(run_folder, corpus):
    with pytest.raises(Refusal, match=r"max_new_tokens 1000 leaves -744 tokens"):
        main([str(run_folder), "--corpus", str(corpus), "--max_new_tokens", "1000"])
