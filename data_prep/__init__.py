"""Corpus curation: repositories in, one deduplicated corpus split by repository out.

Run it with `python -m data_prep`; the steps are in data_prep.pipeline.
"""

import hugcoder  # noqa: F401  (says first which packages are missing)
