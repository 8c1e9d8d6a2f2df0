"""Measure a checkpoint on held-out files: python -m evaluation heldout MODEL --corpus FOLDER.

Measures bits per byte of whole files; how probable true middles and their ends are, and what the
text after them saves; whether the model is silent where nothing is missing; and generated middles.
Each score stands beside what a trivial method reaches, and has a 95 %
interval over repositories (or over folders or files, as the corpus holds out). Prints a table and
writes results.json. Holds the order of things; the measuring is in the modules beside this one.
"""

import logging
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evaluation.documents import Document, choose_documents
from evaluation.heldout_arguments import HeldoutArguments
from evaluation.page import interval
from evaluation.results import HELDOUT, facts_of_model, results_file
from evaluation.spans import BenchmarkSpan, choose_pairs, choose_spans, digest
from hugcoder.data import corpus
from hugcoder.data.holes import KINDS
from hugcoder.data.training_data import corpora_of, training_data
from hugcoder.recipe import parse
from hugcoder.refusal import Refusal

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from evaluation.training_split import TrainingSplit
    from hugcoder.generation.loading import CheckpointCodec

logger = logging.getLogger(__name__)

DESCRIPTION = """Evaluate a checkpoint on the held-out repositories of a corpus: bits per byte, bits
and probability of middles with and without what follows them, silence where nothing is missing, and
generated middles: exact match, edit similarity, stopping and syntax. Writes results.json and prints
a table."""
SAMPLES_PER_KIND = 4
NO_INTERVAL = "no interval"


def fitting_holes(
    documents: list[Document], codec: "CheckpointCodec", context: int, num_spans: int, seed: int
) -> list[BenchmarkSpan]:
    """Holes of every kind that fit the context. Raises: Refusal when the files give none."""
    from evaluation.middles import fitting_spans

    spans = []
    for kind in KINDS:
        chosen = choose_spans(documents, kind, num_spans, seed)
        fitting = fitting_spans(chosen, codec, context)
        if not fitting:
            raise Refusal(
                f"{len(documents)} files give no {kind} hole that fits a context of {context} "
                "tokens; raise max_documents, max_bytes or max_file_bytes."
            )
        why = "because their middle takes more than half the context"
        num_left_out = len(chosen) - len(fitting)
        logger.info(f"{kind}: {len(fitting)} holes ({num_left_out} left out {why})")
        spans += fitting
    return spans


def measure(
    arguments: HeldoutArguments,
    model: "PreTrainedModel",
    codec: "CheckpointCodec",
    documents: list[Document],
    spans: list[BenchmarkSpan],
    pairs: list[BenchmarkSpan],
) -> dict[str, Any]:
    """The measured parts of results.json. Args: pairs: see `evaluation.silence`."""
    from evaluation import bits_per_byte, ends, infilling, middles, silence
    from evaluation.training_split import read_training_split
    from hugcoder.generation.prompts import prompt_room

    infilling.check_scorer(spans)
    seed, batch_tokens = arguments.seed, arguments.batch_tokens
    whole = bits_per_byte.measure(model, codec, documents, batch_tokens, seed)
    logger.info(f"scored {whole['bytes']:,} bytes left to right")
    training = read_training_split(Path(arguments.corpus), codec, arguments.floor_bytes, seed)
    room = prompt_room(model, arguments.max_new_tokens)
    middle = middles.measure(model, codec, spans, training, room, batch_tokens, seed)
    end = ends.measure(model, codec, spans, batch_tokens, seed)
    silent = silence.measure(model, codec, pairs, room, batch_tokens, seed)
    logger.info(f"scored {len(spans)} middles {len(middles.WAYS)} ways; generating")
    generated, samples = generate(arguments, model, codec, spans, training)
    return {
        "scores": {"bits_per_byte": whole["model"]}
        | main_scores(middle, silent, generated, arguments.mode),
        "bits_per_byte": whole,
        "middle_bits_per_byte": middle,
        "ends": end,
        "silence": silent,
        "infilling": generated,
        "floor_share": training.share,
        "samples": samples,
    }


def main_scores(
    middle: dict[str, Any], silent: dict[str, Any], generated: dict[str, Any], mode: str
) -> dict[str, Any]:
    """The figures to compare models by, in the order that generation uses where there are two."""
    scores = {name: middle[name] for name in ("gain_psm_percent", "gain_spm_percent")}
    for kind, part in generated.items():
        one = middle["by_kind"][kind]
        scores[f"{kind}_exact_match"] = part["model"]["exact_match"]
        scores[f"{kind}_edit_similarity"] = part["model"]["edit_similarity"]
        scores[f"{kind}_probability"] = one["filled"][mode]["probability"]
        scores[f"{kind}_end_probability"] = one["stop"][mode]["probability"]
    return scores | {name: silent[mode][name] for name in ("quiet", "show")}


