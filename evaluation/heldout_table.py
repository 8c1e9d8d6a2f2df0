"""The table that `python -m evaluation heldout` prints: every score with its 95 % interval."""

from collections.abc import Iterator
from typing import Any

from evaluation.page import interval
from hugcoder.data import corpus

NO_INTERVAL = "no interval"


def table(results: dict[str, Any]) -> Iterator[str]:
    """Lines for people, and what a missing interval means."""
    lines = list(_lines(results))
    yield from lines
    if any(NO_INTERVAL in line for line in lines):
        by = results["settings"].get("held_out_by", corpus.REPOSITORY)
        yield (
            f"{NO_INTERVAL}: one {by} alone has such files or holes, and intervals come from "
            f"resampling {corpus.plural_of(by)}; hold out two or more, or raise max_documents or "
            "num_spans"
        )


def _lines(results: dict[str, Any]) -> Iterator[str]:
    """Held out is said only of what is known to be."""
    whole, middle = results["bits_per_byte"], results["middle_bits_per_byte"]
    origin = results["training_data"]
    if not origin["is_known_held_out"]:
        yield f"read these scores with care: {origin['sentence']}"
    yield (
        f"bits per byte of {whole['files']} {'held-out ' * origin['is_known_held_out']}files "
        f"({whole['bytes']:,} bytes; intervals are over {whole['units']} "
        f"{corpus.plural_of(results['settings']['held_out_by'])})"
    )
    for name in ("model", "gzip", "xz"):
        yield f"  {name:<28}{_cell(whole[name])}"
    yield f"bits per byte of {middle['spans']} true middles, given"
    ways = {
        "longest_prefix": "the longest prefix alone",
        "prefix_only": "the same prefix as below",
        "psm": "prefix and suffix, PSM",
        "spm": "prefix and suffix, SPM",
    }
    for way, name in ways.items():
        gain = middle.get(f"gain_{way}_percent")
        yield f"  {name:<28}{_cell(middle[way])}" + (
            f"   suffix gain {_cell(gain, digits=1)} %" if gain else ""
        )
    for way in ("psm", "spm"):
        read = middle[f"gain_{way}_over_foreign_percent"]
        yield f"  the own suffix saves, to a foreign one, {way.upper()}: {_cell(read, digits=1)} %"
    for order, part in results["ends"].items():
        found = ", ".join(
            f"{_cell(one['probability'], digits=2)} at {length}"
            for length, one in part["by_length"].items()
        )
        yield f"  the end after the true middle, {order.upper()}, by tokens of the unit: {found}"
    for kind, part in results["infilling"].items():
        yield f"generated middles, {kind.replace('_', ' ')} ({part['spans']} holes), per cent"
        rows = {"model": part["model"], **part["floors"]}
        names = ("exact_match", "edit_similarity", "syntax_valid", "stopped", "empty")
        yield f"  {'':<28}" + "".join(f"{name.replace('_', ' '):<24}" for name in names)
        for name, scores in rows.items():
            cells = (_cell(scores.get(one), factor=100, digits=1) for one in names)
            yield f"  {name.replace('_', ' '):<28}" + "".join(f"{cell:<24}" for cell in cells)


def _cell(estimate: dict[str, float | None] | None, factor: float = 1.0, digits: int = 3) -> str:
    """An estimate as `value (low to high)`; a dash where there is none."""
    if estimate is None or estimate["value"] is None:
        return "-"
    shown = interval(estimate, factor, digits) or NO_INTERVAL
    return f"{estimate['value'] * factor:.{digits}f} ({shown})"
