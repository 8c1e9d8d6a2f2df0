"""Parquet, JSON lines and datasets of the hub as sources: their rows, chunks and columns."""

import gzip
import json
import os

import pytest
from source_fixtures import CODE, EXPECTED, ROWS, outcomes, raw_files, write_parquet

from data_prep import tables
from data_prep.sources import list_chunks, parse_sources
from hugcoder.refusal import Refusal


def test_parquet_rows_become_files(tmp_path, monkeypatch):
    monkeypatch.setattr(tables, "CHUNK_BYTES", 1)
    write_parquet(tmp_path / "data" / "0.parquet", ROWS)
    source = {"type": "parquet", "path": str(tmp_path / "data")}
    assert len(list(list_chunks(parse_sources([json.dumps(source)])[0]))) == 2
    assert outcomes(source) == EXPECTED
    assert [raw.license for raw in raw_files(source)] == ["MIT", "ISC", "unknown", "unknown"]


@pytest.mark.parametrize("chunk_bytes", [1, 7, 50, 100, 101, 102, 1_000])
def test_json_lines_are_read_once_wherever_chunks_are_cut(tmp_path, monkeypatch, chunk_bytes):
    monkeypatch.setattr(tables, "CHUNK_BYTES", chunk_bytes)
    rows = [{"text": CODE, "repo": f"r{i}", "path": f"{i}.py"} for i in range(8)]
    lines = [json.dumps(row) for row in rows]
    (tmp_path / "a.jsonl").write_text("\n".join(lines))
    found = raw_files({"type": "jsonl", "path": str(tmp_path / "a.jsonl")})
    assert [raw.path for raw in found] == [f"{i}.py" for i in range(8)]


def test_compressed_json_lines_are_read(tmp_path):
    with gzip.open(tmp_path / "a.jsonl.gz", "wt") as file:
        file.writelines(json.dumps(row) + "\n" for row in ROWS)
    assert outcomes({"type": "jsonl", "path": str(tmp_path / "*.gz")}) == EXPECTED


def test_broken_and_endless_lines_are_counted(tmp_path, monkeypatch):
    monkeypatch.setattr(tables, "MAX_LINE_BYTES", 200)
    lines = [json.dumps(ROWS[0]), "{broken", "", '"' + "a" * 900 + '"', json.dumps(ROWS[1])]
    (tmp_path / "a.jsonl").write_text("\n".join(lines) + "\n")
    found = outcomes({"type": "jsonl", "path": str(tmp_path / "a.jsonl")})
    assert list(found.values()) == [CODE, "<not_json>", "<too_large>", "let a = 1;\n"]


def test_files_without_rows_and_hidden_ones_are_counted_and_passed_over(tmp_path):
    lines = [json.dumps(row) + "\n" for row in ROWS[:2]]
    (tmp_path / "0.jsonl").write_text("\n\nno json\n" + lines[0])
    (tmp_path / "1.jsonl").write_text("")
    (tmp_path / "2.jsonl").write_text("\n \n")
    (tmp_path / "3.json.gz").write_bytes(gzip.compress(b""))
    (tmp_path / "4.ndjson.gz").write_bytes(gzip.compress(lines[1].encode()))
    (tmp_path / "5.json").write_text('[{"content": "x"}]')
    (tmp_path / "._0.jsonl").write_bytes(b"\0\5\26\7")
    (tmp_path / ".cache").mkdir()
    (tmp_path / ".cache" / "9.jsonl").write_text(lines[0])
    (tmp_path / ".DS_Store").write_bytes(b"\0")
    found = outcomes({"type": "jsonl", "path": str(tmp_path)})
    names = {path.removeprefix(f"{tmp_path}/"): outcome for path, outcome in found.items()}
    assert names == {
        "x.py": CODE,
        "y.js": "let a = 1;\n",
        "0.jsonl/2": "<not_json>",
        **dict.fromkeys(["1.jsonl", "2.jsonl", "3.json.gz"], "<empty_file>"),
        **dict.fromkeys(["._0.jsonl", ".cache/9.jsonl"], "<hidden_file>"),
        "5.json": "<not_json_lines>",
    }
    with pytest.raises(Refusal, match=r"\(empty_file 1 .*give files that have rows"):
        raw_files({"type": "jsonl", "path": str(tmp_path / "1.jsonl")})
    with pytest.raises(Refusal, match=r"5.json is a JSON list; write one object a line \(jq -c"):
        raw_files({"type": "jsonl", "path": str(tmp_path / "5.json")})


def test_parquet_without_rows_is_passed_over_whatever_its_columns(tmp_path):
    import pyarrow
    import pyarrow.parquet

    write_parquet(tmp_path / "0.parquet", ROWS)
    none = pyarrow.table({"other": pyarrow.array([], "int64")})
    pyarrow.parquet.write_table(none, tmp_path / "1.parquet")
    (tmp_path / "._0.parquet").write_bytes(b"\0\5\26\7")
    passed = {f"{tmp_path}/1.parquet": "<empty_file>", f"{tmp_path}/._0.parquet": "<hidden_file>"}
    assert outcomes({"type": "parquet", "path": str(tmp_path)}) == EXPECTED | passed


