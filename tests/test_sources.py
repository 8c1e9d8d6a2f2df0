"""Sources: hostile folders, git, installed Python, tables, the hub's library; and their "
"refusals."""

import gzip
import json
import os
import subprocess
from pathlib import Path

import pytest

from data_prep import git_trees, on_disk, tables
from data_prep.collect import Rules, examine
from data_prep.document import Document, RawFile
from data_prep.licenses import guess
from data_prep.sources import list_chunks, parse_sources, read_chunk
from hugcoder.refusal import Refusal

RULES = Rules((), 1_000_000)
CODE = "def add(left, right):\n    return left + right\n"


def raw_files(source: dict) -> list[RawFile]:
    parsed = parse_sources([json.dumps(source)])[0]
    return [raw for chunk in list_chunks(parsed) for raw in read_chunk(chunk)]


def outcomes(source: dict, rules: Rules = RULES) -> dict[str, str]:
    """Path -> content of what is kept, or the reason in angle brackets."""
    parsed = parse_sources([json.dumps(source)])[0]
    found = {}
    for chunk in list_chunks(parsed):
        for raw in read_chunk(chunk):
            outcome = examine(raw, parsed.name, rules)
            is_kept = isinstance(outcome, Document)
            found[raw.path] = outcome.content if is_kept else f"<{outcome[0]}>"
    return found


def test_a_hostile_folder_is_read_safely(tmp_path, monkeypatch):
    (tmp_path / "inner").mkdir()
    (tmp_path / "inner" / "loop").symlink_to(tmp_path)
    (tmp_path / "linked.py").symlink_to("/etc/passwd")
    (tmp_path / "good.py").write_text(CODE)
    (tmp_path / "zeros.py").write_bytes(b"a = 1\0\n")
    (tmp_path / "latin.py").write_bytes(b"name = 'caf\xe9'\n")
    (tmp_path / "windows.py").write_bytes(CODE.replace("\n", "\r\n").encode())
    (tmp_path / "marked.py").write_bytes(b"\xef\xbb\xbf" + CODE.encode())
    (tmp_path / "sentinel.py").write_text('middle = "<fim_middle><|endoftext|>"\n')
    (tmp_path / "blank.py").write_text(" \n\t\n")
    (tmp_path / "what.xyz").write_text("unknown")
    os.mkfifo(tmp_path / "pipe.py")
    with open(os.fsencode(tmp_path) + b"/caf\xe9.py", "w") as file:
        file.write(CODE)
    with (tmp_path / "huge.py").open("wb") as file:
        file.truncate(2_000_000_000)
    (tmp_path / "node_modules").mkdir()
    (tmp_path / "node_modules" / "a.js").write_text("let a = 1;\n")
    read_bytes = Path.read_bytes
    opened = []
    monkeypatch.setattr(Path, "read_bytes", lambda p: opened.append(p.name) or read_bytes(p))
    found = outcomes({"type": "folder", "path": str(tmp_path)})
    assert found == {
        "inner/loop": "<link>",
        "linked.py": "<link>",
        "good.py": CODE,
        "zeros.py": "<binary>",
        "latin.py": "<not_utf8>",
        "windows.py": CODE.replace("\n", "\r\n"),
        "marked.py": "\ufeff" + CODE,
        "sentinel.py": 'middle = "<fim_middle><|endoftext|>"\n',
        "blank.py": "<empty>",
        "what.xyz": "<unknown_language>",
        "pipe.py": "<not_a_regular_file>",
        "caf\udce9.py": "<name_not_utf8>",
        "huge.py": "<too_large>",
    }
    assert not {"huge.py", "what.xyz", "linked.py", "pipe.py"} & set(opened)


def test_a_file_that_went_away_is_counted_as_unreadable(tmp_path):
    (tmp_path / "a.py").write_text(CODE)
    parsed = parse_sources([f"type=folder,path={tmp_path}"])[0]
    raw = next(raw for chunk in list_chunks(parsed) for raw in read_chunk(chunk))
    (tmp_path / "a.py").unlink()
    assert examine(raw, "x", RULES) == ("unreadable", len(CODE))


