"""The corpus pipeline: sums, split, deduplication, workers, interruption, refusals."""

import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import processes
import pytest

from data_prep import collect, on_disk, pipeline
from data_prep.__main__ import main
from data_prep.arguments import CorpusArguments
from data_prep.pipeline import build_corpus
from data_prep.report import table_text
from data_prep.sources import OPTIONS
from data_prep.table_rows import KNOWN_COLUMNS
from hugcoder.data.corpus import COLUMNS, HELD_OUT, TRAIN, read_corpus, unit_of
from hugcoder.files import write_json
from hugcoder.refusal import Refusal


def code(name: str, num_lines: int = 20) -> str:
    return "".join(f"def {name}_{i}(value):\n    return value + {i}\n" for i in range(num_lines))


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """Twelve repositories of five files of their own, one that all share and one that is generated,
    and a fork of repo_03.
    """
    root = tmp_path / "code"
    for number in range(12):
        repo = root / f"repo_{number:02d}"
        (repo / ".git").mkdir(parents=True)
        for file in range(5):
            (repo / f"module_{file}.py").write_text(code(f"f{number}_{file}"))
        (repo / "shared.py").write_text(code("shared"))
        (repo / "made.py").write_text("# This file is generated, edit the other\n" + code("g"))
        (repo / "picture.png").write_bytes(b"\x89PNG")
    fork = root / "repo_fork"
    (fork / ".git").mkdir(parents=True)
    for file in range(5):
        (fork / f"module_{file}.py").write_text(code(f"f3_{file}"))
    return root


def arguments(tree: Path, output: Path, **settings) -> CorpusArguments:
    settings = {"num_workers": 1, "held_out_repositories": 3} | settings
    return CorpusArguments([f"type=folder,path={tree}"], str(output), **settings)


def files_of(corpus: Path) -> dict[str, bytes]:
    return {str(file.relative_to(corpus)): file.read_bytes() for file in corpus.rglob("*.parquet")}


def test_what_was_read_is_kept_or_dropped_for_a_reason(tree, tmp_path):
    manifest = build_corpus(arguments(tree, tmp_path / "out"))
    on_disk_files = [file for file in tree.rglob("*") if file.is_file()]
    counts = manifest["counts"]
    assert counts["read"]["files"] == len(on_disk_files)
    assert counts["read"]["bytes"] == sum(file.stat().st_size for file in on_disk_files)
    dropped = {reason: drops["files"] for reason, drops in counts["dropped"].items()}
    assert dropped.pop("generated") == 12
    assert dropped.pop("unknown_language") == 12
    # 11 copies of shared.py and 5 of the fork, told apart by the side on which they lie
    assert sum(dropped.values()) == 16
    rows = [row for split in (TRAIN, HELD_OUT) for row in read_corpus(tmp_path / "out", split)]
    assert len(rows) == counts["kept"]["files"] == len(on_disk_files) - 12 - 12 - 16
    assert sum(row["size"] for row in rows) == counts["kept"]["bytes"]
    assert sum(amount["files"] for amount in manifest["splits"].values()) == len(rows)
    assert sum(shard["files"] for shard in manifest["shards"]) == len(rows)


def test_rows_hold_the_bytes_of_the_file(tree, tmp_path):
    build_corpus(arguments(tree, tmp_path / "out"))
    rows = list(read_corpus(tmp_path / "out", TRAIN))
    assert tuple(rows[0]) == COLUMNS
    for row in rows:
        data = (tree / row["repo"] / row["path"]).read_bytes()
        assert row["content"].encode() == data
        assert row["size"] == len(data)


def test_no_repository_and_no_content_lies_on_both_sides(tree, tmp_path):
    manifest = build_corpus(arguments(tree, tmp_path / "out"))
    train, held_out = (list(read_corpus(tmp_path / "out", split)) for split in (TRAIN, HELD_OUT))
    assert {row["repo"] for row in held_out} == set(manifest["held_out_repositories"])
    assert len(manifest["held_out_repositories"]) == 3
    for column in ("repo", "blob_sha", "content"):
        assert not {row[column] for row in train} & {row[column] for row in held_out}
    contents = [row["content"] for row in train + held_out]
    assert len(contents) == len(set(contents))


