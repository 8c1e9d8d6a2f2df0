"""What a corpus says of itself: the numbers in its manifest, and the table at the end of a run."""

import shlex
from typing import Any

import numpy as np

from data_prep.arguments import CorpusArguments
from data_prep.counts import Counts
from data_prep.languages import DATA_LIKE
from data_prep.split import MIN_LANGUAGE_SHARE
from data_prep.table_of_files import FileTable
from hugcoder.data.corpus import FILE, HELD_OUT, REPOSITORY, TRAIN, held_out_by, plural_of

MEGABYTE = 1e6
NAMES_SHOWN = 8
SAMPLE_SHOWN = 48  # characters, of the end
MAX_SHARE = 0.5  # of one language among several, before it is worth a word
MAX_DATA_SHARE = 0.25  # of all data-like languages together


def account(
    table: FileTable, is_held_out: np.ndarray, stays: np.ndarray, counts: Counts, by: str
) -> dict[str, Any]:
    """The counts of the manifest: {"files", "bytes"} each, in total and per split.

    Its held_out_repositories are those of which training sees no file.
    """
    members = {TRAIN: stays & ~is_held_out, HELD_OUT: stays & is_held_out}
    repositories, units = _names(table, members[HELD_OUT], "repo"), []
    if by != REPOSITORY:
        repositories -= _names(table, members[TRAIN], "repo")
        units = sorted(_names(table, members[HELD_OUT], "unit"))
    return {
        "counts": counts.as_json(),
        "splits": {split: _amount(table, rows) for split, rows in members.items()},
        "languages": {split: _per_name(table, rows, "language") for split, rows in members.items()},
        "licenses": _per_name(table, stays, "license"),
        "repositories": _per_name(table, stays, "repo"),
        "held_out_by": by,
        "held_out_repositories": sorted(repositories),
        **({"held_out_units": units} if by != REPOSITORY else {}),
    }


def warnings_of(
    table: FileTable, is_held_out: np.ndarray, stays: np.ndarray, arguments: CorpusArguments
) -> list[str]:
    """Sentences that warn of languages without a score, and of those that outweigh the others."""
    sizes = _per_name(table, stays, "language")
    total = sum(amount["bytes"] for amount in sizes.values())
    shares = {name: amount["bytes"] / max(total, 1) for name, amount in sizes.items()}
    return [*_unscored(table, is_held_out, stays, arguments, shares), *_unbalanced(shares)]


def _unscored(
    table: FileTable,
    is_held_out: np.ndarray,
    stays: np.ndarray,
    arguments: CorpusArguments,
    shares: dict[str, float],
) -> list[str]:
    """Sentences about languages that lie on one side only, rare ones left out."""
    held_out, train = (_names(table, stays & on, "language") for on in (is_held_out, ~is_held_out))
    if not held_out:
        return ["nothing is held out: train with --held_out_rows 0, and expect no scores of it"]
    worth = [name for name, share in shares.items() if share >= MIN_LANGUAGE_SHARE]
    said = []
    if unscored := [name for name in worth if name not in held_out]:
        reasons = ", ".join(f"{name} ({_why(table, name, arguments)})" for name in unscored)
        said.append(f"nothing is held out of {reasons}, so no score will tell of it")
    if untrained := [name for name in worth if name not in train]:
        said.append(f"nothing is trained on of {', '.join(untrained)}, as all of it is held out")
    return said


def _why(table: FileTable, language: str, arguments: CorpusArguments) -> str:
    """Why nothing is held out of a language."""
    by = arguments.held_out_by
    own = table.language == table.names["language"].index(language)
    holders = [table.names["unit"][unit] for unit in np.unique(table.unit[own])]
    if arguments.held_out:
        return f"held_out names no {by} that has it, as {holders[0]}"
    if len(holders) == 1:
        finer = "" if by == FILE else "; --held_out_by file can split it"
        return f"only the {by} {holders[0]} has it{finer}"
    return f"each {by} that has it has nothing else of its own, or the last of another language"


