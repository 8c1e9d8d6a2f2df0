"""Which corpora a model has seen: said by manifests, also of continued models, and judged whole."""

import json
import shutil
from pathlib import Path

import pytest

from hugcoder.data.training_data import UNKNOWN, corpora_of, corpora_of_run, joined, training_data
from hugcoder.files import write_json
from hugcoder.model import manifest
from hugcoder.refusal import Refusal

ONE, OTHER = "1" * 16, "2" * 16


def model(folder: Path, **facts) -> Path:
    folder.mkdir(parents=True)
    manifest.complete(folder, {"kind": manifest.MODEL, "step": 1, **facts})
    return folder


@pytest.mark.parametrize(
    ("corpora", "is_known"),
    [
        ([ONE], True),
        ([OTHER], False),
        ([OTHER, ONE], False),
        ([UNKNOWN, ONE], False),
        ([UNKNOWN], False),
        ([], False),
    ],
)
def test_files_are_held_out_only_of_weights_that_saw_this_corpus_alone(corpora, is_known):
    scored = training_data(corpora, ONE + "rest of the fingerprint")
    assert scored.is_known_held_out is is_known
    sentence = scored.sentence
    assert ONE in sentence
    assert (OTHER in sentence) is (OTHER in corpora)
    assert ("held-out" in sentence) is is_known
    assert ("it is not known whether" in sentence) is not is_known
    assert ("nothing names" in sentence) is (UNKNOWN in corpora or not corpora)
    assert not training_data([ONE], "").is_known_held_out


def test_a_manifest_names_the_corpora_of_its_model(tmp_path):
    assert corpora_of(model(tmp_path / "new", corpora=[OTHER, ONE])) == [OTHER, ONE]
    assert corpora_of(None) == [UNKNOWN]
    assert corpora_of(tmp_path) == [UNKNOWN]
    assert corpora_of(model(tmp_path / "foreign", identity={})) == [UNKNOWN]


def test_a_manifest_from_before_is_read_with_the_run_it_lies_in(tmp_path):
    folder = model(tmp_path / "run" / "model", identity={"corpus": ONE})
    assert corpora_of(folder) == [UNKNOWN, ONE]  # moved out of its run, it may have had any base
    write_json(tmp_path / "run" / "run.json", {})
    assert corpora_of(folder) == [UNKNOWN, ONE]
    record = {"arguments": {"ModelArguments": {"config_file": "a.json"}}}
    write_json(tmp_path / "run" / "run.json", record)
    assert corpora_of(folder) == [ONE]
    record = {"arguments": {"ModelArguments": {"model_name_or_path": "some/base"}}}
    write_json(tmp_path / "run" / "run.json", record)
    assert corpora_of(folder) == [UNKNOWN, ONE]


@pytest.mark.parametrize("value", [7, None, "abc", [7]])
def test_corpora_that_are_no_names_are_damage_and_the_file_is_named(tmp_path, value):
    with pytest.raises(Refusal, match=r"m/manifest\.json is damaged"):
        corpora_of(model(tmp_path / "m", corpora=value))
    folder = model(tmp_path / "run" / "model", identity={"corpus": ONE})
    for record in ({"corpora": value}, {"arguments": value}, {"arguments": {"a": value}}):
        write_json(tmp_path / "run" / "run.json", record)
        with pytest.raises(Refusal, match=r"run\.json is damaged"):
            corpora_of(folder)


def test_a_run_has_seen_what_its_base_and_its_checkpoint_have_seen(tmp_path):
    base = model(tmp_path / "base", corpora=["0" * 16])
    resumed = model(tmp_path / "checkpoint-1", corpora=["0" * 16, OTHER])
    assert corpora_of_run("", None, ONE) == [ONE]
    assert corpora_of_run("some/hub-model", None, ONE) == [UNKNOWN, ONE]
    assert corpora_of_run(str(base), None, ONE) == ["0" * 16, ONE]
    assert corpora_of_run(str(base), resumed, ONE) == ["0" * 16, OTHER, ONE]
    assert joined([ONE], [ONE, OTHER]) == [ONE, OTHER]


# ---- through the entry points --------------------------------------------------------------------


