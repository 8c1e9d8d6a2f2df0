#!/usr/bin/env bash
# Pretrain 1B on the 8 GPUs of one machine, the whole model on each, started by accelerate.
# Words after the script go to train.py: scripts/run_ddp.sh --learning_rate 2e-4
# To have it started again when it dies: scripts/babysit.sh runs/pretrain_1b scripts/run_ddp.sh
# Run with two processes on CPUs by a test; 8 GPUs are not measured yet.
#
# Batch: 128 rows x 4,096 tokens = 524,288 tokens a step, on any number of GPUs.
# Memory: 1.07e9 parameters x 16 bytes (weights, gradients, AdamW) = 17 GB a GPU, plus activations.
set -euo pipefail
cd "$(dirname "$0")/.."

TOKEN_STORE=${TOKEN_STORE:-data/corpus-tokens}  # EDIT: made by `python -m data_prep tokenize`
OUTPUT_DIR=${OUTPUT_DIR:-runs/pretrain_1b}      # EDIT
NUM_GPUS=${NUM_GPUS:-8}                         # EDIT

exec accelerate launch --quiet --config_file configs/ddp.yaml --num_processes "$NUM_GPUS" \
    train.py configs/recipes/pretrain_1b.yaml \
    --token_store "$TOKEN_STORE" --output_dir "$OUTPUT_DIR" "$@"
