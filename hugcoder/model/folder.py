"""Completes a folder of weights, so that any Hugging Face program opens it."""

import json
from collections.abc import Collection
from pathlib import Path

from transformers import GenerationConfig, PreTrainedModel

from hugcoder.data.codec import Codec
from hugcoder.data.tokenizer_files import copy_tokenizer
from hugcoder.files import write_json


def end_ids(model: PreTrainedModel) -> set[int]:
    """Return the ids that end a generation in the model's own generation config."""
    eos = model.generation_config.eos_token_id
    return set() if eos is None else {eos} if isinstance(eos, int) else set(eos)


def generation_config(codec: Codec, own_ends: Collection[int] = ()) -> GenerationConfig:
    """Make a generation config that suppresses sentinels.

    In programs that do not suppress them, sentinels and all other FIM specials end a generation, so
    no generation runs past the end of a middle.

    Args: own_ends: the end ids of a continued model, such as the end of a chat turn; they are kept.
        Its other settings (temperature, top_p, ...) suited the old weights and are dropped.
    """
    sentinels = sorted(codec.fim_ids.sentinels.values())
    return GenerationConfig(
        bos_token_id=codec.end_of_text,
        eos_token_id=sorted({*codec.fim_ids.stops, *sentinels, *own_ends}),
        pad_token_id=codec.pad,
        suppress_tokens=sentinels,
    )


def finish_model_folder(folder: Path, tokenizer: Path) -> None:
    """Complete a folder of weights, so that any Hugging Face program opens it.

    Adds the tokenizer. In config.json, sets use_cache, which training switches off, and rope_theta,
    which readers older than transformers 5 need.
    """
    copy_tokenizer(tokenizer, folder)
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    config["use_cache"] = True
    rope = config.get("rope_parameters") or {}
    if "rope_theta" in rope:
        config["rope_theta"] = rope["rope_theta"]
    write_json(folder / "config.json", config)
