#!/usr/bin/env bash
# Pretrain 7B on the 8 GPUs of one machine with PyTorch's FSDP2, started by torchrun.
# Words after the script go to train.py: scripts/run_fsdp.sh --learning_rate 2e-4
# To have it started again when it dies: scripts/babysit.sh runs/pretrain_7b scripts/run_fsdp.sh
# Run with two processes on CPUs by a test; 8 GPUs are not measured yet.
#
# Batch: 128 rows x 4,096 tokens = 524,288 tokens a step, on any number of GPUs.
# Memory: 7.0e9 parameters x 16 bytes (weights, gradients, AdamW) / 8 GPUs = 14 GB a GPU, plus activations.
set -euo pipefail
cd "$(dirname "$0")/.."

TOKEN_STORE=${TOKEN_STORE:-data/corpus-tokens}  # EDIT: made by `python -m data_prep tokenize`
OUTPUT_DIR=${OUTPUT_DIR:-runs/pretrain_7b}      # EDIT
NUM_GPUS=${NUM_GPUS:-8}                         # EDIT

exec torchrun --standalone --nproc_per_node "$NUM_GPUS" \
    train.py configs/recipes/pretrain_7b.yaml configs/recipes/fsdp.yaml \
    --token_store "$TOKEN_STORE" --output_dir "$OUTPUT_DIR" "$@"
