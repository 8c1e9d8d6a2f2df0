"""A checkpoint of any engine as a model folder that any Hugging Face program opens.

Reads sharded state piece by piece: no GPU, no process group, and no more memory than one file of
the output; of ZeRO-1 and ZeRO-2, whose shards DeepSpeed joins at once, the whole model. Writes
safetensors of at most 5 GB each, config, tokenizer, and a manifest when all of it is there.
"""

import json
import logging
import shutil
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from huggingface_hub import split_torch_state_dict_into_shards
from safetensors import safe_open
from safetensors.torch import save_file
from torch.distributed import checkpoint as sharded
from transformers import AutoConfig, AutoModelForCausalLM

from hugcoder import checkpoint
from hugcoder.files import write_json
from hugcoder.refusal import Refusal, told
from hugcoder.tokenizer_files import copy_tokenizer

logger = logging.getLogger(__name__)

MAX_FILE_BYTES = 5_000_000_000


@dataclass(frozen=True)
class Weights:
    """Names with tensors on the meta device, and how to read some of them."""

    shapes: dict[str, torch.Tensor]
    read: Callable[[list[str]], dict[str, torch.Tensor]]


def export_checkpoint(
    source: Path,
    output_dir: Path,
    dtype: torch.dtype | None = None,
    max_file_bytes: int = MAX_FILE_BYTES,
) -> None:
    """Write the weights of a checkpoint to `output_dir`; dtype None = as they were trained.

    Raises: Refusal when the checkpoint is damaged or the output folder holds something.
    """
    if reason := checkpoint.damage(source):
        raise Refusal(f"{source} is not a complete checkpoint ({reason}); give another.")
    if output_dir.exists() and any(output_dir.iterdir()):
        raise Refusal(f"output_dir {output_dir} is not empty; give a new folder.")
    output_dir.mkdir(parents=True, exist_ok=True)
    _write_weights(_weights_of(source), source, output_dir, dtype, max_file_bytes)
    _write_rest(source, output_dir, dtype)


def _weights_of(source: Path) -> Weights:
    facts, shards = checkpoint.facts_of(source), source / checkpoint.MODEL_SHARDS
    if facts["engine"] == "DEEPSPEED" and facts.get("kind") != checkpoint.MODEL:
        return _in_zero(source)
    return _in_shards(shards) if shards.is_dir() else _in_safetensors(source)


def _in_zero(source: Path) -> Weights:
    """The float32 masters that DeepSpeed cut up, under each of their names."""
    from hugcoder import zero

    lazy = zero.lazy_weights(source)
    shapes = {name: torch.empty(w.shape, dtype=w.dtype, device="meta") for name, w in lazy.items()}
    return Weights(shapes, lambda names: {name: lazy[name].contiguous() for name in names})


def _in_shards(folder: Path) -> Weights:
    """Weights that FSDP2 wrote, each as one chunk a rank."""
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
        with warnings.catch_warnings():  # one process is what is wanted here
            warnings.filterwarnings("ignore", "torch.distributed is disabled")
            sharded.load({"model": tensors}, storage_reader=reader, no_dist=True)
        return tensors

    return Weights(shapes, read)


def _in_safetensors(folder: Path) -> Weights:
    """Weights in one safetensors file or several."""
    files = {}
    shapes = {}
    for path in sorted(folder.glob("model*.safetensors")):
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
    weights: Weights, source: Path, output_dir: Path, dtype: torch.dtype | None, max_bytes: int
) -> None:
    """Write the tensors that the model has, tied ones once, as transformers would."""
    shapes = {
        name: weights.shapes[name].to(dtype or weights.shapes[name].dtype)
        for name in _checked_names(weights, source)
    }
    plan = split_torch_state_dict_into_shards(
        shapes, filename_pattern="model{suffix}.safetensors", max_shard_size=max_bytes
    )
    for file, names in plan.filename_to_tensors.items():
        _write_file(weights, {name: shapes[name].dtype for name in names}, output_dir / file)
    if plan.is_sharded:
        index = {"metadata": plan.metadata, "weight_map": plan.tensor_to_filename}
        write_json(output_dir / "model.safetensors.index.json", index)


def _write_file(weights: Weights, dtypes: dict[str, torch.dtype], path: Path) -> None:
    """Write some of the tensors; on return none of them is in memory."""
    tensors = weights.read(list(dtypes))
    for name, dtype in dtypes.items():
        tensors[name] = tensors[name].to(dtype)
    save_file(tensors, path, metadata={"format": "pt"})
    logger.info("wrote %s: %d tensors", path, len(tensors))


def _checked_names(weights: Weights, source: Path) -> list[str]:
    """Names of a model's parameters and saved buffers; no memory is taken for them.

    Raises: Refusal when the checkpoint has not exactly the weights of its config.
    """
    try:
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(source))
    except Exception as error:  # whatever the classes make of a config that was changed
        raise Refusal(f"no model can be made of {source / 'config.json'}: {told(error)}.") from None
    model.tie_weights()
    saved = model.state_dict(keep_vars=True)
    names = [name for name, _ in model.named_parameters()]
    names += [name for name, _ in model.named_buffers() if name in saved]
    found = weights.shapes
    for what, wrong in (
        ("is missing", [name for name in names if name not in found]),
        ("is in the files and not in the model", sorted(found.keys() - saved.keys())),
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
    return names


def _differ(one: torch.Tensor, other: torch.Tensor) -> bool:
    return one.shape != other.shape


def _write_rest(source: Path, output_dir: Path, dtype: torch.dtype | None) -> None:
    """Copy config and tokenizer, then write the manifest."""
    config = json.loads((source / "config.json").read_text(encoding="utf-8"))
    if dtype is not None:
        config["dtype"] = str(dtype).removeprefix("torch.")
    write_json(output_dir / "config.json", config)
    shutil.copyfile(source / "generation_config.json", output_dir / "generation_config.json")
    copy_tokenizer(source, output_dir)
    checkpoint.complete(output_dir, checkpoint.facts_of(source) | {"kind": checkpoint.MODEL})
