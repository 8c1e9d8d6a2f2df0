"""The files that hold scores: one for each kind of measurement, all written and read alike.

They lie in a run's `evaluation` folder, or in --output_dir. `heldout` writes results.json; every
other measurement writes KIND.json beside it. Each file holds:

    kind                the measurement's name
    model               as the user gave it
    versions, hardware  what it was measured with
    settings            everything else that decides the scores
    scores              name -> value, low, high: the figures to compare, with 95 % intervals
    samples             a few answers for people to look at
    seconds             how long it took

and whatever else its measurement has to say. Holds no measuring.
"""

import logging
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

logger = logging.getLogger(__name__)

FOLDER = "evaluation"  # in the run folder
HELDOUT = "heldout"
OLD_HELDOUT = "evaluation"  # what its files said when there was one kind; the oldest said nothing
MEASURED = ("settings", "scores", "samples")


def file_name(kind: str) -> str:
    return "results.json" if kind == HELDOUT else f"{kind}.json"


@contextmanager
def results_file(
    kind: str, model: str, output_dir: str, started: float
) -> Iterator[dict[str, Any]]:
    """Give a dict for settings, scores and samples, and write it when the block has ended well.

    The folder is ours for as long as the block runs; the file appears last and whole.

    Args:
        model, output_dir: as the user gave them.
        started: when the program began, by time.perf_counter().

    Raises: Refusal when there is no place for the file, or somebody else is at work there.
    """
    path = _folder_for(model, output_dir) / file_name(kind)
    with owned(path.parent):
        results = {"kind": kind, "model": model, "versions": _versions(), "hardware": _hardware()}
        yield results
        missing = [name for name in MEASURED if name not in results]
        assert not missing, f"{kind} gives no {missing}"
        results["seconds"] = round(time.perf_counter() - started, 2)
        write_json(path, results)
    print(f"{path} written after {results['seconds']:.0f} s")


def _folder_for(model: str, output_dir: str) -> Path:
    """Raises: Refusal when a hub model has no place of its own."""
    from hugcoder.generation.loading import find_checkpoint

    folder = find_checkpoint(model)
    if output_dir:
        return Path(output_dir)
    if folder is None:
        raise Refusal(f"{model} is a hub model; say with --output_dir where results go.")
    return (folder.parent if folder.name == "model" else folder) / FOLDER


def _versions() -> dict[str, str]:
    found = {name: version(name) for name in ("torch", "transformers", "tokenizers")}
    return found | {"python": platform.python_version()}


def _hardware() -> dict[str, Any]:
    from hugcoder.hardware import device_name

    return {"device": device_name(), "cpus": os.cpu_count(), "machine": platform.machine()}


def facts_of_model(model: "PreTrainedModel", codec: "CheckpointCodec") -> dict[str, Any]:
    """What the settings say of a loaded model."""
    return {
        "dtype": str(model.dtype).removeprefix("torch."),
        "device": model.device.type,
        "parameters": model.num_parameters(),
        "context": model.config.max_position_embeddings,
        "tokenizer": codec.fingerprint,
    }


def find_results(folder: Path) -> list[dict[str, Any]]:
    """Everything that measurements have left in a folder. Raises: Refusal for a damaged file."""
    return [read_results(path) for path in sorted(folder.glob("[!.]*.json")) if _is_ours(path)]


def _is_ours(path: Path) -> bool:
    if path.name == file_name(HELDOUT):
        return True
    kind = read_object(path).get("kind")
    if path.name != file_name(kind):
        logger.warning(f"{path} is left out: it is no file of a measurement (its kind is {kind!r})")
    return path.name == file_name(kind)


def read_results(path: Path) -> dict[str, Any]:
    """What a measurement wrote; of an old results.json, the scores are in its other parts alone.

    Raises: Refusal when the file is damaged, or is not what a measurement writes under this name.
    """
    results = read_object(path)
    if path.name == file_name(HELDOUT) and results.get("kind", OLD_HELDOUT) == OLD_HELDOUT:
        results = {"scores": {}} | results | {"kind": HELDOUT}
    if path.name != file_name(results.get("kind")):
        raise Refusal(
            f"{path} is not what `python -m evaluation` writes under this name (its kind is "
            f"{results.get('kind')!r}); move it away and evaluate again."
        )
    with keys_demanded(path.parent, path.name):
        results["settings"].items(), results["samples"], results["seconds"] + 0
        for name, estimate in results["scores"].items():
            _check_estimate(name, estimate)
    return results


def _check_estimate(name: str, estimate: dict[str, Any]) -> None:
    """Raises: ValueError when a score is no number with an interval."""
    for key in ("value", "low", "high"):
        if not isinstance(estimate[key], int | float | None):
            raise ValueError(f"the {key} of {name} is {estimate[key]!r}")
