"""Generated middles: how often they are right, close, ended in time, and still parse.

Every completion is scored as generated, up to its end token or the limit. Nothing is cut to the
true length or to a line, so a model that does not stop is seen. Trivial answers
(`evaluation.floors`) are scored alike.
"""

import ast
import logging
import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rapidfuzz import fuzz

from evaluation.bootstrap import mean
from evaluation.spans import BenchmarkSpan
from evaluation.training_split import TrainingSplit
from hugcoder.generation.decoding import Must, complete_batch, ending_of
from hugcoder.generation.loading import CheckpointCodec
from hugcoder.generation.prompts import infill_prompt, prompt_room
from hugcoder.refusal import Refusal

if TYPE_CHECKING:
    from transformers import PreTrainedModel

logger = logging.getLogger(__name__)

MAX_BATCH = 64
CACHE_FACTOR = 4  # a token in the key-value cache takes far less memory than one with its logits
PREFIX_LINES, SUFFIX_LINES = 12, 8  # of a sample in the report


@dataclass(frozen=True)
class Completion:
    """A model's text for one hole, and whether it ended by itself."""

    text: str
    stopped: bool


def complete_spans(
    model: "PreTrainedModel",
    codec: CheckpointCodec,
    spans: list[BenchmarkSpan],
    mode: str,
    max_new_tokens: int,
    batch_tokens: int,
) -> list[Completion]:
    """Fill every hole greedily."""
    room = prompt_room(model, max_new_tokens)
    ending = ending_of(model, codec)
    prompts = [infill_prompt(codec, span.prefix, span.suffix, mode, room) for span in spans]
    completions: list[Completion] = [Completion("", False)] * len(spans)
    beginnings = [codec.healing.beginning(prompt.last) for prompt in prompts]
    order = sorted(range(len(spans)), key=lambda i: len(prompts[i].ids), reverse=True)
    while order:
        width = len(prompts[order[0]].ids) + max_new_tokens + 1
        size = min(MAX_BATCH, max(CACHE_FACTOR * batch_tokens // width, 1))
        batch, order = order[:size], order[size:]
        taken = [prompts[i].ids for i in batch]
        must = Must(codec.healing, [beginnings[i] for i in batch])
        # one more: the token before the cursor is written again
        new_ids = complete_batch(model, taken, ending, max_new_tokens + 1, codec.pad, must=must)
        for index, ids in zip(batch, new_ids, strict=True):
            stopped = ids[-1] in ending.stops
            text = codec.decode_after(ids[:-1] if stopped else ids, len(beginnings[index]))
            completions[index] = Completion(text, stopped)
    return completions


def parses(text: str) -> bool:
    """Whether a text is valid Python for the running interpreter."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            ast.parse(text)
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            return False  # the last two: nested deeper than the parser goes
    return True


def scores_of(span: BenchmarkSpan, text: str, is_python: bool) -> dict[str, float]:
    """Scores of one completion; syntax_valid only when the original file is valid Python."""
    truth = span.truth
    first_lines = [one.split("\n", 1)[0].rstrip() for one in (text, truth)]
    scores = {
        "exact_match": float(text == truth),
        "exact_match_stripped": float(text.strip() == truth.strip()),
        "first_line_match": float(first_lines[0] == first_lines[1]),
        "edit_similarity": fuzz.ratio(text, truth) / 100,
        "length_error": float(abs(len(text) - len(truth))),  # characters
        "empty": float(not text),
    }
    if is_python:
        scores["syntax_valid"] = float(parses(span.prefix + text + span.suffix))
    return scores


def is_valid_python(spans: list[BenchmarkSpan]) -> list[bool]:
    """Whether each span's file is Python and parses as it is."""
    texts = {s.document.text for s in spans if s.document.language == "python"}
    valid = {text for text in texts if parses(text)}
    return [span.document.text in valid for span in spans]


def check_scorer(spans: list[BenchmarkSpan]) -> None:
    """Refuse to go on unless true middles score 100 % and wrong ones do not."""
    valid = is_valid_python(spans)
    for span, is_python in zip(spans, valid, strict=True):
        right = scores_of(span, span.truth, is_python)
        wrong = scores_of(span, span.truth + "x", False)
        zeros = ("length_error", "empty")
        is_right = all(value == (name not in zeros) for name, value in right.items())
        if not is_right or wrong["exact_match"] or wrong["edit_similarity"] >= 1:
            raise Refusal(
                f"the scorer is broken: at {span.document.repo} {span.document.path} "
                f"characters {span.start} to {span.stop} "
                f"the true middle scores {right} and a wrong one {wrong}; "
                "report this, no result would mean anything."
            )


def measure(
    spans: list[BenchmarkSpan],
    completions: list[Completion],
    floors: dict[str, list[str]],
    training: TrainingSplit,
    seed: int,
) -> dict[str, Any]:
    """One kind's entry in the infilling part of results.json.

    Args: floors: by name, another answer to each hole, see `evaluation.floors.completions`.
    """
    valid = is_valid_python(spans)
    units = [span.document.unit for span in spans]
    model = _summary(spans, [one.text for one in completions], valid, seed)
    model["stopped"] = mean([float(one.stopped) for one in completions], units, seed)
    is_new = [training.is_new(span.truth) for span in spans]
    pairs = zip(spans, completions, is_new, strict=True)
    return {
        "spans": len(spans),
        "python_spans": sum(valid),
        "model": model,
        "floors": {name: _summary(spans, texts, valid, seed) for name, texts in floors.items()},
        "new": {
            "spans": sum(is_new),
            "exact": sum(new and one.text == span.truth for span, one, new in pairs),
        },
    }


def _summary(
    spans: list[BenchmarkSpan], texts: list[str], valid: list[bool], seed: int
) -> dict[str, Any]:
    """The mean of each score with its interval."""
    rows = [scores_of(*one) for one in zip(spans, texts, valid, strict=True)]
    names = dict.fromkeys(name for row in rows for name in row)
    summary = {}
    for name in names:
        having = [i for i, row in enumerate(rows) if name in row]
        values = [rows[i][name] for i in having]
        summary[name] = mean(values, [spans[i].document.unit for i in having], seed)
    return summary


def sample(span: BenchmarkSpan, completion: Completion) -> dict[str, Any]:
    """A hole with its surroundings, the truth and the answer, for people to look at."""
    return {
        "repo": span.document.repo,
        "path": span.document.path,
        "kind": span.kind,
        "prefix": "".join(span.prefix.splitlines(keepends=True)[-PREFIX_LINES:]),
        "truth": span.truth,
        "generated": completion.text,
        "suffix": "".join(span.suffix.splitlines(keepends=True)[:SUFFIX_LINES]),
        "exact": completion.text == span.truth,
        "stopped": completion.stopped,
    }
