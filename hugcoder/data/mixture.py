"""Turns the names of a mixture into how often an epoch shows each document of a store."""

import difflib

import numpy as np

from hugcoder.data.token_store import TokenStore
from hugcoder.refusal import Refusal


def mixture_repeats(store: TokenStore, mixture: dict[str, float]) -> np.ndarray | None:
    """Compute how often each document is seen in an epoch.

    Args: mixture: name of a language, source or repository -> repeats in an epoch. A name is plain
    or `language/NAME`, `source/NAME` or `repository/NAME`. If several names hold for a document,
    their numbers multiply; a name that is not given counts 1.
    Returns: [documents], or None when each document is seen once.
    Raises: Refusal for a name that the store does not hold, that may mean different documents, or
    that is given twice.
    """
    weights = {name: value for name, value in _full_mixture(store, mixture).items() if value != 1}
    if not weights:
        return None
    repeats = np.ones(len(store.languages))
    for kind, (codes, names) in _kinds(store).items():
        if any(name.startswith(f"{kind}/") for name in weights):
            repeats *= np.array([weights.get(f"{kind}/{name}", 1.0) for name in names])[codes]
    return repeats


def clear_mixture(store: TokenStore, mixture: dict[str, float]) -> dict[str, float]:
    """Shorten every name as far as it stays clear, so two spellings mean the same run."""
    cleared = {}
    for meant, value in _full_mixture(store, mixture).items():
        plain = meant.partition("/")[2]
        cleared[plain if _mixture_names(store, plain) == [meant] else meant] = value
    return cleared


def _full_mixture(store: TokenStore, mixture: dict[str, float]) -> dict[str, float]:
    """Write every name out as `language/NAME`, `source/NAME` or `repository/NAME`."""
    full: dict[str, float] = {}
    for name, value in mixture.items():
        meant = _mixture_name(store, name)
        if meant in full:
            raise Refusal(f"mixture names {meant} twice, once as {name}; give it once.")
        full[meant] = value
    return full


def _kinds(store: TokenStore) -> dict[str, tuple[np.ndarray, list[str]]]:
    """Return what a mixture may name: each document's code, and the names of the codes."""
    return {
        "language": (store.languages, store.language_names),
        "source": (store.sources, store.source_names),
        "repository": (store.repos, store.repo_names),
    }


def _mixture_name(store: TokenStore, name: str) -> str:
    """Find the name, with its kind, that a name of the mixture means."""
    meant = _mixture_names(store, name)
    if len(meant) > 1:
        kinds = " and a ".join(full.partition("/")[0] for full in meant)
        raise Refusal(
            f"mixture names {name}, which is a {kinds} of {store.folder}; give "
            f"{' or '.join(meant)}, as in --mixture {meant[0]}=2."
        )
    if not meant:
        known = sorted({*store.language_names, *store.source_names, *store.repo_names})
        kind, _, plain = name.partition("/")
        asked = plain if kind in _kinds(store) else name
        close = difflib.get_close_matches(asked, known, n=1)
        languages = ", ".join(sorted(store.language_names))
        sources = ", ".join(sorted(store.source_names))
        raise Refusal(
            f"mixture names {name}, but {store.folder} holds the languages {languages} and the "
            f"sources {sources}, and no repository of that name among {len(store.repo_names):,}"
            + (f"; did you mean {close[0]!r}?" if close else ".")
        )
    return meant[0]


def _mixture_names(store: TokenStore, name: str) -> list[str]:
    """List all that a name may mean; a name with its prefix has one meaning.

    A source that is one repository of the same name does not count as a second meaning: both are
    the same documents.
    """
    kinds = _kinds(store)
    full = [f"{kind}/{known}" for kind, (_, names) in kinds.items() for known in names]
    if name in full:
        return [name]
    meant = [one for one in full if one.partition("/")[2] == name]
    if meant[-2:] == [f"source/{name}", f"repository/{name}"]:
        of_source, of_repository = (
            kinds[kind][0] == kinds[kind][1].index(name) for kind in ("source", "repository")
        )
        if (of_source == of_repository).all():
            meant.pop()
    return meant
