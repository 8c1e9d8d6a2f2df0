"""From a checkpoint to text: loading, prompts, stop tokens, and generation one token at a time.

Works on the `model/` folder of a run and on hub models of the families that `fim` knows. Generation
is a small loop over the key-value cache (one pass over the prompt, then one token a pass), for one
prompt that streams or for a left-padded batch; both give the same ids. Holds no files or editors:
`generate.py` reads positions in files, a server would call the same functions.

Shapes: B prompts, T tokens of the longest prompt, V vocabulary.
"""

import logging
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from hugcoder.data.codec import Codec
from hugcoder.data.tokenizer_files import hub_tokenizer
from hugcoder.hardware import check_device
from hugcoder.hub import can_be_hub_name, check_hub_has, did_you_mean
from hugcoder.refusal import Refusal
from hugcoder.run.checkpoint import last_complete

if TYPE_CHECKING:
    from transformers import PreTrainedModel

logger = logging.getLogger(__name__)

REPLACEMENT = "\ufffd"  # what decoding makes of bytes that are no (or not yet a) code point
PREFIX_SHARE = 0.75  # of the room for context, when prefix and suffix compete for it
MIN_PROMPT_TOKENS = 16


# ---- loading -------------------------------------------------------------------------------------


class CheckpointCodec(Codec):
    """The Codec of any checkpoint: also of vocabularies that are not byte-level (Code Llama,
    CodeGemma), and with the ids a family puts before every text.
    """

    # A SentencePiece vocabulary puts a space before a text and drops it again when decoding; behind
    # a character that merges with nothing, a text keeps its own first bytes.
    ANCHOR = "\u263a"

    @cached_property
    def is_byte_level(self) -> bool:
        """Whether ids and bytes correspond, so that texts need no anchor."""
        try:
            return bool(self.token_bytes)
        except Refusal:
            return False

    @cached_property
    def start_ids(self) -> list[int]:
        """Ids that stand before every text and prompt; none for HugCoder's own models."""
        return [i for i in self._tokenizer.encode("").ids if i not in self.fim_ids.stops]

    @cached_property
    def _anchor_ids(self) -> list[int]:
        return [] if self.is_byte_level else super().encode([self.ANCHOR])[0]

    def encode(self, texts: list[str]) -> list[list[int]]:
        """Ids of each text as if it stood inside a longer one."""
        if self.is_byte_level:
            return super().encode(texts)
        return [
            ids[len(self._anchor_ids) :]
            for ids in super().encode([self.ANCHOR + text for text in texts])
        ]

    def decode(self, ids: Iterable[int]) -> str:
        """The text of ids, special tokens left out; the inverse of `encode`."""
        if self.is_byte_level:
            return super().decode(ids)
        text = self._tokenizer.decode([*self._anchor_ids, *ids], skip_special_tokens=True)
        return text[text.index(self.ANCHOR) + len(self.ANCHOR) :]


def find_checkpoint(name: str) -> Path | None:
    """The local folder that `name` means, or None when it can only be a hub name.

    Takes a folder with a config.json or a run folder with one in its `model/`.
    Raises: Refusal when a folder is meant and holds no model.
    """
    folder = Path(name)
    for candidate in (folder, folder / "model"):
        if (candidate / "config.json").is_file():
            return candidate
    if folder.is_dir() and (newest := last_complete(folder)):
        raise Refusal(
            f"{folder} is a run that has not ended, so it has no model/ yet; give its newest "
            f"checkpoint: {newest}."
        )
    if not can_be_hub_name(name):
        raise Refusal(
            f"there is no model at {name}: neither {folder / 'config.json'} nor "
            f"{folder / 'model' / 'config.json'} exists. Give a run folder, its model/ folder or a "
            "hub name such as bigcode/starcoder2-3b." + did_you_mean(name)
        )
    return None


