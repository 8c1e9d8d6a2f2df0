"""Pretrain a code model with fill-in-the-middle, from random weights or from a checkpoint.

    accelerate launch --config_file configs/ddp.yaml train.py configs/recipes/pretrain_1b.yaml
    accelerate launch --config_file configs/deepspeed.yaml train.py configs/recipes/pretrain_7b.yaml
    torchrun --nproc_per_node 8 train.py configs/recipes/pretrain_7b.yaml configs/recipes/fsdp.yaml

Recipes come first, flags after, later wins. The same command goes on with a run that was
interrupted. Holds the order of the steps; each is in the `hugcoder` package.
"""

import logging
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from hugcoder.recipe import parse
from hugcoder.refusal import EXIT_STOPPED, entry_point

if TYPE_CHECKING:  # the modules themselves are loaded once the words are known to be right
    from hugcoder.data.rows import PackedRows
    from hugcoder.model.build import ModelSize
    from hugcoder.run.callbacks.hang_watchdog import HangWatchdog
    from hugcoder.run.callbacks.stop_requests import StopSignals
    from hugcoder.run.identity import Identity
    from hugcoder.run.run_status import RunStatus

logger = logging.getLogger("train")


def main(argv: list[str] | None = None) -> None:
    from hugcoder.engines.collectives import disband
    from hugcoder.engines.world import check_launch
    from hugcoder.ownership import owned_by_rank_0
    from hugcoder.pretraining.argument_checks import check_arguments
    from hugcoder.pretraining.arguments import DataArguments, ModelArguments, PretrainArguments
    from hugcoder.run.callbacks.hang_watchdog import HangWatchdog
    from hugcoder.run.callbacks.stop_requests import listening, refuse_while_stopped
    from hugcoder.run.run_status import kept_status

    # Parse and check
    start_logging()
    groups = parse(
        [ModelArguments, DataArguments, PretrainArguments],
        argv,
        description="Pretrain a code model with fill-in-the-middle.",
    )
    model_args, data_args, training_args = groups
    run = Path(training_args.output_dir)
    rank = training_args.process_index
    watchdog = HangWatchdog(run, training_args.hang_timeout_minutes * 60, rank)
    with watchdog.armed("while agreeing to start with the other processes"):
        with (
            owned_by_rank_0(run),
            listening() as signals,
            kept_status(run, rank == 0) as status,
        ):
            check_arguments(model_args, data_args, training_args)
            check_launch(training_args)
            refuse_while_stopped(run)
            pretrain(groups, signals, status, watchdog)
        watchdog.at("while leaving together with the other processes")
        disband()