@pytest.fixture(scope="module")
def other_corpus(corpus, tmp_path_factory) -> Path:
    """The same repositories, of which others are held out."""
    from conftest import write_corpus

    from hugcoder.data.corpus import HELD_OUT, TRAIN, read_corpus

    rows = {split: list(read_corpus(corpus, split)) for split in (TRAIN, HELD_OUT)}
    exchanged = {TRAIN: rows[HELD_OUT], HELD_OUT: rows[TRAIN]}
    return write_corpus(tmp_path_factory.mktemp("other") / "corpus", exchanged)


@pytest.fixture(scope="module")
def run_of_corpus(tokenizer, corpus, tmp_path_factory) -> Path:
    from evaluation_fixtures import write_run

    from hugcoder.data.corpus import fingerprint

    run = write_run(tmp_path_factory.mktemp("run"), tokenizer)
    named = fingerprint(corpus)[:16]
    facts = {"kind": manifest.MODEL, "identity": {"corpus": named}, "corpora": [named]}
    manifest.complete(run / "model", facts)
    return run


FLAGS = ["--max_documents", "4", "--max_bytes", "20000", "--num_spans", "2"]
FLAGS += ["--max_new_tokens", "4", "--device", "cpu"]


def evaluate(run: Path, corpus: Path, out: Path) -> dict:
    from evaluation.__main__ import main

    main([str(run), "--corpus", str(corpus), "--output_dir", str(out), *FLAGS])
    return json.loads((out / "results.json").read_text())


def test_scores_on_another_corpus_name_both_and_are_not_called_held_out(
    run_of_corpus, corpus, other_corpus, tmp_path, capsys, caplog
):
    """Symptom: files that had been trained on were called held out, in the table and the report."""
    from hugcoder.data.corpus import fingerprint

    own, other = fingerprint(corpus)[:16], fingerprint(other_corpus)[:16]
    results = evaluate(run_of_corpus, corpus, tmp_path / "own")
    assert "held-out files" in capsys.readouterr().out
    assert results["training_data"]["is_known_held_out"] is True
    caplog.clear()
    results = evaluate(run_of_corpus, other_corpus, tmp_path / "other")
    printed = capsys.readouterr().out
    assert results["training_data"]["corpora"] == [own]
    assert results["training_data"]["evaluated_corpus"] == other
    assert results["training_data"]["is_known_held_out"] is False
    written = (tmp_path / "other" / "results.json").read_text().replace("is_known_held_out", "")
    for text in (printed, caplog.text, written):
        assert own in text
        assert other in text
        assert "it is not known whether it was trained on them" in text
        assert "held-out" not in text.replace(str(other_corpus), "")


def test_of_a_model_without_a_manifest_it_is_not_known(run_of_corpus, corpus, tmp_path, capsys):
    shutil.copytree(run_of_corpus / "model", tmp_path / "m")
    (tmp_path / "m" / "manifest.json").unlink()
    results = evaluate(tmp_path / "m", corpus, tmp_path / "out")
    assert results["training_data"]["corpora"] == [UNKNOWN]
    assert "trained on data that nothing names" in capsys.readouterr().out


def test_a_continued_run_says_what_its_weights_have_seen_and_warns_of_its_scores(
    tiny, corpus, tmp_path
):
    from hugcoder.data.corpus import fingerprint

    own = fingerprint(corpus)[:16]
    tiny.run("first", max_steps=1, held_out_rows=2)
    first = tiny.folder / "first" / "model"
    assert corpora_of(first) == [own]
    base = tmp_path / "base"
    shutil.copytree(first, base)
    (base / "manifest.json").unlink()
    changes = {"config_file": None, "max_steps": 1, "held_out_rows": 2}
    ended = tiny.run("next", model_name_or_path=base, **changes)
    assert "read eval/ scores with care: the model was trained on the corpus" in ended.output
    assert corpora_of(tiny.folder / "next" / "model") == [UNKNOWN, own]
    record = json.loads((tiny.folder / "next" / "run.json").read_text())
    assert record["corpora"] == [UNKNOWN, own]
    ended = tiny.run("same", model_name_or_path=first, **changes)
    assert "with care" not in ended.output
    assert corpora_of(tiny.folder / "same" / "model") == [own]
