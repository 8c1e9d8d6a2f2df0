"""The report's part about filling in without sampling: how probable true middles and their ends
are, where a middle ends, and whether the model is silent where nothing is missing.

Results of older versions have no such parts; what they lack is left out.
"""

from typing import Any

from evaluation.page import Html, count, note, score, table, tag

ORDERS = {"psm": "PSM", "spm": "SPM"}


def filling(results: dict[str, Any]) -> list[Html]:
    """What was measured of filling in, without a generated token."""
    return [
        *_true_middles(results["middle_bits_per_byte"].get("by_kind", {})),
        *_ends(results.get("ends", {})),
        *_silence(results.get("silence", {})),
    ]


def _true_middles(by_kind: dict[str, dict[str, Any]]) -> list[Html]:
    rows = []
    for kind, part in by_kind.items():
        for way, name in {**ORDERS, "ngram": "n-gram model"}.items():
            if way not in part.get("filled", {}):
                continue
            filled = part["filled"][way]
            first = filled.get("first", {})
            values = [filled["probability"], filled["middle_probability"]]
            stops = [part["stop"].get(one, {}) for one in (way, f"{way}_foreign")]
            values += [stop.get("probability") for stop in stops]
            values += [first.get("end"), first.get("sentinel")]
            cells = [score(value, 100, 1) for value in values]
            rows.append([kind.replace("_", " "), count(part["spans"]), name, *cells])
    if not rows:
        return []
    head = ["holes", "number", "order", "middle and end", "middle", "end behind it"]
    head.append("the same, foreign suffix")
    return [
        tag("h3", "How probable the truth is"),
        table([*head, "answers nothing", "answers a sentinel"], rows),
        note(
            "Mean probability, per cent, of writing just what stood there and then ending; of "
            "writing it, whatever follows; and of ending behind it, also where the text behind the "
            "hole is another hole's: a model that ends there as often has not read it. The first "
            "is the share of holes that drawing at temperature 1 would fill in exactly. The last "
            "two say how often the likeliest first token is the end, so that the answer is empty, "
            "or a sentinel, which generation forbids. The n-gram model has read the training split."
        ),
    ]


def _ends(ends: dict[str, Any]) -> list[Html]:
    """P(end | true middle) by length of the unit."""
    parts = {"all": {order: ends[order] for order in ORDERS if order in ends}}
    parts |= ends.get("by_kind", {})
    orders = [(kind, order, part[order]) for kind, part in parts.items() for order in part]
    lengths = list(dict.fromkeys(n for _, _, part in orders for n in part["by_length"]))
    if not lengths:
        return []
    rows = []
    for kind, order, part in orders:
        found = [part["by_length"].get(length) for length in lengths]
        cells = [score(one["probability"], 100, 1) if one else "" for one in found]
        spread = "" if part["spread"] is None else f"{100 * part['spread']:.1f}"
        rows.append([kind.replace("_", " "), ORDERS[order], *cells, spread])
    return [
        tag("h3", "Where a middle ends"),
        table(["tokens of the unit", "order", *lengths, "spread"], rows),
        note(
            "How probable the end is behind the true middle, per cent, in units made just so long. "
            "A model that learned it from the text that follows gives about the same at every "
            "length; one that learned it from the length stops at one of them only."
        ),
    ]


def _silence(silent: dict[str, Any]) -> list[Html]:
    if not silent:
        return []
    rows = [_rates("a rule that sees two characters", silent["floors"]["two_characters"])]
    for order, name in ORDERS.items():
        rows.append(_rates(name, silent[order]))
        rows.append(_rates(f"{name}, show kept at 90 %", silent[order]["quiet_at_show"]))
    return [
        tag("h3", "Silence where nothing is missing"),
        table(["answer", "quiet, %", "show, %", "right, %"], rows),
        note(
            f"{count(silent['spans'])} places, half of them holes, half places where nothing is "
            "missing. Quiet: of the latter, how many are answered with nothing. Show: of the "
            "holes, how many are answered with something. Each hole has the same last character "
            "before it and the same first one behind it as a place without one, so what these two "
            "tell is worth nothing. The likeliest first token decides; in the last row of an order "
            "the readiness to end is such that nine holes in ten are answered."
        ),
    ]


def _rates(name: str, rates: dict[str, Any]) -> list[Any]:
    return [name, *(score(rates[one], 100, 1) for one in ("quiet", "show", "right"))]
