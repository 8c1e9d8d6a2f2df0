#!/usr/bin/env bash
# From the code on this disk to a code model that fills in the middle, on a CPU, in minutes.
# A step that is finished is not done again; after an interruption run the same command.
set -euo pipefail
source "$(dirname "$0")/setup.sh"

run=runs/quickstart
began=$SECONDS
step() { printf '\n== %s  (%d s since the start)\n' "$1" $((SECONDS - began)); }

# bf16 and torch.compile pay only where the processor and a compiler support them: train.py's own questions
question='from hugcoder import hardware; print(hardware.processor_has_bf16(), hardware.missing_compiler())'
read -r has_bf16 compiler < <(python -c "$question")
flags=()
if [ "$has_bf16" = False ]; then
    echo "this processor has no bf16 instructions: training in float32, two to three times slower"
    flags+=(--bf16 false)
fi
if [ -n "$compiler" ]; then
    echo "$compiler is not installed: training without torch.compile, a quarter slower"
    flags+=(--torch_compile false)
fi

step "1/7 corpus: the standard library and installed packages"
python -m data_prep configs/corpora/quickstart.yaml --output_dir data/quickstart
step "2/7 tokenizer"
python -m tokenizer configs/recipes/tokenizer_quickstart.yaml \
    --corpus data/quickstart --output_dir data/quickstart-tokenizer
step "3/7 token store"
python -m data_prep tokenize --corpus data/quickstart --tokenizer data/quickstart-tokenizer \
    --output_dir data/quickstart-tokens
python -m tokenizer measure data/quickstart-tokens/tokenizer --corpus data/quickstart
step "4/7 pretraining with fill-in-the-middle, about 6 minutes on 2 cores; the log says how long is left"
accelerate launch --quiet --config_file configs/cpu.yaml --num_cpu_threads_per_process "$(nproc)" \
    train.py configs/recipes/pretrain_quickstart.yaml "${flags[@]}"
step "5/7 evaluation on repositories it never saw, about 1 minute"
python -m evaluation "$run/model" --corpus data/quickstart --output_dir "$run/evaluation" \
    --mode spm --max_new_tokens 48 --num_spans 100
step "6/7 infilling a hole in a file: examples/settings.py, line 13, behind \"return\""
sed -n 9,14p examples/settings.py
echo "the model writes:"
python generate.py "$run/model" --infill examples/settings.py:13:11 --mode spm --max_new_tokens 16
step "7/7 report"
python -m evaluation report "$run"
printf '\nfinished in %d s: open %s/report.html\n' $((SECONDS - began)) "$run"
