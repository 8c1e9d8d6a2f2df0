"""Pretrain a code model with fill-in-the-middle, from random weights or from a checkpoint.

    accelerate launch --config_file configs/cpu.yaml train.py
    configs/recipes/pretrain_quickstart.yaml accelerate launch --config_file configs/deepspeed.yaml
    train.py configs/recipes/pretrain_7b.yaml torchrun --nproc_per_node 8 train.py
    configs/recipes/pretrain_7b.yaml --fsdp true

Recipes come first, flags after, later wins. The same command goes on with a run that was
interrupted. Holds the order of the steps; each is in the `hugcoder` package.
"""

import logging
import os
import sys
from pathlib import Path

from hugcoder.recipe import parse
from hugcoder.refusal import entry_point

logger = logging.getLogger("train")


def main(argv: list[str] | None = None) -> None:
    from hugcoder.cpu_engines import prepare_cpu_engines

    prepare_cpu_engines()
    from hugcoder.arguments import (
        DataArguments,
        ModelArguments,
        PretrainArguments,
        check_arguments,
    )

    # Parse and check
    groups = parse(
        [ModelArguments, DataArguments, PretrainArguments],
        argv,
        description="Pretrain a code model with fill-in-the-middle.",
    )
    model_args, data_args, training_args = groups
    start_logging(training_args)
    check_arguments(model_args, data_args, training_args)

    from transformers import set_seed

    from hugcoder import checkpoint, hardware, run_record, token_store
    from hugcoder.data import load_codec, load_held_out, load_rows
    from hugcoder.model import build_model, measure_model
    from hugcoder.trainer import PretrainTrainer

    # Data: token store -> pieces -> FIM units -> rows
    codec = load_codec(model_args, data_args)
    rows = load_rows(data_args, training_args, codec)
    held_out = load_held_out(data_args, training_args, codec)
    logger.info(rows.summary())

    # Model
    set_seed(training_args.seed)
    model = build_model(model_args, codec, data_args.max_seq_length)
    size = measure_model(model, data_args.max_seq_length)
    logger.info("model: %s", size)

    # Resume or begin
    identity = run_record.run_identity(
        token_store.manifest_of(Path(data_args.token_store)),
        model.config.to_dict(),
        row_length=data_args.max_seq_length,
        rows_per_step=training_args.rows_per_step,
        seed=training_args.seed,
        fim_rate=data_args.fim_rate,
        spm_rate=data_args.spm_rate,
        fim_spans=data_args.fim_spans,
        mixture=data_args.mixture_weights,
    )
    run = Path(training_args.output_dir)
    if checkpoint.is_finished(run, identity, training_args.max_steps):
        logger.info("%s is finished; its model is in %s", run, run / checkpoint.FINAL_MODEL)
        return
    resume_from = checkpoint.find_resumable(run, training_args.resume_from_checkpoint, identity)
    tokens_per_step = training_args.rows_per_step * data_args.max_seq_length
    logger.info(
        "run: %s steps x %s rows x %s tokens = %.1fM tokens on %s process(es)%s",
        f"{training_args.max_steps:,}",
        training_args.rows_per_step,
        data_args.max_seq_length,
        training_args.max_steps * tokens_per_step / 1e6,
        training_args.world_size,
        f", going on from {resume_from}" if resume_from else "",
    )
    if training_args.should_save:
        facts = {
            "parameters": size.parameters,
            "embedding_parameters": size.embedding_parameters,
            "flops_per_token": size.flops_per_token,
            "tokens_per_step": tokens_per_step,
            "max_steps": training_args.max_steps,
            "data": rows.summary(),
            "device": hardware.device_name(),
            "world_size": training_args.world_size,
        }
        run_record.write_run_record(run, groups, identity, facts)

    # Train and save
    trainer = PretrainTrainer(model, training_args, rows, held_out, size, identity)
    trainer.train(resume_from_checkpoint=str(resume_from) if resume_from else None)
    if held_out and trainer.last_evaluated_step != trainer.state.global_step:
        trainer.evaluate()
    folder = trainer.export()
    logger.info(
        "the model is in %s; infill with: python generate.py %s --infill FILE:LINE:COL",
        folder,
        folder,
    )


def start_logging(training_args) -> None:
    """One line a fact on rank 0, warnings from the other ranks."""
    from transformers.utils import logging as transformers_logging

    is_main = training_args.process_index == 0
    level = logging.INFO if is_main else logging.WARNING
    logging.basicConfig(
        format="%(asctime)s %(message)s", datefmt="%H:%M:%S", level=level, stream=sys.stderr
    )
    for noisy in ("httpx", "accelerate", "torch", "filelock", "fsspec"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    transformers_logging.disable_progress_bar()
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # data workers are the parallelism


if __name__ == "__main__":
    entry_point(main)()
