"""The training data as a map-style dataset: row i of a run is a pure function of (store, seed, i).

The dataset is virtual, as long as the run; epochs and shuffling live in the plan. Hence the order
of the data depends on no worker, rank or restart, and skipping to step 1,000,000 reads nothing.
Holds the making of rows from a plan; the plan is `hugcoder.data.packing`, the transform is `fim`.
"""

import dataclasses
import difflib
import hashlib
import logging
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import Dataset, get_worker_info

import fim
from hugcoder.data.codec import Codec
from hugcoder.data.corpus import HELD_OUT
from hugcoder.files import read_object, write_json
from hugcoder.data.packing import (
    EpochPlan,
    PackingSettings,
    Pieces,
    Units,
    cut_documents,
    plan_epoch,
)
from hugcoder.refusal import Refusal
from hugcoder.data.token_store import TokenStore, manifest_of

logger = logging.getLogger(__name__)

IGNORED = -100  # label that no loss is taken on
LEFT_TO_RIGHT, FIM_CONTEXT, FIM_MIDDLE, PADDING = range(4)  # what a token is, see `Row.kinds`
NUM_LOSS_KINDS = 3
ROW_FORMAT = 2  # raised when the same store, settings and seed give other rows: no run may mix two
KEPT_PLANS = 2  # the epoch in use and its neighbour


@dataclass(frozen=True)
class RowSettings:
    """What decides the content of rows. fim: see `fim.FimSettings`. mixture: see
    `mixture_repeats`."""

    row_length: int
    seed: int
    fim: fim.FimSettings
    mixture: dict[str, float]

    @property
    def packing(self) -> PackingSettings:
        return PackingSettings(self.row_length, self.seed, self.fim.fim_rate)


