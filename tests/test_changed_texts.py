"""A rule that changes texts: what rows, counts, deduplication and random choices make of it."""

import hashlib
from pathlib import Path

import pytest
from test_data_prep import code, files_of

from data_prep import collect
from data_prep.arguments import CorpusArguments
from data_prep.document import Document
from data_prep.filters import RuleSettings, apply_rules, rules_of
from data_prep.pipeline import build_corpus
from hugcoder.data.corpus import HELD_OUT, TRAIN, read_corpus

KEY, REMOVED = "key = 'f3a9c05d71'\n", "key = None\n"


def without_key(document: Document) -> Document:
    return document.with_content(document.content.replace(KEY, REMOVED))


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """Four repositories of three files, each with a key in one of them; and `same.py`, which the
    key alone tells from that of another repository.
    """
    for repo in ("a", "b", "c", "d"):
        folder = tmp_path / "code" / repo
        (folder / ".git").mkdir(parents=True)
        for number in range(3):
            text = code(f"{repo}_{number}")
            (folder / f"{number}.py").write_text(text + KEY if number == 1 else text)
    (tmp_path / "code" / "a" / "same.py").write_text(code("same") + KEY)
    (tmp_path / "code" / "b" / "same.py").write_text(code("same") + REMOVED)
    return tmp_path / "code"


def build(tree: Path, output: Path, **settings) -> tuple[dict, list[dict], list[dict]]:
    """The manifest, and the rows of both splits."""
    source = f"type=folder,path={tree}"
    settings = {"num_workers": 1, "held_out": ["a"]} | settings
    manifest = build_corpus(CorpusArguments([source], str(output), **settings))
    return manifest, *(list(read_corpus(output, split)) for split in (TRAIN, HELD_OUT))


@pytest.fixture
def changing(monkeypatch) -> None:
    monkeypatch.setattr(collect, "rules_of", lambda settings: (*rules_of(settings), without_key))


def git_name(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


def test_a_changed_text_keeps_the_name_of_the_bytes_that_were_read():
    text = code("one") + KEY
    document = Document("source", "repo", "a.py", "python", "unknown", "", text.encode())
    rules = rules_of(RuleSettings((), 1_000_000))
    changed = apply_rules(document, [*rules, without_key, *rules])
    assert changed.content == code("one") + REMOVED
    assert changed.lines[-1] == REMOVED.strip()
    assert changed.blob_sha == document.blob_sha == git_name(text.encode())
    assert without_key(changed) is changed


def test_later_rules_see_the_changed_text():
    document = Document("source", "repo", "a.py", "python", "unknown", "", KEY.encode())
    rules = rules_of(RuleSettings((), 1_000_000))
    assert apply_rules(document, [lambda file: file.with_content(""), *rules]) == "empty"
    assert apply_rules(document, rules) == document


def test_rows_hold_the_changed_text_and_the_counts_still_add_up(tree, tmp_path, changing):
    manifest, train, held_out = build(tree, tmp_path / "out")
    for row in train + held_out:
        data = (tree / row["repo"] / row["path"]).read_bytes()
        assert row["blob_sha"] == git_name(data)
        assert row["content"] == data.decode().replace(KEY, REMOVED)
        assert row["size"] == len(row["content"])
    counts = manifest["counts"]
    taken = len(KEY) - len(REMOVED)
    assert counts["changed"] == {"files": 5, "bytes": 5 * taken}
    assert counts["read"]["bytes"] == sum(file.stat().st_size for file in tree.rglob("*.py"))
    assert counts["kept"]["bytes"] == sum(row["size"] for row in train + held_out)
    dropped = sum(drops["bytes"] for drops in counts["dropped"].values())
    assert counts["read"]["bytes"] == counts["kept"]["bytes"] + dropped + 5 * taken


def test_texts_that_become_equal_never_lie_on_both_sides(tree, tmp_path, changing):
    manifest, train, held_out = build(tree, tmp_path / "out")
    assert manifest["counts"]["dropped"]["held_out_but_also_in_train"]["samples"] == ["a/same.py"]
    assert not {row["content"] for row in train} & {row["content"] for row in held_out}
    manifest, train, _ = build(tree, tmp_path / "one_side", held_out=["d"])
    assert manifest["counts"]["dropped"]["duplicate"]["samples"] == ["b/same.py"]
    assert sum("same" in row["content"] for row in train) == 1


def test_max_bytes_takes_the_same_files_whether_texts_are_changed_or_not(
    tree, tmp_path, monkeypatch
):
    (tree / "b" / "same.py").unlink()
    names, limit = [], 4_000
    for rule in (lambda file: None, lambda file: file.with_content(file.content.swapcase())):
        with monkeypatch.context() as changing:
            changing.setattr(collect, "rules_of", lambda settings, rule=rule: (rule,))
            output = tmp_path / str(len(names))
            _, train, held_out = build(
                tree, output, max_bytes=limit, held_out=[], held_out_repositories=0
            )
        names.append({row["blob_sha"] for row in train + held_out})
    assert names[0] == names[1]
    assert 0 < len(names[0]) < 13


def test_a_rule_that_changes_nothing_leaves_the_corpus_as_it_is(tree, tmp_path, monkeypatch):
    usual, *_ = build(tree, tmp_path / "usual")

    def idle(document: Document) -> Document:
        return document.with_content(document.content)

    monkeypatch.setattr(collect, "rules_of", lambda settings: (*rules_of(settings), idle))
    manifest, *_ = build(tree, tmp_path / "out")
    assert manifest["counts"] == usual["counts"]
    assert "changed" not in manifest["counts"]
    assert files_of(tmp_path / "out") == files_of(tmp_path / "usual")
