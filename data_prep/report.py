"""What a corpus says of itself: the numbers in its manifest, and the table at the end of a run."""

from typing import Any

import numpy as np

from data_prep.counts import Counts
from data_prep.table_of_files import FileTable
from hugcoder.corpus import HELD_OUT, TRAIN

MEGABYTE = 1e6


def account(
    table: FileTable, is_held_out: np.ndarray, stays: np.ndarray, counts: Counts
) -> dict[str, Any]:
    """The counts of the manifest: {"files", "bytes"} each, in total and per split."""
    members = {TRAIN: stays & ~is_held_out, HELD_OUT: stays & is_held_out}
    held_out = {table.names["repo"][index] for index in np.unique(table.repo[members[HELD_OUT]])}
    return {
        "counts": counts.as_json(),
        "splits": {split: _amount(table, rows) for split, rows in members.items()},
        "languages": {split: _per_name(table, rows, "language") for split, rows in members.items()},
        "licenses": _per_name(table, stays, "license"),
        "repositories": _per_name(table, stays, "repo"),
        "held_out_repositories": sorted(held_out),
    }


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
    rows = [("read", counts.read)]
    rows += [(f"- {reason}", drops) for reason, drops in counts.largest_reasons()]
    rows.append(("kept", counts.kept))
    lines = [f"{'':<28}{'files':>12}{'MB':>12}"]
    lines += [_line(name, amount.files, amount.bytes) for name, amount in rows]
    for split, amount in manifest["splits"].items():
        lines.append("")
        lines.append(_line(split, amount["files"], amount["bytes"]))
        for language, part in manifest["languages"][split].items():
            lines.append(_line(f"  {language}", part["files"], part["bytes"]))
    held_out = manifest["held_out_repositories"]
    lines += ["", f"held out ({len(held_out)} of {len(manifest['repositories'])} repositories): "]
    lines[-1] += ", ".join(held_out) or "none"
    return "\n".join(lines)


def _line(name: str, files: int, num_bytes: int) -> str:
    return f"{name:<28}{files:>12,}{num_bytes / MEGABYTE:>12,.1f}"
