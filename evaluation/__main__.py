"""Evaluate a checkpoint on held-out repositories: python -m evaluation MODEL --corpus FOLDER.

`python -m evaluation report RUN` is another program, `evaluation.report`.
Measures bits per byte of whole files, bits per byte of true middles with and without the text after
them, and generated middles; each beside what a trivial method reaches, each with a 95 % interval
over repositories (or over folders or files, as the corpus holds out). Prints a table and writes
results.json, last and whole. Holds the order of things; the measuring is in the modules beside it.
"""

import logging
import platform
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evaluation.arguments import EvaluationArguments
from evaluation.documents import Document, choose_documents
from evaluation.page import interval
from evaluation.spans import KINDS, BenchmarkSpan, choose_spans, digest
from hugcoder.data import corpus
from hugcoder.data.training_data import corpora_of, training_data
from hugcoder.files import write_json
from hugcoder.ownership import owned
from hugcoder.recipe import parse
from hugcoder.refusal import Refusal, entry_point

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from hugcoder.generation.loading import CheckpointCodec

logger = logging.getLogger(__name__)

DESCRIPTION = """Evaluate a checkpoint on the held-out repositories of a corpus: bits per byte,
bits per byte of middles with and without what follows them, and generated middles: exact match,
edit similarity, stopping and syntax. Writes results.json and prints a table."""
SAMPLES_PER_KIND = 4
NO_INTERVAL = "no interval"


def results_path(arguments: EvaluationArguments) -> Path:
    """Where results.json goes. Raises: Refusal when a hub model has no place of its own."""
    from hugcoder.generation.loading import find_checkpoint

    folder = find_checkpoint(arguments.model)
    if arguments.output_dir:
        return Path(arguments.output_dir) / "results.json"
    if folder is None:
        raise Refusal(f"{arguments.model} is a hub model; say with --output_dir where results go.")
    run = folder.parent if folder.name == "model" else folder
    return run / "evaluation" / "results.json"


def spans_by_kind(
    documents: list[Document], codec: "CheckpointCodec", context: int, num_spans: int, seed: int
) -> dict[str, list[BenchmarkSpan]]:
    """The holes of each kind that fit the model's context. Raises: Refusal when there are none."""
    from evaluation.middles import fitting_spans

    by_kind = {}
    for kind in KINDS:
        chosen = choose_spans(documents, kind, num_spans, seed)
        by_kind[kind] = fitting_spans(chosen, codec, context)
        if not by_kind[kind]:
            raise Refusal(
                f"{len(documents)} files give no {kind} hole that fits a context of "
                f"{context} tokens; raise max_documents, max_bytes or max_file_bytes."
            )
        logger.info(
            f"{kind}: {len(by_kind[kind])} holes ({len(chosen) - len(by_kind[kind])} left out "
            "because their middle takes more than half the context)"
        )
    return by_kind


def measure(
    arguments: EvaluationArguments,
    model: "PreTrainedModel",
    codec: "CheckpointCodec",
    documents: list[Document],
    by_kind: dict[str, list[BenchmarkSpan]],
) -> dict[str, Any]:
    """The measured parts of results.json."""
    from evaluation import bits_per_byte, ends, infilling, middles
    from hugcoder.generation.prompts import prompt_room

    spans = [span for kind in by_kind for span in by_kind[kind]]
    infilling.check_scorer(spans)
    whole = bits_per_byte.measure(model, codec, documents, arguments.batch_tokens, arguments.seed)
    logger.info(f"scored {whole['bytes']:,} bytes left to right")
    room = prompt_room(model, arguments.max_new_tokens)
    middle = middles.measure(model, codec, spans, room, arguments.batch_tokens, arguments.seed)
    end = ends.measure(model, codec, spans, arguments.batch_tokens, arguments.seed)
    logger.info(f"scored {len(spans)} middles {len(middles.WAYS)} ways; generating")
    completions = infilling.complete_spans(
        model, codec, spans, arguments.mode, arguments.max_new_tokens, arguments.batch_tokens
    )
    generated, samples, place = {}, [], 0
    for kind, own in by_kind.items():
        texts = completions[place : place + len(own)]
        place += len(own)
        generated[kind] = infilling.measure(own, texts, arguments.seed)
        pairs = list(zip(own, texts, strict=True))[:SAMPLES_PER_KIND]
        samples += [infilling.sample(span, completion) for span, completion in pairs]
    return {
        "bits_per_byte": whole,
        "middle_bits_per_byte": middle,
        "ends": end,
        "infilling": generated,
        "samples": samples,
    }


