"""The words that name a source, chunks, and licences."""

import pytest
from source_fixtures import raw_files

from data_prep import on_disk
from data_prep.licenses import guess
from data_prep.sources import parse_sources
from hugcoder.refusal import Refusal


@pytest.mark.parametrize(
    ("word", "words"),
    [
        ("type=floder,path=a", "has type 'floder'; give one of folder, git"),
        ("type=folder", "a folder source needs path=..."),
        ("type=folder,pth=a", "has no option 'pth'; did you mean 'path'"),
        ("src", "is not of the form type=folder,path=src"),
        ('{"type": ', "is not valid JSON"),
        ("[" * 100_000, "is not valid JSON"),
        ('["folder", "src"]', "is JSON but no object; give"),
        ('{"type": ["folder"], "path": "a"}', "has type .'folder'.; give one of folder"),
        ('{"type": "folder", "path": 3}', "path is 3, a number; give text in quotes"),
        ('{"type": "folder", "path": ["a", "b"]}', r"path is \['a', 'b'\], a list; give text"),
        ('{"type": "folder", "path": "a", "name": true}', "name is True, true or false; give"),
        ('{"type": "folder", "path": "a\\u0000"}', "cannot be written as UTF-8 text; rename it"),
        ("type=folder,path=caf\udce9", "cannot be written as UTF-8 text; rename it"),
        ("type=folder,path=a,repo=", "repo is empty; give it a value or leave it out"),
        ("type=folder,path=a,path=b", "gives path twice; give it once"),
        ("type=folder,path=a,depth=0", "depth is '0'; give a number from 1 to 9"),
        ("type=folder,path=a,depth=" + "1" * 5_000, r"depth is '1+\.\.\.; give a number from 1"),
        (
            '{"type": "folder", "path": "a", "depth": 1' + "0" * 4_000 + "}",
            r"depth is 10+\.\.\.; give",
        ),
        ('{"type": "jsonl", "path": "a", "columns": 5}', "columns is 5, a number; give an object"),
        ("type=jsonl,path=a,columns=text", "columns is 'text', text; give an object of roles"),
        ('{"type": "jsonl", "path": "a", "columns": {"repos": "x"}}', "did you mean 'repo'"),
        ('{"type": "jsonl", "path": "a", "columns": {"repo": 1}}', "the column of repo is 1"),
        ("type=hub,dataset=a,max_rows=many", "max_rows is 'many'; give a number, 0 for all"),
        ('{"type": "hub", "dataset": "a", "max_rows": true}', "max_rows is True; give a number"),
        ('{"type": "python", "distributions": [3]}', "distributions is 3, a number; give text"),
        ("type=python,stdlib=maybe", "stdlib is 'maybe'; give true or false"),
    ],
)
def test_a_wrong_source_is_refused(word, words):
    with pytest.raises(Refusal, match=words):
        parse_sources([word])


def test_two_sources_of_one_name_are_refused():
    with pytest.raises(Refusal, match="two sources are called 'src'"):
        parse_sources(["type=folder,path=a/src", "type=git,path=b/src"])


def test_a_place_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(Refusal, match="does not exist"):
        raw_files({"type": "folder", "path": str(tmp_path / "nothing")})
    with pytest.raises(Refusal, match="stands for no file"):
        raw_files({"type": "parquet", "path": str(tmp_path / "*.parquet")})
    (tmp_path / "file").write_text("")
    for kind in ("folder", "git"):
        with pytest.raises(Refusal, match="is a file, not a folder"):
            raw_files({"type": kind, "path": str(tmp_path / "file")})
        for path in ("a" * 300, "~nobody-of-this-name/x"):
            with pytest.raises(Refusal, match="does not exist"):
                raw_files({"type": kind, "path": path})


def test_chunks_are_bounded_and_lose_nothing():
    sizes = [300_000, 900_000, 5, 2_000_000_000] * 30
    chunks = list(on_disk.in_chunks(enumerate(sizes)))
    assert [item for chunk in chunks for item in chunk] == list(range(len(sizes)))
    for chunk in chunks:
        assert sum(min(sizes[i], on_disk.LARGE) for i in chunk[:-1]) < on_disk.CHUNK_BYTES


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("MIT License", "MIT"),
        ("Apache License\n Version 2.0, January 2004", "Apache-2.0"),
        ("GNU LESSER GENERAL PUBLIC LICENSE\n Version 3", "LGPL-3.0"),
        ("BSD 3-Clause License", "BSD-3-Clause"),
        ("Redistribution and use in source and binary forms, with", "BSD-2-Clause"),
        ("Mozilla Public License Version 2.0", "MPL-2.0"),
        ("This is free and unencumbered software released", "Unlicense"),
        ("All rights reserved; limited use only", "unknown"),
    ],
)
def test_a_licence_is_told_by_its_phrases(text, name):
    assert guess(text) == name
