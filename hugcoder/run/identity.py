"""What a run is made of: the facts that must be the same for resuming to go on with the same run.

Holds their collecting, their comparison with those of a checkpoint, and the changes that
--allow_changes names. How the run is optimized (learning rate, schedule, length) is no part of it:
those may change from one start to the next, and run.json shows that they did.
"""

import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hugcoder.data.epochs import ROW_FORMAT
from hugcoder.engines.launched import launched_processes
from hugcoder.pretraining.arguments import DataArguments, PretrainArguments
from hugcoder.recipe import assignments
from hugcoder.refusal import Refusal

logger = logging.getLogger(__name__)

FACTS_OF_OLD = {"row_format": 1}  # what a checkpoint that does not say it was made with
# keys of a config.json that change neither the shape of a model nor what it computes in training
NOT_COMPARED = {"transformers_version", "_name_or_path", "use_cache", "dtype", "architectures"}


@dataclass(frozen=True)
class Identity:
    """Facts by name, as JSON keeps them, and the names that may differ from a checkpoint's."""

    facts: dict[str, Any]
    allowed: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        changeable = [name for name in self.facts if not is_of_weights(name)]
        unknown = sorted(set(self.allowed) - set(changeable))
        if unknown:
            raise Refusal(
                f"allow_changes names {', '.join(unknown)}; what may change is "
                f"{', '.join(changeable)}."
            )

    def compare(self, found: dict[str, Any], where: Path) -> None:
        """Compare with the facts `found` in a folder; a change that is allowed is logged.

        A fact that only one side knows is not compared: another release of this program or of
        transformers has added it.
        Raises: Refusal with both values for a change that is not allowed.
        """
        found = FACTS_OF_OLD | found
        changed = {
            name: (found[name], value)
            for name, value in self.facts.items()
            if name in found and meaning(name, found[name]) != meaning(name, value)
        }
        for name, (then, now) in changed.items():
            if name not in self.allowed:
                raise Refusal(
                    f"{where} belongs to another run: its {name} is {then!r}, now it is {now!r}. "
                    + _way_out(name, then)
                )
        for name, values in changed.items():
            logger.warning("allowed change: %s", named({name: values}))


def _way_out(name: str, then: Any) -> str:
    """What keeps the run as it was, and what changes it."""
    if name == "global_batch_size":
        return (
            f"{_way_to_keep_the_batch(then)}, give another --output_dir, or change the batch by "
            f"--allow_changes {name}."
        )
    or_else = "" if is_of_weights(name) else f", or go on by --allow_changes {name}"
    return f"Use the run's own settings or give another --output_dir{or_else}."


def _way_to_keep_the_batch(rows: int) -> str:
    num_devices = launched_processes()
    if rows % num_devices:
        return f"{num_devices} processes cannot share {rows} rows; start a number that can"
    return f"Keep the run as it is by --global_batch_size {rows}"


def meaning(name: str, value: Any) -> Any:
    """What a fact says, however it was written, by this release or an older one."""
    if name == "fim_spans":
        weights = assignments(value, "--fim_spans") if isinstance(value, list) else value
        total = sum(weights.values())
        return {kind: round(weight / total, 9) for kind, weight in weights.items() if weight}
    if name == "mixture":
        return {kind: repeats for kind, repeats in value.items() if repeats != 1}
    return value


def is_of_weights(name: str) -> bool:
    """Whether a checkpoint's weights or optimizer state would not fit after such a change."""
    return name.startswith("model.") or name == "use_muon"


def run_identity(
    data: DataArguments,
    training: PretrainArguments,
    store_manifest: dict[str, Any],
    model_config: dict[str, Any],
) -> Identity:
    """Facts that decide the rows and the weights, under the names of their flags."""
    shape = {
        f"model.{name}": value
        for name, value in sorted(model_config.items())
        if name not in NOT_COMPARED and value is not None
    }
    facts = {
        "tokenizer": store_manifest["tokenizer_sha256"][:16],
        "corpus": store_manifest["corpus_fingerprint"][:16],
        "row_format": ROW_FORMAT,
        "max_seq_length": data.max_seq_length,
        "global_batch_size": training.rows_per_step,
        "seed": training.seed,
        "fim_rate": data.fim_rate,
        "spm_rate": data.spm_rate,
        "fim_spans": meaning("fim_spans", list(data.fim_spans)),
        "mixture": data.mixture_weights,
        "use_muon": training.use_muon,
        **shape,
    }
    return Identity(json.loads(json.dumps(facts, default=str)), tuple(training.allow_changes))


def named(changes: dict[str, Sequence[Any]]) -> str:
    """Changes as one line for the log."""
    return ", ".join(f"{name} {then!r} -> {now!r}" for name, (then, now) in changes.items())
