"""Describes rows of a run from their plan alone: shares, documents, fullest rows."""

import numpy as np

from hugcoder.data.rows import PackedRows


def shares(rows: PackedRows, start: int, stop: int) -> dict[str, float]:
    """Compute the shares of tokens in global rows start to stop, from the plan alone.

    Returns: `fim` as a share of the units' tokens, `padding` (planned) of all tokens, and
    `language/NAME` of the documents' own tokens.
    """
    content = np.zeros(len(rows.store.language_names))
    in_fim = planned = 0
    num_rows = stop - start
    while start < stop:
        plan, row = rows.epochs.locate(start)
        last = min(row + stop - start, plan.num_rows)
        units = plan.units_of(row, last)
        languages = rows.store.languages[units.document]
        content += np.bincount(languages, units.num_tokens, minlength=len(content))
        in_fim += int(units.length[units.is_fim].sum())
        planned += int(units.length.sum())
        start += last - row
    shares = {
        "fim": in_fim / max(planned, 1),
        "padding": 1 - planned / max(rows.tokens_in(num_rows), 1),
    }
    for name, count in zip(rows.store.language_names, content / content.sum(), strict=True):
        shares[f"language/{name}"] = float(count)
    return shares


def documents(rows: PackedRows, start: int, stop: int) -> list[dict[str, str]]:
    """List repository and path of every document in global rows start to stop, each once."""
    seen: dict[int, None] = {}
    for index in range(start, stop):
        plan, row = rows.epochs.locate(index)
        units = plan.units_of(row, row + 1)
        seen |= dict.fromkeys(units.document.tolist())
    return rows.store.origins(list(seen))


def fullest_rows(rows: PackedRows, num_rows: int) -> list[int]:
    """Find the rows of the first epoch that hold the most units, for the self-test."""
    units_per_row = np.diff(rows.epochs.plan(0).row_offsets)[: len(rows)]
    fullest = np.argsort(-units_per_row, kind="stable")[:num_rows]
    return np.resize(fullest, num_rows).tolist()


def summary(rows: PackedRows) -> str:
    """Summarize the first epoch's plan in one line."""
    plan, units = rows.epochs.plan(0), rows.epochs.plan(0).units
    tokens = rows.tokens_in(plan.num_rows)
    free = 1 - units.length.sum() / tokens
    in_fim = units.num_tokens[units.is_fim].sum() / units.num_tokens.sum()
    return (
        f"{rows.store.split}: packed {len(units.document):,} units of "
        f"{len(np.unique(rows.epochs.pieces.document)):,} documents into {plan.num_rows:,} rows of "
        f"{rows.settings.row_length} tokens an epoch ({tokens:,} tokens, "
        f"{free:.2%} padding planned, {in_fim:.1%} of tokens in fill-in-the-middle units)"
    )
