"""What keeps a file out of the corpus: one rule a file of this package, in the order they run.

A rule is a function of a Document that returns the reason for dropping it, or None. Thresholds are
StarCoder2's (arXiv 2402.19173, section 2.1) unless the rule says otherwise. Rules that need only
the name or size of a file are in data_prep.collect, so that such a file is never read.
"""

from data_prep.filters.alpha import alpha
from data_prep.filters.decode import decode
from data_prep.filters.empty import empty
from data_prep.filters.encoded_data import encoded_data
from data_prep.filters.generated import generated
from data_prep.filters.lfs_pointer import lfs_pointer
from data_prep.filters.line_length import line_length

FILTERS = (
    decode,
    empty,
    lfs_pointer,
    line_length,
    generated,
    alpha,
    encoded_data,
)  # decode first, then cheap