def test_a_file_shared_with_training_stays_in_training(tree, tmp_path):
    for seed in range(5):
        build_corpus(arguments(tree, tmp_path / str(seed), seed=seed))
        shared = [r["path"] == "shared.py" for r in read_corpus(tmp_path / str(seed), TRAIN)]
        assert sum(shared) == 1


def test_a_fork_and_its_original_are_never_held_out(tree, tmp_path):
    manifest = build_corpus(arguments(tree, tmp_path / "out", held_out_repositories=11))
    assert len(manifest["held_out_repositories"]) == 11
    assert not {"repo_03", "repo_fork"} & set(manifest["held_out_repositories"])


def test_the_held_out_share_is_rounded_up(tree, tmp_path):
    manifest = build_corpus(
        arguments(tree, tmp_path / "out", held_out_repositories=1, held_out_fraction=0.2)
    )
    assert len(manifest["held_out_repositories"]) == 3  # 2.6 of 13


@pytest.mark.parametrize("fraction", [{}, {"held_out_fraction": 0}])
def test_held_out_repositories_0_holds_nothing_out(tree, tmp_path, fraction):
    """Symptom: one was held out all the same, by the fraction, whose default is above 0."""
    manifest = build_corpus(arguments(tree, tmp_path / "out", held_out_repositories=0, **fraction))
    assert manifest["held_out_repositories"] == []
    assert manifest["splits"][HELD_OUT] == {"files": 0, "bytes": 0}
    assert manifest["splits"][TRAIN] == manifest["counts"]["kept"]


def test_what_a_refusal_of_too_few_repositories_advises_is_accepted(tree, tmp_path):
    with pytest.raises(Refusal, match="or give --held_out_repositories 0 to hold nothing out"):
        build_corpus(arguments(tree, tmp_path / "out", held_out_repositories=13))
    build_corpus(arguments(tree, tmp_path / "out", held_out_repositories=0))


KINDS = {
    "py": "def {0}(value):\n    return value + {1}\n",
    "ts": "export const {0} = (value: number) => value + {1};\n",
    "go": "func {0}(value int) int {{\n\treturn value + {1}\n}}\n",
    "rs": "fn {0}(value: i64) -> i64 {{\n    value + {1}\n}}\n",
    "json": '{{"{0}": "what is written of number {1} stands here"}}\n',
}
SEVEN = {"trio": "py", "httpy": "py", "zod": "ts", "chalk": "ts", "cobra": "go", "gin": "go"}
SEVEN |= {"serde": "rs"}


def write_files(root: Path, repo: str, ending: str, times: int = 10) -> None:
    (root / repo / ".git").mkdir(parents=True, exist_ok=True)
    for number in range(4):
        path = root / repo / ("src" if number % 2 else "lib") / f"m{number}.{ending}"
        path.parent.mkdir(exist_ok=True)
        path.write_text(
            "".join(KINDS[ending].format(f"{repo}_{number}_{i}", i) for i in range(times))
        )


@pytest.fixture
def seven(tmp_path) -> Path:
    """Seven repositories in four languages, one of which a single repository has."""
    for repo, ending in SEVEN.items():
        write_files(tmp_path / "seven", repo, ending)
    return tmp_path / "seven"


def build(root: Path, output: Path, **settings) -> dict:
    return build_corpus(
        CorpusArguments([f"type=folder,path={root}"], str(output), num_workers=1, **settings)
    )


@pytest.mark.parametrize("seed", range(4))
def test_every_language_that_two_repositories_have_is_scored(seven, tmp_path, seed):
    """Symptom: one repository of seven was held out, and three of four languages had no score."""
    manifest = build(seven, tmp_path / "out", seed=seed)
    assert set(manifest["languages"][HELD_OUT]) == {"python", "typescript", "go"}
    assert set(manifest["languages"][TRAIN]) == {"python", "typescript", "go", "rust"}
    (warning,) = manifest["warnings"]
    assert "nothing is held out of rust (only the repository serde has it;" in warning


