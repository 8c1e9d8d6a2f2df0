"""The report's parts about training: what the model is, its curves, how to use it, its settings."""

import shlex
from typing import Any

from evaluation.page import (
    Html,
    count,
    figure,
    fold,
    join,
    missing,
    note,
    section,
    short,
    table,
    tag,
    warning,
)
from evaluation.plots import BLUE, GREEN, ORANGE, SMALL, Curve, curves
from evaluation.run_files import RunFiles
from hugcoder.data.codec import Codec
from hugcoder.data.corpus import TRAIN, plural_of

SNIPPET = """from transformers import AutoModelForCausalLM, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained({folder!r})
model = AutoModelForCausalLM.from_pretrained({folder!r})
before, after = "def mean(values):\\n    ", "\\n    return total / len(values)\\n"
prompt = f"{prompt}"
inputs = tokenizer(prompt, return_tensors="pt", return_token_type_ids=False)
output = model.generate(**inputs, max_new_tokens=64, do_sample=False)
print(tokenizer.decode(output[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True))"""
NAMED_LANGUAGES = 3


def sentence(run: RunFiles) -> Html:
    """What this model is, in one sentence of plain words."""
    shape = ""
    if run.model_config:
        config = run.model_config
        shape = (
            f" ({config['model_type']}, {config['num_hidden_layers']} layers, "
            f"{config['hidden_size']} wide, "
            f"reading {count(run.argument('max_seq_length'))} tokens at once)"
        )
    base = run.argument("model_name_or_path")
    origin = f"trained on from {base}" if base else "trained from random weights"
    purpose = "It continues code" + (
        " and fills in the middle of it." if run.argument("fim_rate") else " from left to right."
    )
    return tag(
        "p",
        f"A code model of {short(run.record['parameters'])} parameters{shape}, {origin}"
        f"{_training_data(run)}. {purpose}",
        class_="lead",
    )


def _training_data(run: RunFiles) -> str:
    """` on 50.9 MB of python from 57 repositories`; empty when the corpus is not at hand."""
    if run.corpus is None or "splits" not in run.corpus:
        return ""
    if not run.corpus["fingerprint"].startswith(run.record["identity"]["corpus"]):
        return ""
    size = run.corpus["splits"][TRAIN]["bytes"]
    amounts = run.corpus["languages"][TRAIN]
    languages = sorted(amounts, key=lambda name: -amounts[name]["bytes"])
    named = ", ".join(languages[:NAMED_LANGUAGES])
    more = len(languages) - NAMED_LANGUAGES
    held_out = set(run.corpus["held_out_repositories"])
    num_repositories = len(set(run.corpus["repositories"]) - held_out)
    return (
        f" on {short(size, 'B')} of {named}{f' and {more} more languages' if more > 0 else ''} "
        f"from {count(num_repositories)} repositories"
    )


def progress_warning(run: RunFiles) -> Html | str:
    """One line when the run has not come to its end."""
    if run.is_finished:
        return ""
    return warning(
        f"This run is not finished: "
        f"step {count(run.num_steps)} of {count(run.record['max_steps'])} was logged last, "
        "and there is no final model yet. The command it was started with goes on with it."
    )


def training(run: RunFiles) -> Html:
    """The curves."""
    if not run.series("train/loss"):
        absent = "the curves, because nothing has been logged yet"
        return section("How training went", missing(absent, str(run.record["command"])))
    return section(
        "How training went",
        tag("div", _loss(run), _held_out(run), class_="two"),
        tag("div", *_small_curves(run), class_="three"),
    )


def _loss(run: RunFiles) -> Html:
    named = (
        ("left to right", "train/loss_ar", BLUE),
        ("middle", "train/loss_middle", ORANGE),
        ("all tokens", "train/loss", GREEN),
    )
    lines = [Curve(name, run.series(key), color) for name, key, color in named if run.series(key)]
    drawing = curves(lines, tokens_per_step=run.record["tokens_per_step"], y_label="nats per token")
    return figure(
        drawing,
        f"Mean since the log line before; the last are {_last_values(run, named)}. "
        "Look for a curve that still falls at its end (training longer would help) "
        "and for jumps (the learning rate is too high).",
        title="Training loss",
    )


def _last_values(run: RunFiles, named: tuple[tuple[str, str, str], ...]) -> str:
    values = [(name, run.last(key)) for name, key, _ in named]
    return ", ".join(f"{value:.3f} ({name})" for name, value in values if value is not None)


