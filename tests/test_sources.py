"""Sources: hostile folders, git, installed Python, tables, the hub's library; and their "
"refusals."""

import errno
import gzip
import json
import os
import subprocess
from pathlib import Path

import pytest

from data_prep import git_process, installed_python, on_disk, tables
from data_prep.collect import Rules, examine, written_to
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
    with pytest.raises(Refusal, match="is no git repository and has none in it; use type=folder"):
        raw_files({"type": "git", "path": str(tmp_path)})
    git(tmp_path, "init")
    words = r"holds nothing that can be read \(repository_without_commit 1 .*commit something"
    with pytest.raises(Refusal, match=words):
        raw_files({"type": "git", "path": str(tmp_path)})
    monkeypatch.setenv("PATH", "")
    with pytest.raises(Refusal, match="git is not installed; install it, or use type=folder"):
        raw_files({"type": "git", "path": str(tmp_path)})


def test_a_repository_that_git_cannot_read_is_counted_among_others(repository, caplog):
    git(repository.parent, "init", "empty")
    broken = repository.parent / "broken" / ".git"
    broken.parent.mkdir()
    broken.write_text("gitdir: /nowhere")
    found = raw_files({"type": "git", "path": str(repository.parent)})
    reasons = {raw.repo: raw.reason for raw in found if not raw.path}
    assert reasons == {"empty": "repository_without_commit", "broken": "unreadable_repository"}
    assert "broken is passed over as unreadable_repository: git says: fatal:" in caplog.text
    assert {raw.path for raw in found if raw.repo == "project"} > {"a.py", "windows.py"}


@pytest.mark.parametrize("name", ["HEAD", "config", "packed-refs", "refs/heads/main"])
@pytest.mark.parametrize("is_linked", [False, True], ids=["folder", "gitdir"])
def test_a_pipe_in_a_repository_stops_nobody(repository, name, is_linked):
    """Symptom: git opened it and waited for ever."""
    other = repository.parent / "other"
    git(repository.parent, "clone", str(repository), str(other))
    (repository / ".git" / "hooks" / "pre-push").symlink_to(os.devnull)  # which does no harm
    (other / ".git" / name).unlink(missing_ok=True)
    os.mkfifo(other / ".git" / name)
    if is_linked:
        (other / ".git").rename(other / "elsewhere")
        (other / ".git").write_text("gitdir: elsewhere\n")
    found = raw_files({"type": "git", "path": str(repository.parent)})
    reasons = {raw.repo: raw.reason for raw in found if not raw.path}
    assert reasons == {"other": "unreadable_repository"}


def test_a_git_folder_itself_is_named_by_its_repository(repository):
    """Symptom: the repository had no name, and the source was called .git."""
    place = f"{repository}/.git"
    assert {raw.repo for raw in raw_files({"type": "git", "path": place})} == {"project"}
    assert parse_sources([f"type=git,path={place}"])[0].name == "project"


def test_a_git_that_may_not_be_run_is_refused(repository, tmp_path, monkeypatch):
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "git").write_text("no program")
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    for mode, words in ((0o644, "Permission denied"), (0o755, "Exec format error")):
        (tmp_path / "bin" / "git").chmod(mode)
        with pytest.raises(Refusal, match=rf"cannot be run \({words}\); install it, or use type=f"):
            raw_files({"type": "git", "path": str(repository)})


def test_no_folder_for_temporary_files_is_told(repository, monkeypatch):
    def none() -> None:
        raise FileNotFoundError(errno.ENOENT, "No usable temporary directory found in ['/tmp']")

    monkeypatch.setattr(git_process.tempfile, "TemporaryFile", none)
    with pytest.raises(
        Refusal, match=r"No usable temporary .*\); make room in /tmp, or set TMPDIR"
    ):
        raw_files({"type": "git", "path": str(repository)})


def test_a_clone_of_another_user_is_read(repository, monkeypatch):
    monkeypatch.setitem(git_process.ENVIRONMENT, "GIT_TEST_ASSUME_DIFFERENT_OWNER", "1")
    environment = os.environ | {"GIT_TEST_ASSUME_DIFFERENT_OWNER": "1"}
    words = ["git", "-C", str(repository), "log"]
    refused = subprocess.run(words, env=environment, capture_output=True, text=True)
    assert "dubious ownership" in refused.stderr
    assert outcomes({"type": "git", "path": str(repository)})["a.py"] == CODE


