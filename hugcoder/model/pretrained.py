"""Loads weights from a folder or the hub exactly as they are in the files, or refuses.

transformers draws missing weights at random, ignores weights that the model lacks, and reports cut
files in the words of the reader. Here a weight that is missing, left over, of another shape or not
finite is refused. Every error is one sentence that names the model and, if it can be found, the
file. Weights that transformers' own rules ignore (tied weights, buffers of old releases) are
allowed.
"""

import json
import logging
import zipfile
from collections import defaultdict
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from transformers import CONFIG_MAPPING, AutoModelForCausalLM, PreTrainedModel
from transformers.integrations import is_deepspeed_zero3_enabled
from transformers.integrations.fsdp import is_fsdp_enabled
from transformers.modeling_utils import is_local_dist_rank_0
from transformers.utils import cached_file

from hugcoder.engines.collectives import gather, num_ranks, patient_group
from hugcoder.engines.sharded_parameters import local_part
from hugcoder.engines.zero import without_zero3
from hugcoder.file_table import changed
from hugcoder.files import MANIFEST, read_object
from hugcoder.model import manifest
from hugcoder.model.config_keys import check_keys
from hugcoder.refusal import Refusal, reason_of

logger = logging.getLogger(__name__)

LFS_POINTER = b"version https://git-lfs"
PICKLE = b"\x80\x02"  # first bytes of torch.save's files before they were zip archives
WEIGHTS = (  # in the order in which transformers looks for them
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)
SETTINGS = ("config.json", "generation_config.json", "tokenizer_config.json")
# Files that loading reads or copies; a checkpoint's optimizer is not among them.
READ_HERE = (".safetensors", ".bin", ".json", ".jinja", ".model", ".txt")
HASHED_HERE = (".json", ".jinja")  # a changed value may leave the size of the file the same
MOST_HASHED = 64_000_000  # bytes
NAMES_SHOWN = 3
UNTIED = {"tie_word_embeddings": False}
SHARDS = (f"{manifest.MODEL_SHARDS}/*", "global_step*/*")  # of FSDP and of DeepSpeed
REPAIR = "download or export it again, or give another model"


def load_causal_lm(
    name: str, dtype: torch.dtype, attn_implementation: str | None = None
) -> PreTrainedModel:
    """Load a causal language model with all its weights, on the CPU or sharded by ZeRO-3.

    All ranks call it; an error of one is raised on all. Under FSDP the first rank of a host reads
    the values, and accelerate sends them to the others.

    Args: name: a local folder or a hub name.
    Raises: Refusal when the files are not whole or belong to another model.
    """
    model, is_untied, error = None, False, None
    try:
        check_files(name)
        if is_deepspeed_zero3_enabled():
            with without_zero3():  # loading under ZeRO-3 does not report weights left over
                listed = _load(name, dtype, attn_implementation, device_map={"": "meta"})
                # Shards have no values to compare, so two different layers would become one.
                is_untied = _is_untied(listed) and _is_untied(
                    _load(name, dtype, attn_implementation)
                )
        model = _load(name, dtype, attn_implementation, **(UNTIED if is_untied else {}))
        is_untied = is_untied or _is_untied(model)
        _check_dtypes(name, model)
        _tell_unknown_keys(name)
        _check_numbers(name, model, dtype)
    except Refusal as refusal:
        error = refusal
    if any(gather(is_untied, error, patient_group() if num_ranks() > 1 else None)):
        logger.warning(
            "%s: its config.json says tie_word_embeddings, but its weights hold an output layer "
            "that differs from the embedding; both are kept, and tie_word_embeddings is false here",
            name,
        )
        if model.config.tie_word_embeddings:  # also on ranks that did not read the values
            model = _load(name, dtype, attn_implementation, **UNTIED)
    return model


def _is_untied(model: PreTrainedModel) -> bool:
    """Tell whether the config ties the output layer but the loaded model does not."""
    output = model.get_output_embeddings()
    is_tied = model._tied_weights_keys and getattr(model.config, "tie_word_embeddings", False)
    if output is None or not is_tied:  # classes that tie nothing do not read the setting
        return False
    return output.weight is not model.get_input_embeddings().weight


def check_files(name: str) -> None:
    """Look at a model's files without reading the weights.

    Raises: Refusal when a local folder differs from its manifest, a file is cut, empty or a git-lfs
    pointer, the index names a missing file, or settings are not JSON.
    """
    folder = Path(name)
    if not folder.is_dir():
        return
    if found := broken_file(folder):
        raise Refusal(f"{found}; {REPAIR}.")
    if not weight_files(folder) and any(any(folder.glob(shards)) for shards in SHARDS):
        raise Refusal(
            f"{folder} holds only shards of the weights, as FSDP and ZeRO-3 leave them; make a "
            f"model of it first: python export.py {folder} --output_dir FOLDER."
        )
    if reason := manifest_damage(folder):
        raise Refusal(
            f"{folder} is damaged ({reason}); copy or export it again, or delete its {MANIFEST} if "
            "you changed it on purpose."
        )


