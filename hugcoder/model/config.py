"""Reads a model's config.json, and refuses mistakes that transformers would accept.

Its config classes keep any key, so a typo would train a model of the default size. Here the model
type must know every key, counts must be whole numbers, and a model of the config must run on a few
tokens that have shapes but no values. `hugcoder.model.build` sets what HugCoder decides itself.
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

import fim
from hugcoder.engines.zero import without_zero3
from hugcoder.model.config_keys import SPM_VARIANT, check_keys, nearest
from hugcoder.refusal import Refusal, reason_of

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
    """Read the config in a file.

    Raises: Refusal when the file is not a config, or has a key that its model type does not know,
    or an impossible value.
    """
    values = _read_values(path)
    model_type = values.pop("model_type", None)
    config_class = CONFIG_MAPPING[_checked_type(path, model_type)]
    check_keys(path, values, config_class)
    values.pop("quantization_config", None)  # null, which breaks older readers of the model
    _check_dtype(path, values)
    try:
        with _rope_complaints() as complaints:
            config = config_class(**values)
    except Exception as error:  # the config classes may raise anything for a wrong value
        raise Refusal(
            f"{path} is not a valid config of model type {model_type}: {reason_of(error)}"
        ) from None
    if complaints:
        raise Refusal(f"{path}: {complaints[0]}")
    _check_values(path, config)
    return config


def check_config(path: str) -> None:
    """Check that a model can be built from the file and run on some tokens.

    Takes no memory and about 2 s for 7B, so a mistake is refused before any data are read.
    Raises: Refusal when it cannot.
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
    except Exception as error:  # the model's code may raise anything
        raise Refusal(
            f"no model can be made of {path}: {reason_of(error)}; compare its sizes with those "
            "of a config in configs/models."
        ) from None


def spm_variant_of(name: str) -> int:
    """Return the SPM order (`fim.SPM_ORDERS`) that a model folder or hub model was trained in.

    0 = not said, so its family's. Raises: Refusal when there is no such variant.
    """
    try:
        values, _ = PretrainedConfig.get_config_dict(name)
    except (OSError, ValueError) as error:
        raise Refusal(f"the config.json of {name} cannot be read: {reason_of(error)}.") from None
    variant = values.get(SPM_VARIANT, 0)
    if variant not in (0, *fim.SPM_ORDERS):
        raise Refusal(
            f"config.json of {name} has {SPM_VARIANT} {variant!r}; there are "
            f"{', '.join(map(str, fim.SPM_ORDERS))}: correct it, or take it out."
        )
    return variant


def tell_what_is_set(path: str, config: PretrainedConfig) -> None:
    """Log values in the file that the run replaces, because the tokenizer or the rows decide."""
    values = _read_values(path)
    aliases = {standard: own for standard, own in config.attribute_map.items() if own in values}
    for name in SET_HERE:
        given, now = values.get(aliases.get(name, name)), getattr(config, name)
        if given is not None and given != now:
            reason = "tokenizer"
            if name == "max_position_embeddings":
                reason = "rows (max_seq_length), and longer text is not trained on"
            logger.info("%s: %s is %s, not %s; set by the %s", path, name, now, given, reason)


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
    """Read the JSON object in the file, with the infinities that transformers writes as objects."""
    try:
        text = Path(path).read_text(encoding="utf-8")
        values = json.loads(
            text, object_pairs_hook=_without_doubles, parse_constant=_refuse_constant
        )
    except (OSError, ValueError, RecursionError) as error:  # ValueError: not UTF-8, not JSON
        raise Refusal(
            f"{path} is not a Hugging Face model config ({reason_of(error)}); start from one in "
            "configs/models."
        ) from None
    if not isinstance(values, dict):
        raise Refusal(f"{path} is not a Hugging Face model config: it is not a JSON object.")
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
    """Refuse a wrong dtype, although training uses float32 or mixed precision in any case."""
    for name in ("dtype", "torch_dtype"):
        value = values.get(name)
        if value is not None and not isinstance(getattr(torch, str(value), None), torch.dtype):
            raise Refusal(f"{path}: {name} {value!r} is not a dtype of torch, such as float32.")


@contextmanager
def _rope_complaints() -> Iterator[list[str]]:
    """Collect settings that this kind of positions ignores; transformers only warns of them."""
    found: list[str] = []

    def keep(record: logging.LogRecord) -> bool:
        text = record.getMessage()
        is_complaint = re.search("Unrecognized keys|field must (be a|have length)", text)
        found.extend([text] if is_complaint else [])
        return not is_complaint

    rope_logger = logging.getLogger("transformers.modeling_rope_utils")
    rope_logger.addFilter(keep)
    try:
        yield found
    finally:
        rope_logger.removeFilter(keep)


def _check_values(path: str, config: PretrainedConfig) -> None:
    """Refuse numbers that the classes accept but that give no model, or one that cannot learn."""
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
            f"{path}: num_attention_heads {heads} is not a multiple of num_key_value_heads "
            f"{shared}; every key-value head must serve the same number of attention heads."
        )


def _unanswerable() -> tuple[type[Exception], ...]:
    """List errors that do not blame the config: shapes alone cannot tell a token's expert."""
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
    """Build a model and run it on a few tokens, with shapes but no values.

    Experts run as one batched product, because grouped kernels need other sizes than the model.
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
