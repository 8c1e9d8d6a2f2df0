"""The report's parts about measurements that have no part of their own: a table of scores each."""

from typing import Any

from evaluation.page import NO_VALUE, Html, count, duration, fold, interval, note, section, table
from evaluation.report_corpus import clip
from evaluation.report_scores import other_model_warning
from evaluation.report_training import plain
from evaluation.run_files import RunFiles


def other_scores(run: RunFiles) -> list[Html]:
    """A section for each measurement in the run's folder but `heldout`."""
    return [_section(run, results) for results in run.other_results]


def _section(run: RunFiles, results: dict[str, Any]) -> Html:
    kind, settings = results["kind"], results["settings"]
    rows = [_row(name, estimate) for name, estimate in results["scores"].items()]
    return section(
        f"Scores of {kind}",
        other_model_warning(run, results),
        note(f"What `python -m evaluation {kind}` measured in {duration(results['seconds'])}."),
        table(["score", "value", "95 % interval"], rows),
        fold(
            f"What it was measured with: {count(len(settings))} settings",
            table(["setting", "value"], [[k, plain(v)] for k, v in settings.items()], words=2),
        ),
    )


def _row(name: str, estimate: dict[str, Any]) -> list[Any]:
    value = NO_VALUE if estimate["value"] is None else f"{estimate['value']:.3f}"
    return [clip(name.replace("_", " ")), value, interval(estimate) or NO_VALUE]
