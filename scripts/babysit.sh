#!/usr/bin/env bash
# Start a training command again whenever it dies, until the run has finished:
#   scripts/babysit.sh runs/pretrain_7b scripts/run_fsdp.sh
#   scripts/babysit.sh RUN_FOLDER COMMAND...
# The command goes on from its last complete checkpoint by itself. Ends with
#   0   finished
#   2   refused, a person has to act; also when the command ended twice before the run began, as bare
#       torchrun and accelerate do for a mistake in its words (they turn every exit code into 1)
#   75  stopped on request: RUN_FOLDER/STOP, or a signal to this script, which is passed on
#   143 stopped by a signal while nothing ran; another code of the command's own when it did not save
#   1   given up: MAX_RESTARTS restarts brought no new checkpoint
set -euo pipefail

MAX_RESTARTS=${MAX_RESTARTS:-20}            # in a row without a new checkpoint
FIRST_PAUSE_SECONDS=${FIRST_PAUSE_SECONDS:-5}
LONGEST_PAUSE_SECONDS=${LONGEST_PAUSE_SECONDS:-300}

if [ $# -lt 2 ]; then
    echo "babysit.sh: error: give the run folder and the command: scripts/babysit.sh RUN_FOLDER COMMAND..." >&2
    exit 2
fi
run=$1
shift

say() { printf '%s babysit: %s\n' "$(date +%H:%M:%S)" "$*" >&2; }

# The highest step whose checkpoint is complete (its manifest is written last), 0 when there is none.
progress() {
    local manifest step highest=0
    for manifest in "$run"/checkpoint-*/manifest.json; do
        [ -f "$manifest" ] || continue
        step=${manifest%/manifest.json}
        step=${step##*/checkpoint-}
        if [[ $step =~ ^[0-9]+$ ]] && [ "$step" -gt "$highest" ]; then highest=$step; fi
    done
    echo "$highest"
}

# Which status.json there is: each one that a run writes is a new file.
written() { stat -c '%i %y' "$run/status.json" 2> /dev/null || true; }

# What the run says about its end, if it said so in this attempt.
status() {
    local now
    now=$(written)
    if [ -z "$now" ] || [ "$now" = "$began" ]; then return 0; fi
    python3 -c 'import json, sys; print(json.load(open(sys.argv[1]))["status"])' "$run/status.json"
}

stopping=
child=
pass_on() {
    stopping=1
    say "got SIG$1, passing it on"
    if [ -n "$child" ]; then kill -s "$1" "$child" 2> /dev/null || true; fi
}
trap 'pass_on TERM' TERM
trap 'pass_on INT' INT

# A process group of its own (set -m), or the shell would make the child deaf to SIGINT.
attempt() {
    began=$(written)
    set -m
    "$@" &
    child=$!
    set +m
    wait "$child" || true
    while kill -0 "$child" 2> /dev/null; do wait "$child" || true; done # a signal interrupts wait
    code=0
    wait "$child" || code=$?
    child=
}

mkdir -p "$run"
began=
restarts=0
silent=0 # attempts in a row that ended before they wrote a status
pause=$FIRST_PAUSE_SECONDS
while :; do
    before=$(progress)
    attempt "$@"
    ended=$(status)
    after=$(progress)
    if [ "$code" -eq 0 ]; then
        say "finished"
        exit 0
    fi
    if [ -n "$ended" ]; then silent=0; else silent=$((silent + 1)); fi
    # before a refusal: an attempt that STOP found on its way to the first step is refused by it
    if [ -n "$stopping" ] || [ -e "$run/STOP" ]; then
        say "stopped at checkpoint $after"
        if [ "$ended" = stopped ] || [ "$ended" = refused ]; then exit 75; fi
        exit "$code"
    fi
    if [ "$code" -eq 2 ] || [ "$ended" = refused ]; then
        say "refused: see the sentence above; not started again"
        exit 2
    fi
    if [ "$after" -gt "$before" ]; then
        restarts=0
        pause=$FIRST_PAUSE_SECONDS
    fi
    if [ "$silent" -ge 2 ]; then
        say "it ended twice before the run began (exit code $code): see the sentence above; not started again"
        exit 2
    fi
    if [ "$restarts" -ge "$MAX_RESTARTS" ]; then
        say "$MAX_RESTARTS restarts brought nothing beyond checkpoint $after; giving up (last exit code $code)"
        exit 1
    fi
    restarts=$((restarts + 1))
    say "exit code $code (${ended:-no status}) at checkpoint $after; restart $restarts of $MAX_RESTARTS in $pause s"
    sleep "$pause" &
    wait $! || true
    if [ -n "$stopping" ]; then
        kill $! 2> /dev/null || true
        exit 143
    fi
    pause=$((pause * 2 < LONGEST_PAUSE_SECONDS ? pause * 2 : LONGEST_PAUSE_SECONDS))
done
