"""Checkpoints that are complete or not there, and the identity that resuming must find again.

A checkpoint is complete only when its manifest is there, written last on rank 0. Holds the choice
of the checkpoint to resume from and the comparison of what a run is made of.
"""

import logging
import re
from pathlib import Path
from typing import Any

from hugcoder.files import MANIFEST, read_manifest, write_json
from hugcoder.refusal import Refusal

logger = logging.getLogger(__name__)

FINAL_MODEL = "model"


def complete(folder: Path, identity: dict[str, Any], step: int) -> None:
    """Write the manifest of a checkpoint or final model whose files are all there."""
    files = {
        str(path.relative_to(folder)): path.stat().st_size
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != MANIFEST
    }
    write_json(folder / MANIFEST, {"step": step, "identity": identity, "files": files})


def is_complete(folder: Path) -> bool:
    """Whether the manifest is there and every file it names has the size it says."""
    manifest = read_manifest(folder)
    return (
        manifest is not None
        and "files" in manifest
        and all(
            (folder / name).is_file() and (folder / name).stat().st_size == size
            for name, size in manifest["files"].items()
        )
    )


def is_finished(run: Path, identity: dict[str, Any], max_steps: int) -> bool:
    """Whether the run has written its final model after `max_steps` steps or more.

    Raises: Refusal when the final model there belongs to another run.
    """
    model = run / FINAL_MODEL
    if not is_complete(model):
        return False
    compare_identity(model, identity)
    return (read_manifest(model) or {})["step"] >= max_steps


def find_resumable(run: Path, given: str | None, identity: dict[str, Any]) -> Path | None:
    """The checkpoint to go on from: the given one, else the last complete one of the run, else
    None.

    Raises: Refusal when the given one is not complete, or the one found was made by another run.
    """
    if given and given.lower() not in ("true", "last"):
        checkpoint: Path | None = Path(given)
        if not is_complete(Path(given)):
            raise Refusal(
                f"resume_from_checkpoint {given} is not a complete checkpoint (no manifest, or "
                "files are missing); give another, or none to take the run's last complete one."
            )
    else:
        checkpoint = last_complete(run)
    if checkpoint is None:
        if given:
            raise Refusal(f"there is no complete checkpoint in {run} to resume from.")
        return None
    compare_identity(checkpoint, identity)
    return checkpoint


def last_complete(run: Path) -> Path | None:
    """The complete checkpoint-N with the highest N; torn ones are named in the log."""
    numbered = []
    for folder in run.glob("checkpoint-*"):
        if match := re.fullmatch(r"checkpoint-(\d+)", folder.name):
            numbered.append((int(match.group(1)), folder))
    for _, folder in sorted(numbered, reverse=True):
        if is_complete(folder):
            return folder
        logger.warning("%s is torn (its manifest or a file is missing) and is not used", folder)
    return None


def compare_identity(folder: Path, identity: dict[str, Any]) -> None:
    """Raises: Refusal naming the first fact that differs between a checkpoint and this run."""
    found = (read_manifest(folder) or {}).get("identity", {})
    for name, value in identity.items():
        if found.get(name) != value:
            raise Refusal(
                f"{folder} belongs to another run: its {name} is {found.get(name)!r}, now it is "
                f"{value!r}. Use the run's own settings, or give another --output_dir."
            )