def test_a_shard_that_is_a_pointer_of_git_lfs_is_refused_with_the_way_out(tmp_path):
    for name, kind in (("a.parquet", "parquet"), ("b.jsonl.gz", "jsonl")):
        (tmp_path / name).write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\n")
        with pytest.raises(Refusal, match=r"is a pointer of git-lfs.*run `git lfs pull` where"):
            raw_files({"type": kind, "path": str(tmp_path / name)})


def test_a_string_of_parquet_that_is_no_utf8_ends_nothing(tmp_path):
    import pyarrow
    import pyarrow.parquet

    def strings(*values: bytes) -> pyarrow.Array:
        return pyarrow.array(values, "binary").cast("string", safe=False)

    def unchecked(*values: bytes) -> pyarrow.Array:
        made = pyarrow.array(values, "binary")
        return pyarrow.Array.from_buffers(pyarrow.string(), len(made), made.buffers())

    content = unchecked(CODE.encode(), b"caf\xe9 = 1", CODE.encode())
    path = unchecked(b"a.py", b"b.py", b"caf\xe9.py")
    table = pyarrow.table({"content": content, "path": path, "repo": strings(b"r", b"r", b"r")})
    pyarrow.parquet.write_table(table, tmp_path / "a.parquet")
    found = outcomes({"type": "parquet", "path": str(tmp_path)})
    assert found == {"a.py": CODE, "b.py": "<not_utf8>", "caf\udce9.py": "<name_not_utf8>"}


@pytest.mark.parametrize("name", ["path", "repo", "license", "commit"])
def test_a_row_whose_names_are_no_utf8_is_counted(tmp_path, name):
    row = {"content": CODE, "repo": "r", "path": "a.py", "language": "python"}
    rows = [row | {name: "cut \ud83d"}, row | {"path": "b.py"}]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = outcomes({"type": "jsonl", "path": str(tmp_path / "a.jsonl")})
    assert list(found.values()) == ["<name_not_utf8>", CODE]


def test_half_a_surrogate_pair_in_json_is_no_text(tmp_path):
    (tmp_path / "a.jsonl").write_text(
        '{"content": "a = \\"\\ud800\\"", "repo": "r", "path": "a.py"}'
    )
    found = outcomes({"type": "jsonl", "path": str(tmp_path / "a.jsonl")})
    assert found == {"a.py": "<not_utf8>"}


def test_columns_of_other_names_are_mapped(tmp_path):
    (tmp_path / "a.jsonl").write_text(json.dumps({"body": CODE, "where": "r"}) + "\n")
    place = {"type": "jsonl", "path": str(tmp_path / "a.jsonl")}
    with pytest.raises(Refusal, match=r'none is known to hold a file; add "columns"'):
        raw_files(place)
    with pytest.raises(Refusal, match="none is known to name the repository"):
        raw_files(place | {"columns": {"content": "body"}})
    with pytest.raises(
        Refusal, match=r"takes repo from 'wher', and .*'body', 'where'.*mean 'where'"
    ):
        raw_files(place | {"columns": {"content": "body", "repo": "wher"}})
    mapped = place | {"columns": {"content": "body", "repo": "where"}}
    with pytest.raises(Refusal, match="none is known to hold a path or language"):
        raw_files(mapped)
    assert list(outcomes(mapped | {"language": "python"}).values()) == [CODE]


def test_a_dataset_is_streamed_through_the_hubs_library(tmp_path):
    for index in range(2):
        write_parquet(tmp_path / "set" / f"train-{index}.parquet", [ROWS[index]])
    source = {"type": "hub", "dataset": str(tmp_path / "set")}
    assert len(list(list_chunks(parse_sources([json.dumps(source)])[0]))) == 2
    assert outcomes(source) == {"x.py": CODE, "y.js": "let a = 1;\n"}
    assert outcomes(source | {"max_rows": 1}) == {"x.py": CODE}
    with pytest.raises(Refusal, match=r"cannot be read \(Bad split: nowhere.*check its name"):
        raw_files(source | {"split": "nowhere"})


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ({"set.py": "import datasets"}, "a loading script is not run: give revision=refs/convert"),
        ({"a.jsonl": ROWS[:1], "b.jsonl": [{**ROWS[0], "extra": {"a": 1}}]}, "differ in columns"),
        ({"a.parquet": "no parquet"}, "cannot be read"),
        ({"a.jsonl.gz": gzip.compress(os.urandom(5_000))[:-1_000]}, "cannot be read"),
        ({"a.txt.zip": "no zip"}, "cannot be read"),
    ],
    ids=["script", "types", "parquet", "gzip", "zip"],
)
def test_what_the_hubs_library_cannot_read_is_one_sentence(tmp_path, files, words):
    (tmp_path / "set").mkdir()
    for name, content in files.items():
        if isinstance(content, list):
            content = "".join(json.dumps(row) + "\n" for row in content)
        data = content if isinstance(content, bytes) else content.encode()
        (tmp_path / "set" / name).write_bytes(data)
    with pytest.raises(Refusal, match=words) as refusal:
        raw_files({"type": "hub", "dataset": str(tmp_path / "set")})
    assert "\n" not in str(refusal.value)
