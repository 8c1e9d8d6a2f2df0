"""The settings of `python -m data_prep`. Holds no defaults of single sources
(data_prep.sources)."""

import os
from dataclasses import dataclass, field
from typing import Literal

from data_prep.languages import check_languages
from data_prep.sources import OPTIONS
from data_prep.table_rows import KNOWN_COLUMNS
from hugcoder.data.corpus import REPOSITORY
from hugcoder.ranges import BYTES, COUNT_OR_NONE, SEED, Range, check_ranges
from hugcoder.refusal import Refusal
from hugcoder.setting import with_help

HELD_OUT_FRACTION = 0.05
HELD_OUT_REPOSITORIES = 1
RANGES = {
    "held_out_repositories": COUNT_OR_NONE,
    "max_file_bytes": BYTES,
    "max_bytes": Range(0, BYTES.high, is_whole=True),
    "shard_bytes": BYTES,
    "seed": SEED,
    "num_workers": Range(0, 1_024, is_whole=True),  # each is a Python of some 100 MB
}
TYPES = "; ".join(
    f"{kind} ({', '.join(filter(None, (*options, 'name')))})" for kind, options in OPTIONS.items()
)


@dataclass
class CorpusArguments:
    """Where files come from, where the corpus goes, and what is kept."""

    sources: list[str] = field(
        metadata={
            "help": 'Where files come from, each as JSON ({"type": "python"}) or words '
            f"(type=folder,path=src). Types with their options: {TYPES}. A path or a dataset must "
            "be given; what each option says stands in docs/corpus.md. columns maps the roles "
            f"{', '.join(KNOWN_COLUMNS)} to a table's own names where they are not known, as in "
            '{"content": "body"}. The order counts: of identical files the first found stays.'
        }
    )
    output_dir: str = field(
        metadata={"help": "Folder of the corpus; holds train/, held_out/ and manifest.json."}
    )
    languages: list[str] = with_help(
        [], "Languages that are kept; none given keeps every known one."
    )
    held_out: list[str] = with_help(
        [],
        "Names of the repositories that training never sees, as in `trio zod`; with "
        "held_out_by folder or file, folders (`zod/src`) or files. None given lets the seed "
        "choose, so that every language with two repositories is held out and trained on.",
    )
    held_out_by: Literal["repository", "folder", "file"] = with_help(
        REPOSITORY,
        "What is held out as a whole. By folder or file, one repository can be split; "
        "neighbours then lie on both sides, and scores flatter.",
    )
    held_out_fraction: float = with_help(
        HELD_OUT_FRACTION,
        "Share of the repositories (folders, files) that training never sees, 0 to below 1.",
    )
    held_out_repositories: int = with_help(
        HELD_OUT_REPOSITORIES,
        "Least number of repositories (folders, files) that training never sees; 0 "
        "holds none out, whatever the fraction.",
    )
    max_file_bytes: int = with_help(
        1_000_000, "Files of more bytes are dropped without being read."
    )
    max_bytes: int = with_help(
        0,
        "Bytes of content in the whole corpus; more is thinned out by hash, file by "
        "file (0 keeps all).",
    )
    shard_bytes: int = with_help(64_000_000, "Bytes of content in one parquet file.")
    seed: int = with_help(0, "Chooses the held-out repositories and what max_bytes keeps.")
    num_workers: int = with_help(0, "Processes; 0 takes one per core. Never changes the result.")

    def __post_init__(self) -> None:
        if not 0 <= self.held_out_fraction < 1:
            raise Refusal(
                f"held_out_fraction {self.held_out_fraction} is not a share; give 0 to below 1."
            )
        if not self.held_out_repositories and self.held_out_fraction not in (0, HELD_OUT_FRACTION):
            raise Refusal(
                f"held_out_repositories 0 holds nothing out and held_out_fraction "
                f"{self.held_out_fraction} does; give only one of them."
            )
        if self.held_out:
            _check_named(self)
        check_ranges(self, RANGES)
        check_languages(self.languages)

    @property
    def worker_count(self) -> int:
        return self.num_workers or len(os.sched_getaffinity(0))


def _check_named(arguments: CorpusArguments) -> None:
    """Raises: Refusal when both names and numbers say what is held out."""
    if len(set(arguments.held_out)) < len(arguments.held_out):
        raise Refusal(f"held_out names one twice: {', '.join(arguments.held_out)}.")
    defaults = {
        "held_out_repositories": HELD_OUT_REPOSITORIES,
        "held_out_fraction": HELD_OUT_FRACTION,
    }
    for name, default in defaults.items():
        if (value := getattr(arguments, name)) != default:
            raise Refusal(
                f"held_out names what is held out, and {name} {value} says how much; give only "
                "one of them."
            )