@pytest.mark.parametrize(
    ("ends", "words"),
    [
        ("kill -9 $$", "git was killed while it read .*, most likely because"),
        (
            "echo fatal: a: Input/output error >&2; exit 128",
            r"\(Input/output error\); see that its",
        ),
    ],
    ids=["killed", "disk"],
)
def test_git_that_is_killed_is_no_matter_of_one_repository(
    repository, tmp_path, monkeypatch, ends, words
):
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "git").write_text(f"#!/bin/sh\n{ends}\n")
    (tmp_path / "bin" / "git").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    with pytest.raises(Refusal, match=words):
        raw_files({"type": "git", "path": str(repository)})


@pytest.mark.parametrize("damage", ["lost", "garbage", "cut"])
@pytest.mark.parametrize("is_late", [False, True], ids=["listed", "read"])
def test_a_file_that_git_has_lost_is_counted_and_those_after_it_are_read(
    repository, damage, is_late
):
    blob = git(repository, "rev-parse", "HEAD:a.py")
    file = repository / ".git" / "objects" / blob[:2] / blob[2:]
    parsed = parse_sources([json.dumps({"type": "git", "path": str(repository)})])[0]
    chunks = list(list_chunks(parsed)) if is_late else []
    content = file.read_bytes()
    file.unlink()
    if damage != "lost":
        file.write_bytes(b"garbage" if damage == "garbage" else content[:-12])
    chunks = chunks or list(list_chunks(parsed))
    found = {raw.path: examine(raw, "s", RULES) for chunk in chunks for raw in read_chunk(chunk)}
    assert found["a.py"][0] in ("missing_object", "damaged_object")
    assert found["windows.py"].content == CODE.replace("\n", "\r\n")


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
def test_what_a_partial_clone_lacks_is_told_and_nothing_is_fetched(
    repository, tmp_path, monkeypatch, way, knows_no_lazy_fetch
):
    """Symptom: it was fetched in silence, with the command that its config names."""
    if not knows_no_lazy_fetch:
        monkeypatch.delitem(git_process.ENVIRONMENT, "GIT_NO_LAZY_FETCH")
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
    with pytest.raises(Refusal, match=r"missing_object 4 .* clone without --filter"):
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


def test_a_damaged_distribution_is_passed_over(tmp_path, monkeypatch, caplog):
    metadata = "Metadata-Version: 2.1\nName: {}\nVersion: 1\n"
    for name in ("good", "torn", "latin", "nothing"):
        (tmp_path / f"{name}-1.dist-info").mkdir()
        if name != "nothing":
            (tmp_path / f"{name}-1.dist-info" / "METADATA").write_text(metadata.format(name))
    (tmp_path / "good-1.dist-info" / "RECORD").write_text("good.py,,\n")
    (tmp_path / "torn-1.dist-info" / "RECORD").write_bytes(b"caf\xe9.py,,\n")
    (tmp_path / "latin-1.dist-info" / "METADATA").write_bytes(b"Name: caf\xe9\n")
    (tmp_path / "good.py").write_text(CODE)
    places = dict.fromkeys(("purelib", "platlib"), str(tmp_path))
    monkeypatch.setattr(installed_python.sysconfig, "get_paths", lambda: places)
    found = outcomes({"type": "python", "stdlib": False})
    assert found == {"good.py": CODE, "RECORD": "<unreadable>"}
    assert caplog.text.count("a distribution without a name is passed over") == 2


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


@pytest.mark.parametrize("kind", ["folder", "git"])
def test_a_repository_whose_name_is_no_utf8_is_counted(repository, kind):
    repository.rename(os.fsdecode(os.fsencode(repository.parent) + b"/caf\xe9"))
    found = outcomes({"type": kind, "path": str(repository.parent)})
    assert found["a.py"] == found["windows.py"] == "<name_not_utf8>"


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
