"""The Python source every user has on disk: the standard library and the installed distributions.

The standard library is the repository "cpython"; each distribution is a repository of its own, and
its version stands for the commit. Nothing is imported or run.
"""

import csv
import importlib.metadata
import logging
import os
import platform
import re
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from data_prep import licenses
from data_prep.layout import BOOKKEEPING, LEFT_OUT
from data_prep.on_disk import FOLDER_LEFT_OUT, Entry, entry_of, in_chunks, walk
from hugcoder.refusal import Refusal

logger = logging.getLogger(__name__)

STANDARD_LIBRARY = "cpython"
MAX_NAME = 60  # characters; a License field that is longer holds the text, not the name


def list_installed(options: dict[str, Any]) -> Iterator[list[list]]:
    """Chunks of the running interpreter's libraries.

    Args: options: distributions (list of names, all when not given), stdlib and stdlib_tests
    (booleans, true when not given).
    Raises: Refusal for a distribution that is not installed.
    """
    found = _installed()
    wanted = options.get("distributions", sorted(found))
    wanted = [wanted] if isinstance(wanted, str) else wanted
    for name in wanted:
        if _normal(name) not in found:
            raise Refusal(
                f"sources: the distribution {name!r} is not installed beside this Python; install "
                "it or leave it out of distributions."
            )
    entries = _list_entries(
        [found[_normal(name)] for name in wanted],
        options.get("stdlib", True),
        options.get("stdlib_tests", True),
    )
    return in_chunks((entry.as_list(), entry.size) for entry in entries)


def _list_entries(
    distributions: list[importlib.metadata.Distribution], has_stdlib: bool, has_tests: bool
) -> Iterator[Entry]:
    if has_stdlib:
        root = Path(sysconfig.get_paths()["stdlib"])
        skipped = [] if has_tests else [root / "test"]
        entries = walk(
            root, STANDARD_LIBRARY, "PSF-2.0", platform.python_version(), skipped=skipped
        )  # which caches there are depends on what was run, so they are not even counted
        yield from (entry for entry in entries if entry.reason != FOLDER_LEFT_OUT)
    listed: set[str] = set()
    for distribution in distributions:
        yield from _list_distribution(distribution, listed)


def _normal(name: str) -> str:
    """A distribution's name in the spelling that package indexes compare."""
    return re.sub(r"[-_.]+", "-", name).lower()


def _installed() -> dict[str, importlib.metadata.Distribution]:
    paths = sysconfig.get_paths()
    folders = list(dict.fromkeys([paths["purelib"], paths["platlib"]]))
    found: dict[str, importlib.metadata.Distribution] = {}
    for distribution in importlib.metadata.distributions(path=folders):
        try:
            name = distribution.metadata["Name"]
        except ValueError:  # no UTF-8
            name = None
        if name:
            found.setdefault(_normal(name), distribution)
        else:  # left behind by an installer that was cut off
            folder = distribution.locate_file("")
            logger.warning("%s: a distribution without a name is passed over", folder)
    return found


def _list_distribution(
    distribution: importlib.metadata.Distribution, listed: set[str]
) -> Iterator[Entry]:
    """Files that lie in the library folder; each belongs to the first distribution that has it."""
    repo, license = _normal(distribution.metadata["Name"]), _license(distribution)
    version = distribution.version or ""
    try:
        files = sorted(str(file) for file in distribution.files or [])
    except (OSError, ValueError, csv.Error):  # a damaged RECORD
        yield Entry(repo, "RECORD", "", 0, 0, license, version, "unreadable")
        return
    for path in files:
        parts = path.split("/")
        file = str(distribution.locate_file(path))
        if parts[0] == ".." or (BOOKKEEPING | LEFT_OUT).intersection(parts) or file in listed:
            continue
        if os.path.lexists(file):  # a RECORD may name files that were removed since
            listed.add(file)
            yield entry_of(file, path, repo, license, version)


def _license(distribution: importlib.metadata.Distribution) -> str:
    """SPDX expression if the metadata has one, else a guess from its other fields."""
    metadata = distribution.metadata
    if metadata["License-Expression"]:
        return metadata["License-Expression"]
    classifiers = [
        line.rsplit(" :: ", 1)[-1]
        for line in metadata.get_all("Classifier") or []
        if line.startswith("License ::")
    ]
    field = metadata["License"] or ""
    names = [field] if field and len(field) <= MAX_NAME else []
    for text in [*names, *classifiers, field]:
        if (found := licenses.guess(text)) != licenses.UNKNOWN:
            return found
    return licenses.UNKNOWN