def load_checkpoint(
    name: str, device: str | None = None, dtype: str | None = None
) -> tuple["PreTrainedModel", CheckpointCodec]:
    """Load a model in evaluation mode with the codec of its tokenizer.

    Args:
        name: a run folder, a model folder or a hub name.
        device: a torch device; None takes the accelerator if there is one.
        dtype: name of a torch dtype; None means float32 on the CPU and bfloat16 elsewhere.

    Raises: Refusal when there is no model, or no fill-in-the-middle tokens in its vocabulary.
    """
    from hugcoder.model.pretrained import load_causal_lm

    folder = find_checkpoint(name)
    if folder is None:
        check_hub_has(name)
    if device is None:
        accelerator = torch.accelerator.current_accelerator(check_available=True)
        device = str(accelerator or "cpu")
    check_device(device)
    dtype = dtype or ("float32" if torch.device(device).type == "cpu" else "bfloat16")
    model = load_causal_lm(str(folder or name), getattr(torch, dtype))
    codec = CheckpointCodec(folder or hub_tokenizer(name))
    _check_vocabulary(name, model, codec)
    return model.to(device).eval(), codec


def _check_vocabulary(name: str, model: "PreTrainedModel", codec: CheckpointCodec) -> None:
    """Refuse a folder whose tokenizer is another model's."""
    rows = model.get_input_embeddings().num_embeddings
    highest = max(codec.fim_ids.stops.union(codec.fim_ids.sentinels.values()))
    if highest >= rows or (codec.is_byte_level and len(codec.token_bytes) > rows):
        raise Refusal(
            f"the tokenizer of {name} has ids up to {max(highest, codec.vocab_size - 1)} but the "
            f"model has embeddings for {rows}; they do not belong together."
        )


@dataclass(frozen=True)
class Ending:
    """How a generation ends: at one of the ids `stops`, and never by one of `forbidden`."""

    stops: frozenset[int]
    forbidden: frozenset[int]


def ending_of(model: "PreTrainedModel", codec: Codec) -> Ending:
    """What ends a text, for the family and by the generation config, and the sentinels.

    Sentinels are given, not written: one inside a middle or a text is no end, and is forbidden.
    """
    eos = model.generation_config.eos_token_id
    listed = [] if eos is None else [eos] if isinstance(eos, int) else eos
    forbidden = frozenset(codec.fim_ids.sentinels.values())
    return Ending(codec.fim_ids.stops.union(listed) - forbidden, forbidden)


# ---- prompts -------------------------------------------------------------------------------------


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


# ---- generation ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Sampling:
    """temperature 0 takes the likeliest token; top_p keeps the likeliest tokens that together have
    this probability; seed makes draws repeatable.
    """

    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0


GREEDY = Sampling()


def stream_tokens(
    model: "PreTrainedModel",
    prompt: list[int],
    ending: Ending,
    max_new_tokens: int,
    sampling: Sampling = GREEDY,
) -> Iterator[int]:
    """New ids one by one; the last one is a stop id unless `max_new_tokens` came first."""
    generator = torch.Generator(model.device).manual_seed(sampling.seed)
    decoding = _Decoding(model, [prompt], pad=0, forbidden=ending.forbidden)
    for _ in range(max_new_tokens):
        next_B = _choose(decoding.logits(), sampling, generator)
        index = int(next_B[0])
        yield index
        if index in ending.stops:
            return
        decoding.append(next_B)


def complete_batch(
    model: "PreTrainedModel",
    prompts: list[list[int]],
    ending: Ending,
    max_new_tokens: int,
    pad: int,
) -> list[list[int]]:
    """What greedy `stream_tokens` gives for each prompt, several at a time."""
    completions: list[list[int]] = [[] for _ in prompts]
    stops = ending.stops
    decoding = _Decoding(model, prompts, pad, ending.forbidden)
    rows = list(range(len(prompts)))  # which prompt each row of the batch belongs to
    for _ in range(max_new_tokens):
        next_B = decoding.logits().argmax(dim=-1)
        for row, index in zip(rows, next_B.tolist(), strict=True):
            if not completions[row] or completions[row][-1] not in stops:
                completions[row].append(index)
        is_open = [completions[row][-1] not in stops for row in rows]
        if not any(is_open):
            break
        decoding.append(next_B)
        if sum(is_open) <= len(rows) // 2:  # most prompts end early, a few run to the limit
            decoding.keep([place for place, flag in enumerate(is_open) if flag])
            rows = [row for row, flag in zip(rows, is_open, strict=True) if flag]
    return completions