def test_work_trees_in_a_folder_are_repositories_and_the_rest_is_one(tmp_path):
    for name in ("one", "two"):
        (tmp_path / name / ".git").mkdir(parents=True)
        (tmp_path / name / "a.py").write_text(CODE)
    (tmp_path / "one" / "LICENSE").write_text("MIT License\n\nPermission is hereby granted\n")
    (tmp_path / "loose").mkdir()
    (tmp_path / "loose" / "b.py").write_text(CODE)
    found = raw_files({"type": "folder", "path": str(tmp_path)})
    python = {(raw.repo, raw.path, raw.license) for raw in found if raw.path.endswith(".py")}
    assert python == {
        (tmp_path.name, "loose/b.py", "unknown"),
        ("one", "a.py", "MIT"),
        ("two", "a.py", "unknown"),
    }
    named = raw_files({"type": "folder", "path": str(tmp_path), "repo": "mine"})
    assert {raw.repo for raw in named} == {"mine"}


def git(folder: Path, *words: str) -> str:
    identity = ["-c", "user.name=a", "-c", "user.email=a@b.c", "-c", "init.defaultBranch=main"]
    command = ["git", "-C", str(folder), *identity, *words]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    folder = tmp_path / "trees" / "project"
    folder.mkdir(parents=True)
    git(folder, "init")
    (folder / "a.py").write_text(CODE)
    (folder / "windows.py").write_bytes(CODE.replace("\n", "\r\n").encode())
    (folder / "COPYING").write_text("GNU GENERAL PUBLIC LICENSE\n Version 3, 29 June 2007\n")
    (folder / "link.py").symlink_to("a.py")
    (folder / "large.py").write_text("#" * 3_000)
    git(folder, "add", ".")
    git(folder, "commit", "-m", "first")
    (folder / "a.py").write_text("changed and not committed\n")
    (folder / "untracked.py").write_text(CODE)
    return folder


def test_git_gives_the_bytes_of_the_commit_and_not_of_the_work_tree(repository):
    rules = Rules(("python",), 2_000)
    expected = {
        "COPYING": "<unknown_language>",
        "a.py": CODE,
        "large.py": "<too_large>",
        "link.py": "<link>",
        "windows.py": CODE.replace("\n", "\r\n"),
    }
    assert outcomes({"type": "git", "path": str(repository)}, rules) == expected
    assert outcomes({"type": "git", "path": str(repository.parent)}, rules) == expected
    raw = raw_files({"type": "git", "path": str(repository)})[0]
    assert raw.commit == git(repository, "rev-parse", "HEAD")
    assert (raw.repo, raw.license) == ("project", "GPL-3.0")


def test_a_blob_has_the_name_that_git_gives_it(repository):
    data = (repository / "windows.py").read_bytes()
    document = Document("s", "r", "p", "python", "", "", data)
    assert document.blob_sha == git(repository, "hash-object", "windows.py")


def test_a_bare_repository_is_read_without_a_checkout(repository, tmp_path):
    git(tmp_path, "clone", "--bare", str(repository), "copy.git")
    found = raw_files({"type": "git", "path": str(tmp_path / "copy.git")})
    assert {raw.repo for raw in found} == {"copy"}
    assert outcomes({"type": "git", "path": str(tmp_path / "copy.git")})["a.py"] == CODE


def test_git_that_cannot_be_read_is_refused(tmp_path, monkeypatch):
    with pytest.raises(Refusal, match="is no git repository and has none right in it"):
        raw_files({"type": "git", "path": str(tmp_path)})
    git(tmp_path, "init")
    with pytest.raises(Refusal, match="git cannot read HEAD of"):
        raw_files({"type": "git", "path": str(tmp_path)})
    monkeypatch.setenv("PATH", "")
    with pytest.raises(Refusal, match="git is not installed; install it, or use type=folder"):
        raw_files({"type": "git", "path": str(tmp_path)})


def test_a_file_that_git_has_lost_is_told(repository):
    blob = git(repository, "rev-parse", "HEAD:large.py")
    (repository / ".git" / "objects" / blob[:2] / blob[2:]).unlink()
    with pytest.raises(Refusal, match=rf"git has no object {blob} \(large.py\) in .*\.git; fetch"):
        raw_files({"type": "git", "path": str(repository)})


