"""The report's samples: holes of held-out files, with the true text and the model's.

They are chosen without a look at the model's text. All of it is source code, which
`evaluation.page` escapes.
"""

from typing import Any

from evaluation.page import Html, note, safe, section, tag
from evaluation.report_corpus import clip
from evaluation.report_scores import BAD, GOOD
from evaluation.run_files import RunFiles

NUM_SAMPLES = 5
MAX_CONTEXT, MAX_MIDDLE = 2000, 2000  # characters of a sample that are shown


def samples(run: RunFiles) -> Html | str:
    """Holes to look at, side by side with what the model wrote."""
    if run.heldout is None:
        return ""
    chosen = choose_samples(run.heldout["samples"])
    num_exact = sum(one["exact"] for one in chosen)
    return section(
        "Samples",
        note(
            f"The first {len(chosen)} holes of the evaluation, kinds and files taking turns, "
            f"not chosen by how they came out: {num_exact} of them exact. "
            "Left what stood in the file, right what the model wrote there."
        ),
        *(_sample(one) for one in chosen),
    )


def choose_samples(found: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The first few: kinds of hole take turns, each giving a file not shown yet if it has one."""
    waiting: dict[str, list[dict[str, Any]]] = {}
    for one in found:
        waiting.setdefault(one["kind"], []).append(one)
    chosen: list[dict[str, Any]] = []
    while len(chosen) < NUM_SAMPLES and any(waiting.values()):
        for kind in [kind for kind in waiting if waiting[kind]]:
            shown = {(one["repo"], one["path"]) for one in chosen}
            fresh = [one for one in waiting[kind] if (one["repo"], one["path"]) not in shown]
            chosen.append((fresh or waiting[kind])[0])
            waiting[kind].remove(chosen[-1])
    return chosen[:NUM_SAMPLES]


def _sample(one: dict[str, Any]) -> Html:
    verdict, color = ("exact", GOOD) if one["exact"] else ("differs", BAD)
    ended = "" if one.get("stopped", True) else ", cut off at the token limit"
    head = tag(
        "h3",
        tag("b", clip(f"{one['repo']}: {one['path']}")),
        f" \N{MIDDLE DOT} {one['kind'].replace('_', ' ')} \N{MIDDLE DOT} ",
        tag("span", verdict, class_=color),
        ended,
    )
    sides = tag(
        "div",
        _side("in the file", one, one["truth"], ""),
        _side("written by the model", one, one["generated"], "" if one["exact"] else "wrong"),
        class_="two",
    )
    return tag("article", head, sides, class_="sample")


def _side(title: str, one: dict[str, Any], middle: str, class_: str) -> Html:
    shown = _limited(middle, MAX_MIDDLE) if middle else tag("span", "(nothing)", class_="nothing")
    # A newline right after <pre> is swallowed by the browser, so one is given to it.
    code = tag(
        "pre",
        "\n",
        one["prefix"][-MAX_CONTEXT:],
        tag("mark", shown, class_=class_),
        one["suffix"][:MAX_CONTEXT].rstrip(),
    )
    return tag("div", tag("span", title), code, class_="side")


def _limited(text: str, limit: int) -> Html:
    more = len(text) - limit
    return safe(text[:limit] + (f"... ({more:,} more characters)" if more > 0 else ""))
