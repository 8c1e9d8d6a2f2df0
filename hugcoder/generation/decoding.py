"""Generates new ids from a prompt, one token at a time.

Holds a small loop over the key-value cache (one pass over the prompt, then one token a pass), for
one prompt that streams or for a left-padded batch. Both give the same ids.

Shapes: B prompts, T tokens of the longest prompt, V vocabulary.
"""

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from hugcoder.data.codec import Codec
from hugcoder.data.healing import Healing

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(frozen=True)
class Ending:
    """Says which ids end a generation (`stops`) and which are never generated (`forbidden`)."""

    stops: frozenset[int]
    forbidden: frozenset[int]


def ending_of(model: "PreTrainedModel", codec: Codec) -> Ending:
    """Collect the ids that end a text, of the family and of the generation config.

    Sentinels are forbidden: a prompt gives them, and a model never writes them.
    """
    eos = model.generation_config.eos_token_id
    listed = [] if eos is None else [eos] if isinstance(eos, int) else eos
    forbidden = frozenset(codec.fim_ids.sentinels.values())
    return Ending(codec.fim_ids.stops.union(listed) - forbidden, forbidden)


@dataclass(frozen=True)
class Sampling:
    """Says how tokens are chosen.

    temperature 0 takes the likeliest token; top_p keeps the likeliest tokens that together have
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
    must: "Must | None" = None,
) -> Iterator[int]:
    """Yield new ids one by one; the last is a stop id unless `max_new_tokens` came first.

    Args: must: what the answer begins with, see `Must`; those ids are yielded too.
    """
    generator = torch.Generator(model.device).manual_seed(sampling.seed)
    decoding = _Decoding(model, [prompt], 0, ending.forbidden, must)
    for _ in range(max_new_tokens):
        next_B = _choose(decoding.logits(), sampling, [generator])
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
    sampling: Sampling = GREEDY,
    must: "Must | None" = None,
) -> list[list[int]]:
    """Complete several prompts at a time, each as `stream_tokens` would.

    Prompt k is drawn with the seed `sampling.seed` + k.
    """
    completions: list[list[int]] = [[] for _ in prompts]
    stops = ending.stops
    seeds = range(sampling.seed, sampling.seed + len(prompts))
    generators = [torch.Generator(model.device).manual_seed(seed) for seed in seeds]
    decoding = _Decoding(model, prompts, pad, ending.forbidden, must)
    rows = list(range(len(prompts)))  # which prompt each row of the batch belongs to
    for _ in range(max_new_tokens):
        next_B = _choose(decoding.logits(), sampling, [generators[row] for row in rows])
        for row, index in zip(rows, next_B.tolist(), strict=True):
            if not completions[row] or completions[row][-1] not in stops:
                completions[row].append(index)
        is_open = [completions[row][-1] not in stops for row in rows]
        if not any(is_open):
            break
        decoding.append(next_B)
        if sum(is_open) <= len(rows) // 2:  # most prompts end early, a few reach the limit
            decoding.keep([place for place, flag in enumerate(is_open) if flag])
            rows = [row for row, flag in zip(rows, is_open, strict=True) if flag]
    return completions


class Must:
    """Holds the bytes with which each answer of a batch must begin, as far as they are to come.

    Args: beginnings: b"" where an answer may begin with anything.
    """

    def __init__(self, healing: Healing, beginnings: list[bytes]):
        self.healing, self.beginnings = healing, list(beginnings)

    def mask(self, logits_BV: torch.Tensor) -> None:
        """Set the logits of ids that cannot come next to minus infinity."""
        for row, beginning in enumerate(self.beginnings):
            if beginning:
                allowed = torch.from_numpy(self.healing.allowed(beginning)).to(logits_BV.device)
                kept = logits_BV[row, allowed]
                logits_BV[row] = -torch.inf
                logits_BV[row, allowed] = kept

    def take(self, next_ids: list[int]) -> None:
        """Take off what the next ids begin with."""
        pairs = zip(self.beginnings, next_ids, strict=True)
        self.beginnings = [self.healing.rest(*pair) for pair in pairs]

    def keep(self, places: list[int]) -> None:
        self.beginnings = [self.beginnings[place] for place in places]


class _Decoding:
    """Holds the key-value cache of a batch, and the ids that are not in it yet."""

    def __init__(
        self,
        model: "PreTrainedModel",
        prompts: list[list[int]],
        pad: int,
        forbidden: Collection[int],
        must: Must | None,
    ):
        width = max(len(prompt) for prompt in prompts)
        paddings = [width - len(prompt) for prompt in prompts]
        rows = [[pad] * n + prompt for n, prompt in zip(paddings, prompts, strict=True)]
        offset_B1 = torch.tensor(paddings, device=model.device)[:, None]
        self.model, self.forbidden, self.must = model, sorted(forbidden), must
        self.cache = None
        self.ids_BT = torch.tensor(rows, device=model.device)
        self.positions_BT = torch.arange(width, device=model.device)[None] - offset_B1
        self.mask_BT = (self.positions_BT >= 0).long()
        self.is_padded = any(paddings)

    @torch.inference_mode()
    def logits(self) -> torch.Tensor:
        """Compute the next ids' logits [B, V] in float32, minus infinity for forbidden ids."""
        output = self.model(
            input_ids=self.ids_BT,
            # Without padding there is no mask: attention is then plainly causal, and faster.
            attention_mask=self.mask_BT if self.is_padded else None,
            position_ids=self.positions_BT.clamp(min=0),
            past_key_values=self.cache,
            use_cache=True,
            logits_to_keep=1,
        )
        self.cache = output.past_key_values
        logits_BV = output.logits[:, -1].float()
        logits_BV[:, self.forbidden] = -torch.inf
        if self.must:
            self.must.mask(logits_BV)
        return logits_BV

    def append(self, next_B: torch.Tensor) -> None:
        """Make these ids the next input."""
        if self.must:
            self.must.take(next_B.tolist())
        self.ids_BT = next_B[:, None]
        self.positions_BT = self.positions_BT[:, -1:] + 1
        self.mask_BT = torch.nn.functional.pad(self.mask_BT, (0, 1), value=1)

    def keep(self, places: list[int]) -> None:
        """Keep only these rows of the batch."""
        if self.must:
            self.must.keep(places)
        places_B = torch.tensor(places, device=self.ids_BT.device)
        self.ids_BT, self.positions_BT, self.mask_BT = (
            tensor[places_B] for tensor in (self.ids_BT, self.positions_BT, self.mask_BT)
        )
        self.cache.batch_select_indices(places_B)


def _choose(
    logits_BV: torch.Tensor, sampling: Sampling, generators: list[torch.Generator]
) -> torch.Tensor:
    """Choose the next ids [B]. Args: generators: one for each row."""
    if sampling.temperature == 0:
        return logits_BV.argmax(dim=-1)
    values_BV, order_BV = (logits_BV / sampling.temperature).sort(dim=-1, descending=True)
    probabilities_BV = values_BV.softmax(dim=-1)
    before_BV = probabilities_BV.cumsum(dim=-1) - probabilities_BV
    probabilities_BV = probabilities_BV.masked_fill(before_BV >= sampling.top_p, 0.0)
    places = [
        torch.multinomial(row, 1, generator=generator)
        for row, generator in zip(probabilities_BV, generators, strict=True)
    ]
    return order_BV.gather(1, torch.stack(places))[:, 0]
