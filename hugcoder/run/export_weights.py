"""Exports a checkpoint of any engine as a model folder that any Hugging Face program opens.

Reads sharded state piece by piece, without a GPU or a process group. Needs memory for one output
file; for ZeRO-1 and ZeRO-2, whose shards DeepSpeed joins at once, for the whole model. Writes
safetensors of at most 5 GB each, config, tokenizer, and at the end a manifest.
"""

import hashlib
import json
import logging
import shutil
import warnings
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import split_torch_state_dict_into_shards
from safetensors import safe_open
from safetensors.torch import save_file
from torch.distributed import checkpoint as sharded
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from hugcoder.data.tokenizer_files import copy_tokenizer
from hugcoder.engines.sharded_parameters import whole_shape
from hugcoder.files import write_json
from hugcoder.model import manifest
from hugcoder.model.pretrained import weight_files
from hugcoder.ownership import contents
from hugcoder.refusal import Refusal, reason_of

logger = logging.getLogger(__name__)

MAX_FILE_BYTES = 5_000_000_000


@dataclass(frozen=True)
class Weights:
    """Holds names with tensors on the meta device, and a function that reads some of them."""

    shapes: dict[str, torch.Tensor]
    read: Callable[[list[str]], dict[str, torch.Tensor]]


def export_checkpoint(
    source: Path,
    output_dir: Path,
    dtype: torch.dtype | None = None,
    max_file_bytes: int = MAX_FILE_BYTES,
) -> None:
    """Write the weights of a checkpoint to `output_dir`; dtype None = as trained.

    Raises: Refusal when the checkpoint is damaged or the output folder holds something.
    """
    if newest := manifest.last_complete(source):
        raise Refusal(f"{source} is a run; give one of its checkpoints: the newest is {newest}.")
    if (source / "run.json").is_file():
        raise Refusal(f"{source} is a run without a complete checkpoint; train it further first.")
    if reason := manifest.damage(source):
        raise Refusal(f"{source} is not a complete checkpoint ({reason}); give another.")
    if contents(output_dir):
        raise Refusal(f"output_dir {output_dir} is not empty; give a new folder.")
    weights, model = _weights_of(source), _model_of(source)
    expected = weight_shapes(model)
    names = list(expected)
    if _are_renamed(weights, expected):
        names = sorted(weights.shapes)
    else:
        _compare(weights, model, source)
    output_dir.mkdir(parents=True, exist_ok=True)
    _write_weights(weights, names, output_dir, dtype, max_file_bytes)
    _write_rest(source, output_dir, dtype)
    complete_model(output_dir, expected, manifest.facts_of(source))


def weight_shapes(model: PreTrainedModel) -> dict[str, torch.Size]:
    """List the parameters (tied ones once) and saved buffers of a model not yet wrapped."""
    saved = model.state_dict(keep_vars=True)
    shapes = {name: whole_shape(parameter) for name, parameter in model.named_parameters()}
    return shapes | {name: b.shape for name, b in model.named_buffers() if name in saved}


def complete_model(
    folder: Path,
    expected: dict[str, torch.Size],
    facts: dict[str, Any],
    files: dict[str, dict[str, Any]] | None = None,
) -> None:
    """Write the manifest of a final model, if its folder holds the expected weights.

    transformers saves the experts of some models under other names and in other pieces; then only
    the number of values is compared.

    Raises: Refusal when some are missing.
    """
    found = {name: tensor.shape for name, tensor in _in_safetensors(folder).shapes.items()}
    missing = [name for name, shape in expected.items() if found.get(name) != shape]
    if missing and _count(found) != _count(expected):
        raise Refusal(
            f"{folder} is not the whole model: {len(missing)} of {len(expected)} weights are "
            f"missing or have another shape, {missing[0]} first. It is not marked as finished; "
            "take the weights from the last checkpoint: python export.py CHECKPOINT --output_dir "
            "FOLDER."
        )
    manifest.complete(folder, facts | {"kind": manifest.MODEL}, files)


def _count(shapes: dict[str, torch.Size]) -> int:
    return sum(shape.numel() for shape in shapes.values())


def _weights_of(source: Path) -> Weights:
    facts, shards = manifest.facts_of(source), source / manifest.MODEL_SHARDS
    if facts["engine"] == "DEEPSPEED" and facts.get("kind") != manifest.MODEL:
        return _in_zero(source)
    return (
        _in_shards(shards)
        if shards.is_dir()
        else _in_safetensors(source, manifest.manifest_of(source)["files"])
    )


def _in_zero(source: Path) -> Weights:
    """Find the float32 masters that DeepSpeed sharded, under each of their names."""
    from hugcoder.engines import zero

    lazy = zero.lazy_weights(source)
    shapes = {name: torch.empty(w.shape, dtype=w.dtype, device="meta") for name, w in lazy.items()}
    return Weights(shapes, lambda names: {name: lazy[name].contiguous() for name in names})


def _in_shards(folder: Path) -> Weights:
    """Find weights that FSDP2 wrote, in one chunk for each rank."""
    entries = sharded.FileSystemReader(folder).read_metadata().state_dict_metadata
    shapes = {
        name.removeprefix("model."): torch.empty(
            entry.size, dtype=entry.properties.dtype, device="meta"
        )
        for name, entry in entries.items()
    }

    def read(names: list[str]) -> dict[str, torch.Tensor]:
        tensors = {name: torch.empty_like(shapes[name], device="cpu") for name in names}
        reader = sharded.FileSystemReader(folder)
        with warnings.catch_warnings():  # one process is meant here
            warnings.filterwarnings("ignore", "torch.distributed is disabled")
            sharded.load({"model": tensors}, storage_reader=reader, no_dist=True)
        return tensors

    return Weights(shapes, read)


