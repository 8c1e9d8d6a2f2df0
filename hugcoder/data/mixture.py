"""How often an epoch shows each document: the mixture's names and what they mean in a store."""

import difflib

import numpy as np

from hugcoder.data.token_store import TokenStore
from hugcoder.refusal import Refusal


def mixture_repeats(store: TokenStore, mixture: dict[str, float]) -> np.ndarray | None:
    """How often each document is seen in an epoch.

    Args: mixture: name of a language, source or repository -> repeats an epoch, plain or as
    `language/NAME`, `source/NAME` and `repository/NAME`; what is said of a document multiplies;
    names left out count 1.
    Returns: [documents] or None when nothing differs from once each.
    Raises: Refusal for a name the store does not hold, that may mean different documents, or is
    given for twice.
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
    """The mixture with every name as short as it is clear, so that a spelling is no other run."""
    cleared = {}
    for meant, value in _full_mixture(store, mixture).items():
        plain = meant.partition("/")[2]
        cleared[plain if _mixture_names(store, plain) == [meant] else meant] = value
    return cleared


def _full_mixture(store: TokenStore, mixture: dict[str, float]) -> dict[str, float]:
    """The mixture with every name as `language/NAME`, `source/NAME` or `repository/NAME`."""
    full: dict[str, float] = {}
    for name, value in mixture.items():
        meant = _mixture_name(store, name)
        if meant in full:
            raise Refusal(f"mixture names {meant} twice, once as {name}; give it once.")
        full[meant] = value
    return full


def _kinds(store: TokenStore) -> dict[str, tuple[np.ndarray, list[str]]]:
    """What a mixture may name: the code of each document, and the names of the codes."""
    return {
        "language": (store.languages, store.language_names),
        "source": (store.sources, store.source_names),
        "repository": (store.repos, store.repo_names),
    }


def _mixture_name(store: TokenStore, name: str) -> str:
    """The name with its kind that a name of the mixture means."""
    meant = _mixture_names(store, name)
    if len(meant) > 1:
        kinds = " and a ".join(full.partition("/")[0] for full in meant)
        raise Refusal(
            f"mixture names {name}, which is a {kinds} of {store.folder}; say "
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
    """All that a name may mean; one with its prefix means that alone.

    A source that is one repository of the same name is no second meaning, but the same documents.
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
