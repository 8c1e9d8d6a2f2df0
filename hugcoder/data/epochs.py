"""Finds the rows of each epoch of a run, and the epoch of each row.

Plans hold the epochs and the shuffling (`hugcoder.data.packing`), so skipping to step 1,000,000
reads nothing.
"""

import dataclasses
import hashlib
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from torch.utils.data import get_worker_info

import fim
from hugcoder.data.codec import Codec
from hugcoder.data.corpus import HELD_OUT
from hugcoder.data.mixture import mixture_repeats
from hugcoder.data.packing import EpochPlan, PackingSettings, Pieces, cut_documents, plan_epoch
from hugcoder.data.token_store import TokenStore, manifest_of
from hugcoder.files import read_object, write_json
from hugcoder.refusal import Refusal

ROW_FORMAT = 2  # raise it when the same store, settings and seed give other rows; no run mixes two
KEPT_PLANS = 2  # the epoch in use and its neighbour


@dataclass(frozen=True)
class RowSettings:
    """Decides the content of rows; for `mixture` see `mixture_repeats`."""

    row_length: int
    seed: int
    fim: fim.FimSettings
    mixture: dict[str, float]

    @property
    def packing(self) -> PackingSettings:
        return PackingSettings(self.row_length, self.seed, self.fim.fim_rate)


class Epochs:
    """Plans the epochs over one split of a store, each when it is needed.

    Raises: Refusal when the split holds no documents.
    """

    def __init__(self, store: TokenStore, codec: Codec, settings: RowSettings):
        self.store, self.codec, self.settings = store, codec, settings
        self._repeats = mixture_repeats(store, settings.mixture)
        self.pieces: Pieces = cut_documents(store, codec, settings.packing.content_limit)
        if not len(self.pieces.document):
            raise Refusal(_no_documents(store))
        self._plans: dict[int, EpochPlan] = {}
        self._first_rows = [0]  # of each epoch planned so far
        self._file: Path | None = None

    def plan(self, epoch: int) -> EpochPlan:
        """Return the plan of one epoch; the latest plans are kept."""
        if epoch not in self._plans:
            plan = plan_epoch(
                self.store, self.codec, self.pieces, self.settings.packing, epoch, self._repeats
            )
            if not plan.num_rows:
                raise Refusal(
                    f"mixture {self.settings.mixture} leaves nothing of {self.store.folder}; give "
                    "at least one name more than 0."
                )
            while len(self._plans) >= KEPT_PLANS:
                del self._plans[min(self._plans)]
            self._plans[epoch] = plan
        return self._plans[epoch]

    def rows_in(self, epoch: int) -> int:
        while len(self._first_rows) <= epoch + 1:
            last = len(self._first_rows) - 1
            self._first_rows.append(self._first_rows[-1] + self.plan(last).num_rows)
            self._write()
        return self._first_rows[epoch + 1] - self._first_rows[epoch]

    def remember(self, path: Path, may_write: bool) -> None:
        """Read the row counts of epochs planned before from a file, and write new ones to it.

        The position in a late epoch depends on the row counts of all epochs before it. Without the
        file, resuming plans them all again, about 3 s for each epoch and million documents.

        Args: may_write: true on one rank only.
        """
        if path.is_file():
            with suppress(Refusal, KeyError, TypeError):  # damaged: plan again
                kept = read_object(path)
                is_ours = kept["of"] == self.fingerprint
                if is_ours and len(kept["first_rows"]) > len(self._first_rows):
                    self._first_rows = kept["first_rows"]
        self._file = path if may_write else None
        self._write()

    def _write(self) -> None:
        if self._file and get_worker_info() is None:
            kept = {"of": self.fingerprint, "first_rows": self._first_rows}
            write_json(self._file, kept)

    @property
    def fingerprint(self) -> str:
        """Hash everything that decides the plans of all epochs."""
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
        """Find the plan of global row `index`, and the row within the plan."""
        while self._first_rows[-1] <= index:
            self.rows_in(len(self._first_rows) - 1)
        epoch = int(np.searchsorted(self._first_rows, index, side="right")) - 1
        return self.plan(epoch), index - self._first_rows[epoch]

    def epoch_at(self, index: int) -> float:
        """Return the passes over the corpus completed before global row `index`."""
        plan, row = self.locate(index)
        return plan.epoch + row / plan.num_rows


def _no_documents(store: TokenStore) -> str:
    if store.split == HELD_OUT:
        return (
            f"{store.folder} holds nothing out, so there is nothing to score during training; "
            "give --held_out_rows 0 to train without scores, or make and tokenize the corpus again "
            "with `python -m data_prep` and --held_out NAME or --held_out_repositories 1 (of one "
            "repository with --held_out_by folder or file)."
        )
    return f"the {store.split} split of {store.folder} holds no documents; build a larger corpus."