def test_held_out_repositories_can_be_named(seven, tmp_path):
    manifest = build(seven, tmp_path / "out", held_out=["trio", "zod"])
    assert manifest["held_out_repositories"] == ["trio", "zod"]
    assert {row["repo"] for row in read_corpus(tmp_path / "out", HELD_OUT)} == {"trio", "zod"}
    assert "rust (held_out names no repository that has it, as serde)" in manifest["warnings"][0]


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"held_out": ["zodd"]}, "no repository of the corpus with usable files; did you mean 'z"),
        ({"held_out": ["qqq"]}, "it holds chalk, cobra, gin, httpy, serde, trio, zod."),
        ({"held_out": list(SEVEN)}, "names all 7 repositories .* none is left to train on; give "),
        ({"held_out": ["fork"]}, "every file of it is also in what training sees"),
        ({"held_out": ["zod"], "held_out_by": "file"}, "names all 4 files"),
    ],
)
def test_what_cannot_be_held_out_is_refused(seven, tmp_path, settings, words):
    if settings["held_out"] == ["fork"]:
        shutil.copytree(seven / "zod", seven / "fork")
    if "held_out_by" in settings:
        for repo in set(SEVEN) - {"zod"}:
            shutil.rmtree(seven / repo)
    with pytest.raises(Refusal, match=words):
        build(seven, tmp_path / "out", **settings)


@pytest.mark.parametrize(("by", "num_units"), [("folder", 1), ("file", 1)])
def test_one_repository_is_split_by_folder_or_file(tmp_path, by, num_units):
    write_files(tmp_path / "code", "trio", "py")
    shutil.copy(tmp_path / "code/trio/lib/m0.py", tmp_path / "code/trio/src/copy.py")
    with pytest.raises(Refusal, match=r"give --held_out_by folder \(or file\)"):
        build(tmp_path / "code", tmp_path / "refused")
    manifest = build(tmp_path / "code", tmp_path / "out", held_out_by=by)
    assert manifest["held_out_repositories"] == []
    assert len(manifest["held_out_units"]) == num_units
    units, contents = ({}, {})
    for split in (TRAIN, HELD_OUT):
        rows = list(read_corpus(tmp_path / "out", split))
        units[split] = {unit_of(row["repo"], row["path"], by) for row in rows}
        contents[split] = {row["content"] for row in rows}
    assert units[HELD_OUT] == set(manifest["held_out_units"])
    assert not units[TRAIN] & units[HELD_OUT]
    assert not contents[TRAIN] & contents[HELD_OUT]
    assert "held out (1 " in table_text(manifest)


def test_a_named_folder_holds_out_what_lies_below_it(tmp_path):
    write_files(tmp_path / "code", "trio", "py")
    write_files(tmp_path / "code" / "trio" / "deep", "inner", "go")
    shutil.rmtree(tmp_path / "code/trio/deep/inner/.git")
    manifest = build(
        tmp_path / "code", tmp_path / "out", held_out=["trio/deep"], held_out_by="folder"
    )
    assert manifest["held_out_units"] == ["trio/deep/inner/lib", "trio/deep/inner/src"]
    assert "nothing is trained on of go" in " ".join(manifest["warnings"])


def test_dropped_duplicates_are_named_by_file(seven, tmp_path):
    shutil.copy(seven / "zod/lib/m0.ts", seven / "zod/src/copy.ts")
    counts = build(seven, tmp_path / "out", held_out=["gin"])["counts"]
    assert counts["dropped"]["duplicate"]["samples"] == ["zod/src/copy.ts"]