def _in_safetensors(folder: Path, among: Collection[str] | None = None) -> Weights:
    """Find weights in the one safetensors file, or in the files that the index names.

    Args: among: names in the folder's manifest; None = it has no manifest yet.
    """
    files = {}
    shapes = {}
    for path in weight_files(folder, among):
        if path.suffix != ".safetensors" or not path.is_file():
            continue
        with safe_open(path, "pt") as file:
            for name in file.keys():  # noqa: SIM118  (not a dict)
                part = file.get_slice(name)
                files[name] = path
                shapes[name] = torch.empty(part.get_shape(), dtype=part[:0].dtype, device="meta")

    def read(names: list[str]) -> dict[str, torch.Tensor]:
        tensors = {}
        for path in sorted({files[name] for name in names}):
            with safe_open(path, "pt") as file:
                tensors |= {name: file.get_tensor(name) for name in names if files[name] == path}
        return tensors

    return Weights(shapes, read)


def _write_weights(
    weights: Weights,
    names: list[str],
    output_dir: Path,
    dtype: torch.dtype | None,
    max_bytes: int,
) -> None:
    """Write the model's tensors, tied ones once, as transformers would."""
    shapes = {name: weights.shapes[name].to(dtype or weights.shapes[name].dtype) for name in names}
    plan = split_torch_state_dict_into_shards(
        shapes, filename_pattern="model{suffix}.safetensors", max_shard_size=max_bytes
    )
    for file, names in plan.filename_to_tensors.items():
        _write_file(weights, {name: shapes[name].dtype for name in names}, output_dir / file)
    if plan.is_sharded:
        index = {"metadata": plan.metadata, "weight_map": plan.tensor_to_filename}
        write_json(output_dir / "model.safetensors.index.json", index)


def _write_file(weights: Weights, dtypes: dict[str, torch.dtype], path: Path) -> None:
    """Write some of the tensors, and free their memory."""
    tensors = weights.read(list(dtypes))
    for name, dtype in dtypes.items():
        tensors[name] = tensors[name].to(dtype)
    save_file(tensors, path, metadata={"format": "pt"})
    logger.info("wrote %s: %d tensors", path, len(tensors))


def _model_of(source: Path) -> PreTrainedModel:
    """Build the model that a folder's config describes, without memory.

    Raises: Refusal when the config does not describe a model.
    """
    try:
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(source))
    except Exception as error:  # a changed config may raise anything
        raise Refusal(
            f"no model can be made of {source / 'config.json'}: {reason_of(error)}."
        ) from None
    model.tie_weights()
    return model


def _are_renamed(weights: Weights, expected: dict[str, torch.Size]) -> bool:
    """Tell whether transformers has saved a model's experts under other names, in other pieces.

    It joins them again when it reads them, so they are exported as they are.
    """
    found = {name: tensor.shape for name, tensor in weights.shapes.items()}
    return bool(expected.keys() - found.keys()) and _count(found) == _count(expected)


def _compare(weights: Weights, model: PreTrainedModel, source: Path) -> None:
    """Compare names and shapes. Raises: Refusal when they are not those of the config."""
    found, names = weights.shapes, list(weight_shapes(model))
    saved = model.state_dict(keep_vars=True)
    for what, wrong in (
        ("is missing", [name for name in names if name not in found]),
        ("is in the files but not in the model", sorted(found.keys() - saved.keys())),
        (
            "has another shape",
            [n for n in names if n in found and found[n].shape != saved[n].shape],
        ),
    ):
        if wrong:
            more = f" (and {len(wrong) - 1:,} more)" if len(wrong) > 1 else ""
            raise Refusal(
                f"the weights of {source} are not those of its config.json: {wrong[0]} {what}"
                f"{more}; give another checkpoint."
            )
    _compare_twins(weights, saved, names, source)


def _compare_twins(
    weights: Weights, saved: dict[str, torch.Tensor], names: list[str], source: Path
) -> None:
    """Compare tied weights. Raises: Refusal when the files hold two different values.

    Only one of the two would be written, and the other would be lost.
    """
    for alias in sorted(weights.shapes.keys() - set(names)):
        twin = next(name for name in names if saved[name] is saved[alias])
        if _digest(weights, twin) != _digest(weights, alias):
            raise Refusal(
                f"the config.json of {source} ties {alias} to {twin}, but the files hold different "
                "values for them; set tie_word_embeddings to false there, or give another "
                "checkpoint."
            )


def _digest(weights: Weights, name: str) -> str:
    """Hash one tensor's bytes, so that two are compared with only one in memory."""
    tensor = weights.read([name])[name]
    return hashlib.sha256(tensor.contiguous().view(torch.uint8).numpy()).hexdigest()


def _write_rest(source: Path, output_dir: Path, dtype: torch.dtype | None) -> None:
    """Copy config and tokenizer."""
    config = json.loads((source / "config.json").read_text(encoding="utf-8"))
    if dtype is not None:
        config["dtype"] = str(dtype).removeprefix("torch.")
    write_json(output_dir / "config.json", config)
    shutil.copyfile(source / "generation_config.json", output_dir / "generation_config.json")
    copy_tokenizer(source, output_dir)
