"""Training, checking and measuring byte-level BPE tokenizers for code; run as `python -m
tokenizer`.
"""

import hugcoder  # noqa: F401  (says first which packages are missing)
