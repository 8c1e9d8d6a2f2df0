"""Folders as sources: hostile ones, layouts of repositories, what may not be read."""

import errno
import os
from pathlib import Path

import pytest
from source_fixtures import CODE, RULES, git, outcomes, raw_files

from data_prep.collect import examine, written_to
from data_prep.sources import list_chunks, parse_sources, read_chunk
from hugcoder.refusal import Refusal


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
        "node_modules/": "<folder_left_out>",
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


@pytest.mark.parametrize("kind", ["folder", "git"])
def test_repositories_are_found_at_any_depth_and_named_by_their_path(tmp_path, caplog, kind):
    caplog.set_level("INFO")
    names = ["top", "ann/alpha", "ann/beta", "host/bob/gamma"]
    for name in [*names, "ann/alpha/vendored", "top/node_modules/thing", "node_modules/thing"]:
        (tmp_path / name).mkdir(parents=True)
        git(tmp_path / name, "init")
        (tmp_path / name / "a.py").write_text(CODE + f"# {name}\n")
    for name in names:
        git(tmp_path / name, "add", "a.py")
        git(tmp_path / name, "commit", "-m", "first")
    found = raw_files({"type": kind, "path": str(tmp_path)})
    kept = {(raw.repo, raw.path) for raw in found if not raw.reason}
    inside = {("ann/alpha", "vendored/a.py")} if kind == "folder" else set()
    assert kept == {(name, "a.py") for name in names} | inside
    assert f"{tmp_path}: found 4 repositories: ann/alpha, ann/beta, host/bob/gamma, top" in (
        caplog.text
    )


def test_depth_says_which_folders_without_git_are_repositories(tmp_path, monkeypatch, caplog):
    caplog.set_level("INFO")
    for name in ("ann/alpha/a.py", "ann/loose.py", "bob/beta/b.py", ".github/x/c.yml"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(CODE)
    monkeypatch.chdir(tmp_path)

    def repos(**options) -> set[str]:
        return {raw.repo for raw in raw_files({"type": "folder", "path": "."} | options)}

    assert repos() == {tmp_path.name}
    assert "no folder has a .git; add depth=1 if each is a repository" in caplog.text
    assert repos(depth=1) == {"ann", "bob", tmp_path.name}
    assert repos(depth="2") == {"ann/alpha", "bob/beta", tmp_path.name}
    with pytest.raises(Refusal, match=r"depth is 5, and no folder lies so far below"):
        repos(depth=5)
    with pytest.raises(Refusal, match=r"has repo, .* and depth, .* give one of them"):
        repos(depth=1, repo="mine")


OTHERS_WORK = [
    "venv/pyvenv.cfg",
    "tools/our env/pyvenv.cfg",
    "target/CACHEDIR.TAG",
    "old/lib/python3.9/site-packages/six.py",
    "conda/conda-meta/history",
    ".tox/py/b.py",
]


@pytest.mark.parametrize("kind", ["folder", "git"])
def test_what_others_wrote_is_left_out_and_counted_by_folder(tmp_path, kind):
    for name in [*OTHERS_WORK, "env/mine.py", "pyvenv.cfg", "build/mine.py"]:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(CODE)
        if name in OTHERS_WORK:  # listed before and after the file that tells
            (tmp_path / name).with_name("A.py").write_text(CODE)
            (tmp_path / name).with_name("z.py").write_text(CODE)
    bare = ["tests/bare/HEAD", "tests/bare/objects/a.py", "tests/bare/refs/b.py"]
    for name in [*bare, "half/HEAD", "half/objects/mine.py"]:  # a repository of git, and none
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(CODE)
    git(tmp_path, "init")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-m", "first")
    found = outcomes({"type": kind, "path": str(tmp_path)})
    folders = [
        "tests/bare",
        "venv",
        "tools/our env",
        "target",
        "old/lib/python3.9/site-packages",
        "conda",
    ]
    left_out = {f"{folder}/": "<folder_left_out>" for folder in [*folders, ".tox"]}
    mine = {"env/mine.py": CODE, "build/mine.py": CODE, "pyvenv.cfg": CODE}
    mine |= {"half/HEAD": "<unknown_language>", "half/objects/mine.py": CODE}
    assert found == left_out | mine


def without_rights(monkeypatch, *private: Path) -> None:
    """Let these files and folders be unreadable, as they are not for root."""
    names = {str(path) for path in private}
    originals = {(os, "scandir"): os.scandir, (os, "listdir"): os.listdir}
    originals |= {(Path, "read_bytes"): Path.read_bytes, (Path, "open"): Path.open}

    def guarded(original):
        def call(path=".", *words, **options):
            if str(path) in names:
                raise PermissionError(13, "Permission denied", str(path))
            return original(path, *words, **options)

        return call

    for (owner, name), original in originals.items():
        monkeypatch.setattr(owner, name, guarded(original))
    access = os.access
    monkeypatch.setattr(os, "access", lambda p, mode: str(p) not in names and access(p, mode))


def test_what_may_not_be_read_is_counted_and_the_rest_is_collected(tmp_path, monkeypatch, caplog):
    for name in ("one/a.py", "one/volume/b.py", "one/LICENSE", "one/secret.py", "two/c.py"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(CODE)
    for name in ("one", "two"):
        (tmp_path / name / ".git").mkdir()
    private = ["one/volume", "one/LICENSE", "one/secret.py", "two"]
    without_rights(monkeypatch, *(tmp_path / name for name in private))
    found = outcomes({"type": "folder", "path": str(tmp_path)})
    lost = dict.fromkeys(["volume/", "LICENSE", "secret.py", ""], "<unreadable>")
    assert found == lost | {"a.py": CODE}
    assert "LICENSE cannot be read (Permission denied): its licence is unknown" in caplog.text
    monkeypatch.setattr(os, "access", lambda *words: True)
    with pytest.raises(
        Refusal, match=r"holds nothing that can be read \(unreadable 1 \(such as two\)\)"
    ):
        raw_files({"type": "folder", "path": str(tmp_path / "two")})
    monkeypatch.undo()
    (tmp_path / "nothing").mkdir()
    with pytest.raises(Refusal, match=r"holds nothing that can be read \(it is empty\)"):
        raw_files({"type": "folder", "path": str(tmp_path / "nothing")})


def test_a_disk_that_is_full_is_told_with_the_file_that_was_written(tmp_path):
    words = r"No space left on device: '.*/00000\.parquet'"
    with pytest.raises(OSError, match=words), written_to(tmp_path / "00000.parquet"):
        raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize("number", [errno.ESTALE, errno.EIO])
def test_an_error_that_the_next_file_meets_too_is_no_matter_of_one_file(
    tmp_path, monkeypatch, number
):
    (tmp_path / "a.py").write_text(CODE)
    parsed = parse_sources([f"type=folder,path={tmp_path}"])[0]
    (raw,) = [raw for chunk in list_chunks(parsed) for raw in read_chunk(chunk)]

    def gone(path: Path) -> bytes:
        raise OSError(number, os.strerror(number), str(path))

    monkeypatch.setattr(Path, "read_bytes", gone)
    raw = next(raw for chunk in list_chunks(parsed) for raw in read_chunk(chunk))
    with pytest.raises(Refusal, match=rf"reading .*a\.py failed \({os.strerror(number)}\)"):
        examine(raw, "x", RULES)
