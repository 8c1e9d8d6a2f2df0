"""What a run is made of, in the one object that its trainer and its checkpoints are given."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Material:
    """Args:
    identity: facts that a checkpoint must share with a run that resumes from it.
    tokenizer: folder, copied into every checkpoint and model.
    facts_at: what a manifest says besides when `step` steps are made, as tokens and corpora.
    documents_in: repo and path of the documents in rows start to stop of the run, each once;
        none where nobody knows.
    """

    identity: dict[str, Any]
    tokenizer: Path
    facts_at: Callable[[int], dict[str, Any]] = lambda step: {}
    documents_in: Callable[[int, int], list[dict[str, str]]] = lambda start, stop: []
