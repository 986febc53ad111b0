#!/usr/bin/env bash
# Build the wheel of llama-cpp-python that requirements/llama.lock pins, for this machine's CPU,
# and keep it in the user's cache. The last line printed is the path of the wheel.
#
#   build_llama.sh PYTHON [--print-dir]
#
# PYTHON is an interpreter that has requirements/build.lock installed. With --print-dir nothing is
# built: only the folder of the cache is printed where the wheel is, or would be.
#
#   CMAKE_ARGS                  settings for llama.cpp (default: for the CPU at hand)
#   CMAKE_BUILD_PARALLEL_LEVEL  compilers at a time (default: one per core)
#   XDG_CACHE_HOME              where caches live (default: ~/.cache)
set -euo pipefail

python=${1:?usage: build_llama.sh PYTHON [--print-dir]}
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
lock="$here/../../requirements/llama.lock"
name=llama-cpp-python

version=$("$python" "$here/lockfile.py" version "$name" "$lock")

say() { printf '%s\n' "$*" >&2; }

# GGML_NATIVE compiles for the CPU at hand, so the flags of that CPU are a part of the key.
cpu_flags() {
  if [[ -r /proc/cpuinfo ]]; then
    grep -m1 -E '^(flags|Features)' /proc/cpuinfo || true
  else
    sysctl -n machdep.cpu.brand_string machdep.cpu.features hw.optional.arm 2>/dev/null || true
  fi
}

# The header mends an instruction for processors with AMX, and is found where CPATH says.
settings="-DGGML_NATIVE=ON -DCMAKE_CXX_FLAGS=--include=amx_tiles.h"
export CPATH="$here${CPATH:+:$CPATH}"
export CMAKE_ARGS=${CMAKE_ARGS:-$settings}

key=$(
  "$python" - "$version" "$CMAKE_ARGS" "$(cpu_flags)" "$here/amx_tiles.h" <<'PY'
import hashlib
import platform
import sys
from pathlib import Path

version, cmake_args, cpu_flags, header = sys.argv[1:]
tag = f"cp{sys.version_info[0]}{sys.version_info[1]}"
features = " ".join(sorted(cpu_flags.split()))
settings = f"{cmake_args}\n{features}\n{Path(header).read_text(encoding='utf-8')}"
digest = hashlib.sha256(settings.encode()).hexdigest()[:16]
print(f"llama-cpp-python-{version}-{tag}-{sys.platform}-{platform.machine()}-{digest}")
PY
)
wheels="${XDG_CACHE_HOME:-$HOME/.cache}/car-rpc/wheels/$key"

if [[ ${2:-} == --print-dir ]]; then
  printf '%s\n' "$wheels"
  exit 0
fi

cached() { find "$wheels" -maxdepth 1 -name 'llama_cpp_python-*.whl' 2>/dev/null | head -n 1; }

if [[ -n $(cached) ]]; then
  cached
  exit 0
fi

missing=()
command -v "${CC:-cc}" >/dev/null || command -v gcc >/dev/null || missing+=("a C compiler")
command -v "${CXX:-c++}" >/dev/null || command -v g++ >/dev/null || missing+=("a C++ compiler")
"$python" -c 'import scikit_build_core' 2>/dev/null || missing+=("requirements/build.lock")
PATH="$(cd "$(dirname "$python")" && pwd):$PATH"
export PATH
command -v cmake >/dev/null || missing+=("cmake")
if ((${#missing[@]})); then
  say "llama.cpp cannot be compiled, because this is missing: $(printf '%s, ' "${missing[@]}" | sed 's/, $//')."
  case $(uname -s) in
    Darwin) say "Install the compilers with: xcode-select --install" ;;
    *) say "On Debian or Ubuntu: apt-get install g++ cmake   On Fedora: dnf install gcc-c++ cmake" ;;
  esac
  say "cmake also comes with requirements/build.lock, which \`make setup\` installs."
  exit 1
fi

cores=$(getconf _NPROCESSORS_ONLN 2>/dev/null || echo 2)
export CMAKE_BUILD_PARALLEL_LEVEL=${CMAKE_BUILD_PARALLEL_LEVEL:-$cores}

mkdir -p "$wheels"
work=$(mktemp -d "$wheels/.build.XXXXXX")
trap 'rm -rf "$work"' EXIT
log="$wheels/build.log"

say "Building $name $version for this machine, once; the wheel is kept in"
say "  $wheels"
say "Settings: $CMAKE_ARGS, $CMAKE_BUILD_PARALLEL_LEVEL compilers at a time. This takes minutes."

"$python" "$here/lockfile.py" only "$name" "$lock" >"$work/source.txt"
"$python" -m pip download --no-deps --no-build-isolation --require-hashes \
  --no-binary "$name" --dest "$work/source" --requirement "$work/source.txt" >&2

# Not `pip wheel NAME`: pip's own cache of wheels knows nothing of the CPU or of CMAKE_ARGS.
# pip's log is long: what is shown is each step of the compilation, with the seconds gone by.
if ! "$python" -m pip wheel -v --no-cache-dir --no-deps --no-build-isolation \
  --wheel-dir "$work/wheel" "$work"/source/*.tar.gz 2>&1 |
  tee "$log" | "$python" -u "$here/progress.py" >&2; then
  say "The build failed. Its last lines, of $log:"
  tail -n 40 "$log" >&2
  exit 1
fi

# Moved in one step: a build that was broken off never leaves half a wheel behind.
mv "$work"/wheel/llama_cpp_python-*.whl "$wheels/"
cached
