"""Reports tokens so far, passes over the corpus, and shares of the rows since the last log line."""

from transformers import TrainerCallback

from hugcoder.data import row_statistics
from hugcoder.data.rows import PackedRows


class DataSeen(TrainerCallback):
    """Reads the plan of the rows, never the rows themselves."""

    def __init__(self, rows: PackedRows, rows_per_step: int):
        self.rows, self.rows_per_step = rows, rows_per_step
        self._next_row = 0

    def on_train_begin(self, args, state, control, **kwargs):
        self._next_row = state.global_step * self.rows_per_step

    def read(self, step: int) -> dict[str, float]:
        """Return metrics of the steps since the last reading; none without new steps."""
        start, stop = self._next_row, step * self.rows_per_step
        self._next_row = stop
        if start >= stop:
            return {}
        seen = {
            "tokens": self.rows.tokens_in(stop),
            "corpus_epochs": self.rows.epochs.epoch_at(stop - 1),
        }
        shares = row_statistics.shares(self.rows, start, stop)
        return seen | {f"share_{name}": value for name, value in shares.items()}
