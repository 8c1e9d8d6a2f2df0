"""What a folder of weights needs beside them, so that any Hugging Face program opens it."""

import json
from collections.abc import Collection
from pathlib import Path

from transformers import GenerationConfig, PreTrainedModel

from hugcoder.data.codec import Codec
from hugcoder.data.tokenizer_files import copy_tokenizer
from hugcoder.files import write_json


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
