#!/usr/bin/env bash
# From the code on this disk to a code model that fills in the middle, on a CPU, in minutes:
# MINUTES=30 bash scripts/quickstart.sh takes 30 after installing. The training gets what the other
# steps leave, so a slow machine trains fewer steps.
# A step that is finished is not done again; after an interruption run the same command.
set -euo pipefail
source "$(dirname "$0")/setup.sh"

minutes=${MINUTES:-8}
if [[ ! "$minutes" =~ ^[1-9][0-9]{0,4}$ ]]; then
    echo "MINUTES is $minutes; give a whole number of minutes, such as MINUTES=30." >&2
    exit 2
fi
left_for_evaluation=85 # seconds: steps 6 to 8 on two cores
run=runs/quickstart
[ "$minutes" = 8 ] || run=runs/quickstart-$minutes # a run of its own
speed=$run-speed
began=$SECONDS
step() { printf '\n== %s  (%d s since the start)\n' "$1" $((SECONDS - began)); }

# bf16 and torch.compile pay only where the processor and a compiler support them: train.py's own questions
question='from hugcoder import hardware; print(hardware.processor_has_bf16(), hardware.missing_compiler())'
read -r has_bf16 compiler < <(python -c "$question")
flags=() scored_in=float32
[ "$has_bf16" = False ] || scored_in=bfloat16
if [ "$has_bf16" = False ]; then
    echo "this processor has no bf16 instructions: training in float32, two to three times slower"
    flags+=(--bf16 false)
fi
if [ -n "$compiler" ]; then
    echo "$compiler is not installed: training without torch.compile, a quarter slower"
    flags+=(--torch_compile false)
fi

step "1/8 corpus: the standard library and installed packages"
python -m data_prep configs/corpora/quickstart.yaml --output_dir data/quickstart
step "2/8 tokenizer"
python -m tokenizer configs/recipes/tokenizer_quickstart.yaml \
    --corpus data/quickstart --output_dir data/quickstart-tokenizer
step "3/8 token store"
python -m data_prep tokenize --corpus data/quickstart --tokenizer data/quickstart-tokenizer \
    --output_dir data/quickstart-tokens
python -m tokenizer measure data/quickstart-tokens/tokenizer --corpus data/quickstart
train=(accelerate launch --quiet --config_file configs/cpu.yaml --num_cpu_threads_per_process "$(nproc)"
    train.py configs/recipes/pretrain_quickstart.yaml "${flags[@]}")
step "4/8 the speed of this machine, from 40 steps"
"${train[@]}" --output_dir "$speed" --max_steps 40 --logging_steps 10 --eval_steps 40 --save_strategy no
mkdir -p "$speed"
if [ ! -f "$speed/minutes" ]; then # kept, so that an interrupted training goes on with the same schedule
    spent=$((SECONDS - began + left_for_evaluation))
    if ((minutes * 60 < spent + 30)); then
        echo "MINUTES is $minutes, and $spent seconds go to the data and the evaluation: give MINUTES=$((spent / 60 + 2)) or more." >&2
        exit 2
    fi
    python -c "print(round(($minutes * 60 - $spent) / 60, 2))" > "$speed/minutes"
fi
step "5/8 pretraining with fill-in-the-middle, $(cat "$speed/minutes") minutes; the log says how long is left"
"${train[@]}" --output_dir "$run" --max_minutes "$(cat "$speed/minutes")" --speed_of "$speed"
step "6/8 evaluation on repositories it never saw, 1 to 2 minutes"
python -m evaluation "$run/model" --corpus data/quickstart --output_dir "$run/evaluation" \
    --mode spm --max_new_tokens 48 --num_spans 60 --floor_bytes 10_000_000 --dtype "$scored_in"
step "7/8 infilling a hole in a file: examples/settings.py, line 13, behind \"return\""
sed -n 9,14p examples/settings.py
echo "the model writes:"
python generate.py "$run/model" --infill examples/settings.py:13:11 --mode spm --max_new_tokens 16
step "8/8 report"
python -m evaluation report "$run"
printf '\nfinished in %d s: open %s/report.html\n' $((SECONDS - began)) "$run"
