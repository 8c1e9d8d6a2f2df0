"""Private parts of other libraries are replaced: only in the releases that were read."""

from importlib import metadata

import pytest

from hugcoder.engines import repairs


def test_the_installed_releases_are_those_that_the_repairs_were_read_for():
    """When this fails: read the replaced parts again, as hugcoder/engines/repairs.py says."""
    installed = {name: metadata.version(name) for name in repairs.READ_RELEASES}
    assert installed == repairs.READ_RELEASES


@pytest.mark.parametrize(("rank", "num_words"), [("0", 1), ("1", 0)])
def test_another_release_is_named_once_and_on_rank_0(monkeypatch, caplog, rank, num_words):
    monkeypatch.setenv("RANK", rank)
    monkeypatch.setitem(repairs.READ_RELEASES, "accelerate", "0.1")
    repairs.warn_of_another_release.cache_clear()
    for _ in range(2):
        repairs.warn_of_another_release("accelerate")
    repairs.warn_of_another_release.cache_clear()
    assert [("as they are in 0.1" in message) for message in caplog.messages] == [True] * num_words
