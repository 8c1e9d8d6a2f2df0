"""Trains, checks and measures byte-level BPE tokenizers for code: `python -m tokenizer`."""

import hugcoder  # noqa: F401  (first, to say which packages are missing)
