"""Holds what a run is made of, in one object for its trainer and its checkpoints."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Material:
    """Holds what a run is made of.

    Args:
        identity: facts that a checkpoint must share with a run that resumes from it.
        tokenizer: folder, copied into every checkpoint and model.
        facts_at: more facts for a manifest after `step` steps, such as tokens and corpora.
        documents_in: repo and path of the documents in rows start to stop of the run, each once;
            none if they are not known.
    """

    identity: dict[str, Any]
    tokenizer: Path
    facts_at: Callable[[int], dict[str, Any]] = lambda step: {}
    documents_in: Callable[[int, int], list[dict[str, str]]] = lambda start, stop: []
