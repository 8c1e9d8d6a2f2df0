#!/usr/bin/env bash
# Pretrain 7B on the 8 GPUs of one machine with PyTorch's FSDP2, started by torchrun.
#   scripts/run_fsdp.sh [RECIPE.yaml ...] [--flag value ...]
#   NUM_GPUS=2 TOKEN_STORE=data/mine scripts/run_fsdp.sh my.yaml --learning_rate 2e-4
# Recipes that are named replace the one below; flags win over all. What nobody says: the tokens are in
# data/corpus-tokens, the run in runs/NAME_OF_THE_RECIPE. Paths count from the repository's folder,
# those of recipes from yours too. To have it started again when it dies:
#   scripts/babysit.sh runs/pretrain_7b scripts/run_fsdp.sh
# Run with two processes on CPUs by a test; 8 GPUs are not measured yet.
#
# Batch: 128 rows x 4,096 tokens = 524,288 tokens a step, on any number of GPUs.
# Memory: 7.0e9 parameters x 16 bytes (weights, gradients, AdamW) / 8 GPUs = 14 GB a GPU, plus activations.
set -euo pipefail

export RECIPE=${RECIPE:-configs/recipes/pretrain_7b.yaml} # EDIT: or name recipes as the first words
NUM_GPUS=${NUM_GPUS:-8}                                   # EDIT

exec python "$(dirname "$0")/launch.py" torchrun --standalone --nproc_per_node "$NUM_GPUS" \
    train.py configs/recipes/fsdp.yaml -- "$@"