def test_the_console_shows_licences_and_what_dominates(seven, tmp_path):
    (seven / "zod" / "LICENSE").write_text("Permission is hereby granted, free of charge, to")
    write_files(seven, "trio", "json", times=400)
    write_files(seven, "zod", "json", times=400)
    text = table_text(build(seven, tmp_path / "out"))
    assert re.search(r"licences, of all bytes: (unknown|MIT) \d+%, (MIT|unknown) \d+%", text)
    assert re.search(r"warning: json is \d\d% of the bytes; .*--mixture json=0.5", text)
    assert re.search(r"warning: \d\d% of the bytes are data or markup and no code \(json", text)
    only = table_text(build(seven, tmp_path / "only", languages=["python"]))
    assert "warning" not in only


def test_a_corpus_from_before_a_setting_is_still_complete(seven, tmp_path):
    manifest = build(seven, tmp_path / "out")
    for name in ("held_out", "held_out_by"):
        del manifest["recipe"][name]
    del manifest["warnings"], manifest["held_out_by"]
    write_json(tmp_path / "out" / "manifest.json", manifest)
    assert build(seven, tmp_path / "out") == manifest
    with pytest.raises(Refusal, match='held_out_by is "repository" there and "file" here'):
        build(seven, tmp_path / "out", held_out_by="file")


def test_help_tells_sources_roles_and_the_other_programs(capsys):
    with pytest.raises(SystemExit):
        main(["--help"])
    shown = " ".join(capsys.readouterr().out.split())
    options = {option for known in OPTIONS.values() for option in known if option}
    for word in {*OPTIONS, *options, *KNOWN_COLUMNS, "tokenize", "verify", "--held_out_by"}:
        assert word in shown, word


def test_three_workers_write_the_same_bytes_as_one(tree, tmp_path, monkeypatch):
    monkeypatch.setattr(on_disk, "CHUNK_FILES", 20)
    for workers in (1, 3):
        out = tmp_path / str(workers)
        build_corpus(arguments(tree, out, num_workers=workers, shard_bytes=10_000))
    one, three = files_of(tmp_path / "1"), files_of(tmp_path / "3")
    assert len(one) > 3
    assert one == three


def test_chunk_and_shard_sizes_do_not_change_the_order_of_rows(tree, tmp_path, monkeypatch):
    build_corpus(arguments(tree, tmp_path / "large"))
    monkeypatch.setattr(on_disk, "CHUNK_FILES", 7)
    monkeypatch.setattr(collect, "ROW_GROUP_BYTES", 1_500)
    build_corpus(arguments(tree, tmp_path / "small", shard_bytes=10_000))
    for split in (TRAIN, HELD_OUT):
        assert list(read_corpus(tmp_path / "small", split)) == list(
            read_corpus(tmp_path / "large", split)
        )


