"""Chooses the checkpoint that a run resumes from, and sets aside or deletes others.

A checkpoint that is not complete gets another name; it is never deleted and never used.
`hugcoder.model.manifest` tells whether one is complete, `hugcoder.run.checkpoint_saving` writes
them, and `hugcoder.run.identity` compares identities. Loads no torch.
"""

from __future__ import annotations

import logging
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from hugcoder.engines.collectives import on_rank_0
from hugcoder.files import MANIFEST
from hugcoder.model.manifest import (
    MODEL,
    checkpoints_in,
    damage,
    is_complete,
    is_numbered,
    manifest_of,
    step_of,
)
from hugcoder.refusal import Refusal

if TYPE_CHECKING:
    from hugcoder.run.identity import Identity

logger = logging.getLogger(__name__)

FINAL_MODEL = "model"
OLD = "deleting-"  # begins the name of a folder that is being deleted
TORN, LEFT = "torn-", "left-"
BRANCH = "resumed_from.txt"  # in the run folder; names the checkpoint the run was sent back to


# ---- choosing ------------------------------------------------------------------------------------


def is_finished(run: Path, identity: Identity, max_steps: int, given: str | None = None) -> bool:
    """Tell on all ranks whether the run has written its final model after `max_steps` steps.

    Args: given: the checkpoint that a flag names; a run that is sent back to it is not finished
    before it has resumed from there.
    Raises: Refusal when the final model belongs to another run.
    """
    model = run / FINAL_MODEL

    def has_finished() -> bool:
        if not is_complete(model) or (is_named(given) and not _has_gone_back(run, Path(given))):
            return False
        compare_identity(model, identity)
        is_done = manifest_of(model)["step"] >= max_steps and not damage(model)
        if is_done and is_named(given):
            again = run / BRANCH
            logger.info("the run has resumed from %s; delete %s to go back again", given, again)
        return is_done

    return on_rank_0(has_finished)


def find_resumable(run: Path, given: str | None, identity: Identity) -> Path | None:
    """Find the checkpoint to resume from: the given one, else the run's last whole one, else None.

    Runs on all ranks; rank 0 reads the files, sets torn checkpoints aside and decides for all.
    Raises: Refusal when the given one is damaged, or another run made the checkpoint.
    """
    return on_rank_0(lambda: _choose(run, given, identity))


def check_length(checkpoint: Path | None, max_steps: int) -> None:
    """Check that the run does not end before the checkpoint. Raises: Refusal when it does."""
    if checkpoint is not None and (step := manifest_of(checkpoint)["step"]) > max_steps:
        raise Refusal(
            f"max_steps {max_steps} lies before {checkpoint}, at step {step}; give {step} or more, "
            "or go back by --resume_from_checkpoint to an earlier checkpoint."
        )


def is_named(given: str | None) -> bool:
    """Tell whether the flag names a checkpoint, and does not just ask for the last one."""
    return bool(given) and given.lower() not in ("true", "last")


def _choose(run: Path, given: str | None, identity: Identity) -> Path | None:
    if is_named(given):
        return _choose_named(run, Path(given), identity)
    checkpoint = _last_whole(run)
    if checkpoint is None:
        if given:
            raise Refusal(f"there is no complete checkpoint in {run} to resume from.")
        return None
    compare_identity(checkpoint, identity)
    (run / BRANCH).unlink(missing_ok=True)
    return checkpoint


def _choose_named(run: Path, given: Path, identity: Identity) -> Path:
    """Return the given checkpoint, or the latest one after it: a run is sent back only once.

    Otherwise every restart with the flag would begin at the given checkpoint again.
    """
    if (latest := _latest_after(run, given)) is not None:
        compare_identity(latest, identity)
        logger.warning(
            "the run was sent back to %s before, so it now resumes from %s; delete %s to go back "
            "once more",
            given,
            latest,
            run / BRANCH,
        )
        return latest
    if reason := damage(given):
        raise Refusal(
            f"resume_from_checkpoint {given} is not a complete checkpoint ({reason}); give "
            "another, or leave it out to take the run's last complete one."
        )
    if manifest_of(given).get("kind") == MODEL:
        raise Refusal(
            f"resume_from_checkpoint {given} is a model without the state of its training; "
            f"begin a new run from its weights with --model_name_or_path {given}."
        )
    compare_identity(given, identity)
    if not _has_gone_back(run, given):
        _go_back(run, given)
    return given