def pretrain(
    groups: list, signals: "StopSignals", status: "RunStatus", watchdog: "HangWatchdog"
) -> None:
    """Load, build, begin or go on, train and save.

    Args:
        signals: requests to stop, listened to from the start.
        status: what status.json will say.
        watchdog: ends a run that hangs, and is told what is done.
    """
    model_args, data_args, training_args = groups
    from transformers import set_seed

    from hugcoder.data import row_statistics, token_store
    from hugcoder.data.training_data import corpora_of_run
    from hugcoder.engines.collectives import disband
    from hugcoder.model.build import build_model, check_model, measure_model
    from hugcoder.pretraining.data import load_codec, load_held_out, load_rows
    from hugcoder.pretraining.trainer import PretrainTrainer
    from hugcoder.run import checkpoint
    from hugcoder.run.callbacks.hang_watchdog import LONG_SECONDS
    from hugcoder.run.callbacks.stop_requests import StopRequests
    from hugcoder.run.identity import run_identity

    check_model(model_args)

    # Data: token store -> pieces -> FIM units -> rows
    watchdog.at("while reading the data", LONG_SECONDS)
    codec = load_codec(model_args, data_args)
    rows = load_rows(data_args, training_args, codec)
    held_out = load_held_out(data_args, training_args, codec)
    logger.info(row_statistics.summary(rows))

    # Model
    watchdog.at("while building the model", LONG_SECONDS)
    set_seed(training_args.seed)
    model = build_model(model_args, codec, data_args.max_seq_length, training_args)
    size = measure_model(model, data_args.max_seq_length)
    logger.info("model: %s", size)

    # Resume or begin
    watchdog.at("while reading the checkpoint to go on from", LONG_SECONDS)
    run = Path(training_args.output_dir)
    store_manifest = token_store.manifest_of(Path(data_args.token_store))
    identity = run_identity(data_args, training_args, store_manifest, model.config.to_dict())
    given = training_args.resume_from_checkpoint
    if checkpoint.is_finished(run, identity, training_args.max_steps, given):
        logger.info("%s is finished; its model is in %s", run, run / checkpoint.FINAL_MODEL)
        status.step = training_args.max_steps
        return
    resume_from = checkpoint.find_resumable(run, given, identity)
    checkpoint.check_length(resume_from, training_args.max_steps)
    corpora = corpora_of_run(model_args.model_name_or_path, resume_from, identity.facts["corpus"])
    record_start(groups, rows, size, identity, resume_from, corpora)

    # Train and save
    trainer = PretrainTrainer(
        model, training_args, rows, held_out, size, identity.facts, corpora, watchdog
    )
    stop_requests = StopRequests(run, signals, trainer.checkpoints.finish)
    trainer.add_callback(stop_requests)
    trainer.add_callback(status)
    trainer.train(resume_from_checkpoint=str(resume_from) if resume_from else None)
    if stop_requests.stopped:
        removed = " once that is removed," if stop_requests.stopped.startswith("file ") else ""
        logger.info(
            "stopped by %s;%s the same command goes on from here", stop_requests.stopped, removed
        )
        status.write("stopped", EXIT_STOPPED)
        disband()  # together: a launcher ends the ranks that are left
        raise SystemExit(EXIT_STOPPED)
    if held_out and trainer.last_evaluated_step != trainer.state.global_step:
        trainer.evaluate()
    folder = trainer.export()
    infill = f"python generate.py {folder} --infill FILE:LINE:COL"
    context = getattr(model.config, "max_position_embeddings", data_args.max_seq_length)
    logger.info("the model, of %s tokens of context, is in %s", f"{context:,}", folder)
    logger.info("infill with: %s", infill)


def record_start(
    groups: list,
    rows: "PackedRows",
    size: "ModelSize",
    identity: "Identity",
    resume_from: Path | None,
    corpora: list[str],
) -> None:
    """Say what begins or goes on, in the log and, on rank 0, in run.json."""
    from hugcoder import hardware
    from hugcoder.data import row_statistics
    from hugcoder.data.training_data import tell_of_passes, training_data
    from hugcoder.run import run_record
    from hugcoder.run.identity import named

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
    facts = {
        "parameters": size.parameters,
        "embedding_parameters": size.embedding_parameters,
        "flops_per_token": size.flops_per_token,
        "tokens_per_step": tokens_per_step,
        "max_steps": training_args.max_steps,
        "data": row_statistics.summary(rows),
        "device": hardware.device_name(),
        "world_size": training_args.world_size,
        "corpora": corpora,
    }
    scored = training_data(corpora, identity.facts["corpus"])
    if data_args.held_out_rows and not scored.is_known_held_out:
        logger.warning("read eval/ scores with care: %s", scored.sentence)
    run = Path(training_args.output_dir)
    changed = run_record.write_run_record(run, groups, identity.facts, facts, resume_from)
    if changed:
        logger.warning("arguments changed since the last start: %s", named(changed))


def start_logging() -> None:
    """One line a fact on rank 0, warnings from the other ranks."""
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
    # of settings that differ on resume; `record_start` names all of them
    logging.getLogger("transformers.trainer_utils").addFilter(
        lambda record: "the ones in the `trainer_state.json`" not in record.getMessage()
    )
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # data workers are the parallelism


if __name__ == "__main__":
    entry_point(main)()