@pytest.mark.parametrize("stage", ["collect_chunk", "write_shard", "load_table"])
def test_a_run_that_was_cut_off_goes_on_and_equals_an_unbroken_one(
    tree, tmp_path, monkeypatch, stage
):
    monkeypatch.setattr(on_disk, "CHUNK_FILES", 20)
    build_corpus(arguments(tree, tmp_path / "unbroken", shard_bytes=10_000))
    calls = Counter()
    original = getattr(pipeline, stage)

    def dies(*words):
        calls[stage] += 1
        if calls[stage] == (1 if stage == "load_table" else 3):
            raise KeyboardInterrupt
        return original(*words)

    with monkeypatch.context() as broken:
        broken.setattr(pipeline, stage, dies)
        with pytest.raises(KeyboardInterrupt):
            build_corpus(arguments(tree, tmp_path / "out", shard_bytes=10_000))
    assert not (tmp_path / "out" / "manifest.json").exists()
    read_chunk = collect.read_chunk
    monkeypatch.setattr(
        collect, "read_chunk", lambda chunk: calls.update(["read"]) or read_chunk(chunk)
    )
    build_corpus(arguments(tree, tmp_path / "out", shard_bytes=10_000))
    num_chunks = -(-sum(file.is_file() for file in tree.rglob("*")) // 20)
    assert calls["read"] == (num_chunks - 2 if stage == "collect_chunk" else 0)
    assert files_of(tmp_path / "out") == files_of(tmp_path / "unbroken")
    assert not (tmp_path / "out" / ".work").exists()


def test_a_source_that_changed_since_the_run_was_cut_off_is_read_again(tree, tmp_path, monkeypatch):
    with monkeypatch.context() as broken:
        broken.setattr(pipeline, "load_table", lambda *words: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            build_corpus(arguments(tree, tmp_path / "out"))
    (tree / "repo_00" / "module_0.py").write_text(code("changed"))
    build_corpus(arguments(tree, tmp_path / "out"))
    rows = [row for split in (TRAIN, HELD_OUT) for row in read_corpus(tmp_path / "out", split)]
    assert any("changed" in row["content"] for row in rows)


def test_a_complete_corpus_is_not_made_again(tree, tmp_path, caplog):
    first = build_corpus(arguments(tree, tmp_path / "out"))
    (tree / "repo_00" / "module_0.py").unlink()
    with caplog.at_level("INFO"):
        assert build_corpus(arguments(tree, tmp_path / "out", num_workers=2)) == first
    assert "nothing to do" in caplog.text


def test_another_recipe_over_a_complete_corpus_is_refused(tree, tmp_path):
    build_corpus(arguments(tree, tmp_path / "out"))
    with pytest.raises(Refusal, match="seed is 0 there and 7 here"):
        build_corpus(arguments(tree, tmp_path / "out", seed=7))


def test_a_folder_with_other_things_is_refused_and_left_alone(tree, tmp_path):
    mine = tmp_path / "out" / "train" / "my_results.txt"
    mine.parent.mkdir(parents=True)
    mine.write_text("years of work")
    with pytest.raises(Refusal, match="holds something that is no corpus"):
        build_corpus(arguments(tree, tmp_path / "out"))
    assert mine.read_text() == "years of work"


def test_max_bytes_keeps_a_subset_that_grows_with_it(tree, tmp_path):
    kept = {}
    for limit in (10_000, 30_000, 0):
        build_corpus(arguments(tree, tmp_path / str(limit), max_bytes=limit))
        rows = [r for s in (TRAIN, HELD_OUT) for r in read_corpus(tmp_path / str(limit), s)]
        kept[limit] = {row["blob_sha"]: row["size"] for row in rows}
        assert not limit or limit - 2_000 < sum(kept[limit].values()) <= limit
    assert kept[10_000].keys() < kept[30_000].keys() < kept[0].keys()


def test_max_bytes_in_which_no_file_fits_is_refused(tree, tmp_path):
    """Symptom: ValueError: max_workers must be greater than 0."""
    with pytest.raises(Refusal, match=r"max_bytes 20 keeps nothing: .* has \d+ bytes; give more"):
        build_corpus(arguments(tree, tmp_path / "out", max_bytes=20, num_workers=2))


def test_only_the_languages_asked_for_are_kept(tree, tmp_path):
    for number in range(12):
        (tree / f"repo_{number:02d}" / "notes.md").write_text(f"# Notes on number {number}\n")
    build_corpus(arguments(tree, tmp_path / "out", languages=["markdown"]))
    rows = [row for s in (TRAIN, HELD_OUT) for row in read_corpus(tmp_path / "out", s)]
    assert {row["language"] for row in rows} == {"markdown"}


def test_a_corpus_with_nothing_left_to_train_on_is_refused(tree, tmp_path):
    with pytest.raises(Refusal, match="and it has 13 with usable files, so none is left"):
        build_corpus(arguments(tree, tmp_path / "out", held_out_repositories=13))
    with pytest.raises(Refusal, match="12 repositories should be held out, but only 11 have files"):
        build_corpus(arguments(tree, tmp_path / "out", held_out_repositories=12))
    # the files are read by now; only the split is made anew
    build_corpus(arguments(tree, tmp_path / "out", held_out_repositories=1))


def test_no_usable_file_is_refused_with_what_was_read(tmp_path):
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "a.py").write_bytes(b"\xff\xfe")
    with pytest.raises(Refusal, match=r"no usable file: 1 files \(2 bytes\) were read.*not_utf8 1"):
        build_corpus(arguments(tmp_path / "code", tmp_path / "out"))


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"held_out_fraction": 1.0}, "held_out_fraction 1.0 is not a share; give 0 to below 1"),
        (
            {"held_out_repositories": 0, "held_out_fraction": 0.2},
            "held_out_repositories 0 holds nothing out and held_out_fraction 0.2 does",
        ),
        (
            {"held_out": ["a"], "held_out_repositories": 3},
            "held_out names what is held out, and held_out_repositories 3 says how much",
        ),
        ({"held_out": ["a", "a"], "held_out_repositories": 1}, "held_out names one twice"),
        ({"held_out_repositories": -1}, "held_out_repositories -1 is out of range; give a whole"),
        ({"max_file_bytes": 0}, "max_file_bytes 0 is out of range; give a whole number, 1 to"),
        ({"max_bytes": -1}, "max_bytes -1 is out of range; give a whole number, 0 to 1,0"),
        ({"shard_bytes": 10**30}, "shard_bytes 1000* is out of range; give a whole number, 1 to"),
        ({"num_workers": 5_000}, "num_workers 5000 is out of range; give .* 0 to 1,024"),
        ({"seed": 10**70}, "seed 1000* is out of range; give a whole number, 0 to below"),
        ({"languages": ["pyhton"]}, "'pyhton' is not a known language; did you mean 'python'"),
    ],
)
def test_a_setting_out_of_range_is_refused(tmp_path, settings, words):
    with pytest.raises(Refusal, match=words):
        arguments(tmp_path, tmp_path / "out", **settings)


