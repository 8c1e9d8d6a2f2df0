"""Repositories of git as sources: what is read, damaged ones, and commands that nobody runs."""

import errno
import json
import os
import subprocess
from pathlib import Path

import pytest
from source_fixtures import CODE, RULES, git, outcomes, raw_files

from data_prep import git_process
from data_prep.collect import examine
from data_prep.document import Document
from data_prep.filters import RuleSettings
from data_prep.sources import list_chunks, parse_sources, read_chunk
from hugcoder.refusal import Refusal


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
    rules = RuleSettings(("python",), 2_000)
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


@pytest.mark.parametrize("kind", ["folder", "git"])
def test_a_repository_whose_name_is_no_utf8_is_counted(repository, kind):
    repository.rename(os.fsdecode(os.fsencode(repository.parent) + b"/caf\xe9"))
    found = outcomes({"type": kind, "path": str(repository.parent)})
    assert found["a.py"] == found["windows.py"] == "<name_not_utf8>"
