"""Exact deduplication by git blob name (SHA-1) of the texts, over training and held-out together.

Holds no near-duplicate search. Of identical files the first in listing order stays, but a
training repository's copy goes before a held-out one's (data_prep.split says why).
"""

import numpy as np


def group_contents(blob: np.ndarray) -> np.ndarray:
    """[N] number of each file's content: equal for equal blobs.

    Args: blob: [N] of 20 raw bytes each.
    """
    # as big-endian words, because numpy sorts no void type; 160 bits in three keys
    words = np.ascontiguousarray(blob).view(np.uint8).reshape(-1, 20)
    keys = [words[:, start : start + 8].copy() for start in (0, 8)]
    columns = [key.view(np.uint64).ravel() for key in keys]
    columns.append(words[:, 16:].copy().view(np.uint32).ravel().astype(np.uint64))
    order = np.lexsort(columns)
    is_new = np.zeros(len(blob), dtype=bool)
    for column in columns:
        ordered = column[order]
        is_new[1:] |= ordered[1:] != ordered[:-1]
    content = np.empty(len(blob), dtype=np.int64)
    content[order] = np.cumsum(is_new)
    return content


def owns_content(content: np.ndarray, repo: np.ndarray, num_repositories: int) -> np.ndarray:
    """[num_repositories] whether a repository has content that no other has.

    Args: content, repo: [N] numbers of each file's content and repository.
    """
    pairs = np.unique(np.stack([content, repo.astype(np.int64)], axis=1), axis=0)
    _, first, holders = np.unique(pairs[:, 0], return_index=True, return_counts=True)
    owns = np.zeros(num_repositories, dtype=bool)
    owns[pairs[first[holders == 1], 1]] = True
    return owns


def winners(content: np.ndarray, is_held_out: np.ndarray) -> np.ndarray:
    """[N] whether a file is the copy of its content that stays.

    Args: content: [N] numbers; is_held_out: [N] whether the file's repository is held out.
    """
    order = np.lexsort((np.arange(len(content)), is_held_out, content))
    is_first = np.ones(len(content), dtype=bool)
    is_first[1:] = content[order][1:] != content[order][:-1]
    stays = np.zeros(len(content), dtype=bool)
    stays[order[is_first]] = True
    return stays