def test_a_file_that_git_loses_while_it_is_read_is_told(repository):
    parsed = parse_sources([json.dumps({"type": "git", "path": str(repository)})])[0]
    chunks = list(list_chunks(parsed))
    blob = git(repository, "rev-parse", "HEAD:a.py")
    (repository / ".git" / "objects" / blob[:2] / blob[2:]).unlink()
    with pytest.raises(Refusal, match=rf"git has no object {blob} \(a.py\)"):
        _ = [raw.load() for chunk in chunks for raw in read_chunk(chunk)]


def test_what_replaces_a_file_in_a_repository_is_not_read(repository):
    new = git(repository, "hash-object", "-w", "untracked.py")
    git(repository, "replace", "--force", git(repository, "rev-parse", "HEAD:windows.py"), new)
    replaced = subprocess.run(
        ["git", "-C", str(repository), "show", "HEAD:windows.py"], capture_output=True
    )
    assert replaced.stdout == CODE.encode()
    found = outcomes({"type": "git", "path": str(repository)})
    assert found["windows.py"] == CODE.replace("\n", "\r\n")


def poison(folder: Path, mark: Path) -> None:
    """Let every setting of a repository that may name a command name one that leaves a mark."""
    command = f"touch {mark}; false"
    hook = folder / ".git" / "hooks" / "post-index-change"
    for name in ("post-index-change", "reference-transaction", "pre-auto-gc", "post-checkout"):
        hook.with_name(name).write_text(f"#!/bin/sh\n{command}\n")
        hook.with_name(name).chmod(0o755)
    commands = ["fsmonitor", "sshCommand", "gitProxy", "askPass", "pager", "editor"]
    settings = {f"core.{name}": command for name in [*commands, "alternateRefsCommand"]}
    settings |= {f"alias.{name}": f"!{command}" for name in ("rev-parse", "ls-tree", "cat-file")}
    settings |= {f"pager.{name}": command for name in ("rev-parse", "ls-tree", "cat-file")}
    settings |= {"credential.helper": f"!{command}", "gpg.program": command}
    settings |= {"diff.x.textconv": command}
    settings |= {f"filter.x.{name}": command for name in ("smudge", "clean", "process")}
    settings |= {"remote.origin.uploadpack": command, "protocol.allow": "always"}
    settings |= {"protocol.ext.allow": "always", "uploadpack.packObjectsHook": command}
    # an include, as a hostile repository may spread its settings over files
    extra = folder / ".git" / "extra"
    git(folder, "config", "include.path", str(extra))
    for name, value in settings.items():
        subprocess.run(["git", "config", "--file", str(extra), name, value], check=True)
    (folder / ".git" / "info" / "attributes").write_text("* diff=x filter=x\n")


def test_no_command_that_a_repository_names_is_run(repository, tmp_path):
    poison(repository, tmp_path / "mark")
    assert outcomes({"type": "git", "path": str(repository)})["a.py"] == CODE
    assert not (tmp_path / "mark").exists()


