"""A model's config.json: read, and refused for what transformers would take without a word.

Its config classes keep any key, so that a typo trains a model of the default size. Here every key
must be one that the model type knows, counts must be counts, and a model of the config must run on
a few tokens that have shapes but no values. What HugCoder sets itself is in model.py.
"""

import copy
import json
import logging
import math
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from transformers import CONFIG_MAPPING, AutoModelForCausalLM, PretrainedConfig
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from hugcoder.engines.zero import without_zero3
from hugcoder.model.config_keys import check_keys, nearest
from hugcoder.refusal import Refusal, told

logger = logging.getLogger(__name__)

COUNTS = (
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "intermediate_size",
    "moe_intermediate_size",
    "num_experts_per_tok",
    "max_position_embeddings",
    "vocab_size",
)
NEEDED = ("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads")
SET_HERE = ("vocab_size", "max_position_embeddings", "bos_token_id", "eos_token_id", "pad_token_id")


# ---- reading -------------------------------------------------------------------------------------


def read_config(path: str) -> PretrainedConfig:
    """The config in a file.

    Raises: Refusal when the file is none, has a key that its model type does not know, or values
    that cannot be; one sentence that names the file.
    """
    values = _read_values(path)
    model_type = values.pop("model_type", None)
    config_class = CONFIG_MAPPING[_checked_type(path, model_type)]
    check_keys(path, values, config_class)
    values.pop("quantization_config", None)  # null, which older readers of the model trip over
    _check_dtype(path, values)
    try:
        with _rope_complaints() as complaints:
            config = config_class(**values)
    except Exception as error:  # any value may meet any code of the config classes
        raise Refusal(f"{path} is no config of a {model_type}: {told(error)}") from None
    if complaints:
        raise Refusal(f"{path}: {complaints[0]}")
    _check_values(path, config)
    return config


def check_config(path: str) -> None:
    """Raises: Refusal when no model can be built from the file or run on some tokens.

    Takes no memory and, for 7B, about 2 s, so that a mistake is told before any data are read.
    """
    config = read_config(path)
    for name in NEEDED:
        if getattr(config, name, None) is None:
            raise Refusal(
                f"{path}: model type {config.model_type} has no {name}; give the config of a plain "
                "decoder, such as one in configs/models."
            )
    try:
        _try(config)
    except _unanswerable() as error:
        logger.info("%s could not be tried before the start (%s)", path, type(error).__name__)
    except Exception as error:  # whatever the model's code makes of the values
        raise Refusal(
            f"no model can be made of {path}: {told(error)}; compare its sizes with those of a "
            "config in configs/models."
        ) from None


def tell_what_is_set(path: str, config: PretrainedConfig) -> None:
    """Log what the file says and the run does not follow, because tokenizer or rows decide it."""
    values = _read_values(path)
    aliases = {standard: own for standard, own in config.attribute_map.items() if own in values}
    for name in SET_HERE:
        given, now = values.get(aliases.get(name, name)), getattr(config, name)
        if given is not None and given != now:
            reason = "tokenizer"
            if name == "max_position_embeddings":
                reason = "rows (max_seq_length): no longer text is trained on"
            logger.info("%s: %s is %s here, not %s, by the %s", path, name, now, given, reason)


def _checked_type(path: str, model_type: Any) -> str:
    known = MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
    if isinstance(model_type, str) and model_type in known:
        return model_type
    if model_type is None:
        raise Refusal(
            f"{path} is not a Hugging Face model config (it has no model_type); start from one in "
            "configs/models."
        )
    kind = "makes no text left to right" if str(model_type) in CONFIG_MAPPING else "is not known"
    raise Refusal(
        f"{path}: model_type {model_type!r} {kind}{nearest(str(model_type), known)}; HugCoder "
        "trains causal language models of transformers and runs no code from model folders."
    )


def _read_values(path: str) -> dict[str, Any]:
    """The JSON object in the file, infinities that transformers writes as objects included."""
    try:
        text = Path(path).read_text(encoding="utf-8")
        values = json.loads(
            text, object_pairs_hook=_without_doubles, parse_constant=_refuse_constant
        )
    except (OSError, ValueError, RecursionError) as error:  # also what is not UTF-8
        raise Refusal(
            f"{path} is not a Hugging Face model config ({told(error)}); start from one in "
            "configs/models."
        ) from None
    if not isinstance(values, dict):
        raise Refusal(f"{path} is not a Hugging Face model config: it holds no JSON object.")
    return PretrainedConfig._decode_special_floats(values)


