#!/usr/bin/env bash
# The whole way with repositories of your own, on a laptop's CPU, in about five minutes:
#   bash docs/walk/walk.sh
# Seven small repositories in five formats become a corpus, a tokenizer, a model, infills and scores;
# then two processes, a stop and a resumed run; then the model is adapted to one repository. Read it as
# the list of commands to use on yours; a test runs it. A step that is done is not done again.
set -euo pipefail
source "$(dirname "$0")/../../scripts/setup.sh" # .venv, and from here on the repository's folder

data=data/walk
run=runs/walk
step() { printf '\n== %s\n' "$1"; }

step "seven repositories: git work trees, folders, parquet, JSON lines, a hub data set"
[ -d $data/repositories ] || python docs/walk/seven_repositories.py $data/repositories

step "a corpus of them; two are held out by name"
python -m data_prep docs/walk/corpus.yaml --output_dir $data/corpus

step "a tokenizer, and the corpus as its tokens"
python -m tokenizer --corpus $data/corpus --output_dir $data/tokenizer --vocab_size 2048
python -m tokenizer measure $data/tokenizer --corpus $data/corpus
python -m data_prep tokenize --corpus $data/corpus --tokenizer $data/tokenizer --output_dir $data/tokens

step "pretraining with fill-in-the-middle, one process"
python train.py docs/walk/pretrain.yaml --token_store $data/tokens --output_dir $run/one

step "a completion and an infill"
python generate.py $run/one --prompt "-- a comment: " --max_new_tokens 8
python generate.py $run/one --infill examples/settings.py:13:11 --max_new_tokens 8

step "scores on the held-out repositories, and a report"
python -m evaluation $run/one --corpus $data/corpus --num_spans 8 --max_new_tokens 16 --max_documents 8
python -m evaluation report $run/one

step "the same run by two processes: FSDP2 through torchrun, then DDP through accelerate"
NUM_GPUS=2 bash scripts/run_fsdp.sh docs/walk/pretrain.yaml --token_store $data/tokens --output_dir $run/fsdp
NUM_GPUS=2 bash scripts/run_ddp.sh docs/walk/pretrain.yaml --token_store $data/tokens --output_dir $run/ddp

step "a run that is stopped, and goes on with another number of processes"
mkdir -p $run/stopped && rm -f $run/stopped/STOP
NUM_GPUS=2 bash scripts/run_fsdp.sh docs/walk/pretrain.yaml --token_store $data/tokens --output_dir $run/stopped &
launcher=$!
until [ -d $run/stopped/checkpoint-20 ] || ! kill -0 $launcher 2> /dev/null; do sleep 1; done
touch $run/stopped/STOP
wait $launcher || echo "ended with code $?, 75 is a stop on request"
rm $run/stopped/STOP
NUM_GPUS=1 bash scripts/run_fsdp.sh docs/walk/pretrain.yaml --token_store $data/tokens --output_dir $run/stopped

step "weights for other programs"
[ -d $run/exported ] || python export.py $run/stopped/checkpoint-40 --output_dir $run/exported --dtype bfloat16

step "adapted to one repository, of which some files are held out"
python -m data_prep --sources type=git,path=$data/repositories/git/click --held_out_by file --held_out_fraction 0.2 --output_dir $data/click
python -m data_prep tokenize --corpus $data/click --tokenizer $run/one/model --output_dir $data/click-tokens
python train.py configs/recipes/adapt.yaml --model_name_or_path $run/one --token_store $data/click-tokens --output_dir $run/adapted --max_seq_length 128 --max_steps 20

step "what it learned of that repository, and what it forgot of the others"
for model in one adapted; do
    for corpus in click corpus; do
        python -m evaluation $run/$model --corpus $data/$corpus --num_spans 8 --max_new_tokens 16 --max_documents 8 \
            --output_dir $run/$model/on-$corpus
    done
done
