"""The model: from a plain Hugging Face config with random weights, or from a checkpoint.

Holds how it is built, counted and made ready for others to open; random weights themselves are
`hugcoder.model.random_init`'s. The vocabulary and the special ids always come from the tokenizer.
"""

import json
import logging
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import GenerationConfig, PretrainedConfig, PreTrainedModel

from hugcoder.data.codec import Codec
from hugcoder.data.tokenizer_files import copy_tokenizer
from hugcoder.engines.launched import uses
from hugcoder.engines.sharded_parameters import are_zero, whole_shape, write_whole
from hugcoder.files import write_json
from hugcoder.hardware import flops_per_token
from hugcoder.model.config import check_config, read_config, tell_what_is_set
from hugcoder.model.pretrained import check_files, load_causal_lm
from hugcoder.model.random_init import build_random
from hugcoder.model.residual import writes_to_residual
from hugcoder.pretraining.arguments import ModelArguments, PretrainArguments
from hugcoder.refusal import Refusal

logger = logging.getLogger(__name__)

VOCABULARY_MULTIPLE = 128  # matrix kernels are fastest on multiples of 64 to 128


def build_model(
    arguments: ModelArguments, codec: Codec, max_seq_length: int, training: PretrainArguments
) -> PreTrainedModel:
    """The model to train, in float32 (mixed precision casts copies), on the CPU.

    With random weights under FSDP2 it has no memory yet, and under ZeRO-3 it is sharded already.

    Raises: Refusal when the config or the checkpoint does not fit the rows or the tokenizer.
    """
    if arguments.config_file:
        config = fit_config(read_config(arguments.config_file), codec, max_seq_length)
        tell_what_is_set(arguments.config_file, config)
        model = build_random(
            config,
            arguments.attn_implementation,
            seed=training.seed,
            residual_init=arguments.residual_init,
            on_meta=bool(training.fsdp) or uses("FSDP"),
        )
        own_ends: set[int] = set()
    else:
        model = load_model(arguments, codec)
        own_ends = end_ids(model)
    longest = getattr(model.config, "max_position_embeddings", max_seq_length)  # Bloom has none
    if max_seq_length > longest:
        raise Refusal(
            f"max_seq_length {max_seq_length} exceeds the model's max_position_embeddings "
            f"{longest}; give --max_seq_length {longest} or less, as a trained model's context is "
            "not made longer."
        )
    model.generation_config = generation_config(codec, own_ends)
    return model


def check_model(arguments: ModelArguments) -> None:
    """Raises: Refusal when no model can be made of what is given; before any data are read."""
    if arguments.config_file:
        check_config(arguments.config_file)
    else:
        check_files(arguments.model_name_or_path)


def fit_config(config: PretrainedConfig, codec: Codec, max_seq_length: int) -> PretrainedConfig:
    """Take the vocabulary, padded to a multiple of 128, and the special ids from the tokenizer.

    The longest position becomes the row length: what was not trained on must not be promised.
    """
    config.max_position_embeddings = max_seq_length
    config.vocab_size = -(-codec.vocab_size // VOCABULARY_MULTIPLE) * VOCABULARY_MULTIPLE
    config.bos_token_id = config.eos_token_id = codec.end_of_text
    config.pad_token_id = codec.pad
    return config


def load_model(arguments: ModelArguments, codec: Codec) -> PreTrainedModel:
    model = load_causal_lm(
        arguments.model_name_or_path, torch.float32, arguments.attn_implementation
    )
    if model.config.vocab_size < codec.vocab_size:
        raise Refusal(
            f"{arguments.model_name_or_path} has {model.config.vocab_size} tokens, fewer than the "
            f"token "
            f"store's tokenizer with {codec.vocab_size}; tokenize the corpus with the model's own."
        )
    return model


@contextmanager
def awake(model: PreTrainedModel) -> Iterator[None]:
    """Give residual outputs that are zero (`residual_init zero`) some noise for a while.

    With zeros there, no layer has any effect on the logits and a leak could not be seen. Works on
    all ranks, on whole and on sharded parameters; every rank gets its part of the same noise.
    """
    outputs = [p for name, p in model.named_parameters() if writes_to_residual(name)]
    asleep = [p for p, is_zero in zip(outputs, are_zero(outputs), strict=True) if is_zero]
    generator = torch.Generator().manual_seed(0)
    spread = getattr(model.config, "initializer_range", 0.02)  # OPT, Bloom and others have none
    for parameter in asleep:
        noise = torch.empty(whole_shape(parameter))
        write_whole(parameter, noise.normal_(0.0, spread, generator=generator))
    try:
        yield
    finally:
        for parameter in asleep:
            write_whole(parameter, torch.zeros(whole_shape(parameter)))


def end_ids(model: PreTrainedModel) -> set[int]:
    """The ids that end a generation by the model's own generation config."""
    eos = model.generation_config.eos_token_id
    return set() if eos is None else {eos} if isinstance(eos, int) else set(eos)


def generation_config(codec: Codec, own_ends: Collection[int] = ()) -> GenerationConfig:
    """Sentinels are never written, and where a program does not know that, they and every other FIM
    special end a generation, so that none runs past the end of a middle.

    Args: own_ends: of a model that is continued, such as the end of a turn in a chat; kept. Its
        other settings (temperature, top_p, ...) were chosen for the weights before, and are not.
    """
    sentinels = sorted(codec.fim_ids.sentinels.values())
    return GenerationConfig(
        bos_token_id=codec.end_of_text,
        eos_token_id=sorted({*codec.fim_ids.stops, *sentinels, *own_ends}),
        pad_token_id=codec.pad,
        suppress_tokens=sentinels,
    )


@dataclass(frozen=True)
class ModelSize:
    """Counts of one model. flops_per_token: forward and backward, see
    `hardware.flops_per_token`."""

    parameters: int
    embedding_parameters: int
    flops_per_token: float

    def __str__(self) -> str:
        inside = self.parameters - self.embedding_parameters
        return (
            f"{self.parameters:,} parameters ({inside:,} outside embeddings), "
            f"{self.flops_per_token / 1e6:,.1f} MFLOPs a token"
        )


def measure_model(model: PreTrainedModel, row_length: int) -> ModelSize:
    """Count parameters (tied ones once) and FLOPs; whole ones, also of a model that is sharded."""
    config = model.config
    parameters = sum(whole_shape(parameter).numel() for parameter in model.parameters())
    embedding = whole_shape(model.get_input_embeddings().weight).numel()
    multiplying = parameters if config.tie_word_embeddings else parameters - embedding
    head_size = (
        getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    )
    width = config.num_attention_heads * head_size
    flops = flops_per_token(multiplying, config.num_hidden_layers, width, row_length)
    return ModelSize(parameters, embedding, flops)


def finish_model_folder(folder: Path, tokenizer: Path) -> None:
    """Make a folder of weights one that any Hugging Face program opens.

    Adds the tokenizer, and sets in config.json use_cache, which training switches off, and
    rope_theta, which readers older than transformers 5 look for.
    """
    copy_tokenizer(tokenizer, folder)
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    config["use_cache"] = True
    rope = config.get("rope_parameters") or {}
    if "rope_theta" in rope:
        config["rope_theta"] = rope["rope_theta"]
    write_json(folder / "config.json", config)
