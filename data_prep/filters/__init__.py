"""What keeps a file out of the corpus: one rule a file of this package, in the order they run.

A rule is a function of a Document that returns the reason for dropping it, or None. Thresholds are
StarCoder2's (arXiv 2402.19173, section 2.1) unless the rule says otherwise. Rules that look at
more than a document (by_name, those of data_prep.collect) and lfs_pointer run before these.
"""

from data_prep.filters.alpha import alpha
from data_prep.filters.data_lines import data_lines
from data_prep.filters.decode import decode
from data_prep.filters.empty import empty
from data_prep.filters.encoded_data import encoded_data
from data_prep.filters.generated import generated
from data_prep.filters.line_length import line_length
from data_prep.filters.visible_text import visible_text

FILTERS = (  # decode first, then cheap ones
    decode,
    empty,
    line_length,
    data_lines,
    generated,
    alpha,
    visible_text,
    encoded_data,
)