class PackedRows(Dataset):
    """Rows of exactly `row_length` tokens, each holding whole units; see the module's first lines.

    An item is a dict of [row_length] int64 tensors: input_ids; labels (-100 on padding, on the
    first token of every unit, which no token of its own document precedes, and on sentinels, which
    are given at inference and never to be written); position_ids (restart at every unit); kinds
    (LEFT_TO_RIGHT, FIM_CONTEXT, FIM_MIDDLE or PADDING).

    Args:
        num_rows: length of the dataset; None = one epoch.
    Raises: Refusal when the store holds nothing to train on.
    """

    def __init__(
        self, store: TokenStore, codec: Codec, settings: RowSettings, num_rows: int | None = None
    ):
        self.store, self.codec, self.settings = store, codec, settings
        self._repeats = mixture_repeats(store, settings.mixture)
        self.pieces: Pieces = cut_documents(store, codec, settings.packing.content_limit)
        if not len(self.pieces.document):
            raise Refusal(_no_documents(store))
        self._sentinels = list(codec.fim_ids.sentinels.values())
        self._plans: dict[int, EpochPlan] = {}
        self._first_rows = [0]  # of each epoch planned so far
        self._epochs_file: Path | None = None
        self.num_rows = self.rows_in_epoch(0) if num_rows is None else num_rows

    def __len__(self) -> int:
        return self.num_rows

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        if not 0 <= index < len(self):
            raise IndexError(f"row {index} of {len(self)}")
        plan, row = self.locate(index)
        length = self.settings.row_length
        input_ids = np.full(length, self.codec.pad, dtype=np.int64)
        labels = np.full(length, IGNORED, dtype=np.int64)
        kinds = np.full(length, PADDING, dtype=np.int64)
        position_ids = np.empty(length, dtype=np.int64)
        start = 0
        units = plan.units_of(row, row + 1)
        for unit in range(len(units.document)):
            ids, unit_kinds = self._unit(units, unit, plan.epoch)
            stop = start + len(ids)
            input_ids[start:stop] = ids
            labels[start + 1 : stop] = ids[1:]
            kinds[start:stop] = unit_kinds
            position_ids[start:stop] = np.arange(len(ids))
            start = stop
        labels[np.isin(labels, self._sentinels)] = IGNORED
        position_ids[start:] = np.arange(length - start)  # padding is a document of its own
        arrays = {
            "input_ids": input_ids,
            "labels": labels,
            "position_ids": position_ids,
            "kinds": kinds,
        }
        return {name: torch.from_numpy(array) for name, array in arrays.items()}

    def _unit(self, units: Units, unit: int, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        """Ids and kinds of one unit."""
        document, start = int(units.document[unit]), int(units.start[unit])
        ids = self.store.tokens(document, start, start + int(units.num_tokens[unit]))
        if not units.is_fim[unit]:
            if units.is_last[unit]:
                ids = np.append(ids, self.codec.end_of_text)
            return ids, np.full(len(ids), LEFT_TO_RIGHT)
        key = (int(self.store.uids[document]), start, int(units.repeat[unit]))
        made = fim.make_unit(
            self.codec.decode_bytes(ids.tolist()).decode("utf-8", errors="strict"),
            self.codec.encode,
            self.codec.fim_ids,
            fim.piece_rng(self.settings.seed, epoch, *key),
            self.settings.fim,
            max_tokens=int(units.length[unit]),
        )
        kinds = np.full(len(made.ids), FIM_CONTEXT)
        kinds[made.middle_start :] = FIM_MIDDLE
        return np.asarray(made.ids), kinds

    def plan(self, epoch: int) -> EpochPlan:
        """The plan of one epoch; the last ones are kept."""
        if epoch not in self._plans:
            plan = plan_epoch(
                self.store, self.codec, self.pieces, self.settings.packing, epoch, self._repeats
            )
            if not plan.num_rows:
                raise Refusal(
                    f"mixture {self.settings.mixture} leaves nothing of {self.store.folder}."
                )
            while len(self._plans) >= KEPT_PLANS:
                del self._plans[min(self._plans)]
            self._plans[epoch] = plan
        return self._plans[epoch]

    def rows_in_epoch(self, epoch: int) -> int:
        while len(self._first_rows) <= epoch + 1:
            last = len(self._first_rows) - 1
            self._first_rows.append(self._first_rows[-1] + self.plan(last).num_rows)
            self._write_epochs()
        return self._first_rows[epoch + 1] - self._first_rows[epoch]

    def remember_epochs(self, path: Path, may_write: bool) -> None:
        """Keep the number of rows of the epochs planned so far in a file, and take it from there.

        Position in a late epoch needs the rows of all epochs before it; without the file, resuming
        there plans them all again, about 3 s an epoch and million documents.

        Args: may_write: on one rank only.
        """
        if path.is_file():
            with suppress(Refusal, KeyError, TypeError):  # damaged: it is planned again
                kept = read_object(path)
                is_ours = kept["of"] == self.fingerprint
                if is_ours and len(kept["first_rows"]) > len(self._first_rows):
                    self._first_rows = kept["first_rows"]
        self._epochs_file = path if may_write else None
        self._write_epochs()

    def _write_epochs(self) -> None:
        if self._epochs_file and get_worker_info() is None:
            kept = {"of": self.fingerprint, "first_rows": self._first_rows}
            write_json(self._epochs_file, kept)

    @property
    def fingerprint(self) -> str:
        """What the plans of all epochs are a function of, as a hash."""
        store = manifest_of(self.store.folder)
        made_of = (
            ROW_FORMAT,
            store["tokenizer_sha256"],
            store["corpus_fingerprint"],
            dataclasses.astuple(self.settings.packing),
            sorted(self.settings.mixture.items()),
        )
        return hashlib.sha256(repr(made_of).encode()).hexdigest()[:16]

    def locate(self, index: int) -> tuple[EpochPlan, int]:
        """The plan and the row within it of global row `index`."""
        while self._first_rows[-1] <= index:
            self.rows_in_epoch(len(self._first_rows) - 1)
        epoch = int(np.searchsorted(self._first_rows, index, side="right")) - 1
        return self.plan(epoch), index - self._first_rows[epoch]

    def tokens_in(self, num_rows: int) -> int:
        """Tokens of so many rows, padding included."""
        return num_rows * self.settings.row_length

    def epoch_at(self, index: int) -> float:
        """Passes over the corpus completed before global row `index`."""
        plan, row = self.locate(index)
        return plan.epoch + row / plan.num_rows

    def shares(self, start: int, stop: int) -> dict[str, float]:
        """What global rows start to stop hold, from the plan alone.

        Returns: `fim` as a share of the units' tokens, `padding` (planned) of all, `language/NAME`
        of the documents' own.
        """
        content = np.zeros(len(self.store.language_names))
        in_fim = planned = 0
        num_rows = stop - start
        while start < stop:
            plan, row = self.locate(start)
            last = min(row + stop - start, plan.num_rows)
            units = plan.units_of(row, last)
            languages = self.store.languages[units.document]
            content += np.bincount(languages, units.num_tokens, minlength=len(content))
            in_fim += int(units.length[units.is_fim].sum())
            planned += int(units.length.sum())
            start += last - row
        shares = {
            "fim": in_fim / max(planned, 1),
            "padding": 1 - planned / max(self.tokens_in(num_rows), 1),
        }
        for name, count in zip(self.store.language_names, content / content.sum(), strict=True):
            shares[f"language/{name}"] = float(count)
        return shares

    def documents(self, start: int, stop: int) -> list[dict[str, str]]:
        """Repository and path of every document in global rows start to stop, each once."""
        seen: dict[int, None] = {}
        for index in range(start, stop):
            plan, row = self.locate(index)
            units = plan.units_of(row, row + 1)
            seen |= dict.fromkeys(units.document.tolist())
        return self.store.origins(list(seen))

    def fullest_rows(self, num_rows: int) -> list[int]:
        """Rows of the run (its first epoch) that hold the most units, for the self-test."""
        units_per_row = np.diff(self.plan(0).row_offsets)[: len(self)]
        fullest = np.argsort(-units_per_row, kind="stable")[:num_rows]
        return np.resize(fullest, num_rows).tolist()

    def summary(self) -> str:
        """One line of facts about the first epoch's plan."""
        plan, units = self.plan(0), self.plan(0).units
        tokens = self.tokens_in(plan.num_rows)
        free = 1 - units.length.sum() / tokens
        in_fim = units.num_tokens[units.is_fim].sum() / units.num_tokens.sum()
        return (
            f"{self.store.split}: packed {len(units.document):,} units of "
            f"{len(np.unique(self.pieces.document)):,} documents into {plan.num_rows:,} rows of "
            f"{self.settings.row_length} tokens an epoch ({tokens:,} tokens, "
            f"{free:.2%} padding planned, {in_fim:.1%} of tokens in fill-in-the-middle units)"
        )


def _no_documents(store: TokenStore) -> str:
    if store.split == HELD_OUT:
        return (
            f"{store.folder} holds nothing out, so there is nothing to score during training; "
            "give --held_out_rows 0 to train without scores, or make and tokenize the corpus again "
            "with `python -m data_prep` and --held_out NAME or --held_out_repositories 1 (of one "
            "repository with --held_out_by folder or file)."
        )
    return f"the {store.split} split of {store.folder} holds no documents; build a larger corpus."


def mixture_repeats(store: TokenStore, mixture: dict[str, float]) -> np.ndarray | None:
    """How often each document is seen in an epoch.

    Args: mixture: name of a language, source or repository -> repeats an epoch, plain or as
    `language/NAME`, `source/NAME` and `repository/NAME`; what is said of a document multiplies;
    names left out count 1.
    Returns: [documents] or None when nothing differs from once each.
    Raises: Refusal for a name the store does not hold, that may mean different documents, or is
    given for twice.
    """
    weights = {name: value for name, value in _full_mixture(store, mixture).items() if value != 1}
    if not weights:
        return None
    repeats = np.ones(len(store.languages))
    for kind, (codes, names) in _kinds(store).items():
        if any(name.startswith(f"{kind}/") for name in weights):
            repeats *= np.array([weights.get(f"{kind}/{name}", 1.0) for name in names])[codes]
    return repeats


def clear_mixture(store: TokenStore, mixture: dict[str, float]) -> dict[str, float]:
    """The mixture with every name as short as it is clear, so that a spelling is no other run."""
    cleared = {}
    for meant, value in _full_mixture(store, mixture).items():
        plain = meant.partition("/")[2]
        cleared[plain if _mixture_names(store, plain) == [meant] else meant] = value
    return cleared


def _full_mixture(store: TokenStore, mixture: dict[str, float]) -> dict[str, float]:
    """The mixture with every name as `language/NAME`, `source/NAME` or `repository/NAME`."""
    full: dict[str, float] = {}
    for name, value in mixture.items():
        meant = _mixture_name(store, name)
        if meant in full:
            raise Refusal(f"mixture names {meant} twice, once as {name}; give it once.")
        full[meant] = value
    return full


def _kinds(store: TokenStore) -> dict[str, tuple[np.ndarray, list[str]]]:
    """What a mixture may name: the code of each document, and the names of the codes."""
    return {
        "language": (store.languages, store.language_names),
        "source": (store.sources, store.source_names),
        "repository": (store.repos, store.repo_names),
    }


def _mixture_name(store: TokenStore, name: str) -> str:
    """The name with its kind that a name of the mixture means."""
    meant = _mixture_names(store, name)
    if len(meant) > 1:
        kinds = " and a ".join(full.partition("/")[0] for full in meant)
        raise Refusal(
            f"mixture names {name}, which is a {kinds} of {store.folder}; say "
            f"{' or '.join(meant)}, as in --mixture {meant[0]}=2."
        )
    if not meant:
        known = sorted({*store.language_names, *store.source_names, *store.repo_names})
        kind, _, plain = name.partition("/")
        asked = plain if kind in _kinds(store) else name
        close = difflib.get_close_matches(asked, known, n=1)
        languages = ", ".join(sorted(store.language_names))
        sources = ", ".join(sorted(store.source_names))
        raise Refusal(
            f"mixture names {name}, but {store.folder} holds the languages {languages} and the "
            f"sources {sources}, and no repository of that name among {len(store.repo_names):,}"
            + (f"; did you mean {close[0]!r}?" if close else ".")
        )
    return meant[0]


def _mixture_names(store: TokenStore, name: str) -> list[str]:
    """All that a name may mean; one with its prefix means that alone.

    A source that is one repository of the same name is no second meaning, but the same documents.
    """
    kinds = _kinds(store)
    full = [f"{kind}/{known}" for kind, (_, names) in kinds.items() for known in names]
    if name in full:
        return [name]
    meant = [one for one in full if one.partition("/")[2] == name]
    if meant[-2:] == [f"source/{name}", f"repository/{name}"]:
        of_source, of_repository = (
            kinds[kind][0] == kinds[kind][1].index(name) for kind in ("source", "repository")
        )
        if (of_source == of_repository).all():
            meant.pop()
    return meant
