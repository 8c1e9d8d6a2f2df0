"""What training never sees.

Whole repositories are held out (or folders, or files: `held_out_by`), named by the user or chosen
by hash(seed, name), so that adding one moves few others. The choice has every language that two of
them share, as long as training keeps that language too; in a corpus of one language, the hash
decides alone. A content that any training repository holds belongs to training: the held-out copy
is dropped. That way no content lies on both sides, training loses nothing, and what is left in
held-out is code that no training repository has. A repository that has nothing of its own (a fork,
a vendored copy) is never chosen, since nothing of it would be left.
"""

import difflib
import hashlib
import math
from collections.abc import Iterable, Sequence

import numpy as np

from hugcoder.data.corpus import FILE, FOLDER, REPOSITORY, plural_of
from hugcoder.refusal import Refusal

MIN_LANGUAGE_SHARE = 0.01  # of the bytes; no repository is held out for the sake of a rarer one
MAX_ORDERS = 20  # in which candidates are tried until one brings every language
NAMES_SHOWN = 20
FINER = {  # how to hold out less than a whole one, as a part of a refusal
    REPOSITORY: "give --held_out_by folder (or file) to hold out parts of a repository, ",
    FOLDER: "give --held_out_by file to hold out single files, ",
    FILE: "",
}


def num_held_out(num_units: int, fraction: float, at_least: int, by: str = REPOSITORY) -> int:
    """How many are held out: a fraction or `at_least`, whichever is more; none where that is 0.

    Raises: Refusal when none would be left to train on.
    """
    if not at_least:
        return 0
    wanted = max(at_least, math.ceil(fraction * num_units))
    if wanted >= num_units:
        raise Refusal(
            f"{wanted} of the corpus's {plural_of(by)} would be held out (held_out_repositories "
            f"{at_least}, held_out_fraction {fraction}), and it has {num_units} with usable "
            f"files, so none is left to train on; add sources, {FINER[by]}or give "
            "--held_out_repositories 0 to hold nothing out."
        )
    return wanted


def choose_held_out(
    names: Sequence[str],
    is_candidate: np.ndarray,
    wanted: int,
    seed: int,
    has: np.ndarray | None = None,
    owns: np.ndarray | None = None,
    by: str = REPOSITORY,
) -> set[int]:
    """Positions of the repositories, folders or files that are held out.

    Args: is_candidate: [len(names)] whether it has content that no other has. has, owns:
    [len(names), languages] whether it has files of a language, and some that no other has.
    Returns: `wanted` of them, or more where the languages need more.
    Raises: Refusal when there are fewer candidates than wanted.
    """
    candidates = np.flatnonzero(is_candidate).tolist()
    if len(candidates) < wanted:
        raise Refusal(
            f"{wanted} {plural_of(by)} should be held out, but only {len(candidates)} have files "
            f"that no other {by} has; add sources, {FINER[by]}or give a smaller "
            "held_out_repositories."
        )
    candidates.sort(key=lambda position: keyed_hash(seed, names[position].encode()))
    if not wanted or has is None or has.shape[1] < 2:
        return set(candidates[:wanted])
    owns = owns & (has.sum(axis=0) > 1)  # what only one has cannot be held out and trained on
    orders = (candidates[n:] + candidates[:n] for n in range(min(len(candidates), MAX_ORDERS)))
    chosen: set[int] = set()
    for order in orders:  # the first that brings most languages; nearly always the very first
        found = _of_every_language(order, wanted, has, owns)
        if owns[sorted(found)].any(axis=0).sum() > owns[sorted(chosen)].any(axis=0).sum():
            chosen = found
        if (owns[sorted(chosen)].any(axis=0) == owns.any(axis=0)).all():
            break
    rest = [position for position in candidates if position not in chosen]
    left = has.sum(axis=0) - has[sorted(chosen)].sum(axis=0)  # holders that training keeps
    for is_spared in (True, False):  # those whose language training would lose come last
        for position in rest:
            if len(chosen) >= wanted:
                break
            if position not in chosen and (not is_spared or not (has[position] & (left < 2)).any()):
                chosen.add(position)
                left = left - has[position]
    return chosen


def _of_every_language(
    candidates: list[int], wanted: int, has: np.ndarray, owns: np.ndarray
) -> set[int]:
    """The first candidates that bring a new language and leave every language to training too."""
    open_languages = owns.any(axis=0)
    left = has.sum(axis=0)
    chosen: list[int] = []
    for position in candidates:
        brings = owns[position] & open_languages
        if brings.any() and not (has[position] & (left < 2)).any():
            chosen.append(position)
            open_languages &= ~owns[position]
            left = left - has[position]
        if not open_languages.any():
            break
    for position in chosen[:]:  # an early one is of no use when later ones bring all that it has
        others = [other for other in chosen if other != position]
        if len(chosen) > wanted and (owns[others].any(axis=0) >= owns[chosen].any(axis=0)).all():
            chosen.remove(position)
    return set(chosen)


def named_held_out(given: list[str], names: Sequence[str], by: str) -> dict[str, set[int]]:
    """Positions that each given name means: itself and, by folder or file, all that lie below it.

    Raises: Refusal for a name that the corpus does not hold, or when nothing is left to train on.
    """
    meant = {name: _meant_by(name, names, by) for name in given}
    for name, positions in meant.items():
        if not positions:
            raise Refusal(
                f"held_out names {name!r}, which is no {by} of the corpus with usable files; "
                f"{nearest(name, names)}"
            )
    if len(set().union(*meant.values())) == len(names):
        raise Refusal(
            f"held_out names all {len(names)} {plural_of(by)} of the corpus, so none is left to "
            f"train on; {FINER[by]}or name fewer."
        )
    return meant


def _meant_by(name: str, names: Sequence[str], by: str) -> set[int]:
    below = name.rstrip("/") + "/"
    return {
        position
        for position, known in enumerate(names)
        if known in (name, below[:-1]) or (by != REPOSITORY and known.startswith(below))
    }


def nearest(name: str, names: Iterable[str]) -> str:
    """`did you mean 'x'?`, or the first few names there are."""
    names = sorted(names)
    folded = {known.lower(): known for known in names}
    if close := difflib.get_close_matches(name.lower(), folded, n=1):
        return f"did you mean {folded[close[0]]!r}?"
    more = f" and {len(names) - NAMES_SHOWN:,} more" if len(names) > NAMES_SHOWN else ""
    return f"it holds {', '.join(names[:NAMES_SHOWN])}{more}."


def keyed_hash(seed: int, value: bytes) -> bytes:
    """16 bytes that depend on nothing but the seed and the value."""
    return hashlib.blake2b(value, digest_size=16, key=b"%d" % seed).digest()
