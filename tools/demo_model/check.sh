#!/bin/sh
# Check the shipped files: recorded hashes and the parity of llama.cpp and MLX.
set -eu
cd "$(dirname "$0")"
py="${PYTHON:-work/venv/bin/python}"
"$py" check.py "$@"
"$py" speed.py
