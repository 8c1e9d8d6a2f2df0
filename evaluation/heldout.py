"""Measure a checkpoint on held-out files: python -m evaluation heldout MODEL --corpus FOLDER.

Measures bits per byte of whole files, bits per byte of true middles with and without the text after
them, and generated middles. Each score stands beside what a trivial method reaches, and has a 95 %
interval over repositories (or over folders or files, as the corpus holds out). Prints a table and
writes results.json. Holds the order of things; the measuring is in the modules beside this one.
"""

import logging
import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evaluation.documents import Document, choose_documents
from evaluation.heldout_arguments import HeldoutArguments
from evaluation.heldout_table import table
from evaluation.results import HELDOUT, facts_of_model, results_file
from evaluation.spans import KINDS, BenchmarkSpan, choose_spans, digest
from hugcoder.data import corpus
from hugcoder.data.training_data import TrainingData, corpora_of, training_data
from hugcoder.recipe import parse
from hugcoder.refusal import Refusal

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from hugcoder.generation.loading import CheckpointCodec

logger = logging.getLogger(__name__)

DESCRIPTION = """Evaluate a checkpoint on the held-out repositories of a corpus: bits per byte,
bits per byte of middles with and without what follows them, and generated middles: exact match,
edit similarity, stopping and syntax. Writes results.json and prints a table."""
SAMPLES_PER_KIND = 4


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
    arguments: HeldoutArguments,
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
    gains = {f"gain_{way}_percent": middle[f"gain_{way}_percent"] for way in middles.FIM_WAYS}
    exact = {f"{kind}_exact_match": generated[kind]["model"]["exact_match"] for kind in generated}
    return {
        "scores": {"bits_per_byte": whole["model"], **gains, **exact},
        "bits_per_byte": whole,
        "middle_bits_per_byte": middle,
        "ends": end,
        "infilling": generated,
        "samples": samples,
    }


def settings_of(
    arguments: HeldoutArguments,
    model: "PreTrainedModel",
    codec: "CheckpointCodec",
    by_kind: dict[str, list[BenchmarkSpan]],
) -> dict[str, Any]:
    """What decides the scores: what was given, what was loaded and what was asked."""
    given = asdict(arguments)
    del given["model"], given["corpus"]
    manifest = corpus.manifest_of(Path(arguments.corpus))
    return {
        **given,
        **facts_of_model(model, codec),
        "corpus_fingerprint": corpus.fingerprint(Path(arguments.corpus)),
        "held_out_by": corpus.held_out_by(manifest),
        "spans": digest([span for kind in by_kind for span in by_kind[kind]]),
    }


def origin_of(arguments: HeldoutArguments) -> TrainingData:
    """What the model was trained on, beside this corpus; says so when that is not known."""
    from hugcoder.generation.loading import find_checkpoint

    corpora = corpora_of(find_checkpoint(arguments.model))
    manifest = corpus.manifest_of(Path(arguments.corpus))
    origin = training_data(corpora, manifest["fingerprint"], corpus.held_out_by(manifest))
    if not origin.is_known_held_out:
        logger.warning("read these scores with care: %s", origin.sentence)
    return origin


def evaluate(arguments: HeldoutArguments, documents: list[Document]) -> dict[str, Any]:
    """Load the model, ask it everything, and return what results.json holds of that."""
    from transformers.utils import logging as transformers_logging

    from hugcoder.generation.loading import load_checkpoint
    from hugcoder.generation.prompts import prompt_room

    transformers_logging.disable_progress_bar()
    origin = origin_of(arguments)
    model, codec = load_checkpoint(arguments.model, arguments.device, arguments.dtype)
    prompt_room(model, arguments.max_new_tokens)  # refuses now, not after the scoring
    context = model.config.max_position_embeddings
    by_kind = spans_by_kind(documents, codec, context, arguments.num_spans, arguments.seed)
    return {
        "corpus": arguments.corpus,
        "settings": settings_of(arguments, model, codec, by_kind),
        "training_data": origin.as_json(),
        **measure(arguments, model, codec, documents, by_kind),
    }


def main(argv: list[str]) -> None:
    started = time.perf_counter()
    arguments = parse(
        [HeldoutArguments],
        argv,
        description=DESCRIPTION,
        positional="model",
        command="heldout MODEL",
    )
    documents = choose_documents(
        Path(arguments.corpus),
        arguments.max_documents,
        arguments.max_bytes,
        arguments.max_file_bytes,
        arguments.seed,
    )
    with results_file(HELDOUT, arguments.model, arguments.output_dir, started) as results:
        results.update(evaluate(arguments, documents))
        for line in table(results):
            print(line)
