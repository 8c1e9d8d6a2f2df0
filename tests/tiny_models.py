"""Small configs of every causal language model that transformers has."""

from transformers import CONFIG_MAPPING, PretrainedConfig
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

MODEL_TYPES = list(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)

SMALL = {
    "vocab_size": 300,
    "hidden_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": 64,
    "pad_token_id": 3,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "intermediate_size": 96,
    "ffn_dim": 96,
    "n_inner": 96,
    "rotary_dim": 8,
    "moe_intermediate_size": 32,
    "shared_expert_intermediate_size": 32,
    "num_experts": 4,
    "num_local_experts": 4,
    "n_routed_experts": 4,
    "num_experts_per_tok": 2,
    "first_k_dense_replace": 1,
    "n_group": 1,
    "topk_group": 1,
    "q_lora_rank": 16,
    "kv_lora_rank": 16,
    "qk_rope_head_dim": 8,
    "qk_nope_head_dim": 8,
    "v_head_dim": 16,
    "d_model": 64,
    "n_heads": 4,
    "n_layers": 3,
}
ALL_HEADS = {"num_key_value_heads": 4}  # latent attention
OTHERS = {
    **dict.fromkeys(["axk1", "axk2", "deepseek_v2", "deepseek_v3", "glm4_moe_lite"], ALL_HEADS),
    **dict.fromkeys(["minicpm3", "youtu"], ALL_HEADS),
    "dbrx": {
        "ffn_config": {"ffn_hidden_size": 32, "moe_num_experts": 4, "moe_top_k": 2},
        "attn_config": {"kv_n_heads": 2, "clip_qkv": 8, "rope_theta": 1e4},
    },
    "deepseek_v32": ALL_HEADS | {"index_n_heads": 2, "index_head_dim": 16},
    "dots1": ALL_HEADS | {"n_shared_experts": 1},
    "gemma3n_text": {
        "num_kv_shared_layers": 0,
        "vocab_size_per_layer_input": 300,
        "layer_types": ["sliding_attention", "sliding_attention", "full_attention"],
        "activation_sparsity_pattern": [0.0] * 3,
    },
    "gemma4_text": {"vocab_size_per_layer_input": 300, "hidden_size_per_layer_input": 16},
    "glm_moe_dsa": ALL_HEADS | {"index_n_heads": 2, "index_head_dim": 16},
    "gpt_neo": {"num_layers": 3, "attention_types": [[["global"], 3]]},
    "lfm2_moe": {
        "layer_types": ["conv", "full_attention", "full_attention"],
        "num_dense_layers": 1,
    },
    "mamba2": {"num_heads": 8, "head_dim": 16, "n_groups": 2},
    "xlnet": {"d_inner": 96, "n_head": 4, "d_head": 16},
    "plbart": {"encoder_attention_heads": 4, "decoder_attention_heads": 4},
}
# Composites of other models, and those that the names of their settings do not make small.
NOT_SMALL = {
    "blenderbot", "blt", "cohere_compass_text", "dots3_note", "dots3_note_text", "emu3", "fuyu",
    "gemma3", "gemma3n", "gemma4", "gemma4_assistant", "gemma4_unified",
    "gemma4_unified_assistant", "git", "got_ocr2", "llama4", "longcat_flash", "mllama",
    "moss_transcribe_diarize", "musicgen", "musicgen_melody", "phi4_multimodal", "qwen3_5",
    "qwen3_5_moe", "qwen4_exp", "reformer", "whisper", "xmod", "zamba", "zamba2", "zaya",
}  # fmt: skip
SMALL_TYPES = [name for name in MODEL_TYPES if name not in NOT_SMALL]


def small_config(model_type: str, **changes) -> PretrainedConfig:
    """A config of three layers, 64 wide."""
    config_class = CONFIG_MAPPING[model_type]
    aliases = config_class.attribute_map
    known = set(config_class.__dataclass_fields__) | set(aliases)
    values = {name: value for name, value in SMALL.items() if name in known}
    values = {name: v for name, v in values.items() if aliases.get(name) not in values}
    return config_class(**(values | OTHERS.get(model_type, {}) | changes))
