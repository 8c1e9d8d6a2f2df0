#!/usr/bin/env bash
# Set up and run the tests: lint, then the fast set; `scripts/test.sh --all` runs the slow set too.
# Other words go to pytest: scripts/test.sh tests/test_fim.py -k round_trip
set -euo pipefail
source "$(dirname "$0")/setup.sh"

ruff check .
ruff format --check .
if [ "${1:-}" = "--all" ]; then
    shift
    python -m pytest "$@"
    exec python -m pytest -m slow "$@"
fi
exec python -m pytest "$@"
