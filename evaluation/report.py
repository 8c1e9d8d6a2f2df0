"""Write a run's report: python -m evaluation report RUN makes RUN/report.html.

One file that needs no network and no script: what was trained, on what, how it went, how good it
is, how to use it. Every number comes from the files of the run; the same files give the same page.
Holds the order of the parts and the headline figures; the parts are in the modules beside it.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evaluation.page import NO_VALUE, Html, count, document, duration, interval, percent, short, tag
from evaluation.report_corpus import data
from evaluation.report_other_scores import other_scores
from evaluation.report_samples import samples
from evaluation.report_scores import (
    best_floor,
    compression_verdict,
    floor_verdict,
    gain_verdict,
    scores,
)
from evaluation.report_training import progress_warning, sentence, settings, training, usage
from evaluation.run_files import RunFiles, read_run
from hugcoder.data.corpus import TRAIN
from hugcoder.files import atomic
from hugcoder.recipe import parse
from hugcoder.refusal import Refusal
from hugcoder.setting import with_help

DESCRIPTION = """Write the report of a run: one HTML file with curves, scores, samples and settings,
from what train.py, python -m evaluation and python -m data_prep left on disk."""


@dataclass
class ReportArguments:
    run: str = with_help("", "Run folder of train.py; the first word.")
    corpus: str = with_help(
        "", "Corpus folder; unset means where the run's token store says it is."
    )
    output: str = with_help("", "File to write; unset means report.html in the run folder.")

    def __post_init__(self) -> None:
        if not self.run:
            raise Refusal("no run is given; the first word must be a run folder of train.py.")
        if self.output and Path(self.output).is_dir():
            raise Refusal(f"--output {self.output} is a folder; name the .html file to write.")


def headline(run: RunFiles) -> Html:
    """The six figures to remember."""
    return tag("dl", *_size_figures(run), *_score_figures(run), _time_figure(run), class_="figures")


def _size_figures(run: RunFiles) -> list[Html]:
    embedding = short(run.record["embedding_parameters"])
    steps = f"{count(run.num_steps)} steps of {count(run.record['tokens_per_step'])}"
    turns = ""
    if run.store:  # not train/epoch: to the Trainer, the rows of the whole run are one epoch
        share = run.num_tokens / max(run.store["splits"][TRAIN]["tokens"], 1)
        turns = f"; {share:.2f} times the corpus"
    return [
        _figure("Parameters", short(run.record["parameters"]), "", f"{embedding} in embeddings"),
        _figure("Tokens seen", short(run.num_tokens), "", f"{steps}, padding included{turns}"),
    ]


def _score_figures(run: RunFiles) -> list[Html]:
    scored = run.scored_in_training if run.heldout is None else run.scored_in_heldout
    names = (
        "Held-out bits per byte" if scored.is_known_held_out else "Bits per byte",
        "What the text after a hole saves",
        "Single lines filled in exactly",
    )
    if run.heldout is None:
        logged = run.last("eval/bits_per_byte")
        value = f"{logged:.3f}" if logged is not None else NO_VALUE
        why = "during training, not yet evaluated" if logged is not None else "not yet evaluated"
        return [
            _figure(names[0], value, "", why),
            *(_figure(name, NO_VALUE, "", "not yet evaluated") for name in names[1:]),
        ]
    whole = run.heldout["bits_per_byte"]
    mode = run.heldout["settings"]["mode"]
    gain = run.heldout["middle_bits_per_byte"][f"gain_{mode}_percent"]
    line = run.heldout["infilling"]["single_line"]
    exact = line["model"]["exact_match"]
    floor_name, floor = best_floor(line, "exact_match")
    bits, saved, filled = whole["model"]["value"], gain["value"], 100 * exact["value"]
    unit = f"% of bits ({mode.upper()})"
    compressors = f"gzip {whole['gzip']['value']:.3f}, xz {whole['xz']['value']:.3f}: "
    floors = f"{_between(exact, 100, 1)}{percent(floor['value'])} for writing {floor_name}: "
    verdict = floor_verdict(line, "exact_match")
    return [
        _figure(names[0], f"{bits:.3f}", "", compressors, compression_verdict(whole)),
        _figure(names[1], f"{saved:.1f}", unit, _between(gain, 1, 1), gain_verdict(gain)),
        _figure(names[2], f"{filled:.1f}", "%", floors, verdict),
    ]


def _between(estimate: dict[str, Any], factor: float, digits: int) -> str:
    found = interval(estimate, factor, digits)
    return f"95 %: {found}; " if found else ""


def _time_figure(run: RunFiles) -> Html:
    seconds = run.training_seconds
    if not seconds:
        return _figure("Training time", NO_VALUE, "", "not yet logged")
    steps = run.series("train/tokens_per_second")[-1][0]
    rate = steps * run.record["tokens_per_step"] / seconds
    host = run.record["host"]
    device = f" on {host['cpus']} CPU cores" if run.argument("use_cpu") else ""
    speed = f"{count(rate)} tokens per second{device}; evaluation and saving not counted"
    return _figure("Training time", duration(seconds), "", speed)


def _figure(name: str, value: str, unit: str, *why: Any) -> Html:
    shown = tag("dd", value, tag("small", f" {unit}") if unit else "", class_="value")
    return tag("div", tag("dt", name), shown, tag("dd", *why, class_="why"))


def page(run: RunFiles) -> str:
    """The report as HTML."""
    name = run.folder.resolve().name
    return document(
        f"{name}: a code model",
        tag("h1", name),
        sentence(run),
        progress_warning(run),
        headline(run),
        training(run),
        data(run),
        scores(run),
        samples(run),
        *other_scores(run),
        usage(run),
        settings(run),
        tag("footer", f"Made by python -m evaluation report from the files in {run.folder}."),
    )


def main(argv: list[str] | None = None) -> None:
    arguments = parse(
        [ReportArguments], argv, description=DESCRIPTION, positional="run", command="report RUN"
    )
    run = read_run(Path(arguments.run), arguments.corpus)
    output = Path(arguments.output) if arguments.output else run.folder / "report.html"
    text = page(run)
    with atomic(output) as temporary:
        temporary.write_text(text, encoding="utf-8")
    print(f"{output} written ({short(len(text.encode()), 'B')}); open it in a browser.")
