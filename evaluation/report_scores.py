"""The report's part about quality: scores beside their floors, and verdicts in words.

A verdict says no more than the intervals do: "better" only where they do not meet.
"""

import shlex
from typing import Any

from evaluation.page import (
    Html,
    count,
    figure,
    fold,
    interval,
    join,
    missing,
    note,
    score,
    section,
    short,
    table,
    tag,
    warning,
)
from evaluation.plots import BLUE, FLOOR, Bar, BarGroup, bars
from evaluation.report_corpus import clip
from evaluation.report_filling import filling
from evaluation.results import HELDOUT
from evaluation.run_files import RunFiles
from hugcoder.data.corpus import plural_of

MAX_REPOSITORIES = 100
COMPRESSORS = {"gzip": "gzip -9", "xz": "xz -9e"}
WAYS = {"prefix_only": "text before it", "psm": "both sides, PSM", "spm": "both sides, SPM"}
FLOORS = {"empty": "nothing", "copy_previous_line": "the line above", "ngram": "an n-gram model"}
SCORES = """Exact: to the character, or but for blanks around it, or in its first line. Similar:
edit similarity. Parses: the whole file with the answer in it, of Python files that parse as they
are. Stops: ended by itself before the token limit. Nothing: an empty answer. Off by: difference in
length."""
GOOD, BAD, OPEN = "good", "bad", "open"
Estimate = dict[str, float | None]


def compare(one: Estimate, other: Estimate) -> int:
    """1 when one is above the other with intervals apart, -1 when below, 0 when they meet.

    An estimate of one repository has no interval; its value is compared instead.
    """
    low, high = ((e["value"] if e[k] is None else e[k]) for e, k in ((one, "low"), (one, "high")))
    other_low = other["value"] if other["low"] is None else other["low"]
    other_high = other["value"] if other["high"] is None else other["high"]
    return (low > other_high) - (high < other_low)


def compression_verdict(whole: dict[str, Any]) -> Html:
    """How the model stands to gzip and xz, in words; fewer bits are better."""
    relations = {compare(whole[name], whole["model"]) for name in COMPRESSORS}
    relation = relations.pop() if len(relations) == 1 else 0
    return _verdict(relation, "better than both", "not clearly better than both", "worse than both")


def gain_verdict(gain: Estimate) -> Html:
    """Whether the text after a hole helps, in words."""
    relation = compare(gain, {"value": 0.0, "low": None, "high": None})
    return _verdict(relation, "the text after is used", "no gain shown", "the text after does harm")


def best_floor(part: dict[str, Any], name: str) -> tuple[str, Estimate]:
    """The trivial answer that scores most, and its score."""
    floors = {floor: scores[name] for floor, scores in part["floors"].items()}
    best = max(floors, key=lambda floor: floors[floor]["value"])
    return FLOORS[best], floors[best]


def floor_verdict(part: dict[str, Any], name: str) -> Html:
    """How the model stands to the best trivial answer, in words."""
    relation = compare(part["model"][name], best_floor(part, name)[1])
    return _verdict(relation, "above the floor", "not clearly above the floor", "below the floor")


def _verdict(relation: int, better: str, unknown: str, worse: str) -> Html:
    kind, words = {1: (GOOD, better), 0: (OPEN, unknown), -1: (BAD, worse)}[relation]
    return tag("span", words, class_=kind)


def evaluate_command(run: RunFiles, kind: str = HELDOUT) -> str:
    """The command that makes the scores of this run."""
    model = shlex.quote(str(run.model_folder))
    if kind != HELDOUT:
        return f"python -m evaluation {kind} {model}"
    return f"python -m evaluation {model} --corpus {shlex.quote(run.corpus_path or 'CORPUS')}"


