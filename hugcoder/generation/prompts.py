"""Prompts: what a model is given to complete or to fill in, cut to the room there is.

Holds no files or editors: `generate.py` reads positions in files, a server would call the same
functions.
"""

from typing import TYPE_CHECKING

from hugcoder.generation.loading import CheckpointCodec
from hugcoder.refusal import Refusal

if TYPE_CHECKING:
    from transformers import PreTrainedModel

PREFIX_SHARE = 0.75  # of the room for context, when prefix and suffix compete for it
MIN_PROMPT_TOKENS = 16


def context_length(model: "PreTrainedModel") -> int:
    """Tokens that the model was made for."""
    return model.config.max_position_embeddings


def prompt_room(model: "PreTrainedModel", max_new_tokens: int) -> int:
    """Tokens that a prompt may have. Raises: Refusal when next to nothing is left for it."""
    room = context_length(model) - max_new_tokens
    if room < MIN_PROMPT_TOKENS:
        raise Refusal(
            f"max_new_tokens {max_new_tokens} leaves {room} tokens of the model's context of "
            f"{context_length(model)} for the prompt; give at most "
            f"{context_length(model) - MIN_PROMPT_TOKENS}."
        )
    return room


def trim_context(prefix: list[int], suffix: list[int], room: int) -> tuple[list[int], list[int]]:
    """Cut context to `room` tokens: the end of the prefix and the start of the suffix stay.

    When both are too long the prefix gets three quarters; what one does not use the other gets.
    """
    room = max(room, 0)
    for_suffix = min(len(suffix), max(room - len(prefix), room - int(room * PREFIX_SHARE)))
    for_prefix = min(len(prefix), room - for_suffix)
    return prefix[len(prefix) - for_prefix :], suffix[:for_suffix]


def kept_context(
    codec: CheckpointCodec, prefix: list[int], suffix: list[int], max_tokens: int
) -> tuple[list[int], list[int]]:
    """What an infilling prompt of `max_tokens` keeps of prefix and suffix, in any order."""
    num_fixed = len(codec.start_ids) + len(codec.fim_ids.prompt([], [], "psm"))
    return trim_context(prefix, suffix, max_tokens - num_fixed)


def arrange_prompt(
    codec: CheckpointCodec, prefix: list[int], suffix: list[int], mode: str, max_tokens: int
) -> list[int]:
    """`infill_prompt` for ids."""
    prefix, suffix = kept_context(codec, prefix, suffix, max_tokens)
    return [*codec.start_ids, *codec.fim_ids.prompt(prefix, suffix, mode)]


def infill_prompt(
    codec: CheckpointCodec, prefix: str, suffix: str, mode: str, max_prompt_tokens: int
) -> list[int]:
    """Ids after which the model writes what belongs between `prefix` and `suffix`.

    Args: mode: psm or spm, the order of the parts. max_prompt_tokens: see `prompt_room`.
    Context is cut as in `trim_context`; sentinels never are.
    """
    prefix_ids, suffix_ids = codec.encode([prefix, suffix])
    return arrange_prompt(codec, prefix_ids, suffix_ids, mode, max_prompt_tokens)


def completion_prompt(codec: CheckpointCodec, text: str, max_prompt_tokens: int) -> list[int]:
    """Ids after which the model continues `text`, of which the end stays when it is too long.

    Raises: Refusal for an empty text, where a model without start ids has nothing to go on.
    """
    (ids,) = codec.encode([text])
    if not ids and not codec.start_ids:
        raise Refusal("the prompt is empty; give at least one character to continue.")
    room = max_prompt_tokens - len(codec.start_ids)
    return [*codec.start_ids, *ids[max(len(ids) - room, 0) :]]