def manifest_damage(folder: Path) -> str:
    """Say how files that loading reads differ from our manifest, if there is one; "" = nothing.

    Large files are compared by size only: they are read anyway, and hashing takes minutes.
    """
    if not (folder / MANIFEST).is_file():
        return ""
    reason = manifest.missing_from(folder)
    if "manifest" in reason:
        is_ours = b'"checksum"' in (folder / MANIFEST).read_bytes()
        return reason if is_ours else ""
    if reason.split(" ")[0].endswith(READ_HERE):
        return reason
    small = {
        name: facts
        for name, facts in manifest.manifest_of(folder)["files"].items()
        if name.endswith(HASHED_HERE) and facts["bytes"] < MOST_HASHED and (folder / name).is_file()
    }
    return changed(folder, small)


def broken_file(folder: Path) -> str:
    """Say what is wrong with a file of a model, as `X is empty`; "" = nothing was found."""
    for path in (folder / name for name in (*SETTINGS, *WEIGHTS)):
        if path.suffix == ".json" and path.is_file() and (reason := _json_damage(path)):
            return f"{path} {reason}"
    for path, keys in weight_files(folder).items():
        if reason := _weights_damage(path) or _other_keys(path, keys):
            return f"{path} {reason}"
    return ""


def _json_damage(path: Path) -> str:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:  # ValueError: not UTF-8, not JSON
        return f"is not JSON ({reason_of(error)})"
    if not isinstance(values, dict):
        return "is not a JSON object"
    return _index_damage(values) if path.name in WEIGHTS else ""


def _index_damage(values: dict[str, Any]) -> str:
    files = values.get("weight_map")
    if not (isinstance(files, dict) and files and all(isinstance(f, str) for f in files.values())):
        return "names no files of weights in its weight_map"
    is_whole = isinstance(values.get("metadata"), dict)
    return "" if is_whole else "has no metadata, and transformers does not read it without"


def weight_files(folder: Path, among: Collection[str] | None = None) -> dict[Path, set[str] | None]:
    """List the files of weights that transformers would read, with their keys in the index.

    Args: among: look only at these names, relative to the folder; None = look at all.
    """
    names = [name for name in WEIGHTS if among is None or name in among]
    first = next((folder / name for name in names if (folder / name).is_file()), None)
    if first is None or first.suffix != ".json":
        return {first: None} if first else {}
    keys = defaultdict(set)
    for key, name in json.loads(first.read_text(encoding="utf-8"))["weight_map"].items():
        keys[folder / name].add(key)
    return dict(sorted(keys.items()))


def _other_keys(path: Path, keys: set[str] | None) -> str:
    """Say how a shard's keys differ from the index; transformers reads all keys of a shard."""
    if keys is None or path.suffix != ".safetensors":
        return ""
    with safe_open(path, "pt") as file:
        found = set(file.keys())
    if left_over := found - keys:
        return f"holds {min(left_over)}, which the index does not list for it"
    missing = keys - found
    return f"lacks {min(missing)}, which the index says is in it" if missing else ""


def _weights_damage(path: Path) -> str:
    """Say why a file of weights cannot be opened; reads its header only."""
    if not path.is_file():
        return "is not there, but the index names it"
    if not path.stat().st_size:
        return "is empty"
    with path.open("rb") as file:
        head = file.read(len(LFS_POINTER))
    if head == LFS_POINTER:
        return "is a git-lfs pointer and not the weights (run git lfs pull)"
    try:
        if path.suffix == ".safetensors":
            with safe_open(path, "pt"):
                return ""
    except Exception as error:  # safetensors' error comes from Rust and is a plain Exception
        return f"is cut or holds no weights ({reason_of(error)})"
    is_torch_file = zipfile.is_zipfile(path) or head.startswith(PICKLE)
    return "" if is_torch_file else "is cut or holds no weights (torch.save did not write it)"


# ---- loading -------------------------------------------------------------------------------------


