"""Which repositories training never sees.

Whole repositories are held out, chosen by hash(seed, name), so that adding one moves few others.
A content that any training repository holds belongs to training: the held-out copy is dropped.
That way no content lies on both sides, training loses nothing, and what is left in held-out is code
that no training repository has. A repository that has nothing of its own (a fork, a vendored copy)
is never chosen, since nothing of it would be left.
"""

import hashlib
import math

import numpy as np

from hugcoder.refusal import Refusal


def num_held_out(num_repositories: int, fraction: float, at_least: int) -> int:
    """How many repositories are held out: the larger of both, but none where `at_least` is 0.

    Raises: Refusal when none would be left to train on.
    """
    if not at_least:
        return 0
    wanted = max(at_least, math.ceil(fraction * num_repositories))
    if wanted >= num_repositories:
        raise Refusal(
            f"{wanted} of the corpus's repositories would be held out (held_out_repositories "
            f"{at_least}, held_out_fraction {fraction}), but only {num_repositories} have usable "
            "files, so none is left to train on; add sources, or give --held_out_repositories 0 to "
            "hold nothing out."
        )
    return wanted


def choose_held_out(names: list[str], is_candidate: np.ndarray, wanted: int, seed: int) -> set[int]:
    """Positions of the repositories that are held out.

    Args: is_candidate: [len(names)] whether the repository has content that no other has.
    Raises: Refusal when there are fewer candidates than wanted.
    """
    candidates = [position for position in range(len(names)) if is_candidate[position]]
    if len(candidates) < wanted:
        raise Refusal(
            f"{wanted} repositories should be held out, but only {len(candidates)} have files that "
            "no other repository has; add sources or give a smaller held_out_repositories."
        )
    candidates.sort(key=lambda position: keyed_hash(seed, names[position].encode()))
    return set(candidates[:wanted])


def keyed_hash(seed: int, value: bytes) -> bytes:
    """16 bytes that depend on nothing but the seed and the value."""
    return hashlib.blake2b(value, digest_size=16, key=b"%d" % seed).digest()