def scores(run: RunFiles) -> Html:
    """Everything that `python -m evaluation` measured."""
    title = "How good it is"
    if run.heldout is None:
        return section(title, missing("scores and samples", evaluate_command(run)))
    results = run.heldout
    kind = "held-out " if run.scored_in_heldout.is_known_held_out else ""
    units = plural_of(run.scored_in_heldout.held_out_by)
    return section(
        title,
        other_model_warning(run, results),
        _unknown_origin_warning(run),
        note(
            f"Measured on files of {kind}{units} in {results['seconds']:.0f} s. "
            f"Small figures are 95 % intervals, from resampling {units}; "
            "where they are wide, raise --max_documents and --num_spans; "
            "a figure without one is of one alone."
        ),
        *_whole_files(results["bits_per_byte"]),
        *_middles(results["middle_bits_per_byte"]),
        *filling(results),
        *_generated(results),
    )


def other_model_warning(run: RunFiles, results: dict[str, Any]) -> Html | str:
    """One line when the scores belong to another tokenizer than the run's."""
    own = run.record["identity"]["tokenizer"]
    measured = results["settings"].get("tokenizer", own)
    if measured.startswith(own):
        return ""
    return warning(
        f"These scores were made with another tokenizer ({measured[:16]}) than the run's ({own}): "
        "they are of another model. ",
        tag("code", evaluate_command(run, results["kind"])),
        " makes them anew.",
    )


def _unknown_origin_warning(run: RunFiles) -> Html | str:
    """One line when the model may have been trained on the files that it is scored on."""
    scored = run.scored_in_heldout
    if scored.is_known_held_out:
        return ""
    return warning(f"Read these scores with care: {scored.sentence}.")


def _whole_files(whole: dict[str, Any]) -> list[Html]:
    names = {"model": "this model", **COMPRESSORS}
    colors = {"model": BLUE}
    made = [_bar(name, whole[key], colors.get(key, FLOOR), 1, 3) for key, name in names.items()]
    languages = whole["by_language"]
    return [
        tag("h3", "Bits per byte of whole files"),
        figure(
            bars([BarGroup("", made)], x_label="bits per byte, lower is better"),
            f"{count(whole['files'])} files, {short(whole['bytes'], 'B')}, "
            f"{count(whole['repositories'])} repositories: "
            "the bits it takes to write each file down, byte by byte, from left to right. "
            "A byte written plainly takes 8. The compressors see each file alone; "
            "a model is of use only where it needs fewer bits than they do. This one is ",
            compression_verdict(whole),
            ".",
            class_="bars",
        ),
        _by_part("language", languages) if len(languages) > 1 else "",
        fold("By repository", _by_part("repository", whole["by_repository"])),
    ]


def _by_part(name: str, parts: dict[str, dict[str, Any]]) -> Html:
    ordered = sorted(parts, key=lambda part: -parts[part]["bytes"])[:MAX_REPOSITORIES]
    rows = [
        [
            clip(part),
            count(parts[part]["files"]),
            short(parts[part]["bytes"], "B"),
            score(parts[part]),
            *(f"{parts[part][compressor]:.3f}" for compressor in COMPRESSORS),
        ]
        for part in ordered
    ]
    if more := len(parts) - len(ordered):
        rows.append([f"{count(more)} smaller ones left out", "", "", "", "", ""])
    return table([name, "files", "size", "this model", *COMPRESSORS.values()], rows)


def _middles(middle: dict[str, Any]) -> list[Html]:
    rows = []
    for kind, part in {"all": middle, **middle.get("by_kind", {})}.items():
        gains = [score(part[f"gain_{way}_percent"], digits=1) for way in ("psm", "spm")]
        values = [score(part[way]) for way in WAYS]
        rows.append([kind.replace("_", " "), count(part["spans"]), *values, *gains])
    head = ["holes", "number", *WAYS.values(), "gain PSM, %", "gain SPM, %"]
    ends = {way: _percent(middle["stop"][way]["probability"]) for way in ("psm", "spm")}
    stops = ", ".join(f"{end} ({way.upper()})" for way, end in ends.items())
    over = {way: middle[f"gain_{way}_over_foreign_percent"] for way in ("psm", "spm")}
    reads = ", ".join(f"{gain['value']:.1f} % ({way.upper()})" for way, gain in over.items())
    return [
        tag("h3", "Bits per byte of true middles"),
        table(head, rows),
        note(
            "The same middles, scored knowing only the text before them, "
            "and knowing both sides in prefix-suffix-middle or suffix-prefix-middle order. "
            "The gain is the share of bits that the text after saves: "
            "it is what fill-in-the-middle training is for. Here ",
            gain_verdict(middle["gain_psm_percent"]),
            " (PSM) and ",
            gain_verdict(middle["gain_spm_percent"]),
            " (SPM). To see whether the suffix is read at all, "
            "it was exchanged for that of another hole: the own one saves ",
            reads,
            ". After the true middle the model ends with a probability of ",
            stops,
            ".",
        ),
    ]


