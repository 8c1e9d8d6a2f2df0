"""Collects the identity of a pretraining run: its rows, seed, batch and the model's shape."""

import json
from typing import Any

import fim
from hugcoder.data.epochs import ROW_FORMAT
from hugcoder.model.config_keys import SPM_VARIANT
from hugcoder.pretraining.arguments import DataArguments, PretrainArguments
from hugcoder.recipe import assignments
from hugcoder.run.identity import Identity

# keys of a config.json that do not change a model's shape or what it computes in training
NOT_COMPARED = {
    SPM_VARIANT,
    "transformers_version",
    "_name_or_path",
    "use_cache",
    "dtype",
    "architectures",
}


class PretrainingIdentity(Identity):
    FACTS_OF_OLD = {"row_format": 1, "fim_healing": False, "spm_variant": 0}  # noqa: RUF012  (of the base)

    def meaning(self, name: str, value: Any) -> Any:
        if name == "fim_spans":
            return _shares(assignments(value, "--fim_spans") if isinstance(value, list) else value)
        if name == "spm_variant":
            return value or fim.FAMILY_VARIANT
        if name == "mixture":
            return {kind: repeats for kind, repeats in value.items() if repeats != 1}
        return value

    def is_of_weights(self, name: str) -> bool:
        return super().is_of_weights(name) or name == "use_muon"


def _shares(weights: dict[str, float]) -> dict[str, float]:
    total = sum(weights.values())
    return {kind: round(weight / total, 9) for kind, weight in weights.items() if weight}


def pretraining_identity(
    data: DataArguments,
    training: PretrainArguments,
    mixture: dict[str, float],
    store_manifest: dict[str, Any],
    model_config: dict[str, Any],
    spm_variant: int,
) -> PretrainingIdentity:
    """Collect the facts that decide the rows and the weights, under the names of their flags.

    Args: mixture: with the short names that the rows use, see `clear_mixture`.
    """
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
        "spm_variant": spm_variant,
        "fim_spans": _shares(assignments(list(data.fim_spans), "--fim_spans")),
        "fim_healing": data.fim_healing,
        "mixture": mixture,
        "use_muon": training.use_muon,
        **shape,
    }
    return PretrainingIdentity(
        json.loads(json.dumps(facts, default=str)), tuple(training.allow_changes)
    )
