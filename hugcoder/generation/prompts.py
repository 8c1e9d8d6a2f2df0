"""Makes prompts for completing and filling in, cut to the room in the model's context.

Reads no files: `generate.py` finds the positions in files.
"""

from typing import TYPE_CHECKING, NamedTuple

from hugcoder.generation.loading import CheckpointCodec
from hugcoder.refusal import Refusal

if TYPE_CHECKING:
    from transformers import PreTrainedModel

PREFIX_SHARE = 0.75  # of the room for context, when prefix and suffix compete for it
MIN_PROMPT_TOKENS = 16


def context_length(model: "PreTrainedModel") -> int:
    """Return the most tokens of the model's context."""
    return model.config.max_position_embeddings


def prompt_room(model: "PreTrainedModel", max_new_tokens: int) -> int:
    """Return the most tokens of a prompt. Raises: Refusal when almost none are left for it."""
    room = context_length(model) - max_new_tokens
    if room < MIN_PROMPT_TOKENS:
        raise Refusal(
            f"max_new_tokens {max_new_tokens} leaves {room} tokens of the model's context of "
            f"{context_length(model)} for the prompt; give at most "
            f"{context_length(model) - MIN_PROMPT_TOKENS}."
        )
    return room


def trim_context(prefix: list[int], suffix: list[int], room: int) -> tuple[list[int], list[int]]:
    """Cut context to `room` tokens; keep the end of the prefix and the start of the suffix.

    When both are too long, the prefix gets three quarters. Room that one does not use goes to the
    other.
    """
    room = max(room, 0)
    for_suffix = min(len(suffix), max(room - len(prefix), room - int(room * PREFIX_SHARE)))
    for_prefix = min(len(prefix), room - for_suffix)
    return prefix[len(prefix) - for_prefix :], suffix[:for_suffix]


def kept_context(
    codec: CheckpointCodec, prefix: list[int], suffix: list[int], max_tokens: int
) -> tuple[list[int], list[int]]:
    """Cut prefix and suffix to what an infilling prompt of `max_tokens` keeps of them."""
    num_fixed = len(codec.start_ids) + len(codec.fim_ids.prompt([], [], "psm"))
    return trim_context(prefix, suffix, max_tokens - num_fixed)


class Prompt(NamedTuple):
    """Holds the ids after which a model writes, and the token before them that it writes again.

    An answer must begin with the bytes of `last` (`hugcoder.data.healing`); none where the prompt
    has no such token.
    """

    ids: list[int]
    last: list[int]


def arrange_prompt(
    codec: CheckpointCodec, prefix: list[int], suffix: list[int], mode: str, max_tokens: int
) -> Prompt:
    """Do the work of `infill_prompt` for ids."""
    prefix, suffix = kept_context(codec, prefix, suffix, max_tokens)
    ids, last = codec.healing.heal(prefix)
    return Prompt([*codec.start_ids, *codec.fim_ids.prompt(ids, suffix, mode)], last)


def infill_prompt(
    codec: CheckpointCodec, prefix: str, suffix: str, mode: str, max_prompt_tokens: int
) -> Prompt:
    """Return the prompt after which the model writes the text between `prefix` and `suffix`.

    Args: mode: psm or spm, the order of the parts. max_prompt_tokens: see `prompt_room`; what is
    left out of the prefix counts too.
    Context is cut as in `trim_context`; sentinels are never cut.
    """
    prefix_ids, suffix_ids = codec.encode([prefix, suffix])
    return arrange_prompt(codec, prefix_ids, suffix_ids, mode, max_prompt_tokens)


def completion_prompt(codec: CheckpointCodec, text: str, max_prompt_tokens: int) -> Prompt:
    """Return the prompt after which the model continues `text`; keep the end of a long text.

    Raises: Refusal for an empty text, if the model has no start ids to begin with.
    """
    (ids,) = codec.encode([text])
    if not ids and not codec.start_ids:
        raise Refusal("the prompt is empty; give at least one character to continue.")
    room = max_prompt_tokens - len(codec.start_ids)
    kept, last = codec.healing.heal(ids[max(len(ids) - room, 0) :])
    if not kept and not codec.start_ids:  # nothing would be left to go on from
        kept, last = last, []
    return Prompt([*codec.start_ids, *kept], last)
