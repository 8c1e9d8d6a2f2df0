"""The files that hold scores: one for each kind of measurement, all written and read alike.

They lie in a run's `evaluation` folder, or in --output_dir. `heldout` writes results.json; every
other measurement writes KIND.json beside it. Each file holds

    kind                the measurement's name
    model               as the user gave it
    versions, hardware  what it was measured with
    settings            everything else that decides the scores
    scores              name -> value, low, high: the figures to compare, with 95 % intervals
    samples             a few answers for people to look at
    seconds             how long it took

and whatever else its measurement has to say. Holds no measuring.
"""

import os
import platform
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hugcoder.files import keys_demanded, read_object, write_json
from hugcoder.ownership import owned
from hugcoder.refusal import Refusal

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from hugcoder.generation.loading import CheckpointCodec

FOLDER = "evaluation"  # in the run folder
HELDOUT = "heldout"
OLD_HELDOUT = "evaluation"  # its kind when there was no other; the oldest files name none
MEASURED = {"settings", "scores", "samples"}
PACKAGES = ("torch", "transformers", "tokenizers")


def file_name(kind: str) -> str:
    return "results.json" if kind == HELDOUT else f"{kind}.json"


@contextmanager
def results_file(
    kind: str, model: str, output_dir: str, started: float
) -> Iterator[dict[str, Any]]:
    """Give a dict to fill with settings, scores and samples; write it when the block ends well.

    The folder is ours for as long as the block runs. The file appears last and whole.

    Args:
        model, output_dir: as the user gave them.
        started: when the program began, by time.perf_counter().

    Raises: Refusal when there is no place for the file, or somebody else is at work there.
    """
    from hugcoder.hardware import device_name

    path = _folder_for(model, output_dir) / file_name(kind)
    hardware = {"cpus": os.cpu_count(), "machine": platform.machine(), "device": device_name()}
    versions = {"python": platform.python_version()} | {name: version(name) for name in PACKAGES}
    results = {"kind": kind, "model": model, "versions": versions, "hardware": hardware}
    with owned(path.parent):
        yield results
        assert results.keys() >= MEASURED, f"{kind} lacks {MEASURED - results.keys()}"
        results["seconds"] = round(time.perf_counter() - started, 2)
        write_json(path, results)
    print(f"{path} written after {results['seconds']:.0f} s")


def _folder_for(model: str, output_dir: str) -> Path:
    """Raises: Refusal when there is no such model, or it is on the hub and no folder is given."""
    from hugcoder.generation.loading import find_checkpoint

    folder = find_checkpoint(model)
    if output_dir:
        return Path(output_dir)
    if folder is None:
        raise Refusal(f"{model} is a hub model; say with --output_dir where results go.")
    return (folder.parent if folder.name == "model" else folder) / FOLDER


def facts_of_model(model: "PreTrainedModel", codec: "CheckpointCodec") -> dict[str, Any]:
    """What the settings of every measurement say of the model that was loaded."""
    return {
        "dtype": str(model.dtype).removeprefix("torch."),
        "device": model.device.type,
        "parameters": model.num_parameters(),
        "context": model.config.max_position_embeddings,
        "tokenizer": codec.fingerprint,
        "spm_variant": codec.spm_variant,
    }


def find_results(folder: Path) -> dict[str, dict[str, Any]]:
    """Kind -> results, of a folder; other JSON files in it, such as copies, are left out.

    Raises: Refusal when a file is damaged.
    """
    paths = sorted(folder.glob("[!.]*.json"))
    own = file_name(HELDOUT)
    ours = [p for p in paths if p.name in (own, file_name(read_object(p).get("kind")))]
    return {results["kind"]: results for results in map(read_results, ours)}


def read_results(path: Path) -> dict[str, Any]:
    """What a measurement wrote. An old results.json has no `scores` beside its other parts.

    Raises: Refusal when the file is damaged, or no measurement writes it under this name.
    """
    results = read_object(path)
    if path.name == file_name(HELDOUT) and results.get("kind", OLD_HELDOUT) == OLD_HELDOUT:
        results = {"scores": {}} | results | {"kind": HELDOUT}
    kind = results.get("kind")
    if path.name != file_name(kind):
        raise Refusal(
            f"{path} is not what `python -m evaluation` writes under this name "
            f"(its kind is {kind!r}); move it away and evaluate again."
        )
    with keys_demanded(path.parent, path.name):
        results["settings"].items(), results["samples"], results["seconds"] + 0
        for estimate in results["scores"].values():
            [(estimate[key] or 0) + 0 for key in ("value", "low", "high")]  # numbers or None
    return results
