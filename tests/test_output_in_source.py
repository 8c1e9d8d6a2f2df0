"""A corpus whose folder lies in a source: nothing of it is collected, now or when it goes on."""

import os
from pathlib import Path

import pytest
from source_fixtures import git, write_parquet
from test_data_prep import code, files_of

from data_prep import pipeline
from data_prep.arguments import CorpusArguments
from data_prep.pipeline import build_corpus
from hugcoder.refusal import Refusal


def build(source: str, output: Path | str) -> dict:
    return build_corpus(
        CorpusArguments([source], str(output), num_workers=1, held_out_repositories=0)
    )


@pytest.fixture
def src(tmp_path) -> Path:
    """Two folders of code and a table, committed."""
    for repo in ("a", "b"):
        (tmp_path / "src" / repo).mkdir(parents=True)
        (tmp_path / "src" / repo / "m.py").write_text(code(repo))
    rows = [{"content": code(f"row{i}"), "repo": "r", "path": f"{i}.py"} for i in range(3)]
    write_parquet(tmp_path / "src" / "rows.parquet", rows)
    git(tmp_path / "src", "init")
    git(tmp_path / "src", "add", ".")
    git(tmp_path / "src", "commit", "-m", "first")
    return tmp_path / "src"


@pytest.mark.parametrize(
    "options",
    [
        "type=folder,path={}",
        "type=folder,path={},depth=1",
        "type=folder,path={},repo=all",
        "type=git,path={}",
        "type=parquet,path={}",
        "type=parquet,path={}/**/*.parquet",
    ],
)
@pytest.mark.parametrize("place", ["out", "data/corpus"])
@pytest.mark.parametrize("is_here", [False, True], ids=["path", "here"])
def test_nothing_of_the_output_folder_is_collected(
    src, tmp_path, monkeypatch, options, place, is_here
):
    """Symptom: our .owner.json, and what a run that was cut off had written, were collected."""
    elsewhere = build(options.format(src), tmp_path / "elsewhere")
    monkeypatch.chdir(src)
    source, output = options.format("." if is_here else src), place if is_here else src / place
    with monkeypatch.context() as broken:
        broken.setattr(pipeline, "fingerprint_of", lambda written: 1 / 0)  # the shards are written
        with pytest.raises(ZeroDivisionError):
            build(source, output)
    (src / place / "left.py").write_text(code("left"))  # as of an older run
    write_parquet(src / place / "left.parquet", [{"content": "a", "repo": "r", "path": "l.py"}])
    inside = build(source, output)
    assert inside["counts"] == elsewhere["counts"]
    assert {n: d for n, d in files_of(src / place).items() if n != "left.parquet"} == files_of(
        tmp_path / "elsewhere"
    )


def test_what_was_committed_of_an_earlier_output_is_not_read_from_git(src, tmp_path):
    (src / "out" / ".work").mkdir(parents=True)
    (src / "out" / "left.py").write_text(code("left"))
    git(src, "add", ".")
    git(src, "commit", "-m", "second")
    assert build(f"type=git,path={src}", src / "out")["counts"]["kept"]["files"] == 2


@pytest.mark.parametrize("kind", ["folder", "git"])
def test_a_source_in_the_output_folder_is_refused(tmp_path, kind):
    (tmp_path / "out" / ".work").mkdir(parents=True)
    (tmp_path / "out" / "code").mkdir()
    with pytest.raises(Refusal, match=r"the folder .*out/code lies in output_dir .*; give another"):
        build(f"type={kind},path={tmp_path}/out/code", tmp_path / "out")


def test_an_output_folder_in_a_dataset_of_the_hubs_library_is_refused(src):
    with pytest.raises(
        Refusal, match=r"lies in the dataset .* would be read with it; give another"
    ):
        build(f"type=hub,dataset={src}", src / "out")


def test_a_link_to_a_source_hides_no_output_folder(src, tmp_path):
    os.symlink(src, tmp_path / "link")
    elsewhere = build(f"type=folder,path={tmp_path}/link", tmp_path / "elsewhere")
    inside = build(f"type=folder,path={tmp_path}/link", src / "out")
    assert inside["counts"] == elsewhere["counts"]
