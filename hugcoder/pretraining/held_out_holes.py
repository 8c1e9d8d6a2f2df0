"""Scores filling in during training, on holes of held-out files, without generating a token.

Asks how probable the true middle and its end are, and whether the answer would be the end at once,
where text is missing (show) and where none is (quiet). Each hole is asked in both orders, in a unit
of 64, 128, 200 or all tokens of a row, in turn. `hugcoder.data.holes` draws the holes; the
evaluation package scores finished models on more of them, with intervals.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from accelerate import Accelerator
from torch.utils.data import Dataset
from transformers import PreTrainedModel

import fim
from hugcoder.data.batch import PackedCollator
from hugcoder.data.codec import Codec
from hugcoder.data.healing import Healing
from hugcoder.data.holes import PAIRS, QUIET, UNIT_LENGTHS, draw_hole, draw_pair, take_turns
from hugcoder.data.packing import best_fit
from hugcoder.data.rows import IGNORED
from hugcoder.data.token_store import TokenStore
from hugcoder.generation.prompts import trim_context
from hugcoder.pretraining.held_out import held_out_batches

KINDS = ("single_line", "short")
ORDERS = ("psm", "spm")
DOCUMENTS_READ = 200  # files that holes come from, drawn from all that are held out
NO_HOLE = -1


class HoleUnit(NamedTuple):
    """Holds a hole in one order: its ids, where the answer begins, and what may come first in it.

    The last id is the end. The answer begins with the token before the hole, which it writes again
    and may make longer (`hugcoder.data.healing`); the answer to a quiet or show hole is only that.
    """

    kind: str
    order: str
    ids: list[int]
    answer_start: int
    allowed: np.ndarray


class HoleRows(Dataset):
    """Makes rows of units that ask for holes, as PackedRows makes rows.

    Labels are the middles and their ends. Also gives `holes`, the index of the unit that each token
    belongs to, or NO_HOLE.
    """

    def __init__(self, units: list[HoleUnit], row_length: int, codec: Codec):
        self.units, self.row_length, self.pad = units, row_length, codec.pad
        lengths = np.array([len(unit.ids) for unit in units], dtype=np.int64)
        rows, num_rows = best_fit(lengths, row_length)
        self._rows = [np.flatnonzero(rows == row).tolist() for row in range(num_rows)]

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        names = ("input_ids", "labels", "position_ids", "holes")
        fill = (self.pad, IGNORED, 0, NO_HOLE)
        row = {n: torch.full((self.row_length,), v) for n, v in zip(names, fill, strict=True)}
        start = 0
        for place in self._rows[index]:
            unit = self.units[place]
            stop = start + len(unit.ids)
            row["input_ids"][start:stop] = torch.tensor(unit.ids)
            row["position_ids"][start:stop] = torch.arange(len(unit.ids))
            row["holes"][start:stop] = place
            first = start + unit.answer_start
            row["labels"][first:stop] = row["input_ids"][first:stop]
            start = stop
        row["position_ids"][start:] = torch.arange(self.row_length - start)
        return row


def draw_holes(store: TokenStore, codec: Codec, row_length: int, num_holes: int) -> HoleRows:
    """Draw `num_holes` holes of each kind, and as many pairs of places, from held-out files.

    Without a seed: every run on a store is asked the same.
    """
    order = np.argsort(fim.hash_uniform(0, store.uids))[:DOCUMENTS_READ]
    texts = [codec.decode(store.tokens(int(d), 0, int(store.lengths[d]))) for d in order]

    def stream(kind: str) -> Callable[[int, int], np.random.Generator]:
        uids = store.uids[order]
        return lambda index, turn: fim.keyed_rng("holes", kind, int(uids[index]), turn)

    found = [
        (kind, texts[index], span)
        for kind in KINDS
        for index, span in take_turns(texts, num_holes, partial(draw_hole, kind=kind), stream(kind))
    ]
    pairs = take_turns(texts, num_holes, draw_pair, stream("pair"))
    found += [(kind, texts[i], getattr(pair, kind)) for i, pair in pairs for kind in PAIRS]
    healing = Healing(codec)
    lengths = [*(length for length in UNIT_LENGTHS if length < row_length), row_length]
    units = [
        _unit(kind, order, text, span, healing, lengths[turn // 2 % len(lengths)])
        for turn, (kind, text, span) in enumerate(found)
        for order in ORDERS
    ]
    return HoleRows([unit for unit in units if unit], row_length, codec)


def _unit(
    kind: str, order: str, text: str, span: fim.Span, healing: Healing, length: int
) -> HoleUnit | None:
    """The unit of a hole, of at most `length` tokens; None when its answer takes more than half,
    or nothing stands before it.
    """
    before, middle, after = text[: span.start], text[span.start : span.stop], text[span.stop :]
    codec = healing.codec
    prefix, suffix = codec.encode([before, after])
    last = prefix[-1:]
    answer = last if kind in PAIRS else healing.written(before, middle, last)
    if not last or len(answer) > length // 2:
        return None
    room = length - len(answer) - fim.NUM_ADDED_TOKENS + len(last)
    prefix, suffix = trim_context(prefix, suffix, room)
    prompt = codec.fim_ids.prompt(prefix[:-1], suffix, order)
    allowed = healing.allowed(healing.beginning(last))
    return HoleUnit(kind, order, [*prompt, *answer, codec.fim_ids.end], len(prompt), allowed)


@torch.no_grad()
def score_holes(
    model: PreTrainedModel,
    rows: HoleRows,
    accelerator: Accelerator,
    collator: PackedCollator,
    batch_size: int,
    after_batch: Callable[[], None],
) -> dict[str, float]:
    """Score all holes; all ranks share the work and get the same metrics, see `_metrics`."""
    totals_U3 = torch.zeros(len(rows.units), 3, device=accelerator.device)
    model.eval()
    for batch in held_out_batches(rows, accelerator, collator, batch_size):
        holes, labels = batch.pop("holes"), batch.pop("labels")
        logits_NV = model(**batch).logits.flatten(0, 1)
        targets_N = torch.nn.functional.pad(labels, (0, 1), value=IGNORED)[:, 1:].flatten()
        holes_N = torch.nn.functional.pad(holes, (0, 1), value=NO_HOLE)[:, 1:].flatten()
        asked = (targets_N != IGNORED).nonzero().flatten()
        _score_asked(logits_NV[asked].float(), targets_N[asked], holes_N[asked], rows, totals_U3)
        after_batch()
    model.train()
    return _metrics(rows.units, accelerator.reduce(totals_U3, reduction="sum").cpu().numpy())


def _score_asked(
    logits_AV: torch.Tensor,
    targets_A: torch.Tensor,
    holes_A: torch.Tensor,
    rows: HoleRows,
    totals_U3: torch.Tensor,
) -> None:
    """Add to each unit's totals: nats of its answer, of its end, and whether it would be silent.

    A unit's tokens stand together, and all of them are here: a row is never shared out.
    """
    for unit in holes_A.unique().tolist():
        logits_TV = logits_AV[holes_A == unit]
        targets_T = targets_A[holes_A == unit]
        allowed = torch.from_numpy(rows.units[unit].allowed).to(logits_TV.device)
        first_V = torch.full_like(logits_TV[0], -torch.inf)
        first_V[allowed] = logits_TV[0, allowed]
        logits_TV = torch.cat([first_V[None], logits_TV[1:]])
        nats_T = torch.nn.functional.cross_entropy(logits_TV, targets_T, reduction="none")
        is_greedy = (logits_TV.argmax(-1) == targets_T).all()
        totals_U3[unit] += torch.stack([nats_T[:-1].sum(), nats_T[-1], is_greedy.float()])


def _metrics(units: list[HoleUnit], totals_U3: np.ndarray) -> dict[str, float]:
    """The means by kind and order.

    KIND_probability_ORDER: of the middle with its end. KIND_bits_ORDER: the same as bits.
    KIND_end_probability_ORDER: of the end behind the true middle. show_ORDER, quiet_ORDER: shares
    of holes answered with something, and of other places answered with nothing.
    """
    found: dict[str, float] = {}
    for order in ORDERS:
        for kind in (*KINDS, *PAIRS):
            chosen = [unit.kind == kind and unit.order == order for unit in units]
            if not any(chosen):
                continue
            middle, end, is_greedy = totals_U3[chosen].T
            if kind in KINDS:
                found[f"{kind}_probability_{order}"] = float(np.exp(-(middle + end)).mean())
                found[f"{kind}_bits_{order}"] = float((middle + end).mean() / math.log(2))
                found[f"{kind}_end_probability_{order}"] = float(np.exp(-end).mean())
            else:
                silent = float(is_greedy.mean())
                found[f"{kind}_{order}"] = silent if kind == QUIET else 1 - silent
    return found