def generate(
    arguments: HeldoutArguments,
    model: "PreTrainedModel",
    codec: "CheckpointCodec",
    spans: list[BenchmarkSpan],
    training: "TrainingSplit",
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Fill every hole: the infilling part of results.json by kind, and samples of each kind."""
    from evaluation import floors, infilling

    completions = infilling.complete_spans(
        model, codec, spans, arguments.mode, arguments.max_new_tokens, arguments.batch_tokens
    )
    trivial = floors.completions(spans, codec, training, arguments.max_new_tokens)
    generated, samples = {}, []
    for kind in KINDS:
        places = [place for place, span in enumerate(spans) if span.kind == kind]
        own, answers = [spans[i] for i in places], [completions[i] for i in places]
        texts = {name: [answers[i] for i in places] for name, answers in trivial.items()}
        generated[kind] = infilling.measure(own, answers, texts, training, arguments.seed)
        few = zip(own[:SAMPLES_PER_KIND], answers, strict=False)
        samples += [infilling.sample(*pair) for pair in few]
    return generated, samples


def settings_of(
    arguments: HeldoutArguments,
    model: "PreTrainedModel",
    codec: "CheckpointCodec",
    spans: list[BenchmarkSpan],
) -> dict[str, Any]:
    """What decides the scores: what was given, what was loaded and what was asked."""
    given = asdict(arguments)
    del given["model"], given["corpus"]
    folder = Path(arguments.corpus)
    return {
        **given,
        **facts_of_model(model, codec),
        "corpus_fingerprint": corpus.fingerprint(folder),
        "held_out_by": corpus.held_out_by(corpus.manifest_of(folder)),
        "spans": digest(spans),
    }


def evaluate(arguments: HeldoutArguments, documents: list[Document]) -> dict[str, Any]:
    """Load the model and measure it: everything that this measurement writes to results.json."""
    from transformers.utils import logging as transformers_logging

    from hugcoder.generation.loading import find_checkpoint, load_checkpoint
    from hugcoder.generation.prompts import prompt_room

    transformers_logging.disable_progress_bar()
    corpora = corpora_of(find_checkpoint(arguments.model))
    manifest = corpus.manifest_of(Path(arguments.corpus))
    origin = training_data(corpora, manifest["fingerprint"], corpus.held_out_by(manifest))
    if not origin.is_known_held_out:
        logger.warning("read these scores with care: %s", origin.sentence)

    model, codec = load_checkpoint(
        arguments.model, arguments.device, arguments.dtype, arguments.spm_variant
    )
    prompt_room(model, arguments.max_new_tokens)  # refuses now, not after the scoring
    context = model.config.max_position_embeddings
    spans = fitting_holes(documents, codec, context, arguments.num_spans, arguments.seed)
    pairs = choose_pairs(documents, arguments.num_spans, arguments.seed)
    if not pairs:
        raise Refusal(
            f"{len(documents)} files give no hole that looks like a place without one; raise "
            "max_documents, max_bytes or max_file_bytes, or num_spans to at least 2."
        )
    return {
        "corpus": arguments.corpus,
        "settings": settings_of(arguments, model, codec, [*spans, *pairs]),
        "training_data": origin.as_json(),
        **measure(arguments, model, codec, documents, spans, pairs),
    }


def table(results: dict[str, Any]) -> Iterator[str]:
    """The lines that are printed, and what a missing interval means."""
    lines = list(_lines(results))
    yield from lines
    if any(NO_INTERVAL in line for line in lines):
        by = results["settings"].get("held_out_by", corpus.REPOSITORY)
        why = f"one {by} alone has such files or holes, and intervals come from resampling"
        then = "hold out two or more, or raise max_documents or num_spans"
        yield f"{NO_INTERVAL}: {why} {corpus.plural_of(by)}; {then}"


def _lines(results: dict[str, Any]) -> Iterator[str]:
    """The scores; files are called held out only where that is known."""
    whole, middle = results["bits_per_byte"], results["middle_bits_per_byte"]
    origin = results["training_data"]
    if not origin["is_known_held_out"]:
        yield f"read these scores with care: {origin['sentence']}"
    files = f"{whole['files']} {'held-out ' * origin['is_known_held_out']}files"
    units = f"{whole['units']} {corpus.plural_of(results['settings']['held_out_by'])}"
    yield f"bits per byte of {files} ({whole['bytes']:,} bytes; intervals are over {units})"
    for name in ("model", "gzip", "xz"):
        yield f"  {name:<28}{_cell(whole[name])}"
    yield f"bits per byte of {middle['spans']} true middles, given"
    yield f"  {'an n-gram model, prefix only':<28}{_cell(middle['ngram'])}"
    ways = {
        "longest_prefix": "the longest prefix alone",
        "prefix_only": "the same prefix as below",
        "psm": "prefix and suffix, PSM",
        "spm": "prefix and suffix, SPM",
    }
    for way, name in ways.items():
        gain = middle.get(f"gain_{way}_percent")
        shown = f"   suffix gain {_cell(gain, digits=1)} %" if gain else ""
        yield f"  {name:<28}{_cell(middle[way])}{shown}"
    for way in ("psm", "spm"):
        read = middle[f"gain_{way}_over_foreign_percent"]
        yield f"  the own suffix saves, to a foreign one, {way.upper()}: {_cell(read, digits=1)} %"
    for order in ("psm", "spm"):
        found = ", ".join(
            f"{_cell(one['probability'], digits=2)} at {length}"
            for length, one in results["ends"][order]["by_length"].items()
        )
        yield f"  the end after the true middle, {order.upper()}, by tokens of the unit: {found}"
    yield from _filled_lines(middle["by_kind"])
    yield from _silence_lines(results["silence"])
    for kind, part in results["infilling"].items():
        yield f"generated middles, {kind.replace('_', ' ')} ({part['spans']} holes), per cent"
        rows = {"model": part["model"], **part["floors"]}
        new = part["new"]
        names = ("exact_match", "edit_similarity", "syntax_valid", "stopped", "empty")
        yield f"  {'':<28}" + "".join(f"{name.replace('_', ' '):<24}" for name in names)
        for name, scores in rows.items():
            cells = (_cell(scores.get(one), factor=100, digits=1) for one in names)
            yield f"  {name.replace('_', ' '):<28}" + "".join(f"{cell:<24}" for cell in cells)
        yield f"  of {new['spans']} that are no line of the training split, exact: {new['exact']}"


def _filled_lines(by_kind: dict[str, dict[str, Any]]) -> Iterator[str]:
    """What the model says of true middles, by kind of hole and order."""
    ends = ("the end behind it", "foreign suffix: end", "first token: end")
    names = ("with its end", "without", *ends)
    yield "probability of the true middle at generation's lengths, mean per cent"
    yield f"  {'':<28}" + "".join(f"{name:<24}" for name in names)
    for kind, part in by_kind.items():
        for way in ("psm", "spm", "ngram"):
            filled = part["filled"][way]
            found = [filled[name] for name in ("probability", "middle_probability")]
            stops = [part["stop"].get(one, {}) for one in (way, f"{way}_foreign")]
            found += [stop.get("probability") for stop in stops]
            found.append(filled.get("first", {}).get("end"))
            cells = (_cell(one, factor=100, digits=1) for one in found)
            name = f"{kind.replace('_', ' ')}, {'n-gram' if way == 'ngram' else way.upper()}"
            yield f"  {name:<28}" + "".join(f"{cell:<24}" for cell in cells)


def _silence_lines(silent: dict[str, Any]) -> Iterator[str]:
    """Quiet and show of each order, and of the rule that must be at chance."""
    rows = {"two characters' rule": silent["floors"]["two_characters"]}
    for order in ("psm", "spm"):
        rows[order.upper()] = silent[order]
        rows[f"{order.upper()}, show kept at 90 %"] = silent[order]["quiet_at_show"]
    yield f"silence at {silent['spans']} places, half of them holes, per cent"
    yield f"  {'':<28}" + "".join(f"{name:<24}" for name in ("quiet", "show", "right"))
    for name, rates in rows.items():
        cells = (_cell(rates[one], factor=100, digits=1) for one in ("quiet", "show", "right"))
        yield f"  {name:<28}" + "".join(f"{cell:<24}" for cell in cells)


def _cell(estimate: dict[str, float | None] | None, factor: float = 1.0, digits: int = 3) -> str:
    """An estimate as `value (low to high)`; a dash where there is none."""
    if estimate is None or estimate["value"] is None:
        return "-"
    shown = interval(estimate, factor, digits) or NO_INTERVAL
    return f"{estimate['value'] * factor:.{digits}f} ({shown})"


def main(argv: list[str]) -> None:
    started = time.perf_counter()
    words = {"positional": "model", "command": "heldout MODEL"}
    arguments = parse([HeldoutArguments], argv, description=DESCRIPTION, **words)
    limits = (arguments.max_documents, arguments.max_bytes, arguments.max_file_bytes)
    documents = choose_documents(Path(arguments.corpus), *limits, arguments.seed)
    with results_file(HELDOUT, arguments.model, arguments.output_dir, started) as results:
        results.update(evaluate(arguments, documents))
        for line in table(results):
            print(line)
