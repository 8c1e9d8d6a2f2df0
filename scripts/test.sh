#!/usr/bin/env bash
# Set up and run the tests: lint, then the fast set; `scripts/test.sh --all` runs the slow set too.
# Other words go to pytest: scripts/test.sh tests/test_fim.py -k span
set -euo pipefail
source "$(dirname "$0")/setup.sh"

ruff check .
ruff format --check .
if [ "${1:-}" != "--all" ]; then
    exec python -m pytest "$@"
fi

# These run one command after the other, most of the time on one core: beside all others.
commands=(tests/test_scripts.py tests/test_wrong_input.py)
shift
said=$(mktemp)
OMP_NUM_THREADS=1 python -m pytest -m slow "${commands[@]}" "$@" > "$said" 2>&1 &
beside=$!
trap 'kill "$beside" 2> /dev/null || true; rm -f "$said"' EXIT
code=0
python -m pytest "$@" || code=$?
[ "$code" -gt 1 ] || python -m pytest -m slow "${commands[@]/#/--ignore=}" "$@" || code=$?
wait "$beside" || code=$?
cat "$said"
exit "$code"