@pytest.mark.parametrize("knows_no_lazy_fetch", [True, False], ids=["git", "older git"])
@pytest.mark.parametrize("way", ["uploadpack", "ssh", "ext", "vcs", "instead", "local"])
def test_a_partial_clone_is_told_and_nothing_is_fetched(
    repository, tmp_path, monkeypatch, way, knows_no_lazy_fetch
):
    """Symptom: it was fetched in silence, with the command that its config names."""
    if not knows_no_lazy_fetch:
        monkeypatch.delitem(git_trees.ENVIRONMENT, "GIT_NO_LAZY_FETCH")
    monkeypatch.setenv("GIT_ALLOW_PROTOCOL", "file:ext:ssh")
    git(repository, "config", "uploadpack.allowFilter", "true")
    partial, mark, helper = tmp_path / "partial", tmp_path / "mark", tmp_path / "bin"
    filtered = ["--no-checkout", "--filter=blob:none", f"file://{repository}"]
    git(tmp_path, "clone", *filtered, str(partial))
    helper.mkdir()
    (helper / "git-remote-mark").write_text(f"#!/bin/sh\ntouch {mark}\n")
    (helper / "git-remote-mark").chmod(0o755)
    monkeypatch.setenv("PATH", f"{helper}:{os.environ['PATH']}")
    poison(partial, mark)
    ext = f"ext::sh -c 'touch% {mark}'"
    changes = {
        "uploadpack": {"remote.origin.uploadpack": f"touch {mark}; git-upload-pack"},
        "ssh": {
            "remote.origin.url": "ssh://nobody@127.0.0.1/x",
            "core.sshCommand": f"touch {mark}",
        },
        "ext": {"remote.origin.url": ext},
        "vcs": {"remote.origin.vcs": "mark"},
        "instead": {f"url.{ext}.insteadOf": "file://"},
        "local": {"remote.origin.url": str(repository)},
    }
    for name, value in changes[way].items():
        git(partial, "config", name, value)
    with pytest.raises(Refusal, match="is a partial clone and lacks files of its HEAD"):
        raw_files({"type": "git", "path": str(partial)})
    assert not mark.exists()
    blob = git(repository, "rev-parse", "HEAD:a.py")
    found = subprocess.run(
        ["git", "-C", str(partial), "cat-file", "-e", blob],
        env=os.environ | {"GIT_NO_LAZY_FETCH": "1"},
        capture_output=True,
    )
    assert found.returncode != 0


def test_a_repository_is_read_from_within_a_hook_of_another(repository, tmp_path, monkeypatch):
    git(tmp_path, "init", "other")
    for name, value in {"DIR": ".", "OBJECT_DIRECTORY": "objects", "INDEX_FILE": "index"}.items():
        monkeypatch.setenv(f"GIT_{name}", str(tmp_path / "other" / ".git" / value))
    assert outcomes({"type": "git", "path": str(repository)})["a.py"] == CODE


def test_installed_distributions_are_repositories():
    source = {"type": "python", "distributions": ["PyYAML", "tqdm"], "stdlib": False}
    found = raw_files(source)
    assert {raw.repo for raw in found} == {"pyyaml", "tqdm"}
    assert all(raw.license != "unknown" for raw in found)
    assert "import" in outcomes(source)["yaml/__init__.py"]
    assert not any("__pycache__" in raw.path or raw.path.startswith("..") for raw in found)


def test_the_standard_library_comes_without_installed_packages():
    found = raw_files({"type": "python", "distributions": [], "stdlib_tests": False})
    paths = {raw.path for raw in found}
    assert {raw.repo for raw in found} == {"cpython"}
    assert "json/decoder.py" in paths
    assert not any(path.startswith(("site-packages/", "test/")) for path in paths)


def test_a_distribution_that_is_not_there_is_refused():
    with pytest.raises(Refusal, match="'no-such-thing' is not installed"):
        raw_files({"type": "python", "distributions": ["no-such-thing"]})


ROWS = [
    {"content": CODE, "repo_name": "a/one", "path": "x.py", "licenses": ["MIT"], "extra": 1},
    {"content": "let a = 1;\n", "repo_name": "a/two", "path": "y.js", "licenses": ["ISC"]},
    {"content": None, "repo_name": "a/two", "path": "z.py", "licenses": []},
    {"content": CODE, "repo_name": None, "path": "q.py", "licenses": None},
]
EXPECTED = {
    "x.py": CODE,
    "y.js": "let a = 1;\n",
    "z.py": "<no_content>",
    "q.py": "<no_repository>",
}


def write_parquet(path: Path, rows: list[dict], row_group_size: int = 2) -> None:
    import pyarrow
    import pyarrow.parquet

    path.parent.mkdir(parents=True, exist_ok=True)
    table = pyarrow.Table.from_pylist(rows)
    pyarrow.parquet.write_table(table, path, row_group_size=row_group_size)


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
    with pytest.raises(Refusal, match="cannot be read"):
        raw_files(source | {"split": "nowhere"})


@pytest.mark.parametrize(
    ("word", "words"),
    [
        ("type=floder,path=a", "has type 'floder'; give one of folder, git"),
        ("type=folder", "a folder source needs path=..."),
        ("type=folder,pth=a", "has no option 'pth'; did you mean 'path'"),
        ("src", "is not of the form type=folder,path=src"),
        ('{"type": ', "is not valid JSON"),
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
