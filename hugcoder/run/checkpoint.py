"""Checkpoints that are complete or not there: the manifest, the choice, and what is deleted.

A checkpoint is complete only when its manifest is there, written last, and every file has the size
and the SHA-256 that it says. One that is not is kept aside under another name, never deleted and
never used. What is in the files is `hugcoder.run.checkpoint_saving`'s concern; how identities
compare, `hugcoder.run.identity`'s. Loads no torch.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
import shutil
import time
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hugcoder import ownership
from hugcoder.engines.collectives import on_rank_0
from hugcoder.file_table import changed, hash_files, missing_or_resized
from hugcoder.files import MANIFEST, read_manifest, set_usual_mode, write_json
from hugcoder.refusal import Refusal

if TYPE_CHECKING:
    from hugcoder.run.identity import Identity

logger = logging.getLogger(__name__)

FINAL_MODEL = "model"
CHECKPOINT, MODEL = "checkpoint", "model"  # what a manifest says that its folder is
MODEL_SHARDS, OPTIMIZER_SHARDS = "pytorch_model_fsdp_0", "optimizer_0"  # accelerate's names
OLD = "deleting-"  # first part of the name of a folder that is being deleted
TORN, LEFT = "torn-", "left-"
BRANCH = "resumed_from.txt"  # in the run folder: the checkpoint that a flag sent the run back to


# ---- the manifest --------------------------------------------------------------------------------


def complete(
    folder: Path, facts: dict[str, Any], files: dict[str, dict[str, Any]] | None = None
) -> None:
    """Write the manifest of a checkpoint or final model whose files are all there.

    Args:
        facts: kind (CHECKPOINT or MODEL), step, tokens, world_size, engine, identity and corpora.
        files: size and hash of each, where the ranks have shared the work; None = hash them here.
    """
    files = hash_files(folder, names_in(folder)) if files is None else files
    for weights in folder.glob("*.safetensors"):
        set_usual_mode(weights)
    manifest = {**facts, "files": dict(sorted(files.items()))}
    write_json(folder / MANIFEST, manifest | {"checksum": _checksum(manifest)})


def names_in(folder: Path) -> list[str]:
    """Names, relative to the folder, of the files that belong into its manifest."""
    found = os.walk(folder)  # asks the disk nothing about the files themselves, of which a thousand
    paths = [Path(parent, name) for parent, _, names in found for name in names]  # ranks have many
    names = [path.relative_to(folder).as_posix() for path in paths if path.suffix != ".partial"]
    return sorted(name for name in names if name != MANIFEST and name not in ownership.FILES)


def share_of(names: Iterable[str], rank: int, num_ranks: int) -> list[str]:
    """The files that a rank hashes: those that name it, which it wrote itself; rank 0 the rest."""
    return [name for name in names if _writer(name, num_ranks) == rank]


def _writer(name: str, num_ranks: int) -> int:
    """__3_0.distcp, rng_state_3.pth and zero_pp_rank_3_mp_rank_00_optim_states.pt are rank 3's."""
    found = re.search(r"(?:__|rng_state_|rank_)(\d+)", name.rpartition("/")[2])
    rank = int(found[1]) if found else 0
    return rank if rank < num_ranks else 0


def manifest_of(folder: Path) -> dict[str, Any]:
    """The manifest of a checkpoint or final model.

    Raises: Refusal when there is none.
    """
    manifest = read_manifest(folder)
    if manifest is None:
        raise Refusal(
            f"{folder} has no {MANIFEST}, which is written last, so it is not complete; give "
            "another checkpoint."
        )
    return manifest


def facts_of(folder: Path) -> dict[str, Any]:
    """What the manifest says besides its files, to go into the manifest of a copy."""
    manifest = manifest_of(folder)
    return {name: manifest[name] for name in manifest if name not in ("files", "checksum")}


def _checksum(manifest: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()


# ---- looking at one ------------------------------------------------------------------------------


def is_complete(folder: Path) -> bool:
    """Whether the manifest is there and every file it names has the size it says; reads no file."""
    return not missing_from(folder)


def damage(folder: Path) -> str:
    """What is wrong with a checkpoint or model, as `model.safetensors has changed`; "" = nothing.

    Looks at names and sizes first, then reads everything.
    """
    if found := missing_from(folder):
        return found
    files = manifest_of(folder)["files"]
    start, total = time.perf_counter(), sum(facts["bytes"] for facts in files.values())
    if found := changed(folder, files):
        return found
    seconds = time.perf_counter() - start
    logger.info(
        "%s is whole: %d files, %.3f GB read and compared in %.1f s (%.2f GB/s)",
        folder,
        len(files),
        total / 1e9,
        seconds,
        total / 1e9 / seconds,
    )
    return ""


def missing_from(folder: Path) -> str:
    """What is wrong with the manifest, or with the names and sizes of the files."""
    if not folder.is_dir():
        return "there is no such folder"
    try:
        manifest = read_manifest(folder)
    except ValueError:  # neither UTF-8 nor JSON
        return "its manifest cannot be read"
    if manifest is None:
        return "it has no manifest, which is written last"
    if "files" not in manifest or manifest.pop("checksum", "") != _checksum(manifest):
        return "its manifest is not one of a checkpoint, or has changed since it was written"
    if found := missing_or_resized(folder, manifest["files"]):
        return found
    if manifest.get("kind") == CHECKPOINT:
        missing = set(random_state_names(manifest["world_size"])) - set(manifest["files"])
        return f"{min(missing)} is missing" if missing else ""
    return ""


def random_state_names(world_size: int) -> list[str]:
    """The files in which the Trainer keeps the random number generators of each rank."""
    if world_size == 1:
        return ["rng_state.pth"]
    return [f"rng_state_{rank}.pth" for rank in range(world_size)]


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


def last_complete(run: Path) -> Path | None:
    """The checkpoint with the highest step that looks complete; reads and renames nothing."""
    return next((folder for folder in reversed(checkpoints_in(run)) if is_complete(folder)), None)


def checkpoints_in(run: Path) -> list[Path]:
    """Folders of the run named checkpoint-N, by N."""
    folders = [folder for folder in run.glob("checkpoint-*") if is_numbered(folder.name)]
    return sorted(folders, key=step_of)


def is_numbered(name: str) -> bool:
    return re.fullmatch(r"checkpoint-\d+", name) is not None


def step_of(folder: Path) -> int:
    return int(folder.name.rpartition("-")[2])


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


def make_way(folder: Path) -> None:
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
