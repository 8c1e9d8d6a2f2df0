"""Writes and checks the manifest of a checkpoint or a model, which says whether it is whole.

A folder is complete only when it has a manifest, which is written last, and every file has the size
and the SHA-256 in it. `hugcoder.run.checkpoint` chooses the checkpoint that a run resumes from.
Loads no torch.
"""

import hashlib
import json
import logging
import os
import re
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from hugcoder import ownership
from hugcoder.file_table import changed, hash_files, missing_or_resized
from hugcoder.files import MANIFEST, read_manifest, set_usual_mode, write_json
from hugcoder.refusal import Refusal

logger = logging.getLogger(__name__)

CHECKPOINT, MODEL = "checkpoint", "model"  # the kinds of folder in a manifest
MODEL_SHARDS, OPTIMIZER_SHARDS = "pytorch_model_fsdp_0", "optimizer_0"  # accelerate's names


def complete(
    folder: Path, facts: dict[str, Any], files: dict[str, dict[str, Any]] | None = None
) -> None:
    """Write the manifest of a checkpoint or final model whose files are all written.

    Args:
        facts: kind (CHECKPOINT or MODEL), step, tokens, world_size, engine, identity and corpora.
        files: size and hash of each file, if the ranks have hashed them; None = hash them here.
    """
    files = hash_files(folder, names_in(folder)) if files is None else files
    for weights in folder.glob("*.safetensors"):
        set_usual_mode(weights)
    manifest = {**facts, "files": dict(sorted(files.items()))}
    write_json(folder / MANIFEST, manifest | {"checksum": _checksum(manifest)})


def names_in(folder: Path) -> list[str]:
    """List the names, relative to the folder, of the files that belong into its manifest."""
    found = os.walk(folder)  # does not query the files: a thousand ranks have many of them
    paths = [Path(parent, name) for parent, _, names in found for name in names]
    names = [path.relative_to(folder).as_posix() for path in paths if path.suffix != ".partial"]
    return sorted(name for name in names if name != MANIFEST and name not in ownership.FILES)


def share_of(names: Iterable[str], rank: int, num_ranks: int) -> list[str]:
    """List the files that a rank hashes: those with its number, which it wrote; rank 0 the rest."""
    return [name for name in names if _writer(name, num_ranks) == rank]


def _writer(name: str, num_ranks: int) -> int:
    """Return the rank in names such as __3_0.distcp, rng_state_3.pth and zero_pp_rank_3_mp_..."""
    found = re.search(r"(?:__|rng_state_|rank_)(\d+)", name.rpartition("/")[2])
    rank = int(found[1]) if found else 0
    return rank if rank < num_ranks else 0


def manifest_of(folder: Path) -> dict[str, Any]:
    """Read the manifest of a checkpoint or final model.

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
    """Return what the manifest says besides its files, for the manifest of a copy."""
    manifest = manifest_of(folder)
    return {name: manifest[name] for name in manifest if name not in ("files", "checksum")}


def _checksum(manifest: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()


# ---- looking at one ------------------------------------------------------------------------------


def is_complete(folder: Path) -> bool:
    """Tell whether there is a manifest and all its files have their sizes; reads no other file."""
    return not missing_from(folder)


def damage(folder: Path) -> str:
    """Say what is wrong with a checkpoint or model, as `x has changed ...`; "" = nothing.

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
    """Say what is wrong with the manifest, or with the names and sizes of the files; "" =
    nothing."""
    if not folder.is_dir():
        return "there is no such folder"
    try:
        manifest = read_manifest(folder)
    except ValueError:  # not UTF-8 or not JSON
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
    """List the files in which the Trainer keeps the random number generators of each rank."""
    if world_size == 1:
        return ["rng_state.pth"]
    return [f"rng_state_{rank}.pth" for rank in range(world_size)]


def last_complete(run: Path) -> Path | None:
    """Find the checkpoint with the highest step that looks complete; reads only manifests."""
    return next((folder for folder in reversed(checkpoints_in(run)) if is_complete(folder)), None)


def checkpoints_in(run: Path) -> list[Path]:
    """List the folders of the run that are named checkpoint-N, by N."""
    folders = [folder for folder in run.glob("checkpoint-*") if is_numbered(folder.name)]
    return sorted(folders, key=step_of)


def is_numbered(name: str) -> bool:
    return re.fullmatch(r"checkpoint-\d+", name) is not None


def step_of(folder: Path) -> int:
    return int(folder.name.rpartition("-")[2])