def identity(
    arguments: EvaluationArguments,
    model: "PreTrainedModel",
    codec: "CheckpointCodec",
    by_kind: dict[str, list[BenchmarkSpan]],
) -> dict[str, Any]:
    """What was evaluated, on what, with what."""
    settings = asdict(arguments)
    spans = [span for kind in by_kind for span in by_kind[kind]]
    return {
        "kind": "evaluation",
        "model": settings.pop("model"),
        "corpus": settings.pop("corpus"),
        "settings": settings
        | {
            "dtype": str(model.dtype).removeprefix("torch."),
            "device": model.device.type,
            "parameters": model.num_parameters(),
            "context": model.config.max_position_embeddings,
            "tokenizer": codec.fingerprint,
            "corpus_fingerprint": corpus.fingerprint(Path(arguments.corpus)),
            "held_out_by": corpus.held_out_by(corpus.manifest_of(Path(arguments.corpus))),
            "spans": digest(spans),
        },
        "versions": {name: version(name) for name in ("torch", "transformers", "tokenizers")}
        | {"python": platform.python_version()},
    }


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


def main(argv: list[str] | None = None) -> None:
    words = sys.argv[1:] if argv is None else argv
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    if words[:1] == ["report"]:
        from evaluation.report import main as report

        return report(words[1:])
    start = time.perf_counter()
    arguments = parse([EvaluationArguments], words, description=DESCRIPTION, positional="model")
    documents = choose_documents(
        Path(arguments.corpus),
        arguments.max_documents,
        arguments.max_bytes,
        arguments.max_file_bytes,
        arguments.seed,
    )
    path = results_path(arguments)
    with owned(path.parent):
        evaluate(arguments, documents, path, start)


def evaluate(
    arguments: EvaluationArguments, documents: list[Document], path: Path, start: float
) -> None:
    """Measure, print the table and write the results.

    Args: start: when the program began, by time.perf_counter().
    """
    from transformers.utils import logging as transformers_logging

    from hugcoder.generation.loading import find_checkpoint, load_checkpoint
    from hugcoder.generation.prompts import prompt_room

    transformers_logging.disable_progress_bar()
    corpora = corpora_of(find_checkpoint(arguments.model))
    manifest = corpus.manifest_of(Path(arguments.corpus))
    origin = training_data(corpora, manifest["fingerprint"], corpus.held_out_by(manifest))
    if not origin.is_known_held_out:
        logger.warning("read these scores with care: %s", origin.sentence)

    model, codec = load_checkpoint(arguments.model, arguments.device, arguments.dtype)
    prompt_room(model, arguments.max_new_tokens)  # refuses now, not after the scoring
    by_kind = spans_by_kind(
        documents,
        codec,
        model.config.max_position_embeddings,
        arguments.num_spans,
        arguments.seed,
    )
    results = identity(arguments, model, codec, by_kind) | {"training_data": origin.as_json()}
    results |= measure(arguments, model, codec, documents, by_kind)
    results["seconds"] = round(time.perf_counter() - start, 2)
    for line in table(results):
        print(line)
    write_json(path, results)
    print(f"{path} written after {results['seconds']:.0f} s")


if __name__ == "__main__":
    entry_point(main)()
