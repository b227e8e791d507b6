#!/usr/bin/env bash
# Everything that only a GPU can tell: build for it, run its tests, look for races and wrong
# addresses, measure.
#
#   benchmarks/gpu_check.sh OUTDIR [build|test|sanitize|bench]...
#
# Without stages, all of them. Each takes some minutes and can be called again: what has passed for
# this commit and device is not done twice. Results go to OUTDIR. Needs an NVIDIA GPU with nvcc and
# CMake, and for `sanitize` compute-sanitizer; of Python torch, NumPy, pytest, pybind11 and
# scikit-build-core. No network: packages that are missing come from the folder of wheels that
# EARMARK_WHEELS names. PYTHON says which Python.
set -euo pipefail

fail() {
  echo "gpu_check: $*" >&2
  exit 2
}

[[ $# -ge 1 ]] || fail "usage: $0 OUTDIR [build|test|sanitize|bench]..."
mkdir -p -- "$1"
out=$(cd -- "$1" && pwd)
shift
stages=("$@")
[[ ${#stages[@]} -gt 0 ]] || stages=(build test sanitize bench)
for stage in "${stages[@]}"; do
  [[ $stage =~ ^(build|test|sanitize|bench)$ ]] || fail "unknown stage '$stage'"
done

cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.."
python=${PYTHON:-python3}
site=$PWD/build/gpu/site

command -v nvidia-smi >/dev/null || fail "no nvidia-smi: this needs an NVIDIA GPU and its driver"
gpu=$(nvidia-smi --query-gpu=name --format=csv,noheader | head -n 1) || fail "nvidia-smi finds no GPU"
capability=$(nvidia-smi --query-gpu=compute_cap --format=csv,noheader | head -n 1 | tr -d '.')
[[ $capability =~ ^[0-9]+$ ]] || fail "nvidia-smi does not tell the compute capability"
commit=$(git rev-parse HEAD 2>/dev/null || echo unknown)
[[ -z $(git status --porcelain 2>/dev/null) ]] || commit=$commit-dirty
export PYTHONPATH=$site${PYTHONPATH:+:$PYTHONPATH}

# Runs a command unless it has passed for this commit and device; its output is in OUTDIR. A tree
# with changes of its own is always checked anew.
once() {
  local name=$1 stamp key
  shift
  stamp=$out/$name.passed
  key="$commit $gpu"
  if [[ $commit != *-dirty && $commit != unknown && -f $stamp && $(cat -- "$stamp") == "$key" ]]; then
    echo "gpu_check: $name: passed before"
    return
  fi
  rm -f -- "$stamp"
  echo "gpu_check: $name"
  mkdir -p -- "$(dirname -- "$out/$name")"
  if ! "$@" >"$out/$name.log" 2>&1; then
    tail -n 40 -- "$out/$name.log" >&2
    fail "$name failed; all of its output is in $out/$name.log"
  fi
  echo "$key" >"$stamp"
}

needs() {
  local missing
  missing=$("$python" - "$@" <<'PY'
import importlib.util, sys

print(" ".join(name for name in sys.argv[1:] if importlib.util.find_spec(name) is None))
PY
  ) || fail "$python does not run"
  [[ -z $missing ]] || fail "Python modules are missing: $missing (EARMARK_WHEELS: a folder of wheels)"
}

install_package() {
  local architecture=$capability
  [[ $capability == 90 ]] && architecture=90a
  CMAKE_BUILD_PARALLEL_LEVEL=$(nproc) "$python" -m pip install --no-index --no-deps \
    --no-build-isolation --upgrade --target "$site" -C build-dir=build/gpu/tree \
    -C cmake.define.EARMARK_CUDA=ON -C "cmake.define.CMAKE_CUDA_ARCHITECTURES=$architecture-real" \
    -C cmake.define.EARMARK_EMULATED_ISA=ON -C install.strip=false .
  "$python" -c 'from earmark.devices import cuda_devices; assert cuda_devices(), "no CUDA device"'
}

stage_build() {
  command -v nvcc >/dev/null || PATH=$PATH:/usr/local/cuda/bin
  command -v nvcc >/dev/null || fail "no nvcc"
  command -v cmake >/dev/null || fail "no cmake"
  if [[ -n ${EARMARK_WHEELS:-} ]]; then
    [[ -d $EARMARK_WHEELS ]] || fail "EARMARK_WHEELS: there is no folder $EARMARK_WHEELS"
    "$python" -m pip install --quiet --no-index --no-deps --target "$site" "$EARMARK_WHEELS"/*.whl
  fi
  needs torch numpy pytest pybind11 scikit_build_core
  once build install_package
  {
    nvidia-smi --query-gpu=name,driver_version,clocks.max.sm,clocks.max.mem,memory.total,power.limit \
      --format=csv
    nvcc --version | tail -n 2
    echo "commit $commit"
  } >"$out/machine.txt"
}

built() {
  [[ -d $site/earmark ]] || fail "not built: call the stage build first"
}

# Tests with a GPU have it in their name; a file may have none.
gpu_tests() {
  local status=0
  "$@" -m pytest -q -rs -p no:cacheprovider -k gpu "$file" || status=$?
  [[ $status -eq 5 ]] || return "$status"
  echo "no test of a GPU in $file"
}

# Where all were skipped, nothing was checked.
some_passed() {
  grep -q ' passed' -- "$@" || fail "no test ran on the GPU: see $(dirname -- "$1")"
}

stage_test() {
  built
  needs pytest hypothesis
  local file
  for file in tests/test_cuda_*.py tests/test_device_*.py tests/test_plugins.py; do
    once "test/$(basename -- "$file" .py)" gpu_tests "$python"
  done
  some_passed "$out"/test/*.log
}

stage_sanitize() {
  built
  needs pytest hypothesis
  command -v compute-sanitizer >/dev/null || PATH=$PATH:/usr/local/cuda/bin
  command -v compute-sanitizer >/dev/null || fail "no compute-sanitizer"
  local tool file
  for tool in memcheck racecheck; do
    for file in tests/test_cuda_*.py tests/test_plugins.py; do
      once "sanitize/$tool-$(basename -- "$file" .py)" gpu_tests compute-sanitizer --tool "$tool" \
        --error-exitcode 3 --target-processes all "$python"
    done
  done
  some_passed "$out"/sanitize/*.log
}

stage_bench() {
  built
  needs torch
  once bench/kernels "$python" benchmarks/gpu_kernels.py --json "$out/bench/kernels.json"
  once bench/network "$python" benchmarks/gpu_network.py --json "$out/bench/network.json"
  once bench/lengths "$python" benchmarks/gpu_lengths.py --json "$out/bench/lengths.json"
  "$python" benchmarks/gpu_table.py "$out/bench" | tee -- "$out/table.md"
}

for stage in "${stages[@]}"; do
  "stage_$stage"
done
