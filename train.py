"""Pretrain a code model with fill-in-the-middle, from random weights or from a checkpoint.

    accelerate launch --config_file configs/ddp.yaml train.py configs/recipes/pretrain_1b.yaml
    accelerate launch --config_file configs/deepspeed.yaml train.py configs/recipes/pretrain_7b.yaml
    torchrun --nproc_per_node 8 train.py configs/recipes/pretrain_7b.yaml configs/recipes/fsdp.yaml

Recipes come first, then flags; a later value wins. The same command resumes a run that was
interrupted. Holds the order of the steps; the `hugcoder` package holds each step.
"""

import logging
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hugcoder.recipe import parse
from hugcoder.refusal import entry_point

if TYPE_CHECKING:  # these modules are loaded after the command line has been checked
    from hugcoder.data.rows import PackedRows
    from hugcoder.run.session import Session

logger = logging.getLogger("train")


def main(argv: list[str] | None = None) -> None:
    from hugcoder.pretraining.arguments import DataArguments, ModelArguments, PretrainArguments

    start_logging()
    groups = parse(
        [ModelArguments, DataArguments, PretrainArguments],
        argv,
        description="Pretrain a code model with fill-in-the-middle.",
    )

    from hugcoder.engines.world import check_launch
    from hugcoder.pretraining.argument_checks import check_arguments
    from hugcoder.run.session import session

    _, _, training_args = groups
    with session(training_args) as start:
        check_arguments(*groups)
        check_launch(training_args)
        pretrain(groups, start)


def pretrain(groups: list, start: "Session") -> None:
    """Load the data, build the model, begin or resume, train and save."""
    from transformers import set_seed

    from hugcoder.data import row_statistics
    from hugcoder.data.token_store import manifest_of
    from hugcoder.data.training_data import corpora_of_run
    from hugcoder.model.size import measure_model
    from hugcoder.pretraining import loading
    from hugcoder.pretraining.identity import pretraining_identity
    from hugcoder.pretraining.trainer import PretrainTrainer
    from hugcoder.run.material import Material

    model_args, data_args, training_args = groups
    loading.check_model(model_args)

    # Data: token store -> pieces -> FIM units -> rows
    start.now("while reading the data")
    codec = loading.load_codec(model_args, data_args)
    rows = loading.load_rows(data_args, training_args, codec)
    loading.fix_length(rows, training_args)
    scored = loading.load_scored(data_args, training_args, codec)
    logger.info(row_statistics.summary(rows))

    # Model
    start.now("while building the model")
    set_seed(training_args.seed)
    model = loading.build_model(model_args, codec, data_args.max_seq_length, training_args)
    size = measure_model(model, data_args.max_seq_length)
    logger.info("model: %s", size)

    # Resume or begin
    start.now("while reading the checkpoint to resume from")
    store = manifest_of(Path(data_args.token_store))
    mixture, config = rows.settings.mixture, model.config.to_dict()
    identity = pretraining_identity(
        data_args, training_args, mixture, store, config, codec.spm_variant
    )
    if start.is_finished(identity):
        return
    resume_from = start.checkpoint_to_resume(identity)
    corpora = corpora_of_run(model_args.model_name_or_path, resume_from, identity.facts["corpus"])
    tell_of_run(groups, rows, resume_from, corpora, identity.facts["corpus"])
    facts = size.facts() | facts_of_run(rows, training_args) | {"corpora": corpora}
    start.record(groups, identity, facts, resume_from)

    # Train and save
    def facts_at(step: int) -> dict[str, Any]:
        return {"tokens": rows.tokens_in(step * training_args.rows_per_step), "corpora": corpora}

    def documents_in(first: int, last: int) -> list[dict[str, str]]:
        return row_statistics.documents(rows, first, last)

    material = Material(identity.facts, codec.folder, facts_at, documents_in)
    trainer = PretrainTrainer(
        model, training_args, rows, *scored, size, material, watchdog=start.watchdog
    )
    start.train(trainer, resume_from)
    folder = trainer.export()
    context = getattr(model.config, "max_position_embeddings", data_args.max_seq_length)
    logger.info("the model, of %s tokens of context, is in %s", f"{context:,}", folder)
    logger.info("infill with: python generate.py %s --infill FILE:LINE:COL", folder)


def facts_of_run(rows: "PackedRows", training_args: Any) -> dict[str, Any]:
    """Collect what run.json says besides arguments, model and identity."""
    from hugcoder import hardware
    from hugcoder.data import row_statistics

    return {
        "tokens_per_step": rows.tokens_in(training_args.rows_per_step),
        "max_steps": training_args.max_steps,
        "data": row_statistics.summary(rows),
        "device": hardware.device_name(),
        "world_size": training_args.world_size,
    }


def tell_of_run(
    groups: list,
    rows: "PackedRows",
    resume_from: Path | None,
    corpora: list[str],
    corpus: str,
) -> None:
    """Log how long the run is, and warn when its held-out scores cannot be trusted."""
    from hugcoder.data.training_data import tell_of_passes, training_data

    _, data_args, training_args = groups
    tokens_per_step = rows.tokens_in(training_args.rows_per_step)
    steps_a_pass = rows.epochs.rows_in(0) / training_args.rows_per_step
    logger.info(
        "run: %s steps x %s rows x %s tokens = %s tokens, %.3g passes over %s, on %s process(es)%s",
        f"{training_args.max_steps:,}",
        training_args.rows_per_step,
        rows.settings.row_length,
        f"{training_args.max_steps * tokens_per_step:,}",
        training_args.max_steps / steps_a_pass,
        f"{round(steps_a_pass * tokens_per_step):,}",
        training_args.world_size,
        f", going on from {resume_from}" if resume_from else "",
    )
    if not training_args.should_save:
        return
    tell_of_passes(training_args.max_steps, steps_a_pass)
    scored = training_data(corpora, corpus)
    if data_args.held_out_rows and not scored.is_known_held_out:
        logger.warning("read eval/ scores with care: %s", scored.sentence)


def start_logging() -> None:
    """Log one line for each fact on rank 0, and only warnings on the other ranks."""
    from transformers.utils import logging as transformers_logging

    from hugcoder.engines.launched import launched_rank
    from hugcoder.engines.zero import silence_deprecated_collectives

    silence_deprecated_collectives()
    level = logging.INFO if launched_rank() == 0 else logging.WARNING
    logging.basicConfig(
        format="%(asctime)s %(message)s", datefmt="%H:%M:%S", level=level, stream=sys.stderr
    )
    for noisy in ("httpx", "accelerate", "torch", "filelock", "fsspec"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    transformers_logging.disable_progress_bar()
    # Drops transformers' list of settings that differ on resume: `Session.record` names them all.
    logging.getLogger("transformers.trainer_utils").addFilter(
        lambda record: "the ones in the `trainer_state.json`" not in record.getMessage()
    )
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # data workers are the parallelism


if __name__ == "__main__":
    entry_point(main)()