def _latest_after(run: Path, given: Path) -> Path | None:
    """Find the last whole checkpoint after the given one, if the run was sent back to it before.

    The given checkpoint itself, as the oldest, may already be deleted.
    """
    if not _has_gone_back(run, given):
        return None
    step = step_of(given) if is_numbered(given.name) else manifest_of(given)["step"]
    latest = _last_whole(run)
    return latest if latest is not None and step_of(latest) > step else None


def _has_gone_back(run: Path, given: Path) -> bool:
    """Tell whether the run was sent back to this checkpoint before, however its path is written."""
    marker = run / BRANCH
    if not marker.is_file():
        return False
    written = marker.read_text(encoding="utf-8")
    return given.resolve() in {Path(written).resolve(), (run / written).resolve()}


def _go_back(run: Path, given: Path) -> None:
    """Set aside what came after the given checkpoint: later checkpoints and the final model.

    Otherwise the next start without the flag would resume from them, or find the run finished.
    """
    step = manifest_of(given)["step"]
    later = [folder for folder in checkpoints_in(run) if step_of(folder) > step]
    for folder in [*later, run / FINAL_MODEL]:
        if folder.is_dir():
            kept = _set_aside(folder, LEFT)
            logger.warning(
                "%s is set aside to resume from %s; kept as %s", folder, given, kept.name
            )
    run.mkdir(parents=True, exist_ok=True)
    place, home = given.resolve(), run.resolve()  # the next start may have another working folder
    inside = place.is_relative_to(home)
    written = place.relative_to(home) if inside else place
    (run / BRANCH).write_text(str(written), encoding="utf-8")


def _last_whole(run: Path) -> Path | None:
    """Find the whole checkpoint with the highest step; set aside torn ones after it."""
    for folder in reversed(checkpoints_in(run)):
        reason = damage(folder)
        if not reason:
            return folder
        kept = _set_aside(folder, TORN)
        logger.warning("%s is torn: %s. It is not used; kept as %s", folder, reason, kept.name)
    return None


def compare_identity(folder: Path, identity: Identity) -> None:
    """Compare facts. Raises: Refusal naming the first fact that differs and must not."""
    identity.compare(manifest_of(folder).get("identity", {}), folder)


# ---- setting aside and deleting ------------------------------------------------------------------


def _set_aside(folder: Path, why: str) -> Path:
    """Rename a folder to torn-... or left-..., with a number if that name is taken."""
    target, number = folder.with_name(why + folder.name), 1
    while target.exists():
        number += 1
        target = folder.with_name(f"{why}{folder.name}-{number}")
    return folder.rename(target)


def make_empty_folder(folder: Path) -> None:
    """Make an empty folder for a new checkpoint; rank 0 does it for all.

    An old folder there was written before the run was sent back to an earlier checkpoint. It is
    deleted when the new one is complete.
    """
    if folder.exists():
        _take_away(folder)
    folder.mkdir(parents=True)


def rotate(run: Path, limit: int | None, last: Path) -> None:
    """Delete the oldest complete checkpoints up to `last` so that `limit` remain.

    A folder is renamed before it is deleted, so a half-deleted one does not look like a checkpoint.
    Folders without a manifest and those of later steps are kept.
    """
    for folder in run.glob(f"{OLD}checkpoint-*"):
        _delete(folder)
    if limit is None or limit < 1:
        return
    until = [folder for folder in checkpoints_in(run) if step_of(folder) <= step_of(last)]
    for folder in [folder for folder in until if (folder / MANIFEST).is_file()][:-limit]:
        _delete(_take_away(folder))


def _take_away(folder: Path) -> Path:
    target = folder.with_name(OLD + folder.name)
    if target.exists():
        _delete(target)
    return folder.rename(target)


def _delete(folder: Path) -> None:
    try:
        shutil.rmtree(folder)
    except OSError as error:  # not worth ending the run; the next rotation tries again
        logger.warning("%s could not be deleted (%s)", folder, error)
