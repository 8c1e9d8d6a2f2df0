"""Turns a corpus on disk into the batches of a run: text, ids, pieces, units, rows."""