def _held_out(run: RunFiles) -> Html:
    named = (("whole", "eval/bits_per_byte", BLUE), ("middle", "eval/middle_bits_per_byte", ORANGE))
    lines = [Curve(name, run.series(key), color) for name, key, color in named if run.series(key)]
    if not lines:
        absent = "held-out scores during training"
        return tag("div", missing(absent, "train.py with --eval_steps and --held_out_rows"))
    references = {}
    if run.heldout:
        whole = run.heldout["bits_per_byte"]
        references = {name: whole[name]["value"] for name in ("gzip", "xz")}
    drawing = curves(
        lines,
        tokens_per_step=run.record["tokens_per_step"],
        y_label="bits per byte",
        references=references,
    )
    dashes = (
        " Dashed: what compressors need for the files of the evaluation below, for scale."
        if references
        else ""
    )
    scored = run.scored_in_training
    rows = f"{count(run.argument('held_out_rows'))} rows"
    units = plural_of(scored.held_out_by)
    origin = f" of {units} that training never sees"
    if not scored.is_known_held_out:
        origin = " that this run does not train on. But read the scores with care: "
        origin += scored.sentence
    return figure(
        drawing,
        f"{rows}{origin}; the last scores are {_last_values(run, named)}. Lower is better. "
        "Look for a curve that turns upwards while the training loss falls: "
        f"the model then learns its files by heart.{dashes}",
        title=f"Held-out {units}" if scored.is_known_held_out else "Scores during training",
    )


def _small_curves(run: RunFiles) -> list[Html]:
    """Learning rate, speed and gradient norm, those that were logged."""
    device = "on the CPU" if run.argument("use_cpu") else "over all devices"
    memory, mfu = run.last("train/memory_gib"), run.last("train/mfu")
    speed = f"Padding included, evaluation and saving not, {device}."
    speed += f" Peak memory {memory:.2f} GiB." if memory else ""
    speed += f" {100 * mfu:.1f} % of the peak arithmetic (MFU)." if mfu else ""
    schedule = f"Schedule {run.argument('lr_scheduler_type')}."
    limit = run.argument("max_grad_norm")
    norm = f"Before clipping at {limit:g}. Look for spikes." if limit else "Look for spikes."
    kinds = (
        ("Learning rate", "train/learning_rate", "", schedule),
        ("Speed", "train/tokens_per_second", "tokens per second", speed),
        ("Gradient norm", "train/grad_norm", "", norm),
    )
    return [
        figure(
            curves(
                [Curve("", run.series(key), BLUE)],
                tokens_per_step=run.record["tokens_per_step"],
                y_label=unit,
                size=SMALL,
                from_zero=True,
            ),
            caption,
            title=title,
        )
        for title, key, unit, caption in kinds
        if run.series(key)
    ]


def usage(run: RunFiles) -> Html:
    """Commands for what comes next."""
    if not run.is_finished:
        absent = "how to use the model, because there is none yet"
        return section("How to use it", missing(absent, str(run.record["command"])))
    folder = str(run.model_folder)
    model = shlex.quote(folder)
    corpus = shlex.quote(run.corpus_path or "CORPUS")
    commands = [
        ("Fill a hole at a cursor (line and column count from 1)", "--infill FILE:LINE:COLUMN"),
        ("Continue a text", "--prompt 'def read_lines('"),
    ]
    lines = [f"# {what}\npython generate.py {model} {flags}" for what, flags in commands]
    fills = bool(run.argument("fim_rate"))
    lines.append(f"# Measure it\npython -m evaluation {model} --corpus {corpus}")
    return section(
        "How to use it",
        tag("pre", "\n" + "\n\n".join(lines)),
        tag("h3", "With transformers alone") if fills else "",
        tag("pre", "\n" + snippet(folder)) if fills else "",
    )


def snippet(folder: str) -> str:
    """A program that fills a hole with transformers alone, in the model's own sentinels."""
    family = Codec(folder).fim_ids.format
    parts = {"p": family.prefix, "s": family.suffix, "m": family.middle}
    parts |= {"P": "{before}", "S": "{after}", "M": ""}
    return SNIPPET.format(folder=folder, prompt="".join(parts[letter] for letter in family.psm))


def settings(run: RunFiles) -> Html:
    """Everything the run was told and made with, folded."""
    record = run.record
    facts = {
        "started": record["started"],
        "commit": record["commit"] or "not in a git work tree",
        **{f"{name} version": version for name, version in record["versions"].items()},
        **{f"host {name}": value for name, value in record["host"].items()},
        "rows": record["data"],
        "FLOP per token": count(record["flops_per_token"]),
        **{f"identity {name}": plain(value) for name, value in record["identity"].items()},
    }
    groups = [
        fold(
            f"{name}: {len(values)} settings",
            table(["setting", "value"], [[k, plain(v)] for k, v in values.items()], words=2),
        )
        for name, values in record["arguments"].items()
    ]
    return section(
        "What it was made with",
        note("Launch command; recipes come first, flags after, later wins."),
        tag("pre", "\n" + record["command"]),
        fold("Commit, versions and hashes", table(["fact", "value"], list(facts.items()), words=2)),
        *groups,
    )


def plain(value: Any) -> Html | str:
    """A setting's value on one line."""
    if isinstance(value, dict):
        return ", ".join(f"{key}={item}" for key, item in value.items()) or "none"
    if isinstance(value, list):
        return join(value, " ") if value else "none"
    return str(value)
