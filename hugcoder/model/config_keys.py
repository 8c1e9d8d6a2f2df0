"""Checks the keys of a model's config.json, and suggests the key that was meant.

transformers' config classes keep any key, so a typo would leave a setting at its default. The keys
of a class are read from its fields, its defaults and its code; further keys of published files are
listed here. `hugcoder.model.config` checks the values, except those of positions.
"""

import difflib
import inspect
import re
from collections.abc import Collection
from pathlib import Path
from typing import Any

from huggingface_hub.errors import StrictDataclassError
from transformers import CONFIG_MAPPING, AutoConfig, GenerationConfig, PretrainedConfig
from transformers.configuration_utils import ALLOWED_LAYER_TYPES
from transformers.modeling_rope_utils import RopeParameters

from hugcoder.refusal import Refusal

# Keys in config.json files on the hub that no model type lists and that do not affect weights.
COMMON_KEYS = {
    "_attn_implementation_autoset",
    "_commit_hash",
    "_name_or_path",
    "architectures",
    "auto_map",
    "bos_token_id",
    "cache_implementation",
    "decoder_start_token_id",
    "eos_token_id",
    "finetuning_task",
    "gradient_checkpointing",
    "is_llama_config",
    "model_type",
    "name_or_path",
    "num_labels",
    "output_attentions",
    "pad_token_id",
    "prefix",
    "pretraining_tp",
    "pruned_heads",
    "quantization_config",
    "rope_interleaved",
    "sep_token_id",
    "task_specific_params",
    "tf_legacy_loss",
    "tie_word_embeddings",
    "tokenizer_class",
    "torch_dtype",
    "torchscript",
    "transformers.js_config",
    "transformers_version",
    "unk_token_id",
    "unsloth_fixed",
    "use_bfloat16",
    "use_cache",
}
# Keys in published files of a model type that this release of transformers does not read.
OLD_SUMMARY = {
    "summary_activation",
    "summary_first_dropout",
    "summary_proj_to_labels",
    "summary_type",
    "summary_use_proj",
}
OLD_KEYS = {
    "bloom": {
        "attention_softmax_in_fp32",
        "bias_dropout_fusion",
        "masked_softmax_fusion",
        "n_inner",
        "offset_alibi",
        "seq_length",
        "skip_bias_add",
        "skip_bias_add_qkv",
    },
    "codegen": {"n_ctx", "scale_attn_weights", *OLD_SUMMARY},
    "deepseek_v2": {"aux_loss_alpha", "ep_size", "moe_layer_freq", "scoring_func", "seq_aux"},
    "deepseek_v3": {"aux_loss_alpha", "ep_size", "moe_layer_freq", "scoring_func", "seq_aux"},
    "falcon": {"apply_residual_connection_post_layernorm"},
    "gemma": {"hidden_activation"},
    "gemma2": {"hidden_act"},
    "gemma3_text": {"hidden_act"},
    "gpt2": {"n_ctx"},
    "gpt_bigcode": {
        "inference_runner",
        "max_batch_size",
        "max_sequence_length",
        "n_ctx",
        "pad_key_length",
        "pre_allocate_kv_cache",
        "validate_runner_input",
        *OLD_SUMMARY,
    },
    "gptj": {"n_ctx", "rotary", "scale_attn_weights", *OLD_SUMMARY},
    "opt": {"activation_dropout"},
    "phi3": {"attention_bias"},
    "qwen2": {"use_mrope"},
    "stablelm": {"parallel_residual"},
    "starcoder2": {
        "activation_function",
        "attention_softmax_in_fp32",
        "layer_norm_epsilon",
        "mlp_type",
        "norm_type",
        "scale_attention_softmax_in_fp32",
        "scale_attn_weights",
    },
}
SPM_VARIANT = "spm_variant"  # HugCoder's own: the SPM order that a model was trained in
ROPE_KEYS = {"rope_scaling", "rope_theta", "rope_parameters", "partial_rotary_factor"}
IN_WHOLE = {"rope_theta", "partial_rotary_factor"}  # older files have these outside the section
ROPE_SECTIONS = ("rope_scaling", "rope_parameters")
IN_ROPE = {"type", "mrope_section", "mscale_all_dim", "truncate", *RopeParameters.__annotations__}