def _without_doubles(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    names = [name for name, _ in pairs]
    if doubles := {name for name in names if names.count(name) > 1}:
        raise ValueError(f"the key {min(doubles)!r} is there twice")
    return dict(pairs)


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not a number")


# ---- values --------------------------------------------------------------------------------------


def _check_dtype(path: str, values: dict[str, Any]) -> None:
    """Training is in float32 or mixed precision whatever the file says, but a dtype it must be."""
    for name in ("dtype", "torch_dtype"):
        value = values.get(name)
        if value is not None and not isinstance(getattr(torch, str(value), None), torch.dtype):
            raise Refusal(f"{path}: {name} {value!r} is not a dtype of torch, such as float32.")


@contextmanager
def _rope_complaints() -> Iterator[list[str]]:
    """Collect what transformers only warns of: settings that this kind of positions leaves out."""
    found: list[str] = []

    def keep(record: logging.LogRecord) -> bool:
        said = record.getMessage()
        is_ours = "Unrecognized keys" in said or re.search("field must (be a|have length)", said)
        found.extend([said] if is_ours else [])
        return not is_ours

    rope_logger = logging.getLogger("transformers.modeling_rope_utils")
    rope_logger.addFilter(keep)
    try:
        yield found
    finally:
        rope_logger.removeFilter(keep)


def _check_values(path: str, config: PretrainedConfig) -> None:
    """Refuse numbers that the classes take and that make no model, or one that cannot learn."""
    values = config.to_dict()
    for name in COUNTS:
        value = values.get(config.attribute_map.get(name, name))
        if isinstance(value, (int, float)) and (isinstance(value, bool) or value < 1):
            raise Refusal(f"{path}: {name} {value} must be a whole number of at least 1.")
    for name, value in values.items():
        if not isinstance(value, (int, float)) or isinstance(value, bool):
            continue
        if value < 0 and (name.startswith("num_") or name.endswith(("_size", "_dim", "_window"))):
            raise Refusal(f"{path}: {name} {value} must not be negative.")
        if "drop" in name and not 0 <= value < 1:
            raise Refusal(f"{path}: {name} {value} must be at least 0 and below 1.")
        is_spread = name == "initializer_range" or name.endswith(("_eps", "_epsilon"))
        if is_spread and not (value > 0 and math.isfinite(value)):
            raise Refusal(f"{path}: {name} {value} must be a number above 0.")
    _check_heads(path, config)


def _check_heads(path: str, config: PretrainedConfig) -> None:
    heads, shared = (
        getattr(config, name, None) for name in ("num_attention_heads", "num_key_value_heads")
    )
    if isinstance(heads, int) and isinstance(shared, int) and heads % shared:
        raise Refusal(
            f"{path}: num_attention_heads {heads} is no multiple of num_key_value_heads {shared}; "
            "every key-value head serves the same number of them."
        )


def _unanswerable() -> tuple[type[Exception], ...]:
    """What shapes alone cannot answer, as which expert a token goes to; no fault of the config."""
    from torch._subclasses import fake_tensor
    from torch.fx.experimental.symbolic_shapes import GuardOnDataDependentSymNode

    return (
        fake_tensor.DataDependentOutputException,
        fake_tensor.DynamicOutputShapeException,
        fake_tensor.UnsupportedOperatorException,
        GuardOnDataDependentSymNode,
        NotImplementedError,
    )


def _try(config: PretrainedConfig) -> None:
    """Build a model and run it on a few tokens, all of it with shapes and no values.

    Experts are one batched product, because the kernels that group them want other sizes than the
    model does.
    """
    from torch._subclasses.fake_tensor import FakeTensorMode
    from torch.fx.experimental.symbolic_shapes import ShapeEnv

    config = copy.deepcopy(config)
    config._experts_implementation = "batched_mm"
    logging.getLogger("torch._subclasses.fake_tensor").setLevel(logging.CRITICAL)  # tracebacks
    fake = FakeTensorMode(shape_env=ShapeEnv(), allow_non_fake_inputs=True)
    with without_zero3(), fake, torch.no_grad():
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
        tokens = torch.zeros(1, 8, dtype=torch.long)
        model.train()(input_ids=tokens, position_ids=torch.arange(8)[None], use_cache=False)
