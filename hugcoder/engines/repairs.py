"""The releases of other libraries whose private parts are replaced here, and a word about others.

`cpu_engines` and `zero` replace parts of accelerate and DeepSpeed that no public setting reaches,
and were written after reading these releases. When one of them is raised: read those parts again,
drop the repairs without which the tests of the engines (test_engines.py, test_zero.py) now pass,
then write the release here.
"""

import functools
import logging
import os
from importlib import metadata

logger = logging.getLogger(__name__)

READ_RELEASES = {"accelerate": "1.15.0", "deepspeed": "0.19.8"}


@functools.cache
def warn_of_another_release(package: str) -> None:
    """Say once, on rank 0, when the installed release is not the one the repairs were read for."""
    installed, read = metadata.version(package), READ_RELEASES[package]
    if installed != read and os.environ.get("RANK", "0") == "0":
        logger.warning(
            "%s %s is installed, but parts of it are replaced that were read in %s: compare a few "
            "losses with those of one process, or install %s==%s",
            package,
            installed,
            read,
            package,
            read,
        )
