"""Measuring checkpoints on held-out code, and a run's report; run as `python -m evaluation`."""

import hugcoder  # noqa: F401  (says first which packages are missing)
