"""The Python source every user has on disk: the standard library and the installed distributions.

The standard library is the repository "cpython"; each distribution is a repository of its own, and
its version stands for the commit. Nothing is imported or run.
"""

import importlib.metadata
import os
import platform
import re
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from data_prep import licenses
from data_prep.on_disk import SKIPPED_FOLDERS, Entry, entry_of, in_chunks, walk
from hugcoder.refusal import Refusal

STANDARD_LIBRARY = "cpython"
NOT_STANDARD = {"site-packages", "dist-packages"}
MAX_NAME = 60  # characters; a License field that is longer holds the text, not the name


def list_installed(options: dict[str, Any]) -> Iterator[list[list]]:
    """Chunks of the running interpreter's libraries.

    Args: options: distributions (list of names, all when not given), stdlib and stdlib_tests
    (booleans, true when not given).
    Raises: Refusal for a distribution that is not installed.
    """
    found = _installed()
    wanted = options.get("distributions", sorted(found))
    if isinstance(wanted, str):
        wanted = [wanted]
    for name in wanted:
        if _normal(name) not in found:
            raise Refusal(
                f"sources: the distribution {name!r} is not installed beside this Python; install "
                "it or leave it out of distributions."
            )
    has_stdlib = _flag(options, "stdlib", True)
    return in_chunks(
        (entry.as_list(), entry.size)
        for entry in _list_entries(
            [found[_normal(name)] for name in wanted],
            has_stdlib,
            _flag(options, "stdlib_tests", True),
        )
    )


def _flag(options: dict[str, Any], name: str, default: bool) -> bool:
    value = options.get(name, default)
    if str(value).lower() not in ("true", "false"):
        raise Refusal(f"sources: {name} is {value!r}; give true or false.")
    return str(value).lower() == "true"


def _list_entries(
    distributions: list[importlib.metadata.Distribution], has_stdlib: bool, has_tests: bool
) -> Iterator[Entry]:
    if has_stdlib:
        root = Path(sysconfig.get_paths()["stdlib"])
        skipped = SKIPPED_FOLDERS | NOT_STANDARD | (set() if has_tests else {"test"})
        yield from walk(
            root, STANDARD_LIBRARY, "PSF-2.0", platform.python_version(), top_skipped=skipped
        )
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
        found.setdefault(_normal(distribution.metadata["Name"]), distribution)
    return found


def _list_distribution(
    distribution: importlib.metadata.Distribution, listed: set[str]
) -> Iterator[Entry]:
    """Files that lie in the library folder; each belongs to the first distribution that has it."""
    repo, license = _normal(distribution.metadata["Name"]), _license(distribution)
    for path in sorted(str(file) for file in distribution.files or []):
        parts = path.split("/")
        file = str(distribution.locate_file(path))
        if parts[0] == ".." or SKIPPED_FOLDERS.intersection(parts) or file in listed:
            continue
        if os.path.lexists(file):  # a RECORD may name files that were removed since
            listed.add(file)
            yield entry_of(file, path, repo, license, distribution.version)


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
