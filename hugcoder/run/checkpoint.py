"""The checkpoints of a run: which one it goes on from, and which are set aside or deleted.

One that is not complete is kept aside under another name, never deleted and never used. What makes
one complete is `hugcoder.model.manifest`'s concern; what is in the files,
`hugcoder.run.checkpoint_saving`'s; how identities compare, `hugcoder.run.identity`'s. Loads no
torch.
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
OLD = "deleting-"  # first part of the name of a folder that is being deleted
TORN, LEFT = "torn-", "left-"
BRANCH = "resumed_from.txt"  # in the run folder: the checkpoint that a flag sent the run back to


# ---- choosing ------------------------------------------------------------------------------------


def is_finished(run: Path, identity: Identity, max_steps: int, given: str | None = None) -> bool:
    """Whether the run has written its final model after `max_steps` steps or more; on all ranks.

    Args: given: the checkpoint that a flag names; a run that is sent back to it is not finished
    before it has gone on from there.
    Raises: Refusal when the final model there belongs to another run.
    """
    model = run / FINAL_MODEL

    def has_finished() -> bool:
        if not is_complete(model) or (is_named(given) and not _has_gone_back(run, Path(given))):
            return False
        compare_identity(model, identity)
        is_done = manifest_of(model)["step"] >= max_steps and not damage(model)
        if is_done and is_named(given):
            again = run / BRANCH
            logger.info("the run has gone on from %s; delete %s to go back again", given, again)
        return is_done

    return on_rank_0(has_finished)


def find_resumable(run: Path, given: str | None, identity: Identity) -> Path | None:
    """The checkpoint to go on from: the given one, else the last whole one of the run, else None.

    Runs on all ranks; rank 0 reads the files, sets torn ones aside and decides for all.
    Raises: Refusal when the given one is damaged, or the one found was made by another run.
    """
    return on_rank_0(lambda: _choose(run, given, identity))


def check_length(checkpoint: Path | None, max_steps: int) -> None:
    """Raises: Refusal when a checkpoint lies behind the end of the run, whose schedule it left."""
    if checkpoint is not None and (step := manifest_of(checkpoint)["step"]) > max_steps:
        raise Refusal(
            f"max_steps {max_steps} lies before {checkpoint}, at step {step}; give {step} or more, "
            "or go back by --resume_from_checkpoint to an earlier checkpoint."
        )


def is_named(given: str | None) -> bool:
    """Whether the flag names a checkpoint, not just the last one."""
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
    """The given checkpoint, or the last one that came of it: a run is sent back only once.

    Otherwise every restart with the flag would begin at the given one again.
    """
    if (latest := _gone_on(run, given)) is not None:
        compare_identity(latest, identity)
        logger.warning(
            "the run has gone on from %s before, and goes on from %s now; delete %s to go back "
            "once more",
            given,
            latest,
            run / BRANCH,
        )
        return latest
    if reason := damage(given):
        raise Refusal(
            f"resume_from_checkpoint {given} is not a complete checkpoint ({reason}); give "
            "another, or none to take the run's last complete one."
        )
    if manifest_of(given).get("kind") == MODEL:
        raise Refusal(
            f"resume_from_checkpoint {given} is a model without the state of its training; "
            f"begin anew from its weights by --model_name_or_path {given}."
        )
    compare_identity(given, identity)
    if not _has_gone_back(run, given):
        _go_back(run, given)
    return given


def _gone_on(run: Path, given: Path) -> Path | None:
    """The last whole checkpoint behind the given one, where the run was sent back to that before.

    The given one itself may be deleted by then, as the oldest.
    """
    if not _has_gone_back(run, given):
        return None
    step = step_of(given) if is_numbered(given.name) else manifest_of(given)["step"]
    latest = _last_whole(run)
    return latest if latest is not None and step_of(latest) > step else None


def _has_gone_back(run: Path, given: Path) -> bool:
    """Whether the run was sent back to this checkpoint before, however its path was written."""
    marker = run / BRANCH
    if not marker.is_file():
        return False
    written = marker.read_text(encoding="utf-8")
    return given.resolve() in {Path(written).resolve(), (run / written).resolve()}


def _go_back(run: Path, given: Path) -> None:
    """Leave what came after the given checkpoint: the later ones and the final model.

    With them there, the next start without the flag would go on with what was left, or find the run
    finished.
    """
    step = manifest_of(given)["step"]
    later = [folder for folder in checkpoints_in(run) if step_of(folder) > step]
    for folder in [*later, run / FINAL_MODEL]:
        if folder.is_dir():
            kept = _set_aside(folder, LEFT)
            logger.warning("%s is left for %s; kept as %s", folder, given, kept.name)
    run.mkdir(parents=True, exist_ok=True)
    place, home = given.resolve(), run.resolve()  # the next start may be in another working folder
    inside = place.is_relative_to(home)
    written = place.relative_to(home) if inside else place
    (run / BRANCH).write_text(str(written), encoding="utf-8")


def _last_whole(run: Path) -> Path | None:
    """The checkpoint with the highest step that is whole; those after it are set aside."""
    for folder in reversed(checkpoints_in(run)):
        reason = damage(folder)
        if not reason:
            return folder
        kept = _set_aside(folder, TORN)
        logger.warning("%s is torn: %s. Not used; kept as %s", folder, reason, kept.name)
    return None


def compare_identity(folder: Path, identity: Identity) -> None:
    """Raises: Refusal naming the first fact of a checkpoint that differs and is not allowed to."""
    identity.compare(manifest_of(folder).get("identity", {}), folder)


# ---- setting aside and deleting ------------------------------------------------------------------


def _set_aside(folder: Path, why: str) -> Path:
    """Rename a checkpoint to torn-checkpoint-N or left-..., a model to left-model; with a number
    where that is taken.
    """
    target, number = folder.with_name(why + folder.name), 1
    while target.exists():
        number += 1
        target = folder.with_name(f"{why}{folder.name}-{number}")
    return folder.rename(target)


def make_empty_folder(folder: Path) -> None:
    """Give a checkpoint that is to be written an empty folder; rank 0 does it for all.

    What is there was written before the run was sent back to an earlier checkpoint. It is deleted
    when the new one is complete.
    """
    if folder.exists():
        _take_away(folder)
    folder.mkdir(parents=True)


def rotate(run: Path, limit: int | None, last: Path) -> None:
    """Delete the oldest complete checkpoints before `last` so that `limit` remain.

    A folder loses its name before its files, so that a half-deleted one does not look like a
    checkpoint. Folders without a manifest and those of later steps are left alone.
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
    except OSError as error:  # not worth ending a training for; the next rotation tries again
        logger.warning("%s could not be deleted (%s)", folder, error)
