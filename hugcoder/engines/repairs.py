"""Names the releases of accelerate and DeepSpeed that we repair, and warns of other releases.

`cpu_engines` and `zero` replace parts of them that no public setting reaches, and were written
after reading these releases. To move to a newer release: read those parts again, drop the repairs
that test_engines.py and test_zero.py no longer need, then write the release here.
"""

import functools
import logging
import os
from importlib import metadata

logger = logging.getLogger(__name__)

READ_RELEASES = {"accelerate": "1.15.0", "deepspeed": "0.19.8"}


@functools.cache
def warn_of_another_release(package: str) -> None:
    """Warn once, on rank 0, when the installed release is not the one that was read."""
    installed, read = metadata.version(package), READ_RELEASES[package]
    if installed != read and os.environ.get("RANK", "0") == "0":
        logger.warning(
            "%s %s is installed, but HugCoder replaces parts of it as they are in %s: compare a "
            "few losses with those of one process, or install %s==%s",
            package,
            installed,
            read,
            package,
            read,
        )