def _unbalanced(shares: dict[str, float]) -> list[str]:
    """Sentences about languages that take more of a corpus than one would guess."""
    said = []
    name, share = next(iter(shares.items()), ("", 0.0))  # the largest stands first
    others = [one for one in shares.values() if one >= MIN_LANGUAGE_SHARE]
    if len(others) > 1 and share > MAX_SHARE:
        said.append(
            f"{name} is {share:.0%} of the bytes; leave it out with --languages, or show it less "
            f"often in training, as with --mixture {shlex.quote(f'{name}=0.5')}"
        )
    data = {name: share for name, share in shares.items() if name in DATA_LIKE}
    if len(data) < len(shares) and sum(data.values()) > MAX_DATA_SHARE:
        parts = ", ".join(f"{name} {share:.0%}" for name, share in data.items())
        said.append(
            f"{sum(data.values()):.0%} of the bytes are data or markup and no code ({parts}); name "
            "the languages to keep with --languages"
        )
    return said


def _names(table: FileTable, rows: np.ndarray, column: str) -> set[str]:
    return {table.names[column][index] for index in np.unique(getattr(table, column)[rows])}


def _amount(table: FileTable, rows: np.ndarray) -> dict[str, int]:
    return {"files": int(rows.sum()), "bytes": int(table.size[rows].sum())}


def _per_name(table: FileTable, rows: np.ndarray, column: str) -> dict[str, dict[str, int]]:
    """Amounts of each name in `column`, most bytes first."""
    codes, names = getattr(table, column)[rows], table.names[column]
    files = np.bincount(codes, minlength=len(names))
    num_bytes = np.zeros(len(names), dtype=np.int64)
    np.add.at(num_bytes, codes, table.size[rows])
    order = sorted(np.flatnonzero(files), key=lambda index: (-num_bytes[index], names[index]))
    return {names[i]: {"files": int(files[i]), "bytes": int(num_bytes[i])} for i in order}


def table_text(manifest: dict[str, Any]) -> str:
    """The manifest's counts as lines for a terminal."""
    counts = Counts.from_json(manifest["counts"])
    lines = [
        f"{'':<28}{'files':>12}{'MB':>12}",
        _line("read", counts.read.files, counts.read.bytes),
    ]
    for reason, drops in counts.largest_reasons():
        sample = drops.samples[0] if drops.samples else ""
        cut = f"...{sample[-SAMPLE_SHOWN:]}" if len(sample) > SAMPLE_SHOWN else sample
        sample = f"   such as {cut}" if sample else ""
        lines.append(_line(f"- {reason}", drops.files, drops.bytes) + sample)
    lines.append(_line("kept", counts.kept.files, counts.kept.bytes))
    for split, amount in manifest["splits"].items():
        lines.append("")
        lines.append(_line(split, amount["files"], amount["bytes"]))
        for language, part in manifest["languages"][split].items():
            lines.append(_line(f"  {language}", part["files"], part["bytes"]))
    lines += ["", _licenses_line(manifest["licenses"]), _held_out_line(manifest)]
    lines += [f"warning: {sentence}." for sentence in manifest.get("warnings", [])]
    return "\n".join(lines)


def _licenses_line(licenses: dict[str, dict[str, int]]) -> str:
    total = max(sum(amount["bytes"] for amount in licenses.values()), 1)
    shares = [f"{name} {amount['bytes'] / total:.0%}" for name, amount in licenses.items()]
    rest = f" and {len(shares) - NAMES_SHOWN} more" if len(shares) > NAMES_SHOWN else ""
    return f"licences, of all bytes: {', '.join(shares[:NAMES_SHOWN]) or 'none'}{rest}"


def _held_out_line(manifest: dict[str, Any]) -> str:
    by = held_out_by(manifest)
    if by == REPOSITORY:
        held_out = manifest["held_out_repositories"]
        of = f"{len(held_out)} of {len(manifest['repositories'])} repositories"
    else:
        held_out = manifest["held_out_units"]
        of = f"{len(held_out):,} {by if len(held_out) == 1 else plural_of(by)}"
    shown = held_out if by == REPOSITORY else held_out[:NAMES_SHOWN]
    more = f" and {len(held_out) - len(shown):,} more" if len(held_out) > len(shown) else ""
    return f"held out ({of}): {', '.join(shown) or 'none'}{more}"


def _line(name: str, files: int, num_bytes: int) -> str:
    return f"{name:<28}{files:>12,}{num_bytes / MEGABYTE:>12,.1f}"