def check_keys(
    path: str,
    values: dict[str, Any],
    config_class: type[PretrainedConfig],
    default: dict[str, Any] | None = None,
) -> None:
    """Check the keys of a config and of its sections.

    Args: default: the model type's default section; None = `values` is the whole config.
    Raises: Refusal at the first key that is not known or given twice.
    """
    if values.get("quantization_config") is not None:
        raise Refusal(
            f"{path} has a quantization_config, but quantized weights cannot be trained; take the "
            "section out."
        )
    _check_doubles(path, values, config_class)
    known = known_keys(config_class)
    if default is None:
        default = _default_of(config_class)
    else:
        known |= ROPE_KEYS  # a section may repeat them
    known |= set(default)
    for key, value in values.items():
        if key not in known:
            raise Refusal(_unknown(path, key, config_class.model_type, known))
        if key in ROPE_SECTIONS and isinstance(value, dict):
            _check_rope(path, key, value, config_class)
        elif key in ROPE_KEYS and value is not None and not fits_rope(key, value):
            raise Refusal(f"{path}: {key} {value!r} is not possible; give a number above 0.")
        elif key in config_class.sub_configs and isinstance(value, dict):
            section_class = _class_of_section(config_class, key, value)
            check_keys(f"{path}, {key}", value, section_class, default.get(key) or {})


def _check_doubles(path: str, values: dict[str, Any], config_class: type[PretrainedConfig]) -> None:
    """Refuse two names of one setting with different values; one would be ignored."""
    pairs = {
        (standard, own): (values[standard], values[own])
        for standard, own in config_class.attribute_map.items()
        if standard in values and own in values
    }
    if values.get("dtype") is not None and values.get("torch_dtype") is not None:
        dtypes = [str(values[name]).removeprefix("torch.") for name in ("dtype", "torch_dtype")]
        pairs["dtype", "torch_dtype"] = tuple(dtypes)
    sections = [name for name in ROPE_SECTIONS if values.get(name)]
    if len(sections) == len(ROPE_SECTIONS):
        pairs[ROPE_SECTIONS] = tuple(_positions(values[name]) for name in sections)
    for section in sections:
        for name in sorted(IN_WHOLE & {key for key in values if values[key] is not None}):
            inside = _inside(values[section], name)
            if inside and values[name] not in inside:
                pairs[name, f"{section}.{name}"] = (values[name], inside[0])
    for (one, other), (given, meant) in pairs.items():
        if given != meant:
            raise Refusal(
                f"{path} sets the same thing twice and differently, as {one} {given!r} and as "
                f"{other} {meant!r}; take one of them out."
            )


def _positions(section: Any) -> Any:
    """Return a section of positions under today's names, without keys that may stand outside."""
    if not isinstance(section, dict):
        return section
    now = {"rope_type" if key == "type" else key: value for key, value in section.items()}
    return {key: _positions(value) for key, value in now.items() if key not in IN_WHOLE}


def _inside(section: Any, name: str) -> list[Any]:
    """List a setting's values in a section of positions and in its types of layers."""
    if not isinstance(section, dict):
        return []
    parts = [section, *(value for value in section.values() if isinstance(value, dict))]
    return [part[name] for part in parts if part.get(name) is not None]


def known_keys(config_class: type[PretrainedConfig]) -> set[str]:
    """Collect a model type's keys: its fields, their other names, and keys that its code reads."""
    known = COMMON_KEYS | {SPM_VARIANT} | set(GenerationConfig._get_default_generation_params())
    known |= set(config_class.__dataclass_fields__) | set(config_class.attribute_map)
    known |= OLD_KEYS.get(config_class.model_type, set())
    for parent in config_class.__mro__[: config_class.__mro__.index(PretrainedConfig)]:
        looked_for = r"""kwargs\.(?:pop|get)\(\s*["'](\w+)["']"""
        known |= set(re.findall(looked_for, inspect.getsource(parent)))
    known |= _read_by_model(config_class)
    return known | ROPE_KEYS if known & ROPE_KEYS else known


