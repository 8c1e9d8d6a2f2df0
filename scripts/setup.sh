#!/usr/bin/env bash
# Make .venv with what requirements.txt pins, once; sourced by quickstart.sh and test.sh.
# PYTHON=/path/to/python3.12 chooses the interpreter.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

find_python() {
    local candidate
    for candidate in "${PYTHON:-}" python3.12 python3.11 python3; do
        if [ -n "$candidate" ] && command -v "$candidate" > /dev/null &&
            "$candidate" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 12))'; then
            echo "$candidate"
            return
        fi
    done
    echo "setup.sh: error: Python 3.11 or 3.12 is needed; install it or set PYTHON=/path/to/python3.12." >&2
    return 2
}

stamp=.venv/.requirements
if ! cmp -s requirements.txt "$stamp"; then
    python=$(find_python)
    echo "setting up .venv with $("$python" --version) (a few minutes, once)"
    "$python" -m venv .venv || {
        echo "setup.sh: error: $python cannot make a virtual environment; on Debian: apt-get install python3-venv." >&2
        exit 2
    }
    # torch first and alone: deepspeed looks at the installed torch while it is built
    .venv/bin/python -m pip install --quiet --disable-pip-version-check "$(grep -o '^torch==[^ ]*' requirements.txt)"
    .venv/bin/python -m pip install --quiet --disable-pip-version-check -r requirements.txt
    cp requirements.txt "$stamp"
fi
# shellcheck disable=SC1091
source .venv/bin/activate
