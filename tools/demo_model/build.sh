#!/bin/sh
# Rebuild the demo model from nothing: environment, tokenizer, training in two stages, export,
# derived files, accuracy tables. Takes one to two hours on two cores; run it again to continue
# after a stop. FIRST=40 SECOND=20 WORK=work/trial ./build.sh tries the whole chain in minutes.
set -eu
cd "$(dirname "$0")"
FIRST="${FIRST:-2450}"
SECOND="${SECOND:-420}"
WORK="${WORK:-work}"
PYTHON="${PYTHON:-python3}"
OUT="$WORK/out"
set --

mkdir -p "$WORK" "$OUT" work
if [ ! -x work/venv/bin/python ]; then
    "$PYTHON" -m venv work/venv
    work/venv/bin/python -m pip install --progress-bar on -r requirements.txt
fi
py=work/venv/bin/python

[ -f work/tokenizer.json ] || $py tokenizer.py
if [ ! -f "$WORK/second.pt" ]; then
    if [ -f "$WORK/first.pt" ]; then set -- --resume "$WORK/first.pt"; fi
    # The schedule is one of 2650 steps, left before its end: the second stage has its own decay.
    $py train.py --steps $((FIRST + 200)) --stop "$FIRST" --out "$WORK/first.pt" "$@"
    set -- --resume "$WORK/first.pt"
else
    set -- --resume "$WORK/second.pt"
fi
$py train.py --stage 2 --steps "$SECOND" --muon 0.015 --adam 2e-3 --out "$WORK/second.pt" "$@"
$py export.py --checkpoint "$WORK/second.pt" --out "$OUT/tiny-chat-F16.gguf"
$py derive.py --source "$OUT/tiny-chat-F16.gguf" --out "$OUT" --record
$py evaluate.py --model "$OUT/tiny-chat-F16.gguf"
$py evaluate.py --model "$OUT/tiny-chat-Q8_0.gguf"