def test_the_command_prints_what_was_kept_and_dropped(tree, tmp_path, capsys):
    recipe = tmp_path / "corpus.yaml"
    recipe.write_text(
        f"sources:\n  - {{type: folder, path: {tree}}}\nlanguages: [python]\nnum_workers: 1\n"
    )
    main([str(recipe), "--output_dir", str(tmp_path / "out"), "--held_out_repositories", "2"])
    printed = capsys.readouterr().out
    for word in ("generated", "kept", "train", "held_out", "python", "2 of 12 repositories"):
        assert word in printed
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert manifest["kind"] == "corpus"
    assert manifest["recipe"]["sources"][0]["options"] == {"path": str(tree)}


def test_a_killed_worker_ends_in_a_sentence(tree, tmp_path):
    from data_prep.workers import run_tasks

    with pytest.raises(Refusal, match="smaller --num_workers"):
        list(run_tasks(_die, [(1,), (2,)], 2))


def test_a_parent_that_is_killed_leaves_no_worker_behind(tmp_path, start):
    program = (
        "import os, time\n"
        "from data_prep.workers import run_tasks\n"
        "if __name__ == '__main__':\n"
        "    ahead = run_tasks(os.getpid, ((),) * 40, 2)\n"
        "    print(next(ahead), flush=True)\n"
        "    time.sleep(60)\n"
    )
    (tmp_path / "parent.py").write_text(program)
    environment = os.environ | {"PYTHONPATH": os.getcwd()}
    words = [sys.executable, str(tmp_path / "parent.py")]
    parent = start(words, stdout=subprocess.PIPE, env=environment)
    worker = int(parent.stdout.readline())
    os.kill(worker, 0)
    parent.kill()
    parent.wait()
    deadline = time.monotonic() + 10
    while left := processes.marked(parent.mark):
        assert time.monotonic() < deadline, left
        time.sleep(0.1)


def _die(number: int) -> None:
    os._exit(9)


def test_the_quickstart_corpus_recipe_is_parsed():
    from hugcoder.recipe import parse

    parsed = parse(
        [CorpusArguments],
        ["configs/corpora/quickstart.yaml", "--output_dir", "data/quickstart"],
        description="",
    )
    source = json.loads(parsed.sources[0])
    assert source["type"] == "python"
    assert "datasets" in source["distributions"]