def _read_by_model(config_class: type[PretrainedConfig]) -> set[str]:
    """Find keys that only the model's code reads, such as head_dim of StarCoder2."""
    place = Path(inspect.getfile(config_class))
    model = place.with_name(place.name.replace("configuration_", "modeling_"))
    source = model.read_text(encoding="utf-8") if model.is_file() else ""
    return set(re.findall(r"""getattr\(\s*(?:self\.)?config,\s*["'](\w+)["']""", source))


def _default_of(config_class: type[PretrainedConfig]) -> dict[str, Any]:
    """Return a model type's config of default sizes."""
    try:
        return config_class().to_dict()
    except (ValueError, StrictDataclassError):  # some assistant models have no default config
        return {}


def _class_of_section(
    config_class: type[PretrainedConfig], key: str, value: dict[str, Any]
) -> type[PretrainedConfig]:
    section_class = config_class.sub_configs[key]
    if section_class is not AutoConfig:
        return section_class
    return CONFIG_MAPPING[
        value.get("model_type") or config_class.sub_configs_defaults[key].model_type
    ]


def _check_rope(
    path: str, section: str, values: dict[str, Any], config_class: type[PretrainedConfig]
) -> None:
    """Check the settings of positions, which may differ for each type of layer."""
    labels = {*ALLOWED_LAYER_TYPES, *(getattr(config_class, "_rope_type_labels", None) or ())}
    known = IN_ROPE | labels | set(config_class.ignore_keys_at_rope_validation or ())
    for key, value in values.items():
        if key not in known:
            raise Refusal(_unknown(f"{path}, {section}", key, config_class.model_type, known))
        if isinstance(value, dict) and key in labels:
            _check_rope(path, f"{section}.{key}", value, config_class)
        elif key in ("rope_type", "type") and isinstance(value, str):
            _check_rope_type(f"{path}, {section}", value, config_class)
        elif value is not None and not fits_rope(key, value):
            raise Refusal(
                f"{path}: {section} has {key} {value!r}, which is not possible; give a value of "
                "the kind that transformers documents."
            )


def _check_rope_type(where: str, name: str, config_class: type[PretrainedConfig]) -> None:
    """Refuse a kind of positions that neither transformers nor the class itself knows."""
    checks = [re.fullmatch(r"_validate_(\w+)_rope_parameters", name) for name in dir(config_class)]
    known = [check[1] for check in checks if check]
    if name not in known and f'"{name}"' not in inspect.getsource(config_class):
        raise Refusal(
            f"{where}: there is no rope_type {name!r}{nearest(name, known)}; there are "
            f"{', '.join(known)}."
        )


def fits_rope(key: str, value: Any) -> bool:
    """Tell whether a value is of the kind that transformers lists for the key."""
    kind = str(RopeParameters.__annotations__.get(key, "other"))
    numbers = value if "list" in kind and isinstance(value, list) else [value]
    if "list" in kind or "float" in kind or "int" in kind:
        are_numbers = all(type(number) in (int, float) and number >= 0 for number in numbers)
        if key == "partial_rotary_factor" and are_numbers and value > 1:
            return False
        return (
            are_numbers
            and isinstance(value, list) == ("list" in kind)
            and (key not in ("rope_theta", "factor", "partial_rotary_factor") or value > 0)
        )
    return "str" not in kind or isinstance(value, str)


def _unknown(where: str, key: str, model_type: str, known: set[str]) -> str:
    return (
        f"{where}: {model_type or 'this section'} has no setting {key!r}{nearest(key, known)}; "
        "a key without effect must be taken out."
    )


def nearest(name: str, known: Collection[str]) -> str:
    """Suggest a known name: first one that has the same words and more, then by letters."""
    words = set(name.split("_"))
    longer = [candidate for candidate in sorted(known) if words < set(candidate.split("_"))]
    close = difflib.get_close_matches(name, longer, n=1)
    close = close or difflib.get_close_matches(name, sorted(known), n=1)
    return f" (did you mean {close[0]!r}?)" if close else ""
