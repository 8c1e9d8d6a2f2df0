"""From a corpus on disk to the batches of a run: text, ids, pieces, units, rows."""
