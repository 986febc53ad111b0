#!/bin/sh
# Rebuild the demo model from nothing: environment, tokenizer, training, export, derived files,
# accuracy table. Takes about an hour and a half on two cores; run it again to continue a training
# that was stopped. STEPS=40 ./build.sh is a trial of the whole chain; it goes to work/out.
set -eu
cd "$(dirname "$0")"
STEPS="${STEPS:-4000}"
OUT="${OUT:-work/out}"
PYTHON="${PYTHON:-python3}"

mkdir -p work "$OUT"
if [ ! -x work/venv/bin/python ]; then
    "$PYTHON" -m venv work/venv
    work/venv/bin/python -m pip install --progress-bar on -r requirements.txt
fi
py=work/venv/bin/python

[ -f work/tokenizer.json ] || $py tokenizer.py
if [ -f work/model.pt ]; then
    $py train.py --steps "$STEPS" --resume work/model.pt
else
    $py train.py --steps "$STEPS"
fi
$py export.py --out "$OUT/tiny-chat-F16.gguf"
$py derive.py --source "$OUT/tiny-chat-F16.gguf" --out "$OUT" --record
$py evaluate.py --model "$OUT/tiny-chat-F16.gguf"
$py evaluate.py --model "$OUT/tiny-chat-Q8_0.gguf"