def _load(
    name: str, dtype: torch.dtype, attn_implementation: str | None, **where: Any
) -> PreTrainedModel:
    """Load a model. Raises: Refusal for any error, and for weights that differ from the config."""
    settings = {"attn_implementation": attn_implementation} if attn_implementation else {}
    try:
        with _without_report():
            model, info = AutoModelForCausalLM.from_pretrained(
                name,
                dtype=dtype,
                output_loading_info=True,
                ignore_mismatched_sizes=True,  # they are refused below, by name
                trust_remote_code=False,
                **settings,
                **where,
            )
    except Exception as error:  # of safetensors, pickle, torch, transformers and the config's class
        raise Refusal(f"{name} cannot be loaded: {_reason_with_file(name, error)}.") from error
    if reason := _difference(info):
        raise Refusal(
            f"the weights of {name} are not those of its config.json: {reason}; {REPAIR}."
        )
    return model


def _reason_with_file(name: str, error: Exception) -> str:
    """Return the error's first line, with the broken file if one is found."""
    folder = _folder_of(name)
    found = broken_file(folder) if folder else ""
    return f"{found} ({reason_of(error)})" if found else reason_of(error)


def _folder_of(name: str) -> Path | None:
    """Find the folder of a model's files on this machine; None = nowhere yet."""
    if Path(name).is_dir():
        return Path(name)
    try:
        return Path(cached_file(name, "config.json", local_files_only=True)).parent
    except OSError:
        return None


def _difference(info: dict[str, Any]) -> str:
    """Say which weights transformers found missing, left over or of another shape."""
    mismatched = [
        f"{name} ({list(theirs)} in the file, {list(ours)} by the config)"
        for name, theirs, ours in sorted(info["mismatched_keys"])
    ]
    for what, names in (
        ("of another shape", mismatched),
        ("missing in the files", sorted(info["missing_keys"])),
        ("in the files and not in the model", sorted(info["unexpected_keys"])),
    ):
        if names:
            more = f" and {len(names) - NAMES_SHOWN:,} more" if len(names) > NAMES_SHOWN else ""
            verb = "is" if len(names) == 1 else "are"
            return f"{', '.join(names[:NAMES_SHOWN])}{more} {verb} {what}"
    return "; ".join(reason_of(ValueError(message)) for message in info["error_msgs"])


def _check_dtypes(name: str, model: PreTrainedModel) -> None:
    """Check that weights are floats. Raises: Refusal when one is stored as whole numbers.

    Quantized files are; transformers casts them to floats without a warning and without scales.
    """
    folder = _folder_of(name)
    if folder is None or getattr(model.config, "quantization_config", None):
        return
    floats = {name for name, value in model.named_parameters() if value.is_floating_point()}
    floats |= {name.removeprefix(f"{model.base_model_prefix}.") for name in floats}
    for path in weight_files(folder):
        if path.suffix != ".safetensors":
            continue
        with safe_open(path, "pt") as file:
            for key in file.keys():  # noqa: SIM118  (not a dict)
                if key not in floats and not key.endswith(".weight"):
                    continue  # a buffer; experts may have other names here than in the model
                dtype = file.get_slice(key).get_dtype()
                if dtype.startswith(("I", "U", "BOOL")):
                    raise Refusal(
                        f"{key} in {path} is stored as {dtype}, which is not a type of floats, and "
                        f"config.json has no quantization_config; {REPAIR}."
                    )


def _tell_unknown_keys(name: str) -> None:
    """Warn of the first key of a local config.json that has no effect, such as a typo.

    Unlike the config of a new model, it is not refused: the file came with weights, and files of
    other releases hold keys that are no longer read.
    """
    path = Path(name) / "config.json"
    values = read_object(path) if path.is_file() else {}
    values.pop("quantization_config", None)
    if values.get("model_type") in CONFIG_MAPPING:
        try:
            check_keys(str(path), values, CONFIG_MAPPING[values["model_type"]])
        except Refusal as refusal:
            logger.warning("the model is loaded all the same, but %s", refusal)


def _check_numbers(name: str, model: PreTrainedModel, dtype: torch.dtype) -> None:
    """Check that all weights are finite. Raises: Refusal when one is nan or infinite."""
    if is_fsdp_enabled() and not is_local_dist_rank_0():
        return  # its values are not there yet
    for parameter_name, parameter in model.named_parameters():
        part = local_part(parameter)
        if part.numel() and not torch.stack(torch.aminmax(part)).isfinite().all():
            raise Refusal(
                f"{parameter_name} of {name} holds values that are nan or infinite as "
                f"{str(dtype).removeprefix('torch.')}; {REPAIR}"
                f"{', or a wider dtype' if dtype == torch.float16 else ''}."
            )


@contextmanager
def _without_report() -> Iterator[None]:
    """Silence transformers' table of missing weights; a refusal here says it in a sentence."""

    def is_other(record: logging.LogRecord) -> bool:
        return "LOAD REPORT" not in record.getMessage()

    loading = logging.getLogger("transformers.modeling_utils")
    loading.addFilter(is_other)
    try:
        yield
    finally:
        loading.removeFilter(is_other)
