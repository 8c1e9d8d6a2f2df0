"""Makes the training rows, as a map-style dataset: row i is a pure function of (store, seed, i).

The dataset is virtual and as long as the run, so the order of the data does not depend on workers,
ranks or restarts. `hugcoder.data.epochs` says which units a row holds; `fim` transforms them.
"""

import numpy as np
import torch
from torch.utils.data import Dataset

import fim
from hugcoder.data.codec import Codec
from hugcoder.data.epochs import Epochs, RowSettings
from hugcoder.data.packing import Units
from hugcoder.data.token_store import TokenStore

IGNORED = -100  # label without a loss
LEFT_TO_RIGHT, FIM_CONTEXT, FIM_MIDDLE, PADDING = range(4)  # what a token is, see `Row.kinds`
NUM_LOSS_KINDS = 3


class PackedRows(Dataset):
    """Makes rows of exactly `row_length` tokens from whole units.

    An item is a dict of [row_length] int64 tensors: input_ids; labels (-100 on padding; on the
    first token of every unit, which has no token of its document before it; and on sentinels, which
    are given at inference and never written by a model); position_ids (restart at every unit);
    kinds (LEFT_TO_RIGHT, FIM_CONTEXT, FIM_MIDDLE or PADDING).

    Args:
        num_rows: length of the dataset; None = one epoch.
    Raises: Refusal when the store holds nothing to train on.
    """

    def __init__(
        self, store: TokenStore, codec: Codec, settings: RowSettings, num_rows: int | None = None
    ):
        self.store, self.codec, self.settings = store, codec, settings
        self.epochs = Epochs(store, codec, settings)
        self._sentinels = list(codec.fim_ids.sentinels.values())
        self.num_rows = self.epochs.rows_in(0) if num_rows is None else num_rows

    def __len__(self) -> int:
        return self.num_rows

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        if not 0 <= index < len(self):
            raise IndexError(f"row {index} of {len(self)}")
        plan, row = self.epochs.locate(index)
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
        """Return the ids and kinds of one unit."""
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

    def tokens_in(self, num_rows: int) -> int:
        """Return the tokens in `num_rows` rows, padding included."""
        return num_rows * self.settings.row_length
