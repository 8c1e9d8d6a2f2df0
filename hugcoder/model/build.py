"""Builds a model from a Hugging Face config with random weights, or from a checkpoint.

The vocabulary and the special ids always come from the tokenizer. `hugcoder.model.random_init`
makes the random weights.
"""

import torch
from transformers import PretrainedConfig, PreTrainedModel

from hugcoder.data.codec import Codec
from hugcoder.model.config import read_config, tell_what_is_set
from hugcoder.model.config_keys import SPM_VARIANT
from hugcoder.model.folder import end_ids, generation_config
from hugcoder.model.pretrained import load_causal_lm
from hugcoder.model.random_init import build_random
from hugcoder.refusal import Refusal

VOCABULARY_MULTIPLE = 128  # matrix kernels are fastest on multiples of 64 to 128


def new_model(
    config_file: str,
    codec: Codec,
    max_seq_length: int,
    attn_implementation: str,
    residual_init: str,
    copy_heads: int,
    seed: int,
    on_meta: bool,
) -> PreTrainedModel:
    """Build a model with random weights in float32 on the CPU; mixed precision casts copies.

    Under ZeRO-3 it is sharded already.

    Args: on_meta: build it without memory, to be filled once it is sharded, as under FSDP2.
    Raises: Refusal when the config does not fit the rows or the tokenizer.
    """
    config = fit_config(read_config(config_file), codec, max_seq_length)
    tell_what_is_set(config_file, config)
    model = build_random(
        config,
        attn_implementation,
        seed=seed,
        residual_init=residual_init,
        copy_heads=copy_heads,
        on_meta=on_meta,
    )
    model.generation_config = generation_config(codec)
    _keep_spm_variant(model, codec)
    _check_positions(model, max_seq_length)
    return model


def continued_model(
    name: str, codec: Codec, max_seq_length: int, attn_implementation: str
) -> PreTrainedModel:
    """Load a model from a folder or the hub, in float32, on the CPU or sharded by ZeRO-3.

    Raises: Refusal when it does not fit the rows or the tokenizer.
    """
    model = load_causal_lm(name, torch.float32, attn_implementation)
    if model.config.vocab_size < codec.vocab_size:
        raise Refusal(
            f"{name} has {model.config.vocab_size} tokens, fewer than the token store's tokenizer "
            f"with {codec.vocab_size}; tokenize the corpus with the model's own tokenizer."
        )
    model.generation_config = generation_config(codec, end_ids(model))
    _keep_spm_variant(model, codec)
    _check_positions(model, max_seq_length)
    return model


def _keep_spm_variant(model: PreTrainedModel, codec: Codec) -> None:
    if codec.spm_variant:
        setattr(model.config, SPM_VARIANT, codec.spm_variant)


def _check_positions(model: PreTrainedModel, max_seq_length: int) -> None:
    longest = getattr(model.config, "max_position_embeddings", max_seq_length)  # Bloom has none
    if max_seq_length > longest:
        raise Refusal(
            f"max_seq_length {max_seq_length} exceeds the model's max_position_embeddings "
            f"{longest}; give --max_seq_length {longest} or less, because the context of a trained "
            "model cannot be made longer."
        )


def fit_config(config: PretrainedConfig, codec: Codec, max_seq_length: int) -> PretrainedConfig:
    """Take the vocabulary, padded to a multiple of 128, and the special ids from the tokenizer.

    The longest position becomes the row length, because longer texts are not trained on.
    """
    config.max_position_embeddings = max_seq_length
    config.vocab_size = -(-codec.vocab_size // VOCABULARY_MULTIPLE) * VOCABULARY_MULTIPLE
    config.bos_token_id = config.eos_token_id = codec.end_of_text
    config.pad_token_id = codec.pad
    return config
