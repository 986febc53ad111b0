#!/bin/sh
# Rebuild the demo model from nothing: environment, tokenizer, training in three stages, export,
# derived files, accuracy tables. Takes one to two hours on two cores; run it again to continue
# after a stop. ONE=40 TWO=20 THREE=20 WORK=work/trial ./build.sh tries the whole chain in minutes.
set -eu
cd "$(dirname "$0")"
ONE="${ONE:-2450}"
TWO="${TWO:-420}"
THREE="${THREE:-320}"
WORK="${WORK:-work}"
PYTHON="${PYTHON:-python3}"
OUT="$WORK/out"

mkdir -p "$OUT" work
if [ ! -x work/venv/bin/python ]; then
    "$PYTHON" -m venv work/venv
    work/venv/bin/python -m pip install --progress-bar on -r requirements.txt
fi
py=work/venv/bin/python

# stage NUMBER CHECKPOINT-BEFORE OPTIONS...: train, or continue what was stopped
stage() {
    number=$1
    before=$2
    shift 2
    [ -f "$WORK/stage$number.done" ] && return
    [ -f "$WORK/stage$number.pt" ] && before="$WORK/stage$number.pt"
    if [ -n "$before" ]; then set -- "$@" --resume "$before"; fi
    $py train.py --stage "$number" --out "$WORK/stage$number.pt" "$@"
    touch "$WORK/stage$number.done"
}

[ -f work/tokenizer.json ] || $py tokenizer.py
# The first schedule is left before its end: the later stages have their own.
stage 1 "" --steps $((ONE + 200)) --stop "$ONE"
stage 2 "$WORK/stage1.pt" --steps "$TWO" --muon 0.015 --adam 2e-3
stage 3 "$WORK/stage2.pt" --steps "$THREE" --muon 0.012 --adam 1.5e-3
$py export.py --checkpoint "$WORK/stage3.pt" --out "$OUT/tiny-chat-F16.gguf"
$py derive.py --source "$OUT/tiny-chat-F16.gguf" --out "$OUT" --record
$py evaluate.py --model "$OUT/tiny-chat-F16.gguf"
$py evaluate.py --model "$OUT/tiny-chat-Q8_0.gguf"
