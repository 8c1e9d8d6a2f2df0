"""Rows that no good program writes: odd types, odd names, lines that are no rows."""

import errno
import io
import json

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
from source_fixtures import CODE, ROWS, outcomes, raw_files

from data_prep import tables
from hugcoder.data.token_store import _codes
from hugcoder.refusal import Refusal

PLAIN = {"content": [CODE, CODE], "repo": ["r", "r"], "path": ["a.py", "b.py"]}


def unchecked(*values: bytes) -> pyarrow.Array:
    """Strings that may be no UTF-8, as other writers leave them."""
    made = pyarrow.array(values, "binary")
    return pyarrow.Array.from_buffers(pyarrow.string(), len(made), made.buffers())


def write(folder, **columns) -> dict[str, str]:
    pyarrow.parquet.write_table(pyarrow.table(PLAIN | columns), folder / "a.parquet")
    return {"type": "parquet", "path": str(folder)}


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        (pyarrow.timestamp("ms"), 2**50),
        (pyarrow.timestamp("us", tz="Nowhere/City"), 1),
        (pyarrow.date32(), 2**30),
        (pyarrow.duration("ms"), 2**62),
    ],
    ids=str,
)
@pytest.mark.parametrize("name", ["commit", "content"])
def test_a_time_that_python_does_not_know_ends_nothing(tmp_path, kind, value, name):
    """Symptom: OverflowError, or a sound file that was called damaged."""
    source = write(tmp_path, **{name: pyarrow.array([value, None], kind)})
    assert outcomes(source) == {
        path: CODE if name == "commit" else "<no_content>" for path in PLAIN["path"]
    }
    if name == "commit":
        assert [raw.commit for raw in raw_files(source)] == [str(value), ""]


def test_a_bad_byte_in_a_dictionary_or_a_list_ends_nothing(tmp_path):
    coded = pyarrow.DictionaryArray.from_arrays([0, 1], unchecked(b"a = '\xe9'", CODE.encode()))
    licenses = pyarrow.ListArray.from_arrays([0, 1, 2], unchecked(b"MIT", b"caf\xe9"))
    source = write(tmp_path, content=coded)
    assert outcomes(source) == {"a.py": "<not_utf8>", "b.py": CODE}
    source = write(tmp_path, license=licenses)
    assert outcomes(source) == {"a.py": CODE, "b.py": "<name_not_utf8>"}
    assert [raw.license for raw in raw_files(source)] == ["MIT", "caf\udce9"]


def test_a_file_whose_name_looks_like_a_pattern_is_read(tmp_path):
    (tmp_path / "odd[1].jsonl").write_text(json.dumps(ROWS[0]))
    assert outcomes({"type": "jsonl", "path": str(tmp_path / "odd[1].jsonl")}) == {"x.py": CODE}
    assert outcomes({"type": "jsonl", "path": str(tmp_path / "odd*.jsonl")}) == {"x.py": CODE}


@pytest.mark.parametrize("bad", ["x" * 300, "x" * 900, "x\n" * 200], ids=["bad", "endless", "many"])
def test_bad_lines_at_the_head_do_not_lose_the_rows_behind_them(tmp_path, monkeypatch, bad):
    """Symptom: the whole file was passed over, with a sentence that it had no row."""
    monkeypatch.setattr(tables, "HEAD_BYTES", 200)
    monkeypatch.setattr(tables, "MAX_LINE_BYTES", 400)
    (tmp_path / "a.jsonl").write_text(f"{bad}\n{json.dumps(ROWS[0])}\n{json.dumps(ROWS[1])}\n")
    found = list(outcomes({"type": "jsonl", "path": str(tmp_path / "a.jsonl")}).values())
    assert found[-2:] == [CODE, "let a = 1;\n"]
    assert set(found[:-2]) == {"<too_large>" if len(bad) == 900 else "<not_json>"}


def test_the_search_for_a_row_ends_and_says_where(tmp_path, monkeypatch):
    monkeypatch.setattr(tables, "SEARCH_BYTES", 1_000)
    (tmp_path / "a.jsonl").write_text("no row\n" * 1_000 + json.dumps(ROWS[0]))
    with pytest.raises(Refusal, match=r"should be, in its first 1,00\d bytes \(it begins with b'n"):
        outcomes({"type": "jsonl", "path": str(tmp_path / "a.jsonl")})


def test_a_dying_disk_is_no_damaged_file(tmp_path, monkeypatch):
    """Symptom: the file was called cut or changed, with the advice to remove it."""

    class Dying(io.BytesIO):
        def readline(self, size: int = -1) -> bytes:
            raise OSError(errno.EIO, "Input/output error")

    (tmp_path / "a.jsonl").write_text(json.dumps(ROWS[0]))
    monkeypatch.setattr(tables, "_open", lambda file: Dying())
    with pytest.raises(OSError, match="Input/output error"):
        outcomes({"type": "jsonl", "path": str(tmp_path / "a.jsonl")})


@pytest.mark.parametrize("language", ["klingon\n<script>", ["python", "c"], "pythonic"])
def test_a_language_that_is_none_leaves_the_path_to_tell(tmp_path, language):
    rows = [ROWS[0] | {"language": language}, ROWS[1] | {"language": " JavaScript"}]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = raw_files({"type": "jsonl", "path": str(tmp_path / "a.jsonl")})
    assert [raw.language for raw in found] == ["", "javascript"]


def test_more_languages_than_a_store_can_tell_apart_are_refused():
    """Symptom: number 32,768 became language -32,768 without a word."""
    names = pyarrow.chunked_array([[str(number) for number in range(2**15)]])
    assert _codes(names, "languages")[0].max() == np.iinfo(np.int16).max
    more = pyarrow.chunked_array([*names.chunks, ["one more"]])
    with pytest.raises(Refusal, match="documents of 32,769 languages, but at most 32,768"):
        _codes(more, "languages")