class _Decoding:
    """The key-value cache of a batch and the ids that are not in it yet."""

    def __init__(
        self,
        model: "PreTrainedModel",
        prompts: list[list[int]],
        pad: int,
        forbidden: Collection[int],
    ):
        width = max(len(prompt) for prompt in prompts)
        paddings = [width - len(prompt) for prompt in prompts]
        rows = [[pad] * n + prompt for n, prompt in zip(paddings, prompts, strict=True)]
        offset_B1 = torch.tensor(paddings, device=model.device)[:, None]
        self.model, self.forbidden = model, sorted(forbidden)
        self.cache = None
        self.ids_BT = torch.tensor(rows, device=model.device)
        self.positions_BT = torch.arange(width, device=model.device)[None] - offset_B1
        self.mask_BT = (self.positions_BT >= 0).long()
        self.is_padded = any(paddings)

    @torch.inference_mode()
    def logits(self) -> torch.Tensor:
        """[B, V] float32 logits of the next ids, minus infinity for forbidden ones."""
        output = self.model(
            input_ids=self.ids_BT,
            # Without padding the mask is left out: attention is then plainly causal, and faster.
            attention_mask=self.mask_BT if self.is_padded else None,
            position_ids=self.positions_BT.clamp(min=0),
            past_key_values=self.cache,
            use_cache=True,
            logits_to_keep=1,
        )
        self.cache = output.past_key_values
        logits_BV = output.logits[:, -1].float()
        logits_BV[:, self.forbidden] = -torch.inf
        return logits_BV

    def append(self, next_B: torch.Tensor) -> None:
        """Go on with these ids."""
        self.ids_BT = next_B[:, None]
        self.positions_BT = self.positions_BT[:, -1:] + 1
        self.mask_BT = torch.nn.functional.pad(self.mask_BT, (0, 1), value=1)

    def keep(self, places: list[int]) -> None:
        """Drop all rows of the batch but these."""
        places_B = torch.tensor(places, device=self.ids_BT.device)
        self.ids_BT, self.positions_BT, self.mask_BT = (
            tensor[places_B] for tensor in (self.ids_BT, self.positions_BT, self.mask_BT)
        )
        self.cache.batch_select_indices(places_B)


def _choose(
    logits_BV: torch.Tensor, sampling: Sampling, generator: torch.Generator
) -> torch.Tensor:
    """[B] the next ids."""
    if sampling.temperature == 0:
        return logits_BV.argmax(dim=-1)
    values_BV, order_BV = (logits_BV / sampling.temperature).sort(dim=-1, descending=True)
    probabilities_BV = values_BV.softmax(dim=-1)
    before_BV = probabilities_BV.cumsum(dim=-1) - probabilities_BV
    probabilities_BV = probabilities_BV.masked_fill(before_BV >= sampling.top_p, 0.0)
    place_B1 = torch.multinomial(probabilities_BV, 1, generator=generator)
    return order_BV.gather(1, place_B1)[:, 0]


def stream_text(
    codec: CheckpointCodec, ids: Iterable[int], stops: Collection[int]
) -> Iterator[str]:
    """Text of ids as it becomes whole characters, without special tokens.

    An id may end inside a UTF-8 code point; its text waits for the rest, and is dropped when
    nothing follows.
    """
    pending: list[int] = []
    for index in ids:
        if index in stops:
            break
        pending.append(index)
        text = codec.decode(pending)
        if text and not text.endswith(REPLACEMENT):
            yield text
            pending = []
    if rest := codec.decode(pending).rstrip(REPLACEMENT):
        yield rest
