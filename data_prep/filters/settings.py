"""The settings of the rules. Thresholds are StarCoder2's (arXiv 2402.19173, section 2.1)."""

from dataclasses import dataclass


@dataclass(frozen=True)
class RuleSettings:
    """What decides on a file by itself. Lengths are in characters, shares are of a file's."""

    languages: tuple[str, ...]  # none means all
    max_file_bytes: int
    max_lines: int = 100_000
    max_line: int = 1_000
    max_mean_line: float = 100
    max_prose_line: int = 100_000  # prose and markup may hold a paragraph in one line
    max_data_lines: int = 512
    min_alphabetic: float = 0.25
    min_visible: int = 100
    min_visible_share: float = 0.2
    max_encoded_run: int = 1024
    max_encoded_share: float = 0.5  # in runs of one kind