def _generated(results: dict[str, Any]) -> list[Html]:
    parts = results["infilling"]
    shown = {kind: kind.replace("_", " ") for kind in parts}
    groups = [_floor_bars(shown[kind], part, "exact_match") for kind, part in parts.items()]
    similarity = [_floor_bars(shown[kind], part, "edit_similarity") for kind, part in parts.items()]
    tables = [
        join([tag("h3", shown[kind]), _generated_table(part)]) for kind, part in parts.items()
    ]
    return [
        tag("h3", "Generated middles"),
        note(
            f"Holes filled greedily in {results['settings']['mode'].upper()} order, "
            f"at most {count(results['settings']['max_new_tokens'])} tokens, "
            "compared with what stood there. Trivial answers show what a score is worth: writing "
            "nothing, writing the line above again, and going on as an n-gram model of the "
            "training split does."
        ),
        tag(
            "div",
            figure(
                bars(groups, x_label="per cent of holes"),
                "Exactly what stood there, to the character.",
                title="Exact match",
            ),
            figure(
                bars(similarity, x_label="per cent"),
                "How much of the text is the same, from 0 (nothing) to 100 (all of it).",
                title="Edit similarity",
            ),
            class_="two",
        ),
        fold("All scores of generated middles", *tables, note(SCORES)),
    ]


def _floor_bars(name: str, part: dict[str, Any], metric: str) -> BarGroup:
    made = [
        _bar(answer, values[metric], BLUE if values is part["model"] else FLOOR, 100, 1)
        for answer, values in _answers(part).items()
    ]
    return BarGroup(f"{name} ({part['spans']} holes)", made)


def _answers(part: dict[str, Any]) -> dict[str, dict[str, Estimate]]:
    """The scores of the model and of the trivial answers, by name."""
    return {"this model": part["model"]} | {FLOORS[k]: v for k, v in part["floors"].items()}


def _bar(name: str, estimate: Estimate, color: str, factor: float, digits: int) -> Bar:
    low, high = (None if estimate[k] is None else estimate[k] * factor for k in ("low", "high"))
    label = f"{estimate['value'] * factor:.{digits}f}"
    return Bar(name, estimate["value"] * factor, low, high, label, color)


def _generated_table(part: dict[str, Any]) -> Html:
    """All scores of one kind of hole, model first, floors under it."""
    shares = {
        "exact_match": "exact, %",
        "exact_match_stripped": "but for blanks, %",
        "first_line_match": "first line, %",
        "edit_similarity": "similar, %",
        "syntax_valid": "parses, %",
        "stopped": "stops, %",
        "empty": "nothing, %",
    }
    rows = [
        [
            name,
            *(score(values.get(metric), 100, 1) for metric in shares),
            score(values.get("length_error"), 1, 1),
        ]
        for name, values in _answers(part).items()
    ]
    return join(
        [
            table([f"{part['spans']} holes", *shares.values(), "off by, characters"], rows),
            _new(part),
        ]
    )


def _new(part: dict[str, Any]) -> Html | str:
    """How many exact answers cannot be memorized lines; nothing for older results."""
    if "new" not in part:
        return ""
    new = part["new"]
    return note(
        f"{count(new['spans'])} of the true middles have 10 characters or more and are no line of "
        f"the training split; {count(new['exact'])} of them were filled in exactly."
    )


def _percent(estimate: Estimate) -> str:
    return f"{100 * estimate['value']:.1f} %, {interval(estimate, 100, 1)}"
